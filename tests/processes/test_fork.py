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

layer = AIOSQLiteChannelLayer(path=sys.argv[1], capacity=300)  # room for all that the child sends
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


SURVIVOR = """
import os, subprocess, sys
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from channels_lite.layers.aio import AIOSQLiteChannelLayer

layer = AIOSQLiteChannelLayer(path=sys.argv[1])
async_to_sync(layer.send)("jobs", {"type": "parent"})
heard, ended = os.pipe(), os.pipe()
if os.fork():
    os.read(heard[0], 1)
    if sys.argv[2] == "close":
        async_to_sync(layer.close)()
        os.close(ended[1])
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    sys.exit(0)  # which closes the pipe
os.close(ended[1])
async_to_sync(layer.send)("jobs", {"type": "child, beside its parent"})
os.write(heard[1], b".")
os.read(ended[0], 1)
async_to_sync(layer.send)("jobs", {"type": "child, alone"})
assert os.path.exists(sys.argv[1] + "-wal")
third = '''
import asyncio, sys
from django.conf import settings
settings.configure()
from channels_lite.layers.aio import AIOSQLiteChannelLayer
async def main():
    layer = AIOSQLiteChannelLayer(path=sys.argv[1])
    for _ in range(3):
        print((await asyncio.wait_for(layer.receive("jobs"), 20))["type"], flush=True)
    await layer.send("answers", {"type": "third"})
asyncio.run(main())
'''
subprocess.run([sys.executable, "-c", third, sys.argv[1]], check=True)
print(async_to_sync(layer.receive)("answers")["type"], flush=True)
"""


@pytest.mark.parametrize("end", ["close", "exit"])
async def test_a_child_that_outlives_its_parents_layer(path, end):
    """The parent closes its layer or ends: the child's messages still reach others, and it still hears them."""
    command = [sys.executable, "-W", "error", "-c", SURVIVOR, path, end]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert result.stdout.splitlines() == ["parent", "child, beside its parent", "child, alone", "third"]
    assert (result.returncode, result.stderr) == (0, "")


BUSY_PARENT = """
import asyncio, os, sys, threading
from django.conf import settings
settings.configure()
from channels_lite.layers.aio import AIOSQLiteChannelLayer

layer = AIOSQLiteChannelLayer(path=sys.argv[1])
going = True

def traffic(name):
    async def main():
        while going:
            await layer.send(name, {"type": "x", "text": "x" * 3000})
            await layer.receive(name)
    asyncio.run(main())

async def child():
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    await asyncio.wait_for(layer.receive(channel), 4)

threads = [threading.Thread(target=traffic, args=(name,)) for name in ("one", "other")]
for thread in threads:
    thread.start()
codes = []
for _ in range(30):
    pid = os.fork()
    if pid == 0:
        asyncio.run(child())
        os._exit(0)
    codes.append(os.waitpid(pid, 0)[1])
going = False
for thread in threads:
    thread.join()
print(set(codes))
"""


async def test_forking_while_other_threads_send(path):
    """Children forked in the middle of other threads' traffic find no lock held by nobody; the traffic goes on."""
    command = [sys.executable, "-c", BUSY_PARENT, path]  # Python itself warns of a fork with threads
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "{0}\n"), result.stderr
