"""The fast layer: an apsw connection of its own, used inline on the event loop's thread."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeVar

from channels_lite import caller, config, store
from channels_lite.apsw_database import ApswDatabase, Write, open_file
from channels_lite.batch import Batch
from channels_lite.database import Sent
from channels_lite.errors import PASSING, DatabaseFailed, LayerClosed, Locked
from channels_lite.keeper import pause_after
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.openable import WAITING
from channels_lite.mailbox import Item, Waiter
from channels_lite.schema import Execute

T = TypeVar("T")


class AIOSQLiteChannelLayer(SQLiteLayer[ApswDatabase]):
    """A channel layer on a SQLite file of its own; options: ``channels_lite.config.Options``.

    ``database="default"`` (or nothing) means a companion file beside the default database, any other alias its own
    file, ``path`` any file. Usable from several event loops and threads at once; a forked child begins anew.
    """

    library = "apsw"

    @staticmethod
    def locate(options: config.Options) -> str:
        """The companion of the default database, the file of another alias, or the path."""
        return config.own_file(options)

    def _begin(self) -> None:
        super()._begin()
        self._batches: dict[asyncio.AbstractEventLoop, Batch] = {}

    def _acquire(self) -> ApswDatabase:
        database = open_file(self.file(), self, self._room)
        self._upkeep(database)
        return database

    def _closed(self) -> None:
        super()._closed()
        self._batches.clear()

    # Writing.

    async def _write(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        database = self._database or await self._ready()
        return await self._batch(database).write(Write(operation, arguments))

    def _write_here(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        database, write = self._open_here(), Write(operation, arguments)
        try:
            return database.send(self.options.prefix, write)
        except Locked:
            return self._patiently_here(database, partial(database.send, self.options.prefix, write))

    def _batch(self, database: ApswDatabase) -> Batch:
        loop = asyncio.get_running_loop()
        batch = self._batches.get(loop)
        if batch is None or batch.database is not database:
            for closed in [other for other in list(self._batches) if other.is_closed()]:
                self._batches.pop(closed, None)  # other threads do this as well
            batch = Batch(database, self.options.prefix, self._deadline)
            self._batches[loop] = batch
        return batch

    def _state(self) -> Hashable:
        try:
            return None if self._database is None else self._database.state()
        except Locked:
            return None

    # Looking. All of it runs to its end inline: a claim and its delivery cannot be torn apart.

    def _spares_look(self, waiter: Waiter) -> bool:
        # Whoever waits on the same queue in the same loop has looked, and hears of what comes.
        return (waiter.follows and waiter.queue[-1] == "!") or super()._spares_look(waiter)

    def _look(self, waiter: Waiter, attempt: int) -> Item | None:
        if waiter.queue.endswith("!"):
            self._collect(waiter.queue, loop=waiter.loop)
            return None
        try:
            return self._claim(waiter.queue, hinted=False)
        except PASSING as error:
            waiter.loop.call_later(self._suffer(error, attempt), self._mailboxes.wake, waiter.channel)
            return None

    def _suffer(self, error: Exception, attempt: int) -> float:
        """Seconds until what met one of the errors in PASSING is tried again."""
        if self._database is not None:
            self._database.keeper.suffer(error)
        return pause_after(error, attempt)

    def _take(self, queue: str) -> Item | None:
        try:
            return self._claim(queue, hinted=True)
        except PASSING:
            return None

    def _claim(self, queue: str, *, hinted: bool) -> Item | None:
        if self._database is None:
            raise LayerClosed(WAITING)
        row = self._database.read(store.claim_one, self.options.prefix, queue, hinted)
        if row is None:
            return None
        self._catch_up()  # a flush that came before it must not throw it away
        return Item(*row)

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
            while self._database.read(partial(self._claim_all, queue)) == store.CLAIM_BATCH:
                pass
        except PASSING as error:
            _call_later(loop or waiting, self._suffer(error, attempt), self._collect, queue, attempt + 1, loop)
        except Exception as error:  # for those who wait, not for the sender, whose message has been committed
            if caller.is_interruption(error):
                _call_later(loop or waiting, 0, self._collect, queue, attempt + 1, loop)
                raise
            self._mailboxes.fail(error, queue)

    async def _read(self, operation: Callable[..., T], *arguments: Any) -> T:
        database = self._database or await self._ready()

        async def read() -> T:
            return database.read(operation, *arguments)

        return await self._patiently(database, read)

    def _read_here(self, operation: Callable[..., T], *arguments: Any) -> T:
        database = self._open_here()
        return self._patiently_here(database, partial(database.read, operation, *arguments))

    def _read_now(self, operation: Callable[..., T], *arguments: Any) -> T | None:
        try:
            return None if self._database is None else self._database.read(operation, *arguments)
        except Locked:
            return None

    def _run_now(self, job: Callable[[Execute], Any]) -> bool:
        try:
            if self._database is not None:
                self._database.read(job)
        except (*PASSING, DatabaseFailed):
            return False
        return self._database is not None

    # Away from the loop.

    async def _aside(self, job: Callable[[Execute], Any]) -> Any:
        database = await self._ready()
        if database.in_memory:
            return database.read(job)
        return await self._run_aside(database, job)

    def _aside_here(self, job: Callable[[Execute], T]) -> T:
        database = self._open_here()
        return database.read(job) if database.in_memory else self._run_aside_here(database, job)


def _call_later(loop: asyncio.AbstractEventLoop, delay: float, step: Callable[..., None], *arguments: Any) -> None:
    """As loop.call_later(), from any thread; nothing happens where the loop has been closed."""
    try:
        loop.call_soon_threadsafe(loop.call_later, delay, step, *arguments)
    except RuntimeError:
        return
