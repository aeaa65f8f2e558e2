"""Waiting receivers and parked messages, without a database."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import pytest

from channels_lite.mailbox import Item, Mailboxes, Waiter
from tests.patience import PATIENCE

NewLoop = Callable[[], asyncio.AbstractEventLoop]


A, B, C = (Item(payload, 0) for payload in (b"a", b"b", b"c"))


@pytest.fixture
def boxes() -> Mailboxes:
    """Empty mailboxes."""
    return Mailboxes()


def is_empty(boxes: Mailboxes) -> bool:
    """Whether nothing is kept of waiters and messages that are gone."""
    return not (boxes._parked or boxes._unasked or boxes._waiters or boxes._waiting or boxes._apart)


def deliver(boxes: Mailboxes, channels: str, item: Item, limit: int | None = None) -> list[str]:
    """Deliver to channels of one queue, separated by blanks: those that had no room."""
    names = channels.split()
    return list(boxes.deliver(queue_of(names[0]), names, item, lambda channel: limit))


def put(boxes: Mailboxes, channel: str, item: Item, limit: int | None) -> bool:
    """Deliver to one channel; whether it had room."""
    return not deliver(boxes, channel, item, limit)


def queue_of(channel: str) -> str:
    """The queue of a channel."""
    name, mark, _ = channel.partition("!")
    return name + mark


def wait(boxes: Mailboxes, channel: str, queue: str) -> Waiter:
    """A new waiter, for whom nothing is parked."""
    waiter = boxes.take_or_wait(channel, queue)
    assert isinstance(waiter, Waiter)
    return waiter


def pop(boxes: Mailboxes, channel: str) -> Item | None:
    """What is parked for a channel, without waiting."""
    found = boxes.take_or_wait(channel, queue_of(channel))
    if isinstance(found, Item):
        return found
    boxes.leave(found)
    return None


async def served(boxes: Mailboxes, waiter: Waiter) -> Item | None:
    """Wait as receive() does: what the waiter was handed, or None for a hint."""
    await asyncio.wait_for(waiter.future, PATIENCE)
    boxes.leave(waiter)
    return waiter.item


def run(loop: asyncio.AbstractEventLoop, step: Callable[..., Any], *arguments: Any) -> Any:
    """Let a loop run for as long as a step in it takes: the step's result."""

    async def in_loop() -> Any:
        result = step(*arguments)
        return await result if asyncio.iscoroutine(result) else result

    return loop.run_until_complete(in_loop())


@pytest.fixture
def new_loop() -> Iterator[NewLoop]:
    """Make event loops that run only when told to; all are closed in the end."""
    loops: list[asyncio.AbstractEventLoop] = []

    def make() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.new_event_loop())
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


