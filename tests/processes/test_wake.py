"""How a process hears that another one has committed."""

import asyncio
import subprocess
import sys

import msgspec
import pytest

from channels_lite import bell
from tests.processes.conftest import PATIENCE


async def ask(layer, number):
    """Send a request to the echoing peer and wait for the answer."""
    reply = await layer.new_channel()
    await layer.send("echo", {"type": "x", "number": number, "reply": reply})
    return (await asyncio.wait_for(layer.receive(reply), PATIENCE))["number"]


async def test_the_bell_alone(make_layer, start):
    """With the poll switched off on both sides, every message still wakes its receiver."""
    layer = make_layer(polling_interval=None)
    await start("echo", "--no-poll")
    for number in range(200):
        assert await ask(layer, number) == number
    assert [watcher.how for watcher in layer._watchers] == ["inotify"]


async def test_the_poll_alone(make_layer, start, monkeypatch):
    """On a platform that hears no bell, the poll finds the messages."""
    monkeypatch.setattr(bell, "_listener_class", lambda: None)
    layer = make_layer(polling_interval=0.02)
    await start("echo", "--no-bell")
    for number in range(5):
        assert await ask(layer, number) == number
    assert [watcher.how for watcher in layer._watchers] == ["polling"]


@pytest.mark.parametrize("specific", [False, True], ids=["normal", "specific"])
async def test_a_writer_that_rings_no_bell(make_layer, path, specific):
    """A row that a foreign program puts into the table is found by the backstop."""
    layer = make_layer()
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    waiting = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    queue, mark, local = channel.partition("!")
    await asyncio.to_thread(_insert, path, queue + mark, f'["{local}"]' if specific else "")
    assert (await asyncio.wait_for(waiting, PATIENCE))["type"] == "from elsewhere"


STRANGER = """
import sqlite3, sys
path, queue, targets, payload = sys.argv[1:]
connection = sqlite3.connect(path, timeout=10)
connection.execute(
    "INSERT INTO channels_lite_message (prefix, queue, targets, payload, expires_at)"
    " VALUES ('', ?, ?, ?, 9999999999999)",
    (queue, targets or None, bytes.fromhex(payload)),
)
connection.commit()
"""


def _insert(path, queue, targets):
    """What another program would do. It is one: two SQLite libraries must not meet in one process."""
    payload = msgspec.msgpack.encode({"type": "from elsewhere"}).hex()
    subprocess.run([sys.executable, "-c", STRANGER, path, queue, targets, payload], check=True, timeout=PATIENCE)


async def test_a_thousand_idle_receivers_are_not_disturbed(layer, start):
    """A commit for somebody else wakes none of a thousand waiting receivers, and they all still hear their own."""
    channels = [await layer.new_channel() for _ in range(1000)]
    tasks = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0)
    peer = await start("flood", "--channel", "for-nobody", "--count", "50")
    await peer.process.wait()
    assert not any(task.done() for task in tasks)
    for channel in channels:
        await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "x"})
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
