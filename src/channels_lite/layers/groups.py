"""Groups: who is in them, and what is sent to them."""

import abc
import asyncio
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from channels.exceptions import ChannelFull

from channels_lite import clock, store
from channels_lite.database import Sent
from channels_lite.drops import Reason
from channels_lite.errors import DatabaseBusy, DatabaseFailed
from channels_lite.layers.handover import HandoverLayer
from channels_lite.layers.openable import D
from channels_lite.mailbox import Item, running_loop
from channels_lite.schema import Execute

T = TypeVar("T")
Writes = Generator[tuple[Any, ...], Sent, None]
"""Yields a function of ``store`` that writes with its arguments, and goes on with what came of it, or its error."""

QUEUES = 2 * store.FEW  # of a group that are looked at for whom a message can be handed over to
GROUPS = 1_000  # whose members a layer remembers
TURN = 1_000  # channels of a group that get a message before others have a turn in the loop: 4 ms; 100 cost 10 % more


class Members(NamedTuple):
    """The live members of a group whom a message may be handed over to."""

    ours: dict[str, list[str]]
    """In queues of ours: queue -> channels, in the order in which they joined.

    So 10 000 have a message a fifth sooner than in the order of the table, and 1 000 not. Tried without gain: the same
    str objects as those that the receivers wait with.
    """
    others: dict[str, tuple[str, bytes]]
    """In queues of other processes: queue -> its first channel, and all local parts as a JSON array."""
    has_rest: bool
    """Whether there may be members besides."""
    state: Hashable
    """What the database was like then; None: it cannot be told later whether it is like that still."""
    since: int
    """When that was: where the clock shows less than this, it was set back, and others may be live again."""
    until: int
    """When the first of these memberships expires."""

    def without(self, excluded: Collection[str]) -> "Members":
        """All of them but these."""
        ours = {queue: [name for name in channels if name not in excluded] for queue, channels in self.ours.items()}
        others = self.others.copy()
        for queue in {name[: name.find("!") + 1] for name in excluded}.intersection(others):
            left = [queue + local for local in store.parse_names(others.pop(queue)[1])]
            left = [name for name in left if name not in excluded]
            if left:
                others[queue] = left[0], _locals(queue, left)
        return self._replace(ours={queue: left for queue, left in ours.items() if left}, others=others)


class Owed(NamedTuple):
    """A group's message that some of its members do not have yet."""

    queue: str
    channels: Sequence[str]
    item: Item


NOBODY = Members({}, {}, has_rest=True, state=None, since=0, until=0)


