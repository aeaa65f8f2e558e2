"""Messages for channels of this very process: handed over in memory, and only where nothing comes before them."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import apsw
import msgspec
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.exceptions import ChannelFull
from django.db import connections, transaction

from channels_lite import bell, clock, store
from channels_lite.datagram import Handed, pack
from channels_lite.drops import Reason
from channels_lite.errors import Locked
from channels_lite.layers import groups, handover
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.outbox import Outbox
from channels_lite.page import ANY, folder_of
from tests.journal import keep_a_wal
from tests.patience import PATIENCE, until

Layer = SQLiteLayer[Any]
Make = Callable[..., Layer]


@pytest.fixture(params=["aio", "core"])
async def make(request: pytest.FixtureRequest, path: str, alias: str) -> AsyncIterator[Make]:
    """Make layers of one kind on the test's file, which has a -wal; they are closed afterwards."""
    made: list[Layer] = []
    if request.param == "core":
        keep_a_wal(path)

    def make_one(**options: Any) -> Layer:
        if request.param == "core":
            made.append(SQLiteChannelLayer(database=alias, **options))
        else:
            made.append(AIOSQLiteChannelLayer(path=path, **options))
        return made[-1]

    yield make_one
    for layer in made:
        await layer.close()
    await asyncio.sleep(0)


@pytest.fixture
def layer(make: Make) -> Layer:
    """A layer with the default options."""
    return make()


@pytest.fixture
def core(path: str, alias: str) -> Iterator[SQLiteChannelLayer]:
    """A core layer for synchronous tests."""
    keep_a_wal(path)
    layer = SQLiteChannelLayer(database=alias)
    yield layer
    async_to_sync(layer.close)()


def pending(layer: Layer) -> int:
    """How many messages are in the layer's database, asked on its own connection."""
    return layer._read_now(lambda execute: execute("SELECT count(*) FROM channels_lite_message", ())[0][0]) or 0


def has_parked(layer: Layer) -> bool:
    """Whether any message is in the layer's mailboxes."""
    return bool(layer._mailboxes._parked)


async def ready(layer: Layer) -> Layer:
    """The layer, opened, with its keeper at rest: what can be done at once is done at once."""
    database = await layer._ready()
    begun = threading.Event()
    database.keeper.ask(lambda execute: begun.set())
    await until(lambda: begun.is_set() and database.keeper.inline(lambda execute: None))
    return layer


async def receive(layer: Layer, channel: str) -> str:
    """The type of the next message."""
    message = await asyncio.wait_for(layer.receive(channel), PATIENCE)
    return str(message["type"])


async def tell(layer: Layer, channel: str, *words: str) -> None:
    """Send messages of these types."""
    for word in words:
        await layer.send(channel, {"type": word})


# Where the messages are.


async def test_nothing_is_written(layer: Layer) -> None:
    """A send to an own channel, and a group_send to own channels only, leave no row and change nothing in the file."""
    await ready(layer)
    one, other = await layer.new_channel(), await layer.new_channel("other")
    for channel in (one, other):
        await layer.group_add("group", channel)
    await ready(layer)

    def changes() -> int:
        return layer._read_now(lambda execute: execute("SELECT total_changes()", ())[0][0])  # type: ignore[return-value]

    before = changes()
    await tell(layer, one, "direct")
    await layer.group_send("group", {"type": "group"})
    assert pending(layer) == 0
    assert [await receive(layer, one) for _ in range(2)] == ["direct", "group"]
    assert await receive(layer, other) == "group"
    assert changes() == before


async def test_a_group_with_members_elsewhere(make: Make) -> None:
    """In the database is only what cannot be handed over; each member gets the message once."""
    layer, other = await ready(make()), await ready(make())
    mine, theirs = await layer.new_channel(), await other.new_channel()
    for channel in (mine, theirs, "normal"):
        await layer.group_add("group", channel)
    await ready(layer)
    await layer.group_send("group", {"type": "x"})
    assert pending(layer) == 1
    for owner, channel in ((layer, mine), (other, theirs), (layer, "normal")):
        assert await receive(owner, channel) == "x"
    await tell(layer, mine, "end")
    assert await receive(layer, mine) == "end"
    assert pending(layer) == 0


async def test_a_channel_that_new_channel_did_not_make(layer: Layer) -> None:
    """A name that somebody made of the layer's own part works as well, by direct send and in a group, in order."""
    await ready(layer)
    channel = f"made.{layer.client_prefix}!by-hand"
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "group"})
    await tell(layer, channel, "direct")
    assert [await receive(layer, channel) for _ in range(2)] == ["group", "direct"]


async def test_in_memory() -> None:
    """With a database in memory the order holds as well, whichever way the messages go."""
    layer = AIOSQLiteChannelLayer(path=":memory:")
    channel = f"made.{layer.client_prefix}!by-hand"
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "group"})
    assert pending(layer) == 1
    await tell(layer, channel, "direct")
    assert [await receive(layer, channel) for _ in range(2)] == ["group", "direct"]
    await tell(layer, channel, "in the mailbox")
    assert pending(layer) == 0
    assert await receive(layer, channel) == "in the mailbox"
    await layer.close()


# The caller's transaction.


class Refused(Exception):
    """What a test raises to have a transaction rolled back."""


