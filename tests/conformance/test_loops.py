"""Several event loops and threads in one process."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.db import connections

from tests.conformance.conftest import soon, waiting
from tests.patience import PATIENCE


def test_each_call_in_a_loop_of_its_own(make):
    """async_to_sync makes a loop for each call: channels, groups and messages are there for the next one."""
    layer = make()
    one, other = async_to_sync(layer.new_channel)(), async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("group", other)
    async_to_sync(layer.send)(one, {"type": "for one"})
    async_to_sync(layer.group_send)("group", {"type": "for other"})
    assert async_to_sync(layer.receive)(other)["type"] == "for other"
    assert async_to_sync(layer.receive)(one)["type"] == "for one"
    async_to_sync(layer.close)()


@pytest.mark.deviation("memory", "an asyncio.Queue belongs to the first loop that waits on it")
async def test_threads_send_to_a_waiting_loop(layer):
    """Sends from other threads, each with a loop of its own, wake a receiver in this one; none is lost or doubled."""
    channel = await layer.new_channel()

    def send(start):
        for number in range(start, start + 25):
            async_to_sync(layer.send)(channel, {"type": "x", "number": number})
        connections.close_all()  # Django's, which the core layer has used in this thread

    threads = [threading.Thread(target=send, args=(start,)) for start in (0, 25, 50, 75)]
    for thread in threads:
        thread.start()
    received = [(await soon(layer.receive(channel)))["number"] for _ in range(100)]
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(received) == list(range(100))
    for start in (0, 25, 50, 75):
        own = [number for number in received if start <= number < start + 25]
        assert own == sorted(own)


ONE_LOOP = pytest.mark.deviation("redis", "event loops: process-specific channels are received in one at a time")


@pytest.mark.deviation("memory", "an asyncio.Queue belongs to the first loop that waits on it")
@pytest.mark.parametrize("specific", [False, pytest.param(True, marks=ONE_LOOP)])
async def test_two_loops_receive_at_once(layer, specific):
    """Receivers in two loops on one channel: every message is received once, by one of them."""
    channel = await layer.new_channel() if specific else "jobs"
    received: list[int] = []
    lock = threading.Lock()

    async def receive():
        while (number := (await layer.receive(channel))["number"]) >= 0:
            with lock:
                received.append(number)

    async def receive_with_patience():
        await asyncio.wait_for(receive(), PATIENCE)

    threads = [threading.Thread(target=asyncio.run, args=(receive_with_patience(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(100):
        await layer.send(channel, {"type": "x", "number": number})
        await asyncio.sleep(0.0005)
    for _ in threads:
        await layer.send(channel, {"type": "end", "number": -1})
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(received) == list(range(100))


@ONE_LOOP
@pytest.mark.deviation("memory", "an asyncio.Queue belongs to the first loop that waits on it")
async def test_a_loop_that_was_closed_is_forgotten(layer):
    """A receiver whose loop was closed under it neither takes a message nor keeps one from the others."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    closed = asyncio.new_event_loop()
    stranded = closed.create_task(layer.receive(channel))
    await asyncio.to_thread(closed.run_until_complete, _one_step())
    stranded._log_destroy_pending = False
    closed.close()
    await layer.send(channel, {"type": "precious"})
    assert (await soon(layer.receive(channel)))["type"] == "precious"
    task = await waiting(layer, channel)
    await layer.send(channel, {"type": "next"})
    assert (await soon(task))["type"] == "next"
    stranded.get_coro().close()


async def _one_step():
    await asyncio.sleep(0)


async def test_closing_twice_and_using_again(make):
    """close() may be called twice, and before any use; a closed layer can be used again."""
    layer = make()
    await layer.close()
    await layer.send("jobs", {"type": "x"})
    await soon(layer.receive("jobs"))
    await layer.close()
    await layer.close()
    await layer.send("jobs", {"type": "y"})
    assert (await soon(layer.receive("jobs")))["type"] == "y"


@pytest.mark.deviation("memory", "its receivers wait on for ever")
async def test_closing_ends_waiting_receivers(layer):
    """A receiver that waits when the layer is closed gets an error that says so."""
    await layer.send("jobs", {"type": "warm up"})
    await layer.receive("jobs")
    task = await waiting(layer, "jobs")
    await layer.close()
    with pytest.raises(Exception, match="was closed"):
        await soon(task)


SCRIPT = """
import asyncio, sys
from django.conf import settings
settings.configure()
from {module} import {name} as Layer
layer = Layer(**{{sys.argv[1]: {value}}})
async def main():
    await layer.send("jobs", {{"type": "x"}})
    print((await layer.receive("jobs"))["type"])
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["aio", "redis"], indirect=True)
async def test_nobody_needs_to_call_close(make, path):
    """Channels never calls close(): a process ends cleanly without it, and leaves a file without a -wal."""
    layer = make()
    option, value = ("hosts", [layer.hosts[0]["address"]]) if hasattr(layer, "hosts") else ("path", path)
    script = SCRIPT.format(module=type(layer).__module__, name=type(layer).__name__, value=repr(value))
    command = [sys.executable, "-W", "error", "-c", script, option]
    result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE)
    assert (result.returncode, result.stdout, result.stderr) == (0, "x\n", "")
    assert not Path(f"{path}-wal").exists()
