"""The fast layer: an apsw connection of its own, used inline on the event loop's thread."""

import asyncio
import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import apsw
from channels.exceptions import ChannelFull, MessageTooLarge

from channels_lite import config, store
from channels_lite.database import Database, acquire, release
from channels_lite.errors import DatabaseBusy, LayerClosed
from channels_lite.keeper import trim_all
from channels_lite.layers.base import WAITING, SQLiteLayer
from channels_lite.mailbox import Item, Waiter
from channels_lite.schema import Execute

BUSY_PAUSE = (0.00005, 0.0005)  # seconds between two tries for the write lock; SQLite's own handler sleeps up to 0.1
BUSY_PAUSE_MAX = 0.02  # seconds, once a receiver or a long-suffering sender has tried often
PATIENT_AFTER = 50  # tries
SWEEP = (1.0, 30.0)  # seconds between two rounds of removing what has expired: half the expiry, within these bounds


class AIOSQLiteChannelLayer(SQLiteLayer):
    """A channel layer on a SQLite file of its own; options: ``channels_lite.config.Options``.

    ``database="default"`` (or nothing) means a companion file beside the default database, any other alias its own
    file, ``path`` any file. Usable from several event loops and threads at once; a forked child begins anew.
    """

    library = "apsw"

    def __init__(self, **configuration: Any) -> None:
        super().__init__(**configuration)
        self._deadline = config.busy_deadline(self.options)

    def _begin(self) -> None:
        super()._begin()
        self._database: Database | None = None

    @staticmethod
    def locate(options: config.Options) -> str:
        """The companion of the default database, the file of another alias, or the path."""
        return config.own_file(options)

    # Opening and closing.

    async def _ready(self) -> Database:
        database = self._database
        if database is not None:
            return database
        path = self.file()
        if path == config.MEMORY:
            return self._opened(path, self._closings)
        # Away from the loop: creating the schema waits for locks and for the disk.
        return await asyncio.to_thread(self._opened, path, self._closings)

    def _opened(self, path: str, closings: int) -> Database:
        with self._opening:
            self._check_open(closings)
            if self._database is None:
                database = acquire(path, self)
                database.register_capacity(self, self._room)
                pause = min(max(self.expiry / 2, SWEEP[0]), SWEEP[1])
                database.keeper.look_after(self, pause, trim=self.options.auto_trim)
                self._database = database
            return self._database

    async def close(self) -> None:
        """Stop listening and close the database; a waiting receive() ends with LayerClosed.

        May be called more than once; the next use opens the database again.
        """
        self._stop_waiting()
        if self._database is not None or self._opening.locked():
            await asyncio.to_thread(self._closed)

    def _closed(self) -> None:
        with self._opening:
            database, self._database = self._database, None
        if database is not None:
            release(database, self)

    # Writing.

    async def _write(self, operation: Callable[..., None], *arguments: Any) -> tuple[list[int], list[str]]:
        database = self._database or await self._ready()
        deadline: float | None = None
        for attempt in itertools.count():
            try:
                return database.write(operation, *arguments)
            except apsw.BusyError:
                now = asyncio.get_running_loop().time()
                deadline = deadline or now + self._deadline
                if now >= deadline:
                    raise DatabaseBusy(
                        f"The database {database.path} was locked by somebody else for {self._deadline:g} s; "
                        "nothing was sent or changed."
                    ) from None
            except apsw.ConstraintError as error:
                if store.FULL not in str(error):
                    raise
                raise ChannelFull from None
            except apsw.TooBigError as error:
                raise MessageTooLarge(f"SQLite cannot store a message of this size: {error}") from None
            await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    def _announce(self, queues: Iterable[str]) -> None:
        if self._database is not None:
            self._database.announce(self.options.prefix, queues)

    def _queues(self, ids: list[int]) -> list[str]:
        try:
            return [queue for _, queue in self._database.read(store.queues, ids)] if self._database else []
        except LayerClosed:  # the messages are sent all the same
            return []

    # Looking. All of it runs to its end inline: a claim and its delivery cannot be torn apart.

    def _look(self, waiter: Waiter, attempt: int) -> Item | None:
        if waiter.queue.endswith("!"):
            if self._mailboxes.is_first(waiter):
                self._collect(waiter.queue, loop=waiter.loop)
            return None
        try:
            return self._claim(waiter.queue, hinted=False)
        except apsw.BusyError:
            waiter.loop.call_later(_pause(attempt), self._mailboxes.wake, waiter.channel)
            return None

    def _take(self, queue: str) -> Item | None:
        try:
            return self._claim(queue, hinted=True)
        except apsw.BusyError:
            return None

    def _claim(self, queue: str, *, hinted: bool) -> Item | None:
        if self._database is None:
            raise LayerClosed(WAITING)
        row = self._database.read(store.claim_one, self.options.prefix, queue, hinted)
        return None if row is None else Item(*row)

    def look(self) -> None:
        waiting = self._mailboxes.waiting()
        for queue in [queue for queue in waiting if queue.endswith("!")]:
            del waiting[queue]
            self._collect(queue)
        if waiting and self._database is not None:
            most = max(waiting.values())
            found = self._database.read(store.pending, self.options.prefix, list(waiting), most)
            for channel, count in found.items():
                self._mailboxes.wake(channel, count)

    def _collect(self, queue: str, attempt: int = 0, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """``loop``: where to try again while the database is locked; any in which somebody waits when left out."""
        waiting = self._mailboxes.loop_waiting_on(queue)
        if waiting is None or self._database is None:
            return
        try:
            while self._database.read(self._claim_and_deliver, queue) == store.CLAIM_BATCH:
                pass
        except apsw.BusyError:
            _call_later(loop or waiting, _pause(attempt), self._collect, queue, attempt + 1, loop)

    def _claim_and_deliver(self, execute: Execute, queue: str) -> int:
        # Under the database's lock until all is delivered: another thread's later claim must not overtake.
        rows = store.claim_queue(execute, self.options.prefix, queue)
        for row in rows:
            self._deliver(queue, row)
        return len(rows)

    def _is_live(self, item: Item) -> bool:
        return self._database is not None and self._database.read(store.is_live, item.expires_at)

    def _forget(self, prefix: str) -> None:
        if self._database is not None:
            self._database.forget(prefix)

    # Away from the loop.

    def _later(self, job: Callable[[Execute], Any]) -> None:
        if self._database is not None:
            self._database.keeper.ask(job)

    async def _aside(self, job: Callable[[Execute], Any]) -> Any:
        database = await self._ready()
        if database.in_memory:
            return database.read(job)
        try:
            return await asyncio.to_thread(database.run_aside, job, self._deadline)
        except apsw.BusyError:
            raise DatabaseBusy(
                f"The database {database.path} was locked by somebody else for {self._deadline:g} s."
            ) from None

    async def clean_expired(self) -> tuple[int, int]:
        """Remove what has expired, of every layer in the file: how many messages and memberships there were."""

        def job(execute: Execute) -> tuple[int, int]:
            removed = trim_all(execute)
            self.sweep(execute)
            return removed

        removed: tuple[int, int] = await self._aside(job)
        return removed


def _pause(attempt: int) -> float:
    longest = BUSY_PAUSE[1] if attempt < PATIENT_AFTER else BUSY_PAUSE_MAX
    return random.uniform(BUSY_PAUSE[0], longest)


def _call_later(loop: asyncio.AbstractEventLoop, delay: float, step: Callable[..., None], *arguments: Any) -> None:
    """As loop.call_later(), from any thread; nothing happens where the loop has been closed."""
    try:
        loop.call_soon_threadsafe(loop.call_later, delay, step, *arguments)
    except RuntimeError:
        return
