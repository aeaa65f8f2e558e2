"""What a project's code does with its channel layer; test_dropin runs it with a settings module written for one test.

``python visitor.py use '{"channel": capacity or null, …}'`` | ``receive CHANNEL`` | ``expire`` | ``clean``
"""

import asyncio
import json
import sys
from typing import Any

import django
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer

PATIENCE = 20.0  # seconds
LEFT = {"type": "left.behind", "text": "readable words"}
MANY = 200  # messages that expire, and how large each is
LARGE = "x" * 2_000


async def use(layer: Any, capacities: dict[str, int | None]) -> None:
    """Send, receive, group and fill channels; leaves one message on "left" and its membership in the group "left"."""
    await exchange(layer)
    await groups(layer)
    for channel, capacity in capacities.items():
        await fill(layer, channel, capacity)
    await layer.flush()
    await layer.group_add("left", "left")
    await layer.send("left", LEFT)


async def exchange(layer: Any) -> None:
    """Messages arrive on normal and process-specific channels, in order, whether receive() waits or comes later."""
    for channel in ("normal", await layer.new_channel(), await layer.new_channel("http.response")):
        waiting = asyncio.ensure_future(receive(layer, channel))
        await asyncio.sleep(0)
        for number in range(3):
            await layer.send(channel, {"type": "test", "number": number})
        got = [await waiting, await receive(layer, channel), await receive(layer, channel)]
        assert [message["number"] for message in got] == [0, 1, 2], got


async def groups(layer: Any) -> None:
    """A group reaches its members, and no longer who has left it."""
    members = ["member", await layer.new_channel(), await layer.new_channel()]
    for channel in members:
        await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "test", "number": 1})
    for channel in members:
        assert (await receive(layer, channel))["number"] == 1
    await layer.group_discard("group", members[1])
    await layer.group_send("group", {"type": "test", "number": 2})
    await layer.send(members[1], {"type": "test", "number": 3})
    for channel, number in zip(members, (2, 3, 2), strict=True):
        assert (await receive(layer, channel))["number"] == number, channel


async def fill(layer: Any, channel: str, capacity: int | None) -> None:
    """A channel takes so many messages and no more; with None, more than its capacity says."""
    for _ in range(layer.capacity + 2 if capacity is None else capacity):
        await layer.send(channel, {"type": "test"})
    if capacity is not None:
        try:
            await layer.send(channel, {"type": "test"})
        except ChannelFull:
            return
        raise AssertionError(f"{channel} took more than {capacity} messages")


async def receive(layer: Any, channel: str) -> Any:
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


async def expire(layer: Any) -> None:
    """Leave messages that expire at once."""
    for _ in range(MANY):
        await layer.send("expiring", {"type": "test", "text": LARGE}, expiry=0.001)


def from_synchronous_code(layer: Any) -> None:
    """As a view does it."""
    async_to_sync(layer.group_add)("views", "view")
    async_to_sync(layer.group_send)("views", {"type": "test"})
    assert async_to_sync(receive)(layer, "view") == {"type": "test"}


async def closed_after(layer: Any, work: Any) -> Any:
    try:
        return await work
    finally:
        await layer.close()


def main(verb: str, *arguments: str) -> None:
    django.setup()
    layer = get_channel_layer()
    assert layer is not None
    if verb == "use":
        from_synchronous_code(layer)
        asyncio.run(closed_after(layer, use(layer, json.loads(arguments[0]))))
    elif verb == "receive":
        print(json.dumps(asyncio.run(closed_after(layer, receive(layer, arguments[0])))))
    elif verb == "expire":
        asyncio.run(closed_after(layer, expire(layer)))
    else:
        asyncio.run(closed_after(layer, layer.clean_expired()))


if __name__ == "__main__":
    main(*sys.argv[1:])
