"""manage.py clean_channels: what it removes and gives back, what it says, and how it fails."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest
from django.core.management.base import OutputWrapper
from django.test import override_settings

from channels_lite import entries, guard, schema, store
from channels_lite.cleaning import Cleaning
from channels_lite.errors import CleaningFailed
from channels_lite.management.commands import clean_channels
from channels_lite.management.commands.clean_channels import Progress

PATIENCE = 60.0  # seconds until a process that hangs fails its test
FAR = 9_999_999_999_999  # an expiry that is never past
APSW = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
DJANGO = "channels_lite.layers.core.SQLiteChannelLayer"

SETTINGS = """
from pathlib import Path
FOLDER = Path(__file__).parent
SQLITE = "django.db.backends.sqlite3"
SECRET_KEY = "x"
USE_TZ = True
LANGUAGE_CODE = "fr"  # where filesizeformat() says Mo
INSTALLED_APPS = ["channels", "channels_lite"]
SILENCED_SYSTEM_CHECKS = ["channels_lite.W005"]  # some of these layers are in memory
DATABASES = {
    "default": {"ENGINE": SQLITE, "NAME": FOLDER / "app.sqlite3"},
    "own": {"ENGINE": SQLITE, "NAME": FOLDER / "own.sqlite3", "OPTIONS": {"timeout": 0.3}},
    "hasty": {"ENGINE": SQLITE, "NAME": FOLDER / "hasty.sqlite3", "OPTIONS": {"timeout": "soon"}},
}
"""


def entry_of(backend: str, **configuration: Any) -> dict[str, Any]:
    """An entry of CHANNEL_LAYERS."""
    return {"BACKEND": backend, "CONFIG": configuration}


class Outcome(NamedTuple):
    """How the command ended, and what it wrote."""

    code: int
    out: str
    err: str


class Site:
    """A Django project in a folder, and a connection to the database ``own`` of its layer ``default``.

    The command runs in processes of its own: here the file is only ever opened with apsw.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        self.folder = folder
        self.backend = backend
        self.file = folder / "own.sqlite3"
        self.layers({"default": entry_of(backend, database="own")})
        self.connections: list[apsw.Connection] = []

    def layers(self, value: dict[str, Any]) -> None:
        """Write the settings, with this for CHANNEL_LAYERS."""
        (self.folder / "site_settings.py").write_text(f"{SETTINGS}\nCHANNEL_LAYERS = {value!r}\n")

    def python(self, *arguments: str) -> Outcome:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-W", "error", *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    def clean(self, *arguments: str) -> Outcome:
        """Run the command."""
        return self.python("-m", "django", "clean_channels", *arguments)

    def open(self, journal_mode: str = "wal", file: Path | None = None) -> schema.Execute:
        """A connection to the database, which gets its schema."""
        name = str(file or self.file)
        apsw.Connection(name).close()  # makes the file
        connection = guard.Connection(name)
        self.connections.append(connection)
        connection.set_busy_timeout(10_000)
        connection.pragma("journal_mode", journal_mode)
        execute = schema.executor(connection)
        schema.create(execute, schema.steps())
        return execute

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.glob("own.sqlite3*") if file.suffix != ".sqlite3-shm")


def fill(execute: schema.Execute, expired: int, live: int = 0, payload: int = 1000) -> None:
    """Messages on 20 channels."""
    for number, expires_at in ((expired, 1), (live, FAR)):
        execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?) "
            "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
            "SELECT '', 'q' || (n % 20), zeroblob(?), ? FROM n",
            (number, payload, expires_at),
        )


def join(execute: schema.Execute, group: str, channel: str, joined_at: int, expires_at: int) -> None:
    execute("INSERT INTO channels_lite_membership VALUES ('', ?, ?, '', ?, ?)", (group, channel, joined_at, expires_at))


