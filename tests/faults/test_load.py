"""Many writers and readers in many processes, for a while, and the verdict on all of it."""

import asyncio

from tests.faults.conftest import salt
from tests.faults.log import Event


async def test_everything_at_once(cast, seconds):
    """Writers and readers in six processes, -wal restarts among them: every promise is kept."""
    own = {"do": "own", "groups": ["all"]}
    readers = [
        await cast.start({"do": "receive", "channel": "jobs", "receivers": 3}, {**own, "count": 3}),
        await cast.start({"do": "receive", "channel": "jobs"}, {**own, "count": 2, "churn": 0.05}),
        await cast.start({"do": "receive", "channel": "alone"}, {**own, "timeout": 0.003, "count": 2}),
        await cast.start({"do": "receive", "channel": "large"}, {"do": "receive", "channel": "slow", "pause": 0.02}),
    ]
    channels = await cast.made(7)
    small = {"do": "send", "channels": ["jobs", *channels]}
    first = salt(cast.path)
    writers = [
        await cast.start(
            small,
            {"do": "send", "channels": ["all"], "group": True, "pause": 0.001},
            {"do": "send", "channels": ["large", channels[0]], "size": 100_000, "pause": 0.002},
        ),
        await cast.start(
            {**small, "pause": 0.001},
            {"do": "send", "channels": ["alone"]},
            {"do": "send", "channels": ["slow"], "expiry": 0.5, "pause": 0.001},
        ),
    ]
    await asyncio.sleep(seconds)
    await cast.stop_senders()
    verdict = await cast.verdict()
    assert not verdict, verdict
    assert 0 < (salt(cast.path) - first) % 2**32 < 10_000, "the -wal began anew, more than once perhaps"
    assert await cast.end() == ""
    for event, processes in ((Event.OK, writers), (Event.RECEIVED, readers)):
        assert {record.process for record in cast.records(event)} == {one.process.pid for one in processes}
