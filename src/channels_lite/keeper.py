"""The keeper: a thread with a connection of its own that checkpoints, trims, and does what must not run on a loop."""

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import apsw

from channels_lite import store
from channels_lite.schema import Execute, executor

logger = logging.getLogger("channels_lite.keeper")

CHECKPOINT_PAGES = 1_000  # pages in the -wal from which it is copied back and begun anew: SQLite's own default
JOURNAL_LIMIT = 32 * 1024 * 1024  # bytes that the -wal keeps on disk when it begins anew
LOCK_WAIT_MS = 1_000  # milliseconds that a job waits for the write lock before it is left for the next round
RESTART_WAIT_MS = 50  # milliseconds that a restart of the -wal may hold up writers for a slow reader

TRIM_PAUSE = 0.002  # seconds between two batches of trimming: as long as a batch takes, so that others get their turn

Job = Callable[[Execute], Any]


def open_connection(path: str) -> apsw.Connection:
    """A second connection to a database that is open already: it waits for locks, and never on a loop's thread."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(LOCK_WAIT_MS)
    connection.pragma("synchronous", "normal")
    connection.pragma("journal_size_limit", JOURNAL_LIMIT)
    connection.wal_autocheckpoint(0)
    return connection


class Keeper:
    """Runs in a daemon thread from ``start`` to ``stop``; its methods may be called from any thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._news = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._trim_interval: float | None = None
        self._next_trim = 0.0
        self._checkpoint_due = False
        self._threshold = CHECKPOINT_PAGES
        self._stopping = False
        self._sweeps: weakref.WeakSet[Any] = weakref.WeakSet()
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

    def trim_every(self, seconds: float, layer: Any) -> None:
        """Trim at least this often, and call ``layer.sweep(execute)`` as long as the layer lives."""
        with self._news:
            self._sweeps.add(layer)
            self._trim_interval = min(seconds, self._trim_interval or seconds)
            self._next_trim = time.monotonic() + self._trim_interval
            self._news.notify()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while self._wait():
            try:
                connection = connection or open_connection(self.path)
                self._round(connection)
            except Exception:
                logger.exception("The keeper of %s failed in this round; it goes on with the next.", self.path)
        if connection is not None:
            connection.close()

    def _wait(self) -> bool:
        """Wait for something to do; False when the keeper is to stop and everything asked for is done."""
        with self._news:
            if not self._jobs and not self._checkpoint_due and not self._stopping:
                self._news.wait(self._until_trim())
            return bool(self._jobs) or not self._stopping

    def _until_trim(self) -> float | None:
        return None if self._trim_interval is None else max(0.0, self._next_trim - time.monotonic())

    def _round(self, connection: apsw.Connection) -> None:
        execute = executor(connection)
        while self._jobs:
            _attempt(self._jobs.popleft(), execute)
        if self._checkpoint_due:
            self._checkpoint_due = False
            _unless_busy(lambda: checkpoint(connection))
        if self._until_trim() == 0.0:
            self._trim(execute)

    def _trim(self, execute: Execute) -> None:
        self._next_trim = time.monotonic() + (self._trim_interval or 0.0)
        _attempt(trim_all, execute)
        for layer in list(self._sweeps):
            _attempt(layer.sweep, execute)


def _attempt(job: Job, execute: Execute) -> None:
    _unless_busy(lambda: job(execute))


def _unless_busy(step: Callable[[], Any]) -> None:
    try:
        step()
    except apsw.BusyError:
        logger.debug("The database is busy; left for the next round.")


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
