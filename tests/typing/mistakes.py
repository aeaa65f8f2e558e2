"""What ``mypy --strict`` must find: each line with a comment has an error of that code, and no other line has one."""

from channels_lite.errors import ConfigError
from channels_lite.layers import get_layer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.serializers import registry


async def awaited() -> None:
    """The coroutines."""
    layer = get_layer(1)  # arg-type
    layer = get_layer()
    await layer.send("jobs", "text")  # arg-type
    await layer.send(b"jobs", {})  # arg-type
    await layer.send("jobs", {}, expiry="60")  # arg-type
    await layer.send("jobs", {1: "x"})  # dict-item
    message: str = await layer.receive("jobs")  # assignment
    await layer.receive(None)  # arg-type
    await layer.new_channel(3)  # arg-type
    await layer.group_add("room", None)  # arg-type
    await layer.group_discard(None, message)  # arg-type
    await layer.group_send("room", [])  # arg-type
    await layer.group_send("room", {}, exclude=7)  # arg-type
    await layer.group_send("room", {}, expiry=60)  # call-arg
    channels: set[str] = await layer.group_channels("room")  # assignment
    count: str = await layer.group_count("room")  # assignment
    await layer.groups(channels)  # arg-type
    await layer.flush(count)  # call-arg
    removed: int = await layer.clean_expired()  # assignment
    await layer.stats("jobs")  # call-arg
    await layer.close(removed)  # call-arg
    layer.send("jobs", {})  # unused-coroutine
    layer.drops.by_reason["full"]  # index
    await layer.forgotten()  # attr-defined


def synchronous() -> None:
    """The same without a loop."""
    layer = get_layer().sync
    layer.send("jobs", "text")  # arg-type
    layer.send("jobs", {}, expiry="60")  # arg-type
    layer.group_add("room", None)  # arg-type
    layer.group_discard(None, "jobs")  # arg-type
    layer.group_send("room", [])  # arg-type
    layer.group_send("room", {}, exclude=7)  # arg-type
    channels: set[str] = layer.group_channels("room")  # assignment
    count: str = layer.group_count("room")  # assignment
    layer.groups(channels)  # arg-type
    layer.stats("jobs")  # call-arg
    layer.close(count)  # call-arg
    layer.receive("jobs")  # attr-defined
    get_layer().sync = layer  # misc


registry.register_serializer("sorted", dict)  # arg-type
registry.get_serializer(7)  # arg-type
SQLiteChannelLayer("default")  # call-arg
error: int = ConfigError("wrong")  # assignment
