"""The watcher: what makes it look, what it does when something fails, and how it stops."""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import apsw
import pytest

from channels_lite import bell, watcher
from channels_lite.errors import Locked
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.watcher import Watcher
from tests.patience import PATIENCE, until

NEVER = 3600.0  # seconds of a poll or a timeout that must not happen in a test
SOON = 0.01  # seconds of one that must


async def soon(event: asyncio.Event) -> None:
    """Wait for something that must happen, and make ready to wait for it again."""
    await asyncio.wait_for(event.wait(), PATIENCE)
    event.clear()


def no_room(*arguments: Any) -> Any:
    """As inotify when all its instances are taken."""
    raise OSError(24, "Too many open files")


class Pipe:
    """A listener that hears what a test writes."""

    how = "pipe"

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self.alive = True
        self.closed = False
        self.drained = asyncio.Event()

    def ring(self) -> None:
        os.write(self._write, b"\0")

    def fileno(self) -> int:
        return self._read

    def drain(self) -> bool:
        os.read(self._read, 100)
        self.drained.set()
        return self.alive

    def close(self) -> None:
        assert not self.closed
        self.closed = True
        os.close(self._read)
        os.close(self._write)


class Source:
    """A database in which a test commits; ``fails`` holds what its methods raise next."""

    path = "the database"

    def __init__(self) -> None:
        self.number = 1
        self.bell: Callable[[], Pipe | None] = Pipe
        self.listeners: list[Pipe] = []
        self.renewed = False
        self.asked = asyncio.Event()
        self.fails: deque[Exception] = deque()

    @property
    def listener(self) -> Pipe:
        return self.listeners[-1]

    def commit(self) -> None:
        self.number += 1

    def version(self) -> int:
        self.asked.set()
        if self.fails:
            raise self.fails.popleft()
        return self.number

    def stamp(self) -> bytes | None:
        return None

    def listen(self) -> Pipe | None:
        listener = self.bell()
        if listener is not None:
            self.listeners.append(listener)
        return listener

    def renew_bell(self) -> bool:
        renewed, self.renewed = self.renewed, False
        return renewed


class Ear:
    """Somebody who waits: what the watcher calls."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked = asyncio.Event()
        self.wanted = True
        self.asked = asyncio.Event()
        self.fails: deque[Exception] = deque()

    def look(self) -> None:
        if self.fails:
            raise self.fails.popleft()
        self.looks += 1
        self.looked.set()

    def is_wanted(self) -> bool:
        self.asked.set()
        return self.wanted


@pytest.fixture
def source() -> Source:
    """A source with a bell."""
    return Source()


@pytest.fixture
def ear() -> Ear:
    """Somebody who waits."""
    return Ear()


Make = Callable[..., Watcher]


@pytest.fixture
async def make(source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Make watchers, which restart soon, and poll behind the bell only when a test says so."""
    monkeypatch.setattr(watcher, "BACKSTOP", NEVER)
    monkeypatch.setattr(watcher, "RESTART_PAUSE", SOON)
    watchers: list[Watcher] = []

    def make(interval: float | None = SOON, idle_timeout: float = NEVER, crowded: bool = True) -> Watcher:
        watchers.append(Watcher(source, ear.look, ear.is_wanted, lambda: crowded, interval, idle_timeout))
        return watchers[-1]

    yield make
    for each in watchers:
        each.stop()
    assert all(listener.closed for listener in source.listeners)


async def test_ring(make: Make, source: Source, ear: Ear) -> None:
    """A commit and a ring make it look, each time."""
    make().start()
    for _ in range(3):
        source.commit()
        source.listener.ring()
        await soon(ear.looked)
    assert ear.looks == 3


async def test_looks_only_at_what_changed(make: Make, source: Source, ear: Ear) -> None:
    """A ring without a commit that it has not seen yet does not make it look."""
    make().start()
    for _ in range(3):
        source.listener.ring()
        await soon(source.listener.drained)
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    source.listener.ring()
    await soon(source.listener.drained)
    assert ear.looks == 1


