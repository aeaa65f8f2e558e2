"""What tests on generated input share: how many examples, layers of every kind, and questions to their databases."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from hypothesis import HealthCheck, settings

from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.journal import keep_a_wal

Layer = SQLiteLayer[Any]
Make = Callable[..., Layer]

# The same examples each time, so that a change that breaks something is what fails. For others, and more of them:
# EXAMPLES=20000 python -m pytest tests/faults/test_input.py
MANY = os.environ.get("EXAMPLES")
# No deadline: the machine may be busy. No health checks: a layer is made once for all examples of a test.
generated = settings(
    max_examples=int(MANY or 40),
    derandomize=MANY is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

KINDS = ["aio", "core", "core in memory"]


@contextlib.asynccontextmanager
async def layers(kind: str, path: str) -> AsyncIterator[Make]:
    """Make layers of one kind on a file (core: with a -wal) or in memory; they are closed afterwards."""
    alias, made = connections.settings["core"], []
    alias["NAME"] = ":memory:" if "memory" in kind else path
    if kind == "core":
        keep_a_wal(path)

    def make(**options: Any) -> Layer:
        if kind == "aio":
            made.append(AIOSQLiteChannelLayer(path=path, **options))
        else:
            made.append(SQLiteChannelLayer(database="core", **options))
        return made[-1]

    try:
        yield make
    finally:
        for layer in made:
            await layer.close()
        await sync_to_async(_close)()
        alias["NAME"] = ""
        await asyncio.sleep(0)  # watchers of this loop stop in a callback


def _close() -> None:
    # Not Django's close(), which spares a database in memory.
    raw, connections["core"].connection = connections["core"].connection, None
    if raw is not None:
        raw.close()


async def rows(layer: Layer, sql: str, *parameters: Any) -> list[Any]:
    """What the layer's own database answers."""
    answer: list[Any] = await layer._aside(lambda execute: execute(sql, parameters))
    return [tuple(row) for row in answer]


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal to the last bit: 1 is not True and not 1.0, and nan is nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)
