"""The keeper: a thread with a connection of its own that checkpoints, trims, and does what must not run on a loop."""

import logging
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from channels_lite import store
from channels_lite.errors import LASTING, PASSING, DiskFull, Locked
from channels_lite.files import size_of
from channels_lite.schema import Execute

logger = logging.getLogger("channels_lite.keeper")

# Pages in the -wal from which it is copied back and begun anew: 16 MB. With SQLite's own 1,000, one round trip in 85
# met a checkpoint, and the p99 of a cross-process round trip was two to three times what it is now.
CHECKPOINT_PAGES = 4_000
RESTART_WAIT_MS = 50  # milliseconds that a restart of the -wal may hold up writers for a slow reader
JOURNAL_LIMIT = 32 * 1024 * 1024  # bytes that the -wal keeps on disk when it begins anew
INSPECTION = 0.7  # seconds between two looks at whether the database's files are there still, and into mailboxes
LARGE_WAL = 128 * 1024 * 1024  # bytes of a -wal that does not begin anew from which it is reported: floods make 70
WARNING_INTERVAL = 60.0  # seconds between two of these reports
RETRY_PAUSE = 0.5  # seconds until a keeper that cannot work tries again: as often as who waits polls
TRIM_PAUSE = (0.002, 0.1)  # seconds between two batches of trimming: as long as the batch took, within these bounds

BUSY_PAUSE = (0.00005, 0.0005)  # seconds between two tries for the write lock; SQLite's own handler sleeps up to 0.1
BUSY_PAUSE_MAX = 0.02  # seconds, once a receiver or a long-suffering sender has tried often
PATIENT_AFTER = 50  # tries
FULL_PAUSE = 0.5  # seconds between two tries where the disk is full
FULL_WARNING = 10.0  # seconds between two words in the log that it is

TOO_LARGE = (
    "The -wal of %s has grown to %d MB and cannot begin anew: somebody reads the database in a transaction that does "
    "not end, perhaps a shell, a backup, or a cursor that is not read to its end. Find out who has the file open "
    "(fuser, lsof), and have that transaction ended."
)

Job = Callable[[Execute], Any]


def pause(attempt: int) -> float:
    """Seconds to wait before trying again for a lock, after ``attempt`` tries in vain."""
    longest = BUSY_PAUSE[1] if attempt < PATIENT_AFTER else BUSY_PAUSE_MAX
    return random.uniform(BUSY_PAUSE[0], longest)


def pause_after(error: Exception, attempt: int) -> float:
    """As ``pause``, after one of the errors in PASSING."""
    return FULL_PAUSE if isinstance(error, DiskFull) else pause(attempt)


