"""Cancelling receive(): the message was delivered, or it is still there."""

import asyncio

import pytest

from tests.conformance.conftest import is_empty, soon


async def step_and_cancel(task, steps):
    """Let a task run this many steps, cancel it, and say what it received, if anything."""
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


@pytest.mark.deviation("redis", "cancelling a receive(): what is arriving is lost")
@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("steps", range(5))
async def test_a_cancelled_receive_loses_nothing(layer, specific, steps):
    """Cancelled at each of its steps, with the message sent before or after it began to wait: nothing is lost."""
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    for before in (True, False):
        if before:
            await layer.send(channel, {"type": "precious"})
        task = asyncio.ensure_future(layer.receive(channel))
        if not before:
            await asyncio.sleep(0)
            await layer.send(channel, {"type": "precious"})
        message = await step_and_cancel(task, steps)
        message = message or await soon(layer.receive(channel))
        assert message["type"] == "precious"
        assert await is_empty(layer, channel)


@pytest.mark.deviation("redis", "cancelling a receive(): what is arriving is lost")
@pytest.mark.parametrize("specific", [False, True])
async def test_a_wake_spent_on_a_cancelled_receiver_goes_to_the_next(layer, specific):
    """Of two waiting receivers the first is cancelled after it was woken: the second gets the message."""
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    first, second = (asyncio.ensure_future(layer.receive(channel)) for _ in range(2))
    await asyncio.sleep(0)
    await layer.send(channel, {"type": "precious"})
    first.cancel()
    done, _ = await asyncio.wait([first, second], timeout=20, return_when=asyncio.ALL_COMPLETED)
    assert done == {first, second}
    received = [task.result()["type"] for task in (first, second) if not task.cancelled()]
    assert received == ["precious"]


@pytest.mark.deviation("redis", "cancelling a receive(): what is arriving is lost")
@pytest.mark.parametrize("specific", [False, True])
async def test_order_survives_cancelling(layer, specific):
    """A message that comes back from a cancelled receiver is still the first."""
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    task = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    for number in range(3):
        await layer.send(channel, {"type": "x", "number": number})
    message = await step_and_cancel(task, 0)
    start = 0 if message is None else 1
    assert [(await soon(layer.receive(channel)))["number"] for _ in range(start, 3)] == list(range(start, 3))


@pytest.mark.deviation("redis", "cancelling a receive(): what is arriving is lost")
@pytest.mark.parametrize("specific", [False, True])
async def test_time_outs_in_a_loop(layer, specific):
    """A receiver that gives up again and again, while messages come, gets each of them once and in order."""
    channel = await layer.new_channel() if specific else "jobs"
    received = []

    async def receive_impatiently():
        while len(received) < 50:
            try:
                received.append((await asyncio.wait_for(layer.receive(channel), 0.001))["number"])
            except asyncio.TimeoutError:
                continue

    async def send_slowly():
        for number in range(50):
            await layer.send(channel, {"type": "x", "number": number})
            await asyncio.sleep(0.001)

    await soon(asyncio.gather(receive_impatiently(), send_slowly()))
    assert received == list(range(50))


async def test_cancelling_one_receiver_leaves_the_others(layer):
    """Of many waiting receivers half are cancelled; the other half get their messages."""
    channels = [await layer.new_channel() for _ in range(20)]
    tasks = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    for channel in channels:
        await layer.send(channel, {"type": channel})
    received = await soon(asyncio.gather(*tasks[1::2]))
    assert [message["type"] for message in received] == channels[1::2]
    await asyncio.gather(*tasks[::2], return_exceptions=True)


@pytest.mark.deviation("redis", "several send at once in one process: each has a connection")
@pytest.mark.parametrize("steps", range(5))
async def test_cancelling_one_sender_leaves_the_others(layer, steps):
    """Of senders at the same time one is cancelled, at each of its steps: the others' messages are there, in order."""
    await layer.send("jobs", {"type": "warm up"})
    await layer.receive("jobs")
    tasks = [asyncio.ensure_future(layer.send("jobs", {"type": "x", "number": number})) for number in range(5)]
    for _ in range(steps):
        await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] + results[3:] == [None] * 4
    received = [(await soon(layer.receive("jobs")))["number"] for _ in range(4)]
    if results[2] is None or 2 in received:  # a sender that was cancelled may have sent
        received.append((await soon(layer.receive("jobs")))["number"])
    assert [number for number in received if number != 2] == [0, 1, 3, 4]
    assert received == sorted(received)
    assert await is_empty(layer, "jobs")
