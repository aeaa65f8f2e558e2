"""The switch from channels-lite 0.3 and 0.4: their settings, commands and names, as they stand."""

import asyncio
import importlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Coroutine
from contextlib import closing
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from channels.exceptions import InvalidChannelLayerError
from channels.layers import BaseChannelLayer

from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.serializers import BaseMessageSerializer, registry
from tests.patience import until
from tests.unit import visitor
from tests.unit.blocks import BACKENDS, BLOCKS, INSTALLED, OTHER_VALUES, SEPARATE, Block

PATIENCE = 60.0  # seconds until a process that hangs fails its test
FORMATS = {"core": "json", "aio": "msgpack"}
DECODE = {"json": json.loads, "msgpack": msgspec.msgpack.decode}

MANAGE = """\
import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"""


class Project:
    """A Django project in a folder of its own, whose layer is of the given kind and has the block's settings."""

    def __init__(self, folder: Path, kind: str, block: Block) -> None:
        self.folder = folder / kind
        self.kind = kind
        self.block = block
        self.folder.mkdir()
        self.configure(block)
        (self.folder / "manage.py").write_text(MANAGE)

    def configure(self, block: Block) -> None:
        """Have these settings from now on."""
        (self.folder / "settings.py").write_text(block.settings(BACKENDS[self.kind]))

    @property
    def file(self) -> Path:
        """Where the layer's messages must be."""
        if self.block.alias != "default":
            return self.folder / "channels.sqlite3"
        return self.folder / ("db.sqlite3" if self.kind == "core" else "db-channels.sqlite3")

    async def visit(self, *arguments: str) -> str:
        """Let the visitor do something in a process of its own; it must succeed and write no warning."""
        return await self._run(visitor.__file__, *arguments)

    async def manage(self, *arguments: str) -> str:
        """Run ``python manage.py``, which must succeed and write no warning; returns what it prints."""
        return await self._run("manage.py", *arguments)

    async def _run(self, *command: str) -> str:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(self.folder)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-B",  # two settings modules of the same second and size must not be taken for one
            *command,
            cwd=self.folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert (process.returncode, err.decode()) == (0, ""), f"{self.kind}: {command} failed:\n{err.decode()}"
        return out.decode()

    def ask(self, sql: str) -> list[Any]:
        """Rows of the layer's file."""
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def holds(self, words: str) -> bool:
        """Whether the words can be read in any of the project's databases."""
        files = [path for path in self.folder.glob("*.sqlite3*") if path.is_file()]
        return any(words.encode() in path.read_bytes() for path in files)


async def both(first: Coroutine[Any, Any, None], second: Coroutine[Any, Any, None]) -> None:
    """Two projects at a time."""
    for error in await asyncio.gather(first, second, return_exceptions=True):
        if error is not None:
            raise error


@pytest.mark.parametrize("name", [*BLOCKS, *OTHER_VALUES])
async def test_a_settings_block_works_as_it_stands(name: str, tmp_path: Path) -> None:
    block = (BLOCKS | OTHER_VALUES)[name]

    async def check(project: Project) -> None:
        before = _milliseconds()
        await project.visit("use", json.dumps(dict(block.capacities)))
        after = _milliseconds()
        payload = _expiring(project, "message WHERE queue = 'left'", "payload", block.expiry, before, after)
        member = _expiring(project, "membership WHERE group_name = 'left'", "queue", block.group_expiry, before, after)
        assert member == "left"
        assert project.holds(visitor.LEFT["text"]) is not block.encrypted
        if not block.encrypted:
            assert DECODE[block.serializer_format or FORMATS[project.kind]](payload) == visitor.LEFT

    await both(check(Project(tmp_path, "core", block)), check(Project(tmp_path, "aio", block)))


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _expiring(project: Project, rows: str, column: str, seconds: int, before: int, after: int) -> Any:
    """A column of the only row, which must have been made between two moments, to live for so many seconds."""
    ((value, expires_at),) = project.ask(f"SELECT {column}, expires_at FROM channels_lite_{rows}")
    assert before - 1 <= expires_at - seconds * 1000 <= after + 1
    return value


async def test_what_one_key_encrypted_is_read_with_that_key_in_second_place(tmp_path: Path) -> None:
    block = BLOCKS["symmetric_encryption_keys"]
    turned = block._replace(
        config=block.config.replace("[SECRET_KEY]", '["a new key that is long enough", SECRET_KEY]')
    )

    async def check(project: Project) -> None:
        await project.visit("use", "{}")
        project.configure(turned)
        assert json.loads(await project.visit("receive", "left")) == visitor.LEFT

    await both(check(Project(tmp_path, "core", block)), check(Project(tmp_path, "aio", block)))


# Commands.

ROUTED = SEPARATE + INSTALLED + 'DATABASE_ROUTERS = ["channels_lite.router.ChannelsRouter"]\n'


