"""A layer's options and its life: made without I/O, opened at first use, closed, begun anew in a forked child."""

import abc
import asyncio
import atexit
import contextlib
import itertools
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, TypeVar

from channels_lite import config, store
from channels_lite.codec import Codec
from channels_lite.database import Database, release
from channels_lite.drops import Drops
from channels_lite.errors import DatabaseBusy, LayerClosed, Locked, busy
from channels_lite.keeper import pause
from channels_lite.layers.layer import Layer
from channels_lite.mailbox import Mailboxes
from channels_lite.schema import Execute
from channels_lite.watcher import Watchers

D = TypeVar("D", bound=Database)
T = TypeVar("T")


class Tally:
    """How many messages a layer has sent and received. Of several threads', CPython counts each."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = 0


WAITING = "The channel layer was closed while receive() was waiting."
SWEEP = (1.0, 30.0)  # seconds between two rounds of removing what has expired: half the expiry, within these bounds

_layers: "weakref.WeakSet[OpenableLayer[Any]]" = weakref.WeakSet()


class OpenableLayer(Layer, Generic[D]):
    """A layer with its options, which opens its database at first use and may be closed and opened again.

    A layer with a connection of its own has no more than 29 attributes: from 30 on, CPython 3.11 keeps those of an
    object in a dict of its own, and a message to a channel of this process takes a twentieth longer.
    """

    kind = "SQLite"
    idle = ("hosts",)

    def __init__(self, **configuration: Any) -> None:
        """Take CONFIG; ConfigError names the option that is wrong. Does no I/O."""
        options = self.parse(configuration)
        super().__init__(expiry=options.expiry, capacity=options.capacity)  # type: ignore[arg-type] # seconds may have a fraction
        self.options = options
        self.group_expiry = options.group_expiry
        self.channel_capacity = config.capacity_rules(options.channel_capacity)  # type: ignore[assignment] # compiled, as BaseChannelLayer.get_capacity() wants it
        self._deadline = config.busy_deadline(options)
        keys = options.symmetric_encryption_keys
        self._codec = Codec(options.serializer_format, keys, plain_sql=options.plain_sql)
        self._watchers = Watchers(self, options.polling_interval, options.polling_idle_timeout)
        self._begin()
        _layers.add(self)

    def _begin(self) -> None:
        """What belongs to one process: done again in a forked child, which shares nothing with its parent."""
        self.client_prefix = uuid.uuid4().hex
        self._own = f".{self.client_prefix}!"
        self.drops = Drops()
        self._tally = Tally()
        self._mailboxes = Mailboxes()
        self._database: D | None = None
        self._opening = threading.Lock()
        self._closings = 0  # how often the layer was closed: an opening or a receive() that meets another number ends

    @property
    def database(self) -> str | None:
        """The alias that the layer was given, or ``default``; None with a path."""
        return self.options.alias

    # Opening and closing.

    @abc.abstractmethod
    def _acquire(self) -> D:
        """The database of this layer, opened if this process has not opened it yet."""

    async def _ready(self) -> D:
        """Open the database if it is not open."""
        if self._database is not None:
            return self._database
        if self.file() == config.MEMORY:
            return self._opened(self._closings)
        # Away from the loop: creating the schema waits for locks and for the disk.
        return await asyncio.to_thread(self._opened, self._closings)

    def _open_here(self) -> D:
        """As ``_ready``, in a thread without a loop."""
        return self._database or self._opened(self._closings)

    def _opened(self, closings: int) -> D:
        with self._opening:
            self._check_open(closings)
            if self._database is None:
                self._database = self._acquire()
                self._connected(self._database)
                self._warn()
            return self._database

    @abc.abstractmethod
    def _connected(self, database: D) -> None:
        """What belongs to an open database."""

    @abc.abstractmethod
    def _disconnected(self) -> None:
        """The same is given back; there is no database any more."""

    async def close(self) -> None:
        """Stop listening and close the database; a waiting receive() ends with LayerClosed.

        May be called more than once; the next use opens the database again.
        """
        if self._begin_to_close():
            await asyncio.to_thread(self._closed)

    def _close_here(self) -> None:
        """As ``close``, in a thread without a loop."""
        if self._begin_to_close():
            self._closed()

    def _begin_to_close(self) -> bool:
        """End all waits; whether there is anything to close."""
        self._closings += 1
        self._end_waits()
        return self._database is not None or self._opening.locked()

    def _closed(self) -> None:
        with self._opening:
            database, self._database = self._database, None
            self._end_waits()  # those that have begun meanwhile
            self._disconnected()
        self.drops.report(last=True)
        if database is not None:
            release(database, self)

    def _end_waits(self) -> None:
        self._mailboxes.fail(LayerClosed(WAITING))
        self._watchers.stop()

    def _check_open(self, closings: int) -> None:
        if self._closings != closings:
            raise LayerClosed(WAITING)

    def _upkeep(self, database: Database) -> None:
        pause = min(max(self.expiry / 2, SWEEP[0]), SWEEP[1])
        database.keeper.look_after(self, pause, trim=self.options.auto_trim)

    async def _patiently(self, database: Database, step: Callable[[], Awaitable[T]]) -> T:
        """Do something again and again while the database is locked; DatabaseBusy after the deadline."""
        for seconds in self._pauses(database):
            with contextlib.suppress(Locked):
                return await step()
            await asyncio.sleep(seconds)
        raise AssertionError("unreachable")

    def _patiently_here(self, database: Database, step: Callable[[], T]) -> T:
        """As ``_patiently``, in a thread without a loop."""
        for seconds in self._pauses(database):
            with contextlib.suppress(Locked):
                return step()
            time.sleep(seconds)
        raise AssertionError("unreachable")

    def _pauses(self, database: Database) -> Iterator[float]:
        """Seconds to wait after each try; DatabaseBusy when the last one was after the deadline."""
        deadline = time.monotonic() + self._deadline
        for attempt in itertools.count():
            yield pause(attempt)
            if time.monotonic() >= deadline:
                raise self._busy(database.path)
            database.retries += 1

    async def _run_aside(self, database: Database, job: Callable[[Execute], Any]) -> Any:
        """Run a job that may take long in another thread, on a connection of its own."""
        return await asyncio.to_thread(self._run_aside_here, database, job)

    def _run_aside_here(self, database: Database, job: Callable[[Execute], T]) -> T:
        """As ``_run_aside``, in this thread."""
        try:
            return database.run_aside(job, self._deadline)
        except Locked:
            raise self._busy(database.path) from None

    def _busy(self, path: str) -> DatabaseBusy:
        return busy(path, self._deadline)

    def _abandon(self) -> None:
        """Leave to the parent, in a forked child, what is the parent's."""
        self._watchers.abandon()

    # For the database.

    def fail(self, error: Exception) -> None:
        """The database cannot be used any more: end all waits with this error."""
        self._mailboxes.fail(error)

    def reopened(self) -> None:
        """The database was opened again, perhaps another one: nothing is known of what is in it."""

    # For the watchers.

    @abc.abstractmethod
    def listen_to_inbox(self) -> socket.socket | None:
        """A socket that becomes readable when other processes have put something into the inbox."""

    @abc.abstractmethod
    def take_in(self) -> None:
        """Deliver what is in the inbox."""

    @abc.abstractmethod
    def tidy(self) -> None:
        """As ``take_in``, and see to it that nothing that is over keeps others from sending."""

    @abc.abstractmethod
    def look(self) -> None:
        """Look for what other processes have sent to anybody who waits here."""

    def waits(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether anybody waits in this loop."""
        return self._mailboxes.has_waiters(loop)

    def waits_on_many(self) -> bool:
        """Whether so many queues are waited on that a look is better not taken in vain."""
        return self._mailboxes.queues() > store.FEW


def _after_fork() -> None:
    for layer in list(_layers):
        layer._abandon()
        layer._begin()


def _at_exit() -> None:
    """Give back the descriptors of watchers whose loops have ended, or never will; tell of what was dropped last."""
    for layer in list(_layers):
        layer._watchers.abandon()
        layer.drops.report(last=True)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