async def test_commit_during_a_look(make: Make, source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that comes while it looks counts as new, even where its ring has been heard already."""
    look = ear.look

    def look_slowly() -> None:
        if ear.looks == 0:
            source.commit()
        look()

    monkeypatch.setattr(ear, "look", look_slowly)
    make().start()
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    source.listener.ring()
    await soon(ear.looked)
    assert ear.looks == 2


async def test_start_twice(make: Make, source: Source) -> None:
    """Starting what runs already changes nothing."""
    running = make()
    running.start()
    running.start()
    assert len(source.listeners) == 1
    assert running.running


async def test_start_that_fails(make: Make, source: Source, ear: Ear) -> None:
    """A start that fails, because the database does, says so and can be tried again."""
    tried = make()
    source.fails.append(apsw.IOError("simulated"))
    with pytest.raises(apsw.IOError):
        tried.start()
    tried.start()
    source.commit()
    source.listener.ring()
    await soon(ear.looked)


@pytest.mark.parametrize(
    ("interval", "listens", "expected"),
    [
        (0.1, True, "Listening for the database by pipe on its bell; as a backstop it polls every 0.5 s."),
        (2.0, True, "Listening for the database by pipe on its bell; as a backstop it polls every 2 s."),
        (None, True, "Listening for the database by pipe on its bell; as a backstop it does not poll."),
        (0.1, False, "(this platform has neither inotify nor kqueue); the watcher polls every 0.1 s."),
        (None, False, "(this platform has neither inotify nor kqueue); the watcher does not poll."),
    ],
)
async def test_says_how_it_listens(
    make: Make,
    source: Source,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    interval: float | None,
    listens: bool,
    expected: str,
) -> None:
    """The log says in which way it listens and how often it polls, as a warning where no bell can be heard."""
    monkeypatch.setattr(watcher, "BACKSTOP", 0.5)
    caplog.set_level(logging.INFO, "channels_lite.watcher")
    if not listens:
        source.bell = lambda: None
    started = make(interval)
    started.start()
    (record,) = caplog.records
    assert expected in record.getMessage()
    assert record.levelno == (logging.INFO if listens else logging.WARNING)
    assert started.how == ("pipe" if listens else "polling" if interval else "nothing")


async def test_polling_only(make: Make, source: Source, ear: Ear) -> None:
    """Where there is no bell, a commit is found by polling."""
    source.bell = lambda: None
    make(interval=SOON).start()
    for _ in range(2):
        source.commit()
        await soon(ear.looked)
    assert ear.looks == 2


async def test_backstop(make: Make, source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of somebody who rings no bell is found by the poll behind it."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    make().start()
    source.commit()
    await soon(ear.looked)


async def test_polling_off(make: Make, source: Source, ear: Ear) -> None:
    """With polling off, the database is asked only when the bell rings."""
    started = make(interval=None)
    started.start()
    assert started._timer is None
    for _ in range(2):
        source.commit()
        source.listener.ring()
        await soon(ear.looked)
    assert started._timer is None


async def test_no_room_for_a_listener(make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    """Where the system has no room for a listener, which is simulated here, it warns with the reason and polls."""

    source.bell = no_room
    started = make(interval=SOON)
    started.start()
    source.commit()
    await soon(ear.looked)
    assert started.how == "polling"
    assert "([Errno 24] Too many open files); the watcher polls every 0.01 s" in caplog.text


async def test_loop_without_readers(
    make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the loop cannot watch descriptors, as Windows' cannot, which is simulated here, it polls."""

    def fail(*arguments: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", fail)
    make(interval=SOON).start()
    source.commit()
    await soon(ear.looked)
    assert source.listener.closed
    assert "(NotImplementedError); the watcher polls" in caplog.text


async def test_bell_that_is_gone(make: Make, source: Source, ear: Ear) -> None:
    """A listener that hears its bell's end is replaced by one on the new bell, and the commit is not missed."""
    make().start()
    old = source.listener
    old.alive = False
    source.commit()
    old.ring()
    await soon(ear.looked)
    assert old.closed
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    assert len(source.listeners) == 2


async def test_bell_that_was_renewed(make: Make, source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that finds the bell gone makes it anew and listens to the new one."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    make().start()
    old = source.listener
    source.renewed = True
    source.commit()
    await soon(ear.looked)
    assert old.closed
    monkeypatch.setattr(watcher, "BACKSTOP", NEVER)
    source.commit()
    source.listener.ring()
    await soon(ear.looked)


@pytest.mark.parametrize("interval", [SOON, None])
async def test_bell_lost_for_good(
    make: Make,
    source: Source,
    ear: Ear,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    interval: float | None,
) -> None:
    """Where nobody can listen to the new bell, it warns with the reason, and polls if it may: not more than it says."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    started = make(interval)
    started.start()
    source.listener.alive = False
    source.bell = no_room
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    assert "No bell can be heard for the database any more ([Errno 24] Too many open files)" in caplog.text
    assert started.how == ("polling" if interval else "nothing")
    if interval:
        source.commit()
        await soon(ear.looked)
    else:
        assert "polling" not in caplog.text


async def test_look_that_fails(make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    """A look that raises is logged with its traceback; the watcher starts again, looks, and hears."""
    started = make()
    started.start()
    first = source.listener
    ear.fails.append(RuntimeError("simulated"))
    source.commit()
    first.ring()
    await soon(ear.looked)
    assert "The watcher of the database failed; it starts again in" in caplog.text
    assert "RuntimeError: simulated" in caplog.text
    assert first.closed
    assert started.running
    source.commit()
    source.listener.ring()
    await soon(ear.looked)


async def test_look_that_meets_a_lock(make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    """A look, or a question for the version, that meets a lock is made again at once, and nothing is logged."""
    make().start()
    ear.fails.extend([Locked("simulated")] * 60)
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    assert not ear.fails
    source.fails.append(Locked("simulated"))
    source.listener.ring()
    await soon(ear.looked)
    assert caplog.text == ""


async def test_stop_while_a_lock_is_waited_for(make: Make, source: Source, ear: Ear) -> None:
    """A watcher that is stopped then looks no more."""
    started = make()
    started.start()
    ear.fails.extend([Locked("simulated")] * 1_000)
    source.commit()
    source.listener.ring()
    await until(lambda: len(ear.fails) < 1_000)
    started.stop()
    left = len(ear.fails)
    await asyncio.sleep(0.05)  # more than twice the longest pause
    assert (ear.looks, len(ear.fails)) == (0, left)


async def test_poll_that_fails(make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    """A poll that raises, because the database cannot be asked, is logged, and the watcher starts again."""
    source.bell = lambda: None
    make(interval=SOON).start()
    source.fails.append(apsw.IOError("simulated"))
    await soon(ear.looked)
    assert "IOError: simulated" in caplog.text
    source.commit()
    await soon(ear.looked)


async def test_restart_that_fails(make: Make, source: Source, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    """A restart that fails is logged, once for each cause, and tried again until it succeeds."""
    make().start()
    ear.fails.extend([RuntimeError("simulated")] * 2)
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    assert caplog.text.count("The watcher of the database cannot start; the next try is in") == 1
    source.fails.extend([apsw.IOError("simulated")] * 3)
    source.listener.ring()
    await soon(ear.looked)
    assert caplog.text.count("The watcher of the database cannot start; the next try is in") == 2
    source.commit()
    source.listener.ring()
    await soon(ear.looked)


async def test_stop_while_it_restarts(make: Make, source: Source, ear: Ear) -> None:
    """A watcher that is stopped before its restart stays stopped."""
    started = make()
    started.start()
    ear.fails.append(RuntimeError("simulated"))
    source.commit()
    source.listener.ring()
    await soon(source.listener.drained)
    started.stop()
    assert started._timer is None
    assert not started.running


async def test_idle(make: Make, source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody has waited for long enough it stops and gives its descriptors back; start() begins anew."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    ear.wanted = False
    started = make(idle_timeout=SOON)
    started.start()
    await until(lambda: not started.running)
    assert source.listener.closed
    ear.wanted = True
    started.start()
    source.commit()
    source.listener.ring()
    await soon(ear.looked)
    assert len(source.listeners) == 2


async def test_not_idle(make: Make, source: Source, ear: Ear) -> None:
    """While somebody waits it does not stop, however long nothing happens; the time counts from when nobody does."""
    source.bell = lambda: None
    started = make(interval=SOON, idle_timeout=2 * SOON)
    started.start()
    for _ in range(5):
        await soon(ear.asked)
    assert started.running
    ear.wanted = False
    await soon(ear.asked)
    assert started.running
    await until(lambda: not started.running)


async def test_stop(make: Make, source: Source, ear: Ear) -> None:
    """Stopping gives the descriptors back at once, may be repeated or come before a start, and can be undone."""
    started = make()
    started.stop()
    started.start()
    started.stop()
    started.stop()
    assert source.listener.closed
    assert started._timer is None
    started.start()
    source.commit()
    source.listener.ring()
    await soon(ear.looked)


def test_stop_after_its_loop(source: Source, ear: Ear) -> None:
    """A watcher whose loop was closed can still be stopped, and gives its descriptors back."""

    async def start() -> Watcher:
        started = Watcher(source, ear.look, ear.is_wanted, lambda: True, SOON, NEVER)
        started.start()
        return started

    started = asyncio.run(start())
    started.stop()
    assert source.listener.closed


class Inbox:
    """An inbox with its sender's end, for which the system has no descriptor at first."""

    def __init__(self) -> None:
        self.here, self.sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.here.setblocking(False)
        self.failures = 1
        self.taken: list[bytes] = []

    def listen_to_inbox(self) -> socket.socket:
        """Fails at first, as dup() does then."""
        if self.failures:
            self.failures -= 1
            no_room()
        return self.here.dup()

    def take_in(self) -> None:
        """Take one out."""
        with contextlib.suppress(BlockingIOError):
            self.taken.append(self.here.recv(10))

    tidy = take_in


async def test_no_room_for_an_ear(
    make: Make, source: Source, ear: Ear, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a descriptor for the inbox the watcher says so, polls it, and listens as soon as it can."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    inbox = Inbox()
    started = Watcher(source, ear.look, ear.is_wanted, lambda: True, SOON, NEVER, inbox)
    inbox.sender.send(b"early")
    assert started.start()
    assert "Too many open files" in caplog.text
    await until(lambda: started._ear is not None)
    inbox.sender.send(b"late")
    await until(lambda: inbox.taken == [b"early", b"late"])
    started.stop()
    inbox.here.close()
    inbox.sender.close()


async def test_a_start_that_fails_is_undone(make: Make, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one who waits starts it again, and meets the same error or none."""
    failing = make()
    monkeypatch.setattr(failing, "_schedule", no_room)
    with pytest.raises(OSError, match="Too many open files"):
        failing.start()
    assert not failing.running
    assert source.listener.closed


def copy_as_a_stranger(path: str) -> None:
    """Send to x what was sent to y, through a connection of one's own and without ringing."""
    stranger = apsw.Connection(path)
    stranger.set_busy_timeout(5_000)
    stranger.execute(
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
        "SELECT prefix, 'x', payload, expires_at FROM channels_lite_message WHERE queue = 'y'"
    )
    stranger.close()


async def test_layer_without_room_for_a_listener(
    make_layer: Callable[..., AIOSQLiteChannelLayer],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A layer without room for an inotify instance, which is simulated here, hears strangers by polling and says so."""
    monkeypatch.setattr(bell, "InotifyListener", no_room)
    monkeypatch.setattr(bell, "KqueueListener", no_room)
    layer = make_layer(polling_interval=SOON)
    receiving = asyncio.create_task(layer.receive("x"))
    await layer.send("y", {"type": "copied"})
    copy_as_a_stranger(path)
    assert await asyncio.wait_for(receiving, PATIENCE) == {"type": "copied"}
    assert f"No bell can be heard for {path} ([Errno 24] Too many open files); the watcher polls" in caplog.text


async def test_layer_renews_its_bell(
    make_layer: Callable[..., AIOSQLiteChannelLayer], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer makes a deleted bell anew, and hears the new one."""
    monkeypatch.setattr(watcher, "BACKSTOP", SOON)
    layer = make_layer()
    receiving = asyncio.create_task(layer.receive("x"))
    await layer.send("y", {"type": "copied"})
    os.unlink(f"{path}-bell")
    await until(lambda: os.path.exists(f"{path}-bell"))
    monkeypatch.setattr(watcher, "BACKSTOP", NEVER)
    (listening,) = layer._watchers
    loop = asyncio.get_running_loop()
    await until(lambda: listening._timer is not None and listening._timer.when() > loop.time() + NEVER / 2)
    copy_as_a_stranger(path)
    other = bell.Bell(path)
    other.ring()
    assert await asyncio.wait_for(receiving, PATIENCE) == {"type": "copied"}
    other.close()


async def test_ring_for_few(make: Make, source: Source, ear: Ear) -> None:
    """Where few queues are waited on, a ring is looked after at once, without asking for the version before."""
    started = make(None, crowded=False)
    started.start()
    source.listener.ring()
    await soon(ear.looked)
