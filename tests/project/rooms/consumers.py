"""Sockets in the room: what is told to the room goes to the browser, and what the browser says to the room."""

import os
from typing import Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import get_channel_layer


class Room(WebsocketConsumer):
    """One that is synchronous."""

    groups = ("room",)

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        async_to_sync(self.channel_layer.group_send)("room", {"type": "told", "text": text_data})

    def told(self, event: dict[str, Any]) -> None:
        self.send(event["text"])


class AsyncRoom(AsyncWebsocketConsumer):
    """One that is not."""

    groups = ("room",)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send("room", {"type": "told", "text": text_data})

    async def told(self, event: dict[str, Any]) -> None:
        await self.send(event["text"])


class Worker(AsyncConsumer):
    """One that works in the background, and tells the room what it has done."""

    async def work(self, event: dict[str, Any]) -> None:
        await get_channel_layer().group_send("room", {"type": "told", "text": f"{event['what']} is done"})


class Served(AsyncRoom):
    """One that says first which process it is in."""

    async def connect(self) -> None:
        await self.accept()
        await self.send(str(os.getpid()))
