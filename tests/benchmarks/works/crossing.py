"""From one process to another: each function is one side. They end by themselves, whatever the other side does."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from channels.exceptions import ChannelFull

PATIENCE = 10.0  # seconds beyond the allotted ones that a side waits for the other
TEXT = "x" * 40  # makes a message, which names its reply channel too, about as long as the line of the floor
WINDOW = 100  # unacknowledged messages of a flood: the usual capacity of a channel
BATCH = 50  # messages of a flood that one acknowledgement is for


async def place(layer: Any, cores: list[int]) -> None:
    """Let all threads of this process run on these cores only, and those that they start."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cores)


async def name(layer: Any) -> str:
    """A new process-specific channel of this process."""
    channel: str = await layer.new_channel()
    return channel


async def trips(layer: Any, to: str, reply: str, most: int, seconds: float) -> list[float]:
    """Seconds of each round trip to ``echo`` in another process."""

    numbers = itertools.count()

    async def trip(last: bool) -> None:
        number = next(numbers)
        await layer.send(to, {"type": "crossing.ping", "reply": reply, "text": TEXT, "number": number, "last": last})
        answer = await layer.receive(reply)
        if answer["number"] != number:
            raise RuntimeError(f"Message {number} was sent, and {answer['number']} has come back.")

    return await asyncio.wait_for(_timed(trip, most, seconds), seconds + PATIENCE)


async def echo(layer: Any, channel: str, seconds: float) -> None:
    """Answer each message on the channel that it names, until the last."""

    async def answer() -> None:
        last = False
        while not last:
            message = await layer.receive(channel)
            last = message["last"]
            await layer.send(message["reply"], message)

    await asyncio.wait_for(answer(), seconds + PATIENCE)


async def _timed(trip: Callable[[bool], Awaitable[None]], most: int, seconds: float) -> list[float]:
    """Make trips until there are so many or the time is over; each is told whether it is the last."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    last = False
    while not last:
        start = time.perf_counter()
        last = start >= end or len(samples) == most - 1
        await trip(last)
        samples.append(time.perf_counter() - start)
    return samples


async def flood(layer: Any, to: str, reply: str, most: int, seconds: float) -> dict[str, float]:
    """Send to ``drain`` in another process, never more than a window ahead of what it acknowledges.

    Returns how many were sent, and the seconds until the last acknowledgement.
    """
    start = acknowledged = time.perf_counter()
    sent = heard = 0
    last = False
    with contextlib.suppress(asyncio.TimeoutError):  # what is not acknowledged is lost
        while not last or heard < sent:
            while sent - heard >= WINDOW or (last and heard < sent):
                heard = (await asyncio.wait_for(layer.receive(reply), PATIENCE))["heard"]
                acknowledged = time.perf_counter()
            if not last:
                last = sent == most - 1 or time.perf_counter() - start >= seconds
                sent += 1
                await _insist(layer, to, {"type": "crossing.flood", "text": TEXT, "number": sent, "last": last})
    return {"sent": sent, "seconds": acknowledged - start}


async def _insist(layer: Any, to: str, message: dict[str, Any]) -> None:
    while True:
        try:
            return await layer.send(to, message)
        except ChannelFull:
            await asyncio.sleep(0.001)


async def drain(layer: Any, channel: str, reply: str) -> int:
    """Receive a flood, and acknowledge it batch by batch; how many came until the last, or until no more came.

    RuntimeError where one came twice, or after a later one.
    """
    came = latest = 0

    async def take() -> None:
        nonlocal came, latest
        heard, last = 0, False
        while not last:
            message = await layer.receive(channel)
            if message["number"] <= latest:
                raise RuntimeError(f"Message {message['number']} has come after message {latest}.")
            came, latest = came + 1, message["number"]
            last = message["last"]
            if last or message["number"] - heard >= BATCH:
                heard = message["number"]
                await layer.send(reply, {"type": "crossing.heard", "heard": heard})

    taking = asyncio.ensure_future(take())
    before = -1
    while not taking.done() and came > before:
        before = came
        await asyncio.wait({taking}, timeout=PATIENCE)
    if not taking.cancel():
        taking.result()
    return came
