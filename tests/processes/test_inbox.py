"""Messages that processes hand over to each other without the database, and when they do not."""

import asyncio
import os
import subprocess
import sys

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from channels_lite import inbox
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.page import folder_of
from tests.journal import keep_a_wal
from tests.patience import until
from tests.processes.conftest import PATIENCE, ROOT

pytestmark = pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")


@pytest.fixture(params=["aio", "core"])
async def make(request, path, alias):
    """Make open layers of one kind, on a file with a -wal."""
    made = []
    if request.param == "core":
        keep_a_wal(path)

    async def make_one(**options):
        if request.param == "core":
            made.append(SQLiteChannelLayer(database=alias, serializer_format="msgpack", **options))
        else:
            made.append(AIOSQLiteChannelLayer(path=path, **options))
        await made[-1].group_discard("nothing", "nobody")
        return made[-1]

    yield make_one
    for layer in made:
        await layer.close()
    await sync_to_async(connections.close_all)()
    await asyncio.sleep(0)


@pytest.fixture
async def layer(make):
    """A layer with the default options."""
    return await make()


@pytest.fixture
def kind(layer):
    """What makes a peer have a layer of the same kind."""
    return ["--core"] * isinstance(layer, SQLiteChannelLayer)


@pytest.fixture
async def peer(layer, kind, start):
    """Another process, which does what it is told."""
    return await start("obey", *kind)


async def receive(layer, channel):
    """The next message."""
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


async def rows(path):
    """How many messages are in the database, asked by a process of its own."""
    script = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    command = [sys.executable, "-c", script, path, "SELECT count(*) FROM channels_lite_message"]
    return int((await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)).stdout)


async def test_without_the_database(layer, peer):
    """While somebody holds the write lock, messages and group messages to a channel of another process arrive."""
    channel = await layer.new_channel()
    await layer.group_add("narrow", channel)
    await peer.obey("lock")
    for waits in (True, False):
        receiving = asyncio.ensure_future(receive(layer, channel)) if waits else None
        await asyncio.sleep(0)
        await peer.obey("send", channel, "direct")
        assert (await (receiving or receive(layer, channel)))["type"] == "direct"
        await peer.obey("group", "narrow", "group")
        assert (await receive(layer, channel))["type"] == "group"
    await peer.obey("unlock")


@pytest.mark.parametrize("large", [2, 3, 50])
async def test_short_and_long_messages(layer, kind, start, large):
    """Those that are too long to be handed over go through the database, and all arrive in the order of sending."""
    channel = await layer.new_channel()
    await start("flood", "--channel", channel, "--count", "600", "--large", str(large), *kind)
    received = [await receive(layer, channel) for _ in range(600)]
    assert [message["number"] for message in received] == list(range(600))
    assert all(bool(message["text"]) == (message["number"] % large == 0) for message in received)


async def test_two_senders(layer, kind, start):
    """What each of them sent arrives in order, once."""
    channel = await layer.new_channel()
    for _ in range(2):
        await start("flood", "--channel", channel, "--count", "1000", "--large", "97", *kind)
    received = [await receive(layer, channel) for _ in range(2000)]
    senders = {message["sender"] for message in received}
    assert len(senders) == 2
    for sender in senders:
        assert [m["number"] for m in received if m["sender"] == sender] == list(range(1000))


@pytest.mark.parametrize("capacity", [1, 2, 7, 100])
async def test_a_receiver_that_does_not_receive(make, start, capacity):
    """However small its capacity: what was accepted arrives, in order, and the rest was refused."""
    layer = await make(capacity=capacity)
    peer = await start("obey", "--capacity", str(capacity), *["--core"] * isinstance(layer, SQLiteChannelLayer))
    channel = await layer.new_channel()
    for _ in range(3):
        await peer.tell("fill", channel)
        accepted = int(await peer.line())
        assert await peer.line() == "done"
        assert accepted == capacity
        assert [(await receive(layer, channel))["number"] for _ in range(accepted)] == list(range(accepted))
    assert not layer.drops.by_reason


async def test_flush_reaches_other_processes(layer, peer, path):
    """What another process holds in memory is gone as well, and what is sent afterwards arrives."""
    channel, other = await layer.new_channel(), await layer.new_channel()
    for _ in range(3):
        receiving = asyncio.ensure_future(receive(layer, other))
        await peer.obey("send", channel, "parked")
        await layer.send(channel, {"type": "parked too"})
        await peer.obey("flush")
        await peer.obey("send", other, "after")
        await peer.obey("send", channel, "after")
        assert (await receiving)["type"] == "after"
        assert (await receive(layer, channel))["type"] == "after"


async def test_a_receiver_that_is_killed(layer, kind, start, path):
    """Who sends to it, by channel or group, notices nothing; others in the group have the message."""
    victim = await start("collect", "--channel", "!", "--count", "1", *kind)
    dead = await victim.line()
    channel = await layer.new_channel()
    for name in (dead, channel):
        await layer.group_add("group", name)
    await layer.send(dead, {"type": "x", "number": 1})
    assert await victim.line() == "1"
    again = await start("collect", "--channel", "!", "--count", "100", *kind)
    dead = await again.line()
    await layer.group_add("group", dead)
    await until(lambda: layer._outboxes.find(f"{dead.partition('!')[0]}!") is not None)
    await again.kill()
    before = await rows(path)
    await layer.send(dead, {"type": "x"})
    await layer.group_send("group", {"type": "group"})
    assert (await receive(layer, channel))["type"] == "group"
    assert await rows(path) >= before + 2  # they wait there until they expire
    assert len(os.listdir(folder_of(path))) == 2, "what the killed process had left is removed"


FORK = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.page import folder_of

layer = AIOSQLiteChannelLayer(path=sys.argv[1])

async def channels():
    await layer.group_discard("nothing", "nobody")
    return await layer.new_channel()

async def answer(channel, reply=None):
    message = await asyncio.wait_for(layer.receive(channel), 20)
    await layer.send(message["reply"], {"type": "answer"})

mine = asyncio.run(channels())
files = set(os.listdir(folder_of(sys.argv[1])))
assert len(files) == 2
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    own = asyncio.run(channels())
    assert set(os.listdir(folder_of(sys.argv[1]))) > files
    async def ask():
        await layer.send(mine, {"type": "question", "reply": own})
        assert (await asyncio.wait_for(layer.receive(own), 20))["type"] == "answer"
        await layer.close()
    asyncio.run(ask())
    if sys.argv[2] == "exit":
        sys.exit(0)
    os._exit(0)
asyncio.run(answer(mine))
assert os.waitpid(pid, 0)[1] == 0
assert set(os.listdir(folder_of(sys.argv[1]))) == files
asyncio.run(layer.close())
assert not os.listdir(folder_of(sys.argv[1]))
print("done")
"""


@pytest.mark.parametrize("end", ["exit", "_exit"])
async def test_a_fork(path, end):
    """The child has an inbox of its own; parent and child talk to each other, and the parent's inbox stays."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", FORK, path, end),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, output, errors) == (0, b"done\n", b"")


async def test_a_process_that_ends(layer, kind, start, path):
    """Its inbox is gone, whether it closed its layer or not."""
    peer = await start("collect", "--channel", "!", "--count", "1", *kind)
    channel = await peer.line()
    await until(lambda: len(os.listdir(folder_of(path))) == 4)
    await layer.send(channel, {"type": "x", "number": 7})
    assert await peer.line() == "7"
    await peer.end()
    assert len(os.listdir(folder_of(path))) == 2
