"""Works of one process that sends to itself. Each returns its samples: seconds of each message, or one rate.

All end after ``messages``, or after ``seconds`` with those that take long. Each message has a number, and a work fails
when another one arrives than was just sent.
"""

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync

MESSAGE = {"type": "chat.message", "text": "to all of you"}
SUBSCRIBED = 0.3  # seconds after which a receiver is known everywhere
SETTLED = 0.003  # seconds after which a receiver waits
PENDING = 90  # messages that may wait on one channel, whose capacity is 100

_known: set[str] = set()
_numbers = itertools.count()


async def sequential(layer: Any, messages: int, seconds: float) -> list[float]:
    """Send to a normal channel and receive there, one after the other."""
    await _make_known(layer, _normal("work"))
    return await _timed(messages, seconds, lambda: _exchange(layer, _normal("work"), MESSAGE))


async def specific(layer: Any, messages: int, seconds: float) -> list[float]:
    """Send to a channel of this process and receive there, one after the other."""
    channel = await layer.new_channel()
    return await _timed(messages, seconds, lambda: _exchange(layer, channel, MESSAGE))


async def payload(layer: Any, size: int, messages: int, seconds: float) -> list[float]:
    """As ``specific``, with a text of so many bytes."""
    channel, message = await layer.new_channel(), {"type": "chat.message", "text": "x" * size}
    return await _timed(messages, seconds, lambda: _exchange(layer, channel, message))


async def waiting_normal(layer: Any, messages: int, seconds: float) -> list[float]:
    """From the send until the receiver that waits on a normal channel has the message."""
    await _make_known(layer, _normal("awaited"))
    return await _timed(messages, seconds, lambda: _handed_over(layer, _normal("awaited")))


async def waiting_specific(layer: Any, messages: int, seconds: float) -> list[float]:
    """The same on a channel of this process."""
    channel = await layer.new_channel()
    return await _timed(messages, seconds, lambda: _handed_over(layer, channel))


async def concurrent(layer: Any, tasks: int, messages: int, seconds: float) -> list[float]:
    """Messages in a second of tasks that each send to and receive on a channel of their own, all at once."""
    channels = [await layer.new_channel() for _ in range(tasks)]
    start = time.perf_counter()
    samples = await asyncio.gather(
        *(_timed(messages, seconds, lambda channel=channel: _exchange(layer, channel, MESSAGE)) for channel in channels)
    )
    return [sum(map(len, samples)) / (time.perf_counter() - start)]


async def group_add(layer: Any, messages: int, seconds: float) -> list[float]:
    """Channels of this process that are added to a group in a second."""
    channels = [await layer.new_channel() for _ in range(messages)]
    added = iter(channels)
    start = time.perf_counter()
    samples = await _timed(messages, seconds, lambda: _spent(layer.group_add("added", next(added))))
    rate = len(samples) / (time.perf_counter() - start)
    for channel in channels[: len(samples)]:
        await layer.group_discard("added", channel)
    return [rate]


async def from_sync(layer: Any, messages: int, seconds: float, own: int = 0, directly: int = 0) -> list[float]:
    """Seconds of sends by a thread without an event loop: to a normal channel, or to one of this process (``own``).

    By ``async_to_sync``, or ``directly``, by ``layer.sync``.
    """
    channel = await layer.new_channel() if own else _normal("from-sync")
    await _make_known(layer, channel)
    samples: list[float] = []
    sent: list[dict[str, Any]] = []
    send = _directly(layer) if directly else async_to_sync(layer.send)
    arguments = (send, channel, min(messages, PENDING), seconds, samples, sent)
    thread = threading.Thread(target=_send_all, args=arguments)
    thread.start()
    await asyncio.to_thread(thread.join)
    for message in sent:
        _check(await layer.receive(channel), message)
    if not samples:
        raise RuntimeError("No send from synchronous code has succeeded; its error stands above.")
    return samples


def _directly(layer: Any) -> Callable[..., None]:
    return lambda channel, message: layer.sync.send(channel, message)  # not here, where a loop runs


def _send_all(
    send: Callable[..., None],
    channel: str,
    messages: int,
    seconds: float,
    samples: list[float],
    sent: list[dict[str, Any]],
) -> None:
    end = time.perf_counter() + seconds
    while len(samples) < messages and time.perf_counter() < end:
        message = _numbered(MESSAGE)
        start = time.perf_counter()
        send(channel, message)
        samples.append(time.perf_counter() - start)
        sent.append(message)


def _normal(name: str) -> str:
    """A channel of this process alone: pubsub has no prefix for normal channels, and two contenders share a server."""
    return f"{name}-{os.getpid()}"


def _numbered(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "number": next(_numbers)}


def _check(received: dict[str, Any], sent: dict[str, Any]) -> None:
    if received["number"] != sent["number"]:
        raise RuntimeError(f"Message {sent['number']} was sent, and message {received['number']} has arrived.")


async def _timed(messages: int, seconds: float, trip: Callable[[], Awaitable[float]]) -> list[float]:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < messages and time.perf_counter() < end:
        samples.append(await trip())
    return samples


async def _exchange(layer: Any, channel: str, message: dict[str, Any]) -> float:
    sent = _numbered(message)
    start = time.perf_counter()
    await layer.send(channel, sent)
    received = await layer.receive(channel)
    took = time.perf_counter() - start
    _check(received, sent)
    return took


async def _handed_over(layer: Any, channel: str) -> float:
    async def receive() -> tuple[float, dict[str, Any]]:
        message = await layer.receive(channel)
        return time.perf_counter(), message

    sent, receiving = _numbered(MESSAGE), asyncio.ensure_future(receive())
    await asyncio.sleep(SETTLED)
    start = time.perf_counter()
    await layer.send(channel, sent)
    end, received = await receiving
    _check(received, sent)
    return end - start


async def _spent(doing: Awaitable[None]) -> float:
    start = time.perf_counter()
    await doing
    return time.perf_counter() - start


async def _make_known(layer: Any, channel: str) -> None:
    """Receive once: pubsub drops what is sent to a channel on which nobody of the process has received before."""
    if channel not in _known:
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(SUBSCRIBED)
        await layer.send(channel, MESSAGE)
        await receiving
        _known.add(channel)
