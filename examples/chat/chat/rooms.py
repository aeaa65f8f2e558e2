"""Rooms: what a room, a person and a message may be called, and how something is told to everyone in a room."""

import hashlib
import unicodedata
from typing import Any

from channels.layers import get_channel_layer

MAX_ROOM = 50  # characters
MAX_NAME = 30
MAX_TEXT = 500

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # invisible, but emoji and Persian need them


class Refused(ValueError):
    """What somebody typed cannot be taken; the text tells them why."""


def room_name(typed: str) -> str:
    """A room's name as it is shown. Any text with something visible in it will do; case makes no other room."""
    return _line("The room's name", typed, MAX_ROOM)


def person_name(typed: str) -> str:
    """A person's name as it is shown."""
    return _line("Your name", typed, MAX_NAME)


def message(typed: object) -> str:
    """The text of a message, which may have several lines."""
    if not isinstance(typed, str):
        raise Refused("A message is a text.")
    # JSON lets half a surrogate pair through, which no other encoding can carry.
    return _bounded("A message", typed.encode(errors="replace").decode().strip(), MAX_TEXT)


def group(room: str) -> str:
    """The name of a room's group. A digest, since group names have fewer letters than people and are shorter."""
    return f"room.{hashlib.sha256(room.casefold().encode()).hexdigest()}"


async def tell(room: str, event: dict[str, Any]) -> None:
    """Tell everyone in a room: each browser there gets this event."""
    await get_channel_layer().group_send(group(room), _passed_on(event))


def announce(room: str, event: dict[str, Any]) -> None:
    """As ``tell``, from synchronous code."""
    get_channel_layer().sync.group_send(group(room), _passed_on(event))


def _passed_on(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "room.event", "event": event}


def _line(what: str, typed: str, limit: int) -> str:
    letters = unicodedata.normalize("NFC", typed)
    visible = "".join(letter for letter in letters if letter.isspace() or letter.isprintable() or letter in _JOINERS)
    return _bounded(what, " ".join(visible.split()), limit)


def _bounded(what: str, text: str, limit: int) -> str:
    if not text.strip(_JOINERS):
        raise Refused(f"{what} cannot be empty.")
    if len(text) > limit:
        raise Refused(f"{what} can have {limit} characters; this has {len(text)}.")
    return text
