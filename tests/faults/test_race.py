"""What happens at the same moment in several processes: joining and sending, leaving and sending, filling a channel."""

import asyncio
import contextlib
import json
import signal
from collections import Counter

import apsw
import pytest
from channels.exceptions import ChannelFull

from channels_lite import inbox, store
from channels_lite.apsw_database import Write
from channels_lite.drops import Reason
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.outbox import Outboxes
from channels_lite.page import Rows
from tests.faults.log import Event
from tests.patience import PATIENCE, until

with_inboxes = pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")

CAPACITY = 20
SENDERS = 4  # processes


async def test_who_has_joined_gets_the_first_message(cast):
    """A message that is sent to a group as soon as group_add() has returned reaches the newcomer, in each process."""
    rounds = 150
    ushers = [await cast.start({"do": "usher", "count": 2 * rounds}) for _ in range(2)]
    newcomer = {"do": "newcomer", "group": "all", "count": rounds}
    for _ in range(2):
        await cast.start(newcomer, {**newcomer, "group": "other"})
    await cast.until(lambda: len(cast.records(Event.OK)) == 4 * rounds)
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert len(cast.records(Event.JOINED)) == 4 * rounds
    assert len({record.process for record in cast.records(Event.OK)}) == len(ushers)


async def test_leaving_while_others_send(cast):
    """Members come and go while two processes send: who is there gets it, and who has left does not."""
    own = {"do": "own", "groups": ["all", "other"], "count": 3}
    await cast.start(own, {**own, "churn": 0.003})
    await cast.start({**own, "churn": 0.001})
    send = {"do": "send", "channels": ["all", "other"], "count": 500, "group": True, "pause": 0.001}
    for _ in range(2):
        await cast.start(send)
    await cast.until(lambda: len(cast.records(Event.OK)) == 2000)
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert len(cast.records(Event.LEFT)) > 100


HOARDS = {
    "normal": None,
    "nobody has received": {"do": "hoard"},
    "somebody has": {"do": "hoard", "ask": True},
    "its process sends, too": {"do": "hoard", "fill": True},
    "both": {"do": "hoard", "ask": True, "fill": True},
}


@pytest.mark.parametrize("kind", HOARDS)
async def test_filling_a_channel_at_once(cast, kind):
    """However many send to it from however many processes, it takes its capacity and no more, and refuses the rest."""
    await cast.start(*[HOARDS[kind]] * (kind != "normal"), capacity=CAPACITY)
    channel = "jobs" if kind == "normal" else (await cast.made(1))[0]
    send = {"do": "send", "channels": [channel], "count": 40}
    crowd = await cast.start(send, send, {**send, "size": 70_000, "count": 5}, crowd=SENDERS, capacity=CAPACITY)
    assert await crowd.line() == "stopped"
    results = [record for record in cast.records() if record.event in (Event.OK, Event.FAILED)]
    accepted = [record for record in results if record.event is Event.OK]
    assert {record.detail for record in results if record.event is Event.FAILED} == {"ChannelFull"}
    assert len(accepted) == CAPACITY
    assert len(results) - len(accepted) >= SENDERS * 85 - CAPACITY


async def test_filling_several_channels_of_a_process_at_once(cast):
    """Each takes its capacity and no more, while its process waits on another one and sends to them, too."""
    hoard = {"do": "hoard", "ask": True, "fill": True, "pause": 0.01}
    await cast.start(hoard, hoard, hoard, {"do": "own", "groups": ["all"]}, capacity=CAPACITY)
    await cast.until(lambda: cast.records(Event.JOINED))
    read = {record.channel for record in cast.records(Event.JOINED)}
    channels = [channel for channel in await cast.made(4) if channel not in read]
    send = {"do": "send", "channels": channels, "count": 500, "pause": 0.001}
    crowd = await cast.start(send, {**send, "size": 70_000}, crowd=SENDERS, capacity=CAPACITY)
    assert await crowd.line() == "stopped"
    accepted = Counter(record.channel for record in cast.records(Event.OK))
    assert accepted == dict.fromkeys(channels, CAPACITY)


