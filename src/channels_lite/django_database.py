"""A database through Django: the connections that its threads have, and one of ours for what belongs to no caller."""

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_lite import config, diagnosis, schema, store
from channels_lite.database import Database, Rules, Sent, acquire
from channels_lite.errors import (
    ChannelsLiteError,
    ConfigError,
    DatabaseBusy,
    DatabaseFailed,
    DatabaseLost,
    DiskFull,
    Locked,
)
from channels_lite.files import Files
from channels_lite.keeper import JOURNAL_LIMIT, RESTART_WAIT_MS, Connection, Keeper
from channels_lite.link import Link, key_of, link_of, may_roll_back, never_commits, prepare_connections
from channels_lite.schema import Execute
from channels_lite.statements import fetch, file_of, translated, translating_executor

T = TypeVar("T")

OLDEST_SQLITE = (3, 37, 0)  # the first one with STRICT tables
CHECKPOINT_ROWS = 256  # rows inserted or deleted, of about four pages in the -wal each
CHECKPOINT_BYTES = 4 * 1024 * 1024  # of payload, as much as SQLite's own default
NO_TABLE = "no such table"  # SQLite's words


class DjangoDatabase(Database):
    """The database of an alias, for the layers that speak through Django's connections to it.

    What has synchronous code above it runs on that thread's own connection, in its transaction. Everything else runs
    on a connection that Django makes for the keeper. A database in memory has no keeper: another connection to it
    would meet the tables that a transaction has locked.
    """

    def __init__(self, alias: str, path: str) -> None:
        super().__init__(path, in_memory=path == config.MEMORY)
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigError(
                f"CHANNEL_LAYERS: Python's SQLite is {sqlite3.sqlite_version}, and this layer needs 3.37 or newer; "
                "take a newer Python, or channels_lite.layers.aio.AIOSQLiteChannelLayer, which brings its own."
            )
        prepare_connections()
        self.alias = alias
        self._generation = 0  # of the keeper's connection: a new one counts its data_version anew
        self._versions = itertools.count()
        if not self.in_memory:
            self._open()

    def _open(self) -> None:
        first = [self._prepare()]
        self._own = first[0]

        def connect() -> Own:
            if self.failure is not None:  # its files were lost before a fork: what is there now is another database
                raise self.failure
            return self._took(first.pop() if first else Own(self.alias))

        self.keeper = Keeper(self.path, connect, self.inspect)
        self.keeper.start()
        self.keeper.ask(lambda execute: None)  # it takes the first connection over

    def _prepare(self) -> "Own":
        """The first connection, to a database that has the schema, and the bell beside it."""
        own = self._connect()
        try:
            self.hang_bell()
        except ChannelsLiteError:
            own.close()
            raise
        return own

    def _connect(self) -> "Own":
        upgrade = f"manage.py migrate channels_lite --database {self.alias}"
        wait = config.busy_deadline(config.Options(database=self.alias))
        diagnosis.check_rights(self.path)
        with contextlib.ExitStack() as undo:
            try:
                own = Own(self.alias, round(wait * 1000))
                undo.callback(own.close)
                schema.check(own.execute, schema.steps(), self.path, upgrade)
                own.settle()
            except Locked as error:
                raise DatabaseBusy(
                    f"The database {self.path} was locked for {wait:g} s while the layer was opening it, perhaps by "
                    f"the transaction that it was called in. Make its tables before that: {upgrade} "
                    "(with channels_lite in INSTALLED_APPS)"
                ) from error
            except DiskFull:
                raise
            except (DatabaseError, sqlite3.Error, DatabaseFailed) as error:
                raise diagnosis.refusal(self.path, error) from error
            undo.pop_all()
        return own

    def _took(self, own: "Own") -> "Own":
        try:
            own.settle()
        except Exception:
            own.close()
            raise
        self._generation += 1
        self._own = own
        self.files = Files(self.path)
        return own

    def _recover(self, old: Connection, lost: list[str], files: Files) -> Connection:
        # The application's data are in it, and its own connections lead to it: nothing is removed, repaired or moved.
        raise DatabaseLost(
            f"The database {self.path} is gone from its place, or its journal is ({' and '.join(lost)}); nothing was "
            "sent or changed. Put it back, or restart all processes that use it."
        )

    # In the keeper's thread.

    def send(self, execute: Execute, operation: Callable[..., object], *arguments: Any) -> Sent:
        """Run a function of ``store`` that sends on the keeper's connection, and wake who waits for what went in."""
        sent, considered = self._own.link.follow(operation, execute, *arguments)
        self.announce_all(sent)
        self.tidy()
        return _sent(sent, considered)

    # In the keeper's thread, or in any while that one has nothing to do.

    def send_now(self, operation: Callable[..., object], *arguments: Any) -> Sent | None:
        """As ``send``, in this thread; None where it might have to wait for anything."""
        results: list[tuple[list[tuple[str, str]], list[str]]] = []
        if not self.do_now(lambda execute: results.append(self._own.link.follow(operation, execute, *arguments))):
            return None
        sent, considered = results[0]
        self.announce_all(sent)  # the connection is free again, for claims
        return _sent(sent, considered)

    def do_now(self, job: Callable[[Execute], Any]) -> bool:
        """Run a short job in this thread, which may be a loop's; False where it might have to wait for anything.

        Only with a -wal: there, a commit waits for no disk, and copying the -wal back is left to the keeper's thread.
        """

        def work(execute: Execute) -> None:
            job(execute)
            self.tidy()

        return self._own.wal and self.keeper.inline(work)

    def tidy(self) -> None:
        """Have the -wal copied back if much was written to it through the keeper's connection."""
        if self.failure is None and self._own.checkpoint_due():
            self.keeper.checkpoint()

    def version_seen(self, execute: Execute) -> tuple[int, int]:
        """What changes when another connection than the keeper's has committed."""
        return self._generation, store.data_version(execute)

    # In a caller's thread.

    def may_undo(self) -> bool:
        """Whether this thread's connection is in a transaction, or is the only one that there is.

        Raises what a test case does that forbids this alias, as all that comes through Django's own connections.
        """
        connection = connections[self.alias]
        connection.temporary_connection()  # see claim_here
        if self.in_memory or connection.in_atomic_block:
            return True
        raw = connection.connection
        if raw is None:
            return not connection.settings_dict["AUTOCOMMIT"]
        return not connection.autocommit or bool(raw.in_transaction)

    def send_here(self, operation: Callable[..., object], *arguments: Any) -> Sent:
        """As ``send``, on this thread's connection: where it has a transaction open, the wake waits for its commit."""
        connection = connections[self.alias]
        try:
            sent, considered = self._link(connection).follow(operation, translating_executor(connection), *arguments)
        except Locked:
            self._refuse_in_transaction(connection)
            raise
        return _sent(sent, considered)

    def run_here(self, job: Callable[[Execute], T]) -> T:
        """Run a job that sends nothing on this thread's connection."""
        connection = connections[self.alias]
        self._link(connection)
        return job(translating_executor(connection))

    def flush_here(self, prefix: str) -> None:
        """Remove what is under a prefix on this thread's connection; what is parked goes when that has committed."""
        self.run_here(lambda execute: store.flush(execute, prefix))
        connection = connections[self.alias]
        if connection.in_atomic_block and not never_commits(connection):
            connection.on_commit(partial(self.flushed, prefix), robust=True)
        else:
            self.flushed(prefix)

    def claim_here(self, job: Callable[[Execute, bool], None]) -> None:
        """Run a job that claims, if this thread's connection can see what the keeper's cannot.

        The job is told whether what it claims may be rolled back.
        """
        connection = connections[self.alias]
        # Called and not entered, it does no I/O. It is what a test case replaces that forbids this alias: the keeper's
        # connection would not meet that.
        connection.temporary_connection()
        if self.in_memory or connection.in_atomic_block:
            self.run_here(lambda execute: job(execute, may_roll_back(connection)))

    def _link(self, connection: BaseDatabaseWrapper) -> Link:
        if self.failure is not None:
            raise self.failure
        connection.ensure_connection()
        link = link_of(connection)
        try:
            link.settle(connection)
        except sqlite3.OperationalError as error:
            if NO_TABLE not in str(error):
                raise translated(error, partial(file_of, connection)) from error
            _create(connection)
            link.settle(connection)
        return link

    def _refuse_in_transaction(self, connection: BaseDatabaseWrapper) -> None:
        if connection.in_atomic_block:
            raise DatabaseBusy(
                f"The database {self.path} was locked by somebody else, and this transaction could not begin to write; "
                'nothing was sent or changed. OPTIONS["transaction_mode"] = "IMMEDIATE" lets it wait for the lock.'
            ) from None

    # What Database asks for.

    def version(self) -> int:
        """A new number each time: the look itself finds out, in the keeper's thread, whether something is new."""
        return next(self._versions)

    def busy_retries(self) -> int:
        return self.retries if self.in_memory else super().busy_retries()

    def _spare(self, lock_wait_ms: int) -> "Own":
        return Own(self.alias, lock_wait_ms)

    def close(self) -> None:
        if not self.in_memory:
            self.keeper.stop()
        if self.bell is not None:
            self.bell.close()

    def suspend(self) -> None:
        self._aside.acquire()
        if not self.in_memory:
            self.keeper.suspend()
            self._close_idle()

    def _close_idle(self) -> None:
        """Close this thread's connection too, if it is not in use. Those of other threads are theirs to close."""
        for connection in connections.all(initialized_only=True):
            if connection.alias == self.alias and connection.connection is not None:
                with contextlib.suppress(SynchronousOnlyOperation):  # a loop runs in this thread
                    if link_of(connection).is_idle(connection):
                        connection.close()

    def resume(self) -> None:
        if not self.in_memory:
            self.keeper.resume()
        self._aside.release()


