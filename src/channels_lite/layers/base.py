"""The Channels API over a store, mailboxes and watchers. No SQL and no threads: those come with the connection."""

import abc
import asyncio
import atexit
import os
import re
import secrets
import threading
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from channels.exceptions import ChannelFull
from channels.layers import BaseChannelLayer

from channels_lite import config, store
from channels_lite.codec import Codec
from channels_lite.database import Database, release
from channels_lite.drops import Drops, Reason
from channels_lite.errors import (
    DatabaseBusy,
    ForeignChannel,
    InvalidMessage,
    LayerClosed,
    UndecodableMessage,
)
from channels_lite.keeper import trim_all
from channels_lite.mailbox import Item, Mailboxes, Waiter
from channels_lite.schema import Execute
from channels_lite.store import Claimed
from channels_lite.watcher import Watchers

D = TypeVar("D", bound=Database)

WAITING = "The channel layer was closed while receive() was waiting."
LOCAL_BYTES = 9  # random bytes in the local part of a channel name: 72 bits, 12 characters
SWEEP = (1.0, 30.0)  # seconds between two rounds of removing what has expired: half the expiry, within these bounds

_parse_targets = msgspec.json.Decoder(list[str]).decode
_layers: "weakref.WeakSet[SQLiteLayer[Any]]" = weakref.WeakSet()


