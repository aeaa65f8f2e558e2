"""What channels_lite.testing and the pytest fixture promise: a layer of a test's own, and nothing of it afterwards."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connections, transaction
from django.test.utils import override_settings

from channels_lite.errors import ConfigError, LayerClosed
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.testing import own_layer
from tests.patience import PATIENCE, until

CLASSES = {"aio": AIOSQLiteChannelLayer, "core": SQLiteChannelLayer}
HELLO = {"type": "hello"}


class Spoiled(Exception):
    """What a test raises in the body of a context manager."""


def entry(kind: str, **config: Any) -> dict[str, Any]:
    """What CHANNEL_LAYERS says of a layer of this kind."""
    backend = CLASSES[kind]
    return {"BACKEND": f"{backend.__module__}.{backend.__name__}", "CONFIG": config}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; none may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def layers(path: str, alias: str) -> Iterator[dict[str, Any]]:
    """The settings: a layer of each kind, which is not to be touched, and others. They must be the same again."""
    configured = {
        "aio": entry("aio", path=f"{path}-real", capacity=7, prefix="real-"),
        "core": entry("core", database=alias, capacity=7, prefix="real-"),
        "foreign": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 3}},
        "late": entry("aio", path=":memory:"),
    }
    with override_settings(CHANNEL_LAYERS=configured):
        before = {name: get_channel_layer(name) for name in ("aio", "core", "foreign")}
        yield configured
        assert configured == settings.CHANNEL_LAYERS
        assert {name: get_channel_layer(name) for name in before} == before
    assert not os.path.exists(f"{path}-real")


kinds = pytest.mark.parametrize("kind", ["aio", "core"])
everywhere = pytest.mark.usefixtures("layers")


def talk(layer: Any, channel: str = "inbox") -> None:
    """Send and receive from synchronous code."""
    async_to_sync(layer.send)(channel, HELLO)
    assert async_to_sync(layer.receive)(channel) == HELLO


async def atalk(layer: Any, channel: str = "inbox") -> None:
    """The same from a coroutine, which waits in vain for a moment before."""
    waiting = asyncio.ensure_future(layer.receive(channel))
    await asyncio.sleep(0)
    await layer.send(channel, HELLO)
    assert await asyncio.wait_for(waiting, PATIENCE) == HELLO


def rows(path: str) -> int:
    """How many messages and memberships are in a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = ("channels_lite_message", "channels_lite_membership")
        return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def leave_something(layer: Any) -> None:
    """A message and a membership that nobody takes out."""
    async_to_sync(layer.send)("left", HELLO)
    async_to_sync(layer.group_add)("left", "left")


def spoil(layer: Any, alias: str | None = None) -> None:
    """Leave something and fail; with ``alias``, in a transaction that cannot go on."""
    leave_something(layer)
    if alias is not None:
        transaction.set_rollback(True, alias)
    raise Spoiled


@everywhere
@kinds
def test_with(kind: str) -> None:
    """The layer is new, of the settings' kind, with their options but for those that are given, and is the alias's."""
    old = get_channel_layer(kind)
    with own_layer(kind, expiry=5) as layer:
        assert layer is get_channel_layer(kind) is not old
        assert type(layer) is CLASSES[kind]
        assert (layer.expiry, layer.capacity) == (5, 7)
        assert settings.CHANNEL_LAYERS[kind]["CONFIG"]["expiry"] == 5
        talk(layer)
    assert get_channel_layer(kind) is old


@everywhere
@kinds
async def test_async_with(kind: str) -> None:
    """The same for a coroutine; it waits, is woken, and goes on to the layer that was there before."""
    old = get_channel_layer(kind)
    async with own_layer(kind) as layer:
        assert layer is get_channel_layer(kind) is not old
        await atalk(layer)
    assert get_channel_layer(kind) is old
    await asyncio.sleep(0)


@everywhere
@kinds
def test_nothing_stays_in_files(kind: str, path: str) -> None:
    """What nobody has received is gone, even if the layer was closed already; a connection made for that is closed."""
    for close in (False, True):
        with own_layer(kind) as layer:
            leave_something(layer)
            if close:
                async_to_sync(layer.close)()
                connections["core"].close()
        if kind == "core":
            assert rows(path) == 0
    assert connections["core"].connection is None