def _sent(inserted: list[tuple[str, str]], considered: list[str]) -> Sent:
    return Sent([queue for _, queue in inserted], considered)


def open_alias(alias: str, path: str, layer: object, rules: Rules) -> DjangoDatabase:
    """The database of this alias, opened if this process has not opened it yet. Does I/O unless it is in memory."""
    key = key_of(alias, path)
    return acquire(lambda: key, lambda: DjangoDatabase(alias, key[2]), layer, rules)


class Own:
    """A connection that Django makes for us alone. It is used below Django's cursors, by one thread at a time."""

    def __init__(self, alias: str, lock_wait_ms: int = 0) -> None:
        self._wrapper = connections.create_connection(alias)
        self._wrapper.inc_thread_sharing()  # a fork closes it from another thread
        self._wrapper.ensure_connection()
        self._raw: sqlite3.Connection = self._wrapper.connection
        self._raw.isolation_level = None  # whatever AUTOCOMMIT says: nobody else would commit
        self.link = link_of(self._wrapper)
        self.wal = False
        self._checkpointed = 0  # rows that had been changed by then
        self._written = 0  # bytes since then
        try:
            self._wait(lock_wait_ms)
            self.wal = self.execute("PRAGMA journal_mode", ())[0][0] == "wal"
            if self.wal:
                self.execute("PRAGMA synchronous = NORMAL", ())  # only our messages are written here
        except Exception:
            self.close()
            raise

    def _wait(self, lock_wait_ms: int) -> None:
        self._raw.execute(f"PRAGMA busy_timeout = {lock_wait_ms}").fetchall()

    def settle(self) -> None:
        """Be ready for the keeper: hear what is inserted, and never wait for a lock."""
        self.link.settle(self._wrapper)
        self._wait(0)
        if self.wal:
            self.execute("PRAGMA wal_autocheckpoint = 0", ())
            self.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}", ())

    def execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement to its end; Locked where somebody else holds the lock."""
        self._written += sum(len(value) for value in parameters if type(value) is bytes)
        return fetch(self._raw, sql, parameters)

    def checkpoint_due(self) -> bool:
        """Whether enough was written since the last checkpoint; asked once, it is."""
        changed = self._raw.total_changes
        if not self.wal or (changed - self._checkpointed < CHECKPOINT_ROWS and self._written < CHECKPOINT_BYTES):
            return False
        self._checkpointed, self._written = changed, 0
        return True

    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        try:
            return self._raw.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False

    def checkpoint(self) -> bool:
        """Copy the -wal back and hold writers up for a moment, so that it begins anew; whether it does."""
        self._wait(RESTART_WAIT_MS)
        try:
            return not self.execute("PRAGMA wal_checkpoint(RESTART)", ())[0][0]
        except Locked:
            return False
        finally:
            self._wait(0)

    def close(self, *, quickly: bool = False) -> None:
        """Close it. sqlite3 knows no quick way; Django's refuses in the thread of a loop, where a fork may happen."""
        self._wrapper.connection = None
        self._raw.close()


def _create(connection: BaseDatabaseWrapper) -> None:
    execute = partial(fetch, connection.connection)  # below Django's cursors: who counts queries means his own
    if connection.in_atomic_block:
        schema.create_within(execute, schema.steps())
    else:
        schema.create(execute, schema.steps())
