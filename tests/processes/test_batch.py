"""Processes that end, or fork, in the middle of a batch of writes."""

import asyncio
import subprocess
import sys

import apsw
import pytest

from channels_lite import store
from channels_lite.layers import handover
from tests.processes.conftest import PATIENCE, ROOT

NUMBERS = list(range(20))

PRELUDE = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from channels_lite.apsw_database import ApswDatabase
from channels_lite.layers.aio import AIOSQLiteChannelLayer

layer = AIOSQLiteChannelLayer(path=sys.argv[1])

async def send(channel, number):
    await layer.send(channel, {"type": "x", "number": number})
    print("sent", number, flush=True)

def begin():
    return [asyncio.ensure_future(send(channel, number)) for number, channel in enumerate(sys.argv[2:])]
"""

DIES_AFTER_THE_COMMIT = """
async def main():
    await layer.send("warm-up", {"type": "x"})
    ApswDatabase.announce = lambda *arguments: os._exit(9)
    await asyncio.gather(*begin())

asyncio.run(main())
"""

DIES_IN_THE_TRANSACTION = """
async def main():
    await layer.send("warm-up", {"type": "x"})
    layer._database._connection.set_commit_hook(lambda: os._exit(9))
    await asyncio.gather(*begin())

asyncio.run(main())
"""

FORKS = """
async def main():
    await layer.send("warm-up", {"type": "x"})
    tasks = begin()
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        assert not layer._batches
        results = await asyncio.gather(*tasks, return_exceptions=True)
        os._exit(0 if {type(result).__name__ for result in results} == {"LayerClosed"} else 1)
    assert os.waitpid(pid, 0)[1] == 0
    await asyncio.gather(*tasks)
    await layer.close()

asyncio.run(main())
"""


async def run(script, path, *channels):
    """Run a process that sends a numbered message to each of these channels in one batch."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + script, path, *channels]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )


def pending(layer, channel):
    """How many messages wait on a channel in the database."""
    return layer._database.read(store.pending, "", [channel], 1000)[channel]


async def receive(layer, channel, count):
    """The numbers of the next messages on a channel."""
    return [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["number"] for _ in range(count)]


@pytest.mark.parametrize("specific", [False, True], ids=["normal", "specific"])
async def test_a_process_that_ends_before_it_wakes_anybody(make_layer, start, path, specific, monkeypatch):
    """Its batch was committed: who waits elsewhere finds all of it by the backstop, and so does who comes later."""
    monkeypatch.setattr(handover, "is_possible", lambda: False)  # all goes through the database
    layer = make_layer()
    waiting = await layer.new_channel() if specific else "waiting"
    await layer.send(waiting, {"type": "warm up", "number": -1})
    await layer.receive(waiting)
    receiving = asyncio.ensure_future(receive(layer, waiting, 10))
    await asyncio.sleep(0)
    result = await run(DIES_AFTER_THE_COMMIT, path, *[waiting, "later"] * 10)
    assert (result.returncode, result.stdout, result.stderr) == (9, "", "")
    assert await receiving == NUMBERS[::2]
    peer = await start("collect", "--channel", "later", "--count", "10")
    assert await peer.line() == "later"
    assert list(map(int, (await peer.line()).split())) == NUMBERS[1::2]


async def test_a_process_that_ends_in_the_transaction(layer, path):
    """None of its batch is there, nobody was told that it was sent, and it leaves no lock behind."""
    await layer.send("jobs", {"type": "x", "number": -1})
    result = await run(DIES_IN_THE_TRANSACTION, path, *["jobs"] * 20)
    assert (result.returncode, result.stdout, result.stderr) == (9, "", "")
    assert pending(layer, "jobs") == 1
    await layer.send("jobs", {"type": "x", "number": -2})
    assert await receive(layer, "jobs", 2) == [-1, -2]


async def test_a_fork_while_a_batch_waits(layer, path):
    """The parent writes it, once and in order; the child writes nothing of it, and none of its tasks waits for ever."""
    result = await run(FORKS, path, *["jobs"] * 20)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"sent {number}" for number in NUMBERS]
    await layer.send("jobs", {"type": "x", "number": 20})
    assert pending(layer, "jobs") == 21
    assert await receive(layer, "jobs", 21) == [*NUMBERS, 20]
    reader = apsw.Connection(path)
    assert reader.pragma("integrity_check") == "ok"
    reader.close()
