"""receive() cancelled at any moment, and in a transaction: the message was delivered, or is still there."""

import asyncio
import contextlib

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction

from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.mailbox import Waiter
from tests.faults.conftest import ask
from tests.faults.log import Event
from tests.journal import keep_a_wal
from tests.processes.conftest import PATIENCE


async def test_time_outs_while_other_processes_send(cast):
    """Receivers that give up after a few milliseconds, again and again: nothing is lost or doubled, nobody leaves."""
    own = {"do": "own", "count": 2, "groups": ["all"], "timeout": 0.002}
    await cast.start(own, {"do": "receive", "channel": "jobs", "receivers": 2, "timeout": 0.002})
    await cast.start(own, {"do": "receive", "channel": "jobs", "timeout": 0.001})
    channels = await cast.made(4)
    await cast.start(
        {"do": "send", "channels": ["jobs", *channels], "count": 700},
        {"do": "send", "channels": ["all"], "count": 700, "group": True, "pause": 0.001},
        {"do": "send", "channels": ["jobs", *channels], "count": 20, "size": 100_000, "pause": 0.01},
    )
    await cast.until(lambda: sum(record.number == 699 for record in cast.records(Event.START)) == 6)
    verdict = await cast.verdict()
    assert not verdict, verdict
    given_up = len(cast.records(Event.RECEIVING)) - len(cast.records(Event.RECEIVED))
    assert given_up > 100, "many a wait ended without a message"
    assert ask(cast.path, "SELECT count(*) FROM channels_lite_membership") == "4"
    assert await cast.end() == ""


class Refused(Exception):
    """What a transaction of a test is rolled back by."""


@pytest.fixture(params=["-wal", "journal", "in memory"])
def layer(request, alias, path):
    """A layer on Django's connection."""
    if request.param == "-wal":
        keep_a_wal(path)
    if request.param == "in memory":
        connections.settings[alias]["NAME"] = ":memory:"
    layer = SQLiteChannelLayer(database=alias)
    yield layer
    async_to_sync(layer.close)()


def cancel_when_given(monkeypatch, times):
    """Cancel the next tasks in the dict that is returned just after they were given a message, before they go on."""
    release, left, receiving = Waiter._release, list(range(times)), {}

    def release_and_cancel(waiter, error):
        release(waiter, error)
        if waiter.item is not None and left:
            left.pop()
            receiving[waiter.channel].cancel()

    monkeypatch.setattr(Waiter, "_release", release_and_cancel)
    return receiving


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("specific", [False, True], ids=["normal", "specific"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_cancelled_with_a_message_in_a_transaction(layer, alias, end, specific, again, monkeypatch):
    """What a transaction had claimed for a receive() that was cancelled is there still, once, however it ends."""
    channel = async_to_sync(layer.new_channel)() if specific else "jobs"
    for number in range(2):
        async_to_sync(layer.send)(channel, {"type": "x", "number": number})
    receiving = cancel_when_given(monkeypatch, 1 + again)

    async def receive():
        task = receiving[channel] = asyncio.ensure_future(layer.receive(channel))
        with contextlib.suppress(asyncio.CancelledError):
            return (await asyncio.wait_for(task, PATIENCE))["number"]

    with contextlib.suppress(Refused), transaction.atomic(using=alias):
        async_to_sync(layer.group_add)("group", "jobs")  # nobody else can claim now
        for _ in range(1 + again):
            assert async_to_sync(receive)() is None
        if again:
            assert async_to_sync(receive)() == 0
        if end == "rollback":
            raise Refused
    left = [1] if again and end == "commit" else [0, 1]
    assert [async_to_sync(receive)() for _ in left] == left
    assert async_to_sync(nothing)(layer, channel)


def test_cancelled_again_while_it_is_given_back(layer, alias, monkeypatch):
    """A second cancellation does not end receive() before the message is back in its transaction."""
    async_to_sync(layer.send)("jobs", {"type": "x", "number": 0})
    receiving = cancel_when_given(monkeypatch, 1)
    give_back = layer._give_back

    async def cancelled(waiter):
        asyncio.get_running_loop().call_soon(receiving["jobs"].cancel)
        await give_back(waiter)

    monkeypatch.setattr(layer, "_give_back", cancelled)

    async def receive():
        task = receiving["jobs"] = asyncio.ensure_future(layer.receive("jobs"))
        await asyncio.wait([task], timeout=PATIENCE)
        assert task.cancelled()

    with transaction.atomic(using=alias):
        async_to_sync(layer.group_add)("group", "jobs")  # nobody else can claim now
        async_to_sync(receive)()
        with connections[alias].cursor() as cursor:
            assert cursor.execute("SELECT count(*) FROM channels_lite_message").fetchone() == (1,)
    assert async_to_sync(layer.receive)("jobs")["number"] == 0


def test_time_outs_in_a_transaction(layer, alias):
    """wait_for(receive()) that ends at any moment of a claim, in transactions that are rolled back: nothing twice."""
    numbers = []

    async def receive(seconds):
        return (await asyncio.wait_for(layer.receive("jobs"), seconds))["number"]

    for number in range(150):
        async_to_sync(layer.send)("jobs", {"type": "x", "number": number})
        with contextlib.suppress(Refused, asyncio.TimeoutError), transaction.atomic(using=alias):
            async_to_sync(layer.group_add)("group", "jobs")  # nobody else can claim now
            async_to_sync(receive)(0.00002 * number)
            raise Refused
        numbers.append(async_to_sync(receive)(PATIENCE))
    assert numbers == list(range(150))
    assert async_to_sync(nothing)(layer, "jobs")


async def nothing(layer, channel):
    """Whether nothing more comes."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.05)
    except asyncio.TimeoutError:
        return True
    return False
