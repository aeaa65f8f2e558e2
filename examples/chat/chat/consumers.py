"""The consumer at the server's end of each browser's WebSocket.

A browser connects to ``/ws?room=…&name=…`` and sends JSON objects: ``{"type": "say", "id": 1, "text": …}``, where its
ids count up, and now and then ``{"type": "ping"}``. It is sent events:

==========  ============================================================================
welcome     it is in the room; ``ticket`` lets it come back as the same person
joined      somebody came
present     somebody is here: the answer to a newcomer, and to everybody's ping
left        somebody went
said        a message, from a person or (without ``person``) from the bot or ``say``
refused     its own message ``id`` was not sent; ``text`` says why
notice      something that only this browser is told
rejected    it cannot be in this room under this name; ``text`` says why
==========  ============================================================================
"""

import json
import os
import secrets
from contextlib import suppress
from typing import Any

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.signing import BadSignature, Signer
from django.http import QueryDict

from chat import bot, rooms

REJECTED = 4400  # WebSocket close code: coming back with the same name and room would not help
MAX_ID = 2**53  # the integers that JavaScript can tell apart
COMMAND = "/roll"

_tickets = Signer(salt="chat.person")


class Browser(AsyncWebsocketConsumer):
    """One browser in one room."""

    room: str | None = None
    """The room's name, once the browser is in it."""
    who: dict[str, str]
    """What the others are told about this person. ``connection`` tells a new visit of theirs from the one before."""

    async def connect(self) -> None:
        await self.accept()  # a WebSocket that is not accepted could not be told why
        query = QueryDict(self.scope["query_string"])
        try:
            room = rooms.room_name(query.get("room", ""))
            name = rooms.person_name(query.get("name", ""))
        except rooms.Refused as refusal:
            await self.tell({"type": "rejected", "text": str(refusal)})
            await self.close(REJECTED)
            return
        self.who = {"person": _person(query.get("ticket", "")), "connection": secrets.token_hex(8), "name": name}
        await self.enter(room)

    async def enter(self, room: str) -> None:
        """Join the room first, and say so then: nothing that is said after the welcome is missed."""
        await self.channel_layer.group_add(rooms.group(room), self.channel_name)
        self.room = room
        ticket = _tickets.sign(self.who["person"])
        await self.tell({"type": "welcome", "room": room, "ticket": ticket, "process": os.getpid(), **self.who})
        joined = {"type": "room.joined", "who": self.who, "answer_to": self.channel_name}
        await self.channel_layer.group_send(rooms.group(room), joined)

    async def disconnect(self, code: int) -> None:
        if self.room is not None:
            await self.channel_layer.group_discard(rooms.group(self.room), self.channel_name)
            await rooms.tell(self.room, {"type": "left", **self.who})

    # From the browser.

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        message = _parse(text_data)
        if self.room is None:
            return
        if message.get("type") == "ping":
            await self.ping(self.room)
        elif message.get("type") == "say":
            await self.say(self.room, message)

    async def ping(self, room: str) -> None:
        """Tell the room that this person is still here. The browser hears it too, and knows the way is open."""
        # A membership ends a day after its last group_add.
        await self.channel_layer.group_add(rooms.group(room), self.channel_name)
        await rooms.tell(room, {"type": "present", **self.who})

    async def say(self, room: str, message: dict[str, Any]) -> None:
        """Tell the room what this person says, and the bot if it is meant."""
        number = message.get("id")
        try:
            if type(number) is not int or not 0 < number < MAX_ID:
                raise rooms.Refused("A message has a number above 0 as its id.")
            text = rooms.message(message.get("text"))
        except rooms.Refused as refusal:
            await self.tell({"type": "refused", "id": number, "text": str(refusal)})
            return
        await rooms.tell(room, {"type": "said", "id": number, "text": text, **self.who})
        command, _, dice = text.partition(" ")
        if command.lower() == COMMAND:
            await self.roll(room, dice)

    async def roll(self, room: str, dice: str) -> None:
        """Pass dice on to the bot, which answers into the room."""
        try:
            await self.channel_layer.send(
                bot.CHANNEL, {"type": "roll", "room": room, "dice": dice, "name": self.who["name"]}
            )
        except ChannelFull:
            text = f"{bot.NAME} is too busy, or away. Please try again in a minute."
            await self.tell({"type": "notice", "text": text})

    # From the channel layer.

    async def room_event(self, message: dict[str, Any]) -> None:
        """Something that happened in the room is passed on as it is."""
        await self.tell(message["event"])

    async def room_joined(self, message: dict[str, Any]) -> None:
        """Somebody came: their browser is told who was here before."""
        await self.tell({"type": "joined", **message["who"]})
        if message["answer_to"] == self.channel_name:
            return
        answer = {"type": "room.event", "event": {"type": "present", **self.who}}
        with suppress(ChannelFull):  # in a crowd; this browser's next ping makes up for it
            await self.channel_layer.send(message["answer_to"], answer)

    async def tell(self, event: dict[str, Any]) -> None:
        """Send an event to this browser."""
        # An error here would end the consumer without disconnect(), and nobody would be told that this person left.
        with suppress(OSError):  # the browser has just gone
            await self.send(text_data=json.dumps(event))


def _person(ticket: str) -> str:
    """Who comes back with this ticket, or somebody new."""
    try:
        return _tickets.unsign(ticket)
    except BadSignature:
        return secrets.token_hex(8)


def _parse(text: str | None) -> dict[str, Any]:
    """A browser's JSON object; nothing where it sent something else."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
