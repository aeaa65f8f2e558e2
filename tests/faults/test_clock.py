"""The wall clock jumps by an hour, or stands still: traffic goes on, nothing comes twice, nothing lives for ever."""

import asyncio
import contextlib
import glob
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import PATIENCE, Process, Start
from tests.needs import need

HOUR = 3600
LONG = 3 * HOUR  # seconds of an expiry that no jump here reaches
LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")


class Clock:
    """The wall clock of processes, by libfaketime: one file says what it shows. The monotonic clock goes on."""

    def __init__(self, file: Path) -> None:
        need(LIBRARIES, "the package libfaketime is not installed: no process's clock can be set")
        self._file = file
        self.set(0)
        self.variables = {
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: float) -> None:
        """Let it be so many seconds fast, from now on."""
        self._write(f"{seconds:+}")

    def stop(self) -> None:
        """Let it stand still."""
        self._write(time.strftime("%Y-%m-%d %H:%M:%S"))

    def _write(self, text: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(text + "\n")
        os.replace(new, self._file)  # nobody reads half of it


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """The clock of all processes of the test."""
    return Clock(tmp_path / "clock")


@pytest.fixture(params=[None, ["key"]], ids=["plain", "encrypted"])
def keys(request: pytest.FixtureRequest) -> list[str] | None:
    """The option symmetric_encryption_keys."""
    return request.param  # type: ignore[no-any-return]


def count(path: str, table: str) -> int:
    """How many rows there are, expired or not."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM channels_lite_{table}").fetchone()[0])


async def send(process: Process, channel: str, *numbers: int, expiry: float | None = None) -> None:
    """Have a process send numbers, all of which must be accepted."""
    for number in numbers:
        assert await process.do("send", channel, {"type": "x", "number": number}, expiry) is None


async def expect(process: Process, numbers: dict[str, list[int]]) -> None:
    """Exactly these numbers are there for a process on each channel, in this order."""
    assert await process.do("drain", {channel: len(wanted) for channel, wanted in numbers.items()}) == numbers


async def start_two(start: Start, clock: Clock, **options: Any) -> list[Process]:
    """Two processes with the same clock."""
    return list(await asyncio.gather(*(start(clock.variables, **options) for _ in range(2))))


JUMPS = [HOUR, -HOUR, "still"]


def jump(clock: Clock, to: float | str) -> None:
    """Set the clock, or stop it."""
    if isinstance(to, str):
        clock.stop()
    else:
        clock.set(to)


async def test_jump(start: Start, clock: Clock, keys: list[str] | None) -> None:
    """All that is sent after a jump arrives, and what was pending as well, but for what expires within the hour."""
    here, there = await start_two(start, clock, symmetric_encryption_keys=keys)
    for to in JUMPS:
        own, member = await there.do("new_channel"), await there.do("new_channel")
        await here.do("group_add", "group", member)
        for channel in ("jobs", own):
            await send(here, channel, 1, 2)
            await send(here, channel, 3, expiry=LONG)
        jump(clock, to)
        for channel in ("jobs", own):
            await send(here, channel, 4, 5)
        await say(here, 6)
        pending = [3] if to == HOUR else [1, 2, 3]
        await expect(there, {"jobs": [*pending, 4, 5], own: [*pending, 4, 5], member: [6]})
        clock.set(0)
        # What had expired while the clock was fast, and nobody removed meanwhile, may come late, but not twice.
        left = (await there.do("drain", {"jobs": 0, own: 0})).values()
        assert all(numbers == [] or (to == HOUR and numbers == [1, 2]) for numbers in left)
        await send(here, "jobs", 7)
        await send(here, own, 7)
        await expect(there, {"jobs": [7], own: [7]})
    assert await there.do("dropped") == {}


async def test_waiting_receivers(start: Start, clock: Clock) -> None:
    """Who waits is woken by the next message, whatever the clock has done meanwhile; within and between processes."""
    here, there = await start_two(start, clock)
    own = await there.do("new_channel")
    for number, to in enumerate([*JUMPS, 0]):
        for sender in (here, there):
            for channel in ("jobs", own):
                await there.do("wait", channel)
            jump(clock, to)
            for channel in ("jobs", own):
                await send(sender, channel, number)
                assert (await there.do("got", channel))["number"] == number


WANDERING = [HOUR, 0, -HOUR, "still", HOUR, -HOUR, 0]
EACH = 5  # messages between two jumps


async def count_up(process: Process, clock: Clock, *channels: str) -> int:
    """Send numbers from 0 on while the clock jumps to and fro: how many on each channel."""
    for number in range(EACH * len(WANDERING)):
        if number % EACH == 0:
            jump(clock, WANDERING[number // EACH])
        for channel in channels:
            await send(process, channel, number)
    return number + 1


async def test_traffic(start: Start, clock: Clock, keys: list[str] | None) -> None:
    """While the clock jumps under two busy processes, all of what lives long enough arrives once, in order."""
    here, there = await start_two(start, clock, symmetric_encryption_keys=keys, expiry=LONG, capacity=10_000)
    own = await there.do("new_channel")
    await there.do("listen", "jobs", own)
    count = await count_up(here, clock, "jobs", own)
    heard = await there.do("numbers", 2 * count)
    for channel in ("jobs", own):
        assert [number for name, number in heard if name == channel] == list(range(count))


async def test_short_lived_traffic(start: Start, clock: Clock) -> None:
    """With the usual expiry, too, nothing comes twice, and what is sent when the clock is quiet again arrives."""
    here, there = await start_two(start, clock)
    own = await there.do("new_channel")
    await there.do("listen", "jobs", own)
    count = await count_up(here, clock, "jobs", own)
    await asyncio.wait_for(until_heard(there, count - 1, "jobs", own), PATIENCE)
    heard = Counter(map(tuple, await there.do("numbers")))
    assert set(heard.values()) == {1}


async def until_heard(process: Process, number: int, *channels: str) -> None:
    """Wait until a number has come on each channel."""
    while True:
        heard = await process.do("numbers")
        if all([channel, number] in heard for channel in channels):
            return
        await asyncio.sleep(0.02)


async def test_nothing_lives_for_ever(start: Start, clock: Clock, path: str) -> None:
    """What was sent before the clock went back lives until the clock shows its expiry once more; then it is gone."""
    here, there = await start_two(start, clock, auto_trim=False, group_expiry=60)
    own = await there.do("new_channel")
    for sent_at in (HOUR, 2 * HOUR):
        clock.set(sent_at)
        for channel in ("jobs", own, f"{own}.absent"):
            await send(here, channel, 1)
        await here.do("group_add", "group", "jobs")
        clock.set(sent_at - HOUR)
        await there.do("clean_expired")
        assert (count(path, "message"), count(path, "membership"), await there.do("parked")) == (1, 1, 2)
        clock.set(sent_at + 61)
        await there.do("clean_expired")
        assert (count(path, "message"), count(path, "membership"), await there.do("parked")) == (0, 0, 0)
        await expect(there, {"jobs": [], own: []})


async def test_background_trimming(start: Start, clock: Clock, path: str) -> None:
    """The keeper sweeps by a clock that does not jump: what has expired goes by itself after each jump."""
    process = await start(clock.variables, expiry=0.5, group_expiry=0.5)
    own = await process.do("new_channel")
    for to in (0, HOUR, -HOUR):
        clock.set(to)
        for channel in ("jobs", own):
            await send(process, channel, 1)
        await process.do("group_add", "group", own)
        await asyncio.wait_for(until_gone(process, path), PATIENCE)
    clock.stop()
    await send(process, "jobs", 2)
    clock.set(10)
    await asyncio.wait_for(until_gone(process, path), PATIENCE)


async def until_gone(process: Process, path: str) -> None:
    """Wait until there is nothing in the database and in mailboxes."""
    while count(path, "message") or count(path, "membership") or await process.do("parked"):  # noqa: ASYNC110
        await asyncio.sleep(0.05)  # nobody announces it


async def test_groups(start: Start, clock: Clock) -> None:
    """A membership that outlives the jump stays; one that does not ends, and begins again with the next group_add."""
    here, there = await start_two(start, clock, group_expiry=HOUR // 2)
    patient = await start(clock.variables, group_expiry=2 * HOUR)
    own, lasting = await there.do("new_channel"), await there.do("new_channel")
    await there.do("group_add", "group", own)
    await patient.do("group_add", "group", lasting)
    await say(here, 1)
    await expect(there, {own: [1], lasting: [1]})
    clock.set(HOUR)
    await say(here, 2)
    await expect(there, {own: [], lasting: [2]})
    await there.do("group_add", "group", own)
    clock.set(0)
    await say(here, 3)
    await expect(there, {own: [3], lasting: [3]})


async def say(process: Process, number: int) -> None:
    """Have a process send to the group."""
    assert await process.do("group_send", "group", {"type": "x", "number": number}) is None


async def test_members_that_are_live_again(start: Start, clock: Clock) -> None:
    """When the clock goes forward and back, a member that nobody has removed meanwhile hears the group again."""
    process = await start(clock.variables, group_expiry=HOUR // 2, auto_trim=False)
    own = await process.do("new_channel")
    await process.do("group_add", "group", own)
    clock.set(HOUR)
    await say(process, 1)
    clock.set(0)
    await say(process, 2)
    await expect(process, {own: [2]})


async def test_two_clocks(start: Start, clock: Clock, tmp_path: Path) -> None:
    """Beside a process whose clock is an hour fast, traffic goes on with all that lives longer than that, once."""
    fast = Clock(tmp_path / "fast")
    here, there = await start(clock.variables), await start(fast.variables, auto_trim=False)
    mine, its, member = await here.do("new_channel"), await there.do("new_channel"), await there.do("new_channel")
    for name in (mine, member):
        await here.do("group_add", "group", name)
    fast.set(HOUR)
    for channel in ("jobs", mine):
        await send(there, channel, 1)
    await expect(here, {"jobs": [1], mine: [1]})
    for channel in ("jobs", its):
        await send(here, channel, 2, expiry=LONG)
        await send(here, channel, 3)  # it has expired when the other one sees it
    await say(there, 4)
    await expect(there, {"jobs": [2], its: [2], member: [4]})
    await expect(here, {"jobs": [3], mine: [4]})
    fast.set(0)
    for channel in ("jobs", its):
        await send(here, channel, 5)
    await expect(there, {"jobs": [5], its: [5]})
