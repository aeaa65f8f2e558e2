"""Publishing from SQL: what another process inserts into the views reaches who waits, by the rules of the layer."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import apsw
import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.test import override_settings

from channels_lite.drops import Reason
from channels_lite.errors import DatabaseFailed, SchemaError
from channels_lite.layers.base import SQLiteLayer
from tests.faults.generated import layers, rows
from tests.patience import PATIENCE, until
from tests.stranger import Stranger

SEND = "INSERT INTO channels_lite_send (channel, message) VALUES (?, ?)"
GROUP_SEND = "INSERT INTO channels_lite_group_send (group_name, message) VALUES (?, ?)"
MESSAGE = {"type": "run", "id": 7, "text": "Grüße", "parts": [1.5, None, True, {"deep": []}], "large": 2**40}

Layer = SQLiteLayer[Any]
Make = Callable[..., Layer]


@pytest.fixture(params=["aio", "core"])
async def make(request: pytest.FixtureRequest, path: str) -> AsyncIterator[Make]:
    async with layers(request.param, path) as make:
        yield make


@pytest.fixture
def stranger(path: str) -> Iterator[Stranger]:
    """Another process, for a database that exists by the first use of it."""
    stranger = Stranger(path)
    yield stranger
    stranger.end()


async def opened(layer: Layer) -> Layer:
    """The layer, when its database knows it."""
    await layer.group_count("nobody")
    known, database, loop = asyncio.Event(), layer._database, asyncio.get_running_loop()
    assert database is not None
    assert database.keeper.ask(lambda execute: loop.call_soon_threadsafe(known.set))  # after what was asked before
    await asyncio.wait_for(known.wait(), PATIENCE)
    return layer


async def received(layer: Layer, channel: str) -> dict[str, Any]:
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


def ring(path: str) -> None:
    """Ring the bell, as the README says it."""
    command = f"dd if=/dev/urandom of='{path}-bell' bs=8 count=1 conv=notrunc status=none"
    subprocess.run(["sh", "-c", command], check=True)


@pytest.mark.parametrize("kind_of_channel", ["normal", "own"])
async def test_a_message_is_received(make: Make, stranger: Stranger, kind_of_channel: str) -> None:
    """Who waits on a channel gets what is inserted for it as the message that its JSON says, and nothing twice."""
    layer = await opened(make())
    channel = "jobs" if kind_of_channel == "normal" else await layer.new_channel()
    waiting = asyncio.ensure_future(received(layer, channel))
    await until(lambda: layer.waits(asyncio.get_running_loop()))
    assert stranger.why_not(SEND, channel, json.dumps(MESSAGE)) == ""
    assert await waiting == MESSAGE
    assert await rows(layer, "SELECT count(*) FROM channels_lite_message") == [(0,)]


async def test_a_group_is_reached(make: Make, stranger: Stranger) -> None:
    """Each live member of the group gets the message once: one row for each process, whatever kind of channel it is."""
    layer, other = await opened(make()), await opened(make())
    channels = [await layer.new_channel(), await layer.new_channel(), await other.new_channel(), "jobs"]
    for channel in channels:
        await layer.group_add("news", channel)
    await layer.group_add("elsewhere", "nobody")
    assert stranger.why_not(GROUP_SEND, "news", '{"type": "headline"}') == ""
    assert await rows(layer, "SELECT count(*) FROM channels_lite_message") == [(3,)]
    for channel in channels:
        receiver = other if channel == channels[2] else layer
        assert await received(receiver, channel) == {"type": "headline"}
    assert await rows(layer, "SELECT count(*) FROM channels_lite_message") == [(0,)]


async def test_nobody_waits_until_long_after(make: Make, stranger: Stranger) -> None:
    """A message that came to a process-specific channel while nobody waited on it is there for who waits later.

    By then the watcher, which others keep awake, has seen that commit and looked in vain.
    """
    layer = await opened(make(polling_interval=0.01))
    channel, other = await layer.new_channel(), await layer.new_channel()
    waiting = [asyncio.ensure_future(layer.receive(name)) for name in ("awake", other)]
    await until(lambda: layer._mailboxes.queues() == 2)
    await layer.send(channel, {"type": "first"})
    assert await received(layer, channel) == {"type": "first"}  # the queue is known to be empty
    looks = 0

    def look(real: Callable[[], None] = layer.look) -> None:
        nonlocal looks
        looks += 1
        real()

    layer.look = look  # type: ignore[method-assign]
    waiting[1].cancel()  # somebody on the same queue would have found it
    assert stranger.why_not(SEND, channel, '{"type": "second"}') == ""
    await until(lambda: looks > 0)
    assert await received(layer, channel) == {"type": "second"}
    waiting[0].cancel()


async def test_the_bell_wakes_at_once(make: Make, stranger: Stranger, path: str) -> None:
    """A writer that rings the bell is heard by a receiver that never looks by itself."""
    layer = await opened(make(polling_interval=None))
    channel = await layer.new_channel()
    waiting = [asyncio.ensure_future(received(layer, name)) for name in ("jobs", channel)]
    await until(lambda: layer._mailboxes.queues() == 2)
    assert stranger.why_not(SEND, "jobs", '{"type": "one"}') == ""
    assert stranger.why_not(SEND, channel, '{"type": "two"}') == ""
    ring(path)
    assert await asyncio.gather(*waiting) == [{"type": "one"}, {"type": "two"}]


async def test_capacity(make: Make, stranger: Stranger) -> None:
    """A channel takes as many rows as the options say, by glob, too; then SQLite refuses, and groups skip it."""
    layer = await opened(make(capacity=3, channel_capacity={"small[!x]*": 1, re.compile("small.*"): 9, "small*": 2}))
    for channel, room in (("smally", 1), ("smallx", 2), ("large", 3)):
        for _ in range(room):
            assert stranger.why_not(SEND, channel, "{}") == ""
        assert stranger.why_not(SEND, channel, "{}") == "channels_lite: channel is full"
        await layer.group_add("group", channel)
    await layer.group_add("group", "open")
    assert stranger.why_not(GROUP_SEND, "group", '{"type": "news"}') == ""
    assert await received(layer, "open") == {"type": "news"}
    pending = "SELECT queue, count(*) FROM channels_lite_message GROUP BY queue ORDER BY queue"
    assert await rows(layer, pending) == [("large", 3), ("smallx", 2), ("smally", 1)]


async def test_the_last_options_count(make: Make, stranger: Stranger) -> None:
    """The options of the layer that was opened last hold: here no capacity, and another expiry."""
    await opened(make(capacity=1))
    layer = await opened(make(enforce_capacity=False, capacity=1, channel_capacity={"jobs": 0}, expiry=1000))
    for _ in range(200):
        assert stranger.why_not(SEND, "jobs", "{}") == ""
    what = "SELECT count(*), min(expires_at - sent_at), max(expires_at - sent_at) FROM channels_lite_message"
    assert await rows(layer, what) == [(200, 1_000_000, 1_000_000)]


async def test_expiry(make: Make, stranger: Stranger) -> None:
    """A message that nobody received in time is gone."""
    layer = await opened(make(expiry=0.05))
    assert stranger.why_not(SEND, "jobs", '{"type": "late"}') == ""
    while await rows(layer, "SELECT 1 FROM channels_lite_live_message"):  # noqa: ASYNC110 # nobody tells of it
        await asyncio.sleep(0.01)
    assert stranger.why_not(SEND, "jobs", '{"type": "in time"}') == ""
    assert await received(layer, "jobs") == {"type": "in time"}


async def test_a_layer_that_encrypts_refuses(make: Make, stranger: Stranger) -> None:
    """With keys, SQLite refuses to publish and says why; a row that gets in all the same is never delivered."""
    key = "a key that is long enough for anybody"
    layer = await opened(make(symmetric_encryption_keys=[key]))
    for sql in (SEND, GROUP_SEND):
        assert "the layer encrypts" in stranger.why_not(sql, "jobs", '{"type": "plain"}')
    assert stranger.put("UPDATE channels_lite_layer SET refuses = 0")
    assert stranger.why_not(SEND, "jobs", '{"type": "plain"}') == ""
    await layer.send("jobs", {"type": "encrypted"})
    assert await received(layer, "jobs") == {"type": "encrypted"}
    assert layer.drops.by_reason[Reason.UNDECODABLE] == 1


async def test_told_otherwise_it_accepts(make: Make, stranger: Stranger) -> None:
    """With ``plain_sql``, a layer that encrypts takes what is published from SQL, and encrypts its own as before."""
    layer = await opened(make(symmetric_encryption_keys=["a key that is long enough for anybody"], plain_sql=True))
    assert stranger.why_not(SEND, "jobs", '{"type": "plain"}') == ""
    await layer.send("jobs", {"type": "encrypted"})
    payloads = await rows(layer, "SELECT payload FROM channels_lite_message ORDER BY id")
    assert payloads[0] == (b'\0json:{"type": "plain"}',)
    assert b"encrypted" not in payloads[1][0]
    assert [await received(layer, "jobs") for _ in range(2)] == [{"type": "plain"}, {"type": "encrypted"}]


async def test_which_layer_is_meant(make: Make, stranger: Stranger) -> None:
    """The only layer, whatever its prefix; or the one without; where neither is, SQLite refuses and says so."""
    layer = await opened(make(prefix="one"))
    assert stranger.why_not(SEND, "jobs", '{"type": "x"}') == ""
    assert await received(layer, "jobs") == {"type": "x"}
    await opened(make(prefix="two"))
    assert "several prefixes" in stranger.why_not(SEND, "jobs", "{}")
    layer = await opened(make())
    assert stranger.why_not(SEND, "jobs", '{"type": "y"}') == ""
    assert await received(layer, "jobs") == {"type": "y"}


async def test_json_that_no_message_can_be(make: Make, stranger: Stranger) -> None:
    """What SQLite takes for JSON and the layer cannot read is skipped and counted; the next one arrives."""
    layer = await opened(make())
    assert stranger.why_not(SEND, "jobs", '{"a": "\\ud800"}') == ""
    assert stranger.why_not(SEND, "jobs", '{"type": "fine"}') == ""
    assert await received(layer, "jobs") == {"type": "fine"}
    assert layer.drops.by_reason == {Reason.UNDECODABLE: 1}


TRIGGER = """
CREATE TRIGGER announce AFTER INSERT ON parcel
BEGIN
    INSERT INTO channels_lite_group_send (group_name, message)
    VALUES ('parcels', json_object('type', 'parcel.new', 'id', NEW.id));