@everywhere
async def test_nothing_stays_of_async_sends(path: str) -> None:
    """So is what a coroutine has sent through the layer core, and no thread keeps a connection of Django's for that."""
    async with own_layer("core") as layer:
        await layer.send("left", HELLO)
        await layer.group_add("left", "left")
    assert rows(path) == 0
    assert await sync_to_async(lambda: connections["core"].connection)() is None


@everywhere
@kinds
def test_error_in_the_body(kind: str) -> None:
    """An error leaves nothing behind either, and comes through."""
    with pytest.raises(Spoiled), own_layer(kind) as layer:
        spoil(layer)
    assert get_channel_layer(kind) is not layer


@everywhere
@kinds
def test_wrong_option(kind: str) -> None:
    """A wrong option is the layer's own error, and the settings are as before."""
    with pytest.raises(ConfigError, match="'capacity'"), own_layer(kind, capacity="many"):
        pytest.fail("it has begun")


@everywhere
@kinds
def test_nested_and_repeated(kind: str) -> None:
    """One within the other is another layer, and the outer one goes on afterwards; an object may be used again."""
    own = own_layer(kind)
    for _ in range(2):
        with own as outer:
            async_to_sync(outer.send)("inbox", {"type": "outer"})
            with own as inner, own_layer(kind) as innermost:
                assert len({id(outer), id(inner), id(innermost)}) == 3
                talk(inner)
                talk(innermost)
            assert get_channel_layer(kind) is outer
            assert async_to_sync(outer.receive)("inbox") == {"type": "outer"}
            talk(outer)  # the first time's message was no more there


@everywhere
def test_other_entries_stay() -> None:
    """Layers under other names are the same objects all the time, those that are first asked for meanwhile too."""
    foreign = get_channel_layer("foreign")
    with own_layer("aio") as layer:
        assert get_channel_layer("foreign") is foreign
        late = get_channel_layer("late")
        with own_layer("core"):
            assert get_channel_layer("aio") is layer
            assert get_channel_layer("late") is late
    assert get_channel_layer("foreign") is foreign
    assert get_channel_layer("late") is late


@everywhere
def test_where_the_settings_have_no_layer_of_ours() -> None:
    """It is the layer aio, with the given options only."""
    with own_layer("foreign") as layer, own_layer("foreign", capacity=1) as other:
        assert [type(layer), type(other)] == [AIOSQLiteChannelLayer] * 2
        assert [layer.capacity, other.capacity] == [100, 1]
        talk(other)
    with override_settings():
        del settings.CHANNEL_LAYERS
        with own_layer() as layer:
            assert layer is get_channel_layer()
            talk(layer)
        assert get_channel_layer() is None


@everywhere
def test_what_it_cannot_be(folders: Path) -> None:
    """A name that is no entry is an error, and so is a decorator without brackets, before any test is lost by it."""
    with pytest.raises(ConfigError, match="no entry 'defualt'"), own_layer("defualt"):
        pass
    with pytest.raises(TypeError, match=r"a decorator is @own_layer\(\)"):

        @own_layer  # type: ignore[arg-type]
        class Tests(unittest.TestCase):
            pass


@everywhere
def test_core_is_not_known_to_sql(alias: str) -> None:
    """Of a layer of a test's in the settings' database, nothing is left that publishing from SQL could go by."""
    with own_layer("core") as layer:
        layer.sync.send("inbox", HELLO)
    answer = connections[alias].cursor().execute("SELECT count(*) FROM channels_lite_layer").fetchall()
    assert answer == [(0,)]


@everywhere
def test_file_of_its_own(folders: Path) -> None:
    """The layer aio has a file in a temporary folder, through which it reaches other processes."""
    with own_layer("aio") as layer:
        assert Path(layer.file()).parent.parent == folders
        code = (
            "import asyncio, sys; from channels_lite.layers.aio import AIOSQLiteChannelLayer as Layer\n"
            "async def main(layer): await layer.send('inbox', {'type': 'hello'}); await layer.close()\n"
            "asyncio.run(main(Layer(path=sys.argv[1], prefix='real-')))"
        )
        subprocess.run([sys.executable, "-c", code, layer.file()], check=True, timeout=PATIENCE)
        assert async_to_sync(layer.receive)("inbox") == HELLO


