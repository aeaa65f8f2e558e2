"""A database through Django: the connections that its threads have, and one of ours for what belongs to no caller."""

import contextlib
import itertools
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from channels.exceptions import ChannelFull, MessageTooLarge
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DatabaseError, DataError, IntegrityError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from channels_lite import config, schema, store
from channels_lite.database import Database, acquire, find
from channels_lite.errors import ConfigError, DatabaseBusy, Locked, SchemaError
from channels_lite.keeper import Keeper
from channels_lite.schema import Execute
from channels_lite.targets import executor

T = TypeVar("T")

OLDEST_SQLITE = (3, 37, 0)  # the first one with STRICT tables
OPEN_WAIT_MS = 10_000  # milliseconds that opening waits for somebody who changes the schema
RESTART_WAIT_MS = 50  # milliseconds that a restart of the -wal may hold up writers for a slow reader
CHECKPOINT_ROWS = 256  # rows inserted or deleted, of about four pages in the -wal each
NO_TABLE = "no such table"  # SQLite's words
TOO_BIG = "string or blob too big"  # SQLite's words


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
        self._aside = threading.Lock()  # held while a job has a connection of its own
        self._generation = 0  # of the keeper's connection: a new one counts its data_version anew
        self._versions = itertools.count()
        if not self.in_memory:
            self._open()

    def _open(self) -> None:
        first = [self._prepare()]
        self._own = first[0]
        self.keeper = Keeper(self.path, lambda: self._took(first.pop() if first else Own(self.alias)))
        self.keeper.start()
        self.keeper.ask(lambda execute: None)  # it takes the first connection over

    def _prepare(self) -> "Own":
        """The first connection, to a database that has the schema, and the bell beside it."""
        with contextlib.ExitStack() as undo:
            try:
                own = Own(self.alias, OPEN_WAIT_MS)
                undo.callback(own.close)
                upgrade = f"manage.py migrate channels_lite --database {self.alias}"
                schema.check(own.execute, schema.steps(), self.path, upgrade)
                own.settle()
            except (Locked, DatabaseError, sqlite3.Error) as error:
                raise SchemaError(f"The database {self.path} cannot be used: {error}.") from error
            self.hang_bell()
            undo.pop_all()
        return own

    def _took(self, own: "Own") -> "Own":
        own.settle()
        self._generation += 1
        self._own = own
        return own

    # In the keeper's thread.

    def send(self, execute: Execute, operation: Callable[..., None], *arguments: Any) -> tuple[list[str], list[str]]:
        """Run a function of ``store`` that sends on the keeper's connection, and wake who waits for what went in.

        Returns the queues, one for each message that went in, and the channels that the statement considered.
        """
        sent, considered = self._own.link.follow(operation, execute, *arguments)
        self.announce_all(sent)
        self.tidy()
        return [queue for _, queue in sent], considered

    # In the keeper's thread, or in any while that one has nothing to do.

    def send_now(self, operation: Callable[..., None], *arguments: Any) -> tuple[list[str], list[str]] | None:
        """As ``send``, in this thread; None where it might have to wait for anything."""
        results: list[tuple[list[tuple[str, str]], list[str]]] = []
        link = self._own.link
        if not self.do_now(lambda execute: results.append(link.follow(operation, execute, *arguments))):
            return None
        sent, considered = results[0]
        self.announce_all(sent)  # the connection is free again, for claims
        return [queue for _, queue in sent], considered

    def do_now(self, job: Callable[[Execute], Any]) -> bool:
        """Run a short job in this thread, which may be a loop's; False where it might have to wait for anything.

        Only with a -wal: there, a commit waits for no disk, and copying the -wal back is left to the keeper's thread.
        """
        if not self._own.wal or not self.keeper.inline(job):
            return False
        self.tidy()
        return True

    def tidy(self) -> None:
        """Have the -wal copied back if much was written to it through the keeper's connection."""
        if self._own.checkpoint_due():
            self.keeper.checkpoint()

    def version_seen(self, execute: Execute) -> tuple[int, int]:
        """What changes when another connection than the keeper's has committed."""
        return self._generation, store.data_version(execute)

    # In a caller's thread.

    def send_here(self, operation: Callable[..., None], *arguments: Any) -> tuple[list[str], list[str]]:
        """As ``send``, on this thread's connection: where it has a transaction open, the wake waits for its commit."""
        connection = connections[self.alias]
        try:
            sent, considered = self._link(connection).follow(operation, _executor(connection), *arguments)
        except Locked:
            self._refuse_in_transaction(connection)
            raise
        return [queue for _, queue in sent], considered

    def run_here(self, job: Callable[[Execute], T]) -> T:
        """Run a job that sends nothing on this thread's connection."""
        connection = connections[self.alias]
        self._link(connection)
        return job(_executor(connection))

    def claim_here(self, job: Callable[[Execute], None]) -> None:
        """Run a job that claims, if this thread's connection can see what the keeper's cannot."""
        connection = connections[self.alias]
        # Called and not entered, it does no I/O. It is what a test case replaces that forbids this alias: the keeper's
        # connection would not meet that.
        connection.temporary_connection()
        if self.in_memory or connection.in_atomic_block:
            self.run_here(job)

    def _link(self, connection: BaseDatabaseWrapper) -> "Link":
        connection.ensure_connection()
        link = _links.get(connection) or _attach(connection)
        try:
            link.settle(connection)
        except sqlite3.OperationalError as error:
            if NO_TABLE not in str(error):
                raise _translated(error) from error
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

    def announce_all(self, sent: Sequence[tuple[str, str]], *, abroad: bool = True) -> None:
        """As ``announce``, for messages with their prefixes and queues."""
        by_prefix: dict[str, dict[str, None]] = {}
        for prefix, queue in sent:
            by_prefix.setdefault(prefix, {})[queue] = None
        for prefix, queues in by_prefix.items():
            self.announce(prefix, queues, abroad=abroad)

    def version(self) -> int:
        """A new number each time: the look itself finds out, in the keeper's thread, whether something is new."""
        return next(self._versions)

    def run_aside(self, job: Callable[[Execute], T], lock_wait: float) -> T:
        """Run a long job on a connection of its own, which waits up to ``lock_wait`` seconds for a lock."""
        with self._aside:
            own = Own(self.alias, round(lock_wait * 1000))
            try:
                return job(own.execute)
            finally:
                own.close()

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
        """Close this thread's connection as well. Those of other threads are in use, or their threads' to close."""
        for connection in connections.all(initialized_only=True):
            if connection.alias == self.alias and not connection.in_atomic_block:
                try:
                    connection.close()
                except SynchronousOnlyOperation:  # a loop runs in this thread: it has none to close
                    return

    def resume(self) -> None:
        if not self.in_memory:
            self.keeper.resume()
        self._aside.release()


