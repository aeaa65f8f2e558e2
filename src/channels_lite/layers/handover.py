"""What reaches a layer's own channels: rows that it claims, and what is handed over to it without the database."""

import abc
import contextlib
import logging
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import msgspec

from channels_lite import clock, config, stats, store
from channels_lite.datagram import Handed, unpack
from channels_lite.drops import Reason
from channels_lite.errors import PASSING, Locked
from channels_lite.inbox import Inbox, is_possible
from channels_lite.layers.openable import D, OpenableLayer
from channels_lite.mailbox import Item
from channels_lite.outbox import Outbox, Outboxes
from channels_lite.page import ANY, CLAIMED, ROWS, Page, Rows, mark
from channels_lite.schema import Execute
from channels_lite.stats import Process, Stats

T = TypeVar("T")
Limit = Callable[[str], int | None]

logger = logging.getLogger("channels_lite.inbox")

ADDRESSES = 10_000  # names that a layer remembers
NO_PAGE = -1  # in the place of Page.quiet
NO_LIMIT = 1_000  # messages that may be under way to a layer whose channels have no capacity


class HandoverLayer(OpenableLayer[D]):
    """A layer with mailboxes, an inbox, and the ways into the inboxes of others."""

    known_to_sql = True
    """Whether the database may know of it, for publishing from SQL. To be set before it is used."""

    def _begin(self) -> None:
        super()._begin()
        self._empty: dict[str, list[Any]] = {}  # queues with nothing in the database -> [its news, Page.quiet] then
        self._tidied = 0  # the database's version at the last ``tidy``
        self._delivering = threading.RLock()  # held from a claim to the delivery; after the database's own lock
        self._inbox: Inbox | None = None
        self._outboxes: Outboxes | None = None

    def _connected(self, database: D) -> None:
        self._empty.clear()  # nobody told this layer of commits while it was closed
        self._register()
        if is_possible() and not database.in_memory:
            self._outboxes = Outboxes(database.path, self.options.prefix)
            self._make_inbox(database.path)

    def _register(self) -> None:
        """Let SQL know what it needs to publish as this layer sends, if it may."""
        if not self.known_to_sql:
            return
        options = self.options
        capacity = options.capacity if options.enforce_capacity else None
        rules = config.globs(options.channel_capacity) if options.enforce_capacity else []
        row = (options.prefix, clock.milliseconds(options.expiry), capacity, rules, self._codec.refuses_sql)

        def register(execute: Execute) -> None:
            store.register(execute, *row)

        if not self._run_now(register):
            self._later(register)

    def _disconnected(self) -> None:
        self._outboxes = None
        inbox = self._inbox
        if inbox is not None:
            inbox.shut()  # it may wait, and others go on meanwhile
            with self._delivering:
                self.take_in_all()
                self._inbox = self._mailboxes.report = None
            self._inbox_left.detach()
            inbox.discard()

    def reopened(self) -> None:
        super().reopened()
        self._empty.clear()
        self._register()

    def _abandon(self) -> None:
        super()._abandon()
        if self._inbox is not None:
            self._inbox_left.detach()
            self._inbox.abandon()

    # What the connection brings.

    @abc.abstractmethod
    def _read_now(self, operation: Callable[..., T], *arguments: Any) -> T | None:
        """Run a function of ``store`` that only reads, without blocking; None where that is not possible.

        Nor is it where this call belongs to a transaction, with which all that it sends must stand or fall.
        """

    @abc.abstractmethod
    def _run_now(self, job: Callable[[Execute], Any]) -> bool:
        """Run a short job that writes no messages, in this thread; False where it is to be tried again later."""

    def _later(self, job: Callable[[Execute], Any]) -> None:
        """Run a job on a connection, away from the loop, when there is time."""
        if self._database is not None:
            self._database.keeper.ask(job)

    # To channels of ours.

    def _is_empty(self, queue: str, quiet: int = NO_PAGE) -> bool:
        """Whether nothing for this queue is in the database; what is in our inbox is delivered before that is asked.

        What other processes send from now on has no order with a message that is handed over then, of which they cannot
        know. ``quiet``: of the page of its receiver; as long as that is the same, no layer has sent a row to it. A
        stranger may have, with whom there is no order either. To know that takes half a microsecond less.
        """
        database = self._database
        if database is None:
            return False
        self._catch_up()
        note = self._empty.get(queue)
        if note and note[1] == quiet != NO_PAGE:
            return True
        news = database.news()
        # A row is told by the page before its bell is rung: where there is a page, the bell does not count.
        if note and note[0] == news and quiet == NO_PAGE:
            return True
        return self._read_now(self._note_if_empty, queue, news, quiet) is True

    def _note_if_empty(self, execute: Execute, queue: str, news: Hashable, quiet: int) -> bool:
        if len(self._empty) >= ADDRESSES:
            self._empty.clear()
        # Put down before the look and filled in after it: who commits into the queue meanwhile takes this note away.
        note = self._empty[queue] = []
        if store.has_live(execute, self.options.prefix, queue):
            return False
        note += (news, quiet)
        return True

    def _claim_all(self, queue: str, execute: Execute, *, within: bool = False) -> int:
        """Claim what is in a process-specific queue, at most CLAIM_BATCH, and deliver it: how much it was.

        ``within``: a transaction has been begun already.

        Until all is delivered nobody else delivers anything: a later claim, or a later message in the inbox, must not
        overtake.
        """
        with self._delivering:
            try:
                rows = store.claim_queue(
                    execute, self.options.prefix, queue, self.take_in_all, self._claiming, within=within
                )
                for index, row in enumerate(rows, 1):
                    self._deliver(queue, row.targets or b"", Item(row.payload, row.expires_at, row.sent_at))
                    self._claimed(len(rows) - index)
            finally:
                self._end_claim()
        return len(rows)

    def _claiming(self, number: int) -> None:
        if self._inbox is not None:
            self._inbox.page.begin_claim(number)

    def _claimed(self, left: int) -> None:
        if self._inbox is not None:
            self._inbox.page.claimed(left)

    def _end_claim(self) -> None:
        """Rows have gone into mailboxes: let others hand over no more than there is still room for."""
        inbox = self._inbox
        if inbox is None or not inbox.page.is_claiming:
            return
        inbox.page.claimed(0)
        if inbox.left > self._room_beside(self._mailboxes.most):
            self._make_room(patient=True)
        else:
            inbox.page.end_claim()

    def _deliver(self, queue: str, targets: bytes, item: Item, now: int = 0) -> None:
        """Hand over to its channels what others have sent; ``now``: when it may have expired, the time.

        A row for several channels went in without regard to each of them: those that are full are skipped now.
        """
        try:
            names = store.parse_names(targets)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.drops.count(queue, Reason.NO_TARGET, str(error))
            return
        # Each once, whatever a stranger's row says: a message is never delivered twice.
        channels = [queue + local for local in (dict.fromkeys(names) if len(names) > 1 else names)]
        if item.expires_at <= now:
            for channel in channels:
                self._expired(channel, item)
        elif channels:
            alone = len(channels) == 1
            for channel in self._hand_over(queue, channels, item, self._most if alone else self._limit):
                self.drops.count(channel, Reason.SLOW if alone else Reason.FULL)

    def _hand_over(self, queue: str, channels: Sequence[str], item: Item, limit: Limit) -> Sequence[str]:
        """Hand an item to these channels of one of our queues, or park it for them: those that had no room."""
        full = self._mailboxes.deliver(queue, channels, item, limit)
        if full:
            for channel, expired in self._mailboxes.expire(clock.now(), full):
                self._expired(channel, expired)
            full = self._mailboxes.deliver(queue, full, item, limit)
        return full

    def _hand_over_own(self, queue: str, channels: Sequence[str], item: Item) -> Sequence[str]:
        """Hand what this process sends to these channels of one of our queues: those that had no room.

        What other processes have been allowed to send takes room, too. Where too little is left, they are allowed less;
        that may fail, see ``_is_full``.
        """
        full = self._mailboxes.deliver(queue, channels, item, self._limit_beside_others)
        if full:
            if self._inbox is not None and self._inbox.left:
                self._take_room_back(queue, full)
            full = self._hand_over(queue, full, item, self._limit_beside_others)
        return full

    def _is_full(self, queue: str, channel: str) -> bool:
        """Whether a channel of ours is full without what others have been allowed to send."""
        limit = self._limit(channel)
        return limit is not None and self._mailboxes.held(channel, queue) >= limit

    def _count(self) -> Process:
        """What this layer has counted in this process."""
        database = self._database
        return stats.count(
            sent=self._tally.sent,
            received=self._tally.received,
            parked=self._mailboxes.count(),
            drops=self.drops.by_reason,
            busy_retries=0 if database is None else database.busy_retries(),
            watcher=next((watcher.how for watcher in self._watchers if watcher.running), stats.STOPPED),
        )

    def _look_inside(self, execute: Execute) -> Stats:
        self.take_in_all()
        path = config.MEMORY if self._database is None else self._database.path
        inbox = "".join(self.inboxes())
        return stats.look(execute, path, self.options.prefix, self._count(), self._mailboxes.parked(), inbox)

    def _quiet(self) -> int | None:
        """As ``Page.quiet`` of our inbox; NO_PAGE where there is none, and others cannot know what is here."""
        inbox = self._inbox
        if inbox is None:
            return NO_PAGE
        rows = inbox.numbers[ROWS]
        if not rows & 1 and not inbox.numbers[CLAIMED]:
            return rows
        self._make_room()  # who has begun to send a row may have been killed
        return inbox.page.quiet

    def _is_still(self, quiet: int) -> bool:
        """Whether no rows have come or gone since."""
        return self._inbox is None or self._inbox.numbers[ROWS] == quiet

    def _limit_beside_others(self, channel: str) -> int | None:
        inbox = self._inbox
        if inbox is None or not self.options.enforce_capacity:
            return self._limit(channel)
        return int(self.get_capacity(channel)) - inbox.left

    def _take_room_back(self, queue: str, channels: Sequence[str]) -> None:
        """Let others hand over at most half of what fits beside one message more on each of these channels."""
        room = NO_LIMIT
        for channel in channels:
            limit = self._limit(channel)
            if limit is not None:
                room = min(room, (limit - self._mailboxes.held(channel, queue) - 1) // 2)
        self._make_room(at_most=max(0, room), patient=True)

    # From and to other processes, without the database.

    def _direct(self, queue: str) -> tuple[Outbox, int] | None:
        """The way to another process that receives from this queue, if no message in the database comes before.

        And ``Page.quiet`` from before that was known.
        """
        outbox = self._outbox(queue)
        quiet = None if outbox is None else outbox.page.quiet
        if outbox is None or quiet is None or not self._is_empty(queue, quiet):
            return None
        return outbox, quiet

    def _has_inbox(self, queue: str) -> bool:
        """Whether this is the queue of a process that messages can be handed over to."""
        return queue[-1] == "!" and self._outbox(queue) is not None

    def _outbox(self, queue: str) -> Outbox | None:
        """The way into the inbox of the process that receives from this process-specific queue, if there is one."""
        outboxes = self._outboxes
        return None if outboxes is None else outboxes.find(queue)

    def _send_direct(self, queue: str, targets: bytes, payload: bytes, ttl: int, channel: str | None = None) -> bool:
        """Hand a message over to the process that receives from this queue; False where it has to go another way.

        ``channel``: the only one that it is for.
        """
        direct, outboxes = self._direct(queue), self._outboxes
        if direct is None or outboxes is None:
            return False
        outbox, quiet = direct
        its_mark = ANY if channel is None else mark(channel)
        now = clock.now()
        return outboxes.send(outbox, Handed(queue, targets, payload, now + ttl, now), its_mark, quiet)

    def _make_inbox(self, path: str) -> None:
        try:
            inbox = Inbox(path, self.options.prefix, self.client_prefix)
        except OSError as error:
            logger.info("There is no inbox beside %s (%s): messages come through the database alone.", path, error)
            return
        self._inbox_left = weakref.finalize(self, inbox.discard)
        self._inbox = inbox
        self._mailboxes.report = inbox.hold
        self._make_room()
        inbox.clean()
        logger.debug("Other processes hand messages over through the inbox %s beside %s.", inbox.name, path)

    def listen_to_inbox(self) -> socket.socket | None:
        """A socket that becomes readable when other processes have handed something over."""
        with self._delivering:
            return None if self._inbox is None else self._inbox.listen()

    def _catch_up(self) -> None:
        """Deliver what has been handed over by now, and let others hand over more if there is little room left."""
        inbox = self._inbox
        if inbox is None:
            return
        if not inbox.is_at_rest:
            if inbox.is_behind:
                self.take_in()
            if inbox.is_low:
                self._make_room()

    def take_in(self, *, all_of_it: bool = False) -> None:
        """Deliver what other processes have handed over, and let them hand over more."""
        with self._delivering:
            self._pay()
            inbox = self._inbox
            if inbox is not None:
                self._deliver_all(inbox, inbox.collect(all_of_it=all_of_it))
                if inbox.is_low:
                    self._make_room()

    def tidy(self) -> None:
        """As ``take_in``; what a sender that was killed had counted, and what has expired, takes no room any more.

        And where the database has changed, no queue is known to be empty any more: strangers ring no bell.
        """
        database = self._database
        if database is not None:
            with contextlib.suppress(Locked):
                version = database.version()
                if version != self._tidied:
                    self._tidied = version
                    self._empty.clear()
        self._clear_up()

    def tidy_alone(self) -> None:
        """As ``tidy``, where no watcher does it, because nobody waits here, or it never polls. Who waits next looks."""
        if not any(watcher.polls for watcher in self._watchers):
            self._clear_up()

    def _clear_up(self) -> None:
        inbox = self._inbox
        if inbox is not None and inbox.is_behind:
            self.take_in()
        for channel, item in self._mailboxes.expire_oldest(clock.now()):
            self._expired(channel, item)
        self._catch_up()
        self._quiet()
        self.drops.report()
        if inbox is not None:
            inbox.page.tell(self._count().numbers(self.options.prefix))

    def take_in_all(self) -> None:
        """As ``take_in``, also where a stranger has put something between: it reads once more."""
        self.take_in(all_of_it=True)

    @abc.abstractmethod
    def _pay(self) -> None:
        """Hand over what is still owed to members of groups, which was sent before anything that is delivered now."""

    def _deliver_all(self, inbox: Inbox, datagrams: Sequence[bytes]) -> None:
        now = clock.now()
        for datagram in datagrams:
            try:
                handed = unpack(datagram)
            except (struct.error, UnicodeDecodeError) as error:
                self.drops.count(self._own, Reason.UNDECODABLE, str(error))
                continue
            if handed.queue.endswith(self._own):
                self._deliver(
                    handed.queue, handed.targets, Item(handed.payload, handed.expires_at, handed.sent_at), now
                )
                inbox.delivered()
            elif handed.queue:
                self.drops.count(handed.queue, Reason.NO_TARGET)
            elif handed.targets == self.options.prefix.encode():
                self._mailboxes.clear()
        inbox.all_delivered()

    def _make_room(self, at_most: int = NO_LIMIT, *, patient: bool = False) -> None:
        """Let others hand over as much as fits into the mailbox of any channel of ours, whichever it is for."""
        with self._delivering:
            inbox = self._inbox
            if inbox is None:
                return
            most = self._mailboxes.rank()
            datagrams = inbox.make_room(min(at_most, self._room_beside(most)), most, patient=patient)
            if datagrams:
                self._pay()
            self._deliver_all(inbox, datagrams)

    def _room_beside(self, held: int) -> int:
        """How many messages more fit into a mailbox that holds so many, whichever channel's it is."""
        if not self.options.enforce_capacity:
            return NO_LIMIT
        least: int = min([self.options.capacity, *self.options.channel_capacity.values()])
        return least - held

    def forget(self, prefix: str) -> None:
        """Throw away what is parked in this process, if the layer has this prefix."""
        if prefix == self.options.prefix:
            self.take_in_all()  # and what is owed is not any more
            self._mailboxes.clear()
            self._catch_up()

    def inboxes(self) -> list[str]:
        """The name of the layer's inbox, if it has one."""
        inbox = self._inbox
        return [] if inbox is None else [inbox.name]

    # What expires, and how much there is room for.

    def _expired(self, channel: str, item: Item) -> None:
        """A message expired in the mailbox: its channel leaves its groups, as it would for one in the database."""
        self._later(lambda execute: self._evict(execute, channel, item))

    def _evict(self, execute: Execute, channel: str, item: Item) -> None:
        queue, local = self._split(channel)
        store.evict(execute, self.options.prefix, queue, local or "", item.expires_at)

    def sweep(self, execute: Execute) -> None:
        """Drop what has expired in the mailboxes. Called by the keeper, on its connection and thread."""
        self.take_in_all()  # perhaps no loop listens any more
        inbox = self._inbox
        if inbox is not None:
            inbox.clean()
        if self._outboxes is not None:
            self._outboxes.prune()
        for channel, item in self._mailboxes.expire(clock.now()):
            try:
                self._evict(execute, channel, item)
            except PASSING:
                self._expired(channel, item)  # nobody else has the item any more
        self._catch_up()

    def _split(self, channel: str) -> tuple[str, str | None]:
        """A channel's queue and local part; None for the local part of a normal channel."""
        name, mark, local = channel.partition("!")
        return (name + mark, local) if mark else (channel, None)

    def _room(self, channel: str, shared: bool, rows: Rows) -> int | None:
        """How many live messages the channel's queue may hold in the database; what is elsewhere counts as held.

        ``shared``: for a message to several channels of the queue, of which one that is full is skipped when it is
        delivered. ``rows``: until they end, nothing is handed over past the row that this is asked for.
        """
        queue = self._split(channel)[0]
        page = self._page(queue)
        if page is None:
            held = self._mailboxes.held(queue if shared else channel, queue)
        else:
            held = rows.held(page, queue, None if shared else channel)
        limit = self._limit(channel)
        return None if limit is None else max(0, limit - held)

    def _page(self, queue: str) -> Page | None:
        """The page of whoever receives from this queue, if it is a process-specific one."""
        if queue[-1] != "!":
            return None
        if queue.endswith(self._own):
            return None if self._inbox is None else self._inbox.page
        outbox = None if self._outboxes is None else self._outboxes.find(queue, again=True)
        return None if outbox is None else outbox.page

    def _limit(self, channel: str) -> int | None:
        """How many messages a channel holds."""
        return int(self.get_capacity(channel)) if self.options.enforce_capacity else None

    def _most(self, channel: str) -> int | None:
        """How many messages that others have sent may be parked for a channel."""
        limit = self._limit(channel)
        return None if limit is None else 2 * limit
