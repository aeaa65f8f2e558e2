"""What the layer adds to a connection of Django's, so that what is inserted through it wakes who waits."""

import contextlib
import os
import sqlite3
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from channels_lite import config, store
from channels_lite.bell import ring_once
from channels_lite.database import Database, find
from channels_lite.errors import ConfigError
from channels_lite.page import Rows
from channels_lite.schema import Execute


class Link:
    """What the layer adds to one open connection of Django's: SQL functions and a temporary trigger.

    It must not keep the connection alive: SQLite holds it, and Python's garbage collector cannot see that.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        raw: sqlite3.Connection = connection.connection
        self._key = key_of(connection.alias, config.alias_file(connection.alias))
        self._path = self._key[-1]
        self._settled = False
        self._inserted: list[tuple[str, str]] = []  # prefix and queue of what the running statement inserted
        self._sent: list[tuple[str, str]] = []  # and of what it had inserted when it was done
        self._considered: list[str] = []  # channels whose capacity the running statement asked for
        self._rows = Rows()  # that it sends
        raw.create_function("channels_lite_capacity", 3, self._capacity)
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

    def unsettle(self) -> None:
        """The trigger may be gone with its table: make it again."""
        self._settled = False

    def is_idle(self, connection: BaseDatabaseWrapper) -> bool:
        """Whether nothing is lost when the connection is closed now: no transaction, no rows still to be fetched."""
        raw = connection.connection
        if connection.in_atomic_block or not connection.autocommit or raw.in_transaction:
            return False
        try:
            # SQLite refuses to replace a function while a statement runs. There is no other way to ask.
            raw.create_function("channels_lite_inserted", 2, self._insert)
        except sqlite3.OperationalError:
            return False
        return True

    def follow(
        self, operation: Callable[..., object], execute: Execute, *arguments: Any
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Run a function of ``store`` that sends: prefix and queue of what went in, and the channels considered."""
        self._inserted, self._sent, self._considered = [], [], []
        try:
            operation(execute, *arguments)
        finally:
            self._rows.end()
        return self._inserted or self._sent, self._considered

    def _capacity(self, layer: int, channel: str, shared: bool) -> int | None:
        self._considered.append(channel)
        database = self._database()
        return None if database is None else database.capacity(layer, channel, shared, self._rows)

    def _insert(self, prefix: str, queue: str) -> None:
        # Runs before the commit, perhaps for a row that is rolled back: only take note.
        self._inserted.append((prefix, queue))

    def done(self, connection: BaseDatabaseWrapper) -> None:
        """After a statement of Django's: see to it that those who wait for what it inserted hear of it."""
        if not self._inserted:
            return
        self._rows.end()  # before anybody claims them in this thread, who locks the same page
        self._sent, self._inserted = self._inserted, []
        if not connection.in_atomic_block:
            self._announce(self._sent)
        elif never_commits(connection):
            self._announce(self._sent, abroad=False)
        else:
            connection.on_commit(partial(self._announce, self._sent), robust=True)
            # In front: a callback of the user's that raises ends the others.
            connection.run_on_commit.insert(0, connection.run_on_commit.pop())

    def _announce(self, sent: list[tuple[str, str]], *, abroad: bool = True) -> None:
        database = self._database()
        if database is not None:
            database.announce_all(sent, abroad=abroad)
        elif abroad and self._path != config.MEMORY:  # a process that only writes has no layer open
            ring_once(self._path)

    def failed(self) -> None:
        """After a statement that failed: nothing was inserted."""
        self._inserted = []

    def _database(self) -> Database | None:
        database: Database | None = find(self._key)
        return database


_links: "weakref.WeakKeyDictionary[BaseDatabaseWrapper, Link]" = weakref.WeakKeyDictionary()


def link_of(connection: BaseDatabaseWrapper) -> Link:
    """The link of an open connection."""
    return _links.get(connection) or _attach(connection)


def _attach(connection: BaseDatabaseWrapper) -> Link:
    link = _links[connection] = Link(connection)
    # In front: who has put a wrapper there for a while takes the last one away again.
    if _around not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _around)
    return link


def unsettle_all() -> None:
    """After our tables were removed: no connection of this process has its trigger any more."""
    for link in list(_links.values()):
        link.unsettle()


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


def never_commits(connection: BaseDatabaseWrapper) -> bool:
    """Whether the outermost transaction is a test case's, which is always rolled back."""
    return bool(connection.atomic_blocks) and _is_a_test_cases(connection.atomic_blocks[0])


def may_roll_back(connection: BaseDatabaseWrapper) -> bool:
    """Whether the connection is in a transaction that somebody may see rolled back: any but those of a test case."""
    return connection.in_atomic_block and not all(map(_is_a_test_cases, connection.atomic_blocks))


def _is_a_test_cases(block: Any) -> bool:
    return bool(getattr(block, "_from_testcase", False))


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


def key_of(alias: str, path: str) -> tuple[str, str, str]:
    """What tells the database of an alias apart from the other open ones."""
    # The real path, as SQLite does for the -wal: all processes must find the same bell.
    return ("django", alias, path if path == config.MEMORY else os.path.realpath(path))
