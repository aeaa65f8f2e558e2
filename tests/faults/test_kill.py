"""Senders and receivers that are killed at random moments."""

import asyncio
import os
import random
import signal

import pytest

from channels_lite.watcher import Watcher
from tests.faults.conftest import ask
from tests.faults.log import Event
from tests.processes.conftest import PATIENCE

DEATHS = 8


async def lives(cast, *tasks, **options):
    """A process that is killed at a moment that nobody knows beforehand."""
    actor = await cast.start(*tasks, **options)
    await asyncio.sleep(random.uniform(0.0, 0.3))
    await cast.kill(actor)


async def test_senders_are_killed(cast):
    """What they had been told is sent arrives, once and in order; so does what others send."""
    jobs = {"do": "receive", "channel": "jobs"}
    await cast.start(jobs, {"do": "own", "count": 2, "groups": ["all"]})
    await cast.start(jobs, {"do": "own", "count": 2, "groups": ["all"], "timeout": 0.01})
    channels = await cast.made(4)
    sends = [
        {"do": "send", "channels": ["jobs", *channels]},
        {"do": "send", "channels": ["all"], "group": True},
        {"do": "send", "channels": ["jobs", channels[0]], "size": 70_000},
    ]
    await cast.start({**sends[0], "pause": 0.005})
    for _ in range(DEATHS // 2):
        await asyncio.gather(lives(cast, *sends), lives(cast, *sends))
    await cast.stop_senders()
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert len({record.process for record in cast.records(Event.OK)}) == DEATHS + 1
    assert await cast.end() == ""


async def test_receivers_are_killed(cast):
    """No more is lost than what they had claimed, nothing comes twice, and the others go on."""
    jobs = {"do": "receive", "channel": "jobs", "receivers": 3}
    own = {"do": "own", "count": 2, "groups": ["all"]}
    survivor = await cast.start(jobs, own)
    channels = await cast.made(2)
    await cast.start(
        {"do": "send", "channels": ["jobs", *channels], "pause": 0.0005},
        {"do": "send", "channels": ["all"], "group": True, "pause": 0.002},
        expiry=3,
    )
    for _ in range(DEATHS // 2):
        await asyncio.gather(lives(cast, jobs, own, expiry=3), lives(cast, jobs, own, expiry=3))
    last = max(record.at for record in cast.records(Event.KILLED))
    await cast.until(
        lambda: any(r.process == survivor.process.pid and r.at > last for r in cast.records(Event.RECEIVED))
    )
    await cast.stop_senders()
    verdict = await cast.verdict()
    assert not verdict, verdict
    receivers = {record.process for record in cast.records(Event.RECEIVED)}
    assert len(receivers) > DEATHS // 2, "they lived long enough to receive something"
    assert await cast.end() == ""


@pytest.mark.parametrize("how", ["by the expiry of a message", "by their own"])
async def test_memberships_of_a_killed_process_end(cast, how):
    """A message that expires unread takes a dead channel out of its groups; without one, group_expiry does."""
    expiry = {"expiry": 1, **({"group_expiry": 2} if how == "by their own" else {})}
    own = {"do": "own", "count": 3, "groups": ["all"]}
    victim = await cast.start(own, **expiry)
    await cast.made(3)
    survivor = await cast.start({**own, "count": 2}, **expiry)
    living = set(await cast.made(5)) - {r.channel for r in cast.records(Event.MADE) if r.process == victim.process.pid}
    await cast.kill(victim)
    count = "SELECT count(*) FROM channels_lite_membership"
    if how == "by their own":
        await cast.until(lambda: ask(cast.path, count) == "0")
        return
    await cast.start({"do": "send", "channels": ["all"], "group": True, "pause": 0.05}, **expiry)
    await cast.until(lambda: ask(cast.path, count) == "2")
    names = ask(cast.path, "SELECT group_concat(queue || local) FROM channels_lite_membership")
    assert set(names.split(",")) == living
    await cast.until(lambda: all(r.process == survivor.process.pid for r in cast.records(Event.RECEIVED)[-10:]))
    assert not await cast.verdict()


async def test_a_commit_whose_bell_never_rang(make_layer, cast, monkeypatch):
    """A sender that dies between its commit and the bell: who waits finds the message with the next poll."""
    polls, watched = [], Watcher._tick
    monkeypatch.setattr(Watcher, "_tick", lambda watcher: (polls.append(1), watched(watcher))[1])
    layer = make_layer()
    receiving = asyncio.ensure_future(layer.receive("jobs"))
    await asyncio.sleep(0)
    sender = await cast.start({"do": "die_unrung", "channel": "jobs"}, serializer_format="msgpack")
    assert await asyncio.wait_for(sender.process.wait(), PATIENCE) == -signal.SIGKILL
    cast.actors.remove(sender)
    seen = len(polls)
    assert (await asyncio.wait_for(receiving, PATIENCE))["text"] == "unrung"
    assert len(polls) - seen <= 1
    assert os.path.exists(f"{cast.path}-bell")
