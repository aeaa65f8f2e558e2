"""An ASGI application for a server that loads it before it forks: the layer is open, and has sent, by then."""

import asyncio
import contextlib
import json
import os
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

layer = get_channel_layer()
async_to_sync(layer.send)("before", {"type": "x", "pid": os.getpid()})
MASTER = {"pid": os.getpid(), "prefix": layer.client_prefix, "channel": async_to_sync(layer.new_channel)()}
_members: dict[str, "asyncio.Task[None]"] = {}
_heard: list[Any] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer GET /verb with what the verb gives, as JSON."""
    if scope["type"] == "lifespan":
        return await _live(receive, send)
    answer = await VERBS[scope["path"].strip("/")]()
    body = json.dumps({"pid": os.getpid(), "answer": answer}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    return await send({"type": "http.response.body", "body": body})


async def _live(receive: Any, send: Any) -> None:
    while (await receive())["type"] == "lifespan.startup":
        channel = await layer.new_channel()
        await layer.group_add("workers", channel)
        _members[channel] = asyncio.ensure_future(_listen(channel))
        await send({"type": "lifespan.startup.complete"})
    for task in _members.values():
        task.cancel()
    await send({"type": "lifespan.shutdown.complete"})


async def _listen(channel: str) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            _heard.append(await layer.receive(channel))


async def about() -> Any:
    """Who this is, and who its master was."""
    return {"prefix": layer.client_prefix, "master": MASTER}


async def tell() -> None:
    """Send to the group of all workers."""
    await layer.group_send("workers", {"type": "x", "from": os.getpid()})


async def heard() -> Any:
    """What the group's messages said."""
    return _heard


async def before() -> Any:
    """What the master sent at import, if nobody has received it yet."""
    try:
        return await asyncio.wait_for(layer.receive("before"), 0.5)
    except asyncio.TimeoutError:
        return None


async def master() -> Any:
    """Whether the channel of the master can be received from here."""
    try:
        await asyncio.wait_for(layer.receive(MASTER["channel"]), 0.5)
    except Exception as error:
        return type(error).__name__


VERBS = {"about": about, "tell": tell, "heard": heard, "before": before, "master": master}
