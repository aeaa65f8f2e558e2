"""Waiting receivers and parked messages, without a database."""

import asyncio
import threading
from collections.abc import Callable, Iterator
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
    return not (boxes._parked or boxes._waiters or boxes._waiting)


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
    other = boxes.wait("other", "other")
    first, second = boxes.wait("x", "x"), boxes.wait("x", "x")
    assert boxes.put("x", A, 1)
    assert boxes.put("x", B, 1)
    assert [await served(boxes, first), await served(boxes, second)] == [A, B]
    assert not any((first.parked, second.parked, other.future.done()))
    boxes.leave(other)
    assert is_empty(boxes)


async def test_parked_in_order(boxes: Mailboxes) -> None:
    """What nobody waits for is parked and taken in the order it came, each by one receiver, without waiting."""
    for item in (A, B, C):
        assert boxes.put("x", item, None)
    assert boxes.parked("x") == 3
    for item in (A, B, C):
        waiter = boxes.wait("x", "x")
        assert waiter.item is item
        assert waiter.parked
        assert await served(boxes, waiter) is item
    assert boxes.parked("x") == 0
    assert is_empty(boxes)


async def test_limit(boxes: Mailboxes) -> None:
    """A full mailbox refuses; a limit is a channel's own, and a receiver that waits is served whatever it is."""
    assert [boxes.put("x", item, 2) for item in (A, B, C)] == [True, True, False]
    assert boxes.put("y", A, 1)
    waiter = boxes.wait("z", "z")
    assert boxes.put("z", A, 0)
    assert await served(boxes, waiter) is A
    assert boxes.parked("x") == 2


async def test_refused_leaves_nothing(boxes: Mailboxes) -> None:
    """A message that a mailbox without room refuses leaves no trace of its channel."""
    assert not boxes.put("x", A, 0)
    assert is_empty(boxes)


async def test_hint(boxes: Mailboxes) -> None:
    """A hint wakes as many receivers as it says, longest waiting first, and hands over nothing."""
    waiters = [boxes.wait("x", "x") for _ in range(3)]
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
    hinted, second = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.wake("x")
    boxes.put("x", A, None)
    boxes.put("x", B, None)
    assert [await served(boxes, hinted), await served(boxes, second)] == [None, A]
    assert await served(boxes, boxes.wait("x", "x")) is B
    assert is_empty(boxes)


async def test_abandoned_before_anything(boxes: Mailboxes) -> None:
    """A receiver cancelled while it waits leaves nothing, and the next message goes to the others."""
    gone, stays = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.abandon(gone)
    boxes.put("x", A, None)
    assert await served(boxes, stays) is A
    assert is_empty(boxes)


async def test_abandoned_with_a_message(boxes: Mailboxes) -> None:
    """The message of a cancelled receiver goes to the one that waits next."""
    gone, stays = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.put("x", A, None)
    gone.future.cancel()
    boxes.abandon(gone)
    assert await served(boxes, stays) is A
    assert is_empty(boxes)


async def test_abandoned_with_a_message_and_nobody_else(boxes: Mailboxes) -> None:
    """The message of a cancelled receiver is parked in front of those that came later."""
    gone = boxes.wait("x!", "x!")
    boxes.put("x!", A, None)
    boxes.put("x!", B, None)
    boxes.abandon(gone)
    assert [await served(boxes, boxes.wait("x!", "x!")) for _ in range(2)] == [A, B]
    unparked = boxes.wait("x!", "x!")
    boxes.leave(unparked)
    assert is_empty(boxes)


async def test_abandoned_with_a_parked_message(boxes: Mailboxes) -> None:
    """A receiver cancelled with a message out of the mailbox puts it back where it was."""
    boxes.put("x!", A, None)
    boxes.put("x!", B, None)
    boxes.abandon(boxes.wait("x!", "x!"))
    assert [await served(boxes, boxes.wait("x!", "x!")) for _ in range(2)] == [A, B]
    assert is_empty(boxes)


async def test_abandoned_on_a_normal_channel(boxes: Mailboxes) -> None:
    """A message of a normal channel that nobody here takes is said to be parked: another process may want it."""
    gone = boxes.wait("x", "x")
    boxes.put("x", A, None)
    assert boxes.abandon(gone)
    assert not boxes.abandon(boxes.wait("y", "y"))
    assert boxes.take("x") == [A]
    assert boxes.take("x") == []
    gone, stays = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.put("x", A, None)
    assert not boxes.abandon(gone)
    assert await served(boxes, stays) is A
    gone = boxes.wait("x!a", "x!")
    boxes.put("x!a", A, None)
    assert not boxes.abandon(gone)
    assert boxes.take("x!a") == [A]
    assert is_empty(boxes)


async def test_nothing_for_those_who_fail(boxes: Mailboxes) -> None:
    """Between the layer's closing and the end of a receiver, no message is handed to it."""
    waiter = boxes.wait("x", "x")
    boxes.fail(RuntimeError("closed"))
    assert boxes.loop_waiting_on("x") is None
    assert not boxes.put("x", A, 0)
    with pytest.raises(RuntimeError, match="closed"):
        await waiter.future
    assert not boxes.abandon(waiter)
    assert is_empty(boxes)


