"""Works of a process that has members of a group, and of the one that sends to it."""

import asyncio
import time
from typing import Any

SETTLED = 0.15  # seconds until all receivers wait: longer than 0.4.0 sleeps between two looks

_members: list[str] = []
_hearing: list["asyncio.Task[float]"] = []


async def join(layer: Any, group: str, count: int) -> None:
    """Make so many channels of this process, and add them to the group."""
    _members[:] = [await layer.new_channel() for _ in range(count)]
    for member in _members:
        await layer.group_add(group, member)


async def listen(layer: Any, number: int) -> None:
    """Let every member wait. All messages of a round are received, so that no channel ever fills up."""
    _hearing[:] = [asyncio.ensure_future(_hear(layer, member, number)) for member in _members]
    await asyncio.sleep(SETTLED)


async def send(layer: Any, group: str, number: int) -> tuple[float, float]:
    """When group_send began and when it returned, on the clock that all processes share."""
    start = time.monotonic()
    await layer.group_send(group, {"type": "member.hear", "text": "to all of you", "number": number})
    return start, time.monotonic()


async def heard(layer: Any) -> float:
    """When the last member of this process had the message; 0 where it has no members."""
    return max(await asyncio.gather(*_hearing), default=0.0)


async def leave(layer: Any) -> None:
    """Empty the layer: no groups, no messages."""
    _members.clear()
    _hearing.clear()
    await layer.flush()


async def _hear(layer: Any, member: str, number: int) -> float:
    message = await layer.receive(member)
    end = time.monotonic()
    if message["number"] != number:
        raise RuntimeError(f"Message {number} was sent, and message {message['number']} has arrived.")
    return end
