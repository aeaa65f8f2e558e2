"""Locks that others do not give back in time, and many who want them."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from channels_lite.keeper import CHECKPOINT_PAGES, JOURNAL_LIMIT
from tests.faults.log import Event
from tests.processes.conftest import PATIENCE

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for statement in sys.argv[2:]:
    connection.execute(statement)
print("locked", flush=True)
sys.stdin.readline()
"""

# As SQLite does it while it makes the index of a -wal anew, after a process was killed in the middle of a commit: a
# damaged head of the -shm, and the locks for writing, checkpoints and recovery (walIndexRecover() in SQLite's wal.c).
RECOVERER = """
import fcntl, os, sys
fd = os.open(sys.argv[1] + "-shm", os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX, 3, 120)
head = os.pread(fd, 96, 0)
os.pwrite(fd, bytes(96), 0)
print("locked", flush=True)
sys.stdin.readline()
"""

STOPPED = 10.0  # seconds

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="only Linux says how long a process waited for a processor"
)


async def hold(script, *arguments):
    """Start a process that takes a lock, and has it now."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"locked\n"
    return process


@needs_proc
async def test_a_heartbeat_notices_a_loop_that_stands_still(cast):
    """The heartbeat of the tests below is late when the loop is blocked for 0.2 s, and else it is not."""
    await cast.start({"do": "heartbeat"})
    blocked = await cast.start({"do": "heartbeat", "block": 0.2})
    await cast.until(lambda: bool(cast.records(Event.LATE)))
    (late,) = cast.records(Event.LATE)
    assert (late.process, late.number >= 100) == (blocked.process.pid, True)  # a heartbeat takes off what others used


@needs_proc
async def test_who_holds_the_write_lock_is_stopped(cast):
    """For ten seconds: no loop stands still, senders succeed or are told, and nobody gets anything twice."""
    jobs = {"do": "receive", "channel": "jobs"}
    beat = {"do": "heartbeat"}
    own = {"do": "own", "groups": ["all"]}
    await cast.start(jobs, own, beat)
    await cast.start(jobs, {**own, "timeout": 0.1}, beat)
    await cast.made(2)
    send = {"do": "send", "channels": ["jobs", *await cast.made(2)], "pause": 0.01}
    await cast.start(send, {"do": "send", "channels": ["all"], "group": True, "pause": 0.01}, beat)
    await cast.start(send, send, {**send, "size": 70_000}, beat)
    holder = await hold(HOLDER, cast.path, "BEGIN IMMEDIATE")
    holder.send_signal(signal.SIGSTOP)
    await asyncio.sleep(STOPPED)
    holder.send_signal(signal.SIGCONT)
    await holder.communicate(b"\n")
    refused = cast.records(Event.FAILED)
    await cast.until(lambda: any(r.at > refused[-1].at and r.channel == "jobs" for r in cast.records(Event.OK)))
    await cast.stop_senders()
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert [record.number for record in cast.records(Event.LATE)] == []
    assert {record.detail for record in cast.records(Event.FAILED)} <= {"DatabaseBusy", "ChannelFull"}
    assert any(record.detail == "DatabaseBusy" for record in cast.records(Event.FAILED))
    assert await cast.end() == ""


async def test_an_index_that_somebody_makes_anew(cast):
    """While a -wal is recovered nobody can even read: who waits and who sends goes on afterwards, without a word."""
    jobs, own = {"do": "receive", "channel": "jobs", "timeout": 0.2}, {"do": "own", "groups": ["all"]}
    await cast.start(jobs, own)
    await cast.start(jobs, own)
    channels = await cast.made(2)
    await cast.start({"do": "send", "channels": ["jobs", *channels], "pause": 0.01})
    await cast.start({"do": "send", "channels": ["all"], "group": True, "pause": 0.01})
    for _ in range(3):
        recoverer = await hold(RECOVERER, cast.path)
        await asyncio.sleep(0.5)
        await recoverer.communicate(b"\n")
        last = cast.records()[-1].at
        await cast.until(lambda last=last: any(r.at > last and r.channel == "jobs" for r in cast.records(Event.OK)))
    await cast.stop_senders()
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert await cast.end() == ""


async def test_fifty_processes(cast):
    """Fifty processes write at once: nobody waits beyond the deadline, and the -wal stays within bounds."""
    readers = [{"do": "receive", "channel": "jobs", "receivers": 2}, {"do": "own", "groups": ["all"]}]
    for _ in range(2):
        await cast.start(*readers, capacity=100_000)
    channels = await cast.made(2)
    send = {"do": "send", "channels": ["jobs"], "count": 30}
    crowd = await cast.start(
        send,
        {**send, "size": 20_000, "count": 20},
        {**send, "channels": channels},
        {**send, "channels": ["all"], "group": True},
        crowd=50,
        capacity=100_000,
    )
    assert await crowd.line() == "stopped"
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert [record for record in cast.records() if record.event in (Event.FAILED, Event.BROKEN)] == []
    assert len(cast.records(Event.OK)) == 50 * (30 + 20 + 60 + 30)
    assert os.path.getsize(f"{cast.path}-wal") < JOURNAL_LIMIT + CHECKPOINT_PAGES * 4096
    assert await cast.end() == ""
