"""All contenders that can be had on this machine, and those that cannot, with the reason."""

import contextlib
import importlib.util
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests import redis_server
from tests.benchmarks import names, release
from tests.benchmarks.contenders import Contender, Missing
from tests.redis_server import Redis


@dataclass
class Lineup:
    """Who takes part."""

    contenders: list[Contender] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    redis: Redis | None = None

    async def clean(self) -> None:
        """Before each part: what the contenders share begins empty."""
        if self.redis is not None:
            self.redis.flush()


@contextlib.asynccontextmanager
async def lineup(folder: str) -> AsyncIterator[Lineup]:
    """Install and start what is needed; it is stopped when the block ends."""
    found = Lineup(
        [
            Contender(names.APSW, "apsw", ours=True),  # Django must not open that file
            Contender(names.CORE, "core", ours=True, alias="default"),
            Contender(names.MEMORY, "memory", crosses=False, encrypts=False),
        ]
    )
    async with contextlib.AsyncExitStack() as stack:
        _add_redis(found, stack, f"{folder}/redis")
        await _add_release(found, f"{folder}/release")
        yield found


def _add_redis(found: Lineup, stack: contextlib.AsyncExitStack, folder: str) -> None:
    if lacking := _lacking():
        found.missing += [Missing(name, lacking) for name in (*names.REDIS_CORE, *names.REDIS_PUBSUB)]
        return
    redis = found.redis = stack.enter_context(redis_server.running(folder))
    for layer, both in (("redis-core", names.REDIS_CORE), ("redis-pubsub", names.REDIS_PUBSUB)):
        for name, address in zip(both, (redis.tcp, redis.unix), strict=True):
            environment = {"CHANNELS_LITE_BENCHMARK_REDIS": address}
            found.contenders.append(Contender(name, layer, environment=environment))


def _lacking() -> str:
    """What channels_redis needs and is not here; empty where nothing is."""
    if redis_server.program() is None:
        return redis_server.MISSING
    for package in ("channels_redis", "hiredis"):  # without the latter its peers are slower than they need be
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; install the extra bench."
    return ""


async def _add_release(found: Lineup, folder: str) -> None:
    try:
        python = await release.install(folder)
    except release.NotInstalled as error:
        found.missing += [Missing(name, str(error)) for name in (names.RELEASE_AIO, names.RELEASE_CORE)]
        return
    found.contenders.append(Contender(names.RELEASE_AIO, "apsw", python, alias="apsw"))
    found.contenders.append(Contender(names.RELEASE_CORE, "core", python, alias="default"))
