"""The versioned schema: finding the files, applying them whatever happens, and comparing a database with them."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from channels_lite import cli, diagnosis, schema
from channels_lite.errors import SchemaError
from channels_lite.layers.aio import AIOSQLiteChannelLayer

SNAPSHOT = Path(__file__).with_name("schema.sql")
STEPS = schema.steps()
LATEST = len(STEPS)
RACERS = 20
PATIENCE = 60.0  # seconds until a process that hangs fails its test
MESSAGE = "INSERT INTO channels_lite_message (prefix, queue, expires_at, payload) VALUES ('', 'chat', 9e15, x'01')"
MEMBERSHIP = "INSERT INTO channels_lite_membership VALUES ('', 'room', 'zone.client!', 'a', 0, 9e15)"
NEWER = "INSERT INTO channels_lite_schema VALUES (99, '0099_future', 'x', 'some day')"

Execute = Callable[..., list[Any]]
MakeLayer = Callable[..., AIOSQLiteChannelLayer]


@contextlib.contextmanager
def opened(path: str) -> Iterator[Execute]:
    """The file's connection while the block runs, as a function that runs a statement."""
    connection = schema.connect(path)
    try:
        yield lambda sql, parameters=(): connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


@pytest.fixture
def execute(path: str) -> Iterator[Execute]:
    """An empty database."""
    with opened(path) as execute:
        yield execute


def versions(execute: Execute) -> list[int]:
    """The versions that were applied."""
    return [record.version for record in schema.records(execute)]


def write_files(place: Path, *names: str) -> Path:
    """A folder of schema files, each of which makes a table of its own."""
    for number, name in enumerate(names):
        (place / name).write_text(f"CREATE TABLE channels_lite_{number} (x);\n")
    return place


def race(script: str, *arguments: str) -> list[str]:
    """Run a script in many processes that start at the same moment; all must succeed. Returns what they print."""
    gate, opener = os.pipe()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments, str(number)],
            stdin=gate,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    os.close(gate)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    os.close(opener)  # all of them read the end of their input now
    outcomes = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in processes]
    assert {outcome[1:] for outcome in outcomes} == {("", 0)}
    return [outcome[0] for outcome in outcomes]


# Finding the files.


def test_files_come_in_order(tmp_path: Path) -> None:
    """The files are found in the order of their numbers; what is no SQL file does not count."""
    write_files(tmp_path, "0002_second.sql", "0001_first.sql", "0003_third.sql", "README.md")
    assert [(step.version, step.name) for step in schema.steps(tmp_path)] == [
        (1, "0001_first"),
        (2, "0002_second"),
        (3, "0003_third"),
    ]


@pytest.mark.parametrize("names", [["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"]])
def test_gap_in_the_files(tmp_path: Path, names: list[str]) -> None:
    """A missing or doubled number is an error that says which is missing before which."""
    with pytest.raises(SchemaError, match=rf"gap: \d{{4}} is missing before {names[-1]}"):
        schema.steps(write_files(tmp_path, *names))


@pytest.mark.parametrize("name", ["1_a.sql", "00001_a.sql", "0001-a.sql", "0001_.sql", "tables.sql", "0001_a b.sql"])
def test_bad_file_name(tmp_path: Path, name: str) -> None:
    """A file with another kind of name is an error that names it."""
    with pytest.raises(SchemaError, match=re.escape(name)):
        schema.steps(write_files(tmp_path, name))


def test_line_ends_do_not_edit_a_file(tmp_path: Path) -> None:
    """A checkout with CRLF has the same digests as one with LF."""
    (tmp_path / "0001_a.sql").write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")
    (step,) = schema.steps(tmp_path)
    assert step.sha256 == schema.Step(1, "0001_a", "SELECT 1;\nSELECT 2;\n").sha256