@pytest.mark.parametrize(
    ("block", "commands"),
    [
        (Block(around=INSTALLED), [("migrate",)]),
        (Block('{"database": "channels"}', SEPARATE + INSTALLED, "channels"), [("migrate", "--database", "channels")]),
        (Block('{"database": "channels"}', ROUTED, "channels"), [("migrate",), ("migrate", "--database", "channels")]),
    ],
    ids=["default", "separate database", "separate database with the router"],
)
async def test_migrate_brings_the_tables_once(block: Block, commands: list[tuple[str, ...]], tmp_path: Path) -> None:
    async def check(project: Project) -> None:
        for command in commands:
            await project.manage(*command)
        assert project.ask("SELECT count(*) FROM channels_lite_message") == [(0,)]
        assert "No migrations to apply" in await project.manage(*commands[-1])
        await project.visit("use", "{}")

    await both(check(Project(tmp_path, "core", block)), check(Project(tmp_path, "aio", block)))


CLEANING = Block('{"database": "default", "auto_trim": False}', INSTALLED)


@pytest.mark.parametrize("how", ["clean_expired", "clean_channels", "clean_channels --no-vacuum"])
async def test_cleaning_removes_what_has_expired(how: str, tmp_path: Path) -> None:
    """And the command gives the space back, unless it is told not to."""

    async def check(project: Project) -> None:
        await project.visit("expire")
        await until(lambda: project.ask("SELECT count(*) FROM channels_lite_live_message") == [(0,)])
        assert project.ask("SELECT count(*) FROM channels_lite_message") == [(visitor.MANY,)]
        await (project.visit("clean") if how == "clean_expired" else project.manage(*how.split()))
        assert project.ask("SELECT count(*) FROM channels_lite_message") == [(0,)]
        assert (project.ask("PRAGMA freelist_count") == [(0,)]) is (how == "clean_channels")

    await both(check(Project(tmp_path, "core", CLEANING)), check(Project(tmp_path, "aio", CLEANING)))


@pytest.mark.parametrize("extra", ["aio", "cryptography"])
def test_the_extras_are_there(extra: str) -> None:
    """``pip install channels-lite[…]`` finds what it asks for."""
    assert extra in (metadata("channels-lite").get_all("Provides-Extra") or [])


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "layers.core.SQLiteChannelLayer",
        "layers.aio.AIOSQLiteChannelLayer",
        "router.ChannelsRouter",
        "serializers.registry.register_serializer",
        "serializers.registry.get_serializer",
        "serializers.BaseMessageSerializer",
        "serializers.JSONSerializer",
        "serializers.MsgPackSerializer",
        "serializers.SerializerDoesNotExist",
        "management.commands.clean_channels.Command",
    ],
)
def test_a_name_is_where_it_was(name: str) -> None:
    path = name.split(".")
    length = next(index for index, part in enumerate(path) if part == "registry" or part[0].isupper())
    found: Any = importlib.import_module(".".join(["channels_lite", *path[:length]]))
    for attribute in path[length:]:
        found = getattr(found, attribute)
    assert callable(found)


async def test_a_serializer_with_the_old_signatures_works(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spaced(BaseMessageSerializer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

        def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
            return json.dumps(message, indent=4).encode()

        from_bytes = staticmethod(json.loads)

    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry.register_serializer("spaced", Spaced)
    layer = AIOSQLiteChannelLayer(path=":memory:", serializer_format="spaced")
    try:
        await layer.send("channel", {"type": "test"})
        assert await layer.receive("channel") == {"type": "test"}
    finally:
        await layer.close()


@pytest.mark.parametrize("make", [AIOSQLiteChannelLayer, SQLiteChannelLayer])
def test_a_layer_tells_its_settings_by_the_old_names(make: Any) -> None:
    layer: Any = make(
        database="channels",
        expiry=30,
        group_expiry=40,
        capacity=5,
        channel_capacity={"a.*": 6},
        symmetric_encryption_keys=[],
    )
    assert isinstance(layer, BaseChannelLayer)
    assert (layer.database, layer.expiry, layer.group_expiry, layer.capacity) == ("channels", 30, 40, 5)
    assert (layer.get_capacity("a.b"), layer.get_capacity("b")) == (6, 5)
    assert layer.extensions == ["groups", "flush"]
    assert layer.client_prefix


def test_a_layer_on_a_path_names_no_alias() -> None:
    assert AIOSQLiteChannelLayer(path=":memory:").database is None
    assert AIOSQLiteChannelLayer().database == "default"


@pytest.mark.parametrize("make", [AIOSQLiteChannelLayer, SQLiteChannelLayer])
def test_settings_of_channels_redis_work(make: Any) -> None:
    options = {
        "prefix": "asgi",
        "expiry": 60,
        "group_expiry": 86400,
        "capacity": 100,
        "channel_capacity": {"http.request": 200},
        "symmetric_encryption_keys": ["key"],
        "serializer_format": "msgpack",
        "hosts": [("localhost", 6379)],
    }
    assert make(**options).database == "default"
    with pytest.raises(InvalidChannelLayerError, match=r"'random_prefix_length'.*redis alone; take it out"):
        make(**options, random_prefix_length=12)
