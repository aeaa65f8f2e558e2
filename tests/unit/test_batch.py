"""What several tasks of one loop write at the same time: one transaction, in order, and each answers for itself."""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import apsw
import pytest
from channels.exceptions import ChannelFull, MessageTooLarge
from django.db import connections

from channels_lite import apsw_database, store
from channels_lite.apsw_database import ApswDatabase, Sent, Write
from channels_lite.batch import Batch
from channels_lite.drops import Reason
from channels_lite.errors import DatabaseBusy, DiskFull, LayerClosed
from channels_lite.guard import Connection
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.patience import PATIENCE, until

MakeLayer = Callable[..., AIOSQLiteChannelLayer]
Layer = AIOSQLiteChannelLayer


class Commits:
    """Counts the transactions that a layer commits."""

    def __init__(self, database: ApswDatabase) -> None:
        self._count = 0
        database._connection.set_commit_hook(self._committed)

    def _committed(self) -> bool:
        self._count += 1
        return False

    def since_the_last_call(self) -> int:
        count, self._count = self._count, 0
        return count


@pytest.fixture
async def opened(layer: Layer) -> AsyncIterator[Layer]:
    """A layer that is open, and a task that wrote to it last and is kept, so that no new task is taken for it."""
    writer = asyncio.ensure_future(layer.send("warm-up", {"type": "x"}))
    await writer
    yield layer
    del writer


@pytest.fixture
def commits(opened: Layer) -> Commits:
    """The commits of the opened layer from now on."""
    return Commits(database_of(opened))


def database_of(layer: Layer) -> ApswDatabase:
    assert layer._database is not None
    return layer._database


@pytest.fixture
def stranger(opened: Layer, path: str) -> Iterator[apsw.Connection]:
    """A connection of somebody else's to the same file, as another process has one."""
    connection = Connection(path)  # one that lets the layer open the file again
    yield connection
    connection.close()


@contextlib.contextmanager
def locked(stranger: apsw.Connection) -> Iterator[None]:
    """Somebody else writes, and nobody else can."""
    stranger.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        stranger.execute("ROLLBACK")


def number(value: int) -> dict[str, Any]:
    return {"type": "x", "number": value}


def begin(*coroutines: Any) -> list["asyncio.Task[Any]"]:
    """Tasks that begin in this order at the loop's next turn."""
    return [asyncio.ensure_future(coroutine) for coroutine in coroutines]


async def outcomes(tasks: list["asyncio.Task[Any]"]) -> list[Any]:
    """What became of each task: its result, or its error."""
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)


async def numbers(layer: Layer, channel: str) -> list[int]:
    """The numbers of all messages that are there on a channel, in their order."""
    found = database_of(layer).read(store.pending, "", [channel], 10_000)[channel]
    return [(await asyncio.wait_for(layer.receive(channel), PATIENCE))["number"] for _ in range(found)]


# One transaction.


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, what shares a transaction is not cut short."""
    monkeypatch.setattr(apsw_database, "TURN", math.inf)


async def test_what_several_tasks_send_at_once_is_one_transaction(opened: Layer, commits: Commits) -> None:
    """Sends, memberships and a group's message of sixty tasks in one turn of the loop are one commit."""
    sends = [opened.send("jobs", number(value)) for value in range(50)]
    adds = [opened.group_add("group", f"member-{value}") for value in range(10)]
    assert await outcomes(begin(*sends, *adds)) == [None] * 60
    assert commits.since_the_last_call() == 1
    assert await numbers(opened, "jobs") == list(range(50))


async def test_a_lone_task_waits_for_nobody(opened: Layer, commits: Commits) -> None:
    """Each of its writes is committed when it returns, and no other callback runs in between."""
    turns: list[None] = []
    await opened.send("jobs", number(0))
    asyncio.get_running_loop().call_soon(turns.append, None)
    commits.since_the_last_call()
    for value in range(1, 6):
        await opened.send("jobs", number(value))
        assert commits.since_the_last_call() == 1
    assert turns == []
    assert await numbers(opened, "jobs") == list(range(6))


async def test_a_task_that_takes_over_is_alone_after_its_first_write(opened: Layer) -> None:
    """Only the first write of a task after another one's waits for a turn of the loop."""
    turns: list[int] = []

    async def send() -> None:
        for value in range(3):
            asyncio.get_running_loop().call_soon(turns.append, value)
            await opened.send("jobs", number(value))

    await asyncio.gather(send())
    assert turns[:1] == [0]
    assert await numbers(opened, "jobs") == [0, 1, 2]
    turns.clear()
    await opened.send("jobs", number(3))
    assert turns == []