class LoopThread:
    """A running event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a coroutine function or function that runs in the loop."""

        async def run() -> Any:
            result = step(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def close(self) -> None:
        """Stop and close the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


@pytest.fixture
def two_loops() -> Iterator[tuple[LoopThread, LoopThread]]:
    """Two running loops in two threads."""
    loops = LoopThread(), LoopThread()
    yield loops
    for loop in loops:
        loop.close()


async def test_longest_waiter_first(boxes: Mailboxes) -> None:
    """Messages go to the receivers of their channel in the order in which these began to wait."""
    other = wait(boxes, "other", "other")
    first, second = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    assert put(boxes, "x", A, 1)
    assert put(boxes, "x", B, 1)
    assert [await served(boxes, first), await served(boxes, second)] == [A, B]
    assert not other.future.done()
    boxes.leave(other)
    assert is_empty(boxes)


async def test_parked_in_order(boxes: Mailboxes) -> None:
    """What nobody waits for is parked and taken in the order it came, each by one receiver, without waiting."""
    for item in (A, B, C):
        assert put(boxes, "x", item, None)
    assert boxes.held("x", "x") == 3
    for item in (A, B, C):
        assert boxes.take_or_wait("x", "x") is item
    assert boxes.held("x", "x") == 0
    assert is_empty(boxes)


async def test_limit(boxes: Mailboxes) -> None:
    """A full mailbox refuses; a limit is a channel's own, and a receiver that waits is served whatever is parked."""
    reader = wait(boxes, "q!reader", "q!")
    assert [put(boxes, "q!x", item, 2) for item in (A, B, C)] == [True, True, False]
    assert put(boxes, "q!y", A, 1)
    assert boxes.take_or_wait("q!x", "q!") is A
    assert put(boxes, "q!x", C, 2)
    waiter = wait(boxes, "q!z", "q!")
    assert put(boxes, "q!z", A, 1)
    assert await served(boxes, waiter) is A
    assert boxes.held("q!x", "q!") == 2
    boxes.abandon(reader)


async def test_hand_over(boxes: Mailboxes) -> None:
    """What is handed over goes to a receiver that waits; where there is none, it is neither taken nor parked."""
    assert not boxes.hand_over("x", A)
    waiter = wait(boxes, "x", "x")
    assert boxes.hand_over("x", A)
    assert not boxes.hand_over("x", B)
    assert await served(boxes, waiter) is A
    assert is_empty(boxes)


async def test_one_limit_while_nobody_receives(boxes: Mailboxes) -> None:
    """Channels of a queue share its limit, in messages, until somebody receives from any of them."""
    assert [put(boxes, f"q!{name}", copy(A), 3) for name in "xyxz"] == [True, True, True, False]
    assert put(boxes, "r!x", A, 3)
    assert boxes.held("q!z", "q!") == 3
    assert pop(boxes, "q!nothing") is None
    assert boxes.held("q!x", "q!") == 2
    assert boxes.held("q!z", "q!") == 0
    assert [put(boxes, "q!z", item, 3) for item in (A, B, C)] == [True, True, True]
    assert not put(boxes, "q!y", B, 3)
    boxes.leave(wait(boxes, "q!nothing", "q!"))
    assert put(boxes, "q!y", B, 3)


async def test_no_shared_limit_while_somebody_waits(boxes: Mailboxes) -> None:
    """While a receiver waits on one channel of a queue, each of the others has a limit of its own."""
    waiter = wait(boxes, "q!reader", "q!")
    assert [put(boxes, f"q!{name}", A, 1) for name in "xyz"] == [True, True, True]
    assert not put(boxes, "q!x", B, 1)
    boxes.leave(waiter)
    assert put(boxes, "q!new", A, 1)
    assert not put(boxes, "q!newer", B, 1)


async def test_a_groups_message_counts_once(boxes: Mailboxes) -> None:
    """A message to many channels of a queue takes the room of one, and none that waiting receivers take all of."""
    assert deliver(boxes, "q!x q!y q!z", A, 2) == []
    assert boxes.held("q!x", "q!") == 1
    assert deliver(boxes, "q!x q!y", B, 2) == []
    assert deliver(boxes, "q!z q!new", C, 2) == ["q!z", "q!new"]
    assert [pop(boxes, f"q!{name}") for name in "xyzxyz"] == [A, A, A, B, B, None]
    assert is_empty(boxes)


async def test_delivery_to_some(boxes: Mailboxes) -> None:
    """A full channel keeps its siblings from nothing; those who wait are served and the others have it parked."""
    waiter = wait(boxes, "q!waits", "q!")
    assert put(boxes, "q!full", A, 1)
    assert deliver(boxes, "q!full q!waits q!idle", B, 1) == ["q!full"]
    assert await served(boxes, waiter) is B
    assert [pop(boxes, f"q!{name}") for name in ("full", "idle", "waits")] == [A, B, None]
    assert is_empty(boxes)


async def test_take(boxes: Mailboxes) -> None:
    """The oldest parked message of a channel is taken, and nobody else's."""
    deliver(boxes, "q!x q!y", A)
    put(boxes, "q!x", B, None)
    assert [pop(boxes, "q!x") for _ in range(3)] == [A, B, None]
    assert pop(boxes, "q!y") is A
    assert is_empty(boxes)


OLD, SAME, NEW = Item(b"old", 10), Item(b"same", 20), Item(b"new", 30)


async def test_expire(boxes: Mailboxes) -> None:
    """What has expired goes from all mailboxes, or from those that are named; what is live stays, in its order."""
    for channel, items in (("q!x", (NEW, OLD, SAME, NEW)), ("q!y", (OLD,)), ("r!x", (OLD, SAME))):
        for item in items:
            put(boxes, channel, item, None)
    assert boxes.expire(9) == []
    assert boxes.expire(20, ["q!x", "none"]) == [("q!x", OLD), ("q!x", SAME)]
    assert sorted(boxes.expire(19)) == [("q!y", OLD), ("r!x", OLD)]
    assert [pop(boxes, "q!x") for _ in range(3)] == [NEW, NEW, None]
    assert boxes.expire(20) == [("r!x", SAME)]
    assert is_empty(boxes)


async def test_expired_ones_make_room(boxes: Mailboxes) -> None:
    """What has expired counts neither against its channel's limit nor against that of the queue."""
    for channel, item in (("q!x", OLD), ("q!y", OLD), ("q!z", NEW)):
        assert put(boxes, channel, copy(item), 3)
    assert not put(boxes, "q!x", copy(NEW), 3)
    boxes.expire(10, ["q!x"])
    assert boxes.held("q!x", "q!") == 1
    assert [put(boxes, "q!x", copy(NEW), 3) for _ in range(3)] == [True, True, False]


async def test_refused_leaves_nothing(boxes: Mailboxes) -> None:
    """A message that a mailbox without room refuses leaves no trace of its channel."""
    assert not put(boxes, "x", A, 0)
    assert is_empty(boxes)
    reader = wait(boxes, "q!reader", "q!")
    put(boxes, "q!full", A, 1)
    boxes.leave(reader)
    assert not put(boxes, "q!full", B, 1)
    assert put(boxes, "q!idle", C, 1)


async def test_hint(boxes: Mailboxes) -> None:
    """A hint wakes as many receivers as it says, longest waiting first, and hands over nothing."""
    waiters = [wait(boxes, "x", "x") for _ in range(3)]
    boxes.wake("y")
    boxes.wake("x", 0)
    assert not any(waiter.woken for waiter in waiters)
    boxes.wake("x", 2)
    assert [waiter.woken for waiter in waiters] == [True, True, False]
    boxes.wake("x")
    assert [await served(boxes, waiter) for waiter in waiters] == [None, None, None]
    boxes.wake("x")
    assert is_empty(boxes)


async def test_woken_is_not_served_twice(boxes: Mailboxes) -> None:
    """A receiver that has a hint or a message is passed over, until it waits anew."""
    hinted, second = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    boxes.wake("x")
    put(boxes, "x", A, None)
    put(boxes, "x", B, None)
    assert [await served(boxes, hinted), await served(boxes, second)] == [None, A]
    assert boxes.take_or_wait("x", "x") is B
    assert is_empty(boxes)


async def test_abandoned_before_anything(boxes: Mailboxes) -> None:
    """A receiver cancelled while it waits leaves nothing, and the next message goes to the others."""
    gone, stays = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    boxes.abandon(gone)
    put(boxes, "x", A, None)
    assert await served(boxes, stays) is A
    assert is_empty(boxes)


async def test_abandoned_with_a_message(boxes: Mailboxes) -> None:
    """The message of a cancelled receiver goes to the one that waits next."""
    gone, stays = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    put(boxes, "x", A, None)
    gone.future.cancel()
    boxes.abandon(gone)
    assert await served(boxes, stays) is A
    assert is_empty(boxes)


async def test_abandoned_with_a_message_and_nobody_else(boxes: Mailboxes) -> None:
    """The message of a cancelled receiver is parked in front of those that came later."""
    gone = wait(boxes, "x!", "x!")
    put(boxes, "x!", A, None)
    put(boxes, "x!", B, None)
    boxes.abandon(gone)
    assert [boxes.take_or_wait("x!", "x!") for _ in range(2)] == [A, B]
    assert is_empty(boxes)


async def test_abandoned_on_a_normal_channel(boxes: Mailboxes) -> None:
    """A message of a normal channel that nobody here takes is said to be parked: another process may want it."""
    gone = wait(boxes, "x", "x")
    put(boxes, "x", A, None)
    assert boxes.abandon(gone)
    assert not boxes.abandon(wait(boxes, "y", "y"))
    assert boxes.take("x") == [A]
    assert boxes.take("x") == []
    gone, stays = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    put(boxes, "x", A, None)
    assert not boxes.abandon(gone)
    assert await served(boxes, stays) is A
    gone = wait(boxes, "x!a", "x!")
    put(boxes, "x!a", A, None)
    assert not boxes.abandon(gone)
    assert boxes.take("x!a") == [A]
    assert is_empty(boxes)


async def test_nothing_for_those_who_fail(boxes: Mailboxes) -> None:
    """Between the layer's closing and the end of a receiver, no message is handed to it."""
    waiter = wait(boxes, "x", "x")
    boxes.fail(RuntimeError("closed"))
    assert boxes.loop_waiting_on("x") is None
    assert not boxes.hand_over("x", A)
    with pytest.raises(RuntimeError, match="closed"):
        await waiter.future
    assert not boxes.abandon(waiter)
    assert is_empty(boxes)


async def test_nudge(boxes: Mailboxes) -> None:
    """A nudge lets those look who look for themselves, on this queue, and nobody else."""
    waiters = [wait(boxes, "x!a", "x!"), wait(boxes, "x!b", "x!"), wait(boxes, "x!c", "x!"), wait(boxes, "y", "y")]
    for waiter in (waiters[0], waiters[1], waiters[3]):
        boxes.set_apart(waiter)
    boxes.nudge("x!")
    boxes.nudge("nobody")
    assert [waiter.woken for waiter in waiters] == [True, True, False, False]
    for waiter in waiters:
        boxes.abandon(waiter)
    assert is_empty(boxes)


async def test_park(boxes: Mailboxes) -> None:
    """What is parked is the next to be received, before what was parked earlier."""
    boxes.park("x", B)
    boxes.park("x", A)
    assert [boxes.take_or_wait("x", "x") for _ in range(2)] == [A, B]
    assert is_empty(boxes)


async def test_abandoned_with_a_hint(boxes: Mailboxes) -> None:
    """The hint that woke a cancelled receiver wakes the next one; without one it is not needed."""
    gone, stays = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    boxes.wake("x")
    gone.future.cancel()
    boxes.abandon(gone)
    assert await served(boxes, stays) is None
    boxes.abandon(wait(boxes, "x", "x"))
    assert is_empty(boxes)


async def test_leave_twice(boxes: Mailboxes) -> None:
    """Leaving is harmless when it was done already."""
    waiter, served = wait(boxes, "x", "x"), wait(boxes, "y", "y")
    put(boxes, "y", A, None)
    for _ in range(2):
        boxes.leave(waiter)
        boxes.leave(served)
    assert is_empty(boxes)


async def test_waiting(boxes: Mailboxes) -> None:
    """Receivers are counted for each queue until they are woken; of a process-specific queue one stands for all."""
    for channel, queue in (("x", "x"), ("x", "x"), ("y", "y"), ("q!1", "q!"), ("q!2", "q!"), ("q!2", "q!")):
        wait(boxes, channel, queue)
    assert boxes.waiting() == {"x": 2, "y": 1, "q!": 1}
    for channel in ("x", "y", "q!1"):
        boxes.wake(channel)
    assert boxes.waiting() == {"x": 1, "q!": 1}
    boxes.wake("q!2", 2)
    assert boxes.waiting() == {"x": 1}
    assert boxes.has_waiters(asyncio.get_running_loop())


async def test_follows(boxes: Mailboxes) -> None:
    """A receiver follows another one of its queue in its loop, unless those before it have been woken."""
    one, two, elsewhere = wait(boxes, "q!1", "q!"), wait(boxes, "q!2", "q!"), wait(boxes, "r!1", "r!")
    assert (one.follows, two.follows, elsewhere.follows) == (False, True, False)
    boxes.wake("q!1")
    assert wait(boxes, "q!3", "q!").follows
    boxes.wake("q!2")
    boxes.wake("q!3")
    assert not wait(boxes, "q!4", "q!").follows


async def test_loop_waiting_on(boxes: Mailboxes) -> None:
    """The loop of somebody who waits on a queue and has not been woken, if there is one."""
    assert boxes.loop_waiting_on("q!") is None
    waiter = wait(boxes, "q!1", "q!")
    assert boxes.loop_waiting_on("q!") is asyncio.get_running_loop()
    assert boxes.loop_waiting_on("r!") is None
    boxes.wake("q!1")
    assert boxes.loop_waiting_on("q!") is None
    boxes.leave(waiter)


async def test_fail(boxes: Mailboxes) -> None:
    """fail() ends every receiver that waits with the error, but none that has been served."""
    waiting, has_one = wait(boxes, "x", "x"), wait(boxes, "y", "y")
    put(boxes, "y", A, None)
    boxes.fail(ValueError("closed"))
    with pytest.raises(ValueError, match="closed"):
        await asyncio.wait_for(waiting.future, PATIENCE)
    assert await served(boxes, has_one) is A
    boxes.abandon(waiting)
    assert is_empty(boxes)


async def test_second_try_of_a_delivery(boxes: Mailboxes) -> None:
    """A group's message that is delivered again, where there was no room at first, still counts once."""
    put(boxes, "q!full", OLD, 2)
    put(boxes, "q!full", OLD, 2)
    boxes.leave(wait(boxes, "q!reader", "q!"))
    put(boxes, "q!idle", SAME, 2)
    assert deliver(boxes, "q!idle q!full", NEW, 2) == ["q!full"]
    boxes.expire(10, ["q!full"])
    assert deliver(boxes, "q!full", NEW, 2) == []
    assert boxes.held("q!new", "q!") == 2


async def test_clear(boxes: Mailboxes) -> None:
    """Clearing throws parked messages away, and receivers go on waiting."""
    waiter = wait(boxes, "x", "x")
    put(boxes, "y", A, None)
    boxes.clear()
    assert boxes.held("y", "y") == 0
    assert pop(boxes, "y") is None
    put(boxes, "x", B, None)
    assert await served(boxes, waiter) is B
    assert is_empty(boxes)


def test_closed_loop_is_passed_over(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """A receiver whose loop was closed under it gets neither messages nor hints; the next one does."""
    closed, here = new_loop(), new_loop()
    run(closed, wait, boxes, "x", "x")
    waiters = [run(here, wait, boxes, "x", "x") for _ in range(2)]
    closed.close()
    put(boxes, "x", A, None)
    boxes.wake("x")
    assert [run(here, served, boxes, waiter) for waiter in waiters] == [A, None]
    assert boxes.loop_waiting_on("x") is None


def test_closed_loop_is_forgotten(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """The receivers of a closed loop are forgotten when another loop comes, and their messages parked in order."""
    closed, here = new_loop(), new_loop()
    for channel in ("x", "x", "y"):
        run(closed, wait, boxes, channel, channel)
    for item in (A, B, C):
        put(boxes, "x", item, None)
    closed.close()
    assert [run(here, boxes.take_or_wait, "x", "x") for _ in range(3)] == [A, B, C]
    assert not boxes.has_waiters(closed)
    assert boxes._loops == {here}
    assert is_empty(boxes)


def test_message_of_a_closed_loop_goes_to_a_waiter(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """Messages for a closed loop go on to a receiver that waits elsewhere, the oldest first."""
    closed, here = new_loop(), new_loop()
    for _ in range(2):
        run(closed, wait, boxes, "x", "x")
    waiter = run(here, wait, boxes, "x", "x")
    for item in (A, B):
        put(boxes, "x", item, None)
    closed.close()
    run(new_loop(), wait, boxes, "other", "other")  # a new loop: now closed ones are looked for
    assert run(here, served, boxes, waiter) is A
    assert run(here, boxes.take_or_wait, "x", "x") is B


def test_closed_loop_is_forgotten_and_its_task_thrown_away(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """What a closed loop's receiver had is given on once, though its task is thrown away only afterwards."""
    closed, here = new_loop(), new_loop()
    late = run(closed, wait, boxes, "x", "x")
    hinted = run(closed, wait, boxes, "y", "y")
    put(boxes, "x", A, None)
    boxes.wake("y")
    closed.close()
    assert run(here, boxes.take_or_wait, "x", "x") is A
    others = [run(here, wait, boxes, "y", "y") for _ in range(2)]
    for gone in (late, hinted):
        boxes.abandon(gone)
    assert not any(other.woken for other in others)
    assert boxes.held("x", "x") == 0


def test_a_receiver_that_the_garbage_collector_ends(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """The collector may throw away a closed loop's receiver while the same thread is inside the mailboxes."""
    closed = new_loop()

    async def receive() -> None:
        waiter = wait(boxes, "x!y", "x!")
        try:
            await waiter.future
        finally:
            boxes.abandon(waiter)

    def collect(channel: str) -> int:
        gc.collect()
        return 1

    begun = [closed.create_task(receive())]
    run(closed, asyncio.sleep, 0)
    closed.close()
    run(new_loop(), wait, boxes, "other", "other")  # a new loop: now closed ones are forgotten
    gone = weakref.ref(begun.pop())
    delivery = threading.Thread(target=boxes.deliver, args=("x!", ["x!y"], A, collect), daemon=True)
    delivery.start()
    delivery.join(PATIENCE)
    assert not delivery.is_alive()
    assert gone() is None
    assert run(new_loop(), pop, boxes, "x!y") is A


def test_hint_of_a_closed_loop_goes_to_a_waiter(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """A hint spent on a closed loop is given on as well: no other commit may ever bring a second one."""
    closed, here = new_loop(), new_loop()
    run(closed, wait, boxes, "x", "x")
    waiter = run(here, wait, boxes, "x", "x")
    boxes.wake("x")
    closed.close()
    run(new_loop(), wait, boxes, "other", "other")  # a new loop: now closed ones are looked for
    assert waiter.woken


def test_two_loops(boxes: Mailboxes, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """Receivers in two loops and threads are served from a third, each in its own loop, in the order they came."""
    one, two = two_loops
    waiters = [loop.run(wait, boxes, "x", "x") for loop in (one, two, one, two)]
    for item in (A, B, C):
        assert put(boxes, "x", item, None)
    boxes.wake("x")
    loops = (one, two, one, two)
    assert [loop.run(served, boxes, waiter) for loop, waiter in zip(loops, waiters, strict=True)] == [A, B, C, None]
    assert is_empty(boxes)


def test_nobody_follows_another_loops_receiver(boxes: Mailboxes, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """A receiver cannot rely on another loop's to look in time."""
    one, two = (loop.run(wait, boxes, "q!1", "q!") for loop in two_loops)
    assert not one.follows
    assert not two.follows
    assert boxes.has_waiters(two.loop)


def test_fail_reaches_all_loops(boxes: Mailboxes, new_loop: NewLoop, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """An error ends the receivers of every loop, and those of a closed one do not stand in the way."""
    closed = new_loop()
    run(closed, wait, boxes, "x", "x")
    closed.close()
    waiters = [loop.run(wait, boxes, "x", "x") for loop in two_loops]
    boxes.fail(ValueError("closed"))
    for loop, waiter in zip(two_loops, waiters, strict=True):
        with pytest.raises(ValueError, match="closed"):
            loop.run(served, boxes, waiter)


def test_many_from_many_threads(boxes: Mailboxes, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """With two senders and receivers in two loops at once, nothing is lost or doubled."""
    number = 2_000
    received: list[list[bytes]] = [[], []]

    async def receive(into: list[bytes]) -> None:
        while True:
            found = boxes.take_or_wait("x", "x")
            item = await served(boxes, found) if isinstance(found, Waiter) else found
            if item is None:
                continue
            if item.payload == b"end":
                return
            into.append(item.payload)

    def send(sender: int) -> None:
        for index in range(number):
            put(boxes, "x", Item(b"%d %d" % (sender, index), 0), None)

    receiving = [
        asyncio.run_coroutine_threadsafe(receive(into), loop.loop)
        for loop, into in zip(two_loops, received, strict=True)
    ]
    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(2)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for _ in receiving:
        put(boxes, "x", Item(b"end", 0), None)
    for future in receiving:
        future.result(PATIENCE)
    everything = [payload for payloads in received for payload in payloads]
    assert len(everything) == len(set(everything)) == 2 * number
    assert is_empty(boxes)


async def test_hint_for_one_who_found_a_message(boxes: Mailboxes) -> None:
    """A receiver that found a message by itself gives a hint on that came meanwhile: it is for another message."""
    finder, other = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    boxes.wake("x")
    assert finder.woken
    boxes.abandon(finder)
    assert await served(boxes, other) is None
    assert is_empty(boxes)


async def test_no_hint_for_one_who_found_a_message(boxes: Mailboxes) -> None:
    """A receiver that found a message by itself wakes nobody when no hint came."""
    finder, other = wait(boxes, "x", "x"), wait(boxes, "x", "x")
    boxes.abandon(finder)
    assert not other.woken
    boxes.leave(other)
    assert is_empty(boxes)


class Collected(asyncio.SelectorEventLoop):
    """A loop that is closed, and in which an error makes the garbage collector end a receiver."""

    abandon: Callable[[], Any]

    def call_soon_threadsafe(self, *arguments: Any, **options: Any) -> asyncio.Handle:
        """Fails, as of a closed loop."""
        self.abandon()
        return super().call_soon_threadsafe(*arguments, **options)


def test_a_receiver_that_the_collector_ends_while_it_is_woken(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """It is taken out afterwards, and what it was to be given goes to the next one, once."""
    closed = Collected()
    waiter = run(closed, wait, boxes, "x!y", "x!")
    closed.close()
    closed.abandon = lambda: boxes.abandon(waiter)
    assert put(boxes, "x!y", A, None)
    here = new_loop()
    assert [run(here, pop, boxes, "x!y") for _ in range(2)] == [A, None]
    assert is_empty(boxes)


def test_a_receiver_that_the_collector_ends_while_its_message_is_given_on(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """The message of a closed loop's receiver is given on once, though the receiver gives it back meanwhile."""
    closed, here = new_loop(), new_loop()
    waiter = run(closed, wait, boxes, "x", "x")
    put(boxes, "x", A, None)
    closed.close()
    original, ended = boxes._give_on, [waiter]

    def give_on(given: Waiter) -> None:
        while ended:
            boxes.abandon(ended.pop())
        original(given)

    boxes._give_on = give_on  # type: ignore[method-assign]
    assert [run(here, pop, boxes, "x") for _ in range(2)] == [A, None]
    assert is_empty(boxes)


def test_a_normal_channels_message_given_back_by_the_collector(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """Nobody can say yet whether it is parked: it may be, for another process; who takes what is parked finds it."""
    loop = new_loop()
    waiter = run(loop, wait, boxes, "x", "x")
    put(boxes, "x", A, None)
    with boxes._lock:
        assert boxes.abandon(waiter)
    assert boxes.take("x") == [A]
    assert is_empty(boxes)