@pytest.fixture
async def layers(make_layer):
    """Two layers that hand over to each other, as two processes do."""
    pair = [make_layer(capacity=CAPACITY, auto_trim=False, polling_interval=0.05) for _ in range(2)]
    for layer in pair:
        await layer.group_discard("nothing", "nobody")
    return pair


async def fill(layer: AIOSQLiteChannelLayer, channel: str, expiry: float | None = None) -> int:
    """Send until the channel is full: how many messages it took."""
    number = 0
    with contextlib.suppress(ChannelFull):
        while True:
            await layer.send(channel, {"type": "x", "number": number}, expiry=expiry)
            number += 1
    return number


@pytest.mark.parametrize("specific", [False, True], ids=["normal", "specific"])
async def test_a_receiver_that_was_just_cancelled_takes_no_room(layers, specific):
    """Before it has noticed that, a message goes to who comes later, and the channel takes its capacity."""
    layer, _ = layers
    channel = await layer.new_channel() if specific else "jobs"
    task = asyncio.ensure_future(layer.receive(channel))
    await until(lambda: layer._mailboxes.queues() == 1)
    task.cancel()
    assert await fill(layer, channel) == CAPACITY
    with pytest.raises(asyncio.CancelledError):
        await task
    numbers = [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["number"] for _ in range(CAPACITY)]
    assert numbers == list(range(CAPACITY))


@with_inboxes
async def test_what_has_expired_in_memory_takes_no_room(layers):
    """A channel full of expired messages takes new ones from another process, though its process waits on others."""
    layer, other = layers
    full, sibling = await layer.new_channel(), await layer.new_channel()
    waiting = asyncio.ensure_future(layer.receive(sibling))
    await until(lambda: layer._mailboxes.queues() == 1)
    assert await fill(other, full, expiry=0.2) == CAPACITY
    await until(lambda: layer._mailboxes.held(full, full.partition("!")[0] + "!") == 0)
    assert await fill(other, full) == CAPACITY
    await other.send(sibling, {"type": "end"})
    assert (await asyncio.wait_for(waiting, PATIENCE))["type"] == "end"


LARGE = {"type": "x", "text": "x" * 70_000}  # too large to be handed over: it becomes a row


async def pending(layer, channel) -> int:
    """Receive all that is there."""
    number = 0
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(layer.receive(channel), 0.3)
            number += 1
    return number


async def test_each_full_channel_refuses(layers):
    """Of several channels of a process that others have filled, each takes its capacity, by whatever way."""
    layer, other = layers
    channels = [await layer.new_channel() for _ in range(3)]
    waiting = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await until(lambda: layer._mailboxes.queues() == 1)

    async def send_to_all(message) -> Counter[str]:
        accepted = Counter()
        for channel in channels:
            with contextlib.suppress(ChannelFull):
                await other.send(channel, message)
                accepted[channel] += 1
        queue = channels[0].partition("!")[0] + "!"
        await until(lambda: not layer._database.read(store.has_live, "", queue))
        return accepted

    for message in ({"type": "x"}, LARGE):
        for _ in range(CAPACITY):
            assert await send_to_all(message) == dict.fromkeys(channels, 1)
        for another in ({"type": "x"}, LARGE):
            assert await send_to_all(another) == {}
        assert [await pending(layer, channel) for channel in channels] == [CAPACITY] * 3
    waiting.cancel()


