"""The command channels-lite-schema: what it does, where it finds the database, and how it fails."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from django.test import override_settings

from channels_lite import __version__, cli, guard, schema
from tests.settings import FOLDER

PATIENCE = 60.0  # seconds until a process that hangs fails its test
STEPS = schema.steps()
NAMES = [step.name for step in STEPS]
ERROR = "channels-lite-schema: error: "
VERBS = {
    "apply": ["apply"],
    "dry run": ["apply", "--dry-run"],
    "status": ["status"],
    "validate": ["validate"],
    "show": ["show"],
}
READING = {name: verb for name, verb in VERBS.items() if name not in ("apply", "dry run")}

SETTINGS = """
from pathlib import Path
FOLDER = Path(__file__).parent
SQLITE = "django.db.backends.sqlite3"
LITE = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
DATABASES = {
    "default": {"ENGINE": SQLITE, "NAME": FOLDER / "app.sqlite3"},
    "own": {"ENGINE": SQLITE, "NAME": FOLDER / "own.sqlite3"},
    "volatile": {"ENGINE": SQLITE, "NAME": ":memory:"},
}
CHANNEL_LAYERS = {
    "default": {"BACKEND": LITE},
    "own": {"BACKEND": LITE, "CONFIG": {"database": "own"}},
    "file": {"BACKEND": LITE, "CONFIG": {"path": FOLDER / "file.sqlite3"}},
}
"""


class Outcome(NamedTuple):
    """How the command ended, and what it wrote."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process."""

    def run_here(*arguments: str) -> Outcome:
        code = cli.main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run_here


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with settings in it, as that of a Django project."""
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def spawn(project: Path) -> Run:
    """Run the command in a process of its own, in the project's folder."""

    def run_there(*arguments: str, settings: str | None = None) -> Outcome:
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        if settings is not None:
            environment["DJANGO_SETTINGS_MODULE"] = settings
        # Isolated: the folder gets onto the path only if the command puts it there, as its script does.
        command = [sys.executable, "-I", "-B", "-m", "channels_lite.cli", *arguments]
        ended = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr)

    return run_there


def make(path: str, to: int | None = None, *statements: str) -> None:
    """A database at a version, changed by statements."""
    connection = schema.connect(path)
    schema.apply(schema.executor(connection), STEPS, to)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def snapshot(folder: str | Path) -> dict[str, bytes | None]:
    """Every name in a folder, and the bytes of the files."""
    return {str(entry): entry.read_bytes() if entry.is_file() else None for entry in Path(folder).rglob("*")}


def refused(outcome: Outcome, words: str) -> None:
    """The command failed with one sentence that says these words."""
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err.startswith(ERROR)
    assert outcome.err.count("\n") == 1
    assert words in outcome.err


# The verbs, with --path.


def test_apply(run: Run, path: str) -> None:
    """Apply makes the file and names what it applied; again, it says that there is nothing to do."""
    expected = [*(f"applied {name}" for name in NAMES), f"{path} is at schema version {len(STEPS)}"]
    assert run("apply", "--path", path) == (0, "\n".join(expected) + "\n", "")
    before = snapshot(Path(path).parent)
    assert run("apply", "--path", path) == (0, f"{path} is at schema version {len(STEPS)}, nothing to do\n", "")
    assert snapshot(Path(path).parent) == before


def test_apply_up_to_a_version(run: Run, path: str) -> None:
    """With --to, apply stops at that version, and goes on from there the next time."""
    assert run("apply", "--path", path, "--to", "1").out == f"applied {NAMES[0]}\n{path} is at schema version 1\n"
    assert run("apply", "--path", path).out.splitlines()[:-1] == [f"applied {name}" for name in NAMES[1:]]