END
"""


@pytest.mark.parametrize("make", ["core"], indirect=True)
async def test_a_trigger_on_a_table(make: Make, stranger: Stranger) -> None:
    """A row of an application's table announces itself, with its transaction and not without; Django wakes at once."""
    layer = await opened(make(polling_interval=None))  # hears what is told, and never looks by itself
    channel = await layer.new_channel()
    await layer.group_add("parcels", channel)

    def work(*ids: int, roll_back: bool = False) -> None:
        with transaction.atomic(using="core"), connections["core"].cursor() as cursor:
            for number in ids:
                cursor.execute("INSERT INTO parcel VALUES (%s)", [number])
            transaction.set_rollback(roll_back, using="core")

    for sql in ("CREATE TABLE parcel (id INTEGER PRIMARY KEY)", TRIGGER):
        assert stranger.why_not(sql) == ""
    waiting = asyncio.ensure_future(received(layer, channel))
    await until(lambda: layer.waits(asyncio.get_running_loop()))
    entry = {"BACKEND": "channels_lite.layers.core.SQLiteChannelLayer", "CONFIG": {"database": "core"}}
    with override_settings(CHANNEL_LAYERS={"default": entry}):  # Django's connections are prepared by what is in there
        await sync_to_async(partial(work, 1, roll_back=True))()
        await sync_to_async(partial(work, 2, 3))()
    assert await waiting == {"type": "parcel.new", "id": 2}
    assert await received(layer, channel) == {"type": "parcel.new", "id": 3}
    assert await rows(layer, "SELECT count(*) FROM channels_lite_message") == [(0,)]