class Connection(Protocol):
    """What the keeper works with. Used by one thread at a time, not always the same."""

    def execute(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement to its end; Locked where somebody else holds the lock."""

    def is_open(self) -> bool:
        """Whether nobody has closed it."""

    def checkpoint(self) -> bool:
        """Copy the -wal back; whether it begins anew, which a reader prevents who still sees what was before."""

    def close(self, *, quickly: bool = False) -> None:
        """Give it back; ``quickly``: without the checkpoint of the last one."""


class Keeper:
    """Runs in a daemon thread from ``start`` to ``stop``; its methods may be called from any thread.

    Jobs run in the order they were asked for. One that raises Locked keeps its place, and is tried again soon. One that
    raises DiskFull is tried again when others have had their turn.
    """

    def __init__(
        self, path: str, connect: Callable[[], Connection], inspect: "Callable[[Connection], Connection] | None" = None
    ) -> None:
        """``inspect`` is called now and then with the connection, and returns the one to go on with."""
        self.path = path
        self._connect = connect
        self._inspect = inspect
        self._next_inspection = 0.0
        self._trouble = ""  # why it could not work the last time
        self._news = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._attempts = 0  # rounds since the last one in which no job met a lock
        self.retries = 0
        """How often something met a lock, after which it was tried again."""
        self._starving: deque[Job] = deque()  # jobs that wait for room on the disk
        self._next_try = 0.0  # when they are tried again
        self._told_full = -FULL_WARNING  # when the log was told that
        self._emptied = -FULL_PAUSE  # when the -wal was to begin anew because of that
        self._interval: float | None = None  # seconds between two rounds of sweeping and trimming
        self._next_sweep = 0.0
        self._trims = False
        self._trim_pause: float | None = None  # seconds until the next batch of trimming; None: all is trimmed
        self._checkpoint_due = False
        self._threshold = CHECKPOINT_PAGES
        self._quiet_until = 0.0  # a large -wal is not reported before that
        self._stopping = False
        self._ended = False
        self._layers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._connection: Connection | None = None
        self._working = threading.RLock()  # held while the connection is in use
        self._lent = False  # another thread than the keeper's uses it
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
            self.checkpoint()

    @property
    def stopping(self) -> bool:
        """Whether jobs that meet a lock now are not tried again."""
        return self._stopping

    def ask(self, job: Job) -> bool:
        """Run a job on the keeper's connection when its turn comes; False where the keeper has ended."""
        with self._news:
            if not self._ended:
                self._jobs.append(job)
                self._news.notify()
            return not self._ended

    def inline(self, job: Job) -> bool:
        """Run a short job in the calling thread; False where another job comes first or the database is locked.

        It saves two changes of threads. The job must be one that may be run again after Locked or DiskFull.
        """
        if self._jobs or self._trouble or not self._begin_inline():
            return False
        try:
            self._lent = True
            if self._connection is None or self._jobs or not self._connection.is_open():
                return False
            job(self._connection.execute)
        except PASSING:
            return False
        finally:
            self._lent = False
            self._working.release()
        return True

    def _begin_inline(self) -> bool:
        """Take the connection for this thread; False where another one has it, or this one is in a job already."""
        while self._working._is_owned():  # type: ignore[attr-defined] # as threading.Condition asks it
            if self._lent or threading.current_thread() is self._thread:
                return False
            self._working.release()  # a signal handler has raised in this thread just before it would have done so
        return self._working.acquire(blocking=False)

    def checkpoint(self) -> None:
        """Copy the -wal back when there is time."""
        with self._news:
            self._checkpoint_due = True
            self._news.notify()

    def suffer(self, error: Exception) -> None:
        """Hear of one of the errors in PASSING, after which something is tried again.

        Where the disk is full, the log is told now and then, and the -wal begun anew: receivers can go on with what it
        has of the disk already, even if nobody makes room.
        """
        if not isinstance(error, DiskFull):
            self.retries += 1
            logger.debug("The database is locked; left for the next round.")
            return
        self._say_full(error)
        now = time.monotonic()
        if now - self._emptied >= FULL_PAUSE:
            self._emptied = now
            self.checkpoint()

    def _say_full(self, error: DiskFull) -> None:
        now = time.monotonic()
        if now - self._told_full >= FULL_WARNING:
            self._told_full = now
            logger.error("Receivers and upkeep wait for room. %s", error)

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
        self._lent = True
        self._inspect_last()
        self._disconnect(quickly=True)

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._lent = False
        self._working.release()

    def _run(self) -> None:
        while True:
            try:
                if not self._wait():
                    break
                with self._working:
                    self._connection = self._inspected(self._connected())
                    self._round(self._connection)
                self._trouble = ""
            except BaseException as error:  # whatever it is: nobody else does this thread's work
                self._report(error)
                if self._stopped_within(RETRY_PAUSE):
                    self._refuse_jobs()
                # Who waits for a job learns what is wrong, or, where that may pass, that its time is over.
                why = error if isinstance(error, LASTING) else Locked("The keeper has no connection.")
                self._do_jobs(partial(_fail, why))
                if self._ended:
                    break
        with self._working:
            self._inspect_last()
            if self._connection is not None:
                self._do_jobs(self._connection.execute)
            self._disconnect()

    def _inspect_last(self) -> None:
        """Inspect before the connection is closed: what is in files that are gone is gone with it."""
        if self._inspect is not None and self._connection is not None:
            try:
                self._connection = self._inspect(self._connection)
            except Exception as error:
                self._report(error)

    def _report(self, error: BaseException) -> None:
        """Say why it cannot work, once for as long as it stays the same."""
        trouble, self._trouble = self._trouble, repr(error)
        level = logging.DEBUG if trouble == self._trouble else logging.ERROR
        text = "The keeper of %s cannot work; it tries again every %g s."
        logger.log(level, text, self.path, RETRY_PAUSE, exc_info=True)

    def _inspected(self, connection: Connection) -> Connection:
        if self._inspect is None or time.monotonic() < self._next_inspection:
            return connection
        self._next_inspection = time.monotonic() + INSPECTION
        connection = self._inspect(connection)
        for layer in list(self._layers):
            layer.tidy_alone()
        return connection

    def _connected(self) -> Connection:
        if self._connection is not None and not self._connection.is_open():
            logger.warning("The keeper's connection to %s was closed by other code; it is opened anew.", self.path)
            self._connection = None
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _disconnect(self, *, quickly: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close(quickly=quickly)
            except Exception:  # a fork must not be left half prepared
                logger.exception("The keeper's connection to %s cannot be closed.", self.path)

    def _wait(self) -> bool:
        """Wait for something to do; False when the keeper is to stop and everything asked for is done."""
        with self._news:
            if self._attempts and self._jobs and not self._stopping:
                self._news.wait(pause(self._attempts))
            elif not self._jobs and not self._checkpoint_due and not self._stopping:
                self._news.wait(self._until_due())
            self._ended = self._stopping and not self._jobs and not self._starving
            return not self._ended

    def _stopped_within(self, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._stopping, seconds)

    def _refuse_jobs(self) -> None:
        with self._news:
            self._ended = True

    def _until_sweep(self) -> float | None:
        return None if self._interval is None else max(0.0, self._next_sweep - time.monotonic())

    def _until_due(self) -> float | None:
        """Seconds until there is something to do that nobody asks for."""
        times = [self._until_sweep() if self._trim_pause is None else self._trim_pause]
        if self._starving:
            times.append(max(0.0, self._next_try - time.monotonic()))
        if self._inspect is not None:
            times.append(max(0.0, self._next_inspection - time.monotonic()))
        return min((seconds for seconds in times if seconds is not None), default=None)

    def _round(self, connection: Connection) -> None:
        self._do_jobs(connection.execute)
        if self._checkpoint_due:
            self._checkpoint_due = False
            self._attempt(lambda execute: self._copy_back(connection), connection.execute)
        if self._until_sweep() == 0.0:
            self._sweep(connection.execute)
        if self._trim_pause is not None:
            self._trim_pause = None
            if isinstance(self._attempt(self._trim, connection.execute), Locked):
                # Not with the next sweep: where many write, that meets a lock, too.
                self._trim_pause = TRIM_PAUSE[1]

    def _do_jobs(self, execute: Execute) -> None:
        with self._news:
            jobs, self._jobs = self._jobs, deque()
            last = self._stopping  # as of now: a job that is not tried again must have been able to know that
        if self._starving and (last or time.monotonic() >= self._next_try):
            self._starving, jobs = deque(), self._starving + jobs
        left = deque(job for job in jobs if self._meets_a_lock(job, execute, last))
        self._attempts = self._attempts + 1 if left else 0
        if left and not last:
            with self._news:
                self._jobs.extendleft(reversed(left))

    def _meets_a_lock(self, job: Job, execute: Execute, last: bool) -> bool:
        error = self._attempt(job, execute)
        if isinstance(error, DiskFull) and not last:
            self._starving.append(job)
            self._next_try = time.monotonic() + FULL_PAUSE
        return isinstance(error, Locked)

    def _sweep(self, execute: Execute) -> None:
        self._next_sweep = time.monotonic() + (self._interval or 0.0)
        self._trim_pause = 0.0 if self._trims else None
        with self._news:
            layers = list(self._layers)
        for layer in layers:
            self._attempt(layer.sweep, execute)

    def _attempt(self, job: Job, execute: Execute) -> Exception | None:
        """Do one thing, without harm to the others; returns the error after which it is to be tried again."""
        try:
            job(execute)
        except PASSING as error:
            self.suffer(error)
            return error
        except BaseException as error:  # in this thread nobody waits for it
            if repr(error) == self._trouble:
                return None  # the log has it
            logger.exception("The keeper failed in one of its jobs; it goes on with the others.")
        return None

    def _copy_back(self, connection: Connection) -> None:
        try:
            if connection.checkpoint() or time.monotonic() < self._quiet_until:
                return
        except DiskFull as error:  # no reason to try at once again
            self._say_full(error)
            return
        size = size_of(f"{self.path}-wal")
        if size >= LARGE_WAL:
            self._quiet_until = time.monotonic() + WARNING_INTERVAL
            logger.warning(TOO_LARGE, self.path, size // 1024**2)

    def _trim(self, execute: Execute) -> None:
        # One batch a round: the jobs that were asked for meanwhile come before the next one.
        begun = time.monotonic()
        if max(store.trim(execute)) == store.TRIM_BATCH:
            self._trim_pause = _as_long_as_since(begun)


def _fail(error: Exception, sql: str, parameters: Sequence[Any]) -> list[Any]:
    raise error


def trim_all(execute: Execute, report: Callable[[int, int], object] | None = None) -> tuple[int, int]:
    """Remove all that has expired, batch by batch: how many messages and memberships.

    ``report`` is called after each batch with the numbers so far. The pause after a batch lets others have their turn.
    Measured in rollback-journal mode, where a batch takes 10 ms: with a pause of 2 ms a writer waited up to 0.9 s.
    """
    messages = memberships = 0
    while True:
        begun = time.monotonic()
        removed = store.trim(execute)
        messages, memberships = messages + removed[0], memberships + removed[1]
        if report is not None:
            report(messages, memberships)
        if max(removed) < store.TRIM_BATCH:
            return messages, memberships
        time.sleep(_as_long_as_since(begun))


def _as_long_as_since(begun: float) -> float:
    return min(max(time.monotonic() - begun, TRIM_PAUSE[0]), TRIM_PAUSE[1])
