"""The layer on Django's own connection: what synchronous code sends belongs to its transaction."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from channels_lite import caller, config, store
from channels_lite.caller import CallerGone
from channels_lite.database import Sent
from channels_lite.django_database import DjangoDatabase, open_alias
from channels_lite.errors import PASSING, ConfigError, LayerClosed, Locked
from channels_lite.keeper import pause
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.handover import NO_PAGE
from channels_lite.layers.openable import WAITING
from channels_lite.mailbox import Item, Waiter, running_loop
from channels_lite.schema import Execute

T = TypeVar("T")


class SQLiteChannelLayer(SQLiteLayer[DjangoDatabase]):
    """A channel layer on Django's connection of the alias ``database``; options: ``channels_lite.config.Options``.

    ``async_to_sync(layer.send)(…)`` inside ``transaction.atomic()`` on that alias belongs to the transaction: it is
    seen when that commits, and never if it is rolled back. So do ``group_add`` and ``group_discard``. A ``receive()``
    there also finds what the transaction has sent. Elsewhere, each call commits by itself.
    """

    library = "sqlite3"
    defaults: ClassVar[dict[str, Any]] = {"serializer_format": "json"}

    @classmethod
    def parse(cls, configuration: Mapping[str, Any]) -> config.Options:
        if configuration.get("path") is not None:
            raise ConfigError(
                "CHANNEL_LAYERS: the option 'path' is not for this layer, which speaks through Django's connection; "
                "name an alias of DATABASES with 'database', or take channels_lite.layers.aio.AIOSQLiteChannelLayer."
            )
        return super().parse(configuration)

    @staticmethod
    def locate(options: config.Options) -> str:
        """The file of the alias itself."""
        return config.alias_file(options.alias or config.DEFAULT_ALIAS)

    def _begin(self) -> None:
        super()._begin()
        self._asking = threading.Lock()
        self._ask_anew()
        self._tasks: set[asyncio.Task[None]] = set()

    def _ask_anew(self) -> None:
        """What belongs to one keeper: nothing is known to the next one."""
        self._asked: set[str] = set()  # queues that the keeper has been asked to claim, and has not begun to
        self._looking = False  # the keeper has been asked to look
        self._seen: tuple[int, int] | None = None  # the database's version at the last look

    def _acquire(self) -> DjangoDatabase:
        database = open_alias(self.database or config.DEFAULT_ALIAS, self.file(), self, self._room)
        self._ask_anew()  # the keeper before has ended by now
        if not database.in_memory:
            self._upkeep(database)
        return database

    def _belongs_to_caller(self, database: DjangoDatabase) -> bool:
        if running_loop() is None:  # called by synchronous code itself, which is in this thread
            return database.may_undo()
        return database.in_memory or caller.is_there()

    def _register(self) -> None:
        # In memory all of it would be the caller's: a query that a test might count, in a transaction it rolls back.
        if self._database is not None and not self._database.in_memory:
            super()._register()

    # Writing, and reading.

    async def _write(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        database = self._database or await self._ready()
        if self._belongs_to_caller(database):
            try:
                return await self._in_caller(database, partial(database.send_here, operation, *arguments))
            except CallerGone:
                if database.in_memory:
                    raise
        sent = database.send_now(operation, *arguments)
        if sent is not None:
            return sent
        return await self._ask(database, lambda execute: database.send(execute, operation, *arguments))

    def _write_here(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        database = self._open_here()
        sent = None if database.may_undo() else database.send_now(operation, *arguments)
        if sent is not None:
            return sent
        return self._patiently_here(database, partial(database.send_here, operation, *arguments))

    async def _read(self, operation: Callable[..., T], *arguments: Any) -> T:
        database = self._database or await self._ready()

        def read(execute: Execute) -> T:
            return operation(execute, *arguments)

        if self._belongs_to_caller(database):
            try:
                return await self._in_caller(database, partial(database.run_here, read))
            except CallerGone:
                if database.in_memory:
                    raise
        return await self._ask(database, read)

    def _read_here(self, operation: Callable[..., T], *arguments: Any) -> T:
        return self._aside_here(lambda execute: operation(execute, *arguments))

    async def _in_caller(self, database: DjangoDatabase, function: Callable[[], T]) -> T:
        """Run a function in the caller's thread, again and again while the database is locked."""
        return await self._patiently(database, partial(caller.run, function))

    async def _ask(self, database: DjangoDatabase, job: Callable[[Execute], T]) -> T:
        """Run a job in the keeper's thread and wait for its result."""
        request = Request(job, self._deadline, lambda: self._refusal(database))
        if not database.keeper.ask(request):
            raise LayerClosed(WAITING)
        return await request.future

    def _refusal(self, database: DjangoDatabase) -> Exception:
        return LayerClosed(WAITING) if database.keeper.stopping else self._busy(database.path)

    def _state(self) -> Hashable:
        return None  # Django's connections change the database as well: to ask takes as long as to read

    # Looking, in the keeper's thread or the caller's. A claim and its delivery are one job, which nothing tears apart.

    def _look(self, waiter: Waiter, attempt: int) -> Item | None:
        database = self._database
        if database is None:
            raise LayerClosed(WAITING)
        if self._belongs_to_caller(database):
            self._look_from_caller(database, waiter)
        self._ask_to_claim(database, waiter.queue)
        return None

    def _take(self, queue: str) -> Item | None:
        return None

    def _look_from_caller(self, database: DjangoDatabase, waiter: Waiter) -> None:
        self._mailboxes.set_apart(waiter)
        self._start(self._claim_from_caller(database, waiter))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself would let go of it
        task.add_done_callback(self._tasks.discard)

    async def _claim_from_caller(self, database: DjangoDatabase, waiter: Waiter) -> None:
        claim = partial(database.claim_here, partial(self._claim_for, waiter))
        attempts = itertools.count()
        while True:
            try:
                return await caller.run(claim)
            except Locked:
                await asyncio.sleep(pause(next(attempts)))
            except Exception as error:
                if isinstance(error, CallerGone) and not database.in_memory:
                    return None  # the keeper looks
                return waiter.fail(error)

    def _ask_to_claim(self, database: DjangoDatabase, queue: str) -> None:
        if database.in_memory or self._mailboxes.loop_waiting_on(queue) is None:
            return
        more: list[bool] = []
        if database.do_now(lambda execute: more.append(self._claim_some(queue, execute))) and not more[0]:
            return
        with self._asking:
            if queue in self._asked:
                return
            self._asked.add(queue)
        database.keeper.ask(partial(self._begin_claim, queue))

    def _begin_claim(self, queue: str, execute: Execute) -> None:
        # Before the look: who waits from now on asks again.
        with self._asking:
            self._asked.discard(queue)
        try:
            self._claim(queue, execute)
        except PASSING:
            with self._asking:
                if queue in self._asked:  # another job will do it
                    return
                self._asked.add(queue)
            raise

    def _claim(self, queue: str, execute: Execute, *, within: bool = False) -> None:
        """Claim for those who wait on this queue, and hand over."""
        while self._claim_some(queue, execute, within=within):
            pass

    def _claim_some(self, queue: str, execute: Execute, *, within: bool = False) -> bool:
        """As ``_claim``, but one batch; whether there may be more. An error is for those who wait."""
        if self._mailboxes.loop_waiting_on(queue) is None:
            return False
        try:
            if queue.endswith("!"):
                return self._claim_all(queue, execute, within=within) == store.CLAIM_BATCH
            return self._claim_one(queue, execute)
        except PASSING:
            raise
        except Exception as error:
            if caller.is_interruption(error):
                self._later(partial(self._begin_claim, queue))
                raise
            self._mailboxes.fail(error, queue)
            return False

    def _claim_for(self, waiter: Waiter, execute: Execute, may_roll_back: bool) -> None:
        """Claim for a waiter who looks for itself. Nobody else gets what its transaction may give back."""
        if waiter.queue.endswith("!") and not may_roll_back:
            self._claim(waiter.queue, execute, within=True)
        elif not waiter.woken:
            self._claim_alone(waiter, execute, may_roll_back)

    def _claim_alone(self, waiter: Waiter, execute: Execute, may_roll_back: bool) -> None:
        prefix, queue = self.options.prefix, waiter.queue
        local = self._split(waiter.channel)[1]
        if local is None:
            row = store.claim_one(execute, prefix, queue)
        else:
            row = store.claim_own(execute, prefix, queue, local, partial(self._still_waits, waiter))
        if row is not None and not self._mailboxes.give(waiter, Item(*row), lent=may_roll_back):
            try:
                self._put_back_for(waiter, Item(*row), execute)
            except Exception:  # whatever it is, nobody else has the message, if its transaction has not
                if may_roll_back:
                    raise
                self._mailboxes.park(waiter.channel, Item(*row))

    def _put_back_for(self, waiter: Waiter, item: Item, execute: Execute) -> None:
        local = self._split(waiter.channel)[1]
        store.put_back(execute, self.options.prefix, waiter.queue, local, item.payload, item.expires_at, item.sent_at)

    async def _give_back(self, waiter: Waiter) -> None:
        database, item = self._database, waiter.item
        if database is None or item is None:
            return
        job = partial(database.run_here, partial(self._put_back_for, waiter, item))
        undo = asyncio.ensure_future(caller.run(job))
        # Whatever cancels this as well: once receive() has ended, its transaction may end.
        while not undo.done():
            with contextlib.suppress(asyncio.CancelledError, CallerGone):
                await asyncio.shield(undo)

    def _still_waits(self, waiter: Waiter) -> bool:
        self.take_in_all()
        return not waiter.woken

    def _claim_one(self, queue: str, execute: Execute) -> bool:
        row = store.claim_one(execute, self.options.prefix, queue)
        if row is None:
            return False
        self._catch_up()  # a flush that came before it must not throw it away
        if not self._mailboxes.hand_over(queue, Item(*row)):  # who waited has gone meanwhile
            self._mailboxes.park(queue, Item(*row))
            if self._has_others():
                self._later(partial(self._put_back, queue))
        return True

    def _hint(self, queue: str) -> None:
        self._collect(queue)

    def _collect(self, queue: str) -> None:
        database = self._database
        if database is not None:
            self._mailboxes.nudge(queue)
            self._ask_to_claim(database, queue)

    def look(self) -> None:
        database = self._database
        if database is not None and not self._looking:
            self._looking = True
            look = partial(self._look_at_all, database)
            if not database.do_now(look):
                database.keeper.ask(look)

    def _look_at_all(self, database: DjangoDatabase, execute: Execute) -> None:
        self._looking = False
        try:
            self._look_if_changed(database, execute)
        except PASSING:
            if not self._looking:  # otherwise another job will do it
                self._looking = True
                raise

    def _look_if_changed(self, database: DjangoDatabase, execute: Execute) -> None:
        database.tidy()
        seen = database.version_seen(execute)
        if seen == self._seen:
            return
        self._seen = None  # until all of it is done: it may meet a lock
        names = list(self._mailboxes.waiting())
        if len(names) > store.FEW:
            found = store.pending(execute, self.options.prefix, names, 1)
            names = [name for name in names if found[name]]
        for name in names:
            self._claim(name, execute)
        self._seen = seen

    def _is_empty(self, queue: str, quiet: int = NO_PAGE) -> bool:
        # First, and not only where it looks: what it knows of the database says nothing about the caller.
        database = self._database
        return database is not None and not self._belongs_to_caller(database) and super()._is_empty(queue, quiet)

    def _read_now(self, operation: Callable[..., T], *arguments: Any) -> T | None:
        database = self._database
        if database is None or self._belongs_to_caller(database):
            return None
        read: list[T] = []
        database.do_now(lambda execute: read.append(operation(execute, *arguments)))
        return read[0] if read else None

    def _run_now(self, job: Callable[[Execute], Any]) -> bool:
        return self._database is not None and self._database.do_now(job)

    # Away from the loop.

    def _later(self, job: Callable[[Execute], Any]) -> None:
        if self._database is None or not self._database.in_memory:
            super()._later(job)
        elif running_loop() is None:
            self._patiently_here(self._database, partial(self._database.run_here, job))
        else:
            self._start(self._do_later(self._database, job))

    async def _do_later(self, database: DjangoDatabase, job: Callable[[Execute], Any]) -> None:
        await self._in_caller(database, partial(database.run_here, job))

    async def flush(self) -> None:
        """Remove all messages and groups of this layer's prefix; in a transaction, they are gone when that commits."""
        database = await self._ready()
        if self._belongs_to_caller(database):
            await self._in_caller(database, partial(database.flush_here, self.options.prefix))
        else:
            await super().flush()

    async def _aside(self, job: Callable[[Execute], Any]) -> Any:
        database = await self._ready()
        if self._belongs_to_caller(database):
            return await self._in_caller(database, partial(database.run_here, job))
        return await self._run_aside(database, job)

    def _aside_here(self, job: Callable[[Execute], T]) -> T:
        database = self._open_here()
        return self._patiently_here(database, partial(database.run_here, job))


class Request(Generic[T]):
    """A job for the keeper whose result a coroutine waits for."""

    def __init__(self, job: Callable[[Execute], T], patience: float, refusal: Callable[[], Exception]) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()
        self._job = job
        self._deadline = time.monotonic() + patience
        self._refusal = refusal  # the error for a database that was locked all the time

    def __call__(self, execute: Execute) -> None:
        """Run the job, unless nobody waits for it any more; Locked where it is to be tried again."""
        if self.future.cancelled():
            return
        try:
            result = self._job(execute)
        except Locked:
            refusal = self._refusal()
            if not isinstance(refusal, LayerClosed) and time.monotonic() < self._deadline:
                raise
            self._answer(self.future.set_exception, refusal)
        except BaseException as error:
            self._answer(self.future.set_exception, error)
        else:
            self._answer(self.future.set_result, result)

    def _answer(self, give: Callable[[Any], None], answer: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._give, give, answer)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _give(self, give: Callable[[Any], None], answer: Any) -> None:
        if not self.future.done():
            give(answer)
