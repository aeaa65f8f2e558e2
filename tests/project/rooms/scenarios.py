"""What must hold in a test, whichever framework it belongs to. Those that are coroutines run in the test's loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.db import transaction
from mysite.asgi import application

from rooms.models import Note

PATIENCE = 20.0  # seconds until what must come is missing

Post = Callable[..., Awaitable[Any]]


def send(text: str, channel: str = "inbox") -> None:
    """Send from synchronous code."""
    async_to_sync(get_channel_layer().send)(channel, {"type": "told", "text": text})


def receive(channel: str = "inbox") -> str:
    """Receive in synchronous code."""
    text: str = async_to_sync(areceive)(channel)
    return text


async def areceive(channel: str = "inbox") -> str:
    message = await asyncio.wait_for(get_channel_layer().receive(channel), PATIENCE)
    return str(message["text"])


@asynccontextmanager
async def socket(path: str) -> AsyncIterator[WebsocketCommunicator]:
    """A connected socket in the room."""
    communicator = WebsocketCommunicator(application, path)
    assert (await communicator.connect(timeout=PATIENCE))[0]
    yield communicator
    await communicator.disconnect(timeout=PATIENCE)


async def heard(communicator: WebsocketCommunicator) -> str:
    return str(await communicator.receive_from(timeout=PATIENCE))


def begins_empty() -> None:
    """Nothing is there of another test that calls this, neither a message nor a membership; leaves both."""
    layer = get_channel_layer()
    async_to_sync(layer.group_send)("left", {"type": "told", "text": "stale member"})
    send("fresh", "left")
    assert receive("left") == "fresh"
    async_to_sync(layer.group_add)("left", "left")
    send("stale", "left")
    Note.objects.create(text="stale")
    assert Note.objects.count() == 1


def sent_is_received() -> None:
    """In order, from within a block that goes on; from a savepoint; and what is rolled back by nobody."""
    with transaction.atomic(using=settings.ALIAS):
        send("1")
        send("2")
        assert receive() == "1"
    assert receive() == "2"
    with transaction.atomic(using=settings.ALIAS):
        try:
            with transaction.atomic(using=settings.ALIAS):
                send("rolled back")
                raise ZeroDivisionError
        except ZeroDivisionError:
            send("3")
    assert receive() == "3"


async def sockets_hear(post: Post, url: str, *, refuse: bool = True) -> None:
    """What a view sends reaches both kinds of socket in the room; what it takes back reaches none."""
    async with socket("/sync/") as one, socket("/async/") as other:
        if refuse:
            assert (await post(url, {"text": ["a", "b", "c"], "refuse": "yes"})).status_code == 204
            assert await Note.objects.acount() == 0
        assert (await post(url, {"text": ["d", "e"]})).status_code == 201
        assert await Note.objects.acount() == 2
        for communicator in (one, other):
            assert [await heard(communicator) for _ in "de"] == ["d", "e"]


async def sockets_talk() -> None:
    """What a socket says reaches the other one and itself, whichever kind they are."""
    async with socket("/sync/") as one, socket("/async/") as other:
        for speaker in (one, other):
            await speaker.send_to("hello")
            assert [await heard(one), await heard(other)] == ["hello", "hello"]


async def waiting_receiver_is_woken() -> None:
    """Who waits in the loop hears of what synchronous code sends, when its block has ended."""

    def job() -> None:
        with transaction.atomic(using=settings.ALIAS):
            send("block")

    waiting = asyncio.ensure_future(areceive())
    await asyncio.sleep(0)
    await sync_to_async(job)()
    assert await waiting == "block"


async def async_sends_are_received() -> None:
    """A coroutine sends and receives, to a channel of its own and through a group."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.send(channel, {"type": "told", "text": "direct"})
    await layer.group_send("room", {"type": "told", "text": "group"})
    assert [await areceive(channel) for _ in range(2)] == ["direct", "group"]
    await layer.group_discard("room", channel)
