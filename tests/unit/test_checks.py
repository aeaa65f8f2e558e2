"""The system checks: they say where two SQLite libraries would meet, and nothing where they would not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings

from channels_lite import checks

APSW = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
CORE = "channels_lite.layers.core.SQLiteChannelLayer"
APPS = ["channels", "channels_lite", "django.contrib.contenttypes"]

Find = Callable[..., list[CheckMessage]]


class Router:
    """Sends the models of the installed apps where a test wants them."""

    reads: str | None = None
    writes: str | None = None

    def db_for_read(self, model: type, **hints: Any) -> str | None:
        return self.reads

    def db_for_write(self, model: type, **hints: Any) -> str | None:
        return self.writes


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Run the check with entries of CHANNEL_LAYERS; ``default`` and ``channels`` are files that do not exist yet."""
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", tmp_path / "db.sqlite3")
    monkeypatch.setitem(settings.DATABASES["channels"], "NAME", tmp_path / "channels.sqlite3")

    def run(*routers: Any, **layers: tuple[str, dict[str, Any]]) -> list[CheckMessage]:
        entries = {name: {"BACKEND": backend, "CONFIG": options} for name, (backend, options) in layers.items()}
        with override_settings(CHANNEL_LAYERS=entries, INSTALLED_APPS=APPS, DATABASE_ROUTERS=list(routers)):
            return checks.libraries()

    return run


def ids(messages: list[CheckMessage]) -> list[str | None]:
    """What was found."""
    return [message.id for message in messages]


def test_a_clean_alias(find: Find, tmp_path: Path) -> None:
    """An alias that only the layer uses, a companion, a path and the core layer on ``default`` are in order."""
    assert find() == []
    assert find(a=(APSW, {"database": "channels"}), b=(APSW, {}), c=(CORE, {"database": "default"})) == []
    assert find(a=(APSW, {"path": tmp_path / "own.sqlite3"}), b=(APSW, {"path": ":memory:"})) == []
    assert find(a=(CORE, {"database": "channels"}), b=(CORE, {"database": "default"})) == []
    assert not list(tmp_path.iterdir())


def test_the_default_database(find: Find, tmp_path: Path) -> None:
    """A layer with apsw on the file of ``default`` is an error that names both, and what to do."""
    (message,) = find(a=(APSW, {"path": tmp_path / "db.sqlite3"}), b=(APSW, {"path": tmp_path / "db.sqlite3"}))
    assert message.id == "channels_lite.E001"
    assert message.is_serious()
    assert str(tmp_path / "db.sqlite3") in message.msg
    assert "DATABASES['default']" in message.msg
    assert f"CHANNEL_LAYERS['a'] ('path': '{tmp_path / 'db.sqlite3'}')" in message.msg
    assert "CHANNEL_LAYERS['b']" in message.msg
    assert message.hint is not None
    for words in (CORE, "'path'", "'database': 'default'"):
        assert words in message.hint