@everywhere
def test_another_file(folders: Path, tmp_path: Path) -> None:
    """A path or an alias that is given is used, and a file stays; in memory there is none."""
    for options in ({"path": ":memory:"}, {"path": tmp_path / "given.sqlite3"}, {"database": "channels"}):
        with own_layer("aio", **options) as layer:
            assert list(folders.iterdir()) == []
            talk(layer)
    assert (tmp_path / "given.sqlite3").exists()


@everywhere
def test_prefix_of_its_own() -> None:
    """The layer core, on one database with others, neither sees what is there nor empties it."""
    with own_layer("core", prefix="other") as other:
        leave_something(other)
        with own_layer("core") as layer:
            assert layer.options.prefix not in ("", "real-", "other")
            async_to_sync(layer.group_send)("left", {"type": "unseen"})
            talk(layer, "left")
            leave_something(layer)
        assert async_to_sync(other.receive)("left") == HELLO


@everywhere
def test_transaction_that_cannot_go_on() -> None:
    """In a transaction that can only be rolled back, the error that the test is about comes through."""
    with own_layer("core") as layer:
        talk(layer)
    with pytest.raises(Spoiled), transaction.atomic("core"), own_layer("core") as layer:
        spoil(layer, alias="core")


@everywhere
async def test_with_in_a_loop() -> None:
    """By `with` in the thread of a loop, the layer aio is closed all the same, and core says what to write instead."""
    with own_layer("aio") as layer:
        await atalk(layer)
    with pytest.raises(RuntimeError, match="async with own_layer"), own_layer("core"):
        pytest.fail("it has begun")
    await asyncio.sleep(0)  # the watcher stops in a callback


@everywhere
@kinds
async def test_receivers_end(kind: str) -> None:
    """Who still waits when the time is over learns that the layer was closed."""
    async with own_layer(kind) as layer:
        waiting = asyncio.ensure_future(layer.receive("inbox"))
        await until(layer._mailboxes.queues)
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(waiting, PATIENCE)


@everywhere
@kinds
def test_decorator(kind: str) -> None:
    """A function, a coroutine and each test of a test case have a layer of their own, which setUp() sees as well."""
    seen = [get_channel_layer(kind)]

    def look() -> None:
        layer = get_channel_layer(kind)
        assert layer not in seen
        seen.append(layer)

    @own_layer(kind)
    def function(number: int) -> int:
        look()
        talk(get_channel_layer(kind))
        return number

    @own_layer(kind)
    async def coroutine(number: int) -> int:
        look()
        await atalk(get_channel_layer(kind))
        return number

    @own_layer(kind)
    class Case(unittest.IsolatedAsyncioTestCase):
        def setUp(self) -> None:
            look()

        def test_function(self) -> None:
            assert get_channel_layer(kind) is seen[-1]

        test_again = test_function

    assert function(1) + function(2) + asyncio.run(coroutine(3)) == 6
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert (result.testsRun, result.errors, result.failures) == (2, [], [])
    assert len(seen) == 6


def test_fixture(channel_layer: Any) -> None:
    """The fixture is the layer of the alias `default`."""
    assert channel_layer is get_channel_layer()
    talk(channel_layer)


async def test_fixture_for_a_coroutine(channel_layer: Any) -> None:
    """And works in a loop, whose watcher it stops."""
    assert channel_layer is get_channel_layer()
    await atalk(channel_layer)


def python(code: str) -> str:
    """Run code in a process of its own and return what it prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_plugin_is_light() -> None:
    """pytest's plugin brings nothing along: whoever does not ask for the fixture does not notice it."""
    others = "{'django', 'channels', 'asgiref', 'apsw', 'msgspec', 'channels_lite.testing'} & set(sys.modules)"
    assert python(f"import sys, channels_lite.pytest_plugin; print({others} or 'nothing')") == "nothing"


def test_needs_no_pytest() -> None:
    """own_layer() works where pytest and channels.testing's daphne are not installed, and before django.setup()."""
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['daphne'] = None\n"
        "from django.conf import settings; settings.configure()\n"
        "from asgiref.sync import async_to_sync; from channels_lite.testing import own_layer\n"
        "with own_layer() as layer: async_to_sync(layer.send)('x', {}); print(async_to_sync(layer.receive)('x'))"
    )
    assert python(code) == "{}"
