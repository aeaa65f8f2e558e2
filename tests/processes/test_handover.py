"""Messages that are handed over in memory, beside another process that sends to the same channels."""

import asyncio
import os
import subprocess
import sys

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from channels_lite import store
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.journal import keep_a_wal
from tests.processes.conftest import PATIENCE, ROOT

WAYS = ["send", "group narrow", "group wide"]


@pytest.fixture(params=["aio", "core"])
async def layer(request, path, alias):
    """An open layer of either kind, on a file with a -wal."""
    if request.param == "core":
        keep_a_wal(path)
        layer = SQLiteChannelLayer(database=alias, serializer_format="msgpack")
    else:
        layer = AIOSQLiteChannelLayer(path=path)
    await layer.group_discard("nothing", "nobody")
    yield layer
    await layer.close()
    await sync_to_async(connections.close_all)()
    await asyncio.sleep(0)


@pytest.fixture
async def peer(layer, start):
    """Another process with a layer of the same kind, which does what it is told."""
    return await start("obey", *["--core"] * isinstance(layer, SQLiteChannelLayer))


@pytest.fixture
async def channel(layer):
    """A channel of this process, in both groups; the peer has one in the group `wide`."""
    channel = await layer.new_channel()
    for group in ("narrow", "wide"):
        await layer.group_add(group, channel)
    return channel


async def tell(layer, channel, way, word):
    """Send in one of the ways."""
    if way == "send":
        await layer.send(channel, {"type": word})
    else:
        await layer.group_send(way.split()[1], {"type": word})


async def have_told(peer, channel, way, word):
    """Let the peer send in one of the ways."""
    await peer.obey(*(["send", channel] if way == "send" else way.split()), word)


async def receive(layer, channel, count):
    """The types of this many messages."""
    return [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] for _ in range(count)]


@pytest.mark.parametrize("mine", WAYS)
@pytest.mark.parametrize("theirs", WAYS)
async def test_what_another_process_sent_before_comes_before(layer, peer, channel, theirs, mine):
    """Nobody waits: the message that the other process had sent is received first, each time anew."""
    for _ in range(3):
        await tell(layer, channel, mine, "zero")
        await have_told(peer, channel, theirs, "one")
        await tell(layer, channel, mine, "two")
        assert await receive(layer, channel, 3) == ["zero", "one", "two"]


@pytest.mark.parametrize("waits", [False, True], ids=["nobody waits", "somebody waits"])
async def test_interleaved(layer, peer, channel, waits):
    """Two processes take turns in no regular pattern and in all ways: every message arrives once and in order."""
    count = 90  # below the capacity
    receiving = asyncio.ensure_future(receive(layer, channel, count)) if waits else None
    await asyncio.sleep(0)
    for number in range(count):
        way, by_peer = WAYS[number % 3], number * number % 7 in (1, 2, 5)
        await (have_told(peer, channel, way, f"n{number}") if by_peer else tell(layer, channel, way, f"n{number}"))
    received = await (receiving or receive(layer, channel, count))
    assert received == [f"n{number}" for number in range(count)]


async def test_after_the_bell_was_deleted(layer, peer, channel, path):
    """Nobody listens, and the other process rings a new bell: its message still comes first."""
    await tell(layer, channel, "send", "zero")
    os.unlink(f"{path}-bell")
    for _ in range(3):
        await have_told(peer, channel, "send", "one")
        await tell(layer, channel, "send", "two")
        assert await receive(layer, channel, 1) == ["zero"]
        assert await receive(layer, channel, 2) == ["one", "two"]
        await tell(layer, channel, "send", "zero")


async def test_while_the_database_is_locked(layer, peer, channel):
    """The lock of another process holds up no message to an own channel, and no group of own channels."""
    await peer.obey("lock")
    for way in ("send", "group narrow"):
        await asyncio.wait_for(tell(layer, channel, way, "x"), PATIENCE)
        assert await receive(layer, channel, 1) == ["x"]
    await peer.obey("unlock")
    await have_told(peer, channel, "send", "one")
    await peer.obey("lock")
    receiving = asyncio.ensure_future(receive(layer, channel, 2))
    sending = asyncio.ensure_future(tell(layer, channel, "send", "two"))
    await asyncio.sleep(0)
    await peer.obey("unlock")
    await sending
    assert await receiving == ["one", "two"]


async def test_a_message_that_comes_during_the_look(layer, channel, monkeypatch):
    """What another process commits while the layer looks whether the queue is empty is found the next time."""
    original = store.has_live
    command = [sys.executable, "-m", "tests.processes.peer", str(layer.file()), "flood", "--channel", channel]
    command += ["--count", "1", *["--core"] * isinstance(layer, SQLiteChannelLayer)]

    def look_while_another_sends(*arguments):
        found = original(*arguments)
        monkeypatch.setattr(store, "has_live", original)
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as flood:  # it ends when it has sent
            assert flood.wait(PATIENCE) == 0
        return found

    monkeypatch.setattr(store, "has_live", look_while_another_sends)
    await tell(layer, channel, "send", "meanwhile")
    await tell(layer, channel, "send", "after")
    assert await receive(layer, channel, 3) in (["meanwhile", "x", "after"], ["x", "meanwhile", "after"])


FORK = """
import asyncio, os, sys
from django.conf import settings
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": sys.argv[1],
    "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"},
}})
import django
django.setup()
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer

layer = SQLiteChannelLayer() if sys.argv[2] == "core" else AIOSQLiteChannelLayer()

async def park():
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    for _ in range(50):  # until the keeper is at rest
        await layer.send(channel, {"type": "warm up"})
        await layer.receive(channel)
        await asyncio.sleep(0.01)
    await layer.send(channel, {"type": "parked"})
    assert layer._mailboxes._parked, "the message is not in memory"
    return channel

async def use(types, channel):
    own = channel or await layer.new_channel()
    assert bool(layer._mailboxes._parked) == bool(channel)
    for number in range(5):
        await layer.send(own, {"type": f"own {number}"})
    for expected in [*types, *(f"own {number}" for number in range(5))]:
        assert (await asyncio.wait_for(layer.receive(own), 20))["type"] == expected
    await layer.close()

channel = asyncio.run(park())
pid = os.fork()
asyncio.run(use(["parked"], channel) if pid else use([], None))
if pid == 0:
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("done")
"""


@pytest.mark.parametrize("kind", ["aio", "core"])
async def test_a_fork_with_parked_messages(path, kind):
    """The child has none of its parent's parked messages, and its own channels work; the parent keeps its own."""
    command = [sys.executable, "-c", FORK, path, kind]  # Python itself warns of a fork with threads
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