def test_relative_path(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is one in the working directory."""
    monkeypatch.chdir(tmp_path)
    assert run("apply", "--path", "here.sqlite3").code == 0
    assert (tmp_path / "here.sqlite3").exists()


def test_dry_run_of_a_new_file(run: Run, path: str) -> None:
    """A dry run for a file that does not exist names all files, and does not make it."""
    expected = "".join(f"would apply {name}\n" for name in NAMES)
    assert run("apply", "--dry-run", "--path", path) == (0, expected, "")
    assert snapshot(Path(path).parent) == {}


def test_dry_run_of_an_older_database(run: Run, path: str) -> None:
    """A dry run names what is missing, up to --to, and changes no byte."""
    make(path, 1)
    before = snapshot(Path(path).parent)
    assert run("apply", "--dry-run", "--path", path).out == "".join(f"would apply {name}\n" for name in NAMES[1:])
    assert run("apply", "--dry-run", "--to", "2", "--path", path).out == f"would apply {NAMES[1]}\n"
    assert snapshot(Path(path).parent) == before


@pytest.mark.parametrize("verb", [VERBS["dry run"], *READING.values()], ids=["dry run", *READING])
def test_looking_at_a_database_in_use(run: Run, path: str, verb: list[str]) -> None:
    """While somebody uses the database, what looks at it sees the last commit and changes nothing."""
    connection = schema.connect(path)
    schema.apply(schema.executor(connection), STEPS)
    before = {name: text for name, text in snapshot(Path(path).parent).items() if not name.endswith("-shm")}
    outcome = run(*verb, "--path", path)
    assert outcome[::2] == (0, "")
    assert " pending\n" not in outcome.out
    assert "would apply" not in outcome.out
    assert {name: text for name, text in snapshot(Path(path).parent).items() if not name.endswith("-shm")} == before
    connection.close()


@pytest.mark.parametrize("verb", READING.values(), ids=READING)
def test_looking_leaves_nothing_behind(run: Run, path: str, verb: list[str]) -> None:
    """What only looks at a database leaves its bytes as they are and no file beside it."""
    make(path)
    before = snapshot(Path(path).parent)
    assert run(*verb, "--path", path).code == 0
    assert snapshot(Path(path).parent) == before


def test_status(run: Run, path: str) -> None:
    """Status lists each file with the time when it was applied, or as pending."""
    make(path, 1)
    title, *lines = run("status", "--path", path).out.splitlines()
    assert title == path
    assert [line.split()[:2] for line in lines] == [[str(step.version), step.name] for step in STEPS]
    assert re.search(r" \d{4}-\d\d-\d\dT[\d:.]+Z$", lines[0])
    assert all(line.endswith(" pending") for line in lines[1:])


def test_status_of_a_newer_database(run: Run, path: str) -> None:
    """Status lists what it does not know as well."""
    make(path, None, "INSERT INTO channels_lite_schema VALUES (9, '0009_future', 'x', 'some day')")
    outcome = run("status", "--path", path)
    assert outcome.code == 0
    assert re.search(r"9  0009_future +some day \(unknown to this channels-lite\)\n$", outcome.out)


def test_validate(run: Run, path: str) -> None:
    """Validate is content with what apply made."""
    make(path)
    assert run("validate", "--path", path) == (
        0,
        f"{path} is at schema version {len(STEPS)} and as the files make it\n",
        "",
    )


FINDINGS = {
    "older": (1, "SELECT 1", f"It is at schema version 1 of {len(STEPS)}; run: channels-lite-schema apply --path "),
    "dropped": (None, "DROP TRIGGER channels_lite_message_capacity", "channels_lite_message_capacity is missing."),
    "edited": (None, "UPDATE channels_lite_schema SET sha256 = 'x' WHERE version = 2", f"{NAMES[1]}.sql was edited"),
    "gap": (None, "DELETE FROM channels_lite_schema WHERE version = 1", "version 1 is missing before 2"),
    "newer": (
        None,
        "INSERT INTO channels_lite_schema SELECT max(version) + 1, 'x', 'x', 'x' FROM channels_lite_schema",
        "newer than this channels-lite",
    ),
}


@pytest.mark.parametrize(("to", "statement", "words"), FINDINGS.values(), ids=FINDINGS)
def test_validate_finds(run: Run, path: str, to: int | None, statement: str, words: str) -> None:
    """Validate says what is wrong with the schema in an error, and leaves it as it is."""
    make(path, to, statement)
    before = snapshot(Path(path).parent)
    refused(run("validate", "--path", path), words)
    assert snapshot(Path(path).parent) == before


def test_show_of_a_database(run: Run, path: str) -> None:
    """Show prints each of our objects in the database, and nothing of an application's."""
    make(path, 2, "CREATE TABLE notes (text)")
    outcome = run("show", "--path", path)
    created = re.findall(r"^CREATE (?:TABLE|VIEW|INDEX|TRIGGER) (\w+)", outcome.out, re.MULTILINE)
    assert {"channels_lite_message", "channels_lite_clock", "channels_lite_message_capacity"} < set(created)
    assert all(name.startswith("channels_lite_") for name in created)
    assert "channels_lite_live_message" not in created


def test_show_of_the_files(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show prints the files where nothing says which database is meant."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    assert run("show") == (0, "".join(f"-- {step.name}.sql\n{step.sql}\n" for step in STEPS), "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says its version."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["migrate"],
        ["apply", "--path", "a", "--layer", "default"],
        ["apply", "--path", "a", "--database", "default"],
        ["apply", "--layer", "default", "--database", "default"],
        ["apply", "--path", "a", "--to", "last"],
        ["apply", "--path"],
        ["apply", "a"],
        ["status", "--path", "a", "--to", "1"],
        ["validate", "--path", "a", "--dry-run"],
        ["show", "--file", "a"],
    ],
    ids=" ".join,
)
def test_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong usage ends with exit code 2, the usage and what is wrong, and makes no file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.match(r"usage: channels-lite-schema .*^channels-lite-schema.*: error: .+", err, re.DOTALL | re.MULTILINE)
    assert snapshot(tmp_path) == {}