def count(execute: schema.Execute, table: str = "message") -> int:
    number: int = execute(f"SELECT count(*) FROM channels_lite_{table}", ())[0][0]
    return number


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Make the test's project with this BACKEND; its connections are closed afterwards."""
    sites: list[Site] = []

    def make(backend: str) -> Site:
        sites.append(Site(tmp_path, backend))
        return sites[-1]

    yield make
    for connection in (connection for site in sites for connection in site.connections):
        connection.close()


@pytest.fixture(params=[APSW, DJANGO], ids=["apsw", "django"])
def site(request: pytest.FixtureRequest, make_site: Callable[[str], Site]) -> Site:
    """A project with either layer."""
    return make_site(request.param)


# What it does.


def test_expired_rows_go_and_live_ones_stay(site: Site) -> None:
    """All that has expired is removed, however many batches; what is live stays; the summary counts."""
    execute = site.open()
    fill(execute, 3 * store.TRIM_BATCH + 1, live=7)
    join(execute, "old", "a", 0, 1)
    join(execute, "new", "b", 0, FAR)
    ended = site.clean()
    assert ended.out.splitlines()[-1].startswith(
        "layer 'default' (own.sqlite3): 601 expired messages and 1 membership removed, "
    )
    assert (ended.code, ended.err, count(execute), count(execute, "membership")) == (0, "", 7, 1)


def test_an_unread_message_takes_its_channel_out_of_its_groups(site: Site) -> None:
    """Expired messages are removed through the view that evicts: the same as when a server trims."""
    execute = site.open()
    fill(execute, 1)
    join(execute, "group", "q1", 0, FAR)
    join(execute, "group", "q2", 0, FAR)
    assert site.clean().code == 0
    assert execute("SELECT queue FROM channels_lite_membership", ()) == [("q2",)]


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_the_space_comes_back_while_others_have_the_file_open(site: Site, journal_mode: str) -> None:
    """The file shrinks at once, the -wal with it, though another process has the database open."""
    execute = site.open(journal_mode)
    fill(execute, 3000, live=3)
    before = site.size()
    ended = site.clean()
    assert ended.code == 0
    assert site.size() < before / 20
    announced, summary = ended.out.splitlines()
    assert "VACUUM writes " in announced
    assert summary.startswith("layer 'default' (own.sqlite3): 3000 expired messages and 0 memberships removed, ")
    assert summary.endswith(" MB given back")
    assert count(execute) == 3


def test_without_vacuum_the_file_keeps_its_size(site: Site) -> None:
    """--no-vacuum only removes."""
    execute = site.open("delete")
    fill(execute, 3000)
    before = site.file.stat().st_size
    ended = site.clean("--no-vacuum")
    assert (ended.code, count(execute), site.file.stat().st_size) == (0, 0, before)
    assert ended.out.endswith(" MB free inside the file (no VACUUM)\n")
    assert len(ended.out.splitlines()) == 1


def test_no_vacuum_where_little_is_free(site: Site) -> None:
    """One free page in two hundred is not worth holding up the writers for."""
    execute = site.open()
    fill(execute, 1, live=1, payload=4000)
    fill(execute, 0, live=1, payload=1_000_000)
    ended = site.clean()
    assert ended.code == 0
    assert ended.out.endswith("VACUUM not needed\n")
    assert "VACUUM writes" not in ended.out
    assert execute("PRAGMA freelist_count", ()) != [(0,)]


def test_a_left_over_wal_is_given_back_without_vacuum(site: Site) -> None:
    """Where nothing is to be rewritten, the -wal is cut off all the same."""
    execute = site.open()
    fill(execute, 0, live=500)
    assert site.size() > site.file.stat().st_size
    assert "given back, VACUUM not needed" in site.clean().out
    assert site.size() == site.file.stat().st_size


