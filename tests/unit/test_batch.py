"""What several tasks of one loop write at the same time: one transaction, in order, and each answers for itself."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import apsw
import pytest
from channels.exceptions import ChannelFull, MessageTooLarge
from django.db import connections

from channels_lite import apsw_database, batch, store
from channels_lite.apsw_database import ApswDatabase, Sent, Write
from channels_lite.batch import Batch
from channels_lite.drops import Reason
from channels_lite.errors import DatabaseBusy, LayerClosed
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
async def opened(layer: Layer) -> Layer:
    """A layer that is open and that the test's own task has written to last, so that no new task is taken for it."""
    await layer.send("warm-up", {"type": "x"})
    return layer


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
    connection = apsw.Connection(path)
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
    found = []
    while await layer._aside(lambda execute: store.has_live(execute, "", channel)):
        found.append((await asyncio.wait_for(layer.receive(channel), PATIENCE))["number"])
    return found


# One transaction.


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


async def test_more_than_fits_into_a_turn(
    opened: Layer, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert [type(result) for result in results] == [type(None)] * 2 + [apsw.FullError] + [type(None)] * 2
    assert not connection.in_transaction
    await opened.send("jobs", number(5))
    assert await numbers(opened, "jobs") == [0, 1, 3, 4, 5]


async def test_an_error_that_is_not_sqlites(opened: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(opened, "_is_first_in", lambda queue: False)
    receiving = begin(opened.receive(channel))
    await until(lambda: opened._mailboxes.queues() == 1)
    with monkeypatch.context() as broken:
        broken.setattr(store, "claim_queue", lambda *arguments: (_ for _ in ()).throw(apsw.FullError("disk full")))
        results = await outcomes(begin(*(opened.send(channel, number(value)) for value in range(3))))
    assert results == [None] * 3
    assert [type(result) for result in await outcomes(receiving)] == [apsw.FullError]
    assert [(await asyncio.wait_for(opened.receive(channel), PATIENCE))["number"] for _ in range(3)] == [0, 1, 2]