def test_a_send_in_a_transaction_is_not_handed_over_early(core: SQLiteChannelLayer, alias: str) -> None:
    """It is received when the transaction has committed, and never when it is rolled back; so is a group_send."""

    async def without_a_caller() -> str:
        channel = await core.new_channel()
        await core.group_add("group", channel)
        await ready(core)
        await tell(core, channel, "first")
        assert pending(core) == 0
        assert await receive(core, channel) == "first"
        return channel  # by now the layer knows that the database has nothing for this queue

    channel = asyncio.run(without_a_caller())
    send, group_send = async_to_sync(core.send), async_to_sync(core.group_send)
    with contextlib.suppress(Refused), transaction.atomic(using=alias):
        send(channel, {"type": "never"})
        group_send("group", {"type": "never"})
        raise Refused
    with transaction.atomic(using=alias):
        send(channel, {"type": "one"})
        group_send("group", {"type": "two"})
        assert not has_parked(core)
    asyncio.run(tell(core, channel, "three"))
    assert [async_to_sync(receive)(core, channel) for _ in range(3)] == ["one", "two", "three"]


def test_a_transaction_in_memory(monkeypatch: pytest.MonkeyPatch, alias: str) -> None:
    """With Django's database in memory as well, a send belongs to its transaction."""
    monkeypatch.setitem(connections.settings[alias], "NAME", ":memory:")
    layer = SQLiteChannelLayer(database=alias)
    channel = async_to_sync(layer.new_channel)()
    with contextlib.suppress(Refused), transaction.atomic(using=alias):
        async_to_sync(layer.send)(channel, {"type": "never"})
        raise Refused
    async_to_sync(layer.send)(channel, {"type": "end"})
    assert async_to_sync(receive)(layer, channel) == "end"
    async_to_sync(layer.close)()


async def test_a_commit_during_the_look(core_in_loop: SQLiteChannelLayer, alias: str, monkeypatch: Any) -> None:
    """Another thread's transaction that commits while the layer looks whether the queue is empty is not overtaken."""
    layer = await ready(core_in_loop)
    channel = await layer.new_channel()
    original = store.has_live

    def commit() -> None:
        with contextlib.closing(connections[alias]), transaction.atomic(using=alias):
            async_to_sync(layer.send)(channel, {"type": "committed"})

    def look_while_another_commits(*arguments: Any) -> bool:
        found = original(*arguments)
        monkeypatch.setattr(store, "has_live", original)
        thread = threading.Thread(target=commit)
        thread.start()
        thread.join()
        return found

    monkeypatch.setattr(store, "has_live", look_while_another_commits)
    await tell(layer, channel, "meanwhile", "after")
    received = [await receive(layer, channel) for _ in range(3)]
    assert received.index("committed") < received.index("after")


@pytest.fixture
async def core_in_loop(path: str, alias: str) -> AsyncIterator[SQLiteChannelLayer]:
    """A core layer for tests that are coroutines."""
    keep_a_wal(path)
    layer = SQLiteChannelLayer(database=alias)
    yield layer
    await layer.close()
    await sync_to_async(connections.close_all)()


# What the layer knows of the database.