# Which database.

TARGETS = {
    "": "app-channels.sqlite3",
    "--layer default": "app-channels.sqlite3",
    "--layer own": "own.sqlite3",
    "--layer file": "file.sqlite3",
    "--database default": "app.sqlite3",
    "--database own": "own.sqlite3",
}


@pytest.mark.parametrize(("target", "file"), TARGETS.items(), ids=lambda text: text or "nothing")
def test_target(spawn: Run, project: Path, target: str, file: str) -> None:
    """The layer's file, or the alias's own: the default layer's where settings are there and nothing else is said."""
    outcome = spawn("apply", *target.split(), "--settings", "site_settings")
    assert outcome == (0, outcome.out, "")
    assert outcome.out.endswith(f"{project / file} is at schema version {len(STEPS)}\n")
    assert {entry.name for entry in project.iterdir()} == {"site_settings.py", file}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_settings_from_the_environment(spawn: Run, project: Path, verb: list[str]) -> None:
    """Every verb finds the default layer's file through DJANGO_SETTINGS_MODULE."""
    make(str(project / "app-channels.sqlite3"))
    outcome = spawn(*verb, settings="site_settings")
    assert outcome[::2] == (0, "")
    assert "CREATE TABLE" in outcome.out or str(project / "app-channels.sqlite3") in outcome.out


@pytest.mark.parametrize("verb", READING.values(), ids=READING)
def test_settings_from_the_option(spawn: Run, project: Path, verb: list[str]) -> None:
    """--settings goes before DJANGO_SETTINGS_MODULE, and every verb takes a layer."""
    make(str(project / "file.sqlite3"))
    outcome = spawn(*verb, "--settings", "site_settings", "--layer", "file", settings="no_such_settings")
    assert outcome[::2] == (0, "")
    assert "CREATE TABLE" in outcome.out or str(project / "file.sqlite3") in outcome.out


def test_path_needs_no_settings(spawn: Run, project: Path) -> None:
    """With --path, settings are not even loaded."""
    assert spawn("apply", "--path", "plain.sqlite3", settings="no_such_settings").code == 0
    assert (project / "plain.sqlite3").exists()


