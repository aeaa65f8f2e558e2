"""The keeper: a thread with a connection of its own that checkpoints, trims, and does what must not run on a loop."""

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import apsw

from channels_lite import store
from channels_lite.schema import Execute, executor

logger = logging.getLogger("channels_lite.keeper")

CHECKPOINT_PAGES = 1_000  # pages in the -wal from which it is copied back and begun anew: SQLite's own default
JOURNAL_LIMIT = 32 * 1024 * 1024  # bytes that the -wal keeps on disk when it begins anew
LOCK_WAIT_MS = 1_000  # milliseconds that a job waits for the write lock before it is left for the next round
RESTART_WAIT_MS = 50  # milliseconds that a restart of the -wal may hold up writers for a slow reader

RETRY_PAUSE = 1.0  # seconds until a keeper that cannot open its connection tries again
TRIM_PAUSE = 0.002  # seconds between two batches of trimming: as long as a batch takes, so that others get their turn

Job = Callable[[Execute], Any]
T = TypeVar("T")


def open_connection(path: str) -> apsw.Connection:
    """A second connection to a database that is open already: it waits for locks, and never on a loop's thread."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(LOCK_WAIT_MS)
    connection.pragma("synchronous", "normal")
    connection.pragma("journal_size_limit", JOURNAL_LIMIT)
    connection.wal_autocheckpoint(0)
    return connection


def close_quickly(connection: apsw.Connection) -> None:
    """Close without the checkpoint that the last connection to a database would make."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


class Keeper:
    """Runs in a daemon thread from ``start`` to ``stop``; its methods may be called from any thread.

    ``shared`` runs its statements on somebody else's connection: a database in memory has only one.
    """

    def __init__(self, path: str, shared: Execute | None = None) -> None:
        self.path = path
        self._shared = shared
        self._news = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._interval: float | None = None  # seconds between two rounds of sweeping and trimming
        self._next_sweep = 0.0
        self._trims = False
        self._checkpoint_due = False
        self._threshold = CHECKPOINT_PAGES
        self._stopping = False
        self._layers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._connection: apsw.Connection | None = None
        self._working = threading.Lock()  # held while the connection is in use
        self._thread = threading.Thread(target=self._run, name=f"channels_lite keeper of {path}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Finish the jobs that were asked for and end the thread; waits at most ``timeout`` seconds."""
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def committed(self, pages: int) -> None:
        """Hear how many pages the -wal has after a commit. Called on the loop's thread: it only leaves a note."""
        if pages < CHECKPOINT_PAGES:
            self._threshold = CHECKPOINT_PAGES
        elif pages >= self._threshold and not self._checkpoint_due:
            # A reader may keep the -wal from beginning anew; then it is tried again when as much has come on top.
            self._threshold = pages + CHECKPOINT_PAGES
            with self._news:
                self._checkpoint_due = True
                self._news.notify()

    def ask(self, job: Job) -> None:
        """Run a job on the keeper's connection when its turn comes."""
        with self._news:
            self._jobs.append(job)
            self._news.notify()

    def look_after(self, layer: Any, seconds: float, *, trim: bool) -> None:
        """Call ``layer.sweep(execute)`` at least this often while the layer lives; with ``trim``, trim the database."""
        with self._news:
            self._layers.add(layer)
            self._trims = self._trims or trim
            self._interval = min(seconds, self._interval or seconds)
            soonest = time.monotonic() + self._interval
            self._next_sweep = min(self._next_sweep or soonest, soonest)
            self._news.notify()

    def suspend(self) -> None:
        """Before a fork: have no connection, and get none until ``resume``."""
        self._working.acquire()
        if self._connection is not None:
            close_quickly(self._connection)
            self._connection = None

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._working.release()

    def _run(self) -> None:
        while self._wait():
            try:
                with self._working:
                    if self._shared is None and self._connection is None:
                        self._connection = open_connection(self.path)
                    self._round(self._connection)
            except Exception:
                logger.exception("The keeper of %s cannot work; the next try is in %g s.", self.path, RETRY_PAUSE)
                if self._stopped_within(RETRY_PAUSE):
                    break
        with self._working:
            if self._connection is not None:
                self._connection.close()

    def _wait(self) -> bool:
        """Wait for something to do; False when the keeper is to stop and everything asked for is done."""
        with self._news:
            if not self._jobs and not self._checkpoint_due and not self._stopping:
                self._news.wait(self._until_sweep())
            return bool(self._jobs) or not self._stopping

    def _stopped_within(self, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._stopping, seconds)

    def _until_sweep(self) -> float | None:
        return None if self._interval is None else max(0.0, self._next_sweep - time.monotonic())

    def _round(self, connection: apsw.Connection | None) -> None:
        execute = self._shared if connection is None else executor(connection)
        assert execute is not None
        for _ in range(len(self._jobs)):
            job = self._jobs.popleft()
            if not _attempt(job, execute) and not self._stopping:
                self._jobs.append(job)
        if self._checkpoint_due and connection is not None:
            self._checkpoint_due = False
            _attempt(checkpoint, connection)
        if self._until_sweep() == 0.0:
            self._sweep(execute)

    def _sweep(self, execute: Execute) -> None:
        self._next_sweep = time.monotonic() + (self._interval or 0.0)
        if self._trims:
            _attempt(trim_all, execute)
        with self._news:
            layers = list(self._layers)
        for layer in layers:
            _attempt(layer.sweep, execute)


def _attempt(job: Callable[[T], Any], subject: T) -> bool:
    """Do one thing, without harm to the others: False where the database stayed locked and it may be tried again."""
    try:
        job(subject)
    except apsw.BusyError:
        logger.debug("The database is busy; left for the next round.")
        return False
    except Exception:
        logger.exception("The keeper failed in one of its jobs; it goes on with the others.")
    return True


def trim_all(execute: Execute) -> tuple[int, int]:
    """Remove all that has expired, batch by batch: how many messages and memberships."""
    messages = memberships = 0
    while True:
        removed = store.trim(execute)
        messages, memberships = messages + removed[0], memberships + removed[1]
        if max(removed) < store.TRIM_BATCH:
            return messages, memberships
        time.sleep(TRIM_PAUSE)


def checkpoint(connection: apsw.Connection) -> None:
    """Copy the -wal back, then hold writers up for a moment so that it begins anew.

    Without the second step it never would while somebody keeps writing: measured with one steady sender, the -wal
    grew without end, and every send took half as long again as with it.
    """
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    connection.set_busy_timeout(RESTART_WAIT_MS)
    try:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    finally:
        connection.set_busy_timeout(LOCK_WAIT_MS)
