"""Waiting receivers and the messages parked for them. Pure memory: no I/O, no SQL, no time.

Every event loop of the process has its own waiters; a message reaches one through ``call_soon_threadsafe``. All
methods may be called from any thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

import msgspec


class Item(msgspec.Struct, frozen=True, gc=False):  # made once for each message: a NamedTuple takes 0.1 us more
    """A message that was claimed or handed over: payload, expiry and age (milliseconds, as channels_lite_clock)."""

    payload: bytes
    expires_at: int
    sent_at: int = 0
    """0: nobody knows."""


class Waiter(msgspec.Struct, eq=False):
    """One ``receive()`` that waits on a channel. It is woken once, with an item or with a hint to look again."""

    channel: str
    queue: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    follows: bool
    """Another one waited on its queue in its loop when it began to."""
    item: Item | None = None
    woken: bool = False
    lent: bool = False
    """Its item was claimed in a transaction that may give it back: nobody else may have it."""

    def wake(self, here: asyncio.AbstractEventLoop | None) -> bool:
        """Let the waiter go on; False where its loop is closed and nobody will, or it has just been cancelled.

        ``here``: the loop that runs.
        """
        if self.future.done():
            return False
        try:
            if self.loop is here:
                self.future.set_result(None)
            else:
                self.loop.call_soon_threadsafe(self._release, None)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def fail(self, error: Exception) -> None:
        """End the waiter with an error, if its loop still runs."""
        try:
            self.loop.call_soon_threadsafe(self._release, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _release(self, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


running_loop = asyncio._get_running_loop  # None where no loop runs, unlike the one without the underscore; 0.1 us


class Mailboxes:
    """The waiters of one layer in this process, and the messages for channels that nobody waits on just then."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Waiters that the garbage collector abandons while its thread is in here: it may end a receive() of a closed
        # loop at any time. They are taken out before the next one comes in, so that nothing changes in between.
        self._abandoned: deque[Waiter] = deque()
        self._parked: dict[str, deque[Item]] = {}
        self._unasked: dict[str, deque[Item]] = {}  # queue -> messages parked since anybody last received from it
        self._waiters: dict[str, list[Waiter]] = {}  # channel -> waiters, oldest first
        self._waiting: dict[str, dict[asyncio.AbstractEventLoop, int]] = {}  # queue -> how many of them, in which loop
        self._apart: dict[Waiter, None] = {}  # those of them that look for themselves
        self._woken: dict[Waiter, None] = {}  # in no line any more, but not gone on yet; in the order of waking
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._top = ""  # the channel, or the queue, that has the most, as far as is known without looking at all
        self.most = 0
        """How much it has."""
        self.report: Callable[[str, int, int], None] | None = None
        """Is told of a channel or a queue how much it has, and ``most``, when that changes.

        When ``most`` is less than before, another one may have more: see ``rank``.
        """

    def take_or_wait(self, channel: str, queue: str) -> Item | Waiter:
        """Take the oldest item that is parked for the channel, or register a waiter of the running loop.

        Tried without gain: one look-up in each dict, instead of setdefault().
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._abandoned:
                self._take_out_abandoned()
            if loop not in self._loops:
                self._forget_closed_loops()
                self._loops.add(loop)
            self._ask(queue)
            parked = self._parked.get(channel)
            if parked:
                return self._unpark(channel, parked)
            waiter = Waiter(channel, queue, loop, loop.create_future(), loop in self._waiting.get(queue, ()))
            loops = self._waiting.setdefault(queue, {})
            loops[loop] = loops.get(loop, 0) + 1
            self._waiters.setdefault(channel, []).append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out that was given an item, or goes to look because of a hint."""
        if waiter.woken:
            self._woken.pop(waiter, None)  # without the lock: nobody else takes it out, and nothing depends on when
        else:
            with self._lock:
                self._remove(waiter)

    def abandon(self, waiter: Waiter) -> bool:
        """Take out a waiter that does not use what it was given: its item, or the hint, goes to the next one.

        It was cancelled, or has found a message by itself while the hint to another one came. Returns whether an item
        of a normal channel is parked because of that, which other processes may want.
        """
        self._abandoned.append(waiter)
        wanted = waiter.item is not None and not waiter.lent and not waiter.queue.endswith("!")
        if self._lock._is_owned():  # type: ignore[attr-defined] # as threading.Condition asks it
            return wanted  # it may be
        with self._lock:
            self._take_out_abandoned()
            return wanted and waiter.queue in self._parked

    def hand_over(self, channel: str, item: Item) -> bool:
        """Hand an item to the longest waiting receiver of the channel; False where nobody waits."""
        with self._lock:
            self._take_out_abandoned()
            return self._hand_over(channel, item, running_loop())

    def deliver(
        self, queue: str, channels: Sequence[str], item: Item, limit: Callable[[str], int | None]
    ) -> Sequence[str]:
        """Hand an item to the longest waiting receiver of each of these channels of a queue, or park it.

        ``limit`` says how many items may be parked for a channel, None: any number. While nobody receives from the
        queue at all, its channels have one limit together, in messages; what is delivered again, to those that had no
        room, counts once. Returns the channels that had no room.
        """
        with self._lock:
            if self._abandoned:
                self._take_out_abandoned()
            unasked, counted = self._unasked.get(queue), False
            if unasked is not None:
                counted = unasked[-1] is item  # it was delivered to others before
                if not counted and not _has_room(unasked, limit(channels[0])):
                    return channels
            full, parked, here = [], False, running_loop()
            for channel in channels:
                if not self._hand_over(channel, item, here):
                    if self._park(channel, item, limit(channel)):
                        parked = True
                    else:
                        full.append(channel)
            if parked and not counted and not self._is_received_from(queue):
                shared = self._unasked.setdefault(queue, deque())
                shared.append(item)
                self._tell(queue, len(shared))
        return full

    def give(self, waiter: Waiter, item: Item, *, lent: bool = False) -> bool:
        """Hand an item to this very waiter; False where it has been woken already, or has gone.

        ``lent``: the item goes to nobody else, whatever becomes of the waiter. Who cancels it gives the item back.
        """
        with self._lock:
            self._take_out_abandoned()
            if waiter not in self._waiters.get(waiter.channel, ()):
                return False
            waiter.lent = lent
            return self._rouse(waiter, running_loop(), item)

    def wake(self, channel: str, count: int = 1) -> bool:
        """Let up to ``count`` receivers of the channel look at the database again; False where there is none."""
        with self._lock:
            self._take_out_abandoned()
            return self._wake(channel, count)

    def set_apart(self, waiter: Waiter) -> None:
        """Let it be known that a waiter looks for itself, through a connection that may see what others do not."""
        with self._lock:
            if waiter in self._waiters.get(waiter.channel, ()):
                self._apart[waiter] = None

    def nudge(self, queue: str) -> None:
        """Let those who look for themselves look at this queue again."""
        with self._lock:
            self._take_out_abandoned()
            for waiter in [waiter for waiter in self._apart if waiter.queue == queue]:
                self._rouse(waiter, running_loop())

    def park(self, channel: str, item: Item) -> None:
        """Keep an item in front for the channel's next receiver in this process."""
        with self._lock:
            self._put_in_front(channel, item)

    def withdraw(self, queue: str, channel: str, item: Item) -> bool:
        """Take back an item that was handed to this channel; False where nobody is without it any more."""
        with self._lock:
            found = _without(self._parked, channel, item)
            if found:
                self._tell(channel, len(self._parked.get(channel, ())))
                if _without(self._unasked, queue, item):
                    self._tell(queue, len(self._unasked.get(queue, ())))
            return found

    def take(self, channel: str) -> list[Item]:
        """Take out all that is parked for a channel, oldest first."""
        with self._lock:
            self._take_out_abandoned()
            items = self._parked.pop(channel, ())
            self._tell(channel, 0)
            return list(items)

    def loop_waiting_on(self, queue: str) -> asyncio.AbstractEventLoop | None:
        """An open loop in which somebody waits on this queue."""
        with self._lock:
            for loop in self._waiting.get(queue, ()):
                if not loop.is_closed():
                    return loop
        return None

    def waiting(self) -> dict[str, int]:
        """How many receivers wait on each queue; of a process-specific one it says 1, however many they are."""
        with self._lock:
            return {q: 1 if q.endswith("!") else len(self._waiters[q]) for q in self._waiting}

    def queues(self) -> int:
        """How many queues are waited on."""
        return len(self._waiting)

    def has_waiters(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether anybody waits in this loop."""
        with self._lock:
            return any(loop in loops for loops in self._waiting.values())

    def held(self, channel: str, queue: str) -> int:
        """How much of the channel's capacity is taken by what is parked."""
        with self._lock:
            return max(len(self._parked.get(channel, ())), len(self._unasked.get(queue, ())))

    def parked(self) -> dict[str, list[Item]]:
        """What is parked for each channel, oldest first."""
        with self._lock:
            self._take_out_abandoned()
            return {channel: list(items) for channel, items in self._parked.items()}

    def count(self) -> int:
        """How many messages are parked."""
        with self._lock:
            return sum(map(len, self._parked.values()))

    def rank(self) -> int:
        """How much the one has that has the most, now that all are looked at."""
        with self._lock:
            counts = [(name, len(items)) for held in (self._unasked, self._parked) for name, items in held.items()]
            self._top, self.most = max(counts, key=itemgetter(1), default=("", 0))
            return self.most

    def all_wait_in(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Whether nobody waits in another loop than this one, as far as is known without looking at each."""
        return len(self._loops) == 1 and loop in self._loops

    def expire(self, now: int, channels: Iterable[str] | None = None) -> list[tuple[str, Item]]:
        """Throw away what has expired in the mailboxes of these channels, or in all; returns it, oldest first."""
        with self._lock:
            self._take_out_abandoned()
            for queue in list(self._unasked):
                if _split(self._unasked, queue, now):
                    self._tell(queue, len(self._unasked.get(queue, ())))
            names = list(self._parked) if channels is None else channels
            expired = [(channel, item) for channel in names for item in _split(self._parked, channel, now)]
            for channel, _ in expired:
                self._tell(channel, len(self._parked.get(channel, ())))
            return expired

    def expire_oldest(self, now: int) -> list[tuple[str, Item]]:
        """As ``expire``, for the mailboxes whose oldest message has expired."""
        with self._lock:
            return self.expire(now, [name for name, items in self._parked.items() if items[0].expires_at <= now])

    def clear(self) -> None:
        """Throw all parked items away; those who wait go on waiting."""
        with self._lock:
            self._take_out_abandoned()
            names = [*self._parked, *self._unasked]
            self._parked.clear()
            self._unasked.clear()
            for name in names:
                self._tell(name, 0)

    def fail(self, error: Exception, queue: str | None = None) -> None:
        """End every waiter on this queue, or on any, with an error."""
        with self._lock:
            self._take_out_abandoned()
            for waiter in self._all_on(queue):
                waiter.woken = True  # it must not be given anything any more
                self._remove(waiter)
                waiter.fail(error)

    def _all_on(self, queue: str | None = None) -> list[Waiter]:
        return [w for line in self._waiters.values() for w in line if queue is None or w.queue == queue]

    def _ask(self, queue: str) -> None:
        """Somebody receives from this queue."""
        if self._unasked and self._unasked.pop(queue, None) is not None:
            self._tell(queue, 0)

    def _tell(self, name: str, count: int) -> None:
        if count > self.most or name == self._top:
            self._top, self.most = name, count
        if self.report is not None:
            self.report(name, count, self.most)

    def _unpark(self, channel: str, parked: deque[Item]) -> Item:
        item = parked.popleft()
        self._tell(channel, len(parked))
        if not parked:
            del self._parked[channel]
        return item

    def _is_received_from(self, queue: str) -> bool:
        if queue in self._waiting:
            return True
        return bool(self._woken) and any(waiter.queue == queue for waiter in list(self._woken))

    def _park(self, channel: str, item: Item, limit: int | None) -> bool:
        parked = self._parked.get(channel)
        if not _has_room(parked, limit):
            return False
        if parked is None:
            parked = self._parked[channel] = deque()
        parked.append(item)
        self._tell(channel, len(parked))
        return True

    def _hand_over(self, channel: str, item: Item, here: asyncio.AbstractEventLoop | None) -> bool:
        line = self._waiters.get(channel)
        if line is None:
            return False
        # Who cannot be woken, and stays in line, is in a loop that was closed, or was cancelled and does not know yet.
        return self._rouse(line[0], here, item) or any(self._rouse(waiter, here, item) for waiter in line[1:])

    def _rouse(self, waiter: Waiter, here: asyncio.AbstractEventLoop | None, item: Item | None = None) -> bool:
        # All before the wake: the other loop may run at once.
        waiter.item, waiter.woken = item, True
        self._woken[waiter] = None
        if waiter.wake(here):
            self._remove(waiter)
            return True
        waiter.item, waiter.woken = None, False
        del self._woken[waiter]
        return False

    def _take_out_abandoned(self) -> None:
        while self._abandoned:
            waiter = self._abandoned.popleft()
            self._remove(waiter)
            self._woken.pop(waiter, None)
            self._give_on(waiter)

    def _give_on(self, waiter: Waiter) -> None:
        if waiter.item is None:
            if waiter.woken:
                self._wake(waiter.channel, 1)
        elif not waiter.lent and not self._hand_over(waiter.channel, waiter.item, running_loop()):
            self._put_in_front(waiter.channel, waiter.item)

    def _put_in_front(self, channel: str, item: Item) -> None:
        parked = self._parked.setdefault(channel, deque())
        parked.appendleft(item)
        self._tell(channel, len(parked))

    def _wake(self, channel: str, count: int) -> bool:
        left = count
        for waiter in list(self._waiters.get(channel, ())):
            if left <= 0:
                break
            if self._rouse(waiter, running_loop()):
                left -= 1
        return left < count

    def _remove(self, waiter: Waiter) -> None:
        line = self._waiters.get(waiter.channel)
        if line is None or waiter not in line:
            return
        line.remove(waiter)
        if not line:
            del self._waiters[waiter.channel]
        if self._apart:
            self._apart.pop(waiter, None)
        self._count_out(waiter)

    def _count_out(self, waiter: Waiter) -> None:
        loops = self._waiting[waiter.queue]
        if loops[waiter.loop] > 1:
            loops[waiter.loop] -= 1
        elif len(loops) > 1:
            del loops[waiter.loop]
        else:
            del self._waiting[waiter.queue]

    def _forget_closed_loops(self) -> None:
        """Take out the waiters whose loops were closed under them, and give on the items and hints they had."""
        self._loops = {loop for loop in self._loops if not loop.is_closed()}
        for waiter in [w for w in self._all_on() if w.loop.is_closed()]:
            self._remove(waiter)
        stale = [waiter for waiter in list(self._woken) if waiter.loop.is_closed()]
        for waiter in stale:
            self._woken.pop(waiter, None)
        # The oldest item goes to a waiter first; of those that are parked, it ends up in front.
        given = [w for w in stale if not w.lent]
        left = [w for w in given if w.item is None or not self._hand_over(w.channel, w.item, running_loop())]
        for waiter in reversed(left):
            self._give_on(waiter)
        for waiter in stale:  # it may be abandoned yet, when its task is thrown away: it has nothing to give on then
            waiter.item, waiter.woken = None, False


def _has_room(items: deque[Item] | None, limit: int | None) -> bool:
    return limit is None or (len(items) if items else 0) < limit


def _without(items: dict[str, deque[Item]], name: str, item: Item) -> bool:
    """Take this very item out of what is under its name; whether it was there."""
    kept = deque(other for other in items.get(name, ()) if other is not item)
    if len(kept) == len(items.get(name, ())):
        return False
    if kept:
        items[name] = kept
    else:
        del items[name]
    return True


def _split(items: dict[str, deque[Item]], name: str, now: int) -> list[Item]:
    """Leave what is live at this time under its name; returns the rest."""
    expired = [item for item in items.get(name, ()) if item.expires_at <= now]
    if expired:
        live = deque(item for item in items.pop(name) if item.expires_at > now)
        if live:
            items[name] = live
    return expired