def open_alias(alias: str, path: str, layer: object, rules: Callable[[str], int | None]) -> DjangoDatabase:
    """The database of this alias, opened if this process has not opened it yet. Does I/O unless it is in memory."""
    key = _key(alias, path)
    return acquire(lambda: key, lambda: DjangoDatabase(alias, key[2]), layer, rules)


def _key(alias: str, path: str) -> tuple[str, str, str]:
    # The real path, as SQLite does for the -wal: all processes must find the same bell.
    return ("django", alias, path if path == config.MEMORY else os.path.realpath(path))


class Own:
    """A connection that Django makes for us alone. It is used below Django's cursors, by one thread at a time."""

    def __init__(self, alias: str, lock_wait_ms: int = 0) -> None:
        self._wrapper = connections.create_connection(alias)
        self._wrapper.inc_thread_sharing()  # a fork closes it from another thread
        self._wrapper.ensure_connection()
        self._raw: sqlite3.Connection = self._wrapper.connection
        self.link = _links.get(self._wrapper) or _attach(self._wrapper)
        self.wal = False
        self._checkpointed = 0  # rows that had been changed by then
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

    def execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement to its end; Locked where somebody else holds the lock."""
        return _fetch(self._raw, sql, parameters)

    def checkpoint_due(self) -> bool:
        """Whether enough was written since the last checkpoint; asked once, it is."""
        changed = self._raw.total_changes
        if not self.wal or changed - self._checkpointed < CHECKPOINT_ROWS:
            return False
        self._checkpointed = changed
        return True

    def checkpoint(self) -> None:
        """Copy the -wal back and hold writers up for a moment, so that it begins anew."""
        self._wait(RESTART_WAIT_MS)
        try:
            self.execute("PRAGMA wal_checkpoint(RESTART)", ())
        finally:
            self._wait(0)

    def close(self, *, quickly: bool = False) -> None:
        """Close it. sqlite3 knows no quick way."""
        self._wrapper.close()


class Link:
    """What the layer adds to one open connection of Django's: SQL functions and a temporary trigger.

    It must not keep the connection alive: SQLite holds it, and Python's garbage collector cannot see that.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        raw: sqlite3.Connection = connection.connection
        self._key = _key(connection.alias, config.alias_file(connection.alias))
        self._settled = False
        self._inserted: list[tuple[str, str]] = []  # prefix and queue of what the running statement inserted
        self._sent: list[tuple[str, str]] = []  # and of what it had inserted when it was done
        self._considered: list[str] = []  # channels whose capacity the running group_send asked for
        raw.create_function("channels_lite_capacity", 2, self._capacity)
        raw.create_function("channels_lite_inserted", 2, self._insert)

    def settle(self, connection: BaseDatabaseWrapper) -> None:
        """Have the trigger. One that is made inside a transaction goes with it, and is made again."""
        if not self._settled:
            raw = connection.connection
            raw.execute(store.WAKE)
            self._settled = not raw.in_transaction

    def settle_if_possible(self, connection: BaseDatabaseWrapper) -> None:
        """As ``settle``, without waiting. Where there are no tables yet, or a lock, a later statement does it."""
        if self._settled:
            return
        raw = connection.connection
        patience = raw.execute("PRAGMA busy_timeout").fetchone()[0]
        raw.execute("PRAGMA busy_timeout = 0")
        with contextlib.suppress(sqlite3.OperationalError):
            self.settle(connection)
        raw.execute(f"PRAGMA busy_timeout = {patience}")

    def follow(
        self, operation: Callable[..., None], execute: Execute, *arguments: Any
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Run a function of ``store`` that sends: prefix and queue of what went in, and the channels considered."""
        self._inserted, self._sent, self._considered = [], [], []
        operation(execute, *arguments)
        return self._inserted or self._sent, self._considered

    def _capacity(self, layer: int, channel: str) -> int | None:
        self._considered.append(channel)
        database = self._database()
        return None if database is None else database.capacity(layer, channel)

    def _insert(self, prefix: str, queue: str) -> None:
        # Runs before the commit, perhaps for a row that is rolled back: only take note.
        self._inserted.append((prefix, queue))

    def done(self, connection: BaseDatabaseWrapper) -> None:
        """After a statement of Django's: see to it that those who wait for what it inserted hear of it."""
        if not self._inserted:
            return
        self._sent, self._inserted = self._inserted, []
        database = self._database()
        if database is None:
            return
        if not connection.in_atomic_block:
            database.announce_all(self._sent)
        elif _never_commits(connection):
            database.announce_all(self._sent, abroad=False)
        else:
            connection.on_commit(partial(database.announce_all, self._sent), robust=True)
            # In front: a callback of the user's that raises ends the others.
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())

    def failed(self) -> None:
        """After a statement that failed: nothing was inserted."""
        self._inserted = []

    def _database(self) -> DjangoDatabase | None:
        database: DjangoDatabase | None = find(self._key)
        return database


