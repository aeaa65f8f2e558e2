"""What layer.stats() says. Channels' own layers have none of it."""

import asyncio
import os
import time
from typing import Any

import msgspec
import pytest
from channels.exceptions import ChannelFull

from channels_lite import inbox, schema
from tests.conformance.conftest import OURS, soon, under_test, waiting
from tests.conformance.test_sync import apart


@pytest.fixture(params=OURS)
def kind(request: pytest.FixtureRequest) -> str:
    return under_test(request)


def sizes(path: str) -> tuple[int, int]:
    """Of a database and its -wal; neither shrinks while it is open."""
    wal = f"{path}-wal"
    return os.stat(path).st_size, os.stat(wal).st_size if os.path.exists(wal) else 0


@pytest.mark.deviation("redis", "stats(): it has neither file nor schema, see test_redis.py")
async def test_of_a_new_database(layer, path):
    """Where nothing has happened, nothing waits; the schema, the files and the process are there."""
    await layer.group_count("room")
    before = sizes(path)
    stats = await layer.stats()
    for size, earlier, later in zip((stats.database_bytes, stats.wal_bytes), before, sizes(path), strict=True):
        assert earlier <= size <= later
    assert stats.database_bytes > 0
    assert (stats.pending, stats.oldest_age, stats.groups) == ({}, None, {})
    assert (stats.sent, stats.received, stats.decode_failures, stats.busy_retries) == (0, 0, 0, 0)
    assert stats.dropped == {"full": 0, "slow": 0, "undecodable": 0, "no_target": 0}
    assert stats.schema_version == schema.steps()[-1].version
    assert stats.watcher == "stopped"
    assert [process.pid for process in stats.processes] == [os.getpid()]


async def test_what_waits(layer):
    """Live messages count for their channels, wherever they wait; the age is that of the oldest one."""
    own, sibling = await layer.new_channel(), await layer.new_channel()
    for channel in (own, sibling, "jobs"):
        await layer.group_add("room", channel)
    await layer.group_add("other", own)
    await layer.send("jobs", {"type": "expires"}, expiry=0.001)
    begun = time.time()
    await layer.send(own, {"type": "x"}, expiry=1000)
    await layer.send("jobs", {"type": "x"})
    await layer.group_send("room", {"type": "x"}, exclude=[sibling])
    await asyncio.sleep(0.05)
    before = time.time()
    stats = await layer.stats()
    after = time.time()
    assert stats.pending == {own: 2, "jobs": 2}
    assert stats.groups == {"room": 3, "other": 1}
    assert before - begun - 0.01 <= stats.oldest_age <= after - begun + 0.01
    for channel in (own, "jobs", own, "jobs"):
        await soon(layer.receive(channel))
    assert (await layer.stats()).pending == {}


@pytest.mark.deviation("redis", "a group's message for a full channel: it is not counted")
async def test_what_was_counted(make):
    """Messages that were sent, received and dropped; a group's is sent once, and what was refused is not sent."""
    layer = make(capacity=1)
    await layer.group_add("room", "jobs")
    await layer.group_add("room", "more")
    await layer.send("jobs", {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send("jobs", {"type": "x"})
    with pytest.raises(TypeError):
        await layer.send("jobs", {"type": object()})
    await layer.group_send("room", {"type": "x"})
    await apart(lambda: layer.sync.group_send("room", {"type": "nobody gets it"}))
    await apart(lambda: layer.sync.send("others", {"type": "x"}))
    await soon(layer.receive("jobs"))
    stats = await layer.stats()
    assert (stats.sent, stats.received) == (4, 1)
    assert stats.dropped == {"full": 3, "slow": 0, "undecodable": 0, "no_target": 0}


async def test_what_cannot_be_decoded(make):
    """A message that another layer has encrypted is counted among the dropped ones, and as a decode failure."""
    layer, other = make(), make(symmetric_encryption_keys=["another key of more than 16 bytes"])
    task = await waiting(layer, "jobs")
    await other.send("jobs", {"type": "x"})
    await layer.send("jobs", {"type": "readable"})
    await soon(task)
    stats = await layer.stats()
    assert stats.decode_failures == stats.dropped["undecodable"] == 1


@pytest.mark.deviation("redis", "stats(): it always hears by redis, see test_redis.py")
async def test_how_it_listens(layer, kind):
    """While somebody waits, the stats say by what; the process's own numbers are its layer's."""
    task = await waiting(layer, await layer.new_channel())
    stats = await layer.stats()
    assert stats.watcher in ("inotify", "kqueue", "polling")
    assert stats.processes[0].watcher == stats.watcher
    task.cancel()


@pytest.mark.deviation("redis", "stats(): it knows this process alone, see test_redis.py")
async def test_another_prefix(make):
    """What belongs to layers with other prefixes is left out, messages and processes."""
    layer, other = make(), make(prefix="other")
    await other.send("jobs", {"type": "x"})
    await other.group_add("room", "jobs")
    other.tidy()  # as its watcher does: now others know of it
    stats = await layer.stats()
    assert (stats.pending, stats.groups, len(stats.processes)) == ({}, {}, 1)
    assert (await other.stats()).pending == {"jobs": 1}


@pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")
@pytest.mark.parametrize("interval", [0.1, None])
@pytest.mark.parametrize("kind", ["aio", "core-wal"], indirect=True)
async def test_others_see_it(make, interval):
    """What a layer has counted others can see soon, whether it polls or not."""
    layer, other = make(polling_interval=interval), make()
    task = await waiting(layer, await layer.new_channel())
    await layer.send("jobs", {"type": "x"})
    while (seen := (await other.stats()).processes[1:]) == [] or seen[0].sent == 0:  # noqa: ASYNC110 # of others
        await asyncio.sleep(0.05)
    assert (seen[0].pid, seen[0].sent, seen[0].watcher) == (os.getpid(), 1, "inotify")
    task.cancel()


async def test_from_synchronous_code(make):
    """layer.sync.stats() says the same."""
    layer = make()
    await layer.send("jobs", {"type": "x"})
    there: Any = await apart(lambda: layer.sync.stats())
    here = await layer.stats()
    assert there.pending == here.pending == {"jobs": 1}
    assert there.sent == here.sent == 1


async def test_as_json(layer):
    """Stats are plain values: they become JSON and come back."""
    await layer.send("jobs", {"type": "x"})
    stats = await layer.stats()
    assert msgspec.json.decode(msgspec.json.encode(stats), type=type(stats)) == stats