LITE = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
WRONG_LAYERS = {
    "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "volatile": {"BACKEND": LITE, "CONFIG": {"path": ":memory:"}},
    "misconfigured": {"BACKEND": LITE, "CONFIG": {"capacity": "many"}},
    "elsewhere": {"BACKEND": LITE, "CONFIG": {"database": "postgres"}},
    "unknown": {"BACKEND": "no.such.Backend"},
}
WRONG_TARGETS = {
    "--layer nobody": "no entry 'nobody' in CHANNEL_LAYERS (other, volatile,",
    "--layer other": "'other' in CHANNEL_LAYERS is a InMemoryChannelLayer, which has no SQLite file",
    "--layer volatile": "in memory",
    "--layer misconfigured": "the option 'capacity'",
    "--layer elsewhere": "'postgres', whose ENGINE is 'django.db.backends.postgresql'",
    "--layer unknown": "no.such.Backend",
    "--layer=": "no entry '' in CHANNEL_LAYERS",
    "--database nobody": "'nobody', which is not in DATABASES ('default',",
    "--database postgres": "'postgres', whose ENGINE is 'django.db.backends.postgresql'",
    "--database=": "'', which is not in DATABASES",
}


@override_settings(CHANNEL_LAYERS=WRONG_LAYERS)
@pytest.mark.parametrize(("target", "words"), WRONG_TARGETS.items(), ids=WRONG_TARGETS)
def test_wrong_target(run: Run, monkeypatch: pytest.MonkeyPatch, target: str, words: str) -> None:
    """A layer or alias that is missing, in memory, misconfigured or not SQLite is an error, and nothing is made."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the working directory
    before = snapshot(FOLDER)
    refused(run("apply", *target.split()), words)
    assert snapshot(FOLDER) == before


def test_alias_in_memory(spawn: Run) -> None:
    """An alias in memory has no file that could be brought up to date."""
    refused(spawn("apply", "--database", "volatile", settings="site_settings"), "in memory")


WRONG_SETTINGS = {
    "missing": (None, "No module named 'bad_settings'"),
    "raising": ('import os\nSECRET_KEY = os.environ["NOT_SET"]\n', "KeyError: 'NOT_SET'"),
    "no Python": ("DATABASES = {\n", "SyntaxError"),
    "no layers": ("CHANNEL_LAYERS = {}\n", "no entry 'default' in CHANNEL_LAYERS (empty)"),
    "no database": (
        'CHANNEL_LAYERS = {"default": {"BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer"}}\n',
        "'default', ",
    ),
}


@pytest.mark.parametrize(("text", "words"), WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_wrong_settings(spawn: Run, project: Path, text: str | None, words: str) -> None:
    """Settings that do not load, or lack the layer, are an error and no traceback."""
    if text is not None:
        (project / "bad_settings.py").write_text(text)
    refused(spawn("status", "--settings", "bad_settings"), words)


@pytest.mark.parametrize("verb", [verb for name, verb in VERBS.items() if name != "show"], ids=" ".join)
def test_nothing_says_which_database(run: Run, monkeypatch: pytest.MonkeyPatch, verb: list[str]) -> None:
    """Without a path and without settings, the error says what can be given."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    refused(run(*verb), "Give --path FILE, or --settings MODULE")


# Databases that cannot be used.


