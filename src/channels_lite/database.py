"""The apsw connection: one for each file and process, shared by all its layers, loops and threads."""

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import apsw

from channels_lite import schema, store
from channels_lite.bell import Bell, Listener
from channels_lite.config import MEMORY
from channels_lite.errors import LayerClosed, SchemaError
from channels_lite.keeper import JOURNAL_LIMIT, Keeper, close_quickly, open_connection
from channels_lite.schema import Execute

T = TypeVar("T")


class Database:
    """An open database. Statements run inline under its lock and never wait: apsw.BusyError comes at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.in_memory = path == MEMORY
        self._lock = threading.RLock()
        self._inserted: list[int] = []  # what the update hook heard since the write began
        self._considered: list[str] = []  # channels whose capacity the running group_send asked for
        self._rules: dict[int, weakref.WeakMethod[Callable[[str], int | None]]] = {}
        self._forgotten: dict[int, weakref.finalize[..., Any]] = {}
        self._layers: tuple[weakref.ref[Any], ...] = ()  # replaced, never changed: read without a lock
        self._aside = threading.Lock()  # held while a job has a connection of its own
        self._generation = 0  # of the connection: a new one counts its data_version anew
        self._connect()
        self.bell = None if self.in_memory else self._hang_bell()
        self.keeper = Keeper(path, self._execute_alone if self.in_memory else None)
        self.keeper.start()

    def _connect(self) -> None:
        self._connection = _connect(self.path)
        self._connection.set_update_hook(self._updated)
        self._connection.set_wal_hook(self._committed)
        self._connection.create_scalar_function("channels_lite_capacity", self._capacity, 2)

    def _hang_bell(self) -> Bell:
        try:
            return Bell(self.path)
        except OSError as error:
            self._connection.close()
            raise SchemaError(f"The bell {self.path}-bell cannot be made: {error.strerror}.") from error

    def _updated(self, kind: int, database: str, table: str, rowid: int) -> None:
        # Runs before the commit, perhaps for a row that is rolled back: only take note.
        if kind == apsw.SQLITE_INSERT and table == "channels_lite_message":
            self._inserted.append(rowid)

    def _committed(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self.keeper.committed(pages)
        return apsw.SQLITE_OK

    def _capacity(self, *arguments: Any) -> int | None:
        layer, channel = arguments
        self._considered.append(channel)
        rules = self._rules[layer]()
        return None if rules is None else rules(channel)

    def register_capacity(self, layer: object, rules: Callable[[str], int | None]) -> None:
        """Let channels_lite_capacity(id(layer), channel) in SQL answer with this method of the layer."""
        self._rules[id(layer)] = weakref.WeakMethod(rules)

    def enlist(self, layer: object) -> None:
        """Let a layer hear what is announced. If it is forgotten without ``dismiss``, that is noticed too."""
        self._layers = (*self._layers, weakref.ref(layer))
        self._forgotten[id(layer)] = finalizer = weakref.finalize(layer, _close_unused, self)
        finalizer.atexit = False

    def dismiss(self, layer: object | None) -> bool:
        """Forget a layer, and those that are gone; whether none is left."""
        if layer is not None and id(layer) in self._forgotten:
            self._forgotten.pop(id(layer)).detach()
        self._forgotten = {number: finalizer for number, finalizer in self._forgotten.items() if finalizer.alive}
        self._layers = tuple(ref for ref in self._layers if ref() is not None and ref() is not layer)
        self._rules = {number: rules for number, rules in self._rules.items() if rules() is not None}
        return not self._layers

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except apsw.ConnectionClosedError:
            raise LayerClosed("The channel layer was closed while this call was waiting.") from None

    def _execute_alone(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._execute(sql, parameters)

    def read(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run a function of ``store`` that inserts no message; nobody else uses the connection meanwhile."""
        with self._lock:
            return operation(self._execute, *arguments)

    def write(self, operation: Callable[..., None], *arguments: Any) -> tuple[list[int], list[str]]:
        """Run a function of ``store`` that sends; it has committed when this returns.

        Returns the ids of the messages that went in, and the channels that the statement considered, if it asked.
        """
        with self._lock:
            self._inserted, self._considered = [], []
            operation(self._execute, *arguments)
            return self._inserted, self._considered

    def announce(self, prefix: str, queues: Iterable[str]) -> None:
        """After a commit: wake who waits on these queues, here and, unless all are this process's own, elsewhere."""
        foreign = False
        for queue in queues:
            own = False
            for reference in self._layers:
                layer = reference()
                if layer is not None and layer.hear(prefix, queue):
                    own = True
            foreign = foreign or not own
        if foreign and self.bell is not None:
            self.bell.ring()

    def forget(self, prefix: str) -> None:
        """Let all layers of this process throw away what is parked under this prefix."""
        for reference in self._layers:
            layer = reference()
            if layer is not None:
                layer.forget(prefix)

    def version(self) -> int:
        """PRAGMA data_version, made unique over reconnections: changes when another connection has committed."""
        return self._generation << 32 | self.read(store.data_version)

    def listen(self) -> Listener | None:
        """A new listener for the bell."""
        return None if self.bell is None else self.bell.listen()

    def renew_bell(self) -> bool:
        """Make the bell anew if it is gone; whether it was."""
        with self._lock:
            return self.bell is not None and self.bell.renew()

    def close(self) -> None:
        """Close everything. May take a checkpoint: not for a loop's thread."""
        self.keeper.stop()
        with self._lock:
            self._connection.close()
            if self.bell is not None:
                self.bell.close()

    def run_aside(self, job: Callable[[Execute], T], lock_wait: float) -> T:
        """Run a long job on a connection of its own, which waits up to ``lock_wait`` seconds for a lock."""
        with self._aside:
            connection = open_connection(self.path)
            try:
                connection.set_busy_timeout(round(lock_wait * 1000))
                return job(schema.executor(connection))
            finally:
                connection.close()

    def suspend(self) -> None:
        """Before a fork: wait until no thread is inside SQLite, and close every connection to the file.

        A child inherits what SQLite keeps for each open file of the process, and believes to hold the parent's locks,
        which the system does not give it. The parent could then remove the -wal while the child is writing to it.
        """
        self._aside.acquire()
        self.keeper.suspend()
        self._lock.acquire()
        if not self.in_memory:
            close_quickly(self._connection)

    def resume(self) -> None:
        """After a fork, in the parent: open the connection again."""
        try:
            if not self.in_memory:
                self._generation += 1
                self._connect()
        finally:
            self._lock.release()
            self.keeper.resume()
            self._aside.release()

    def abandon(self) -> None:
        """After a fork, in the child: everything here is the parent's."""
        if self.bell is not None:
            self.bell.close()


