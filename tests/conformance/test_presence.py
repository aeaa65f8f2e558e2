"""Who is in a group, and a group's message to all but some. Channels' own layers have none of it."""

import asyncio

import pytest

from tests.conformance.conftest import OURS, is_empty, soon, under_test


@pytest.fixture(params=OURS)
def kind(request: pytest.FixtureRequest) -> str:
    return under_test(request)


async def test_channels_of_a_group(layer):
    """group_channels names the members in the order in which they joined, each once; group_count counts them."""
    channels = ["zebra", await layer.new_channel(), "ant", await layer.new_channel("other")]
    for channel in channels:
        await layer.group_add("room", channel)
        await asyncio.sleep(0.002)  # the clock has milliseconds
    await layer.group_add("elsewhere", "bee")
    assert await layer.group_channels("room") == channels
    await layer.group_add("room", "zebra")
    assert await layer.group_channels("room") == [*channels[1:], "zebra"]
    assert await layer.group_count("room") == 4
    await layer.group_discard("room", "ant")
    assert await layer.group_channels("room") == [channels[1], channels[3], "zebra"]
    assert await layer.group_count("room") == 3
    assert await layer.group_channels("nobody") == []
    assert await layer.group_count("nobody") == 0


async def test_groups_of_a_channel(layer):
    """groups names the groups that a channel is in, by name, and not those of its siblings."""
    one, other = await layer.new_channel(), await layer.new_channel()
    for group in ("b", "c", "a"):
        await layer.group_add(group, one)
    await layer.group_add("d", other)
    await layer.group_add("a", "normal")
    assert await layer.groups(one) == ["a", "b", "c"]
    await layer.group_discard("b", one)
    assert await layer.groups(one) == ["a", "c"]
    assert await layer.groups("normal") == ["a"]
    assert await layer.groups("stranger") == []


async def test_only_live_memberships(make):
    """A membership that has expired is in none of the answers, whether or not it has been removed yet."""
    layer = make(group_expiry=0.05, auto_trim=False)
    await layer.group_add("room", "gone")
    while await layer.groups("gone"):  # noqa: ASYNC110 # nobody tells when a membership expires
        await asyncio.sleep(0.01)
    await layer.group_add("room", "here")
    assert await layer.group_channels("room") == ["here"]
    assert await layer.group_count("room") == 1


async def test_layers_with_other_prefixes(make):
    """What is asked of a layer concerns its prefix alone."""
    one, other = make(), make(prefix="other")
    await one.group_add("room", "channel")
    assert await other.group_channels("room") == []
    assert await other.group_count("room") == 0
    assert await other.groups("channel") == []


@pytest.mark.parametrize("name", ["", "two words", "a" * 100, None, "a!b"])
async def test_names_that_are_none(layer, name):
    """A bad name is a TypeError, as in the calls that change something."""
    for ask in (layer.group_channels, layer.group_count):
        with pytest.raises(TypeError):
            await ask(name)
    if name != "a!b":
        with pytest.raises(TypeError):
            await layer.groups(name)


async def test_everyone_but_me(layer):
    """group_send reaches all members but those in ``exclude``, who may be in any place."""
    mine = [await layer.new_channel() for _ in range(4)]
    channels = [*mine, "normal", "job"]
    for channel in channels:
        await layer.group_add("room", channel)
    left_out = {mine[1], "job"}
    await layer.group_send("room", {"type": "news"}, exclude=[mine[1], "job", "no-member"])
    for channel in channels:
        if channel not in left_out:
            assert await soon(layer.receive(channel)) == {"type": "news"}
    for channel in channels:
        assert await is_empty(layer, channel)


async def test_everyone_but_all_of_us(layer):
    """Nobody gets a message from which all members are excluded, and excluding nobody excludes nobody."""
    mine = [await layer.new_channel() for _ in range(2)]
    for channel in mine:
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "none"}, exclude=mine)
    await layer.group_send("room", {"type": "all"}, exclude=())
    for channel in mine:
        assert await soon(layer.receive(channel)) == {"type": "all"}
        assert await is_empty(layer, channel)


async def test_members_of_another_layer_but_one(make):
    """Members that receive through another layer are excluded one by one, whichever way the message takes there."""
    sender, receiver = make(), make()
    channels = [await receiver.new_channel() for _ in range(3)]
    for channel in channels:
        await receiver.group_add("room", channel)
    tasks = [asyncio.ensure_future(receiver.receive(channel)) for channel in channels]
    await sender.group_send("room", {"type": "not for the second"}, exclude={channels[1]})
    await sender.group_send("room", {"type": "not for the others"}, exclude=[channels[0], channels[2]])
    received = await soon(asyncio.gather(*tasks))
    first, second = {"type": "not for the second"}, {"type": "not for the others"}
    assert received == [first, second, first]


async def test_a_single_name_is_no_list(layer):
    """Who writes exclude="name" is told to write a list; a bad name in the list is refused. Nothing is sent."""
    await layer.group_add("room", "abc")
    for wrong in ("abc", b"abc", 7, None, ["not valid"], [None]):
        with pytest.raises(TypeError):
            await layer.group_send("room", {"type": "news"}, exclude=wrong)
    assert await is_empty(layer, "abc")