async def test_a_message_waits_for_a_lock_while_its_channel_is_filled(layers, path):
    """It counts what is there when it goes in, and not when send() was called."""
    layer, other = layers
    channel = await layer.new_channel()
    locker = apsw.Connection(path)
    locker.execute("BEGIN IMMEDIATE")
    late = [asyncio.ensure_future(other.send(channel, LARGE)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await fill(layer, channel) == CAPACITY
    locker.close()
    results = await asyncio.gather(*late, return_exceptions=True)
    assert [type(result) for result in results] == [ChannelFull] * 3
    assert await pending(layer, channel) == CAPACITY


@with_inboxes
async def test_a_row_goes_in_while_its_process_sends(layers, monkeypatch):
    """The owner has looked for rows, and then one is committed: what it has put into the mailbox is taken back."""
    layer, other = layers
    channel = await layer.new_channel()
    queue, _, local = channel.rpartition("!")
    for number in range(CAPACITY - 1):
        await layer.send(channel, {"type": "x", "number": number})
    original, rows = layer._is_first_in, []

    def then_a_row(name: str, quiet: int) -> bool:
        answer = original(name, quiet)
        if not rows:
            payload = other._codec.encode({"type": "row"}, 60)
            row = (f"{queue}!", json.dumps([local]), payload, id(other), channel, False, 60_000)
            rows.append(other._database.send("", Write(store.send, ("", *row))))
        return answer

    monkeypatch.setattr(layer, "_is_first_in", then_a_row)
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "late"})
    assert rows
    received = [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] for _ in range(CAPACITY)]
    assert received == ["x"] * (CAPACITY - 1) + ["row"]
    assert await pending(layer, channel) == 0


@with_inboxes
async def test_the_owner_sends_while_a_row_is_on_its_way(layers, path):
    """It sends a row, too, as that one may fill the channel; where its sender was killed, it goes on as before."""
    layer, other = layers
    channel = await layer.new_channel()
    queue = channel.partition("!")[0] + "!"
    page = other._outboxes.find(queue).page
    locker = apsw.Connection(path)
    locker.execute("BEGIN IMMEDIATE")
    locked = page.begin_row()
    sending = asyncio.ensure_future(layer.send(channel, {"type": "row"}))
    await asyncio.sleep(0)
    assert not layer._mailboxes.held(channel, queue)
    locker.close()
    page.end_row(locked)
    await sending
    assert layer._database.read(store.has_live, "", queue)
    assert (await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] == "row"
    page.begin_row()
    page.release()  # as the system does
    await until(lambda: layer._quiet() is not None)
    for sender in (layer, other):
        await sender.send(channel, {"type": "handed over"})
        assert not layer._database.read(store.has_live, "", queue)
    assert await pending(layer, channel) == 2


@with_inboxes
async def test_others_send_while_rows_are_claimed(layers, monkeypatch):
    """Rows that have left the database and are in no mailbox yet are not forgotten."""
    layer, other = layers
    channel = await layer.new_channel()
    for _ in range(CAPACITY):
        await other.send(channel, LARGE)
    original, results = layer._deliver, []

    def deliver(queue, targets, *rest):
        results.append(other._send_direct(queue, targets, b"{}", 60_000))
        rows = Rows()
        results.append(other._room(channel, False, rows))
        rows.end()
        return original(queue, targets, *rest)

    monkeypatch.setattr(layer, "_deliver", deliver)
    waiting = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await until(lambda: len(results) == 2 * CAPACITY)
    assert results == [False, 0] * CAPACITY
    monkeypatch.setattr(layer, "_deliver", original)
    assert await fill(other, channel) == 0
    assert await pending(layer, channel) == CAPACITY
    waiting.cancel()


@with_inboxes
async def test_a_row_whose_bell_has_not_been_rung(layers, path):
    """Between its commit and the bell, what others hand over already counts it, and comes after it."""
    layer, other = layers
    channel = await layer.new_channel()
    queue, _, local = channel.rpartition("!")
    for sender in layers:  # both know now that no row is there
        await sender.send(channel, {"type": "before"})
        assert (await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] == "before"
    page = other._outboxes.find(f"{queue}!").page
    locked = page.begin_row()
    row = ("", f"{queue}!", json.dumps([local]), 2**53, layer._codec.encode({"type": "row"}, 60))
    columns = "prefix, queue, targets, expires_at, payload"
    with apsw.Connection(path) as connection:
        connection.execute(f"INSERT INTO channels_lite_message ({columns}) VALUES (?, ?, ?, ?, ?)", row)
    connection.close()
    page.end_row(locked)
    await other.send(channel, {"type": "of another process"})
    await layer.send(channel, {"type": "of its own"})
    received = [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] for _ in range(3)]
    assert received == ["row", "of another process", "of its own"]