def _connect(path: str) -> apsw.Connection:
    connection = apsw.Connection(MEMORY) if path == MEMORY else schema.connect(path)
    try:
        schema.check(schema.executor(connection), schema.steps(), path)
        for pragma, value in (("synchronous", "normal"), ("mmap_size", 0), ("journal_size_limit", JOURNAL_LIMIT)):
            connection.pragma(pragma, value)
    except apsw.Error as error:
        connection.close()
        raise schema.describe(path, error) from error
    except SchemaError:
        connection.close()
        raise
    connection.set_busy_timeout(0)
    connection.wal_autocheckpoint(0)
    # The planner must not look at bound values: where it has, SQLite prepares the statement again for each new value.
    # With two indexes that begin alike, a claim took 77 us with that and takes 32 us without.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


_open: dict[tuple[int, int], Database] = {}  # device and inode -> the open database
_databases: set[Database] = set()  # all of them, those in memory too
_opening = threading.Lock()


def acquire(path: str, layer: object) -> Database:
    """The database at this path, opened if this process has not opened it yet.

    Does I/O and waits: not for a loop's thread, except for ``:memory:``, where every layer has a database of its own.
    """
    if path != MEMORY:
        path = os.path.realpath(path)  # as SQLite does for the -wal: all processes must find the same bell
    with _opening:
        database = None if path == MEMORY else _open.get(_identity(path))
        if database is None:
            database = Database(path)
            _databases.add(database)
            if path != MEMORY:
                _open[_identity(path)] = database
        database.enlist(layer)
        return database


def release(database: Database, layer: object | None) -> None:
    """Take back what ``acquire`` gave; the last layer closes the database. Not for a loop's thread."""
    with _opening:
        if database.dismiss(layer) and database in _databases:
            _forget(database)
            database.close()


def _close_unused(database: Database) -> None:
    """After a layer was forgotten without close(): the garbage collector may be on a loop's thread."""
    threading.Thread(target=release, args=(database, None), daemon=True).start()


def _forget(database: Database) -> None:
    _databases.discard(database)
    for key in [key for key, other in _open.items() if other is database]:
        del _open[key]


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)
    return (status.st_dev, status.st_ino)


def _close_all() -> None:
    with _opening:
        _open.clear()
        while _databases:
            _databases.pop().close()


def _before_fork() -> None:
    _opening.acquire()
    for database in _databases:
        database.suspend()


def _after_fork_in_parent() -> None:
    for database in _databases:
        database.resume()
    _opening.release()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.Lock()
    for database in _databases:
        database.abandon()
    _databases.clear()
    _open.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
