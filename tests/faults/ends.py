"""A process in which loops or consumers begin and end: ``python -m tests.faults.ends WHICH``. It prints sizes."""

import asyncio
import json
import os
import sys
from typing import Any, ClassVar

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from channels.exceptions import ChannelFull, StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer

from channels_lite.layers import base, groups, handover
from tests.faults.sizes import BOUND, resident, sizes
from tests.patience import until

LOOPS = 1_000
CONSUMERS = 10_000
TOGETHER = 100  # consumers that live at the same time
AFTER = 2  # messages to each that come when it has ended
Report = dict[str, int]

base.ADDRESSES = handover.ADDRESSES = BOUND
groups.GROUPS = BOUND // TOGETHER


def report(layer: Any) -> Report:
    """The sizes of now."""
    return {**sizes(layer), "resident": resident()}


async def _round(layer: Any) -> None:
    own = await layer.new_channel()
    for channel in ("jobs", own):
        receiving = asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.send(channel, {"type": "x"})
        assert (await receiving)["type"] == "x"
    await layer.group_add("group", own)
    await layer.group_send("group", {"type": "group"})
    assert (await layer.receive(own))["type"] == "group"
    await layer.group_discard("group", own)
    cancelled = [asyncio.ensure_future(layer.receive(channel)) for channel in ("jobs", own)]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    left = asyncio.ensure_future(layer.receive("jobs"))  # asyncio.run() ends it
    await asyncio.sleep(0)
    assert not left.done()


def loops() -> list[Report]:
    """Many event loops, one after the other: the sizes after a tenth of them, and in the end."""
    layer = get_channel_layer()
    reports = []
    for number in range(1, LOOPS + 1):
        asyncio.run(_round(layer))
        if number in (LOOPS // 10, LOOPS):
            reports.append(report(layer))
    asyncio.run(layer.close())
    return reports


class Consumer(AsyncWebsocketConsumer):
    """Joins a group, and ends when the layer says so, without leaving it."""

    channels: ClassVar[list[str]] = []  # of those that have connected

    async def connect(self) -> None:
        await self.channel_layer.group_add(self.scope["room"], self.channel_name)
        self.channels.append(self.channel_name)
        await self.accept()

    async def room_news(self, message: dict[str, Any]) -> None:
        """A group's message."""

    async def room_end(self, message: dict[str, Any]) -> None:
        """The end."""
        raise StopConsumer


async def _consume(room: str, accepted: asyncio.Event) -> None:
    events = [{"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        return events.pop() if events else await asyncio.get_running_loop().create_future()

    async def send(event: dict[str, Any]) -> None:
        accepted.set()

    scope = {"type": "websocket", "path": "/", "headers": [], "subprotocols": [], "room": room}
    await Consumer.as_asgi()(scope, receive, send)


async def _some_consumers(layer: Any, room: str) -> list[str]:
    accepted = [asyncio.Event() for _ in range(TOGETHER)]
    Consumer.channels.clear()
    running = [asyncio.ensure_future(_consume(room, event)) for event in accepted]
    await asyncio.gather(*(event.wait() for event in accepted))
    channels = list(Consumer.channels)
    await layer.group_send(room, {"type": "room.news"})
    for channel in channels:
        await layer.send(channel, {"type": "room.end"}, expiry=60)
    await asyncio.gather(*running)
    for _ in range(AFTER):
        for channel in channels:
            await layer.send(channel, {"type": "room.news"})
        await layer.group_send(room, {"type": "room.news"})  # they are its members still
    return channels


async def _swept(layer: Any) -> Report:
    """What is left when the keeper has swept; nothing may be parked then."""
    await until(lambda: not layer._mailboxes._parked)  # the keeper sweeps every second
    return {**report(layer), "tasks": len(asyncio.all_tasks())}


async def _consumers() -> list[Report]:
    layer = get_channel_layer()
    # Somebody always receives in a server. Otherwise all channels of the process have one limit together.
    lasting = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    reports = []
    for number in range(1, CONSUMERS // TOGETHER + 1):
        channels = await _some_consumers(layer, f"room{number}")
        await layer.clean_expired()
        if number in (CONSUMERS // TOGETHER // 4, CONSUMERS // TOGETHER):
            reports.append(await _swept(layer))
    reports[-1]["room in a mailbox"] = await _fill(layer, channels[0])
    await _swept(layer)
    await layer.clean_expired()
    lasting.cancel()
    await layer.close()
    return reports


async def _fill(layer: Any, channel: str) -> int:
    """How many messages the mailbox of a consumer that has ended takes."""
    for number in range(10_000):
        try:
            await layer.send(channel, {"type": "x"})
        except ChannelFull:
            return number
    return 10_000


if __name__ == "__main__":
    print(json.dumps(loops() if sys.argv[1] == "loops" else asyncio.run(_consumers())))
