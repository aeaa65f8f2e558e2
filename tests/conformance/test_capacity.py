"""Capacity."""

import asyncio
import logging
import re

import pytest
from channels.exceptions import ChannelFull

from tests.conformance.conftest import is_empty, soon


async def fill(layer, channel, count):
    for number in range(count):
        await layer.send(channel, {"type": "x", "number": number})


@pytest.mark.parametrize("specific", [False, True])
async def test_a_full_channel_refuses(make, specific):
    """The message over the capacity raises ChannelFull; when one was received, there is room for one again."""
    layer = make(capacity=3)
    channel = await layer.new_channel() if specific else "jobs"
    await fill(layer, channel, 3)
    for _ in range(2):
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "x"})
    assert (await soon(layer.receive(channel)))["number"] == 0
    await layer.send(channel, {"type": "x", "number": 3})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "x"})
    assert [(await soon(layer.receive(channel)))["number"] for _ in range(3)] == [1, 2, 3]


async def test_the_error_names_the_channel(make):
    """ChannelFull says which channel."""
    layer = make(capacity=1)
    await layer.send("jobs", {"type": "x"})
    with pytest.raises(ChannelFull, match="jobs"):
        await layer.send("jobs", {"type": "x"})


@pytest.mark.deviation("memory", "it counts each channel by itself")
async def test_process_specific_channels_share_their_capacity(make):
    """Channels with the same part up to the "!" share its capacity."""
    layer = make(capacity=2)
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(one, {"type": "x"})
    await layer.send(other, {"type": "x"})
    for channel in (one, other):
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "x"})
    await layer.send(await layer.new_channel("elsewhere"), {"type": "x"})


async def test_capacity_by_pattern(make, kind):
    """Globs and compiled expressions set a channel's capacity; the first that matches wins."""
    rules = {"tiny*": 1, re.compile(r"^chat\..+!.+"): 2, "chat.*": 4, "*": 5}
    if kind == "memory":
        pytest.skip("memory deviates: it does not compile its patterns")
    layer = make(channel_capacity=rules)
    for channel, capacity in (("tiny-one", 1), (await layer.new_channel("chat"), 2), ("chat.room", 4), ("other", 5)):
        assert layer.get_capacity(channel) == capacity
        await fill(layer, channel, capacity)
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"type": "x"})


@pytest.mark.deviation("memory", "asyncio.Queue takes 0 for no limit")
async def test_capacity_zero(make):
    """A capacity of 0 refuses every message, and a group's passes such a channel by."""
    layer = make(channel_capacity={"closed": 0})
    with pytest.raises(ChannelFull):
        await layer.send("closed", {"type": "x"})
    await layer.group_add("group", "closed")
    await layer.group_add("group", "open")
    await layer.group_send("group", {"type": "x"})
    assert await soon(layer.receive("open")) == {"type": "x"}
    assert await is_empty(layer, "closed")


@pytest.mark.deviation("memory", "it has no such option")
async def test_capacity_can_be_switched_off(make):
    """With enforce_capacity=False no channel is ever full."""
    layer = make(capacity=1, channel_capacity={"closed": 0}, enforce_capacity=False)
    for channel in ("closed", await layer.new_channel()):
        await fill(layer, channel, 10)
        assert [(await soon(layer.receive(channel)))["number"] for _ in range(10)] == list(range(10))


@pytest.mark.parametrize("specific", [False, True])
async def test_group_send_skips_full_channels(make, specific):
    """group_send never raises ChannelFull; the full channel misses the message, the others get it."""
    layer = make(capacity=2)
    full, other = [await layer.new_channel(name) if specific else name for name in ("full", "open")]
    for channel in (full, other):
        await layer.group_add("group", channel)
    await fill(layer, full, 2)
    await layer.group_send("group", {"type": "x", "number": "group"})
    assert (await soon(layer.receive(other)))["number"] == "group"
    assert [(await soon(layer.receive(full)))["number"] for _ in range(2)] == [0, 1]
    assert await is_empty(layer, full)


@pytest.mark.deviation("redis", "a group's message for a full channel: it is not counted")
@pytest.mark.deviation("memory", "it drops them without a word")
async def test_skipped_messages_are_counted_and_warned_about(make, caplog):
    """What a full channel missed is counted, and one warning names the channel however often it happens."""
    layer = make(capacity=1, channel_capacity={"half*": 1})
    for channel in ("full", "open"):
        await layer.group_add("group", channel)
    await fill(layer, "full", 1)
    with caplog.at_level(logging.WARNING, "channels_lite.drops"):
        for _ in range(5):
            await layer.group_send("group", {"type": "x"})
            await soon(layer.receive("open"))
    assert sum(layer.drops.by_reason.values()) == 5
    assert [record.getMessage() for record in caplog.records if record.name == "channels_lite.drops"] == [
        "Dropped 1 message(s) to the channel full: the channel is full."
    ]


@pytest.mark.deviation("redis", "capacity: what a process has taken from Redis does not count")
@pytest.mark.deviation("memory", "it counts each channel by itself")
async def test_what_waits_in_the_process_counts_against_capacity(make):
    """Messages that were claimed for a slow receiver still count: its sender in this process is refused."""
    layer = make(capacity=3)
    slow, quick = await layer.new_channel(), await layer.new_channel()
    other = make()
    await fill(other, slow, 2)
    await other.send(quick, {"type": "x"})
    await soon(layer.receive(quick))  # claims what is in the queue, and parks what is for the slow one
    await layer.send(slow, {"type": "x", "number": 2})
    with pytest.raises(ChannelFull):
        await layer.send(slow, {"type": "x"})
    assert [(await soon(layer.receive(slow)))["number"] for _ in range(3)] == [0, 1, 2]


@pytest.mark.deviation("redis", "several send at once in one process: each has a connection")
async def test_many_send_at_once_and_some_to_a_full_channel(make):
    """Of senders at the same time only those to the full channel fail; the others' messages are there, in order."""
    layer = make(capacity=4)
    await fill(layer, "full", 2)
    channels = ["full", "jobs"] * 4
    sends = [layer.send(channel, {"type": "x", "number": number}) for number, channel in enumerate(channels)]
    results = await soon(asyncio.gather(*sends, return_exceptions=True))
    assert [type(result) for result in results[::2]] == [type(None), type(None), ChannelFull, ChannelFull]
    assert results[1::2] == [None] * 4
    for channel, numbers in (("full", [0, 1, 0, 2]), ("jobs", [1, 3, 5, 7])):
        assert [(await soon(layer.receive(channel)))["number"] for _ in range(4)] == numbers
        assert await is_empty(layer, channel)
