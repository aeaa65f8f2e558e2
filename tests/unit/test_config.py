"""The options: what they take, what they refuse with their name in the error, and which file they lead to."""

import os
import re
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import apsw
import pytest
from channels.exceptions import ChannelFull, InvalidChannelLayerError
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.utils.safestring import SafeString

from channels_lite import config
from channels_lite.errors import ConfigError
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.settings import FOLDER, SECRET_KEY

Rename = Callable[[str, Any], None]


class Size(IntEnum):
    """Settings may be enums."""

    SMALL = 5


DEFAULTS = {
    "database": None,
    "path": None,
    "prefix": "",
    "expiry": 60,
    "group_expiry": 86400,
    "capacity": 100,
    "enforce_capacity": True,
    "channel_capacity": {},
    "auto_trim": True,
    "symmetric_encryption_keys": None,
    "plain_sql": False,
    "serializer_format": "msgpack",
    "polling_interval": 0.1,
    "polling_idle_timeout": 1800,
    "pool_size": 10,
    "hosts": None,
}

ACCEPTED = [
    ("plain_sql", True),
    ("database", "default"),
    ("database", "channels"),
    ("database", SafeString("channels")),
    ("database", None),
    ("path", "some.sqlite3"),
    ("path", ":memory:"),
    ("path", None),
    ("prefix", "x" * 100),
    ("expiry", 0.001),
    ("expiry", 10**9),
    ("expiry", Decimal("1.5")),
    ("group_expiry", 5),
    ("capacity", 0),
    ("capacity", 2**31),
    ("capacity", Size.SMALL),
    ("enforce_capacity", False),
    ("channel_capacity", {"http.*": 0, re.compile("x"): 2**31}),
    ("auto_trim", False),
    ("symmetric_encryption_keys", []),
    ("symmetric_encryption_keys", None),
    ("symmetric_encryption_keys", ["text", b"bytes", "\N{SNOWMAN}"]),
    ("serializer_format", "json"),
    ("polling_interval", 3),
    ("polling_interval", None),
    ("polling_idle_timeout", 0.5),
    ("pool_size", 1),
]

REFUSED = [
    ("plain_sql", "yes"),
    ("database", 5),
    ("database", ["default"]),
    ("database", ""),
    ("path", 5),
    ("path", b"bytes"),
    ("path", ""),
    ("path", "file:some.sqlite3?mode=rw"),
    ("prefix", None),
    ("prefix", "x" * 101),
    ("expiry", "60"),
    ("expiry", None),
    ("expiry", True),
    ("expiry", 0),
    ("expiry", -1),
    ("expiry", 10**9 + 1),
    ("expiry", float("nan")),
    ("expiry", float("inf")),
    ("group_expiry", "1"),
    ("group_expiry", 0),
    ("capacity", 1.5),
    ("capacity", "100"),
    ("capacity", True),
    ("capacity", None),
    ("capacity", -1),
    ("capacity", 2**31 + 1),
    ("capacity", 2**70),
    ("enforce_capacity", 1),
    ("enforce_capacity", "yes"),
    ("channel_capacity", [("a", 1)]),
    ("channel_capacity", {1: 1}),
    ("channel_capacity", {("a", "b"): 1}),
    ("channel_capacity", {re.compile(b"bytes"): 1}),
    ("channel_capacity", {"a": -1}),
    ("channel_capacity", {"a": "1"}),
    ("channel_capacity", {"a": 1.0}),
    ("channel_capacity", {"a": True}),
    ("channel_capacity", {"a": None}),
    ("channel_capacity", {"a": 2**63}),
    ("auto_trim", "on"),
    ("symmetric_encryption_keys", 5),
    ("symmetric_encryption_keys", {"a": "b"}),
    ("symmetric_encryption_keys", "one key"),
    ("symmetric_encryption_keys", b"one key"),
    ("symmetric_encryption_keys", [""]),
    ("symmetric_encryption_keys", ["good", None]),
    ("symmetric_encryption_keys", ["lone \ud800 surrogate"]),
    ("serializer_format", None),
    ("serializer_format", "yaml"),
    ("polling_interval", 0),
    ("polling_interval", "0.1"),
    ("polling_interval", float("nan")),
    ("polling_idle_timeout", None),
    ("polling_idle_timeout", 0),
    ("pool_size", 0),
    ("pool_size", 2.5),
    ("pool_size", None),
]

