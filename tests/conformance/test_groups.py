"""Groups."""

import asyncio

import pytest

from tests.conformance.conftest import is_empty, soon


async def test_every_member_gets_the_message(layer):
    """group_send reaches each member once, and nobody who was discarded or never added."""
    channels = [await layer.new_channel(f"channel-{number}") for number in range(4)]
    for channel in [*channels, "normal"]:
        await layer.group_add("group", channel)
    await layer.group_discard("group", channels[1])
    await layer.group_discard("group", channels[1])  # twice is nothing
    await layer.group_send("group", {"type": "news"})
    for channel in (channels[0], channels[2], channels[3], "normal"):
        assert await soon(layer.receive(channel)) == {"type": "news"}
        assert await is_empty(layer, channel)
    assert await is_empty(layer, channels[1])


async def test_members_with_one_prefix(layer):
    """Members that share the part up to the "!" all get the message, and each its own."""
    channels = [await layer.new_channel() for _ in range(10)]
    for channel in channels:
        await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "news"})
    received = await soon(asyncio.gather(*map(layer.receive, channels)))
    assert received == [{"type": "news"}] * 10


async def test_adding_twice_is_one_membership(layer):
    """A channel that was added twice gets one message."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "news"})
    await soon(layer.receive(channel))
    assert await is_empty(layer, channel)


async def test_a_group_without_members(layer):
    """Sending to an empty group is no error."""
    await layer.group_send("nobody", {"type": "news"})


async def test_a_member_that_joins_later_gets_what_comes_later(layer):
    """Who joins after a group_send does not get it."""
    early, late = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", early)
    await layer.group_send("group", {"type": "first"})
    await layer.group_add("group", late)
    await layer.group_send("group", {"type": "second"})
    assert (await soon(layer.receive(late)))["type"] == "second"
    assert [(await soon(layer.receive(early)))["type"] for _ in range(2)] == ["first", "second"]


async def test_a_member_that_leaves_gets_what_was_sent_before(layer):
    """Who is discarded after a group_send still receives it."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "first"})
    await layer.group_discard("group", channel)
    await layer.group_send("group", {"type": "second"})
    assert (await soon(layer.receive(channel)))["type"] == "first"
    assert await is_empty(layer, channel)


@pytest.mark.deviation("memory", "it makes one queue per channel name, so nothing can be out of order")
async def test_direct_and_group_messages_keep_their_order(layer):
    """Direct messages and a group's arrive at a member in the order they were sent, whether or not it waited."""
    channel, sibling = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.group_add("group", sibling)
    task = asyncio.ensure_future(layer.receive(sibling))  # its waiting moves the others' messages to their mailboxes
    await asyncio.sleep(0)
    for number in range(0, 20, 2):
        await layer.send(channel, {"type": "x", "number": number})
        await layer.group_send("group", {"type": "x", "number": number + 1})
    await soon(task)
    assert [(await soon(layer.receive(channel)))["number"] for _ in range(20)] == list(range(20))


async def test_each_member_gets_a_dict_of_its_own(layer):
    """What one member does to its message, another does not see; nor does the sender's later change count."""
    one, other = await layer.new_channel(), await layer.new_channel()
    message = {"type": "news", "items": [1, 2]}
    for channel in (one, other):
        await layer.group_add("group", channel)
    await layer.group_send("group", message)
    message["items"].append(3)
    first = await soon(layer.receive(one))
    first["items"].clear()
    assert (await soon(layer.receive(other)))["items"] == [1, 2]


async def test_a_group_of_many(make):
    """A thousand members in one process all get the message, and all waiting receivers are woken by it."""
    layer = make()
    channels = [await layer.new_channel() for _ in range(1000)]
    for channel in channels:
        await layer.group_add("group", channel)
    tasks = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(0)
    await layer.group_send("group", {"type": "news"})
    assert await soon(asyncio.gather(*tasks)) == [{"type": "news"}] * 1000


async def test_group_send_and_group_discard_at_once(layer):
    """Concurrent group_send, group_add and group_discard raise nothing, and a member that stays misses nothing."""
    stays = await layer.new_channel()
    await layer.group_add("group", stays)

    async def come_and_go():
        for _ in range(20):
            channel = await layer.new_channel()
            await layer.group_add("group", channel)
            await layer.group_discard("group", channel)

    async def speak():
        for number in range(20):
            await layer.group_send("group", {"type": "x", "number": number})
            assert (await layer.receive(stays))["number"] == number

    await soon(asyncio.gather(come_and_go(), speak(), come_and_go()))


async def test_wait_for_time_outs_keep_the_membership(layer):
    """A receive() that is cancelled by a time-out does not leave the groups: cancelling is not leaving."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    for _ in range(5):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.01)
    await layer.group_send("group", {"type": "news"})
    assert await soon(layer.receive(channel)) == {"type": "news"}


async def test_sends_and_group_sends_of_a_task_among_others(make):
    """While other tasks send, what each task does takes effect in its order: joining, leaving and every message."""
    layer = make(capacity=1000)
    await layer.group_add("warm-up", "jobs")

    async def use(group, channel):
        for number in range(0, 30, 3):
            await layer.group_add(group, channel)
            await layer.group_send(group, {"type": "x", "number": number})
            await layer.send(channel, {"type": "x", "number": number + 1})
            await layer.group_send(group, {"type": "x", "number": number + 2})
            await layer.group_discard(group, channel)
            await layer.group_send(group, {"type": "x", "number": -1})

    channels = [f"normal-{number}" for number in range(5)] + [await layer.new_channel() for _ in range(5)]
    await asyncio.gather(*(use(f"group-{number}", channel) for number, channel in enumerate(channels)))
    for channel in channels:
        assert [(await soon(layer.receive(channel)))["number"] for _ in range(30)] == list(range(30))
        assert await is_empty(layer, channel)