class GroupsLayer(HandoverLayer[D]):
    """A layer with groups."""

    def _begin(self) -> None:
        super()._begin()
        self._queues_here: set[str] = set()  # the first FEW that new_channel() made channels of
        self._groups: dict[str, Members] = {}
        self._owed: deque[Owed] = deque()
        self._payer: asyncio.AbstractEventLoop | None = None  # the loop that is about to hand over what is owed

    def _begin_to_close(self) -> bool:
        self._pay()
        return super()._begin_to_close()

    @abc.abstractmethod
    async def _write(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        """Run a function of ``store`` that writes and, when it is committed, wake who waits, here and elsewhere."""

    @abc.abstractmethod
    def _write_here(self, operation: Callable[..., Sequence[str] | None], *arguments: Any) -> Sent:
        """As ``_write``, in a thread without a loop."""

    @abc.abstractmethod
    async def _read(self, operation: Callable[..., T], *arguments: Any) -> T:
        """Run a function of ``store`` that only reads; the caller's transaction sees what is in it."""

    @abc.abstractmethod
    def _read_here(self, operation: Callable[..., T], *arguments: Any) -> T:
        """As ``_read``, in a thread without a loop."""

    @abc.abstractmethod
    def _state(self) -> Hashable:
        """What is another value when anybody has changed the database since; None where that cannot be told."""

    # Who is in them.

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group for ``group_expiry`` seconds from now.

        Raises TypeError for a bad name, DatabaseBusy, DatabaseFailed.
        """
        await self._write(store.group_add, *self._membership(group, channel), clock.milliseconds(self.group_expiry))

    async def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens where there is none. Raises as ``group_add``."""
        await self._write(store.group_discard, *self._membership(group, channel))

    async def group_channels(self, group: str) -> list[str]:
        """The channels that are in a group now, in the order in which they joined it (their last ``group_add``).

        A channel whose process was killed stays until a message to it expires unread, or for ``group_expiry`` seconds.
        Raises as ``group_add``.
        """
        return await self._read(store.group_channels, self.options.prefix, self._group_name(group))

    async def group_count(self, group: str) -> int:
        """How many channels are in a group now. Raises as ``group_add``."""
        return await self._read(store.group_count, self.options.prefix, self._group_name(group))

    async def groups(self, channel: str) -> list[str]:
        """The groups that a channel is in now, in the order of their names. Raises as ``group_add``."""
        return await self._read(store.groups, self.options.prefix, *self._place(channel))

    def _membership(self, group: str, channel: str) -> tuple[str, str, str, str]:
        group = self._group_name(group)
        return self.options.prefix, group, *self._place(channel)

    def _place(self, channel: str) -> tuple[str, str]:
        """A channel's queue and local part, as a membership has them."""
        queue, local = self._split(self._channel_name(channel))
        return queue, local or ""

    # What is sent to them.

    async def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        """Send a message to every channel in a group. Full channels are skipped, counted and warned about.

        ``exclude``: channels that do not get it, such as the one that it comes from.
        Raises InvalidMessage, TypeError for a bad name, DatabaseBusy, DatabaseFailed; never ChannelFull.
        """
        if self._database is None:
            await self._ready()
        writes = self._group_sending(group, message, exclude)
        try:
            write = next(writes)
            while True:
                try:
                    sent = await self._write(*write)
                except Exception as error:
                    write = writes.throw(error)
                else:
                    write = writes.send(sent)
        except StopIteration:
            return

    def _group_sending(self, group: str, message: dict[str, Any], exclude: Iterable[str]) -> Writes:
        """Send a message to a group: what is not handed over is yielded, to be written. The database is open."""
        group, excluded = self._group_name(group), self._names(exclude)
        payload = self._codec.encode(message, self.expiry)
        ttl = clock.milliseconds(self.expiry)
        members = self._members(group)
        if excluded:
            members = members.without(excluded)
        here = [queue for queue in members.ours if self._is_empty(queue)]
        there = [queue for queue in members.others if self._direct(queue) is not None]
        if members.has_rest or len(here) < len(members.ours) or len(there) < len(members.others):
            rest = (self.options.prefix, group, payload, id(self), ttl, [*here, *there], excluded)
            self._count_skipped(*(yield store.group_send, *rest))
        now = clock.now()
        item = Item(payload, now + ttl, now)
        for queue in here:
            self._owe(queue, members.ours[queue], item)
        rows = [queue for queue in there if not self._send_direct(queue, members.others[queue][1], payload, ttl)]
        yield from self._sending_rows({queue: members.others[queue] for queue in rows}, payload, ttl)
        self._tally.sent += 1

    def _members(self, group: str) -> Members:
        """Those of now. They are remembered for as long as nothing changes: most groups are sent to again and again."""
        if not self._queues_here and self._outboxes is None:
            return NOBODY
        state = self._state()
        known = self._groups.get(group)
        if known is not None and known.state == state and known.since <= clock.now() < known.until:
            return known
        known = self._read_now(self._read_members, group, state) or NOBODY
        if known.state is not None:
            if len(self._groups) >= GROUPS:
                self._groups.clear()
            self._groups[group] = known
        return known

    def _read_members(self, execute: Execute, group: str, state: Hashable) -> Members:
        since = clock.now()
        queues = store.queues_of_group(execute, self.options.prefix, group, QUEUES)
        ours = self._queues_here.copy()
        others = [queue for queue in queues if queue not in ours and self._has_inbox(queue)]
        found, until = store.members(execute, self.options.prefix, group, [*ours, *others])
        has_rest = len(queues) == QUEUES or not ours.issuperset(set(queues).difference(others))
        packed = {queue: (found[queue][0], _locals(queue, found.pop(queue))) for queue in others if queue in found}
        return Members(found, packed, has_rest, state, since, until)

    def _sending_rows(self, others: dict[str, tuple[str, bytes]], payload: bytes, ttl: int) -> Writes:
        """Put a group's message into the queues of processes in whose inboxes there was no room for it."""
        failure: DatabaseBusy | DatabaseFailed | None = None
        for queue, (channel, targets) in others.items():
            shared = b"," in targets
            try:
                yield store.send, self.options.prefix, queue, targets.decode(), payload, id(self), channel, shared, ttl
            except ChannelFull:
                self.drops.count(channel, Reason.FULL)
            except (DatabaseBusy, DatabaseFailed) as error:  # for the sender to know, when the others have been tried
                failure = error
        if failure is not None:
            raise failure

    def _count_skipped(self, queues: Sequence[str], considered: list[str]) -> None:
        if len(queues) == len(considered):
            return
        reached = set(queues)
        for channel in considered:
            if self._split(channel)[0] not in reached:
                self.drops.count(channel, Reason.FULL)

    # In turns.

    def _is_first_in(self, queue: str, quiet: int) -> bool:
        """Whether nothing comes before a message that is handed over now; ``quiet``: as for ``_is_empty``.

        What other processes send from now on has no order with this message, which they cannot know of.
        """
        if self._owed:
            self._pay()
        return self._is_empty(queue, quiet)

    def _owe(self, queue: str, channels: Sequence[str], item: Item) -> None:
        """Hand a group's message over to these channels of a queue of ours: soon, if all who wait are in this loop.

        Whoever sends to a large group need not wait until all have it, and a loop is not held up for long. It is as if
        it had been handed over at once: whatever else is delivered, or changes the group, comes after it.
        """
        loop = running_loop()
        with self._delivering:
            if not self._mailboxes.all_wait_in(loop) or self._mailboxes.loop_waiting_on(queue) is None:
                self._pay()
                self._hand_over_to_group(Owed(queue, channels, item))
                return
            while sum(len(owed.channels) for owed in self._owed) > TURN:
                self._hand_over_to_group(self._owed.popleft())
            self._owed.append(Owed(queue, channels, item))
            self._call(loop)

    def _call(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let this loop, which runs, hand over what is owed."""
        if loop is not None and self._payer is not loop:
            self._payer = loop
            loop.call_soon(self._pay_some)

    def _pay_some(self) -> None:
        with self._delivering:
            self._payer = None
            if self._owed:
                queue, channels, item = self._owed.popleft()
                if len(channels) > TURN:
                    self._owed.appendleft(Owed(queue, channels[TURN:], item))
                self._hand_over_to_group(Owed(queue, channels[:TURN], item))
            if self._owed:
                self._call(running_loop())

    def _pay(self) -> None:
        """Hand over all that is owed, before anything else happens."""
        with self._delivering:
            self._payer = None
            while self._owed:
                self._hand_over_to_group(self._owed.popleft())

    def _hand_over_to_group(self, owed: Owed) -> None:
        full = self._hand_over_own(*owed)
        if full:  # or somebody was stopped while sending to one of them, and its room could not be taken back
            full = self._hand_over(owed.queue, full, owed.item, self._limit)
        for channel in full:
            self.drops.count(channel, Reason.FULL)


def _locals(queue: str, channels: list[str]) -> bytes:
    return msgspec.json.encode([channel[len(queue) :] for channel in channels])