async def test_closed_and_opened_again_where_no_bell_is_heard(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another layer of the process sent while this one was closed comes first, though its version stood still."""
    monkeypatch.setattr(bell, "_listener_class", lambda: None)
    layer, other = await ready(make()), await ready(make())
    channel = await layer.new_channel()
    await tell(layer, channel, "before")
    assert await receive(layer, channel) == "before"
    await layer.close()
    await tell(other, channel, "theirs")
    await tell(layer, channel, "mine")
    assert [await receive(layer, channel) for _ in range(2)] == ["theirs", "mine"]


async def test_new_prefixes_during_a_group_send(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may make channels with a new prefix while a group_send goes through the layer's queues."""
    channel = await (await ready(layer)).new_channel()
    await layer.group_add("group", channel)
    await ready(layer)
    original = layer._is_empty

    def empty_while_another_makes_one(queue: str) -> bool:
        thread = threading.Thread(target=lambda: asyncio.run(layer.new_channel("new")))
        thread.start()
        thread.join()
        return original(queue)

    monkeypatch.setattr(layer, "_is_empty", empty_while_another_makes_one)
    await layer.group_send("group", {"type": "x"})
    assert await receive(layer, channel) == "x"


async def test_eviction_meets_a_lock(make: Make, path: str) -> None:
    """Messages that expired while somebody held the write lock still end their channels' memberships, all of them."""
    layer = await ready(make())
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("group", channel)
        await layer.send(channel, {"type": "x"}, expiry=0.001)
    await asyncio.sleep(0.01)  # they have expired
    await ready(layer)
    memberships = "SELECT count(*) FROM channels_lite_membership"

    def locked(sql: str, parameters: Any) -> Any:
        raise Locked("as the write lock of another process")

    layer.sweep(locked)
    await until(lambda: layer._read_now(lambda execute: execute(memberships, ())[0][0]) == 0)


async def test_what_this_process_sent_by_another_way_comes_before(make: Make) -> None:
    """Order holds beside another layer of the process, which sends through the database, whoever waits or not."""
    layer, other = await ready(make()), await ready(make())
    channel = await layer.new_channel()
    for sender in (layer, other):
        await sender.group_add("group", channel)
    await layer.group_add("wide", channel)
    await layer.group_add("wide", await other.new_channel())
    for waits in (False, True):
        receiving = asyncio.ensure_future(receive_many(layer, channel, 60)) if waits else None
        await asyncio.sleep(0)
        for number in range(60):
            sender = (layer, other)[number * number % 7 in (1, 2, 5)]
            if number % 3 == 0:
                await tell(sender, channel, str(number))
            else:
                await sender.group_send(("group", "wide")[number % 2], {"type": str(number)})
        assert await (receiving or receive_many(layer, channel, 60)) == [str(number) for number in range(60)]


async def receive_many(layer: Layer, channel: str, count: int) -> list[str]:
    """The types of so many messages."""
    return [await receive(layer, channel) for _ in range(count)]


def test_a_transaction_and_then_no_transaction(core: SQLiteChannelLayer, alias: str) -> None:
    """A message whose transaction has committed comes before one that is sent without a caller, again and again."""
    channel = async_to_sync(core.new_channel)()
    for _ in range(3):
        asyncio.run(tell(core, channel, "zero"))
        with transaction.atomic(using=alias):
            async_to_sync(core.send)(channel, {"type": "one"})
        asyncio.run(tell(core, channel, "two"))
        assert asyncio.run(receive_many(core, channel, 3)) == ["zero", "one", "two"]


# Capacity and expiry.


async def test_what_full_own_channels_miss_is_counted(make: Make) -> None:
    """group_send passes full own channels by, counts each, and reaches the others."""
    layer = await ready(make(channel_capacity={"full*": 1, "open*": 2}))
    full, other = await layer.new_channel("full"), await layer.new_channel("open")
    for channel in (full, other):
        await layer.group_add("group", channel)
    await ready(layer)
    await tell(layer, full, "first")
    for _ in range(2):
        await layer.group_send("group", {"type": "x"})
    assert layer.drops.by_reason == {Reason.FULL: 2}
    assert await receive_many(layer, other, 2) == ["x", "x"]
    await layer.group_send("group", {"type": "y"})
    assert await receive(layer, full) == "first"
    assert pending(layer) == 0


@pytest.mark.parametrize(("inboxes", "rows"), [(True, 0), (False, 2)])
async def test_both_ways_share_the_capacity(
    make: Make, monkeypatch: pytest.MonkeyPatch, inboxes: bool, rows: int
) -> None:
    """What is parked, in an inbox and in the database counts together for the layer that the channel belongs to."""
    monkeypatch.setattr(handover, "is_possible", lambda: inboxes)
    layer, other = await ready(make(capacity=3)), await ready(make(capacity=3))
    channel = await layer.new_channel()
    await tell(layer, channel, "zero")
    await tell(other, channel, "one")
    await tell(layer, channel, "two")
    assert pending(layer) == rows
    with pytest.raises(ChannelFull, match=channel):
        await tell(layer, channel, "never")
    assert await receive_many(layer, channel, 3) == ["zero", "one", "two"]
    await tell(layer, channel, "three", "four", "five")
    assert pending(layer) == 0
    with pytest.raises(ChannelFull, match=channel):
        await tell(layer, channel, "never")


async def test_capacity_is_shared_until_somebody_receives(make: Make) -> None:
    """While nobody receives, a group's message takes one place of its queue; the first receiver ends that."""
    layer = await ready(make(capacity=2))
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add("group", channel)
    await ready(layer)
    for _ in range(2):
        await layer.group_send("group", {"type": "x"})
    assert not layer.drops.by_reason
    for channel in (channels[0], await layer.new_channel()):
        with pytest.raises(ChannelFull, match=channel):
            await tell(layer, channel, "never")
    await receive(layer, channels[0])
    await tell(layer, channels[0], "room")
    with pytest.raises(ChannelFull):
        await tell(layer, channels[1], "never")
    assert await receive_many(layer, channels[0], 2) == ["x", "room"]
    assert pending(layer) == 0


async def memberships(layer: Layer, number: int) -> None:
    """Wait until so many memberships are left."""
    sql = "SELECT count(*) FROM channels_lite_membership"
    await until(lambda: layer._read_now(lambda execute: execute(sql, ())[0][0]) == number)


async def expired() -> None:
    """Let a message expire that was sent with SHORT."""
    await asyncio.sleep(2 * SHORT)


SHORT = 0.02  # seconds


async def test_expired_messages_make_room_and_evict(make: Make) -> None:
    """A mailbox full of expired messages has room; the channel on which they expired leaves its groups."""
    layer = await ready(make(capacity=2, auto_trim=False))
    full, sibling = await layer.new_channel(), await layer.new_channel()
    for channel in (full, sibling):
        await layer.group_add("group", channel)
    await ready(layer)
    for _ in range(2):
        await layer.send(full, {"type": "old"}, expiry=SHORT)
    with pytest.raises(ChannelFull):
        await tell(layer, full, "never")
    await expired()
    await tell(layer, full, "new")
    await memberships(layer, 1)
    await layer.group_send("group", {"type": "group"})
    assert await receive(layer, sibling) == "group"
    await tell(layer, full, "end")
    assert await receive_many(layer, full, 2) == ["new", "end"]
    assert not layer.drops.by_reason


async def test_expired_messages_make_room_for_a_groups(make: Make) -> None:
    """A group's message finds room on its own too, whichever of the group's channels was full of expired ones."""
    layer = await ready(make(capacity=1, auto_trim=False))
    full, idle = await layer.new_channel(), await layer.new_channel()
    reader = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await asyncio.sleep(0)
    await layer.send(full, {"type": "old"}, expiry=SHORT)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await expired()
    for channel in (idle, full):
        await layer.group_add("group", channel)
    await ready(layer)
    await layer.group_send("group", {"type": "x"})
    assert [await receive(layer, channel) for channel in (idle, full)] == ["x", "x"]
    assert not layer.drops.by_reason


@pytest.mark.parametrize("waits", [False, True], ids=["late", "waiting at once"])
async def test_a_receiver_that_meets_an_expired_message(make: Make, waits: bool) -> None:
    """receive() passes expired messages by and takes the channel out of its groups."""
    layer = await ready(make(auto_trim=False))
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.send(channel, {"type": "old"}, expiry=SHORT)
    await expired()
    if not waits:
        await tell(layer, channel, "new")
        assert await receive(layer, channel) == "new"
    else:
        receiving = asyncio.ensure_future(layer.receive(channel))
        await memberships(layer, 0)
        await tell(layer, channel, "new")
        assert (await asyncio.wait_for(receiving, PATIENCE))["type"] == "new"
    await memberships(layer, 0)


# The rest of a channel's life.


async def test_flush_throws_parked_messages_away(make: Make) -> None:
    """flush() by any layer of the process and prefix; afterwards there is all room again, and sends work as before."""
    layer, other, apart = await ready(make(capacity=1)), await ready(make()), await ready(make(prefix="apart"))
    for flushing in (layer, other):
        channel, far = await layer.new_channel(), await apart.new_channel()
        await tell(layer, channel, "gone")
        await tell(apart, far, "stays")
        assert pending(layer) == 0
        await flushing.flush()
        assert not has_parked(layer)
        await tell(layer, channel, "after")
        assert await receive(layer, channel) == "after"
        assert await receive(apart, far) == "stays"


async def test_cancelled_receivers_keep_the_order(layer: Layer) -> None:
    """Messages that were handed to receivers who are cancelled before they run come back in front, in order."""
    channel = await (await ready(layer)).new_channel()
    receiving = [asyncio.ensure_future(layer.receive(channel)) for _ in range(3)]
    await asyncio.sleep(0)
    await tell(layer, channel, *"abcde")
    for task in reversed(receiving):
        task.cancel()
    await asyncio.gather(*receiving, return_exceptions=True)
    await tell(layer, channel, "f")
    assert sorted(await receive_many(layer, channel, 6)) == list("abcdef")
    task = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    await tell(layer, channel, *"abc")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await tell(layer, channel, "d")
    assert await receive_many(layer, channel, 4) == list("abcd")
    assert pending(layer) == 0


def test_two_loops(path: str) -> None:
    """A message that is sent in one loop wakes a receiver in another; what is parked waits for any loop."""
    layer = AIOSQLiteChannelLayer(path=path)
    channel = asyncio.run(layer.new_channel())
    heard: list[str] = []

    async def hear() -> None:
        heard.extend(await receive_many(layer, channel, 100))

    thread = threading.Thread(target=asyncio.run, args=(hear(),))
    thread.start()

    async def send() -> None:
        await until(lambda: layer._mailboxes.queues() > 0)
        for number in range(100):
            await tell(layer, channel, str(number))
        assert pending(layer) == 0

    asyncio.run(send())
    thread.join(PATIENCE)
    assert heard == [str(number) for number in range(100)]
    asyncio.run(tell(layer, channel, "parked"))
    assert asyncio.run(receive(layer, channel)) == "parked"
    asyncio.run(layer.close())


async def test_closed_and_opened_again(layer: Layer) -> None:
    """What is parked outlives close(), and messages that come after it come after it."""
    channel = await (await ready(layer)).new_channel()
    await tell(layer, channel, "before")
    assert pending(layer) == 0
    await layer.close()
    await tell(layer, channel, "after")
    await layer.close()
    assert await receive_many(layer, channel, 2) == ["before", "after"]


async def test_a_stranger_that_rings_no_bell(path: str) -> None:
    """Rows of a program that rings no bell may come late, but each comes once, as do the messages around them."""
    layer = AIOSQLiteChannelLayer(path=path)
    channel = await (await ready(layer)).new_channel()
    queue, _, local = channel.partition("!")
    await tell(layer, channel, "0")
    stranger = apsw.Connection(path)
    for number in range(1, 20):
        if number % 2:
            stranger.execute(
                "INSERT INTO channels_lite_message (prefix, queue, targets, payload, expires_at) "
                "VALUES ('', ?, json_array(?), ?, 9999999999999)",
                (f"{queue}!", local, msgspec.msgpack.encode({"type": str(number)})),
            )
        else:
            await tell(layer, channel, str(number))
    stranger.close()
    assert sorted(await receive_many(layer, channel, 20), key=int) == [str(number) for number in range(20)]
    await tell(layer, channel, "end")
    assert await receive(layer, channel) == "end"
    await layer.close()
    await asyncio.sleep(0)


async def test_many_prefixes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prefixes new_channel() is given, the layer remembers few; groups reach all, and the order holds."""
    monkeypatch.setattr(handover, "ADDRESSES", 10)
    layer = make()
    channels = [await layer.new_channel(f"x{number}") for number in range(30)]
    for channel in channels:
        await layer.group_add("g", channel)
    for kind in ("a", "c"):
        await layer.group_send("g", {"type": kind})
        for channel in channels:
            await layer.send(channel, {"type": chr(ord(kind) + 1)})
    assert len(layer._queues_here) <= store.FEW
    assert len(layer._empty) <= handover.ADDRESSES
    for channel in channels:
        assert [await receive(layer, channel) for _ in range(4)] == ["a", "b", "c", "d"]


def test_a_flush_that_is_rolled_back(core: SQLiteChannelLayer, alias: str) -> None:
    """A flush in a transaction throws parked messages away when that commits, and not when it is rolled back."""

    async def park() -> str:
        await ready(core)
        channel = await core.new_channel()
        await core.send(channel, {"type": "x"})
        return channel

    channel = asyncio.run(park())
    assert has_parked(core)
    with contextlib.suppress(Refused), transaction.atomic(alias):
        async_to_sync(core.flush)()
        raise Refused
    assert asyncio.run(receive(core, channel)) == "x"
    asyncio.run(park())
    with transaction.atomic(alias):
        async_to_sync(core.flush)()
    assert not has_parked(core)


async def test_a_burst_to_channels_that_are_received_from(make: Make) -> None:
    """Channels whose receivers were served and have not come back yet have a limit each, and not one together."""
    layer = make(capacity=10)
    channels = [await layer.new_channel() for _ in range(20)]
    receiving = [asyncio.create_task(layer.receive(channel)) for channel in channels]
    await until(lambda: layer._mailboxes.waiting() != {} and len(layer._mailboxes._waiters) == 20)
    for channel in channels:
        for number in range(3):
            await layer.send(channel, {"number": number})
    assert [(await task)["number"] for task in receiving] == [0] * 20
    for channel in channels:
        assert [(await layer.receive(channel))["number"] for _ in range(2)] == [1, 2]


# From layer to layer, through inboxes. Two layers of one process are to each other as those of two processes.


class Two(NamedTuple):
    """A layer with a channel, and another layer that sends to it."""

    layer: Layer
    channel: str
    other: Layer

    def stranger(self) -> Outbox:
        """The way into the layer's inbox for whoever has the rights to it."""
        assert self.other._outboxes is not None
        outbox = self.other._outboxes.find(f"{self.channel.partition('!')[0]}!")
        assert outbox is not None
        return outbox


@pytest.fixture
async def two(make: Make) -> Two:
    """Both are open."""
    layer, other = await ready(make(capacity=20)), await ready(make(capacity=20))
    return Two(layer, await layer.new_channel(), other)


def is_empty(layer: Layer, group: str) -> bool:
    """Whether a group has no member; False also while that cannot be asked."""
    return layer._read_now(store.queues_of_group, "", group, 1) == []


@pytest.mark.parametrize("waits", [False, True], ids=["nobody waits", "somebody waits"])
async def test_what_strangers_put_into_an_inbox(two: Two, waits: bool) -> None:
    """It is dropped and counted, harms nothing, and the next message arrives."""
    queue = f"{two.channel.partition('!')[0]}!"
    receiving = asyncio.ensure_future(receive(two.layer, two.channel)) if waits else None
    await asyncio.sleep(0)
    strange = {
        b"": Reason.UNDECODABLE,
        b"what?": Reason.UNDECODABLE,
        bytes(100): None,  # a flush of another prefix
        b"\xff" * 100: Reason.UNDECODABLE,
        pack(Handed("jobs", b'["x"]', b"", 2**62)): Reason.NO_TARGET,
        pack(Handed("other.0!", b'["x"]', b"", 2**62)): Reason.NO_TARGET,
        pack(Handed(queue, b"no names", b"", 2**62)): Reason.NO_TARGET,
        pack(Handed(queue, b'{"a": 1}', b"", 2**62)): Reason.NO_TARGET,
        pack(Handed(queue, b"[1]", b"", 2**62)): Reason.NO_TARGET,
        pack(Handed(queue, b"[]", b"", 2**62)): None,
    }
    for datagram in strange:
        assert two.stranger().send(datagram)
    await tell(two.other, two.channel, "whole")
    assert await (receiving or receive(two.layer, two.channel)) == "whole"
    assert two.layer.drops.by_reason == Counter(filter(None, strange.values()))


async def test_a_payload_that_cannot_be_decoded(two: Two) -> None:
    """It is dropped when it is received, as one of a row is."""
    queue, _, local = two.channel.partition("!")
    two.stranger().send(pack(Handed(f"{queue}!", f'["{local}"]'.encode(), b"\xc1", 2**62)))
    await tell(two.other, two.channel, "whole")
    assert await receive(two.layer, two.channel) == "whole"
    assert two.layer.drops.by_reason == {Reason.UNDECODABLE: 1}


async def test_a_message_that_expires_in_an_inbox(two: Two) -> None:
    """It is not delivered, and takes its channel out of its groups."""
    await two.other.group_add("group", two.channel)
    await two.other.send(two.channel, {"type": "late"}, expiry=0.01)
    late = clock.now() + 10
    await until(lambda: clock.now() > late)
    assert two.layer._inbox is not None
    assert two.layer._inbox.is_behind
    await tell(two.other, two.channel, "in time")
    assert await receive(two.layer, two.channel) == "in time"
    await until(lambda: is_empty(two.layer, "group"))


async def test_the_keeper_takes_in_what_no_loop_does(two: Two) -> None:
    """A layer that has ever received nothing has its expired messages removed all the same."""
    await two.other.group_add("group", two.channel)
    await two.other.send(two.channel, {"type": "late"}, expiry=0.01)
    late = clock.now() + 10
    await until(lambda: clock.now() > late)
    swept = threading.Event()
    database = await two.layer._ready()
    database.keeper.ask(lambda execute: (two.layer.sweep(execute), swept.set()))
    await until(swept.is_set)
    await until(lambda: is_empty(two.layer, "group"))
    assert not has_parked(two.layer)


async def test_a_sender_that_was_killed_in_the_middle(two: Two) -> None:
    """What it had counted and did not send is forgotten, though nobody sends or receives any more."""
    two.stranger().page.count(ANY)
    assert two.layer._inbox is not None
    assert two.layer._inbox.is_behind
    two.layer.sweep(lambda sql, parameters: [])
    assert two.layer._inbox.is_at_rest
    assert two.stranger().page.held("any", None) == 0


@pytest.mark.parametrize("end", ["close", "flush", "row"])
async def test_a_message_behind_a_strangers(two: Two, end: str) -> None:
    """It is delivered when the layer closes, gone with a flush, and comes before what is sent as a row."""
    two.stranger()._socket.send(b"what?")
    await tell(two.other, two.channel, "first")
    if end == "close":
        await two.layer.close()
        assert await receive(two.layer, two.channel) == "first"
    elif end == "flush":
        await two.layer.flush()
        await tell(two.layer, two.channel, "after")
        assert await receive(two.layer, two.channel) == "after"
    else:
        await tell(two.other, two.channel, "x" * 100_000)
        assert [len(text) for text in await receive_many(two.layer, two.channel, 2)] == [5, 100_000]


async def test_a_slow_receiver_is_full_for_everybody(two: Two) -> None:
    """Exactly at its capacity, wherever its messages are; its siblings are not, and afterwards it has room again."""
    sibling = await two.layer.new_channel()
    words = [str(number) for number in range(20)]
    for _ in range(3):
        for word in words:
            await tell(two.other, two.channel, word)
            await tell(two.other, sibling, word)
            assert await receive(two.layer, sibling) == word
        for sender in (two.other, two.layer):
            with pytest.raises(ChannelFull, match=two.channel):
                await tell(sender, two.channel, "never")
        await tell(two.other, sibling, "room")
        assert await receive(two.layer, sibling) == "room"
        assert await receive_many(two.layer, two.channel, 20) == words
    assert not two.layer.drops.by_reason


async def test_a_group_with_a_full_member_elsewhere(two: Two) -> None:
    """The others have its messages, however many more these are than it takes."""
    siblings = [await two.layer.new_channel() for _ in range(10)]
    for channel in (two.channel, *siblings):
        await two.layer.group_add("group", channel)
    for number in range(60):
        await two.other.group_send("group", {"type": str(number)})
        for sibling in siblings:
            assert await receive(two.layer, sibling) == str(number)
    received = await receive_many(two.layer, two.channel, 20)
    assert received == [str(number) for number in range(20)]


async def test_a_group_in_a_process_that_receives_nothing(two: Two) -> None:
    """What does not fit is skipped, and counted where it came from."""
    await two.layer.group_add("group", two.channel)
    for number in range(25):
        await two.other.group_send("group", {"type": str(number)})
    assert two.other.drops.by_reason == {Reason.FULL: 5}
    assert await receive_many(two.layer, two.channel, 20) == [str(number) for number in range(20)]


@pytest.mark.parametrize("which", ["is_possible", "Inbox"])
async def test_without_inboxes(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """Where there are none, or none can be made, all goes through the database."""
    caplog.set_level("INFO", "channels_lite.inbox")

    def fails(*arguments: Any) -> None:
        raise PermissionError("no rights")

    monkeypatch.setattr(handover, which, fails if which == "Inbox" else lambda: False)
    layer, other = await ready(make()), await ready(make())
    channel = await layer.new_channel()
    await other.group_add("group", channel)
    await tell(other, channel, "direct")
    await other.group_send("group", {"type": "group"})
    assert pending(layer) == 2
    assert await receive_many(layer, channel, 2) == ["direct", "group"]
    assert ("There is no inbox" in caplog.text) == (which == "Inbox")


async def test_flush_between_layers(two: Two, make: Make) -> None:
    """What is on its way when a layer is flushed is gone, and what another prefix has stays."""
    apart, sender = await ready(make(prefix="apart")), await ready(make(prefix="apart"))
    theirs = await apart.new_channel()
    await tell(sender, theirs, "stays")
    await tell(two.other, two.channel, "goes")
    await two.other.flush()
    await tell(two.other, two.channel, "after")
    assert await receive(two.layer, two.channel) == "after"
    assert await receive(apart, theirs) == "stays"


async def test_a_layer_that_is_closed_and_opened_again(two: Two) -> None:
    """What was in its inbox is not lost, what is sent meanwhile neither, and the order holds."""
    await tell(two.other, two.channel, "before")
    await two.layer.close()
    await tell(two.other, two.channel, "meanwhile")
    await ready(two.layer)
    await tell(two.other, two.channel, "after")
    assert await receive_many(two.layer, two.channel, 3) == ["before", "meanwhile", "after"]


async def test_a_layer_that_nobody_has_any_more(path: str) -> None:
    """Its inbox is gone with it."""
    layer = await ready(AIOSQLiteChannelLayer(path=path))
    assert set(layer.inboxes()) <= set(os.listdir(folder_of(path)))
    del layer
    assert os.listdir(folder_of(path)) == []


@pytest.mark.parametrize("capacity", [1, 2, 5, 20])
@pytest.mark.parametrize("waits", [False, True], ids=["nobody waits", "somebody waits"])
async def test_room_that_comes_back(make: Make, capacity: int, waits: bool) -> None:
    """A channel that was full takes as many messages again as are received, whether one or all of them."""
    layer, other = await ready(make(capacity=capacity)), await ready(make(capacity=capacity))
    channel = await layer.new_channel()
    for _ in range(3):
        if waits:
            receiving = asyncio.ensure_future(receive(layer, channel))
            await asyncio.sleep(0)
            await tell(other, channel, "awaited")
            assert await receiving == "awaited"
        await tell(other, channel, *map(str, range(capacity)))
        with pytest.raises(ChannelFull):
            await tell(other, channel, "never")
        assert await receive(layer, channel) == "0"
        await tell(other, channel, "one more")
        with pytest.raises(ChannelFull):
            await tell(other, channel, "never")
        assert await receive_many(layer, channel, capacity) == [*map(str, range(1, capacity)), "one more"]


async def test_room_that_comes_back_by_expiry(make: Make) -> None:
    """What has expired in a mailbox takes no room."""
    layer, other = await ready(make(capacity=3)), await ready(make(capacity=3))
    channel = await layer.new_channel()
    for _ in range(3):
        await other.send(channel, {"type": "late"}, expiry=0.05)
    late = clock.now() + 50
    with pytest.raises(ChannelFull):
        await tell(other, channel, "never")
    await until(lambda: clock.now() > late)
    layer.sweep(lambda sql, parameters: [])
    await tell(other, channel, "a", "b", "c")
    assert await receive_many(layer, channel, 3) == ["a", "b", "c"]


async def test_room_that_comes_back_by_a_flush(two: Two) -> None:
    """After a flush there is room for as much as ever."""
    for _ in range(3):
        await tell(two.other, two.channel, *"abcdefghijklmnopqrst")
        with pytest.raises(ChannelFull):
            await tell(two.other, two.channel, "never")
        await two.other.flush()
    await tell(two.other, two.channel, "after")
    assert await receive(two.layer, two.channel) == "after"


async def test_a_sweep_goes_on_without_the_folder(two: Two, path: str) -> None:
    """Somebody has removed the folder of the inboxes: what expires goes away all the same."""
    await two.other.send(two.channel, {"type": "late"}, expiry=0.01)
    late = clock.now() + 10
    shutil.rmtree(folder_of(path))
    await until(lambda: clock.now() > late)
    two.layer.sweep(lambda sql, parameters: [])
    assert not has_parked(two.layer)


async def test_rows_that_come_while_a_claim_stands_still(two: Two, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that others send meanwhile is taken out too early, and a flush takes nothing that comes after it."""
    queue = f"{two.channel.partition('!')[0]}!"
    await two.other.send(two.channel, {"type": "row", "text": "x" * 100_000})
    original, locked = store._claim_queue, []

    def claim(execute: Any, prefix: str, name: str, before: Callable[[], object], *more: Any) -> Any:
        def stand_still() -> None:
            if name == queue and not locked:
                stranger = (sqlite3.connect if isinstance(two.layer, SQLiteChannelLayer) else apsw.Connection)(path)
                stranger.execute("PRAGMA busy_timeout = 0")
                with pytest.raises((sqlite3.OperationalError, apsw.BusyError)):
                    stranger.execute("BEGIN IMMEDIATE")
                stranger.close()
                locked.append(True)
            before()

        return original(execute, prefix, name, stand_still, *more)

    monkeypatch.setattr(store, "_claim_queue", claim)
    assert await receive(two.layer, two.channel) == "row"
    assert locked


async def test_two_loops_and_a_group(path: str) -> None:
    """A receiver in one loop does not wait for another loop that stands still."""
    layer = await ready(AIOSQLiteChannelLayer(path=path))
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add("group", channel)
    still = asyncio.new_event_loop()

    async def begin() -> "asyncio.Task[str]":
        return asyncio.ensure_future(receive(layer, channels[0]))

    waiting_there = await asyncio.to_thread(still.run_until_complete, begin())
    await asyncio.to_thread(still.run_until_complete, asyncio.sleep(0))
    receiving = asyncio.ensure_future(receive(layer, channels[1]))
    await asyncio.sleep(0)
    await layer.group_send("group", {"type": "x"})
    assert await receiving == "x"
    assert await asyncio.to_thread(still.run_until_complete, waiting_there) == "x"
    await layer.close()
    await asyncio.to_thread(still.run_until_complete, asyncio.sleep(0))
    still.close()
    await asyncio.sleep(0)


async def test_many_channels_and_a_full_one(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """One full channel does not make the layer look through all mailboxes at each call."""
    channel, waits = await two.layer.new_channel(), await two.layer.new_channel()
    (receiving,) = await waiting(two.layer, [waits])
    await tell(two.other, two.channel, *"abcdefghijklmnopqrst")
    await until(lambda: two.layer._mailboxes.held(two.channel, "") == 20)
    looks = []
    original = two.layer._mailboxes.rank
    monkeypatch.setattr(two.layer._mailboxes, "rank", lambda: looks.append(True) or original())
    for sender in (two.layer, two.other) * 10:
        await tell(sender, channel, "y")
        assert await receive(two.layer, channel) == "y"
    assert len(looks) <= 4
    await tell(two.other, waits, "end")
    assert await receiving == ["end"]


# A group's message is handed over in turns, and to those who were members when it was sent.


@pytest.fixture
async def group(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five members of a group, one of whom gets a message in each turn."""
    monkeypatch.setattr(groups, "TURN", 1)
    channels = [await (await ready(layer)).new_channel() for _ in range(5)]
    for channel in channels:
        await layer.group_add("group", channel)
    await ready(layer)
    return channels


async def waiting(layer: Layer, channels: list[str], count: int = 1) -> "list[asyncio.Task[list[str]]]":
    """A task for each channel that waits for so many messages by now."""
    tasks = [asyncio.ensure_future(receive_many(layer, channel, count)) for channel in channels]
    await until(lambda: sum(map(len, layer._mailboxes._waiters.values())) == len(channels))
    await ready(layer)
    return tasks


async def test_others_have_their_turn(layer: Layer, group: list[str]) -> None:
    """While a large group gets its message, the loop does other things as well."""
    tasks = await waiting(layer, group)
    await layer.group_send("group", {"type": "x"})
    seen = []
    while not all(task.done() for task in tasks):
        seen.append(sum(task.done() for task in tasks))
        await asyncio.sleep(0)
    assert set(seen) >= {1, 2, 3, 4}
    assert [await task for task in tasks] == [["x"]] * 5


async def test_what_is_sent_meanwhile_comes_after(make: Make, layer: Layer, group: list[str]) -> None:
    """Whoever sends it, and however."""
    other = await ready(make())
    tasks = await waiting(layer, group, 5)
    await layer.group_send("group", {"type": "a"})
    await layer.group_send("group", {"type": "b"})
    for channel in group:
        await tell(layer, channel, "c")
    await layer.group_send("group", {"type": "d"})
    await other.group_send("group", {"type": "e"})
    assert [await task for task in tasks] == [list("abcde")] * 5


async def test_members_are_those_of_the_moment(layer: Layer, group: list[str]) -> None:
    """Who leaves afterwards has the message, and who comes afterwards has not."""
    new = await layer.new_channel()
    tasks = await waiting(layer, group)
    await layer.group_send("group", {"type": "x"})
    await layer.group_discard("group", group[-1])
    await layer.group_add("group", new)
    assert [await task for task in tasks] == [["x"]] * 5
    await tell(layer, new, "first")
    assert await receive(layer, new) == "first"


async def test_closing_at_once(layer: Layer, group: list[str]) -> None:
    """Who waits has the message all the same."""
    tasks = await waiting(layer, group)
    await layer.group_send("group", {"type": "x"})
    await layer.close()
    assert [await task for task in tasks] == [["x"]] * 5


async def test_a_flush_at_once(layer: Layer, group: list[str]) -> None:
    """Who does not have the message yet does not get it."""
    tasks = await waiting(layer, group)
    await layer.group_send("group", {"type": "x"})
    layer.forget("")
    await ready(layer)
    for channel in group:
        await tell(layer, channel, "after")
    assert {(await task)[0] for task in tasks} <= {"x", "after"}


async def test_many_messages_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that never lets anybody else run fills the members' mailboxes, and no more."""
    monkeypatch.setattr(groups, "TURN", 3)
    layer = await ready(make(capacity=10))
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    (task,) = await waiting(layer, [channel], 11)
    for number in range(20):
        await layer.group_send("group", {"type": str(number)})
    assert len(layer._owed) <= 4
    assert await task == [str(number) for number in range(11)]
    assert layer.drops.by_reason == {Reason.FULL: 9}


def test_a_loop_that_is_closed_before_its_turn(path: str) -> None:
    """Its receivers are gone; the message waits for the next one."""
    layer = AIOSQLiteChannelLayer(path=path)

    async def send() -> str:
        channel = await (await ready(layer)).new_channel()
        await layer.group_add("group", channel)
        await waiting(layer, [channel])
        await layer.group_send("group", {"type": "x"})
        return channel

    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(send())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def receive_and_close() -> None:
        assert await receive(layer, channel) == "x"
        await layer.close()
        await asyncio.sleep(0)

    asyncio.run(receive_and_close())


async def test_members_of_a_group_are_not_out_of_date(make: Make, layer: Layer, group: list[str], path: str) -> None:
    """However a group changes, the next message goes to its members."""
    other = await ready(make())
    mine, theirs = group[0], await other.new_channel()

    async def members() -> set[str]:
        await ready(layer)
        await layer.group_send("group", {"type": "x"})
        everybody = [(layer, channel) for channel in group] + [(other, theirs)]
        for owner, channel in everybody:
            await tell(owner, channel, "end")
        return {channel for owner, channel in everybody if await receive_all(owner, channel) == ["x", "end"]}

    assert await members() == set(group)
    await other.group_add("group", theirs)
    assert await members() == {*group, theirs}
    await layer.group_discard("group", mine)
    assert await members() == {*group[1:], theirs}
    await other.group_add("group", mine)
    assert await members() == {*group, theirs}
    stranger = sqlite3.connect if isinstance(layer, SQLiteChannelLayer) else apsw.Connection
    with contextlib.closing(stranger(path)) as connection:
        connection.execute(
            f"UPDATE channels_lite_membership SET expires_at = 0 WHERE local = '{mine.partition('!')[2]}'"
        )
        if isinstance(connection, sqlite3.Connection):
            connection.commit()
    assert await members() == {*group[1:], theirs}
    await layer.clean_expired()
    assert await members() == {*group[1:], theirs}
    await other.flush()
    assert await members() == set()


async def receive_all(layer: Layer, channel: str) -> list[str]:
    """The messages of a channel up to the one that says it is the last."""
    words = [await receive(layer, channel)]
    while words[-1] != "end":
        words.append(await receive(layer, channel))
    return words


async def test_memberships_that_expire(make: Make) -> None:
    """They end at their time, whatever the layer remembers of the group."""
    layer = await ready(make(group_expiry=1))
    short, long = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", short)
    late = clock.now() + 1000
    await until(lambda: clock.now() > late - 500)
    await layer.group_add("group", long)
    await layer.group_send("group", {"type": "both"})
    assert [await receive(layer, channel) for channel in (short, long)] == ["both", "both"]
    await until(lambda: clock.now() > late)
    await layer.group_send("group", {"type": "one"})
    await tell(layer, short, "end")
    assert await receive(layer, long) == "one"
    assert await receive(layer, short) == "end"
