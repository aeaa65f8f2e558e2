"""Expiry of messages and memberships. What expires is waited for: these tests take as long as their expiry."""

import asyncio

import pytest
from channels.exceptions import ChannelFull

from tests.conformance.conftest import is_empty, soon

EXPIRY = 0.3  # seconds


async def expire(seconds: float = EXPIRY) -> None:
    """Let more than this time pass."""
    await asyncio.sleep(seconds + 0.1)


@pytest.mark.parametrize("specific", [False, True])
async def test_an_unread_message_expires(make, specific):
    """After its expiry a message is not received any more; a later one is."""
    layer = make(expiry=EXPIRY)
    channel = await layer.new_channel() if specific else "jobs"
    await layer.send(channel, {"type": "old"})
    await expire()
    await layer.send(channel, {"type": "new"})
    assert (await soon(layer.receive(channel)))["type"] == "new"
    assert await is_empty(layer, channel)


@pytest.mark.deviation("memory", "send() has no such argument")
async def test_a_message_has_its_own_expiry(make):
    """send(…, expiry=seconds) overrides the layer's; the order stays that of sending."""
    layer = make(expiry=60)
    await layer.send("jobs", {"type": "first"})
    await layer.send("jobs", {"type": "short"}, expiry=EXPIRY)
    await layer.send("jobs", {"type": "second"}, expiry=30)
    await layer.send("jobs", {"type": "gone at once"}, expiry=0.001)
    await expire()
    assert [(await soon(layer.receive("jobs")))["type"] for _ in range(2)] == ["first", "second"]
    assert await is_empty(layer, "jobs")


@pytest.mark.deviation("memory", "send() has no such argument")
@pytest.mark.parametrize("expiry", [-1, 0, float("nan"), float("inf"), "60", True, 10**12])
async def test_a_bad_expiry_is_refused(make, expiry):
    """An expiry that is no number of seconds is refused, by name."""
    with pytest.raises(TypeError, match="expiry"):
        await make().send("jobs", {"type": "x"}, expiry=expiry)


@pytest.mark.deviation("memory", "send() has no such argument")
async def test_order_is_that_of_sending_not_of_expiry(make):
    """A message that expires later does not fall behind one that expires sooner."""
    layer = make()
    for number, expiry in enumerate((50, 10, 40, 20, 30)):
        await layer.send("jobs", {"type": "x", "number": number}, expiry=expiry)
    assert [(await soon(layer.receive("jobs")))["number"] for _ in range(5)] == list(range(5))


@pytest.mark.deviation("redis", "times: expired messages count until the second is over")
@pytest.mark.deviation("memory", "it cleans only the channels' oldest messages, and only in receive() and group_send()")
@pytest.mark.parametrize("specific", [False, True])
async def test_expired_messages_do_not_count_against_capacity(make, specific):
    """A channel full of expired messages has room, whether or not anybody has trimmed it."""
    layer = make(expiry=EXPIRY, capacity=2, auto_trim=False)
    channel = await layer.new_channel() if specific else "jobs"
    for _ in range(2):
        await layer.send(channel, {"type": "old"})
    with pytest.raises(ChannelFull):
        await layer.send(channel, {"type": "x"})
    await expire()
    await layer.send(channel, {"type": "new"})
    assert (await soon(layer.receive(channel)))["type"] == "new"


async def test_memberships_expire(make):
    """group_expiry seconds after its last group_add, a channel is no member any more."""
    layer = make(group_expiry=1)
    once, again = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", once)
    await layer.group_add("group", again)
    await expire(1.2)
    await layer.group_add("group", again)
    await expire(1.2)
    await layer.group_add("group", again)
    await layer.group_send("group", {"type": "x"})
    assert await soon(layer.receive(again)) == {"type": "x"}
    assert await is_empty(layer, once)


async def trimmed(layer):
    """What has expired is removed now, in the way of this layer."""
    if hasattr(layer, "clean_expired"):
        await layer.clean_expired()


@pytest.mark.deviation("redis", "a message that expires unread: memberships end by their own expiry")
@pytest.mark.parametrize("prefixes", [("one", "other"), ("same", "same"), (None, "other")])
async def test_an_unread_expired_message_ends_the_memberships(make, prefixes):
    """A channel on which a message expired unread leaves its groups, its siblings with the same prefix do not."""
    layer = make(expiry=EXPIRY)
    dead, alive = [await layer.new_channel(prefix) if prefix else "normal" for prefix in prefixes]
    await layer.group_add("group", dead)
    await layer.group_add("group", alive)
    await layer.send(dead, {"type": "unread"})
    await expire()
    await trimmed(layer)
    await layer.group_send("group", {"type": "x"})
    assert await soon(layer.receive(alive)) == {"type": "x"}
    assert await is_empty(layer, dead)


async def test_a_membership_outlives_messages_that_were_read(make):
    """Only an unread message ends a membership, not the passing of its expiry."""
    layer = make(expiry=EXPIRY)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    for _ in range(3):
        await layer.group_send("group", {"type": "x"})
        await soon(layer.receive(channel))
        await expire()
        await trimmed(layer)
    await layer.group_send("group", {"type": "x"})
    assert await soon(layer.receive(channel)) == {"type": "x"}


@pytest.mark.deviation("redis", "a message that expires unread: memberships end by their own expiry")
@pytest.mark.deviation("memory", "it parks nothing")
async def test_a_parked_message_expires_too(make):
    """A message that was claimed for a receiver who does not come expires in its mailbox, and ends the membership."""
    layer = make(expiry=EXPIRY)
    gone, quick = await layer.new_channel(), await layer.new_channel()
    for channel in (gone, quick):
        await layer.group_add("group", channel)
    await make(expiry=EXPIRY).group_send("group", {"type": "x"})
    await soon(layer.receive(quick))
    await expire()
    await layer.clean_expired()
    await layer.group_send("group", {"type": "y"})
    assert await is_empty(layer, gone)
    assert (await soon(layer.receive(quick)))["type"] == "y"


@pytest.mark.deviation("memory", "it parks nothing")
async def test_an_expired_parked_message_is_not_received_even_before_it_is_swept(make):
    """The receiver that comes late gets the next message and not the expired one."""
    layer = make(expiry=EXPIRY, auto_trim=False)
    late, quick = await layer.new_channel(), await layer.new_channel()
    other = make(expiry=EXPIRY, auto_trim=False)
    await other.send(late, {"type": "old"})
    await other.send(quick, {"type": "x"})
    await soon(layer.receive(quick))
    await expire()
    await layer.send(late, {"type": "new"})
    assert (await soon(layer.receive(late)))["type"] == "new"