# As in the description of channels-lite 0.3.3, with its placeholders filled in.
OLDER = [
    {"database": "default"},
    {"database": "channels"},
    {"database": "default", "expiry": 60},
    {"database": "default", "group_expiry": 86400},
    {"database": "default", "capacity": 100},
    {"database": "default", "capacity": 100, "enforce_capacity": True},
    {
        "database": "default",
        "capacity": 100,
        "channel_capacity": {"http.request": 200, "http.response!*": 10, "websocket.send!*": 20},
    },
    {"database": "default", "auto_trim": True},
    {"database": "default", "symmetric_encryption_keys": [SECRET_KEY]},
    {"database": "default", "serializer_format": "json"},
    {"database": "default", "serializer_format": "msgpack"},
    {"database": "default", "polling_interval": 0.1},
    {"database": "default", "polling_idle_timeout": 1800},
    {"database": "default", "pool_size": 10},
]


def test_defaults() -> None:
    """An empty CONFIG gives the defaults, those of channels-lite 0.3 as they were there; there are no other options."""
    options = AIOSQLiteChannelLayer().options
    assert {name: getattr(options, name) for name in options.__struct_fields__} == DEFAULTS


@pytest.mark.parametrize(("option", "value"), ACCEPTED)
def test_accepted(option: str, value: Any) -> None:
    """A value of the right type and range arrives in the options as it was given."""
    assert getattr(AIOSQLiteChannelLayer(**{option: value}).options, option) == value


def test_path_object(tmp_path: Path) -> None:
    """The option path takes a Path as well."""
    assert AIOSQLiteChannelLayer(path=tmp_path / "a.sqlite3").options.path == str(tmp_path / "a.sqlite3")


def test_other_collections() -> None:
    """Keys may come as a tuple and channel_capacity as any mapping, or as None."""
    layer = AIOSQLiteChannelLayer(symmetric_encryption_keys=("a", "b"), channel_capacity=MappingProxyType({"a": 7}))
    assert layer.options.symmetric_encryption_keys == ["a", "b"]
    assert layer.get_capacity("a") == 7
    assert AIOSQLiteChannelLayer(channel_capacity=None).options.channel_capacity == {}


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_refused(option: str, value: Any) -> None:
    """A wrong type or range is Channels' own error at construction, with the option's name."""
    with pytest.raises(InvalidChannelLayerError, match=rf"CHANNEL_LAYERS: the option '{option}'"):
        AIOSQLiteChannelLayer(**{option: value})


@pytest.mark.parametrize("value", ["the secret", b"the secret", ["the secret", 5], {"the secret": 1}])
def test_error_does_not_show_keys(value: Any) -> None:
    """What is wrong with the keys is said without showing one."""
    with pytest.raises(ConfigError) as caught:
        AIOSQLiteChannelLayer(symmetric_encryption_keys=value)
    assert "the secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("expirey", "did you mean 'expiry'?"), ("timeout", "the options are database, path, prefix")]
)
def test_unknown_option(name: str, hint: str) -> None:
    """An unknown option is refused with the one that was probably meant, or with all of them."""
    with pytest.raises(InvalidChannelLayerError, match=f"unknown option '{name}'; {re.escape(hint)}"):
        AIOSQLiteChannelLayer(**{name: 1})


def test_missing_alias() -> None:
    """An alias that is not in DATABASES is refused with those that are."""
    with pytest.raises(InvalidChannelLayerError, match=r"'database' names 'cache', .* \('default', 'channels'"):
        AIOSQLiteChannelLayer(database="cache")


