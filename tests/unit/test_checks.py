"""The system checks: each says what is wrong with the settings and what to do, and nothing where all is well."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage, run_checks
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

import channels_lite
from channels_lite import checks, mounts
from channels_lite.errors import AliasError
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests import readme
from tests.readme import ROOT, block
from tests.unit.project import Project

APSW = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
CORE = "channels_lite.layers.core.SQLiteChannelLayer"
APPS = ["channels", "channels_lite", "django.contrib.contenttypes"]
PACKAGE = Path(channels_lite.__file__).parent
KEY = "k3y of the test's own, long enough"

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
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``default`` and ``channels`` are files that do not exist yet."""
    monkeypatch.setitem(settings.DATABASES["default"], "NAME", tmp_path / "db.sqlite3")
    monkeypatch.setitem(settings.DATABASES["channels"], "NAME", tmp_path / "channels.sqlite3")


@pytest.fixture
def find(files: None) -> Find:
    """Run the check for two libraries with entries of CHANNEL_LAYERS."""

    def run(*routers: Any, **layers: tuple[str, dict[str, Any]]) -> list[CheckMessage]:
        entries = {name: {"BACKEND": backend, "CONFIG": options} for name, (backend, options) in layers.items()}
        with override_settings(CHANNEL_LAYERS=entries, INSTALLED_APPS=APPS, DATABASE_ROUTERS=list(routers)):
            return checks.libraries()

    return run


@pytest.fixture
def check(files: None) -> Find:
    """Run all checks, as Django does, with entries of CHANNEL_LAYERS and other settings."""

    def run(layers: dict[str, tuple[str, dict[str, Any]]], **others: Any) -> list[CheckMessage]:
        entries = {name: {"BACKEND": backend, "CONFIG": options} for name, (backend, options) in layers.items()}
        with override_settings(CHANNEL_LAYERS=entries, **{"INSTALLED_APPS": APPS, "DEBUG": False, **others}):
            return run_checks(tags=["channels_lite"])

    return run


def ids(messages: list[CheckMessage]) -> list[str | None]:
    """What was found."""
    return [message.id for message in messages]


def only(messages: list[CheckMessage], number: str) -> CheckMessage:
    """The one that was found. An E is an error, a W is none, and each has a hint that says something else."""
    assert ids(messages) == [f"channels_lite.{number}"]
    (message,) = messages
    assert message.is_serious() == number.startswith("E")
    assert message.hint
    assert message.hint not in message.msg
    return message


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"BACKEND": "channels_lite.layers.aio.Layer"}, "cannot be imported"),
        ({"BACKEND": "channels_lite.layer.aio.AIOSQLiteChannelLayer"}, "cannot be imported"),
        ({"BACKEND": APSW, "CONFIG": [1]}, "a dict of options, not list"),
    ],
)
def test_an_entry_that_cannot_be_read(entry: dict[str, Any], why: str) -> None:
    """A BACKEND that is to be ours and is not there, and a CONFIG that is no dict, are errors that say so."""
    with override_settings(CHANNEL_LAYERS={"wrong": entry}):
        message = only([found for check in checks.ALL for found in check()], "E002")
    assert message.msg.startswith("CHANNEL_LAYERS['wrong'] cannot be used.")
    assert why in message.msg


def test_where_no_database_can_be(tmp_path: Path) -> None:
    """A folder that is not there, and a path that is a folder, are warned of; a file that is not there yet is not."""
    for path, why in ((tmp_path / "missing" / "a.sqlite3", "does not exist"), (tmp_path, "is a folder")):
        with override_settings(CHANNEL_LAYERS={"a": {"BACKEND": APSW, "CONFIG": {"path": path}}}):
            assert why in only(checks.folders(), "W008").msg
    with override_settings(CHANNEL_LAYERS={"a": {"BACKEND": APSW, "CONFIG": {"path": tmp_path / "a.sqlite3"}}}):
        assert checks.folders() == []


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
        (
            APSW,
            {"random_prefix_length": 1, "on_disconnect": None},
            "options 'random_prefix_length', 'on_disconnect' are for",
        ),
        (APSW, {"serializer_format": "pickle"}, "no serializer 'pickle'"),
        (APSW, {"channel_capacity": {"x": "many"}}, "a capacity is a whole number"),
        (CORE, {"path": "a.sqlite3"}, "the option 'path' is not for this layer"),
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
    assert message.hint is not None
    assert "table of the options" in message.hint


