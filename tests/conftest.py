"""What all tests share: Django's settings, a file for the layer, and a look for what a test left behind."""

import asyncio
import gc
import os
import sysconfig
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django
import pytest

django.setup()

from django.db import connections

import channels_lite
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests import redis_server
from tests.needs import need
from tests.redis_server import Redis

WHEEL = "CHANNELS_LITE_WHEEL"  # the environment variable that tox sets: what is tested is the wheel, and not src


def pytest_configure() -> None:
    """Run no test on another package than the one that was installed to be tested."""
    place = Path(channels_lite.__file__)
    if os.environ.get(WHEEL) and not place.is_relative_to(sysconfig.get_path("purelib")):
        raise pytest.UsageError(f"{WHEEL} is set, and channels_lite comes from {place.parent}: install the wheel.")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--soak", type=float, default=1.0, metavar="MINUTES", help="how long tests/faults/test_soak.py takes"
    )


def pytest_collection_finish() -> None:
    """Leave what stays anyway out of the collections after each test: they took a third of the suite's time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_leaked() -> Iterator[None]:
    """Fail a test after which keeper threads or descriptors are left that were not there before."""
    before, threads = _left_over(), set(threading.enumerate())
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("channels_lite") or "_close_unused" in thread.name:
            thread.join(5)
    deadline = time.monotonic() + 5
    while (left := _left_over() - before) and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread that is not ours to know may be closing it
    assert not left, f"the test left behind: {sorted(left)}"


def _left_over() -> set[str]:
    threads = {thread.name for thread in threading.enumerate() if thread.name.startswith("channels_lite")}
    return threads | _descriptors()


def _descriptors() -> set[str]:
    """Open files of layers, their inboxes, and inotify instances."""
    found, inboxes = set(), _inboxes()
    if Path("/proc/self/fd").exists():
        for number in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{number}")
            except OSError:  # closed meanwhile
                continue
            if target.endswith(" (deleted)"):
                continue  # what closing it would do, SQLite does to the file that has its name now: see Own.abandon()
            if "sqlite3" in target or "inotify" in target or target in inboxes:
                found.add(f"{number}: {target}")
    return found


def _inboxes() -> set[str]:
    """The sockets of inboxes, as the links of descriptors name them."""
    sockets = Path("/proc/net/unix").read_text().splitlines() if Path("/proc/net/unix").exists() else []
    return {f"socket:[{line.split()[6]}]" for line in sockets if line.endswith(".socket")}


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis server of the tests' own."""
    need(redis_server.program(), redis_server.MISSING)
    with redis_server.running(str(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def redis(redis_process: Redis) -> Redis:
    """An empty Redis server."""
    redis_process.flush()
    return redis_process


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A database file that does not exist yet."""
    return str(tmp_path / "channels.sqlite3")


@pytest.fixture
def alias(path: str) -> Iterator[str]:
    """An alias in DATABASES whose file is the test's. What this thread has opened of it is closed afterwards."""
    settings = connections.settings["core"]
    settings["NAME"] = path
    yield "core"
    settings["NAME"] = ""
    connections["core"].close()


@pytest.fixture
async def make_layer(path: str) -> AsyncIterator[Callable[..., AIOSQLiteChannelLayer]]:
    """Make layers on the test's file; they are closed afterwards."""
    layers: list[AIOSQLiteChannelLayer] = []

    def make(**configuration: Any) -> AIOSQLiteChannelLayer:
        if "database" not in configuration:
            configuration.setdefault("path", path)
        layers.append(AIOSQLiteChannelLayer(**configuration))
        return layers[-1]

    yield make
    for layer in layers:
        await layer.close()
    await asyncio.sleep(0)  # watchers of this loop stop in a callback


@pytest.fixture
async def layer(make_layer: Callable[..., AIOSQLiteChannelLayer]) -> AIOSQLiteChannelLayer:
    """A layer with the default options."""
    return make_layer()