@with_inboxes
async def test_a_name_that_was_used_too_early(layers, make_layer):
    """Rows to a process that has not opened its layer yet count as soon as it has."""
    late, (_, other) = make_layer(capacity=CAPACITY, auto_trim=False), layers
    channel = await late.new_channel()
    await other.send(channel, LARGE)
    waiting = asyncio.ensure_future(late.receive(await late.new_channel()))
    queue = channel.partition("!")[0] + "!"
    accepted = 1
    for _ in range(3 * CAPACITY):
        await until(lambda: late._mailboxes.queues() == 1 and not late._database.read(store.has_live, "", queue))
        with contextlib.suppress(ChannelFull):
            await other.send(channel, LARGE)
            accepted += 1
    assert accepted == CAPACITY == await pending(late, channel)
    waiting.cancel()


@with_inboxes
async def test_some_have_expired(layers):
    """In a process in which nobody waits, too, they take no room for long."""
    layer, other = layers
    channel = await layer.new_channel()
    queue = channel.partition("!")[0] + "!"
    for _ in range(CAPACITY // 2):
        await other.send(channel, {"type": "x"}, expiry=0.1)
    await until(lambda: layer._inbox.is_at_rest and not layer._mailboxes.held(channel, queue))
    for _ in range(CAPACITY):
        await other.send(channel, LARGE)
    with pytest.raises(ChannelFull):
        await other.send(channel, LARGE)
    assert await pending(layer, channel) == CAPACITY


@with_inboxes
@pytest.mark.parametrize("own", [False, True])
async def test_a_sender_was_stopped_in_the_middle(layers, path, own):
    """The others go on, and leave room for the message that it may still send."""
    layer = layers[0]
    sender = layers[not own]
    channel = await layer.new_channel()
    queue = channel.partition("!")[0] + "!"
    stopped = Outboxes(path, "").find(queue)
    assert stopped.page.acquire()
    assert await fill(sender, channel) == CAPACITY - 1
    stopped.page.release()
    assert await fill(sender, channel) == 1
    assert await pending(layer, channel) == CAPACITY


async def test_a_groups_message_for_full_channels(layers):
    """Members that are full are skipped, and counted, and the others have it."""
    layer, other = layers
    full, free = [await layer.new_channel() for _ in range(2)]
    for channel in (full, free):
        await layer.group_add("group", channel)
    waiting = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await until(lambda: layer._mailboxes.queues() == 1)
    assert await fill(layer, full) == CAPACITY
    for message in ({"type": "small"}, LARGE):
        await other.group_send("group", message)
        assert (await asyncio.wait_for(layer.receive(free), PATIENCE))["type"] == message["type"]
    assert layer.drops.by_reason[Reason.FULL] == 2
    assert await pending(layer, full) == CAPACITY
    waiting.cancel()


class Alarm(TimeoutError):
    """What a signal handler raises."""


@with_inboxes
async def test_a_signal_handler_that_raises_an_error_of_the_system(layers, monkeypatch):
    """An OSError of a signal handler in the middle of a send reaches its caller, and nothing is sent twice."""
    layer, other = layers
    channel = await layer.new_channel()
    await other.send(channel, {"type": "first"})
    outbox = other._outboxes.find(channel.partition("!")[0] + "!")

    class Interrupted:
        """A socket whose message is on its way when a signal comes."""

        def send(self, datagram: bytes) -> None:
            real.send(datagram)
            signal.raise_signal(signal.SIGUSR1)

    real = outbox._socket
    monkeypatch.setattr(outbox, "_socket", Interrupted())

    def handler(number, frame):
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Alarm):
            await other.send(channel, {"type": "interrupted"})
    finally:
        signal.signal(signal.SIGUSR1, before)
    monkeypatch.setattr(outbox, "_socket", real)
    await other.send(channel, {"type": "last"})
    received = [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"] for _ in range(3)]
    assert received == ["first", "interrupted", "last"]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(layer.receive(channel), 0.1)