async def test_more_than_fits_into_a_turn(opened: Layer, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where time is up after each write, they are as many transactions, and their order stays."""
    monkeypatch.setattr(apsw_database, "TURN", -1)
    assert await outcomes(begin(*(opened.send("jobs", number(value)) for value in range(10)))) == [None] * 10
    assert commits.since_the_last_call() == 10
    assert await numbers(opened, "jobs") == list(range(10))


async def test_between_two_transactions_the_loop_has_its_turn(opened: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is written at later turns, and others run before."""
    monkeypatch.setattr(apsw_database, "TURN", -1)
    tasks = begin(*(opened.send("jobs", number(value)) for value in range(10)))
    done: list[int] = []
    while not tasks[-1].done():
        await asyncio.sleep(0)
        done.append(sum(task.done() for task in tasks))
    assert {3, 5, 7} <= set(done)


# Each answers for itself.


async def test_a_full_channel_fails_its_sender_only(make_layer: MakeLayer) -> None:
    """Of the senders in one transaction, the ones to a full channel get ChannelFull, which names it; no other does."""
    layer = make_layer(channel_capacity={"full": 2})
    await layer.send("warm-up", {"type": "x"})
    commits = Commits(database_of(layer))
    sends = [layer.send(channel, number(value)) for value in range(4) for channel in ("full", "jobs")]
    results = await outcomes(begin(*sends))
    assert [type(result) for result in results[::2]] == [type(None), type(None), ChannelFull, ChannelFull]
    assert [str(result) for result in results[4::2]] == ["full", "full"]
    assert results[1::2] == [None] * 4
    assert commits.since_the_last_call() == 1
    assert await numbers(layer, "full") == [0, 1]
    assert await numbers(layer, "jobs") == [0, 1, 2, 3]


async def test_a_message_that_sqlite_has_no_room_for(opened: Layer, commits: Commits) -> None:
    """It fails its sender with MessageTooLarge; the others of the transaction are sent."""
    database_of(opened)._connection.limit(apsw.SQLITE_LIMIT_LENGTH, 10_000)
    large = {"type": "x", "text": "x" * 20_000}
    sends = (opened.send("jobs", number(value) if value != 2 else large) for value in range(5))
    results = await outcomes(begin(*sends))
    assert [type(result) for result in results] == [type(None)] * 2 + [MessageTooLarge] + [type(None)] * 2
    assert commits.since_the_last_call() == 1
    assert await numbers(opened, "jobs") == [0, 1, 3, 4]


async def test_a_full_disk_fails_whose_message_does_not_fit(opened: Layer) -> None:
    """An error that undoes the transaction: the others are sent all the same, once and in order."""
    connection = database_of(opened)._connection
    connection.pragma("max_page_count", connection.pragma("page_count") + 20)
    large = {"type": "x", "text": "x" * 200_000}
    sends = (opened.send("jobs", number(value) if value != 2 else large) for value in range(5))
    results = await outcomes(begin(*sends))
    assert [type(result) for result in results] == [type(None)] * 2 + [DiskFull] + [type(None)] * 2
    assert not connection.in_transaction
    await opened.send("jobs", number(5))
    assert await numbers(opened, "jobs") == [0, 1, 3, 4, 5]


async def test_a_transaction_that_sqlite_ends_by_itself(opened: Layer) -> None:
    """As for a full disk, where SQLite has rolled back already what was written before."""
    database_of(opened)._connection.execute(
        "CREATE TEMP TRIGGER ending BEFORE INSERT ON main.channels_lite_message WHEN NEW.queue = 'bad' "
        "BEGIN SELECT RAISE(ROLLBACK, 'all is undone'); END"
    )
    results = await outcomes(begin(*(opened.send(channel, number(0)) for channel in ("jobs", "bad", "jobs"))))
    assert [type(result) for result in results] == [type(None), apsw.ConstraintError, type(None)]
    assert await numbers(opened, "jobs") == [0, 0]


async def test_an_error_that_is_not_sqlites(opened: Layer) -> None:
    """A write that fails in Python fails its task only too, and leaves no transaction open."""

    def fail(execute: Any) -> Any:
        raise OverflowError("no such number")

    async def write_it() -> Any:
        return await opened._write(fail)

    results = await outcomes(begin(opened.send("jobs", number(0)), write_it(), opened.send("jobs", number(1))))
    assert [type(result) for result in results] == [type(None), OverflowError, type(None)]
    assert not database_of(opened)._connection.in_transaction
    assert await numbers(opened, "jobs") == [0, 1]


async def test_an_error_while_waking_is_the_receivers(opened: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a message is committed and cannot be claimed, its senders have sent it, once; who waits gets the error."""
    channel = await opened.new_channel()
    monkeypatch.setattr(opened, "_is_first_in", lambda queue, quiet: False)
    receiving = begin(opened.receive(channel))
    await until(lambda: opened._mailboxes.queues() == 1)
    with monkeypatch.context() as broken:
        broken.setattr(
            store, "claim_queue", lambda *arguments, **within: (_ for _ in ()).throw(apsw.FullError("disk full"))
        )
        results = await outcomes(begin(*(opened.send(channel, number(value)) for value in range(3))))
    assert results == [None] * 3
    assert [type(result) for result in await outcomes(receiving)] == [apsw.FullError]
    assert [(await asyncio.wait_for(opened.receive(channel), PATIENCE))["number"] for _ in range(3)] == [0, 1, 2]


# Order.


async def test_an_inline_write_does_not_overtake(opened: Layer, stranger: apsw.Connection) -> None:
    """The task that wrote last waits in line as soon as others wait, and writes inline again after them."""
    with locked(stranger):
        tasks = begin(*(opened.send("jobs", number(value)) for value in range(3)))
        await asyncio.sleep(0)
        own = asyncio.ensure_future(opened.send("jobs", number(3)))
        await asyncio.sleep(0)
        assert not own.done()
    await opened.send("jobs", number(4))
    assert await outcomes([*tasks, own]) == [None] * 4
    await opened.send("jobs", number(5))
    assert await numbers(opened, "jobs") == list(range(6))


async def test_who_gave_up_a_write_does_not_overtake_with_the_next(opened: Layer, stranger: apsw.Connection) -> None:
    """The task that wrote last gives up while the database is locked; its next message comes after the others'."""

    async def send_twice() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await opened.send("jobs", number(-1))
        stranger.execute("ROLLBACK")
        await opened.send("jobs", number(2))

    stranger.execute("BEGIN IMMEDIATE")
    tasks = begin(opened.send("jobs", number(0)), opened.send("jobs", number(1)), send_twice())
    await until(lambda: opened._batches[asyncio.get_running_loop()]._attempts > 3)
    tasks[2].cancel()
    assert await outcomes(tasks) == [None] * 3
    assert await numbers(opened, "jobs") == [0, 1, 2]


async def test_tasks_in_the_order_in_which_they_began(opened: Layer, commits: Commits) -> None:
    """Each of twenty tasks sends five messages: its own are in order, and each round is in the order of the tasks."""

    async def send(sender: int) -> None:
        for value in range(5):
            await opened.send("jobs", {"type": "x", "number": (value, sender)})

    assert await outcomes(begin(*map(send, range(20)))) == [None] * 20
    assert commits.since_the_last_call() == 5
    assert await numbers(opened, "jobs") == [[value, sender] for value in range(5) for sender in range(20)]


async def test_different_writes_take_effect_in_their_order(opened: Layer, commits: Commits) -> None:
    """A group's message reaches who was added before it and not discarded, all in one transaction."""

    def send(value: int) -> Any:
        return opened.send("jobs", number(value))

    def add() -> Any:
        return opened.group_add("group", "jobs")

    def discard() -> Any:
        return opened.group_discard("group", "jobs")

    def group_send(value: int) -> Any:
        payload = opened._codec.encode(number(value), 60)
        return opened._write(store.group_send, "", "group", payload, id(opened), 60_000)

    writes = (send(0), group_send(-1), add(), group_send(1), send(2), discard(), group_send(-2), send(3), add())
    done = await outcomes(begin(*writes, group_send(4)))
    assert not [outcome for outcome in done if isinstance(outcome, Exception)]
    assert commits.since_the_last_call() == 1
    assert await numbers(opened, "jobs") == [0, 1, 2, 3, 4]


async def test_drops_of_a_groups_message_are_its_own(make_layer: MakeLayer) -> None:
    """Each write in a transaction knows the channels that it considered itself: what it skipped is counted once."""
    layer = make_layer(channel_capacity={"full": 1})
    for channel in ("full", "jobs"):
        await layer.group_add("group", channel)
    await layer.group_add("others", "elsewhere")
    await layer.send("full", number(0))
    commits = Commits(database_of(layer))
    writes = (
        layer.group_send("group", number(1)),
        layer.send("jobs", number(2)),
        layer.group_send("others", number(3)),
    )
    assert await outcomes(begin(*writes)) == [None] * 3
    assert commits.since_the_last_call() == 1
    assert layer.drops.by_reason == {Reason.FULL: 1}
    assert await numbers(layer, "full") == [0]
    assert await numbers(layer, "jobs") == [1, 2]
    assert await numbers(layer, "elsewhere") == [3]


def test_each_write_says_what_it_did(path: str) -> None:
    """The queues and the considered channels of one write in a transaction are not those of the one before."""
    database = ApswDatabase(path)
    layer = Rules()
    database.enlist(layer, layer.room)

    def sending(queue: str) -> Write:
        return Write(store.send, ("", queue, None, b"x", id(layer), queue, False, 60_000))

    def to_group(group: str) -> Write:
        return Write(store.group_send, ("", group, b"x", id(layer), 60_000))

    adding = Write(store.group_add, ("", "group", "member", "", 60_000))
    writes = [sending("a"), adding, to_group("group"), to_group("nobody"), sending("b")]
    assert database.send_together("", writes) == [
        Sent(("a",), ["a"]),
        Sent((), []),
        Sent(["member"], ["member"]),
        Sent([], []),
        Sent(("b",), ["b"]),
    ]
    database.close()


class Rules:
    """What the database asks a layer."""

    def room(self, channel: str, shared: bool, rows: Any) -> int:
        return 10

    def hear(self, prefix: str, queue: str) -> bool:
        return False


# Cancelling.


async def test_a_sender_cancelled_before_its_turn_sends_nothing(opened: Layer, commits: Commits) -> None:
    """The others send, in order."""
    tasks = begin(*(opened.send("jobs", number(value)) for value in range(5)))
    await asyncio.sleep(0)
    assert commits.since_the_last_call() == 0
    tasks[2].cancel()
    results = await outcomes(tasks)
    assert [type(result) for result in results] == [type(None)] * 2 + [asyncio.CancelledError] + [type(None)] * 2
    assert commits.since_the_last_call() == 1
    assert await numbers(opened, "jobs") == [0, 1, 3, 4]


async def test_a_sender_cancelled_after_the_commit(opened: Layer, commits: Commits) -> None:
    """Its message has been sent, once, and so have the others'."""
    tasks = begin(*(opened.send("jobs", number(value)) for value in range(5)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert commits.since_the_last_call() == 1
    assert not any(task.done() for task in tasks)
    tasks[2].cancel()
    assert [isinstance(result, asyncio.CancelledError) for result in await outcomes(tasks)].count(True) == 1
    assert await numbers(opened, "jobs") == [0, 1, 2, 3, 4]


async def test_senders_cancelled_while_the_database_is_locked(opened: Layer, stranger: apsw.Connection) -> None:
    """They send nothing, however long they had waited; the rest send, in order."""
    with locked(stranger):
        tasks = begin(*(opened.send("jobs", number(value)) for value in range(10)))
        await until(lambda: opened._batches[asyncio.get_running_loop()]._attempts > 3)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks[::2])
    await asyncio.wait_for(asyncio.gather(*tasks[1::2]), PATIENCE)
    assert await numbers(opened, "jobs") == [1, 3, 5, 7, 9]


async def test_all_are_cancelled(opened: Layer, commits: Commits) -> None:
    """Nothing is written, and the next sender is not held up."""
    tasks = begin(*(opened.send("jobs", number(value)) for value in range(5)))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await outcomes(begin(opened.send("jobs", number(5)), opened.send("jobs", number(6))))
    assert commits.since_the_last_call() == 1
    assert await numbers(opened, "jobs") == [5, 6]


# A locked database.


class Timers:
    """The loop's timers for another try, and how often the loop has turned at each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set = self.most = 0
        self.turns = 0
        self.tries: list[int] = []
        self._call_later = loop.call_later
        self._loop = loop
        monkeypatch.setattr(loop, "call_later", self._later)
        self._turn()

    def _turn(self) -> None:
        self.turns += 1
        self._handle = self._loop.call_soon(self._turn)

    def _later(self, delay: float, callback: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if getattr(callback, "__func__", None) is not Batch._flush:
            return self._call_later(delay, callback, *arguments, **options)
        self.set += 1
        self.most = max(self.most, self.set)
        return self._call_later(delay, self._try, callback)

    def _try(self, callback: Callable[[], None]) -> None:
        self.set -= 1
        self.tries.append(self.turns)
        callback()

    def end(self) -> None:
        self._handle.cancel()


async def test_a_thousand_senders_wait_for_a_lock_with_one_timer(
    make_layer: MakeLayer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on between two tries; when the lock is gone, all messages are sent, in order."""
    layer = make_layer(capacity=2000)
    await layer.send("warm-up", {"type": "x"})
    stranger = apsw.Connection(path)
    timers = Timers(asyncio.get_running_loop(), monkeypatch)
    with locked(stranger):
        tasks = begin(*(layer.send("jobs", number(value)) for value in range(500)))
        await until(lambda: len(timers.tries) > 3)
        tasks += begin(*(layer.send("jobs", number(value)) for value in range(500, 1000)))
        seen = len(timers.tries)
        await until(lambda: len(timers.tries) > seen + 10)
        assert not any(task.done() for task in tasks)
    stranger.close()
    assert await outcomes(tasks) == [None] * 1000
    timers.end()
    assert timers.most == 1
    assert len(set(timers.tries)) == len(timers.tries)
    assert await numbers(layer, "jobs") == list(range(1000))


async def test_whose_time_is_over_has_sent_nothing(
    path: str, alias: str, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPTIONS["timeout"] of the alias bounds the wait: each gets DatabaseBusy, and its message is not sent later."""
    monkeypatch.setitem(connections.settings[alias], "OPTIONS", {"timeout": 0.02})
    layer = make_layer(database=alias)
    await layer.send("warm-up", {"type": "x"})
    stranger = apsw.Connection(path)
    with locked(stranger):
        results = await outcomes(begin(*(layer.send("jobs", number(value)) for value in range(20))))
        assert {type(result) for result in results} == {DatabaseBusy}
        with pytest.raises(DatabaseBusy):
            await layer.send("jobs", number(20))
    stranger.close()
    await layer.send("jobs", number(21))
    assert await outcomes(begin(layer.send("jobs", number(22)), layer.send("jobs", number(23)))) == [None] * 2
    assert await numbers(layer, "jobs") == [21, 22, 23]


async def test_each_waits_for_as_long_as_its_own_time(opened: Layer, stranger: apsw.Connection) -> None:
    """The time of one sender is over, and not that of those before and after it."""
    line = opened._batch(database_of(opened))
    with locked(stranger):
        tasks = []
        for value, patience in enumerate((PATIENCE, 0, PATIENCE)):
            line._patience = patience
            tasks += begin(opened.send("jobs", number(value)))
            await asyncio.sleep(0)
        with pytest.raises(DatabaseBusy):
            await asyncio.wait_for(tasks[1], PATIENCE)
        await until(lambda: line._attempts > 3)
        assert not tasks[0].done()
        assert not tasks[2].done()
    await asyncio.wait_for(asyncio.gather(tasks[0], tasks[2]), PATIENCE)
    assert await numbers(opened, "jobs") == [0, 2]


# Closing, and other loops.


@pytest.mark.parametrize("waiting", [1, 5])
async def test_closing_while_writes_wait_for_a_lock(opened: Layer, stranger: apsw.Connection, waiting: int) -> None:
    """Each sender gets LayerClosed, and nothing of it is sent; the layer can be used again, in the same loop."""
    with locked(stranger):
        tasks = begin(*(opened.send("jobs", number(value)) for value in range(waiting)))
        await until(lambda: opened._batches[asyncio.get_running_loop()]._attempts > 3)
        await opened.close()
        assert [type(result) for result in await outcomes(tasks)] == [LayerClosed] * waiting
    await opened.send("jobs", number(-1))
    assert await numbers(opened, "jobs") == [-1]


async def test_closing_one_of_two_layers_on_a_file(opened: Layer, make_layer: MakeLayer) -> None:
    """While another layer keeps the database open, writes that wait when theirs is closed have been sent."""
    other = make_layer()
    await other.send("warm-up", {"type": "x"})
    tasks = begin(*(opened.send("jobs", number(value)) for value in range(5)))
    await asyncio.sleep(0)
    await opened.close()
    results = await outcomes(tasks)
    assert results == [None] * 5
    assert await numbers(other, "jobs") == [0, 1, 2, 3, 4]


def test_a_loop_that_is_closed_with_writes_waiting(path: str) -> None:
    """They are not sent, and neither they nor their loop disturb the next one that uses the layer."""
    layer = AIOSQLiteChannelLayer(path=path)
    loop = asyncio.new_event_loop()
    warm_up = loop.create_task(layer.send("warm-up", {"type": "x"}))  # kept: no later task is taken for it
    loop.run_until_complete(warm_up)
    stranger = apsw.Connection(path)
    with locked(stranger):
        coroutines = [layer.send("jobs", number(value)) for value in range(3)]
        tasks = [loop.create_task(coroutine) for coroutine in coroutines]
        loop.run_until_complete(_turns(5))
        loop.close()
        assert not any(task.done() for task in tasks)
    stranger.close()
    asyncio.run(_use_and_close(layer, loop))
    for task, coroutine in zip(tasks, coroutines, strict=True):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine.close()


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _use_and_close(layer: Layer, closed: asyncio.AbstractEventLoop) -> None:
    assert await outcomes(begin(*(layer.send("jobs", number(value)) for value in range(10, 13)))) == [None] * 3
    assert closed not in layer._batches
    assert await numbers(layer, "jobs") == [10, 11, 12]
    await layer.close()


async def test_loops_of_two_threads(make_layer: MakeLayer) -> None:
    """Tasks of two loops write through one layer at once: all is sent, and the messages of each are in order."""
    layer = make_layer(capacity=2000)
    await layer.send("warm-up", {"type": "x"})

    async def send_all(loop: int) -> None:
        for start in range(0, 200, 20):
            sends = (layer.send("jobs", {"type": "x", "number": (loop, start + value)}) for value in range(20))
            await asyncio.gather(*sends)

    threads = [threading.Thread(target=asyncio.run, args=(send_all(loop),)) for loop in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    received = await numbers(layer, "jobs")
    for loop in range(3):
        assert [value for sender, value in received if sender == loop] == list(range(200))  # type: ignore[misc]


async def test_two_loops_begin_to_write_at_once(opened: Layer) -> None:
    """One that comes while another one forgets closed loops is not forgotten with them: it has one line, not two."""
    other = asyncio.new_event_loop()
    threads: list[threading.Thread] = []

    class Loop(asyncio.SelectorEventLoop):
        def is_closed(self) -> bool:
            if self in opened._batches and not threads:
                work = opened.send("jobs", number(0))
                threads.append(threading.Thread(target=other.run_until_complete, args=(work,)))
                threads[0].start()
                threads[0].join()
            return super().is_closed()

    first = Loop()
    await asyncio.to_thread(first.run_until_complete, opened.send("jobs", number(1)))
    await asyncio.to_thread(asyncio.run, opened.send("jobs", number(2)))
    assert threads
    assert other in opened._batches
    first.close()
    other.close()


def test_an_interrupt_while_writing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ctrl-C ends the loop in the middle of a batch, nothing waits for ever in a loop that is run again."""
    layer = AIOSQLiteChannelLayer(path=path)
    loop = asyncio.new_event_loop()
    warm_up = loop.create_task(layer.send("warm-up", {"type": "x"}))  # kept: no later task is taken for it
    loop.run_until_complete(warm_up)
    tasks = [loop.create_task(layer.send("jobs", number(value))) for value in range(3)]
    with monkeypatch.context() as interrupted:
        interrupted.setattr(ApswDatabase, "_run_some", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(_turns(5))
    results = loop.run_until_complete(outcomes(tasks))
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    assert not database_of(layer)._connection.in_transaction
    loop.run_until_complete(layer.send("jobs", number(3)))
    assert loop.run_until_complete(numbers(layer, "jobs")) == [3]
    loop.run_until_complete(layer.close())
    loop.run_until_complete(_turns(1))
    loop.close()


def _interrupt(*arguments: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", [{"path": ":memory:"}, {"polling_interval": None}])
async def test_each_message_wakes_a_receiver(make_layer: MakeLayer, monkeypatch: Any, where: dict[str, Any]) -> None:
    """Messages of one transaction to one channel wake a receiver each, where no bell tells of them again."""
    monkeypatch.setattr("channels_lite.bell._listener_class", lambda: None)
    layer = make_layer(**where)
    await layer.send("x", {})
    await layer.receive("x")
    receivers = [asyncio.create_task(layer.receive("x")) for _ in range(3)]
    await asyncio.sleep(0)
    assert await outcomes(begin(*(layer.send("x", number(value)) for value in range(3)))) == [None] * 3
    assert await outcomes(receivers) == [number(value) for value in range(3)]
