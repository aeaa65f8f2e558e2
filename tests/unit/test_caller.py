"""Whether synchronous code waits above a coroutine, and which thread a function runs in."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import AsyncToSync, ThreadSensitiveContext, async_to_sync, sync_to_async

from channels_lite import caller
from channels_lite.caller import CallerGone
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
