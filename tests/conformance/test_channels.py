"""Sending and receiving: normal channels, process-specific channels, names, order."""

import asyncio
import inspect
import random

import pytest

from tests.conformance.conftest import is_empty, soon, waiting


async def test_a_message_arrives(layer):
    """What is sent to a channel is received from it."""
    await layer.send("jobs", {"type": "run", "id": 7})
    assert await soon(layer.receive("jobs")) == {"type": "run", "id": 7}


async def test_a_waiting_receiver_is_woken(layer):
    """A receiver that waits already gets a message that is sent later."""
    await layer.send("jobs", {"type": "first"})
    await layer.receive("jobs")
    task = await waiting(layer, "jobs")
    await layer.send("jobs", {"type": "run"})
    assert (await soon(task))["type"] == "run"


async def test_a_waiting_receiver_on_a_process_specific_channel_is_woken(layer):
    """The same on a channel of this process."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "first"})
    await layer.receive(channel)
    task = await waiting(layer, channel)
    await layer.send(channel, {"type": "run"})
    assert (await soon(task))["type"] == "run"


@pytest.mark.parametrize("specific", [False, True])
async def test_first_in_first_out(layer, specific):
    """One writer and one reader: messages arrive in the order they were sent, each once."""
    channel = await layer.new_channel() if specific else "jobs"
    for number in range(50):
        await layer.send(channel, {"type": "run", "number": number})
    received = [(await soon(layer.receive(channel)))["number"] for _ in range(50)]
    assert received == list(range(50))
    assert await is_empty(layer, channel)


@pytest.mark.parametrize("specific", [False, True])
async def test_concurrent_receivers_share_the_messages(layer, specific):
    """Several receivers on one channel: each message goes to exactly one of them."""
    channel = await layer.new_channel() if specific else "jobs"
    tasks = [asyncio.ensure_future(layer.receive(channel)) for _ in range(20)]
    await asyncio.sleep(0)
    for number in range(20):
        await layer.send(channel, {"type": "run", "number": number})
    received = await soon(asyncio.gather(*tasks))
    assert sorted(message["number"] for message in received) == list(range(20))


async def test_many_channels_at_once(layer):
    """Senders and receivers on many channels in one loop do not mix up their messages."""
    channels = [await layer.new_channel() for _ in range(30)] + [f"normal-{number}" for number in range(30)]

    async def exchange(channel):
        for number in range(5):
            await layer.send(channel, {"type": "run", "text": f"{channel} {number}"})
            assert (await layer.receive(channel))["text"] == f"{channel} {number}"

    await soon(asyncio.gather(*map(exchange, channels)))


async def test_process_specific_channels_are_apart(layer):
    """A message for one channel of a process is not received from its sibling."""
    one, other = await layer.new_channel(), await layer.new_channel()
    await layer.send(one, {"type": "for one"})
    assert await is_empty(layer, other)
    assert (await soon(layer.receive(one)))["type"] == "for one"


async def test_new_channel_makes_valid_unique_names(layer):
    """Names from new_channel() are valid, contain one "!", and differ."""
    names = {await layer.new_channel() for _ in range(1000)}
    assert len(names) == 1000
    for name in names:
        assert layer.require_valid_channel_name(name)
        assert name.count("!") == 1


@pytest.mark.deviation("memory", "its names come from random")
async def test_new_channel_does_not_depend_on_the_random_seed(make):
    """A reset random seed makes neither the names nor the processes' prefixes repeat."""
    random.seed(1)
    one = make()
    first = await one.new_channel()
    random.seed(1)
    other = make()
    assert await one.new_channel() != first
    assert one.client_prefix != other.client_prefix


async def test_new_channel_takes_a_prefix(layer):
    """The prefix given to new_channel() begins the name."""
    assert (await layer.new_channel("mine")).startswith("mine.")


@pytest.mark.deviation("memory", "it has no prefix and asks nobody whose channel it is")
async def test_another_process_cannot_be_overheard(make):
    """Receiving from a channel that another process or layer made is refused, with Channels' kind of error."""
    layer, other = make(), make()
    for name in (await other.new_channel(), "not-client-prefix!local_part"):
        with pytest.raises(AssertionError, match="belongs to another"):
            await layer.receive(name)


@pytest.mark.deviation("memory", "two objects share nothing")
@pytest.mark.parametrize("specific", [False, True])
async def test_two_layer_objects_reach_each_other(make, specific):
    """Two layers on one file in one process wake each other, though neither sees the other's data_version move."""
    layer, other = make(polling_interval=None), make(polling_interval=None)
    channel = await other.new_channel() if specific else "jobs"
    await other.send(channel, {"type": "first"})
    await other.receive(channel)
    task = await waiting(other, channel)
    await layer.send(channel, {"type": "run"})
    assert (await soon(task))["type"] == "run"