def test_statements_are_split_at_their_ends() -> None:
    """A file falls into statements: a trigger stays whole, and comments and strings may hold a semicolon."""
    trigger = "CREATE TRIGGER t BEFORE INSERT ON a BEGIN\n    SELECT 1; -- one;\n    SELECT 2;\nEND;\n"
    create = "-- A table; and more.\nCREATE TABLE a (\n    x TEXT DEFAULT ';' -- ; here\n);\n"
    step = schema.Step(1, "0001_a", f"{create}{trigger}DROP TABLE a;\n-- The end;\n")
    assert list(step.statements()) == [create, trigger, "DROP TABLE a;\n"]


def test_half_a_statement_is_refused() -> None:
    """A file that ends in the middle of a statement is an error that names it."""
    with pytest.raises(SchemaError, match="0001_a ends in the middle"):
        list(schema.Step(1, "0001_a", "CREATE TABLE a (x);\nCREATE TABLE b (").statements())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_files_hold_no_transaction(step: schema.Step) -> None:
    """No file begins or ends a transaction: it runs inside that of its record; and each begins with a comment."""
    assert step.sql.startswith("-- ")
    for statement in step.statements():
        assert not re.match(r"(BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|PRAGMA)\b", re.sub(r"--.*", "", statement).strip())


def test_split_files_make_what_whole_files_make(execute: Execute) -> None:
    """Statement by statement with apsw, or as scripts with the standard library: the schema is the same."""
    schema.apply(execute, STEPS)
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for step in STEPS:
            connection.executescript(step.sql)
        whole = schema.objects(lambda sql, parameters: connection.execute(sql, parameters).fetchall())
    assert whole == schema.objects(execute)


# Applying.