_links: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Link]" = weakref.WeakKeyDictionary()


def _attach(connection: BaseDatabaseWrapper) -> Link:
    link = _links[connection] = Link(connection)
    # In front: who has put a wrapper there for a while takes the last one away again.
    if _around not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _around)
    return link


def _around(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    connection = context["connection"]
    link = _links.get(connection)
    if link is None:
        return execute(sql, params, many, context)
    link.settle_if_possible(connection)
    try:
        result = execute(sql, params, many, context)
    except BaseException:
        link.failed()
        raise
    link.done(connection)
    return result


def _executor(connection: BaseDatabaseWrapper) -> Execute:
    """Run a statement through Django's cursor; Locked where somebody else holds the lock."""
    inner = executor(connection)

    def execute(sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return inner(sql, parameters)
        except DatabaseError as error:
            raise _translated(error) from error

    return execute


def _fetch(raw: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    try:
        return raw.execute(sql, parameters).fetchall()
    except sqlite3.Error as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    """What an error of SQLite's means; itself where it means nothing in particular."""
    text = str(error)
    if isinstance(error, sqlite3.IntegrityError | IntegrityError) and store.FULL in text:
        return ChannelFull()
    if isinstance(error, sqlite3.OperationalError | OperationalError) and "is locked" in text:
        return Locked(text)
    if isinstance(error, sqlite3.DataError | DataError) and TOO_BIG in text:
        return MessageTooLarge(f"SQLite cannot store a message of this size: {text}")
    return error


def _never_commits(connection: BaseDatabaseWrapper) -> bool:
    """Whether the outermost transaction is a test case's, which is always rolled back."""
    return bool(connection.atomic_blocks) and getattr(connection.atomic_blocks[0], "_from_testcase", False)


def _create(connection: BaseDatabaseWrapper) -> None:
    def execute(sql: str, parameters: Sequence[Any]) -> list[Any]:
        # Below Django's cursors: a test that counts queries means its own.
        return _fetch(connection.connection, sql, parameters)

    if connection.in_atomic_block:
        schema.create_within(execute, schema.steps())
    else:
        schema.create(execute, schema.steps())


def _connected(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """When Django has made a connection: if a layer speaks through it, prepare it."""
    _links.pop(connection, None)  # it was for the one before
    if connection.vendor == "sqlite" and _wanted(connection.alias):
        with contextlib.suppress(ConfigError):
            _attach(connection).settle_if_possible(connection)


def _wanted(alias: str) -> bool:
    from channels_lite.entries import entries

    return any(entry.backend.library == "sqlite3" and entry.alias == alias for entry in entries())


def prepare_connections() -> None:
    """From now on, prepare each connection that Django makes for a layer's alias. May be called more than once."""
    connection_created.connect(_connected, dispatch_uid="channels_lite")
