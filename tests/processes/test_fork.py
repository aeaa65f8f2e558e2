"""A layer that is carried into a forked child."""

import asyncio
import subprocess
import sys

import apsw
import pytest

from tests.processes.conftest import PATIENCE, ROOT

SCRIPT = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from asgiref.sync import async_to_sync

layer = AIOSQLiteChannelLayer(path=sys.argv[1])
mine = async_to_sync(layer.new_channel)()
async_to_sync(layer.send)("jobs", {"type": "before the fork"})
async_to_sync(layer.send)(mine, {"type": "for the parent"})
prefix = layer.client_prefix

async def child():
    assert layer.client_prefix != prefix
    own = await layer.new_channel()
    await layer.send(own, {"type": "own"})
    assert (await layer.receive(own))["type"] == "own"
    try:
        await layer.receive(mine)
    except AssertionError:
        pass
    else:
        raise SystemExit("the child received from its parent's channel")
    assert (await layer.receive("jobs"))["type"] == "before the fork"
    for number in range(200):
        await layer.send("numbers", {"type": "x", "number": number})
        await asyncio.sleep(0)

async def parent():
    assert layer.client_prefix == prefix
    assert (await layer.receive(mine))["type"] == "for the parent"
    for number in range(200):
        assert (await layer.receive("numbers"))["number"] == number

async def fork_while_receiving():
    waiting = asyncio.ensure_future(layer.receive(mine))
    assert (await waiting)["type"] == "for the parent"
    await layer.send(mine, {"type": "for the parent"})
    waiting = asyncio.ensure_future(layer.receive("never"))
    await asyncio.sleep(0)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if layer.client_prefix != prefix else 1)
    assert os.waitpid(pid, 0)[1] == 0
    await layer.send("never", {"type": "the watcher lives"})
    assert (await waiting)["type"] == "the watcher lives"

asyncio.run(fork_while_receiving())
pid = os.fork()
asyncio.run(asyncio.wait_for(parent() if pid else child(), 50))
if pid == 0:
    if sys.argv[2] == "exit":
        sys.exit(0)  # with the interpreter's own cleaning up
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
asyncio.run(layer.send("jobs", {"type": "still alive"}))
print("done")
"""


@pytest.mark.parametrize("end", ["exit", "_exit"])
async def test_parent_and_child_after_a_fork(path, end):
    """The child has a prefix and a connection of its own; both go on, nothing is lost, and the file stays whole."""
    command = [sys.executable, "-W", "error", "-c", SCRIPT, path, end]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")
    connection = apsw.Connection(path)
    assert connection.pragma("integrity_check") == "ok"
    assert connection.execute("SELECT count(*) FROM channels_lite_message").get == 1
    connection.close()
