"""What an application writes: a WebSocket consumer, a view, a worker and settings, with every public method.

``mypy --strict`` passes over it, as test_typing.py shows. Nobody runs it.
"""

import json
from collections import Counter
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from channels_lite import errors
from channels_lite.drops import Reason
from channels_lite.layers import get_layer
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.models import Membership, Message
from channels_lite.router import ChannelsRouter
from channels_lite.serializers import BaseMessageSerializer, registry
from channels_lite.stats import Stats

ROOM = "room"

DATABASE_ROUTERS: list[Any] = [ChannelsRouter()]


class Person(AsyncJsonWebsocketConsumer):
    """Somebody in the room."""

    async def connect(self) -> None:
        layer = get_layer()
        await layer.group_add(ROOM, self.channel_name)
        there: int = await layer.group_count(ROOM)
        names: list[str] = await layer.group_channels(ROOM)
        await self.accept()
        await self.send_json({"there": there, "others": [name for name in names if name != self.channel_name]})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        said = {"type": "said", "text": str(content)}
        try:
            await get_layer().group_send(ROOM, said, exclude=[self.channel_name])
            await get_layer().send("jobs", {"type": "count", "answer_to": self.channel_name}, expiry=2.5)
        except ChannelFull:
            await self.send_json({"busy": True})
        except (errors.InvalidMessage, errors.DatabaseBusy, errors.DatabaseFailed) as error:
            await self.send_json({"error": str(error)})

    async def disconnect(self, code: int) -> None:
        groups: list[str] = await get_layer().groups(self.channel_name)
        for group in groups:
            await get_layer().group_discard(group, self.channel_name)


async def worker() -> None:
    """Answer, and look after the layer."""
    layer = get_layer("jobs")
    mine: str = await layer.new_channel("worker")
    await layer.send(mine, {"type": "begin"})
    try:
        while True:
            message: dict[str, Any] = await layer.receive("jobs")
            await layer.send(message["answer_to"], {"type": "answer"})
            messages, memberships = await layer.clean_expired()
            stats: Stats = await layer.stats()
            print(messages + memberships, dropped(layer.drops.by_reason), stats.pending.get("jobs", 0))
    except errors.LayerClosed:
        await layer.flush()
        await layer.close()


def dropped(by_reason: Counter[Reason]) -> int:
    """How many messages were dropped because of their channel or its receiver."""
    return by_reason[Reason.FULL] + by_reason[Reason.SLOW]


def view(request: HttpRequest) -> HttpResponse:
    """The same from synchronous code."""
    layer = get_layer().sync
    with transaction.atomic():
        layer.group_add(ROOM, "log")
        layer.group_send(ROOM, {"type": "said", "text": "hello"}, exclude={"log"})
        layer.send("jobs", {"type": "count"}, expiry=60)
        layer.group_discard(ROOM, "log")
    count: int = layer.group_count(ROOM)
    names: list[str] = layer.group_channels(ROOM) + layer.groups("log")
    waiting: int = sum(layer.stats().pending.values())
    layer.close()
    return HttpResponse(f"{count} {names} {waiting} {Message.objects.count()} {Membership.objects.count()}")


class Sorted(BaseMessageSerializer):
    """A serializer of one's own."""

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message, sort_keys=True).encode()

    def from_bytes(self, message: bytes) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(message)
        return decoded


registry.register_serializer("sorted", Sorted)

aio = AIOSQLiteChannelLayer(path="messages.sqlite3", serializer_format="sorted")
core = SQLiteChannelLayer(database="default", capacity=10)
