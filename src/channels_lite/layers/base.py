"""The Channels API over a store, mailboxes and watchers. No SQL and no threads: those come with the connection."""

import abc
import secrets
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from channels.exceptions import ChannelFull

from channels_lite import clock, store
from channels_lite.drops import Reason
from channels_lite.errors import ForeignChannel, InvalidMessage, Locked, UndecodableMessage
from channels_lite.keeper import trim_all
from channels_lite.layers.openable import D, OpenableLayer
from channels_lite.mailbox import Item, Waiter
from channels_lite.schema import Execute
from channels_lite.store import Claimed

T = TypeVar("T")

LOCAL_BYTES = 9  # random bytes in the local part of a channel name: 72 bits, 12 characters
ADDRESSES = 10_000  # names that a layer remembers


class Address(NamedTuple):
    """Where a channel's messages wait."""

    queue: str
    """The channel itself, or for a process-specific one its part up to and including the "!"."""
    local: str | None
    """What comes after the "!"; None for a normal channel."""
    own: bool
    """Whether it is a process-specific channel that this layer made, or could have made."""


class SQLiteLayer(OpenableLayer[D]):
    """What the layers share. A subclass brings the connection: how to write, to look, and to step aside."""

    def _begin(self) -> None:
        super()._begin()
        self._addresses: dict[str, Address] = {}
        self._told: set[str] = set()  # normal channels that this process sent to while nobody waited here
        self._queues_here: set[str] = set()  # the first FEW that new_channel() made channels of
        self._empty: dict[str, list[Hashable]] = {}  # queues with nothing in the database -> [its news then]

    def _opened(self, closings: int) -> D:
        self._empty.clear()  # nobody told this layer of commits while it was closed
        return super()._opened(closings)

    # What the connection brings.

    @abc.abstractmethod
    async def _write(
        self, operation: Callable[..., Sequence[str] | None], *arguments: Any
    ) -> tuple[Sequence[str], list[str]]:
        """Run a function of ``store`` that writes and, when it is committed, wake who waits, here and elsewhere.

        Returns the queues of the messages that went in, and the channels that the statement considered, if it asked
        for their capacity.
        """

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
    def _read_now(self, operation: Callable[..., T], *arguments: Any) -> T | None:
        """Run a function of ``store`` that only reads, without blocking; None where that is not possible.

        Nor is it where this call belongs to a transaction, with which all that it sends must stand or fall.
        """

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
        """Send a message to a channel. It has been committed when this returns, or is in a mailbox of this process.

        ``expiry``: seconds until the message is gone if nobody receives it; the layer's own when left out.
        Raises ChannelFull, InvalidMessage, TypeError for a bad name, DatabaseBusy.
        """
        queue, local, own = self._address(channel)
        seconds = self.expiry if expiry is None else _seconds(expiry)
        payload = self._codec.encode(message, seconds)
        if self._database is None:
            await self._ready()
        if own and self._is_first_in(queue):
            if self._hand_over(queue, (channel,), Item(payload, clock.now() + _milliseconds(seconds))):
                raise ChannelFull(channel)
            return
        targets = None if local is None else msgspec.json.encode([local]).decode()
        try:
            await self._write(
                store.send, self.options.prefix, queue, targets, payload, self._room(channel), _milliseconds(seconds)
            )
        except ChannelFull:
            raise ChannelFull(channel) from None

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message on a channel and take it. Cancelling loses nothing.

        Raises TypeError for a bad name, ForeignChannel for a process-specific channel of another process, LayerClosed.
        """
        queue, local, own = self._address(channel)
        if local is not None and not own:
            raise ForeignChannel(
                f"The channel {channel} belongs to another process or layer; "
                f"this one receives from the channels that its own new_channel() made."
            )
        while (parked := self._mailboxes.pop(channel, queue)) is not None:
            if parked.expires_at <= clock.now():
                self._expired(channel, parked)
            elif (message := self._open(channel, parked)) is not None:
                return message
        return await self._wait(channel, queue)

    async def _wait(self, channel: str, queue: str) -> dict[str, Any]:
        """As receive(), for a channel for which nothing is parked."""
        closings = self._closings
        source = self._database or await self._ready()
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
        if attempt or queue in self._told:  # there was a hint, which is mostly true
            taken = None if queue.endswith("!") else self._take(queue)
            if taken is not None:
                return taken
            self._told.discard(queue)
        mailboxes = self._mailboxes
        waiter = mailboxes.wait(channel, queue)  # register, then look
        try:
            found = None if waiter.item else self._look(waiter, attempt)
            if found is None:
                await waiter.future
        except BaseException:
            self._give_up(waiter)
            raise
        # From here to the caller, nothing is awaited.
        if found is not None:
            self._give_up(waiter)
            return found
        mailboxes.leave(waiter)
        if waiter.item is not None and waiter.parked and waiter.item.expires_at <= clock.now():
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
        if len(self._queues_here) < store.FEW:  # group_send looks at each; the others get its messages as a row
            self._queues_here.add(prefix + self._own)
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
        if self._database is None:
            await self._ready()
        here, elsewhere = self._members_here(group)
        if elsewhere:
            await self._group_send(group, payload, ttl, here)
        item = Item(payload, clock.now() + ttl)
        for queue, channels in here.items():
            for channel in self._hand_over(queue, channels, item):
                self.drops.count(channel, Reason.FULL)

    def _members_here(self, group: str) -> tuple[dict[str, list[str]], bool]:
        """Queues with channels to which the message is handed over, and whether there may be members besides."""
        queues = [queue for queue in list(self._queues_here) if self._is_first_in(queue)]
        if not queues:
            return {}, True
        return self._read_now(store.members, self.options.prefix, group, queues) or ({}, True)

    async def _group_send(self, group: str, payload: bytes, ttl: int, without: Collection[str]) -> None:
        queues, considered = await self._write(
            store.group_send, self.options.prefix, group, payload, id(self), ttl, without
        )
        if len(queues) < len(considered):
            self._count_skipped(considered, queues)

    def _count_skipped(self, considered: list[str], queues: Sequence[str]) -> None:
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

    def hear(self, prefix: str, queue: str) -> bool:
        """Take note of a commit into this queue by this process; whether only this layer can receive it."""
        own = queue.endswith(self._own)
        if prefix == self.options.prefix:
            if own:
                self._empty.pop(queue, None)
                self._collect(queue)
            else:
                self._hint(queue)
        return own

    def forget(self, prefix: str) -> None:
        """Throw away what is parked in this process, if the layer has this prefix."""
        if prefix == self.options.prefix:
            self._mailboxes.clear()

    def _hint(self, queue: str) -> None:
        """See to it that somebody who waits on a normal channel looks again, or the next one who comes."""
        if not self._mailboxes.wake(queue):
            if len(self._told) >= ADDRESSES:
                self._told.clear()
            self._told.add(queue)

    @abc.abstractmethod
    def _collect(self, queue: str) -> None:
        """Claim what is in a process-specific queue of ours, if anybody waits there, and deliver it."""

    def _deliver(self, queue: str, row: Claimed) -> None:
        """Hand a claimed row to its channels. The next row is claimed only after this: the order is theirs too.

        Deviation from the specification: what is parked for a slow receiver does not count against the capacity that
        senders in other processes meet. What does not fit is dropped here, so that no receiver holds up its siblings.
        """
        try:
            targets = store.parse_names(row.targets or b"")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.drops.count(queue, Reason.NO_TARGET, str(error))
            return
        channels = [queue + local for local in targets]
        if channels:
            for channel in self._hand_over(queue, channels, Item(row.payload, row.expires_at)):
                self.drops.count(channel, Reason.SLOW)

    def _hand_over(self, queue: str, channels: Sequence[str], item: Item) -> Sequence[str]:
        """Hand an item to these channels of one of our queues, or park it for them: those that had no room."""
        full = self._mailboxes.deliver(queue, channels, item, self._limit)
        if full:
            for channel, expired in self._mailboxes.expire(clock.now(), full):
                self._expired(channel, expired)
            full = self._mailboxes.deliver(queue, full, item, self._limit)
        return full

    def _is_first_in(self, queue: str) -> bool:
        """Whether nothing in the database comes before a message that is handed over to this queue of ours now.

        What other processes commit from now on has no order with this message, which they cannot know of.
        """
        database = self._database
        if database is None:
            return False
        news = database.news()
        if self._empty.get(queue) == [news]:
            return True
        return self._read_now(self._note_if_empty, queue, news) is True

    def _note_if_empty(self, execute: Execute, queue: str, news: Hashable) -> bool:
        if len(self._empty) >= ADDRESSES:
            self._empty.clear()
        # Put down before the look and filled in after it: who commits into the queue meanwhile takes this note away.
        note = self._empty[queue] = []
        if store.has_live(execute, self.options.prefix, queue):
            return False
        note.append(news)
        return True

    def _expired(self, channel: str, item: Item) -> None:
        """A message expired in the mailbox: its channel leaves its groups, as it would for one in the database."""
        self._later(lambda execute: self._evict(execute, channel, item))

    def _evict(self, execute: Execute, channel: str, item: Item) -> None:
        queue, local = self._split(channel)
        store.evict(execute, self.options.prefix, queue, local or "", item.expires_at)

    def sweep(self, execute: Execute) -> None:
        """Drop what has expired in the mailboxes. Called by the keeper, on its connection and thread."""
        for channel, item in self._mailboxes.expire(clock.now()):
            try:
                self._evict(execute, channel, item)
            except Locked:
                self._expired(channel, item)  # nobody else has the item any more

    def _address(self, channel: str) -> Address:
        """A channel's address; TypeError where the name is not valid."""
        try:
            return self._addresses[channel]
        except (KeyError, TypeError):
            self.require_valid_channel_name(channel)
        if len(self._addresses) >= ADDRESSES:
            self._addresses.clear()
        queue, local = self._split(channel)
        address = self._addresses[channel] = Address(queue, local, local is not None and queue.endswith(self._own))
        return address

    def _split(self, channel: str) -> tuple[str, str | None]:
        """A channel's queue and local part; None for the local part of a normal channel."""
        name, mark, local = channel.partition("!")
        return (name + mark, local) if mark else (channel, None)

    def _room(self, channel: str) -> int | None:
        """How many live messages the channel's queue may hold; what is parked for the channel counts as held."""
        limit = self._limit(channel)
        return None if limit is None else max(0, limit - self._mailboxes.held(channel, self._split(channel)[0]))

    def _limit(self, channel: str) -> int | None:
        """How many messages may be parked for a channel."""
        return int(self.get_capacity(channel)) if self.options.enforce_capacity else None


def _seconds(expiry: Any) -> float:
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        raise InvalidMessage(f"expiry is a number of seconds, not {type(expiry).__name__}.")
    if not 0 < expiry <= 10**9:
        raise InvalidMessage(f"expiry is {expiry!r}; it is a number of seconds above 0, up to 1,000,000,000.")
    return expiry


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
