"""The Channels API over a store, mailboxes and watchers. No SQL and no threads: those come with the connection."""

import abc
import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from channels.exceptions import ChannelFull

from channels_lite import clock, store
from channels_lite.drops import Reason
from channels_lite.errors import LayerClosed, UndecodableMessage, foreign
from channels_lite.keeper import trim_all
from channels_lite.layers.groups import GroupsLayer
from channels_lite.layers.handover import ADDRESSES
from channels_lite.layers.layer import seconds_of
from channels_lite.layers.openable import WAITING, D
from channels_lite.layers.sync import Sync
from channels_lite.mailbox import Item, Waiter, running_loop
from channels_lite.schema import Execute
from channels_lite.stats import Stats

T = TypeVar("T")

LOCAL_BYTES = 9  # random bytes in the local part of a channel name: 72 bits, 12 characters


class Address(NamedTuple):
    """Where a channel's messages wait."""

    queue: str
    """The channel itself, or for a process-specific one its part up to and including the "!"."""
    local: str | None
    """What comes after the "!"; None for a normal channel."""
    own: bool
    """Whether it is a process-specific channel that this layer made, or could have made."""


class SQLiteLayer(GroupsLayer[D]):
    """What the layers share. A subclass brings the connection: how to write, to look, and to step aside.

    The first call opens the database, and so does the first one after ``close``: it also raises SchemaError and
    TwoLibraries, where it cannot be opened. All times are in seconds.
    """

    def _begin(self) -> None:
        super()._begin()
        self._addresses: dict[str, Address] = {}
        self._told: set[str] = set()  # normal channels that this process sent to while nobody waited here

    # What the connection brings.

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
    async def _aside(self, job: Callable[[Execute], Any]) -> Any:
        """Run a job that may take long on a connection, away from the loop, and wait for it."""

    @abc.abstractmethod
    def _aside_here(self, job: Callable[[Execute], T]) -> T:
        """As ``_aside``, in a thread without a loop."""

    # Channels.

    @property
    def sync(self) -> Sync:
        """The layer for synchronous code; its methods raise LoopRunning where an event loop runs in their thread."""
        return Sync(self)

    async def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        """Send a message to a channel. It has been committed when this returns, or is in a mailbox of this process.

        ``expiry``: seconds until the message is gone if nobody receives it; the layer's own when left out.
        Raises ChannelFull, InvalidMessage, TypeError for a bad name, DatabaseBusy, DatabaseFailed (DiskFull), and
        LayerClosed where the layer is closed meanwhile.
        """
        if self._database is None:
            await self._ready()
        row = self._hand_on(channel, message, expiry)
        if row is not None:
            try:
                await self._write(store.send, *row)
            except ChannelFull:
                raise ChannelFull(channel) from None
        self._tally.sent += 1

    def _hand_on(self, channel: str, message: dict[str, Any], expiry: float | None) -> tuple[Any, ...] | None:
        """Hand a message over to who receives from its channel, or return what ``store.send`` makes a row of it with.

        The database is open. Raises ChannelFull and what is wrong with the message.
        """
        if type(channel) is not str:
            channel = self._channel_name(channel)
        queue, local, own = self._address(channel)
        seconds = self.expiry if expiry is None else seconds_of(expiry)
        payload = self._codec.encode(message, seconds)
        ttl = clock.milliseconds(seconds)
        if own and (quiet := self._quiet()) is not None and self._is_first_in(queue, quiet):
            now = clock.now()
            item = Item(payload, now + ttl, now)
            if self._hand_over_own(queue, (channel,), item):
                if self._is_full(queue, channel):
                    raise ChannelFull(channel)
            elif self._is_still(quiet) or not self._mailboxes.withdraw(queue, channel, item):
                return None
        targets = None
        if local is not None:
            names = msgspec.json.encode([local])
            if not own and self._send_direct(queue, names, payload, ttl, channel):
                return None
            targets = names.decode()
        return self.options.prefix, queue, targets, payload, id(self), channel, False, ttl

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message on a channel and take it. Cancelling loses nothing.

        Raises TypeError for a bad name, ForeignChannel for a process-specific channel of another process, LayerClosed,
        DatabaseFailed.
        """
        if type(channel) is not str:
            channel = self._channel_name(channel)
        queue, _, own = self._receivable(channel)
        if self._owed and self._payer is not running_loop():
            self._pay()
        closings, attempt = self._closings, 0
        # All in this coroutine: each one more would take every waiting receiver 0.1 us and half a kilobyte.
        while True:
            if self._database is None:
                await self._ready()
            self._check_open(closings)
            item = None if own else self._at_once(queue, attempt)
            if item is None:
                waiter = self._mailboxes.take_or_wait(channel, queue)
                if isinstance(waiter, Item):
                    item = self._live(channel, waiter)
                else:
                    try:
                        item = self._missed(waiter, attempt)
                        if item is None:
                            await waiter.future
                    except BaseException as error:
                        self._give_up(waiter)
                        if waiter.lent and isinstance(error, asyncio.CancelledError):
                            await self._give_back(waiter)
                        raise
                    # From here to the caller, nothing is awaited.
                    item = self._leave(waiter, item)
            message = None if item is None else self._open(channel, item)
            if message is not None:
                self._tally.received += 1
                return message
            attempt += 1

    def _receivable(self, channel: str) -> Address:
        """The address of a channel that this process can receive from."""
        address = self._address(channel)
        if address.local is not None and not address.own:
            raise foreign(channel)
        return address

    def _at_once(self, queue: str, attempt: int) -> Item | None:
        """A message of a normal channel, if there was a hint, which is mostly true, and nothing parked comes first."""
        if (not attempt and queue not in self._told) or self._mailboxes.held(queue, queue):
            return None
        item = self._take(queue)
        if item is None:
            self._told.discard(queue)
        return item

    def _live(self, channel: str, parked: Item) -> Item | None:
        """What was taken out of a mailbox, unless it has expired there."""
        self._catch_up()  # there is room for one more
        if parked.expires_at > clock.now():
            return parked
        self._expired(channel, parked)
        return None

    def _missed(self, waiter: Waiter, attempt: int) -> Item | None:
        """Look for what a new waiter may have missed, as ``_look``, if there can be anything."""
        database = self._database
        if database is None:  # another thread has closed the layer just before the waiter was registered
            raise LayerClosed(WAITING)
        if not waiter.follows or not self._watchers.hears(waiter.loop):
            waiter.follows = False
            if self._watchers.listen(database):
                self._empty.clear()
        return None if self._spares_look(waiter) else self._look(waiter, attempt)

    def _leave(self, waiter: Waiter, found: Item | None) -> Item | None:
        """End a wait: what was found, or else what the waiter was given; None when it is time to look again."""
        if found is not None:
            self._give_up(waiter)
            return found
        self._mailboxes.leave(waiter)
        return waiter.item

    def _spares_look(self, waiter: Waiter) -> bool:
        """Whether a look can be spared: the waiter's queue is a process-specific one that is known to be empty."""
        return waiter.queue[-1] == "!" and self._is_empty(waiter.queue)

    def _give_up(self, waiter: Waiter) -> None:
        """Take out a waiter that does not use what it was given: it goes to the next one, or back where it was."""
        if self._mailboxes.abandon(waiter) and self._has_others():
            self._later(partial(self._put_back, waiter.queue))

    async def _give_back(self, waiter: Waiter) -> None:
        """Undo the claim of a message that was lent to a waiter. There are none where claims are not rolled back."""

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
                last = items[-1]  # each goes in front of the one before
                store.put_back(execute, self.options.prefix, queue, None, last.payload, last.expires_at, last.sent_at)
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
        """A new name for a channel that only this process can receive from; it begins with ``prefix``.

        Raises TypeError where that makes no valid name: names have fewer than 100 characters, as Channels wants it.
        """
        if not issubclass(type(prefix), str):
            raise TypeError(f"The prefix of a channel is a str, not {type(prefix).__name__}.")
        prefix = str.__str__(prefix)
        channel = prefix + self._own + secrets.token_urlsafe(LOCAL_BYTES)
        try:
            self.require_valid_channel_name(channel)
        except TypeError:
            longest = self.MAX_NAME_LENGTH - 1 - (len(channel) - len(prefix))
            raise TypeError(
                f"The prefix {prefix[:100]!r} makes no channel name: it has at most {longest} characters, which are "
                "ASCII letters, digits, hyphens, underscores and periods."
            ) from None
        if len(self._queues_here) < store.FEW:  # group_send looks at each; the others get its messages as a row
            self._queues_here.add(prefix + self._own)
        return channel

    # Extensions and upkeep.

    async def stats(self) -> Stats:
        """What waits, who is in which group, what was sent, received and dropped, and more: see ``stats.Stats``.

        It reads all that waits, and takes a few milliseconds and more, away from the loop.
        Raises DatabaseBusy, DatabaseFailed.
        """
        stats: Stats = await self._aside(self._look_inside)
        return stats

    async def flush(self) -> None:
        """Remove all messages and groups of this layer's prefix; returns when they are gone.

        Raises DatabaseBusy and DatabaseFailed, after which a part may be gone.
        """
        await self._aside(self._flush)

    def _flush(self, execute: Execute) -> None:
        store.flush(execute, self.options.prefix)
        if self._database is not None:
            self._database.flushed(self.options.prefix)

    async def clean_expired(self) -> tuple[int, int]:
        """Remove what has expired, of every layer in the file: how many messages and memberships there were.

        Raises DatabaseBusy and DatabaseFailed, after which a part may be gone.
        """

        def job(execute: Execute) -> tuple[int, int]:
            removed = trim_all(execute)
            self.sweep(execute)
            return removed

        removed: tuple[int, int] = await self._aside(job)
        return removed

    # Within the process.

    def hear(self, prefix: str, queue: str) -> bool:
        """Take note of a commit into this queue by this process; whether only this layer can receive it."""
        own = queue.endswith(self._own)
        if prefix == self.options.prefix:
            self._empty.pop(queue, None)
            if own:
                self._collect(queue)
            else:
                self._hint(queue)
        return own

    def _hint(self, queue: str) -> None:
        """See to it that somebody who waits on a normal channel looks again, or the next one who comes."""
        if not self._mailboxes.wake(queue):
            if len(self._told) >= ADDRESSES:
                self._told.clear()
            self._told.add(queue)

    @abc.abstractmethod
    def _collect(self, queue: str) -> None:
        """Claim what is in a process-specific queue of ours, if anybody waits there, and deliver it."""

    def _address(self, channel: str) -> Address:
        """A channel's address; TypeError where the name is not valid. It is a str, and of no subclass."""
        try:
            return self._addresses[channel]
        except KeyError:
            self.require_valid_channel_name(channel)
        if len(self._addresses) >= ADDRESSES:
            self._addresses.clear()
        queue, local = self._split(channel)
        address = self._addresses[channel] = Address(queue, local, local is not None and queue.endswith(self._own))
        return address
