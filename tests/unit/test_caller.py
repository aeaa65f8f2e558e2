"""Whether synchronous code waits above a coroutine, and which thread a function runs in."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import apsw
import pytest
from asgiref.sync import AsyncToSync, ThreadSensitiveContext, async_to_sync, sync_to_async
from channels.exceptions import ChannelFull
from django.db import OperationalError

from channels_lite import caller, schema
from channels_lite.caller import CallerGone
from channels_lite.errors import DatabaseBusy
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.journal import keep_a_wal
from tests.patience import PATIENCE, until


async def look() -> tuple[bool, threading.Thread]:
    """Whether a caller is there, and the thread of ``run``."""
    return caller.is_there(), await caller.run(threading.current_thread)


async def test_asynchronous_code() -> None:
    """Nobody is above a coroutine of a loop's own, nor above one in a thread-sensitive context, as under ASGI."""
    assert not caller.is_there()
    async with ThreadSensitiveContext():
        assert not caller.is_there()
    assert not await asyncio.create_task(asyncio.wait_for(_is_there(), PATIENCE))


async def _is_there() -> bool:
    return caller.is_there()


def test_plain_synchronous_code() -> None:
    """The caller is there, and functions run in its thread."""
    assert async_to_sync(look)() == (True, threading.current_thread())


@pytest.mark.parametrize("thread_sensitive", [True, False])
async def test_synchronous_code_under_a_loop(thread_sensitive: bool) -> None:
    """The same in a thread that sync_to_async() runs code in."""

    def work() -> tuple[bool, bool]:
        there, thread = async_to_sync(look)()
        return there, thread is threading.current_thread()

    assert await sync_to_async(work, thread_sensitive=thread_sensitive)() == (True, True)
    assert not caller.is_there()


def test_several_bridges() -> None:
    """The nearest synchronous code is meant."""

    async def outer() -> tuple[bool, bool]:
        return await sync_to_async(inner, thread_sensitive=False)()

    def inner() -> tuple[bool, bool]:
        there, thread = async_to_sync(look)()
        return there, thread is threading.current_thread()

    assert async_to_sync(outer)() == (True, True)


def test_tasks_below_a_caller() -> None:
    """Tasks and gathered coroutines have the same caller, also where a new context hides it."""
    import contextvars

    async def outer() -> list[Any]:
        loop = asyncio.get_running_loop()
        bare = contextvars.Context().run(loop.create_task, look())
        return await asyncio.gather(look(), loop.create_task(look()), bare)

    assert async_to_sync(outer)() == [(True, threading.current_thread())] * 3


async def _leave_behind(function: Callable[[], Awaitable[Any]]) -> "asyncio.Task[Any]":
    """A task that runs when the synchronous code that began it has gone on."""
    gone = asyncio.Event()
    tasks = []

    async def later() -> Any:
        await gone.wait()
        return await function()

    async def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(later()))

    await sync_to_async(async_to_sync(begin), thread_sensitive=False)()
    gone.set()
    return tasks[0]


async def test_a_caller_that_has_gone() -> None:
    """CallerGone, and the function has not run."""
    ran = threading.Event()

    async def run() -> None:
        assert caller.is_there()
        await caller.run(ran.set)

    task = await _leave_behind(run)
    with pytest.raises(CallerGone):
        await asyncio.wait_for(task, PATIENCE)
    assert not ran.is_set()


def test_an_error_of_the_function() -> None:
    """What the function raises is raised here, a RuntimeError of its own too."""

    def fail() -> None:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        async_to_sync(caller.run)(fail)


async def test_cancelled() -> None:
    """A cancelled run() does not stop the function, and does not wait for ever."""
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(PATIENCE)

    task = asyncio.ensure_future(caller.run(work))
    await until(begun.is_set)
    task.cancel()
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)


@pytest.mark.parametrize("missing", ["executors", "loop_thread_executors"])
async def test_asgiref_without_these_attributes(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The answer is yes, and run() goes to the thread that Django runs synchronous code in."""

    class Other:
        """An AsyncToSync that does not show the attribute."""

    for name in {"executors", "loop_thread_executors"} - {missing}:
        setattr(Other, name, getattr(AsyncToSync, name))
    monkeypatch.setattr(caller, "AsyncToSync", Other)
    djangos = await sync_to_async(threading.current_thread)()
    assert await look() == (True, djangos)


class TimeLimit(Exception):
    """What a signal handler raises, such as Celery's."""


def test_what_a_signal_handler_raises() -> None:
    """In synchronous code of the main thread, what is no error of this package's or of a database is one."""
    assert caller.is_interruption(TimeLimit())
    assert caller.is_interruption(KeyboardInterrupt())
    for error in (DatabaseBusy(), ChannelFull(), apsw.BusyError(), sqlite3.OperationalError(), OperationalError()):
        assert not caller.is_interruption(error)
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(caller.is_interruption(TimeLimit())))
    thread.start()
    thread.join()
    assert elsewhere == [False]


async def test_in_a_loop_there_is_none() -> None:
    """There, an error is that of the code that runs."""
    assert not caller.is_interruption(TimeLimit())


@pytest.mark.parametrize("kind", ["aio", "core"])
def test_who_waits_is_not_told(kind: str, path: str, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit that ends the sender while it claims for others is the sender's; they get the message."""
    layer: Any = AIOSQLiteChannelLayer(path=path) if kind == "aio" else SQLiteChannelLayer(database=alias)
    if kind == "core":
        keep_a_wal(path)
    real, begun, received = layer._claim_all, threading.Event(), []

    async def receive() -> None:
        channel.append(await layer.new_channel())
        task = asyncio.ensure_future(layer.receive(channel[0]))
        queue = layer._split(channel[0])[0]
        await until(lambda: layer._mailboxes.queues() > 0 and layer._is_empty(queue))  # it has looked for itself
        begun.set()
        received.append(await asyncio.wait_for(task, PATIENCE))

    def interrupted(*arguments: Any, **options: Any) -> int:
        if threading.current_thread() is threading.main_thread():
            raise TimeLimit
        return int(real(*arguments, **options))

    channel: list[str] = []
    thread = threading.Thread(target=lambda: asyncio.run(receive()))
    thread.start()
    assert begun.wait(PATIENCE)
    monkeypatch.setattr(layer, "_claim_all", interrupted)
    monkeypatch.setattr(layer, "_quiet", lambda: None)  # it goes through the database
    with pytest.raises(TimeLimit):
        layer.sync.send(channel[0], {"type": "x"})
    thread.join(PATIENCE)
    assert received == [{"type": "x"}]
    layer.sync.close()


def test_a_transaction_that_was_just_begun(path: str) -> None:
    """Where a handler raises right after BEGIN, nothing stays open that others would wait for."""
    connection = schema.connect(path)
    execute = schema.executor(connection)

    def interrupted(sql: str, parameters: Any) -> list[Any]:
        rows = execute(sql, parameters)
        if sql.startswith("BEGIN"):
            raise TimeLimit
        return rows

    with pytest.raises(TimeLimit), schema.transaction(interrupted):
        pass
    assert not connection.in_transaction
    execute("BEGIN", ())
    with pytest.raises(apsw.SQLError), schema.transaction(execute):  # somebody else's stays
        pass
    assert connection.in_transaction
    connection.close()