def test_fresh_schema_is_the_snapshot(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh schema is the one that the snapshot shows: a change of the files shows up in review."""
    cli.main(["apply", "--path", path])
    capsys.readouterr()
    cli.main(["show", "--path", path])
    assert capsys.readouterr().out == SNAPSHOT.read_text(encoding="utf-8"), (
        "The schema differs from tests/unit/schema.sql. If that is meant, write the snapshot anew: "
        "channels-lite-schema apply --path FRESH && channels-lite-schema show --path FRESH > tests/unit/schema.sql"
    )


def test_apply_records_each_file(execute: Execute) -> None:
    """Each file leaves a record with its version, name, digest and the time."""
    assert schema.apply(execute, STEPS) == STEPS
    records = schema.records(execute)
    assert [record[:3] for record in records] == [(step.version, step.name, step.sha256) for step in STEPS]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.applied_at) for record in records)


@pytest.mark.parametrize("start", range(LATEST + 1))
def test_rows_survive_an_upgrade(execute: Execute, start: int) -> None:
    """From every version to the latest, the rows of ours and of an application stay, and the schema is complete."""
    execute("CREATE TABLE notes (text)")
    execute("INSERT INTO notes VALUES ('keep me')")
    schema.apply(execute, STEPS, start)
    tables = ["notes"]
    if start:
        execute(MESSAGE)
        execute(MEMBERSHIP)
        tables += ["channels_lite_message", "channels_lite_membership"]
    before = [execute(f"SELECT * FROM {table}")[0] for table in tables]
    assert schema.apply(execute, STEPS) == STEPS[start:]
    after = [execute(f"SELECT * FROM {table}") for table in tables]
    assert [rows[0][: len(row)] for rows, row in zip(after, before, strict=True)] == before  # columns may come behind
    assert [len(rows) for rows in after] == [1] * len(tables)
    assert versions(execute) == list(range(1, LATEST + 1))
    assert schema.differences(execute, STEPS) == []


def test_apply_again_changes_nothing(path: str) -> None:
    """Applying to an up-to-date database changes no byte of its file and leaves no file beside it."""
    with opened(path) as execute:
        schema.apply(execute, STEPS)
        execute(MESSAGE)
    before = (Path(path).read_bytes(), os.listdir(Path(path).parent))
    with opened(path) as execute:
        assert schema.apply(execute, STEPS) == []
    assert (Path(path).read_bytes(), os.listdir(Path(path).parent)) == before


@pytest.mark.parametrize("to", [-1, LATEST + 1])
def test_version_that_does_not_exist(execute: Execute, to: int) -> None:
    """Applying up to a version that there is no file for is refused."""
    with pytest.raises(SchemaError, match=f"no schema version {to}"):
        schema.apply(execute, STEPS, to)
    assert versions(execute) == []


def test_no_way_back(execute: Execute) -> None:
    """Applying up to a version before the database's is refused."""
    schema.apply(execute, STEPS)
    with pytest.raises(SchemaError, match="going back to 1 is not possible"):
        schema.apply(execute, STEPS, 1)


def test_new_file_is_its_owners(path: str) -> None:
    """A database that is made holds messages: nobody but its owner may read it."""
    schema.connect(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_reach_leaves_what_is_beyond(execute: Execute) -> None:
    """Reaching a version applies what is missing up to it, and leaves alone what somebody has brought further."""
    schema.reach(execute, STEPS, 2)
    assert versions(execute) == [1, 2]
    schema.reach(execute, STEPS, 1)
    assert versions(execute) == [1, 2]


def test_reach_meets_somebody_who_goes_beyond(path: str, execute: Execute) -> None:
    """Somebody who applies newer files just before the lock is ours makes reaching a version no error."""

    def overtaken(sql: str, parameters: Sequence[Any]) -> list[Any]:
        if sql == "BEGIN IMMEDIATE":
            with opened(path) as other:
                schema.create(other, STEPS)
        return execute(sql, parameters)

    schema.reach(overtaken, STEPS, 1)
    assert versions(execute) == list(range(1, LATEST + 1))


def test_remove_takes_what_is_ours(execute: Execute) -> None:
    """Removing leaves no object of ours, and an application's table in place; it can be applied again."""
    execute("CREATE TABLE channels_lite_extra_notes (text)")
    schema.apply(execute, STEPS)
    execute(MESSAGE)
    schema.remove(execute, STEPS)
    assert set(schema.objects(execute)) == {"channels_lite_extra_notes"}
    schema.remove(execute, STEPS)
    assert schema.apply(execute, STEPS) == STEPS


BROKEN = {
    "unknown table": "INSERT INTO no_such_table VALUES (1);\n",
    "half a statement": "CREATE TABLE channels_lite_b (\n",
    "constraint": "INSERT INTO channels_lite_schema (version) VALUES (5);\n",
    "rolled back by SQLite": "INSERT OR ROLLBACK INTO channels_lite_schema (version) VALUES (5);\n",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_failure_in_the_middle_of_a_file(execute: Execute, broken: str) -> None:
    """A file that fails half way leaves the version before it, and no trace of its first half."""
    middle = schema.Step(LATEST + 1, "0099_broken", f"CREATE TABLE channels_lite_a (x);\n{broken}")
    after = schema.Step(LATEST + 2, "0100_after", "CREATE TABLE channels_lite_c (x);\n")
    with pytest.raises(SchemaError, match="0099_broken"):
        schema.apply(execute, [*STEPS, middle, after])
    assert versions(execute) == list(range(1, LATEST + 1))
    assert not {"channels_lite_a", "channels_lite_b", "channels_lite_c"} & set(schema.objects(execute))
    assert schema.apply(execute, STEPS) == []


def test_full_disk(execute: Execute) -> None:
    """A database that cannot grow keeps the version before; it is not the schema file that is to blame."""
    execute("PRAGMA max_page_count = 4")
    with pytest.raises(apsw.FullError):
        schema.apply(execute, STEPS)
    assert schema.objects(execute) == {}


def test_interruption_in_the_middle_of_a_file(execute: Execute) -> None:
    """Ctrl-C half way through a file leaves the version before it, and no transaction behind."""

    def interrupted(sql: str, parameters: Sequence[Any]) -> list[Any]:
        if "VIEW channels_lite_queue" in sql:
            raise KeyboardInterrupt
        return execute(sql, parameters)

    with pytest.raises(KeyboardInterrupt):
        schema.apply(interrupted, STEPS)
    assert versions(execute) == [1, 2]
    assert schema.apply(execute, STEPS) == STEPS[2:]


DYING = """
import os, signal, sys
from channels_lite import schema
execute = schema.executor(schema.connect(sys.argv[1]))
def dying(sql, parameters):
    if "VIEW channels_lite_queue" in sql:
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(sql, parameters)
schema.apply(dying, schema.steps())
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_death_in_the_middle_of_a_file(path: str) -> None:
    """A process killed half way through a file leaves the version before it, and the next one goes on."""
    process = subprocess.run([sys.executable, "-c", DYING, path], timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    with opened(path) as execute:
        assert versions(execute) == [1, 2]
        assert schema.apply(execute, STEPS) == STEPS[2:]
        assert schema.differences(execute, STEPS) == []


APPLYING = """
import sys
from channels_lite.cli import main
print("ready", flush=True)
sys.stdin.read()
sys.exit(main(["apply", "--path", sys.argv[1]]))
"""


def test_many_processes_apply_at_once(path: str) -> None:
    """Of 20 processes that apply to a new file at once, each succeeds, and each file is applied by one of them."""
    printed = "".join(race(APPLYING, path))
    assert sorted(re.findall(r"applied (\w+)", printed)) == [step.name for step in STEPS]
    with opened(path) as execute:
        assert versions(execute) == list(range(1, LATEST + 1))
        assert schema.differences(execute, STEPS) == []
        assert execute("PRAGMA integrity_check") == [("ok",)]


SENDING = """
import asyncio, sys
from channels_lite.layers.aio import AIOSQLiteChannelLayer
async def send():
    layer = AIOSQLiteChannelLayer(path=sys.argv[1])
    await layer.send("chat", {"number": int(sys.argv[2])})
    await layer.close()
print("ready", flush=True)
sys.stdin.read()
asyncio.run(send())
"""


async def test_many_processes_begin_at_once(path: str, layer: AIOSQLiteChannelLayer) -> None:
    """Nobody needs the command: 20 processes that first use a new file at once all send their message."""
    await asyncio.to_thread(race, SENDING, path)
    received = [await layer.receive("chat") for _ in range(RACERS)]
    assert sorted(message["number"] for message in received) == list(range(RACERS))
    with opened(path) as execute:
        assert schema.differences(execute, STEPS) == []


# What cannot be continued.


def spoil(execute: Execute, statement: str) -> None:
    """Apply everything and then change the records."""
    schema.apply(execute, STEPS)
    execute(statement)


SPOILT = {
    "edited": (
        "UPDATE channels_lite_schema SET sha256 = 'x' WHERE version = 2",
        "0002_capacity_triggers.sql was edited",
    ),
    "gap": ("DELETE FROM channels_lite_schema WHERE version = 2", "gap: version 2 is missing before 3"),
    "newer": (NEWER.replace("99", str(LATEST + 1), 1), f"version {LATEST + 1}, newer than this channels-lite"),
}


@pytest.mark.parametrize(("statement", "sentence"), SPOILT.values(), ids=SPOILT)
def test_apply_refuses_what_it_cannot_continue(execute: Execute, statement: str, sentence: str) -> None:
    """An edited file, a gap in the records and a newer database are refused, and nothing is changed."""
    spoil(execute, statement)
    before = schema.records(execute)
    extra = schema.Step(LATEST + 1, "0099_next", "CREATE TABLE channels_lite_next (x);\n")
    available = STEPS if "newer" in sentence else [*STEPS, extra]
    with pytest.raises(SchemaError, match=re.escape(sentence)):
        schema.apply(execute, available)
    assert schema.records(execute) == before
    assert "channels_lite_next" not in schema.objects(execute)


# At run time.


async def test_first_use_makes_the_schema(path: str, layer: AIOSQLiteChannelLayer) -> None:
    """The first use of a missing file makes the whole schema, the same that the command makes."""
    await layer.send("chat", {"type": "hello"})
    with opened(path) as execute:
        assert schema.differences(execute, STEPS) == []


async def test_first_use_of_an_empty_file(path: str, layer: AIOSQLiteChannelLayer) -> None:
    """An empty file is as good as none."""
    Path(path).touch()
    await layer.send("chat", {"type": "hello"})
    assert await layer.receive("chat") == {"type": "hello"}


async def test_first_use_of_an_applications_database(path: str, layer: AIOSQLiteChannelLayer) -> None:
    """Our tables may live in an application's database: what is there stays."""
    with opened(path) as execute:
        execute("CREATE TABLE notes (text)")
        execute("INSERT INTO notes VALUES ('keep me')")
    await layer.send("chat", {"type": "hello"})
    with opened(path) as execute:
        assert execute("SELECT text FROM notes") == [("keep me",)]


@pytest.mark.parametrize("version", range(1, LATEST))
async def test_older_schema_at_run_time(make_layer: MakeLayer, tmp_path: Path, version: int) -> None:
    """With an older schema the layer's error gives the command to type, and after it the layer works."""
    path = str(tmp_path / "two words.sqlite3")
    with opened(path) as execute:
        schema.apply(execute, STEPS, version)
    layer = make_layer(path=path)
    with pytest.raises(SchemaError, match=re.escape(f"run: channels-lite-schema apply --path '{path}'")):
        await layer.send("chat", {"type": "hello"})
    with opened(path) as execute:
        assert versions(execute) == list(range(1, version + 1))
    assert cli.main(["apply", "--path", path]) == 0
    await layer.send("chat", {"type": "hello"})


async def test_newer_schema_at_run_time(path: str, layer: AIOSQLiteChannelLayer) -> None:
    """With a newer schema the layer's error names the file and says what to install."""
    with opened(path) as execute:
        spoil(execute, SPOILT["newer"][0])
    with pytest.raises(SchemaError, match=rf"{re.escape(path)} cannot be used.*install the newer channels-lite"):
        await layer.send("chat", {"type": "hello"})


# Comparing.

CHANGES = {
    "dropped trigger": (
        ["DROP TRIGGER channels_lite_message_capacity"],
        ["channels_lite_message_capacity is missing."],
    ),
    "dropped index": (["DROP INDEX channels_lite_message_order"], ["channels_lite_message_order is missing."]),
    "dropped view": (
        ["DROP VIEW channels_lite_expired_message"],
        ["channels_lite_expired_message is missing.", "channels_lite_message_expired is missing."],
    ),
    "changed view": (
        ["DROP VIEW channels_lite_clock", "CREATE VIEW channels_lite_clock (now) AS SELECT 0"],
        ["channels_lite_clock is not as the files make it."],
    ),
    "added column": (
        ["ALTER TABLE channels_lite_message ADD COLUMN extra TEXT"],
        ["channels_lite_message is not as the files make it."],
    ),
    "application's own": (["CREATE TABLE notes (text)"], []),
}


@pytest.mark.parametrize(("statements", "sentences"), CHANGES.values(), ids=CHANGES)
def test_differences_name_the_objects(execute: Execute, statements: list[str], sentences: list[str]) -> None:
    """Whatever was dropped or changed behind our back is named, and nothing of the application's is."""
    schema.apply(execute, STEPS)
    for statement in statements:
        execute(statement)
    assert schema.differences(execute, STEPS) == sentences


def test_differences_at_an_older_version(execute: Execute) -> None:
    """An older database is compared with the files that were applied to it."""
    schema.apply(execute, STEPS, 1)
    assert schema.differences(execute, STEPS) == []


def test_damaged_database(path: str) -> None:
    """A file that is no database is named as such."""
    Path(path).write_text("This is a letter, and not a database. " * 50)
    with pytest.raises(SchemaError, match="is not a SQLite database"):
        schema.connect(path)


def test_locked_database(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database whose write lock somebody keeps is an error that says so, once the wait is over."""
    monkeypatch.setattr(schema, "LOCK_WAIT_MS", 1)
    with opened(path) as other:
        other("BEGIN IMMEDIATE")
        with opened(path) as execute, pytest.raises(apsw.BusyError) as caught:
            schema.apply(execute, STEPS)
        other("ROLLBACK")
    assert "is locked by another process" in str(diagnosis.refusal(path, caught.value))