async def test_nudge(boxes: Mailboxes) -> None:
    """A nudge lets those look who look for themselves, on this queue, and nobody else."""
    waiters = [boxes.wait("x!a", "x!"), boxes.wait("x!b", "x!"), boxes.wait("x!c", "x!"), boxes.wait("y", "y")]
    for waiter in (waiters[0], waiters[1], waiters[3]):
        waiter.apart = True
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
    assert [await served(boxes, boxes.wait("x", "x")) for _ in range(2)] == [A, B]
    assert is_empty(boxes)


async def test_abandoned_with_a_hint(boxes: Mailboxes) -> None:
    """The hint that woke a cancelled receiver wakes the next one; without one it is not needed."""
    gone, stays = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.wake("x")
    gone.future.cancel()
    boxes.abandon(gone)
    assert await served(boxes, stays) is None
    boxes.abandon(boxes.wait("x", "x"))
    assert is_empty(boxes)


async def test_leave_twice(boxes: Mailboxes) -> None:
    """Leaving is harmless when it was done already, or was never needed."""
    waiter = boxes.wait("x", "x")
    boxes.put("y", A, None)
    unparked = boxes.wait("y", "y")
    for _ in range(2):
        boxes.leave(waiter)
        boxes.leave(unparked)
    assert is_empty(boxes)


async def test_waiting(boxes: Mailboxes) -> None:
    """Receivers are counted for each queue until they are woken; of a process-specific queue one stands for all."""
    for channel, queue in (("x", "x"), ("x", "x"), ("y", "y"), ("q!1", "q!"), ("q!2", "q!"), ("q!2", "q!")):
        boxes.wait(channel, queue)
    assert boxes.waiting() == {"x": 2, "y": 1, "q!": 1}
    for channel in ("x", "y", "q!1"):
        boxes.wake(channel)
    assert boxes.waiting() == {"x": 1, "q!": 1}
    boxes.wake("q!2", 2)
    assert boxes.waiting() == {"x": 1}
    assert boxes.has_waiters(asyncio.get_running_loop())


async def test_is_first(boxes: Mailboxes) -> None:
    """A receiver is the first of its queue in its loop while those before it have been woken."""
    one = boxes.wait("q!1", "q!")
    assert boxes.is_first(one)
    two = boxes.wait("q!2", "q!")
    elsewhere = boxes.wait("r!1", "r!")
    assert not boxes.is_first(two)
    assert boxes.is_first(elsewhere)
    boxes.wake("q!1")
    assert boxes.is_first(two)
    boxes.leave(one)
    assert boxes.is_first(two)


async def test_loop_waiting_on(boxes: Mailboxes) -> None:
    """The loop of somebody who waits on a queue and has not been woken, if there is one."""
    assert boxes.loop_waiting_on("q!") is None
    waiter = boxes.wait("q!1", "q!")
    assert boxes.loop_waiting_on("q!") is asyncio.get_running_loop()
    assert boxes.loop_waiting_on("r!") is None
    boxes.wake("q!1")
    assert boxes.loop_waiting_on("q!") is None
    boxes.leave(waiter)


async def test_fail(boxes: Mailboxes) -> None:
    """fail() ends every receiver that waits with the error, but none that has been served."""
    waiting, has_one = boxes.wait("x", "x"), boxes.wait("y", "y")
    boxes.put("y", A, None)
    boxes.fail(ValueError("closed"))
    with pytest.raises(ValueError, match="closed"):
        await asyncio.wait_for(waiting.future, PATIENCE)
    assert await served(boxes, has_one) is A
    boxes.abandon(waiting)
    assert is_empty(boxes)


async def test_oldest_and_drop(boxes: Mailboxes) -> None:
    """The oldest parked message of each channel can be thrown away, if it is still the one that was meant."""
    twin = Item(*A)
    for channel, item in (("x", A), ("x", B), ("y", C)):
        boxes.put(channel, item, None)
    assert boxes.oldest() == {"x": A, "y": C}
    assert not boxes.drop("x", B)
    assert not boxes.drop("x", twin)
    assert not boxes.drop("z", A)
    assert boxes.drop("x", A)
    assert not boxes.drop("x", A)
    assert boxes.oldest() == {"x": B, "y": C}
    assert boxes.drop("x", B)
    assert boxes.drop("y", C)
    assert is_empty(boxes)


async def test_clear(boxes: Mailboxes) -> None:
    """Clearing throws parked messages away, and receivers go on waiting."""
    waiter = boxes.wait("x", "x")
    boxes.put("y", A, None)
    boxes.clear()
    assert boxes.parked("y") == 0
    boxes.put("x", B, None)
    assert await served(boxes, waiter) is B
    assert is_empty(boxes)


