"""Dropped messages: every one is counted, and one warning in a while tells of them."""

import logging
import threading
from types import SimpleNamespace

import pytest

from channels_lite import drops
from channels_lite.drops import WARNING_INTERVAL, Drops, Reason


class Clock(SimpleNamespace):
    """A clock that a test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Drops looks at this clock."""
    clock = Clock()
    monkeypatch.setattr(drops, "time", clock)
    return clock


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of the warnings so far, as they come."""
    texts: list[str] = []
    caplog.set_level(logging.WARNING, "channels_lite.drops")
    # Put back afterwards: caplog's handler is that of all tests.
    monkeypatch.setattr(caplog.handler, "emit", lambda record: texts.append(record.getMessage()))
    return texts


def test_counts() -> None:
    """Every message is counted under its reason, whatever its channel and details."""
    counter = Drops()
    for number in range(10):
        counter.count(f"channel{number}", Reason.FULL)
        counter.count("x", Reason.UNDECODABLE, f"detail {number}")
    assert counter.by_reason == {Reason.FULL: 10, Reason.UNDECODABLE: 10}


def test_first_is_told_at_once(clock: Clock, warnings: list[str]) -> None:
    """The first dropped message is told of with its channel, reason and detail."""
    Drops().count("chat", Reason.UNDECODABLE, "no dict but list")
    assert warnings == ["Dropped 1 message(s) to the channel chat: it cannot be decoded (no dict but list)."]


def test_others_are_told_later(clock: Clock, warnings: list[str]) -> None:
    """Those within the interval are told of together by the first one after it, with their number."""
    counter = Drops()
    counter.count("chat", Reason.FULL)
    warnings.clear()
    clock.now += WARNING_INTERVAL - 0.1
    for _ in range(5):
        counter.count("chat", Reason.FULL)
    assert not warnings
    clock.now += 0.1
    counter.count("chat", Reason.FULL)
    counter.count("chat", Reason.FULL)
    assert warnings == ["Dropped 6 message(s) to the channel chat: the channel is full."]
    assert counter.by_reason == {Reason.FULL: 8}


def test_the_last_are_told_as_well(clock: Clock, warnings: list[str]) -> None:
    """Those after which no more came are told of when somebody asks for it, when it is time to, and once."""
    counter = Drops()
    for _ in range(5):
        counter.count("chat", Reason.FULL)
    warnings.clear()
    counter.report()
    assert not warnings
    clock.now += WARNING_INTERVAL
    counter.report()
    counter.report()
    assert warnings == ["Dropped 4 message(s) to the channel chat: the channel is full."]


def test_the_last_time(clock: Clock, warnings: list[str]) -> None:
    """Who will not ask again, because the layer is closed or the process ends, does not wait until it is time."""
    counter = Drops()
    for _ in range(3):
        counter.count("chat", Reason.FULL)
    counter.report(last=True)
    counter.report(last=True)
    assert [text.split(" to ")[0] for text in warnings] == ["Dropped 1 message(s)", "Dropped 2 message(s)"]


def test_quiet_again(clock: Clock, warnings: list[str]) -> None:
    """Each warning begins a new interval."""
    counter = Drops()
    for _ in range(100):
        counter.count("chat", Reason.SLOW)
        clock.now += WARNING_INTERVAL / 4
    assert len(warnings) == 25


def test_many_channels(clock: Clock, warnings: list[str]) -> None:
    """Of many channels, those that lost most are named, and how many the others lost is said, all in one record."""
    counter = Drops()
    counter.count("first", Reason.FULL)
    warnings.clear()
    for number in range(20):
        for _ in range(number + 1):
            counter.count(f"c{number}", Reason.FULL)
    clock.now += WARNING_INTERVAL
    counter.count("c19", Reason.FULL)
    (text,) = warnings
    assert text.replace(": the channel is full", "") == (
        "Dropped 21 message(s) to the channel c19; 19 message(s) to the channel c18; 18 message(s) to the channel c17; "
        "17 message(s) to the channel c16; 16 message(s) to the channel c15; 120 others."
    )


def test_any_thread(clock: Clock, warnings: list[str]) -> None:
    """Counting from several threads at once loses nothing and warns once."""
    counter = Drops()
    threads = [
        threading.Thread(target=lambda: [counter.count("chat", Reason.FULL) for _ in range(1_000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.by_reason == {Reason.FULL: 4_000}
    assert warnings == ["Dropped 1 message(s) to the channel chat: the channel is full."]


def test_layers_count_apart() -> None:
    """Each layer has counts of its own."""
    one, other = Drops(), Drops()
    one.count("chat", Reason.FULL)
    assert not other.by_reason