def test_no_layer_is_made(site: Site) -> None:
    """No bell is hung and nothing else is left behind: the command is no server."""
    fill(site.open(), 10)
    site.connections.pop().close()
    assert site.clean().code == 0
    assert [file.name for file in site.folder.glob("*.sqlite3*")] == ["own.sqlite3"]


def test_no_file_is_made(site: Site) -> None:
    """A database that does not exist yet is no error, and is not made."""
    ended = site.clean()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("layer 'default' (own.sqlite3): does not exist yet, nothing to clean")
    assert list(site.folder.glob("*.sqlite3*")) == []


def test_no_tables_are_made(site: Site) -> None:
    """A database without our tables is no error, and gets none."""
    connection = apsw.Connection(str(site.file))
    connection.execute("CREATE TABLE other (x)")
    connection.close()
    ended = site.clean()
    assert (ended.code, ended.err) == (0, "")
    assert "has no tables of channels-lite yet, nothing to clean" in ended.out
    with apsw.Connection(str(site.file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("other",)]
    connection.close()


def test_only_the_layer_on_djangos_connection_points_to_migrate(make_site: Callable[[str], Site]) -> None:
    """Its tables come with migrate; those of the other layer come by themselves."""
    assert "manage.py migrate --database own" in make_site(DJANGO).clean().out
    assert "migrate" not in make_site(APSW).clean().out


def test_a_schema_that_is_behind(site: Site) -> None:
    """A database of an older release is left alone, and the error says what to run."""
    execute = site.open()
    fill(execute, 5)
    execute("DELETE FROM channels_lite_schema WHERE version > 1", ())
    ended = site.clean()
    assert (ended.code, count(execute)) == (1, 5)
    assert "schema version 1" in ended.err
    assert "run: " in ended.err


def test_quiet(site: Site) -> None:
    """With --verbosity 0 nothing is printed but errors."""
    fill(site.open(), 3000)
    assert site.clean("--verbosity", "0") == Outcome(0, "", "")


# Locks.


def test_a_writer_that_does_not_let_go(site: Site) -> None:
    """A lock held beyond the alias's timeout is an error; nothing is lost, and the next run succeeds."""
    execute = site.open()
    fill(execute, 300, live=2)
    execute("BEGIN IMMEDIATE", ())
    ended = site.clean()
    assert (ended.code, ended.out) == (1, "")
    assert "layer 'default' (own.sqlite3): The database was locked by somebody else for 0.3 s" in ended.err
    execute("COMMIT", ())
    assert count(execute) == 302
    assert site.clean().code == 0
    assert count(execute) == 2


def test_a_reader_that_does_not_let_go(site: Site) -> None:
    """A reader that keeps the file from shrinking is an error that says so, and the next run shrinks it."""
    execute = site.open()
    fill(execute, 3000, live=2)
    execute("BEGIN", ())
    assert count(execute) == 3002
    ended = site.clean()
    assert ended.code == 1
    assert "3000 expired messages and 0 memberships removed, but a reader has kept the file from shrinking" in ended.err
    execute("COMMIT", ())
    before = site.size()
    assert site.clean().code == 0
    assert site.size() < before / 20


def test_a_lock_in_the_middle_of_the_work(make_site: Callable[[str], Site]) -> None:
    """What was removed before the lock came stays removed, and the error says how much it was."""
    site = make_site(APSW)
    execute = site.open()
    fill(execute, 3 * store.TRIM_BATCH)

    def lock(done: int, expected: int) -> None:
        assert (done, expected) == (store.TRIM_BATCH, 3 * store.TRIM_BATCH)
        execute("BEGIN IMMEDIATE", ())

    layers = {"default": {"BACKEND": APSW, "CONFIG": {"path": site.file}}}
    with override_settings(CHANNEL_LAYERS=layers):
        (entry,) = entries.entries()
    cleaning = Cleaning(entry, vacuum=True, say=print, progress=lock)
    cleaning._wait = 0.1
    with pytest.raises(CleaningFailed, match=r"locked .* Removed before, and gone: 200 expired messages and 0 memb"):
        cleaning.run()
    execute("COMMIT", ())
    assert count(execute) == 2 * store.TRIM_BATCH


def test_one_failure_does_not_keep_the_others_from_being_cleaned(site: Site) -> None:
    """The layers after a locked one are cleaned, and the exit code is 1."""
    second = entry_of(APSW, path=str(site.folder / "second.sqlite3"))
    site.layers({"default": entry_of(APSW, database="own"), "second": second})
    locked, free = site.open(), site.open(file=site.folder / "second.sqlite3")
    for execute in locked, free:
        fill(execute, 5)
    locked("BEGIN IMMEDIATE", ())
    ended = site.clean()
    locked("COMMIT", ())
    assert (ended.code, count(locked), count(free)) == (1, 5, 0)
    assert "layer 'default'" in ended.err
    assert "layer 'second' (second.sqlite3): 5 expired messages" in ended.out


IN_TRANSACTION = """
import django, sys
django.setup()
from django.core.management import call_command
from django.db import transaction
with transaction.atomic(using="own"):
    call_command("clean_channels", no_vacuum="--no-vacuum" in sys.argv)
"""


def test_in_a_transaction_of_the_caller(make_site: Callable[[str], Site]) -> None:
    """call_command() in a transaction: refused before anything is removed, or removes where no VACUUM is asked for."""
    site = make_site(DJANGO)
    execute = site.open()
    fill(execute, 5)
    ended = site.python("-c", IN_TRANSACTION)
    assert "Django's connection 'own' is in a transaction" in ended.err
    assert (ended.code, count(execute)) == (1, 5)
    ended = site.python("-c", IN_TRANSACTION, "--no-vacuum")
    assert (ended.code, count(execute)) == (0, 0)


def test_not_a_database(site: Site) -> None:
    """A file that is something else is one clear sentence, without a traceback."""
    site.file.write_text("a letter to somebody " * 100)
    ended = site.clean()
    assert ended.code == 1
    assert "not a" in ended.err
    assert "Traceback" not in ended.err


def test_somebody_elses_database_is_left_as_it_is(make_site: Callable[[str], Site]) -> None:
    """A database without our tables is not even switched to another journal mode."""
    site = make_site(APSW)
    with apsw.Connection(str(site.file)) as connection:
        connection.execute("CREATE TABLE letters (text)")
    connection.close()
    before = site.file.read_bytes()
    ended = site.clean()
    assert (ended.code, site.file.read_bytes()) == (0, before)
    assert "has no tables of channels-lite yet" in ended.out


# Which layers.


def test_each_file_once(site: Site) -> None:
    """Entries that lead to one file, whatever they call it, are cleaned as one and named together."""
    fill(site.open(), 5)
    (site.folder / "link.sqlite3").symlink_to(site.file)
    third = entry_of(APSW, path=str(site.folder / "link.sqlite3"))
    if site.backend == DJANGO:
        third = entry_of(DJANGO, database="own", prefix="third")
    site.layers({"a": entry_of(site.backend, database="own"), "b": entry_of(site.backend, database="own"), "c": third})
    ended = site.clean("--no-vacuum")
    assert ended.out.startswith("layers 'a', 'b', 'c' (own.sqlite3): 5 expired messages")
    assert len(ended.out.splitlines()) == 1


@pytest.fixture
def several(make_site: Callable[[str], Site]) -> Site:
    """A project with layers of many kinds."""
    site = make_site(APSW)
    site.layers(
        {
            "own": entry_of(APSW, database="own"),
            "memory": entry_of(APSW, path=":memory:"),
            "foreign": entry_of("channels.layers.InMemoryChannelLayer"),
            "absent": entry_of("no.such.Layer"),
        }
    )
    return site


def test_all_of_ours_without_a_name(several: Site) -> None:
    """Without --layer every entry of ours is cleaned, and the others are nobody's business."""
    execute = several.open()
    fill(execute, 5)
    ended = several.clean()
    assert (ended.code, ended.err, count(execute)) == (0, "", 0)
    assert "layer 'memory' (:memory:): is in memory, which no other process can reach, nothing to clean" in ended.out
    assert "foreign" not in ended.out


def test_one_by_name(several: Site) -> None:
    """--layer leaves the others alone."""
    execute = several.open()
    fill(execute, 5)
    assert several.clean("--layer", "memory").code == 0
    assert count(execute) == 5
    assert several.clean("--layer", "own").code == 0
    assert count(execute) == 0


LISTED = "'own', 'memory', 'foreign' (not of channels-lite), 'absent' (not of channels-lite)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nix", f"There is no entry 'nix' in CHANNEL_LAYERS ({LISTED})."),
        ("foreign", f"The entry 'foreign' in CHANNEL_LAYERS is not a layer of channels-lite; there is {LISTED}."),
        ("absent", "The entry 'absent' in CHANNEL_LAYERS cannot be used: No module named 'no'"),
    ],
)
def test_names_that_cannot_be_cleaned(several: Site, name: str, message: str) -> None:
    """A wrong name is one clear sentence and exit code 1."""
    assert several.clean("--layer", name) == Outcome(1, "", f"CommandError: {message}\n")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "No entry of CHANNEL_LAYERS is a layer of channels-lite (it is empty)."),
        (
            {"default": entry_of("channels.layers.InMemoryChannelLayer")},
            "No entry of CHANNEL_LAYERS is a layer of channels-lite ('default' (not of channels-lite)).",
        ),
        ({"default": entry_of(APSW, database="nix")}, "'nix', which is not in DATABASES"),
        ({"default": entry_of(DJANGO, expiry=-1)}, "the option 'expiry'"),
        ({"default": entry_of(APSW, database="hasty")}, "the timeout 'soon', which is no number"),
    ],
    ids=["empty", "foreign", "alias", "option", "timeout"],
)
def test_settings_without_a_layer_to_clean(
    make_site: Callable[[str], Site], layers: dict[str, Any], message: str
) -> None:
    """No layer of ours, or one with wrong options, is one clear sentence and exit code 1."""
    site = make_site(APSW)
    site.layers(layers)
    ended = site.clean()
    assert ended.code == 1
    assert message in ended.err
    assert "Traceback" not in ended.err