def test_closed_loop_is_passed_over(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """A receiver whose loop was closed under it gets neither messages nor hints; the next one does."""
    closed, here = new_loop(), new_loop()
    run(closed, boxes.wait, "x", "x")
    waiters = [run(here, boxes.wait, "x", "x") for _ in range(2)]
    closed.close()
    boxes.put("x", A, None)
    boxes.wake("x")
    assert [run(here, served, boxes, waiter) for waiter in waiters] == [A, None]
    assert boxes.loop_waiting_on("x") is None


def test_closed_loop_is_forgotten(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """The receivers of a closed loop are forgotten when another loop comes, and their messages parked in order."""
    closed, here = new_loop(), new_loop()
    for channel in ("x", "x", "y"):
        run(closed, boxes.wait, channel, channel)
    for item in (A, B, C):
        boxes.put("x", item, None)
    closed.close()
    waiters = [run(here, boxes.wait, "x", "x") for _ in range(3)]
    assert [run(here, served, boxes, waiter) for waiter in waiters] == [A, B, C]
    assert not boxes.has_waiters(closed)
    assert boxes._loops == {here}
    assert is_empty(boxes)


def test_message_of_a_closed_loop_goes_to_a_waiter(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """Messages for a closed loop go on to a receiver that waits elsewhere, the oldest first."""
    closed, here = new_loop(), new_loop()
    for _ in range(2):
        run(closed, boxes.wait, "x", "x")
    waiter = run(here, boxes.wait, "x", "x")
    for item in (A, B):
        boxes.put("x", item, None)
    closed.close()
    run(new_loop(), boxes.wait, "other", "other")  # a new loop: now closed ones are looked for
    assert run(here, served, boxes, waiter) is A
    assert run(here, served, boxes, run(here, boxes.wait, "x", "x")) is B


def test_hint_of_a_closed_loop_goes_to_a_waiter(boxes: Mailboxes, new_loop: NewLoop) -> None:
    """A hint spent on a closed loop is given on as well: no other commit may ever bring a second one."""
    closed, here = new_loop(), new_loop()
    run(closed, boxes.wait, "x", "x")
    waiter = run(here, boxes.wait, "x", "x")
    boxes.wake("x")
    closed.close()
    run(new_loop(), boxes.wait, "other", "other")  # a new loop: now closed ones are looked for
    assert waiter.woken


def test_two_loops(boxes: Mailboxes, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """Receivers in two loops and threads are served from a third, each in its own loop, in the order they came."""
    one, two = two_loops
    waiters = [loop.run(boxes.wait, "x", "x") for loop in (one, two, one, two)]
    for item in (A, B, C):
        assert boxes.put("x", item, None)
    boxes.wake("x")
    loops = (one, two, one, two)
    assert [loop.run(served, boxes, waiter) for loop, waiter in zip(loops, waiters, strict=True)] == [A, B, C, None]
    assert is_empty(boxes)


def test_is_first_counts_its_own_loop(boxes: Mailboxes, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """Each loop has a first receiver of a queue; it cannot rely on the other loop's to look in time."""
    one, two = (loop.run(boxes.wait, "q!1", "q!") for loop in two_loops)
    assert boxes.is_first(one)
    assert boxes.is_first(two)
    assert boxes.has_waiters(two.loop)


def test_fail_reaches_all_loops(boxes: Mailboxes, new_loop: NewLoop, two_loops: tuple[LoopThread, LoopThread]) -> None:
    """An error ends the receivers of every loop, and those of a closed one do not stand in the way."""
    closed = new_loop()
    run(closed, boxes.wait, "x", "x")
    closed.close()
    waiters = [loop.run(boxes.wait, "x", "x") for loop in two_loops]
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
            waiter = boxes.wait("x", "x")
            item = await served(boxes, waiter)
            if item is None:
                continue
            if item.payload == b"end":
                return
            into.append(item.payload)

    def send(sender: int) -> None:
        for index in range(number):
            boxes.put("x", Item(b"%d %d" % (sender, index), 0), None)

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
        boxes.put("x", Item(b"end", 0), None)
    for future in receiving:
        future.result(PATIENCE)
    everything = [payload for payloads in received for payload in payloads]
    assert len(everything) == len(set(everything)) == 2 * number
    assert is_empty(boxes)


async def test_hint_for_one_who_found_a_message(boxes: Mailboxes) -> None:
    """A receiver that found a message by itself gives a hint on that came meanwhile: it is for another message."""
    finder, other = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.wake("x")
    assert finder.woken
    boxes.abandon(finder)
    assert await served(boxes, other) is None
    assert is_empty(boxes)


async def test_no_hint_for_one_who_found_a_message(boxes: Mailboxes) -> None:
    """A receiver that found a message by itself wakes nobody when no hint came."""
    finder, other = boxes.wait("x", "x"), boxes.wait("x", "x")
    boxes.abandon(finder)
    assert not other.woken
    boxes.leave(other)
    assert is_empty(boxes)