BAD_CHANNELS = ["", "with space", "slash/", "=+135!", "ümlaut", "two!bangs!", "a" * 100, "!", "quote'--", None, 7, b"x"]


@pytest.mark.parametrize("name", BAD_CHANNELS)
async def test_bad_channel_names_are_refused(layer, name):
    """A bad channel name is a TypeError everywhere it can be given."""
    for call in (
        layer.send(name, {"type": "x"}),
        layer.receive(name),
        layer.group_add("group", name),
        layer.group_discard("group", name),
    ):
        with pytest.raises(TypeError):
            await call


@pytest.mark.deviation("memory", "BaseChannelLayer's patterns let these through")
@pytest.mark.parametrize("name", ["line-feed\n", "local!ümlaut", "local!line-feed\n"])
async def test_names_are_ascii_to_the_end(layer, name):
    """Non-ASCII letters behind the "!" and a final line feed are refused, as the error message says."""
    with pytest.raises(TypeError):
        await layer.send(name, {"type": "x"})


BAD_GROUPS = ["", "with space", "bang!", "ümlaut", "a" * 100, "'; DROP TABLE x; --", None, 7]


@pytest.mark.parametrize("name", BAD_GROUPS)
async def test_bad_group_names_are_refused(layer, name):
    """A bad group name is a TypeError everywhere it can be given."""
    for call in (
        layer.group_add(name, "channel"),
        layer.group_discard(name, "channel"),
        layer.group_send(name, {"type": "x"}),
    ):
        with pytest.raises(TypeError):
            await call


async def test_names_of_the_greatest_length(layer):
    """Names of 99 characters work."""
    await layer.group_add("g" * 99, "c" * 99)
    await layer.group_send("g" * 99, {"type": "x"})
    assert await soon(layer.receive("c" * 99)) == {"type": "x"}


async def test_extensions(layer):
    """The layer says that it has groups and flush."""
    assert {"groups", "flush"} <= set(layer.extensions)


def test_the_api_is_made_of_coroutine_functions(make):
    """async_to_sync and Channels' consumers can call each method of the specification."""
    layer = make()
    for name in (
        "send", "receive", "new_channel", "group_add", "group_discard", "group_send", "flush", "close",
    ):  # fmt: skip
        assert inspect.iscoroutinefunction(getattr(layer, name)), name


@pytest.mark.deviation("memory", "two objects share nothing")
async def test_layers_with_different_prefixes_do_not_see_each_other(make):
    """With the option prefix, several layers share a file: channels, groups and flush stay apart."""
    one, other = make(prefix="one"), make(prefix="other")
    await one.group_add("group", "jobs")
    await one.send("jobs", {"type": "for one"})
    await other.group_send("group", {"type": "for nobody"})
    assert await is_empty(other, "jobs")
    await other.flush()
    await one.group_send("group", {"type": "group of one"})
    assert [(await soon(one.receive("jobs")))["type"] for _ in range(2)] == ["for one", "group of one"]
    assert await is_empty(one, "jobs")


async def test_flush_removes_messages_and_groups(make):
    """After flush() nothing is left: no message on any channel, no member in any group, not even a parked message."""
    layer = make()
    channel, idle = await layer.new_channel(), await layer.new_channel()
    await layer.send("jobs", {"type": "x"})
    await layer.group_add("group", channel)
    await layer.group_add("group", idle)
    await layer.group_add("group", "jobs")
    await layer.group_send("group", {"type": "x"})
    await soon(layer.receive(channel))
    await layer.flush()
    await layer.group_send("group", {"type": "x"})
    for name in ("jobs", channel, idle):
        assert await is_empty(layer, name)


@pytest.mark.deviation("memory", "flush() throws the queue away under the receiver")
async def test_flush_leaves_waiting_receivers_waiting(layer):
    """A receiver that waits during flush() gets what is sent afterwards."""
    channel = await layer.new_channel()
    task = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    await layer.flush()
    await layer.send(channel, {"type": "after"})
    assert (await soon(task))["type"] == "after"


@pytest.mark.deviation("redis", "several send at once in one process: each has a connection")
@pytest.mark.parametrize("specific", [False, True])
async def test_tasks_that_send_at_once(layer, specific):
    """Messages that several tasks send at the same time arrive in the order in which the tasks began."""
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    await asyncio.gather(*(layer.send(channel, {"type": "x", "number": number}) for number in range(50)))
    assert [(await soon(layer.receive(channel)))["number"] for _ in range(50)] == list(range(50))