# All of them together.


def test_all_is_well(check: Find, tmp_path: Path) -> None:
    """Layers of all kinds beside each other are in order, and no database is opened or made to find that out."""
    layers = {
        "a": (APSW, {"symmetric_encryption_keys": [KEY]}),
        "b": (APSW, {"prefix": "b", "serializer_format": "json"}),
        "c": (APSW, {"path": tmp_path / "c.sqlite3", "group_expiry": 1}),
        "d": (CORE, {"symmetric_encryption_keys": None}),
        "e": (CORE, {"prefix": "e"}),
        "f": ("channels.layers.InMemoryChannelLayer", {}),
    }
    assert check(layers) == check({}) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "number"),
    [({"capasity": 1}, "E002"), ({"serializer_format": "pickle"}, "E002"), ({"database": "nowhere"}, "E003")],
)
def test_reported_once(check: Find, options: dict[str, Any], number: str) -> None:
    """Of an entry that cannot be used, nothing else is said."""
    wrong = {"group_expiry": 1, "symmetric_encryption_keys": ["short"], **options}
    place = {} if "database" in options else {"path": ":memory:"}
    only(check({"a": (APSW, {**place, **wrong})}), number)


@pytest.mark.parametrize("backend", [APSW, CORE])
@pytest.mark.parametrize(
    ("options", "alias", "why", "remedy"),
    [
        ({"database": "nowhere"}, "nowhere", "not in DATABASES ('channels', ", "Add it there, or "),
        ({}, "default", "not in DATABASES ('channels', ", "Add it there, or "),
        ({"database": "postgres"}, "postgres", "whose ENGINE is 'django.db.backends.postgresql'.", "A SQLite database"),
    ],
)
def test_wrong_alias(
    check: Find,
    backend: str,
    options: dict[str, Any],
    alias: str,
    why: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An alias that is missing and one that is not SQLite are told apart, also where the entry names none."""
    databases = {name: database for name, database in settings.DATABASES.items() if name != "default"}
    monkeypatch.setattr(settings, "DATABASES", databases)
    message = only(check({"a": (backend, options)}), "E003")
    assert message.msg.startswith(f"CHANNEL_LAYERS['a'] cannot be used. It is for the alias {alias!r}, ")
    assert why in message.msg
    assert message.hint.startswith(remedy)  # type: ignore[union-attr] # only() has looked
    assert message.hint.endswith("give the layer aio a file with 'path'.")  # type: ignore[union-attr]


def test_wrong_alias_in_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer itself says both, what is wrong and what to do, in one text, which another process can be given."""
    monkeypatch.setattr(settings, "DATABASES", {"other": {"ENGINE": "django.db.backends.mysql"}})
    for alias, text in (
        ("none", "which is not in DATABASES ('other'); add it there, or give the layer aio a file with 'path'."),
        (
            "other",
            "whose ENGINE is 'django.db.backends.mysql'; a SQLite database is needed: add an alias of its own, "
            "or give the layer aio a file with 'path'.",
        ),
    ):
        with pytest.raises(AliasError) as caught:
            AIOSQLiteChannelLayer(database=alias)
        assert str(caught.value) == f"CHANNEL_LAYERS: the option 'database' names {alias!r}, {text}"
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_keys(check: Find) -> None:
    """A short key and a list without a key are warned about; a good key and no option at all are in order."""
    short = only(check({"a": (APSW, {"symmetric_encryption_keys": [KEY, "short"]})}), "W002")
    assert "CHANNEL_LAYERS['a']: " in short.msg
    assert "(number 2 of 2)" in short.msg
    empty = only(check({"a": (APSW, {"symmetric_encryption_keys": []})}), "W007")
    assert "nothing is encrypted" in empty.msg
    for keys in ({"symmetric_encryption_keys": [KEY]}, {"symmetric_encryption_keys": None}, {}):
        assert check({"a": (APSW, keys)}) == []


@pytest.mark.parametrize("backend", [APSW, CORE])
def test_mounts(check: Find, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a network mount is warned about with its mount, also by way of a link; one beside it is not."""
    (tmp_path / "net work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "net work")
    table = tmp_path / "mountinfo"
    place = str(tmp_path / "net work").replace(" ", r"\040")
    table.write_text(f"1 0 8:1 / / rw - ext4 /dev/vda rw\n2 1 0:50 / {place} rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(mounts, "TABLE", str(table))
    layer = {"a": (backend, {"database": "channels"})}
    assert check(layer) == []
    monkeypatch.setitem(settings.DATABASES["channels"], "NAME", tmp_path / "link" / "channels.sqlite3")
    message = only(check(layer), "W003")
    assert str(tmp_path / "link" / "channels.sqlite3") in message.msg
    assert f"({tmp_path / 'net work'}, nfs4)" in message.msg


def test_memory_is_on_no_mount(check: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer in memory has no file, wherever the process runs."""
    table = tmp_path / "mountinfo"
    table.write_text("1 0 0:50 / / rw - 9p host rw\n")
    monkeypatch.setattr(mounts, "TABLE", str(table))
    only(check({"a": (APSW, {"path": "some.sqlite3"})}), "W003")
    assert check({"a": (APSW, {"path": ":memory:"})}, DEBUG=True) == []


DAPHNE = """
from daphne.cli import CommandLineInterface
from daphne.server import Server
from django.core.checks import run_checks
from inspect import signature

for message in run_checks(tags=["channels_lite"]):
    print(message.id, message.msg, message.hint)
print(CommandLineInterface().parser.get_default("websocket_timeout"))
print(signature(Server).parameters["websocket_timeout"].default)
"""


def test_daphne(tmp_path: Path) -> None:
    """With daphne installed, a membership that ends before daphne's own time-out is warned about, and no other."""
    shorter, equal, longer = ({"path": f"{expiry}.sqlite3", "group_expiry": expiry} for expiry in (86399, 86400, 10**6))
    layers = {"a": (APSW, shorter), "b": (APSW, equal), "c": (APSW, longer), "d": (CORE, {})}
    project = Project(tmp_path, layers, INSTALLED_APPS=["daphne", "channels_lite"])
    warning, command, server = project.script(DAPHNE).splitlines()
    assert warning.startswith("channels_lite.W004 CHANNEL_LAYERS['a'] ends memberships in groups after 86399 seconds")
    assert "--websocket_timeout" in warning
    assert command == server == str(checks.DAPHNE_TIMEOUT)


IN_MEMORY = [
    (APSW, {"path": ":memory:"}, None),
    (APSW, {}, ":memory:"),
    (CORE, {}, "file:somewhere?mode=memory&cache=shared"),
]


@pytest.mark.parametrize(("backend", "options", "name"), IN_MEMORY)
def test_in_memory_alone(
    check: Find, backend: str, options: dict[str, Any], name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer in memory is warned about where a site is served, and not in development or while tests run."""
    if name:
        monkeypatch.setitem(settings.DATABASES["default"], "NAME", name)
    layers = {"a": (backend, options), "b": (backend, options)}
    messages = check(layers)
    assert ids(messages) == ["channels_lite.W005"] * 2
    assert messages[1].msg.startswith("CHANNEL_LAYERS['b'] is in memory")
    assert messages[1].hint
    assert check(layers, DEBUG=True) == []
    setup_test_environment()
    try:
        assert check(layers) == []
    finally:
        teardown_test_environment()


def test_one_layer_twice(check: Find, tmp_path: Path) -> None:
    """Two entries with one file and one prefix are warned about, by whatever name they know the file."""
    companion = str(tmp_path / "db-channels.sqlite3")
    for one, other in (
        ((APSW, {}), (APSW, {"path": companion, "capacity": 7})),
        ((CORE, {}), (CORE, {"database": "default", "prefix": ""})),
        ((APSW, {"prefix": "p"}), (APSW, {"prefix": "p", "symmetric_encryption_keys": None})),
    ):
        message = only(check({"a": one, "b": other}), "W006")
        assert message.msg.startswith("CHANNEL_LAYERS['a'] and CHANNEL_LAYERS['b'] are both for ")
        assert check({"a": one, "b": (other[0], {**other[1], "prefix": "another"})}) == []


@pytest.mark.parametrize(
    ("one", "other", "differing"),
    [
        ({}, {"serializer_format": "json"}, "'serializer_format'"),
        ({}, {"symmetric_encryption_keys": [KEY]}, "'symmetric_encryption_keys'"),
        (
            {"serializer_format": "json", "symmetric_encryption_keys": [f"not {KEY}"]},
            {"symmetric_encryption_keys": [KEY]},
            "'serializer_format' and 'symmetric_encryption_keys'",
        ),
        # What the first one sends, the second cannot read, though it is the same the other way round.
        (
            {"symmetric_encryption_keys": [f"not {KEY}", KEY]},
            {"symmetric_encryption_keys": [KEY]},
            "'symmetric_encryption_keys'",
        ),
    ],
)
def test_that_cannot_read_each_other(check: Find, one: dict[str, Any], other: dict[str, Any], differing: str) -> None:
    """It is an error where they cannot read each other's messages. It names the options, and no key."""
    message = only(check({"a": (APSW, one), "b": (APSW, other)}), "E004")
    assert message.msg.startswith("CHANNEL_LAYERS['a'] and CHANNEL_LAYERS['b'] are both for ")
    assert f"but differ in {differing}: " in message.msg
    assert KEY not in str(message)
    assert check({"a": (APSW, one), "b": (APSW, {**other, "prefix": "b"})}) == []


def test_keys_that_read_each_other(check: Find) -> None:
    """Keys in another order, or as bytes, are no such difference."""
    keys = [KEY, f"not {KEY}"]
    for others in (keys[::-1], [key.encode() for key in keys]):
        layers = {name: (APSW, {"symmetric_encryption_keys": some}) for name, some in (("a", keys), ("b", others))}
        only(check(layers), "W006")


# What README says.


def test_the_table_in_readme() -> None:
    """README has a row for each id in the source, and no other."""
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    rows = re.findall(r"^\| `channels_lite\.([EWI]\d+)` \| .+ \| .+ \|$", readme.text(), re.MULTILINE)
    assert sorted(rows) == sorted(set(re.findall(r'id="channels_lite\.([EWI]\d+)"', source)))
    assert set(re.findall(r"[^\w][EWI]\d{3}\b", readme.text())) <= {f".{number}" for number in rows}


@pytest.mark.parametrize("backend", [APSW, CORE])
def test_the_settings_in_readme(tmp_path: Path, backend: str) -> None:
    """The settings that README tells to begin with are in order, with both layers and where DEBUG is off."""
    project = Project(tmp_path, INSTALLED_APPS=["channels", "channels_lite"], DEBUG=False)
    begun = f"from pathlib import Path\nBASE_DIR = Path({str(tmp_path)!r})\n"
    append(tmp_path, begun + block("databases") + block("settings").replace(APSW, backend))
    assert "no issues" in project.manage("check", "--fail-level", "DEBUG")


@pytest.mark.parametrize("debug", ["0", "1"])
def test_the_chat(tmp_path: Path, debug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are those of the example."""
    monkeypatch.setenv("CHAT_DATA", str(tmp_path))
    monkeypatch.setenv("CHAT_DEBUG", debug)
    monkeypatch.setenv("CHAT_SECRET_KEY", KEY)
    project = Project(tmp_path)
    place = f"import sys\nsys.path.append({str(ROOT / 'examples' / 'chat')!r})\n"
    append(tmp_path, f"{place}from chat.settings import *\n")
    assert "no issues" in project.manage("check", "--fail-level", "DEBUG")


def append(folder: Path, text: str) -> None:
    """Add to a project's settings."""
    with (folder / "project_settings.py").open("a", encoding="utf-8") as module:
        module.write(text)