WRITER = """
import sys, django
from django.conf import settings
from django.db import connection, transaction

core = {"BACKEND": "channels_lite.layers.core.SQLiteChannelLayer", "CONFIG": {"database": "default"}}
default = {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}
settings.configure(
    INSTALLED_APPS=["channels_lite"], DATABASES={"default": default}, CHANNEL_LAYERS={"default": core}
)
django.setup()
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("INSERT INTO channels_lite_send VALUES ('jobs', '{}')")
"""


@pytest.mark.parametrize("make", ["core"], indirect=True)
async def test_a_process_that_only_writes_rings(make: Make, path: str) -> None:
    """What a process inserts through Django is heard at once, though it never used its layer."""
    layer = await opened(make(polling_interval=None))
    waiting = asyncio.ensure_future(received(layer, "jobs"))
    await until(lambda: layer.waits(asyncio.get_running_loop()))
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", WRITER, path], check=True)
    assert await waiting == {}


@pytest.mark.parametrize("make", ["aio"], indirect=True)
async def test_a_database_that_was_made_anew_knows_its_layers(make: Make, path: str) -> None:
    """After its files were lost, the new ones have the rules of the layers that are open."""
    layer = await opened(make(prefix="site", capacity=3))
    for name in (path, f"{path}-wal", f"{path}-shm"):
        os.unlink(name)
    query = "SELECT prefix, capacity FROM channels_lite_layer"
    known: list[Any] = []
    while not known:
        with contextlib.suppress(DatabaseFailed, SchemaError, apsw.SQLError):  # while it is made, it has no tables
            known = await rows(layer, query)
        await asyncio.sleep(0.05)
    assert known == [("site", 3)]