class SQLiteLayer(BaseChannelLayer, abc.ABC, Generic[D]):
    """What the layers share. A subclass brings the connection: how to write, to look, and to step aside.

    ``database`` is the alias that the layer was given, or ``default``; None with a path.
    """

    extensions: ClassVar = ["groups", "flush"]
    defaults: ClassVar[dict[str, Any]] = {}
    library: ClassVar[str]
    """The Python module whose SQLite the layer speaks through: two of them on one file destroy it."""

    # Deviation from BaseChannelLayer, whose patterns let a line feed and non-ASCII letters through against its own
    # error message.
    channel_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?\Z")
    group_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+\Z")

    def __init__(self, **configuration: Any) -> None:
        """Take CONFIG; ConfigError names the option that is wrong. Does no I/O."""
        options = self.parse(configuration)
        super().__init__(expiry=options.expiry, capacity=options.capacity)  # type: ignore[arg-type] # seconds may have a fraction
        self.options = options
        self.database = None if options.path is not None else options.database or config.DEFAULT_ALIAS
        self.group_expiry = options.group_expiry
        self.channel_capacity = config.capacity_rules(options.channel_capacity)  # type: ignore[assignment] # compiled, as BaseChannelLayer.get_capacity() wants it
        self._deadline = config.busy_deadline(options)
        self._codec = Codec(options.serializer_format, options.symmetric_encryption_keys, options.expiry)
        self._watchers = Watchers(self, options.polling_interval, options.polling_idle_timeout)
        self._begin()
        _layers.add(self)

    def _begin(self) -> None:
        """What belongs to one process: done again in a forked child, which shares nothing with its parent."""
        self.client_prefix = uuid.uuid4().hex
        self._own = f".{self.client_prefix}!"
        self.drops = Drops()
        self._mailboxes = Mailboxes()
        self._database: D | None = None
        self._opening = threading.Lock()
        self._closings = 0  # how often the layer was closed: an opening or a receive() that meets another number ends

    @classmethod
    def parse(cls, configuration: Mapping[str, Any]) -> config.Options:
        """Check CONFIG as this layer understands it; ConfigError names the option that is wrong."""
        return config.parse(configuration, **cls.defaults)

    @staticmethod
    @abc.abstractmethod
    def locate(options: config.Options) -> str:
        """The database file that a layer with these options uses, or ``:memory:``. Reads settings only."""

    def file(self) -> str:
        """The database file of this layer, or ``:memory:``. Reads settings only."""
        return self.locate(self.options)

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

    def _opened(self, closings: int) -> D:
        with self._opening:
            self._check_open(closings)
            if self._database is None:
                self._database = self._acquire()
            return self._database

    async def close(self) -> None:
        """Stop listening and close the database; a waiting receive() ends with LayerClosed.

        May be called more than once; the next use opens the database again.
        """
        self._closings += 1
        self._mailboxes.fail(LayerClosed(WAITING))
        self._watchers.stop()
        if self._database is not None or self._opening.locked():
            await asyncio.to_thread(self._closed)

    def _closed(self) -> None:
        with self._opening:
            database, self._database = self._database, None
        if database is not None:
            release(database, self)

    def _check_open(self, closings: int) -> None:
        if self._closings != closings:
            raise LayerClosed(WAITING)

    def _upkeep(self, database: Database) -> None:
        pause = min(max(self.expiry / 2, SWEEP[0]), SWEEP[1])
        database.keeper.look_after(self, pause, trim=self.options.auto_trim)

    def _busy(self, path: str) -> DatabaseBusy:
        return DatabaseBusy(
            f"The database {path} was locked by somebody else for {self._deadline:g} s; nothing was sent or changed."
        )

    # What the connection brings.

    @abc.abstractmethod
    async def _write(self, operation: Callable[..., None], *arguments: Any) -> tuple[list[Any], list[str]]:
        """Run a function of ``store`` that writes.

        Returns what ``_queues`` understands, one for each message that went in, and the channels that the statement
        considered, if it asked for their capacity.
        """

    @abc.abstractmethod
    def _announce(self, queues: Iterable[str]) -> None:
        """When a write into these queues is committed: wake who waits there, in this process and others."""

    @abc.abstractmethod
    def _queues(self, sent: list[Any]) -> list[str]:
        """The queues of messages that were just sent, as far as they are still there."""

    @abc.abstractmethod
    def _look(self, waiter: Waiter, attempt: int) -> Item | None:
        """Look for what a new waiter may have missed, without blocking.

        Returns a claimed message of a normal channel, to be handed over before anything is awaited. What is found for
        a process-specific queue, or later, is handed to its waiters, this one included. Where the database is locked,
        the waiter is woken later to look again; ``attempt`` is how often it has.
        """

    @abc.abstractmethod
    def _take(self, queue: str) -> Item | None:
        """Claim a message of a normal channel that is probably there, without blocking."""

    @abc.abstractmethod
    def look(self) -> None:
        """Look for what other processes have sent to anybody who waits here. Called by the watchers."""

    @abc.abstractmethod
    async def _is_live(self, item: Item) -> bool:
        """Whether a parked message has not expired."""

    def _forget(self, prefix: str) -> None:
        """Let all layers of this process throw away what is parked under this prefix."""
        if self._database is not None:
            self._database.forget(prefix)

    def _later(self, job: Callable[[Execute], Any]) -> None:
        """Run a job on a connection, away from the loop, when there is time."""
        if self._database is not None:
            self._database.keeper.ask(job)

    @abc.abstractmethod
    async def _aside(self, job: Callable[[Execute], Any]) -> Any:
        """Run a job that may take long on a connection, away from the loop, and wait for it."""

    # Channels.

    async def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        """Send a message to a channel. It has been committed when this returns.

        ``expiry``: seconds until the message is gone if nobody receives it; the layer's own when left out.
        Raises ChannelFull, InvalidMessage, TypeError for a bad name, DatabaseBusy.
        """
        self.require_valid_channel_name(channel)
        seconds = self.expiry if expiry is None else _seconds(expiry)
        payload = self._codec.encode(message, seconds)
        queue, local = self._split(channel)
        targets = None if local is None else msgspec.json.encode([local]).decode()
        try:
            await self._write(
                store.send, self.options.prefix, queue, targets, payload, self._room(channel), _milliseconds(seconds)
            )
        except ChannelFull:
            raise ChannelFull(channel) from None
        self._announce((queue,))

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message on a channel and take it. Cancelling loses nothing.

        Raises TypeError for a bad name, ForeignChannel for a process-specific channel of another process, LayerClosed.
        """
        self.require_valid_channel_name(channel)
        queue, local = self._split(channel)
        if local is not None and not queue.endswith(self._own):
            raise ForeignChannel(
                f"The channel {channel} belongs to another process or layer; "
                f"this one receives from the channels that its own new_channel() made."
            )
        closings = self._closings
        source = await self._ready()
        self._check_open(closings)
        self._watchers.listen(source)
        attempt = 0
        while True:
            self._check_open(closings)
            item = await self._next(channel, queue, attempt)
            message = None if item is None else self._open(channel, item)
            if message is not None:
                return message
            attempt += 1

    async def _next(self, channel: str, queue: str, attempt: int) -> Item | None:
        """One wait: a message, or None when it is time to look again."""
        if attempt and not queue.endswith("!"):  # there was a hint, which is mostly true
            taken = self._take(queue)
            if taken is not None:
                return taken
        mailboxes = self._mailboxes
        waiter = mailboxes.wait(channel, queue)  # register, then look
        try:
            found = None if waiter.item else self._look(waiter, attempt)
            if found is None:
                await waiter.future
            live = found is not None or not waiter.parked or waiter.item is None or await self._is_live(waiter.item)
        except BaseException:
            self._give_up(waiter)
            raise
        # From here to the caller, nothing is awaited.
        if found is not None:
            self._give_up(waiter)
            return found
        mailboxes.leave(waiter)
        if waiter.item is not None and not live:
            self._expired(channel, waiter.item)
            return None
        return waiter.item

    def _give_up(self, waiter: Waiter) -> None:
        """Take out a waiter that does not use what it was given: it goes to the next one, or back where it was."""
        if self._mailboxes.abandon(waiter) and self._has_others():
            self._later(partial(self._put_back, waiter.queue))

    def _has_others(self) -> bool:
        """Whether other processes can reach the database."""
        return self._database is not None and not self._database.in_memory

    def _put_back(self, queue: str, execute: Execute) -> None:
        """Let what is parked for a normal channel be its next messages again, for whichever process asks.

        Until then it stays parked: who receives here meanwhile must not be given a later message.
        """
        items = self._mailboxes.take(queue)
        if not items:
            return
        try:
            while items:
                store.put_back(execute, self.options.prefix, queue, *items[-1])  # each goes in front of the last
                items.pop()
        finally:
            for item in reversed(items):
                self._mailboxes.park(queue, item)
        if self._database is not None:
            self._database.announce(self.options.prefix, (queue,))  # to those who have looked meanwhile

    def _open(self, channel: str, item: Item) -> dict[str, Any] | None:
        try:
            return self._codec.decode(item.payload)
        except UndecodableMessage as error:
            self.drops.count(channel, Reason.UNDECODABLE, str(error))
            return None

    async def new_channel(self, prefix: str = "specific") -> str:
        """A new name for a channel that only this process can receive from."""
        channel = f"{prefix}{self._own}{secrets.token_urlsafe(LOCAL_BYTES)}"
        self.require_valid_channel_name(channel)
        return channel

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group for ``group_expiry`` seconds from now."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        queue, local = self._split(channel)
        ttl = _milliseconds(self.group_expiry)
        await self._write(store.group_add, self.options.prefix, group, queue, local or "", ttl)

    async def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens where there is none."""
        self.require_valid_group_name(group)
        self.require_valid_channel_name(channel)
        queue, local = self._split(channel)
        await self._write(store.group_discard, self.options.prefix, group, queue, local or "")

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to every channel in a group. Full channels are skipped, counted and warned about.

        Raises InvalidMessage, TypeError for a bad name, DatabaseBusy; never ChannelFull.
        """
        self.require_valid_group_name(group)
        payload = self._codec.encode(message, self.expiry)
        ttl = _milliseconds(self.expiry)
        ids, considered = await self._write(store.group_send, self.options.prefix, group, payload, id(self), ttl)
        queues = self._queues(ids) if ids else []
        if len(ids) < len(considered):
            self._count_skipped(considered, queues)
        if queues:
            self._announce(queues)

    def _count_skipped(self, considered: list[str], queues: list[str]) -> None:
        reached = set(queues)
        for channel in considered:
            if self._split(channel)[0] not in reached:
                self.drops.count(channel, Reason.FULL)

    # Extensions and upkeep.

    async def flush(self) -> None:
        """Remove all messages and groups of this layer's prefix; returns when they are gone."""
        await self._aside(lambda execute: store.flush(execute, self.options.prefix))
        self._forget(self.options.prefix)

    async def clean_expired(self) -> tuple[int, int]:
        """Remove what has expired, of every layer in the file: how many messages and memberships there were."""

        def job(execute: Execute) -> tuple[int, int]:
            removed = trim_all(execute)
            self.sweep(execute)
            return removed

        removed: tuple[int, int] = await self._aside(job)
        return removed

    # Within the process.

    def waits(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether anybody waits in this loop."""
        return self._mailboxes.has_waiters(loop)

    def waits_on_many(self) -> bool:
        """Whether so many queues are waited on that a look is better not taken in vain."""
        return self._mailboxes.queues() > store.FEW

    def hear(self, prefix: str, queue: str) -> bool:
        """Take note of a commit into this queue by this process; whether only this layer can receive it."""
        own = queue.endswith(self._own)
        if prefix == self.options.prefix:
            if own:
                self._collect(queue)
            else:
                self._hint(queue)
        return own

    def forget(self, prefix: str) -> None:
        """Throw away what is parked in this process, if the layer has this prefix."""
        if prefix == self.options.prefix:
            self._mailboxes.clear()

    def _hint(self, queue: str) -> None:
        """See to it that somebody who waits on a normal channel looks again."""
        self._mailboxes.wake(queue)

    @abc.abstractmethod
    def _collect(self, queue: str) -> None:
        """Claim what is in a process-specific queue of ours, if anybody waits there, and deliver it."""

    def _deliver(self, queue: str, row: Claimed) -> None:
        """Hand a claimed row to its channels. The next row is claimed only after this: the order is theirs too.

        Deviation from the specification: what is parked for a slow receiver does not count against the capacity that
        senders in other processes meet. What does not fit is dropped here, so that no receiver holds up its siblings.
        """
        try:
            targets = _parse_targets(row.targets or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.drops.count(queue, Reason.NO_TARGET, str(error))
            return
        item = Item(row.payload, row.expires_at)
        for local in targets:
            channel = queue + local
            limit = self.get_capacity(channel) if self.options.enforce_capacity else None
            if not self._mailboxes.put(channel, item, limit):
                self.drops.count(channel, Reason.SLOW)

    def _expired(self, channel: str, item: Item) -> None:
        """A message expired in the mailbox: its channel leaves its groups, as it would for one in the database."""
        self._later(lambda execute: self._evict(execute, channel, item))

    def _evict(self, execute: Execute, channel: str, item: Item) -> None:
        queue, local = self._split(channel)
        store.evict(execute, self.options.prefix, queue, local or "", item.expires_at)

    def sweep(self, execute: Execute) -> None:
        """Drop what has expired in the mailboxes. Called by the keeper, on its connection and thread."""
        while True:
            oldest = self._mailboxes.oldest()
            expired = store.expired(execute, {channel: item.expires_at for channel, item in oldest.items()})
            if not expired:
                return
            for channel in expired:
                if self._mailboxes.drop(channel, oldest[channel]):
                    self._evict(execute, channel, oldest[channel])

    def _split(self, channel: str) -> tuple[str, str | None]:
        """A channel's queue and local part; None for the local part of a normal channel."""
        name, mark, local = channel.partition("!")
        return (name + mark, local) if mark else (channel, None)

    def _room(self, channel: str) -> int | None:
        """How many live messages the channel's queue may hold; what is parked for the channel counts as held."""
        if not self.options.enforce_capacity:
            return None
        return max(0, int(self.get_capacity(channel)) - self._mailboxes.parked(channel))


def _seconds(expiry: Any) -> float:
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        raise InvalidMessage(f"expiry is a number of seconds, not {type(expiry).__name__}.")
    if not 0 < expiry <= 10**9:
        raise InvalidMessage(f"expiry is {expiry!r}; it is a number of seconds above 0, up to 1,000,000,000.")
    return expiry


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _after_fork() -> None:
    for layer in list(_layers):
        layer._watchers.abandon()
        layer._begin()


def _at_exit() -> None:
    """Give back the descriptors of watchers whose loops have ended, or never will."""
    for layer in list(_layers):
        layer._watchers.abandon()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
