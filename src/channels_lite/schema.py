"""The versioned SQL files: find them, apply them, and say how a database compares with them."""

import contextlib
import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import django.db

from channels_lite import caller, diagnosis, guard
from channels_lite.errors import SchemaError
from channels_lite.page import give

if sys.platform != "win32":
    import fcntl

Execute = Callable[[str, Sequence[Any]], list[Any]]
ERRORS = (apsw.Error, django.db.Error)  # what an Execute raises: it runs on an apsw connection, or on one of Django's

TABLE = "channels_lite_schema"
LOCK_WAIT_MS = 10_000  # milliseconds that applying waits for somebody else who applies


class Step(NamedTuple):
    """One file of ``sql/``."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hex digest of the file's text, line ends as LF."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """The file's statements one by one, for libraries that would commit before running a script."""
        pending = ""
        for line in self.sql.splitlines(keepends=True):
            pending += line
            if apsw.complete(pending):
                yield pending
                pending = ""
        if re.sub(r"--.*", "", pending).strip():
            raise SchemaError(f"The schema file {self.name} ends in the middle of a statement.")


class Record(NamedTuple):
    """One row of ``channels_lite_schema``: a file that was applied."""

    version: int
    name: str
    sha256: str
    applied_at: str


def folder() -> Path:
    """Where the SQL files are: inside the installed package, or at the top of the checkout it is run from."""
    package = Path(__file__).parent
    for place in (package / "sql", package.parent.parent / "sql"):
        if place.is_dir():
            return place
    raise SchemaError("The SQL files of channels-lite are missing from this installation; install it again.")


def steps(place: Path | None = None) -> list[Step]:
    """All schema files in order; SchemaError where the numbers have a gap or the names are wrong."""
    found = []
    for file in sorted((place or folder()).glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_\w+", file.stem)
        if match is None:
            raise SchemaError(f"The schema file {file.name} is not named like 0001_tables.sql.")
        found.append(Step(int(match[1]), file.stem, file.read_text(encoding="utf-8")))
    for expected, step in enumerate(found, start=1):
        if step.version != expected:
            raise SchemaError(f"The schema files have a gap: {expected:04d} is missing before {step.name}.sql.")
    return found


def records(execute: Execute) -> list[Record]:
    """What was applied to this database, oldest first; empty where nothing was."""
    if not execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (TABLE,)):
        return []
    rows = execute(f"SELECT version, name, sha256, applied_at FROM {TABLE} ORDER BY version", ())
    return [Record(*row) for row in rows]


def disagreement(applied: Sequence[Record], available: Sequence[Step]) -> str | None:
    """Why these records cannot be continued with these files, in one sentence; None where they can."""
    for number, record in enumerate(applied, start=1):
        if record.version != number:
            return f"Its records have a gap: version {number} is missing before {record.version}."
        if number > len(available):
            return (
                f"It is at schema version {applied[-1].version}, newer than this channels-lite, which knows "
                f"{len(available)}; install the newer channels-lite."
            )
        if record.sha256 != available[number - 1].sha256:
            return (
                f"The file {record.name}.sql was edited after it had been applied on {record.applied_at}; "
                "restore it, and put the change into a file of its own."
            )
    return None


def apply(execute: Execute, available: Sequence[Step], to: int | None = None) -> list[Step]:
    """Bring a database up to version ``to`` (the newest by default), each file in one transaction with its record.

    Returns what was applied; safe while other processes do the same. On an error the file that failed has left no
    trace, and the files before it stay.
    """
    done: list[Step] = []
    while True:
        with transaction(execute):
            step = next_step(execute, available, to)
            if step is not None:
                _run(execute, step)
        if step is None:
            return done
        done.append(step)


def reach(execute: Execute, available: Sequence[Step], version: int) -> None:
    """Bring a database up to ``version`` at least: as ``apply``, but one that is there or beyond is left alone."""
    while len(records(execute)) < version:
        with transaction(execute):
            # Somebody else may have gone beyond it before the lock was ours.
            step = next_step(execute, available, max(version, len(records(execute))))
            if step is not None:
                _run(execute, step)


def remove(execute: Execute, available: Sequence[Step]) -> None:
    """Remove everything that these files make from a database, in one transaction, with all messages and groups."""
    ours = objects(_fresh(available))
    if not records(execute):
        return  # whatever has our names there is not ours
    with transaction(execute):
        for kind in ("view", "table"):  # indexes and triggers go with them
            for (name,) in execute("SELECT name FROM sqlite_master WHERE type = ?", (kind,)):
                if name in ours:
                    execute(f"DROP {kind} {name}", ())


def create(execute: Execute, available: Sequence[Step]) -> None:
    """Give a database without any of our tables the whole schema, in one transaction.

    One transaction, and not one a file: a process that opens the database meanwhile sees all of it or nothing.
    """
    with transaction(execute):
        create_within(execute, available)


def create_within(execute: Execute, available: Sequence[Step]) -> None:
    """As ``create``, in the transaction that the caller has begun."""
    if not records(execute):
        for step in available:
            _run(execute, step)