@pytest.mark.parametrize("name", [":memory:", "file:some.sqlite3?mode=rwc"])
def test_path_that_is_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What a layer would not take for a file is not taken for one here either."""
    monkeypatch.chdir(tmp_path)
    outcome = run("apply", "--path", name)
    assert outcome.code == 1
    assert outcome.err.startswith(ERROR)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("verb", READING.values(), ids=READING)
def test_missing_file(run: Run, path: str, verb: list[str]) -> None:
    """What only looks at a database does not make it."""
    refused(run(*verb, "--path", path), f"There is no database at {path}")
    assert snapshot(Path(path).parent) == {}


def letter(path: str) -> None:
    Path(path).write_text("This is a letter, and not a database.\n" * 300)


def note(path: str) -> None:
    Path(path).write_text("short")


def cut_short(path: str) -> None:
    make(path)
    os.truncate(path, 10_000)


def cut_short_without_wal(path: str) -> None:
    make(path, None, "PRAGMA journal_mode = delete")
    os.truncate(path, 10_000)


def scribbled_over(path: str) -> None:
    make(path)
    content = bytearray(Path(path).read_bytes())
    content[100:4096] = b"\xff" * 3996
    Path(path).write_bytes(content)


def directory(path: str) -> None:
    Path(path).mkdir()


DAMAGES = {
    letter: "is not a SQLite database",
    note: "is not a SQLite database",
    cut_short: "is damaged",
    cut_short_without_wal: "is damaged",
    scribbled_over: "is damaged",
    directory: "is a folder",
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_unusable_file(run: Run, path: str, verb: list[str], damage: Callable[[str], None]) -> None:
    """A file that is no database or a damaged one is an error that says so, and no byte of it is changed."""
    damage(path)
    before = snapshot(Path(path).parent)
    refused(run(*verb, "--path", path), DAMAGES[damage])
    assert snapshot(Path(path).parent) == before


@pytest.mark.parametrize("verb", [VERBS["apply"], VERBS["dry run"]], ids=" ".join)
@pytest.mark.parametrize("finding", ["edited", "gap", "newer"])
def test_apply_refuses(run: Run, path: str, verb: list[str], finding: str) -> None:
    """An edited file, a gap and a newer database are refused before anything is changed, the journal mode included."""
    _, statement, words = FINDINGS[finding]
    make(path, None, statement, "PRAGMA journal_mode = delete")
    before = snapshot(Path(path).parent)
    refused(run(*verb, "--path", path), words)
    assert snapshot(Path(path).parent) == before


@pytest.mark.parametrize("verb", [VERBS["apply"], VERBS["dry run"]], ids=" ".join)
@pytest.mark.parametrize("to", ["-1", "99"])
def test_version_that_does_not_exist(run: Run, path: str, verb: list[str], to: str) -> None:
    """A version that there is no file for is refused, and no database is made for it."""
    refused(run(*verb, "--path", path, "--to", to), f"There is no schema version {to}")
    assert snapshot(Path(path).parent) == {}


def test_no_way_back(run: Run, path: str) -> None:
    """A version before the database's is refused."""
    make(path)
    before = snapshot(Path(path).parent)
    refused(run("apply", "--path", path, "--to", "1"), "going back to 1 is not possible")
    assert snapshot(Path(path).parent) == before


def test_locked_database(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database whose write lock somebody keeps for too long is an error that says so."""
    monkeypatch.setattr(schema, "LOCK_WAIT_MS", 1)
    make(path, 1)
    connection = guard.Connection(path)
    connection.execute("BEGIN IMMEDIATE")
    refused(run("apply", "--path", path), "is locked by another process")
    connection.close()


def test_missing_folder(run: Run, tmp_path: Path) -> None:
    """A folder that does not exist is named, and not made."""
    refused(run("apply", "--path", str(tmp_path / "nowhere" / "a.sqlite3")), "No such file or directory")
    assert snapshot(tmp_path) == {}


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a folder where not even root can make a file")
def test_folder_where_nobody_can_write(run: Run) -> None:
    """A folder in which no file can be made is an error, for root as well."""
    refused(run("apply", "--path", "/sys/channels.sqlite3"), "/sys/channels.sqlite3 cannot be created")


# As an ordinary user: for root, permissions mean nothing.
UNPRIVILEGED = """
import contextlib, io, os, sys
from channels_lite import schema
from channels_lite.cli import main
steps = schema.steps()
schema.steps = lambda: steps  # files that that user may not be able to read either
with contextlib.redirect_stderr(io.StringIO()):  # imports what that user may not be able to read
    main(["status", "--path", "no such file"])
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that anybody may enter and nobody may write to, with a database in it; pytest's own is closed."""
    outer = Path(tempfile.mkdtemp())
    folder = outer / "folder"
    folder.mkdir()
    make(str(folder / "there.sqlite3"), 1)
    (folder / "there.sqlite3").chmod(0o444)
    outer.chmod(0o755)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(outer)


@pytest.mark.skipif(os.name != "posix", reason="needs permission bits")
@pytest.mark.parametrize(
    ("name", "words"), [("new.sqlite3", "cannot be created"), ("there.sqlite3", "check the rights")]
)
def test_read_only_folder(read_only_folder: Path, name: str, words: str) -> None:
    """In a folder that one may not write to, apply is an error, for a new file and for one that is there."""
    before = snapshot(read_only_folder)
    command = [sys.executable, "-c", UNPRIVILEGED, "apply", "--path", str(read_only_folder / name)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    refused(Outcome(ended.returncode, ended.stdout, ended.stderr), words)
    assert snapshot(read_only_folder) == before
