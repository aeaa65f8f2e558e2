"""What happens at the same moment in several processes: joining and sending, leaving and sending, filling a channel."""

import asyncio
import contextlib
import signal

import pytest
from channels.exceptions import ChannelFull

from channels_lite import inbox
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.faults.log import Event
from tests.patience import PATIENCE, until

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
    """However many send to it from however many processes, it takes its capacity and no more, and refuses the rest.

    Where its own process sends as well, each of the others may put in one more.
    """
    await cast.start(*[HOARDS[kind]] * (kind != "normal"), capacity=CAPACITY)
    channel = "jobs" if kind == "normal" else (await cast.made(1))[0]
    send = {"do": "send", "channels": [channel], "count": 40}
    crowd = await cast.start(send, send, {**send, "size": 70_000, "count": 5}, crowd=SENDERS, capacity=CAPACITY)
    assert await crowd.line() == "stopped"
    results = [record for record in cast.records() if record.event in (Event.OK, Event.FAILED)]
    accepted = [record for record in results if record.event is Event.OK]
    assert {record.detail for record in results if record.event is Event.FAILED} == {"ChannelFull"}
    more = SENDERS if (HOARDS[kind] or {}).get("fill") else 0
    assert CAPACITY <= len(accepted) <= CAPACITY + more
    assert len(results) - len(accepted) >= SENDERS * 85 - CAPACITY - more


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


@pytest.mark.skipif(not inbox.is_possible(), reason="without inboxes, what is sent is a row, whose expiry SQL knows")
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


class Alarm(TimeoutError):
    """What a signal handler raises."""


@pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")
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
