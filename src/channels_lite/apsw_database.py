"""A database through apsw: one connection for each file and process, shared by all its layers, loops and threads."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import apsw
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_lite import diagnosis, keeper, schema, store
from channels_lite.config import MEMORY
from channels_lite.database import Database, Rules, Sent, acquire, known_as
from channels_lite.errors import PASSING, ChannelsLiteError, DatabaseFailed, LayerClosed, Locked
from channels_lite.files import Files
from channels_lite.guard import Connection, Hold, identify
from channels_lite.keeper import JOURNAL_LIMIT, RESTART_WAIT_MS, Keeper
from channels_lite.page import Rows
from channels_lite.schema import Execute

T = TypeVar("T")

logger = logging.getLogger("channels_lite.database")

LOCK_WAIT_MS = 1_000  # milliseconds that a job waits for the write lock before it is left for the next round


TURN = 0.005  # seconds after which writes that share a transaction are committed, and the rest waits for the next


class Write(NamedTuple):
    """A function of ``store`` that writes, and what it is called with."""

    operation: Callable[..., Sequence[str] | None]
    arguments: tuple[Any, ...]


class ApswDatabase(Database):
    """An open database. Statements run inline under its lock and never wait: Locked comes at once."""

    def __init__(self, path: str) -> None:
        super().__init__(path, in_memory=path == MEMORY)
        self._lock = threading.RLock()
        self._inserted: list[int] = []  # what the update hook heard since the write began
        self._considered: list[str] = []  # channels whose capacity the running group_send asked for
        self._rows = Rows(later=True)  # of the running write
        self._generation = 0  # of the connection: a new one counts its data_version anew
        self._use(_connect(path))
        if not self.in_memory:
            self._hang_bell()
        self.keeper = Keeper(path, self._keepers_connection, None if self.in_memory else self.inspect)
        self.keeper.start()

    def _use(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._generation += 1
        self._connection.set_update_hook(self._updated)
        self._connection.set_wal_hook(self._committed)
        self._connection.create_scalar_function("channels_lite_capacity", self._capacity, 3)
        self.files = None if self.in_memory else Files(self.path)

    def _hang_bell(self) -> None:
        try:
            self.hang_bell()
        except ChannelsLiteError:
            self._connection.close()
            raise

    def _keepers_connection(self) -> "Spare | Shared":
        return Shared(self._execute_alone) if self.in_memory else Spare(self.path, LOCK_WAIT_MS)

    def _updated(self, kind: int, database: str, table: str, rowid: int) -> None:
        # Runs before the commit, perhaps for a row that is rolled back: only take note.
        if kind == apsw.SQLITE_INSERT and table == "channels_lite_message":
            self._inserted.append(rowid)

    def _committed(self, connection: apsw.Connection, database: str, pages: int) -> int:
        self.keeper.committed(pages)
        return apsw.SQLITE_OK

    def _capacity(self, *arguments: Any) -> int | None:
        layer, channel, shared = arguments
        self._considered.append(channel)
        return self.capacity(layer, channel, shared, self._rows)

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except apsw.BusyError as error:
            raise Locked(str(error)) from None
        except apsw.ConnectionClosedError:
            raise self.failure or LayerClosed("The channel layer was closed while this call was waiting.") from None
        except apsw.Error as error:
            failure = diagnosis.failure(self.path, error)
            if failure is None:
                raise
            raise failure from error

    def _execute_alone(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        with self._lock:
            return self._execute(sql, parameters)

    def read(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run a function of ``store`` that inserts no message; nobody else uses the connection meanwhile."""
        with self._lock:
            return operation(self._execute, *arguments)

    def send(self, prefix: str, write: Write) -> Sent:
        """Run a write, which has committed when this returns, and wake who waits for it."""
        # Where a group's rows went is asked for before others can take them out, and while an error can undo them.
        if write.operation is store.group_send:
            (outcome,) = self.send_together(prefix, [write])
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        with self._lock:
            try:
                sent = self._run(write)
            finally:
                self._rows.end()
        if sent.queues:
            self.announce(prefix, sent.queues)
        return sent

    def send_together(self, prefix: str, writes: Sequence[Write]) -> list[Sent | Exception]:
        """As ``send``, for several in one transaction, but no more than TURN allows: the outcomes of the first ones.

        A write that SQLite refuses has its error as its outcome, and the others stand. An error that is raised means
        that nothing was written.
        """
        with self._lock:
            try:
                self._execute("BEGIN IMMEDIATE", ())  # in here: a signal handler may raise as soon as it has begun
                outcomes = self._run_some(writes)
                self._execute("COMMIT", ())
            except BaseException:
                if self._connection.in_transaction:
                    self._execute("ROLLBACK", ())
                raise
            finally:
                self._rows.end()
        # Each queue as often as it got a message: one receiver is woken each time.
        self.announce(prefix, [queue for sent in outcomes if isinstance(sent, Sent) for queue in sent.queues])
        return outcomes

    def _run_some(self, writes: Sequence[Write]) -> list[Sent | Exception]:
        end = time.monotonic() + TURN
        outcomes: list[Sent | Exception] = []
        for write in writes:
            try:
                outcomes.append(self._run(write))
            except (ChannelFull, MessageTooLarge) as error:  # the statement is undone, and the transaction goes on
                outcomes.append(error)
            if time.monotonic() > end:
                break
        return outcomes

    def _run(self, write: Write) -> Sent:
        self._inserted, self._considered = [], []
        try:
            queues = write.operation(self._execute, *write.arguments)
        except apsw.ConstraintError as error:
            if store.FULL not in str(error):
                raise
            raise ChannelFull from None
        except apsw.TooBigError as error:
            raise MessageTooLarge(f"SQLite cannot store a message of this size: {error}") from None
        if queues is None:  # a group's, or nothing was inserted: inside of a transaction, which an error here undoes
            queues = [queue for _, queue in store.queues(self._execute, self._inserted)] if self._inserted else []
        return Sent(queues, self._considered)

    def version(self) -> int:
        """PRAGMA data_version, made unique over reconnections."""
        return self._generation << 32 | self.read(store.data_version)

    def state(self) -> tuple[int, int]:
        """What changes with every commit, of others or through this connection."""
        with self._lock:
            return self.version(), self._connection.total_changes()

    def renew_bell(self) -> bool:
        with self._lock:
            return super().renew_bell()

    def close(self) -> None:
        self.keeper.stop()
        with self._lock:
            try:
                self._connection.close()
            finally:
                if self.bell is not None:
                    self.bell.close()

    def _recover(self, old: keeper.Connection, lost: list[str], files: Files) -> keeper.Connection:
        """Open what is there now, or make it anew, and move there what was in it. One process at a time does this."""
        if self.bell is None:
            return old
        try:
            self.bell.renew()
        except OSError as error:
            raise diagnosis.refusal_of_bell(self.path, error) from error
        with self.bell.locked():
            with contextlib.suppress(ChannelsLiteError):  # so that the file that is lost is whole, if anybody has it
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)", ())
            files.remove()
            taken: list[Any] = []
            # Before anybody can receive from the new one: what is in both must come once.
            new = self._reopen(lambda execute: store.move(old.execute, execute, taken), files.owned)
        logger.warning("Opened %s again, and moved there what was in it.", self.path)
        self.keeper.ask(partial(self._move, old, taken))  # and what has been sent meanwhile
        for layer in self._present():
            layer.reopened()
        return new

    def _move(self, old: keeper.Connection, taken: list[Any], execute: Execute) -> None:
        try:
            store.move(old.execute, execute, taken)
        except PASSING:
            raise  # and the keeper comes back to it
        except Exception:
            old.close(quickly=True)
            raise
        old.close(quickly=True)
        if self.bell is not None:
            self.bell.ring()

    def _reopen(self, prepare: Callable[[Execute], object], owned: os.stat_result | None) -> "Spare":
        new, spare = self._prepared(prepare, owned)
        with self._lock:
            self._lose()
            self._use(new)
        known_as(self, identify(self.path))
        return spare

    def _prepared(
        self, prepare: Callable[[Execute], object], owned: os.stat_result | None
    ) -> "tuple[apsw.Connection, Spare]":
        with contextlib.ExitStack() as undo:
            new = _connect(self.path, owned)
            undo.callback(new.close)
            spare = Spare(self.path, LOCK_WAIT_MS)
            undo.callback(spare.close)
            prepare(spare.execute)
            undo.pop_all()
        return new, spare

    def _refuse(self, error: ChannelsLiteError, *, tell: bool) -> None:
        super()._refuse(error, tell=tell)
        self._lose()

    def _lose(self) -> None:
        """Close the connection to files that are gone."""
        with self._lock, contextlib.suppress(apsw.Error):  # closed already, the last time this was tried
            _close_quickly(self._connection)

    def _spare(self, lock_wait_ms: int) -> "Spare":
        try:
            return Spare(self.path, lock_wait_ms)
        except FileNotFoundError as error:
            raise DatabaseFailed(f"The database {self.path} was deleted; it is about to be made anew.") from error

    def suspend(self) -> None:
        self._aside.acquire()
        self.keeper.suspend()
        self._lock.acquire()
        if isinstance(self._connection, Connection):
            self._hold = Hold(self._connection.hold.identity)  # nobody else may come in between
            with contextlib.suppress(apsw.Error):  # closed already, after a fork that went wrong
                _close_quickly(self._connection)

    def resume(self) -> None:
        """Open the connection again. Where that fails, the next statement says why."""
        try:
            if not self.in_memory:
                self._use(_connect(self.path))
                self._hold.release()
        except ChannelsLiteError as error:
            self.failure = error
            self._hold.release()
        finally:
            self._lock.release()
            self.keeper.resume()
            self._aside.release()