@contextlib.contextmanager
def transaction(execute: Execute) -> Iterator[None]:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK on an error: the version is read again under the write lock."""
    begun = False
    try:
        execute("BEGIN IMMEDIATE", ())
        begun = True
        yield
        execute("COMMIT", ())
    except BaseException as error:
        # What raises before it has begun leaves a transaction of somebody else's alone, if it is no signal handler.
        if begun or caller.is_interruption(error):
            with contextlib.suppress(Exception):  # after some errors SQLite has rolled back already
                execute("ROLLBACK", ())
        raise


def next_step(execute: Execute, available: Sequence[Step], to: int | None) -> Step | None:
    """The file to apply next; None where there is nothing to do; SchemaError where it must not be done."""
    applied = records(execute)
    problem = disagreement(applied, available)
    if problem is not None:
        raise SchemaError(problem)
    wanted = len(available) if to is None else to
    if not 0 <= wanted <= len(available):
        raise SchemaError(f"There is no schema version {wanted}; the newest is {len(available)}.")
    if wanted < len(applied):
        raise SchemaError(f"It is at schema version {len(applied)} already; going back to {wanted} is not possible.")
    return available[len(applied)] if len(applied) < wanted else None


def _run(execute: Execute, step: Step) -> None:
    try:
        for statement in step.statements():
            execute(statement, ())
    except ERRORS as error:
        if diagnosis.is_of_the_file(error):
            raise
        raise SchemaError(f"The schema file {step.name}.sql failed and was undone: {error}.") from error
    execute(f"INSERT INTO {TABLE} (version, name, sha256) VALUES (?, ?, ?)", (step.version, step.name, step.sha256))


def command(path: str, verb: str = "apply") -> str:
    """What to type in a shell, by default to bring a database up to date."""
    return f"channels-lite-schema {verb} --path {shlex.quote(path)}"


def check(execute: Execute, available: Sequence[Step], path: str, upgrade: str | None = None) -> None:
    """At run time: create the schema where there is none; SchemaError where it is not the one this release needs.

    ``upgrade``: what to type in a shell to bring the database up to date, if not ``command(path)``.
    """
    if not records(execute):
        create(execute, available)
    applied = records(execute)
    if len(applied) < len(available):
        raise SchemaError(
            f"The database {path} is at schema version {len(applied)}, and this channels-lite needs "
            f"{len(available)}; run: {upgrade or command(path)}"
        )
    problem = disagreement(applied, available)
    if problem is not None:
        raise SchemaError(f"The database {path} cannot be used. {problem} To see more: {command(path, 'status')}")


def objects(execute: Execute) -> dict[str, str]:
    """The SQL of every table, index, view and trigger of ours in this database, by name."""
    rows = execute("SELECT name, sql FROM sqlite_master WHERE name GLOB 'channels_lite_*' AND sql IS NOT NULL", ())
    return dict(sorted(rows))


def differences(execute: Execute, available: Sequence[Step]) -> list[str]:
    """How the database's objects differ from those that its applied files make, one sentence each."""
    expected, actual = objects(_fresh(available, len(records(execute)))), objects(execute)
    return [
        *(f"{name} is missing." for name in expected if name not in actual),
        *(
            f"{name} is not as the files make it."
            for name in expected
            if actual.get(name, expected[name]) != expected[name]
        ),
    ]


def _fresh(available: Sequence[Step], to: int | None = None) -> Execute:
    """A database in memory with these files applied."""
    execute = executor(apsw.Connection(":memory:"))
    apply(execute, available, to)
    return execute


def executor(connection: apsw.Connection) -> Execute:
    """Run a statement to its end on an apsw connection and return its rows."""

    def execute(sql: str, parameters: Sequence[Any]) -> list[Any]:
        return connection.execute(sql, parameters).fetchall()

    return execute


def connect(path: str, *, create_file: bool = True, owned: os.stat_result | None = None) -> guard.Connection:
    """Open a database file with apsw, in WAL mode, waiting for locks; SchemaError or DiskFull says what is wrong.

    A file that does not exist is made for its owner alone, or for those who might use the file whose status ``owned``
    is. ``create_file=False`` creates no file, and its connection cannot write. TwoLibraries where this process has the
    file open with another SQLite library.
    """
    try:
        if not create_file:
            return _read_only(path)
        _create_private(path, owned)
        diagnosis.check_rights(path)
        connection = guard.Connection(path)
        try:
            connection.set_busy_timeout(LOCK_WAIT_MS)
            _switch_to_wal(connection)
        except BaseException:
            connection.close()
            raise
        return connection
    except OSError as error:
        raise diagnosis.refusal_by_system(path, error) from error
    except apsw.Error as error:
        raise diagnosis.refusal(path, error) from error


def _read_only(path: str) -> guard.Connection:
    if not os.path.exists(path):
        raise SchemaError(f"There is no database at {path}; it is made at first use, or by apply.")
    # Not SQLITE_OPEN_READONLY: such a connection makes a -wal and a -shm, and cannot remove them when it closes.
    connection = guard.Connection(path)
    connection.set_busy_timeout(LOCK_WAIT_MS)
    connection.pragma("query_only", True)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    return connection


def _create_private(path: str, owned: os.stat_result | None) -> None:
    # A file that is there is never opened here: closing it would drop the locks that SQLite holds in this process.
    if os.path.lexists(path):
        return
    with _alone_in(os.path.dirname(path) or "."):
        if os.path.lexists(path):
            return
        # Of a database that was deleted: processes that have it open may still go by them, and the new one must not.
        for leftover in (f"{path}-wal", f"{path}-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        if owned is not None:
            give(path, owned)


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Be the only process that creates a database in a folder, if the system has locks for folders."""
    if sys.platform == "win32":
        yield
        return
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _switch_to_wal(connection: apsw.Connection) -> None:
    # SQLite does not call its busy handler for every lock that this change takes.
    deadline = time.monotonic() + LOCK_WAIT_MS / 1000
    while True:
        try:
            connection.pragma("journal_mode", "wal")
            return
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