@pytest.mark.parametrize("make", [os.symlink, os.link], ids=["symlink", "hard link"])
def test_another_name_of_the_file(find: Find, tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """A link to the file of ``default`` is that file."""
    (tmp_path / "db.sqlite3").touch()
    make(tmp_path / "db.sqlite3", tmp_path / "channels.sqlite3")
    assert ids(find(a=(APSW, {"database": "channels"}))) == ["channels_lite.E001"]
    (tmp_path / "channels.sqlite3").unlink()
    assert find(a=(APSW, {"database": "channels"})) == []


def test_another_name_before_there_is_a_file(find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of a file that does not exist yet are followed: a symlink's folder, a relative path, a URI."""
    os.symlink(tmp_path, tmp_path / "link")
    assert ids(find(a=(APSW, {"path": tmp_path / "link" / "db.sqlite3"}))) == ["channels_lite.E001"]
    monkeypatch.chdir(tmp_path)
    assert ids(find(a=(APSW, {"path": "link/../db.sqlite3"}))) == ["channels_lite.E001"]
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", f"file:{tmp_path}/db.sqlite3?cache=private")
    assert ids(find(a=(APSW, {"path": "db.sqlite3"}))) == ["channels_lite.E001"]
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", "file:db.sqlite3?mode=memory&cache=shared")
    assert find(a=(APSW, {"path": "db.sqlite3"})) == []


def test_both_layers_on_one_alias(find: Find) -> None:
    """An alias that the core layer uses is Django's, and not for a layer with apsw."""
    (message,) = find(a=(APSW, {"database": "channels"}), b=(CORE, {"database": "channels"}))
    assert message.id == "channels_lite.E001"
    assert "apsw is for CHANNEL_LAYERS['a'] ('database': 'channels')" in message.msg
    assert "sqlite3 for DATABASES['channels'] and CHANNEL_LAYERS['b'] ('database': 'channels')" in message.msg


def test_in_memory(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases in memory are never the same."""
    for name in (":memory:", "file:memorydb_default?mode=memory&cache=shared"):
        monkeypatch.setitem(settings.DATABASES["default"], "NAME", name)
        monkeypatch.setitem(settings.DATABASES["channels"], "NAME", name)
        layers = {"a": (APSW, {"database": "default"}), "b": (APSW, {"database": "channels"}), "c": (CORE, {})}
        assert find(**layers) == []


@pytest.mark.parametrize("way", ["reads", "writes"])
def test_routers(find: Find, way: str) -> None:
    """A router that sends other apps' models to the layer's alias is warned about, and names them."""
    router = Router()
    layers = {"a": (APSW, {"database": "channels"})}
    setattr(router, way, "default")
    assert find(router, **layers) == []
    setattr(router, way, "channels")
    (message,) = find(router, **layers)
    assert message.id == "channels_lite.W001"
    assert not message.is_serious()
    assert "contenttypes.ContentType to DATABASES['channels']" in message.msg
    assert "CHANNEL_LAYERS['a'] ('database': 'channels')" in message.msg
    assert find(router, a=(CORE, {"database": "channels"})) == []


def test_wrong_settings(find: Find) -> None:
    """Entries that cannot be read are left to the layer, which says what is wrong with them."""
    assert find(a=(APSW, {"database": "nowhere"}), b=("no.such.Layer", {}), c=(APSW, {"database": "postgres"})) == []


def test_registered(find: Find, tmp_path: Path) -> None:
    """With ``channels_lite`` in INSTALLED_APPS, Django's own run of the checks finds it."""
    layers = {"default": {"BACKEND": APSW, "CONFIG": {"path": tmp_path / "db.sqlite3"}}}
    with override_settings(CHANNEL_LAYERS=layers, INSTALLED_APPS=APPS):
        assert "channels_lite.E001" in ids(run_checks(tags=["channels_lite"]))


@pytest.mark.parametrize(
    ("backend", "options", "why"),
    [
        (APSW, {"capasity": 1}, "did you mean 'capacity'"),
        (APSW, {"hosts": [], "on_disconnect": None}, "the options 'hosts', 'on_disconnect' are for Redis"),
        (APSW, {"serializer_format": "pickle"}, "no serializer 'pickle'"),
        (APSW, {"channel_capacity": {"x": "many"}}, "a capacity is a whole number"),
        (CORE, {"path": "a.sqlite3"}, "the option 'path' is not for this layer"),
        (CORE, {"database": "nowhere"}, "which is not in DATABASES"),
        (CORE, {"database": "postgres"}, "a SQLite database is needed"),
    ],
)
def test_wrong_configuration(backend: str, options: dict[str, Any], why: str) -> None:
    """What the first use of a layer would say, the check says with the entry's name; other entries are in order."""
    layers = {
        "right": {"BACKEND": backend},
        "wrong": {"BACKEND": backend, "CONFIG": options},
        "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"nonsense": 1}},
        "missing": {"BACKEND": "no.such.Layer"},
    }
    with override_settings(CHANNEL_LAYERS=layers):
        (message,) = checks.configuration()
    assert message.id == "channels_lite.E002"
    assert message.msg.startswith("CHANNEL_LAYERS['wrong'] cannot be used.")
    assert why in message.msg
