"""The layers under test, and what the suite's tests share."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from channels_lite.layers import handover
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.layers.redis import RedisChannelLayer
from tests.journal import keep_a_wal
from tests.patience import PATIENCE

Make = Callable[..., BaseChannelLayer]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deviation(layer, how): the named layer deviates, in this way")


OURS = ["aio", "aio-rows", "core", "core-wal", "redis"]


@pytest.fixture(params=["memory", *OURS])
def kind(request: pytest.FixtureRequest) -> str:
    """Which layer is under test."""
    return under_test(request)


def under_test(request: pytest.FixtureRequest) -> str:
    """The layer that this parameter of ``kind`` names; skips where it is known to deviate."""
    for marker in request.node.iter_markers("deviation"):
        layer, how = marker.args
        if layer == request.param:
            pytest.skip(f"{layer} deviates: {how}")
    return str(request.param)


@pytest.fixture
async def make(
    kind: str, path: str, alias: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Make]:
    """Make layers that share what they hold, as far as two objects of this kind can; they are closed afterwards."""
    if kind == "aio-rows":  # as where there are no inboxes
        monkeypatch.setattr(handover, "is_possible", lambda: False)
    made: list[BaseChannelLayer] = []
    if kind == "core-wal":
        keep_a_wal(path)
    if kind == "redis":
        server = request.getfixturevalue("redis")

    def make_one(**options: Any) -> BaseChannelLayer:
        if kind == "memory":
            made.append(InMemoryChannelLayer(**options))
        elif kind == "redis":
            made.append(RedisChannelLayer(hosts=[server.unix], **options))
        elif kind.startswith("core"):
            made.append(SQLiteChannelLayer(database=alias, **options))
        else:
            made.append(AIOSQLiteChannelLayer(path=path, **options))
        return made[-1]

    yield make_one
    for layer in made:
        await layer.close()
    await asyncio.sleep(0)


@pytest.fixture
def layer(make: Make) -> BaseChannelLayer:
    """A layer with the default options."""
    return make()


async def soon(awaitable: Any) -> Any:
    """The result of something that must not take long."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def is_empty(layer: BaseChannelLayer, channel: str) -> bool:
    """Whether a receive on this channel finds nothing."""
    try:
        await asyncio.wait_for(layer.receive(channel), 0.05)
    except asyncio.TimeoutError:
        return True
    return False


async def waiting(layer: BaseChannelLayer, channel: str) -> "asyncio.Task[dict[str, Any]]":
    """A task that waits in receive() on this channel by now."""
    task = asyncio.ensure_future(layer.receive(channel))
    started = asyncio.get_running_loop().create_future()
    # The layer is open and the channel empty, so one step takes the task to its wait.
    asyncio.get_running_loop().call_soon(started.set_result, None)
    await started
    return task
