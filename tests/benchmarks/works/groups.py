"""Works of a process that has members of a group, and of the one that sends to it."""

import asyncio
import time
from typing import Any

SETTLED = 0.15  # seconds until all receivers wait: longer than 0.4.0 sleeps between two looks

_members: list[str] = []
_hearing: list["asyncio.Task[None]"] = []
_heard: dict[int, list[float]] = {}  # number of a message -> when each member had it
_complete: dict[int, "asyncio.Future[None]"] = {}  # done when all have it


async def join(layer: Any, group: str, count: int) -> None:
    """Make so many channels of this process, and add them to the group."""
    _members[:] = [await layer.new_channel() for _ in range(count)]
    for member in _members:
        await layer.group_add(group, member)


async def listen(layer: Any, first: int, count: int) -> None:
    """Let every member wait for so many messages. All of them are received, so that no channel ever fills up."""
    loop = asyncio.get_running_loop()
    for number in range(first, first + count):
        _heard[number], _complete[number] = [], loop.create_future()
        if not _members:
            _complete[number].set_result(None)
    _hearing[:] = [asyncio.ensure_future(_hear(layer, member, first, count)) for member in _members]
    await asyncio.sleep(SETTLED)


async def send(layer: Any, group: str, number: int) -> tuple[float, float]:
    """When group_send began and when it returned, on the clock that all processes share.

    The answer waits until the members of this process have the message: it takes the loop's time, too.
    """
    start = time.monotonic()
    await layer.group_send(group, {"type": "member.hear", "text": "to all of you", "number": number})
    returned = time.monotonic()
    await asyncio.wait([_complete[number]])
    return start, returned


async def heard(layer: Any, number: int) -> float:
    """When the last member of this process had the message; 0 where it has no members."""
    await _complete[number]
    del _complete[number]
    return max(_heard.pop(number), default=0.0)


async def leave(layer: Any) -> None:
    """Empty the layer: no groups, no messages."""
    _members.clear()
    _hearing.clear()
    await layer.flush()


async def _hear(layer: Any, member: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        message = await layer.receive(member)
        had = _heard[number]
        had.append(time.monotonic())
        complete = _complete[number]
        if message["number"] != number and not complete.done():
            complete.set_exception(RuntimeError(f"Message {number} was sent, and {message['number']} has arrived."))
        elif len(had) == len(_members):
            complete.set_result(None)