def test_alias_of_another_engine() -> None:
    """An alias that is not SQLite is refused with its engine."""
    with pytest.raises(InvalidChannelLayerError, match=r"'database' names 'postgres'.*backends\.postgresql"):
        AIOSQLiteChannelLayer(database="postgres")


def test_no_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DATABASES, leaving out both options names the one that is missing; a path needs none."""
    monkeypatch.setattr(settings, "DATABASES", {})
    with pytest.raises(InvalidChannelLayerError, match=r"option 'database' .*\(empty\).* a file with 'path'"):
        AIOSQLiteChannelLayer()
    assert AIOSQLiteChannelLayer(path=":memory:").file() == config.MEMORY


def test_database_and_path() -> None:
    """Only one of database and path may say where the messages are."""
    with pytest.raises(InvalidChannelLayerError, match="'database' or the option 'path', not both"):
        AIOSQLiteChannelLayer(database="channels", path="x.sqlite3")


def test_channel_capacity() -> None:
    """Globs match whole names, patterns match as they are compiled, and the first that matches wins."""
    layer = AIOSQLiteChannelLayer(
        capacity=1,
        channel_capacity={"http.*": 2, re.compile(r"^http\.x|^ws", re.IGNORECASE): 3, "ws.[ab]": 4, "ws!*": 5},
    )
    expected = {"http.x": 2, "HTTP.X": 3, "ws.a": 3, "WS!x": 3, "other.http.x": 1, "http": 1, "x.ws": 1}
    assert {name: layer.get_capacity(name) for name in expected} == expected


async def test_channel_capacity_of_a_send(make_layer: Callable[..., AIOSQLiteChannelLayer]) -> None:
    """A send obeys the capacity of its channel's pattern, the lowest and the highest included."""
    layer = make_layer(channel_capacity={"none": 0, "all": 2**31})
    await layer.send("all", {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send("none", {"type": "x"})


@pytest.mark.parametrize("configuration", OLDER, ids=lambda value: "-".join(value))
def test_older_configurations(configuration: dict[str, Any]) -> None:
    """Every CONFIG in the description of channels-lite 0.3.3 is taken as it stands."""
    layer = AIOSQLiteChannelLayer(**configuration)
    assert layer.file() == str(FOLDER / f"{'db-' if layer.options.database == 'default' else ''}channels.sqlite3")


def test_construction_does_no_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A constructor opens nothing, asks nothing of the disk, and makes no file."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("I/O in a constructor")

    files = sorted(FOLDER.iterdir())
    for name in ("open", "stat", "mkdir", "listdir"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(apsw, "Connection", refuse)
    layers = [AIOSQLiteChannelLayer(), AIOSQLiteChannelLayer(path=tmp_path / "no folder" / "a.sqlite3")]
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    assert sorted(FOLDER.iterdir()) == files
    assert all(layer._database is None for layer in layers)


def own_file(**configuration: Any) -> str:
    """The file that a CONFIG leads to."""
    return config.own_file(config.parse(configuration))


@pytest.fixture
def rename(monkeypatch: pytest.MonkeyPatch) -> Rename:
    """Give an alias another NAME, in the way and place in which Django's test runner does it."""

    def rename(alias: str, name: Any) -> None:
        monkeypatch.setitem(connections[alias].settings_dict, "NAME", name)

    return rename


def test_default_leads_to_a_companion() -> None:
    """The alias default, named or left out, means a file beside it and never the database itself."""
    assert own_file() == own_file(database="default") == str(FOLDER / "db-channels.sqlite3")


def test_dedicated_alias_leads_to_its_file() -> None:
    """Any other alias means that alias's own file."""
    assert own_file(database="channels") == str(FOLDER / "channels.sqlite3")


def test_path_leads_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is the file itself; a relative one counts from the working directory."""
    monkeypatch.chdir(tmp_path)
    assert own_file(path="a.sqlite3") == own_file(path=tmp_path / "a.sqlite3") == str(tmp_path / "a.sqlite3")
    assert own_file(path=":memory:") == config.MEMORY


@pytest.mark.parametrize("alias", ["default", "channels"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        (":memory:", config.MEMORY),
        ("file:memorydb_default?mode=memory&cache=shared", config.MEMORY),
        ("file::memory:?cache=shared", config.MEMORY),
        (Path("/srv/a.db"), "/srv/a{}.db"),
        ("/srv/a.db", "/srv/a{}.db"),
        ("/srv/a.b.sqlite3", "/srv/a.b{}.sqlite3"),
        ("/srv/x/../a.db", "/srv/a{}.db"),
    ],
)
def test_names_in_databases(rename: Rename, alias: str, name: Any, file: str) -> None:
    """NAME may be a str, a Path, or what Django's test runner calls a database in memory."""
    rename(alias, name)
    assert own_file(database=alias) == file.format("-channels" if alias == "default" else "")


def test_companion_of_a_name_without_suffix(rename: Rename) -> None:
    """A default database without a suffix has a companion with one."""
    rename("default", "/srv/database")
    assert own_file() == "/srv/database-channels.sqlite3"


@pytest.mark.parametrize(("name", "why"), [("file:/srv/a.db?mode=rwc", "is the URI"), ("", "has no NAME")])
def test_names_that_are_refused(rename: Rename, name: str, why: str) -> None:
    """A URI and an empty NAME are refused, with the alias, when the file is needed."""
    rename("channels", name)
    with pytest.raises(ConfigError, match=f"'channels' {why}"):
        own_file(database="channels")


async def test_alias_renamed_after_construction(rename: Rename, tmp_path: Path) -> None:
    """The file is looked up at first use: Django's test runner renames databases after layers were made."""
    rename("channels", tmp_path / "before.sqlite3")
    layer = AIOSQLiteChannelLayer(database="channels")
    rename("channels", tmp_path / "after.sqlite3")
    await layer.send("x", {"type": "x"})
    await layer.close()
    assert (tmp_path / "after.sqlite3").exists()
    assert not (tmp_path / "before.sqlite3").exists()


@pytest.mark.parametrize(
    ("configuration", "seconds"),
    [({"database": "channels"}, 3), ({"database": "default"}, 5), ({}, 5), ({"path": "a.sqlite3"}, 5)],
)
def test_busy_deadline(configuration: dict[str, str], seconds: float) -> None:
    """The deadline for a locked database is the alias's OPTIONS["timeout"], and Django's 5 seconds otherwise."""
    assert config.busy_deadline(config.parse(configuration)) == seconds


async def test_get_channel_layer() -> None:
    """get_channel_layer() makes the layer that CHANNEL_LAYERS describes, and it works."""
    layer = get_channel_layer()
    assert isinstance(layer, AIOSQLiteChannelLayer)
    assert layer.file() == str(FOLDER / "channels.sqlite3")
    await layer.send("x", {"type": "hello"})
    assert await layer.receive("x") == {"type": "hello"}
    await layer.close()


@override_settings(
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
            "CONFIG": {"database": "channels", "capicity": 1},
        }
    }
)
def test_get_channel_layer_of_a_wrong_config() -> None:
    """A wrong CONFIG does not look like no configured layer."""
    with pytest.raises(InvalidChannelLayerError, match="did you mean 'capacity'"):
        get_channel_layer()


def test_keys_in_a_set() -> None:
    """Keys in a set, which has no first one, are refused."""
    with pytest.raises(InvalidChannelLayerError, match="'symmetric_encryption_keys' is a list of keys, not a set"):
        AIOSQLiteChannelLayer(path=":memory:", symmetric_encryption_keys={"one", "two"})


def test_timeout_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout in DATABASES that is no number is an error that names the alias."""
    entry = {**settings.DATABASES["channels"], "OPTIONS": {"timeout": "soon"}}
    monkeypatch.setitem(settings.DATABASES, "channels", entry)
    with pytest.raises(InvalidChannelLayerError, match="'channels' has the timeout 'soon', which is no number"):
        AIOSQLiteChannelLayer(database="channels")