# Progress.


class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal  # type: ignore[method-assign] # as a stream that is one


def progress_on(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, **constants: float) -> tuple[Progress, Any]:
    for name, value in constants.items():
        monkeypatch.setattr(clean_channels, name, value)
    stream = Terminal(terminal)
    return Progress(OutputWrapper(stream), "layer"), stream


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line is written again and again, and is gone before the next one."""
    progress, stream = progress_on(monkeypatch, terminal=True, QUIET=0.0, REWRITE_EVERY=0.0)
    progress.show(200, 1000)
    progress.show(1200, 1000)
    progress.say("done")
    first, second = "layer: 200 of 1000 rows removed", "layer: 1200 of 1200 rows removed"
    assert stream.getvalue() == f"\r{first}\r{second}\r{' ' * len(second)}\rlayer: done\n"


def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on a terminal there are whole lines, and few of them."""
    progress, stream = progress_on(monkeypatch, terminal=False, QUIET=0.0, LINE_EVERY=3600.0)
    progress.show(200, 1000)
    progress.show(400, 1000)
    progress.say("done")
    assert stream.getvalue() == "layer: 200 of 1000 rows removed\nlayer: done\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_no_progress_for_short_work(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Work that is soon done says nothing on its way."""
    progress, stream = progress_on(monkeypatch, terminal=terminal, QUIET=3600.0)
    progress.show(200, 1000)
    progress.say("done")
    assert stream.getvalue() == "layer: done\n"