class Spare:
    """A second connection to a database that is open already: it waits for locks, and never on a loop's thread."""

    def __init__(self, path: str, lock_wait_ms: int) -> None:
        self._path = path
        self._lock_wait_ms = lock_wait_ms
        with self._errors():
            self._connection = Connection(path)
        try:
            self._connection.set_busy_timeout(lock_wait_ms)
            self.execute("PRAGMA synchronous = normal", ())
            self.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}", ())
        except BaseException:
            self._connection.close()
            raise
        self._connection.wal_autocheckpoint(0)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except apsw.BusyError as error:
            raise Locked(str(error)) from None
        except apsw.Error as error:
            failure = diagnosis.failure(self._path, error)
            if failure is None:
                raise
            raise failure from error

    def execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement to its end; Locked where somebody else held the lock all the time."""
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        try:
            self._connection.total_changes()
        except apsw.ConnectionClosedError:
            return False
        return True

    def checkpoint(self) -> bool:
        """Copy the -wal back, then hold writers up for a moment so that it begins anew; whether it does.

        Without the last step it never would while somebody keeps writing: measured with one steady sender, the -wal
        grew without end, and every send took half as long again as with it. The second step copies what was written
        during the first one, and leaves little for the last: writers wait for 0.6 to 0.9 ms instead of about 2.
        """
        try:
            with self._errors():
                for _ in range(2):
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                self._connection.set_busy_timeout(RESTART_WAIT_MS)
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except Locked:
            return False
        finally:
            self._connection.set_busy_timeout(self._lock_wait_ms)
        return True

    def close(self, *, quickly: bool = False) -> None:
        """Close; ``quickly``: without the checkpoint that the last connection to a database would make."""
        if quickly:
            _close_quickly(self._connection)
        else:
            self._connection.close()


class Shared:
    """The keeper's share of somebody else's connection: a database in memory has only one."""

    def __init__(self, execute: Execute) -> None:
        self.execute = execute

    def is_open(self) -> bool:
        """As long as the layer is."""
        return True

    def checkpoint(self) -> bool:
        """A database in memory has no -wal."""
        return True

    def close(self, *, quickly: bool = False) -> None:
        """The connection is not ours."""


def _close_quickly(connection: apsw.Connection) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


def _connect(path: str, owned: os.stat_result | None = None) -> apsw.Connection:
    connection: apsw.Connection = apsw.Connection(MEMORY) if path == MEMORY else schema.connect(path, owned=owned)
    try:
        schema.check(schema.executor(connection), schema.steps(), path)
        for pragma, value in (("synchronous", "normal"), ("mmap_size", 0), ("journal_size_limit", JOURNAL_LIMIT)):
            connection.pragma(pragma, value)
    except apsw.Error as error:
        connection.close()
        raise diagnosis.refusal(path, error) from error
    except ChannelsLiteError:
        connection.close()
        raise
    connection.set_busy_timeout(0)
    connection.wal_autocheckpoint(0)
    # The planner must not look at bound values: where it has, SQLite prepares the statement again for each new value.
    # With two indexes that begin alike, a claim took 77 us with that and takes 32 us without.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def open_file(path: str, layer: object, rules: Rules) -> ApswDatabase:
    """The database at this path, opened if this process has not opened it yet.

    Does I/O and waits: not for a loop's thread, except for ``:memory:``, where every layer has a database of its own.
    """
    if path == MEMORY:
        return acquire(lambda: None, lambda: ApswDatabase(path), layer, rules)
    real = os.path.realpath(path)  # as SQLite does for the -wal: all processes must find the same bell
    return acquire(lambda: identify(real) or (-1, -1), lambda: ApswDatabase(real), layer, rules)
