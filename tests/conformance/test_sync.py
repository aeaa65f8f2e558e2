"""The layer for synchronous code: the same calls without an event loop. Channels' own layers have none of it."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import apsw
import pytest
from channels.exceptions import ChannelFull
from django.db import connections, transaction

from channels_lite.errors import DatabaseBusy, LayerClosed, LoopRunning
from tests.conformance.conftest import OURS, is_empty, soon, under_test, waiting
from tests.patience import PATIENCE, until


@pytest.fixture(params=OURS)
def kind(request: pytest.FixtureRequest) -> str:
    return under_test(request)


async def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of synchronous code, in a thread that has no loop; it closes what Django opened there."""

    def run() -> Any:
        try:
            return function(*arguments)
        finally:
            connections.close_all()

    return await asyncio.wait_for(asyncio.to_thread(run), PATIENCE)


async def test_messages_arrive(make):
    """What synchronous code sends reaches every kind of channel, in order, whether somebody waits or comes later."""
    layer, other = make(), make()
    for channel, receiver in (("jobs", layer), (await layer.new_channel(), layer), (await other.new_channel(), other)):
        for before in (True, False):
            task = await waiting(receiver, channel) if before else None

            def work(channel: str = channel) -> None:
                for number in range(3):
                    layer.sync.send(channel, {"type": "x", "number": number})

            await apart(work)
            first = await soon(receiver.receive(channel) if task is None else task)
            rest = [await soon(receiver.receive(channel)) for _ in range(2)]
            assert [message["number"] for message in (first, *rest)] == [0, 1, 2]
            assert await is_empty(receiver, channel)


async def test_groups(make):
    """Synchronous code adds, discards, asks and sends as the coroutines do, all but those that it excludes."""
    layer, other = make(), make()
    channels = [await layer.new_channel(), await layer.new_channel(), await other.new_channel(), "normal", "gone"]

    def work() -> None:
        for channel in channels:
            layer.sync.group_add("room", channel)
        layer.sync.group_discard("room", "gone")
        layer.sync.group_send("room", {"type": "news"}, exclude=[channels[0]])
        assert sorted(layer.sync.group_channels("room")) == sorted(channels[:4])
        assert layer.sync.group_count("room") == 4
        assert layer.sync.groups("normal") == ["room"]

    await apart(work)
    assert sorted(await layer.group_channels("room")) == sorted(channels[:4])
    for channel, receiver in zip(channels[1:4], (layer, other, layer), strict=True):
        assert await soon(receiver.receive(channel)) == {"type": "news"}
    for channel in (channels[0], "gone"):
        assert await is_empty(layer, channel)


@pytest.mark.deviation("redis", "layer.sync: channels_redis needs a loop, and each call makes one")
async def test_no_loop_and_no_thread(make, monkeypatch):
    """Once the layer is open, a call makes neither an event loop nor a thread: all of it happens in the caller's."""
    layer = make()
    own = await layer.new_channel()
    await layer.group_add("room", own)

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a loop or a thread")

    def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", refuse)
            patch.setattr(asyncio, "run", refuse)
            patch.setattr(threading.Thread, "start", refuse)
            for channel in ("jobs", own):
                layer.sync.send(channel, {"type": "x"})
            layer.sync.group_send("room", {"type": "x"})
            layer.sync.group_add("room", "jobs")
            layer.sync.group_channels("room")
            layer.sync.group_discard("room", "jobs")

    await apart(work)


async def test_opens_by_itself(make):
    """Synchronous code may be the first to use the layer, may close it, and may use it again."""
    layer = make()

    def work() -> None:
        layer.sync.send("jobs", {"type": "first"})
        layer.sync.close()
        layer.sync.close()
        layer.sync.send("jobs", {"type": "second"})

    await apart(work)
    assert [(await soon(layer.receive("jobs")))["type"] for _ in range(2)] == ["first", "second"]
    task = await waiting(layer, "jobs")
    await apart(lambda: layer.sync.close())
    with pytest.raises(LayerClosed):
        await soon(task)


async def test_where_a_loop_runs(layer):
    """In a coroutine it is refused, with words that say what to do instead; nothing is sent."""
    with pytest.raises(LoopRunning, match="await the method of the layer"):
        layer.sync.send("jobs", {"type": "x"})
    assert await is_empty(layer, "jobs")


@pytest.mark.deviation("redis", "a group's message for a full channel: it is not counted")
async def test_what_it_raises(make):
    """A full channel and bad input are what they are for the coroutines."""
    layer = make(capacity=1)

    def work() -> None:
        layer.sync.send("jobs", {"type": "x"})
        with pytest.raises(ChannelFull, match="jobs"):
            layer.sync.send("jobs", {"type": "x"})
        layer.sync.group_add("room", "jobs")
        layer.sync.group_send("room", {"type": "skipped"})
        for call in (layer.sync.send, layer.sync.group_send):
            for name, message in (("not valid", {}), ("valid", "no dict"), ("valid", {"type": object()})):
                with pytest.raises(TypeError):
                    call(name, message)
        for ask in (layer.sync.group_channels, layer.sync.groups):
            with pytest.raises(TypeError):
                ask("not valid")

    await apart(work)
    assert layer.drops.by_reason.total() == 1
    assert await soon(layer.receive("jobs")) == {"type": "x"}


@pytest.mark.deviation("redis", "errors: it has no lock")
async def test_a_lock_is_waited_for(make, kind, path):
    """A call that meets a lock goes on when it is free, and gives up after the deadline, having sent nothing."""
    layer = make()
    await layer.send("jobs", {"type": "before"})
    connect = (
        apsw.Connection if kind.startswith("aio") else partial(sqlite3.connect, isolation_level=None)
    )  # as it does
    with contextlib.closing(connect(path)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        begun = threading.Event()

        def send(kind: str) -> None:
            begun.set()
            layer.sync.send("jobs", {"type": kind})

        task = asyncio.ensure_future(apart(send, "waited"))
        await until(begun.is_set)
        holder.execute("ROLLBACK")
        await task
        holder.execute("BEGIN IMMEDIATE")
        if kind.startswith("core"):
            connections.settings["core"].setdefault("OPTIONS", {})["timeout"] = 0.2  # of the connection that it makes
        layer._deadline = 0.2
        before = time.monotonic()
        try:
            with pytest.raises(DatabaseBusy):
                await apart(send, "in vain")
        finally:
            connections.settings["core"].get("OPTIONS", {}).pop("timeout", None)
        assert time.monotonic() - before >= 0.2
        holder.execute("ROLLBACK")
    assert [(await soon(layer.receive("jobs")))["type"] for _ in range(2)] == ["before", "waited"]
    assert await is_empty(layer, "jobs")


async def test_many_threads(make):
    """Several threads send to one channel at the same time: everything arrives once, each thread's in its order."""
    layer = make(capacity=10_000)
    own = await layer.new_channel()
    threads, each = 4, 50

    def work(thread: int) -> None:
        for number in range(each):
            layer.sync.send(own, {"type": "x", "thread": thread, "number": number})

    done = asyncio.gather(*(apart(work, thread) for thread in range(threads)))
    received = [await soon(layer.receive(own)) for _ in range(threads * each)]
    await done
    for thread in range(threads):
        assert [m["number"] for m in received if m["thread"] == thread] == list(range(each))
    assert await is_empty(layer, own)


@pytest.mark.parametrize("kind", ["core", "core-wal"], indirect=True)
async def test_a_database_that_a_test_case_forbids(layer, alias):
    """What comes through Django's connections does not come past what a test case puts in their place."""
    await layer.group_add("room", "jobs")

    def work() -> None:
        connection = connections[alias]

        def forbid(*arguments: Any, **options: Any) -> Any:
            raise ZeroDivisionError

        for name in ("connect", "temporary_connection", "cursor", "chunked_cursor"):
            setattr(connection, name, forbid)
        for call in (
            lambda: layer.sync.send("jobs", {}),
            lambda: layer.sync.group_send("room", {}),
            lambda: layer.sync.group_add("room", "other"),
            lambda: layer.sync.group_count("room"),
        ):
            with pytest.raises(ZeroDivisionError):
                call()
        for name in ("connect", "temporary_connection", "cursor", "chunked_cursor"):
            delattr(connection, name)

    await apart(work)
    assert await layer.group_count("room") == 1
    assert await is_empty(layer, "jobs")


@pytest.mark.parametrize("kind", ["core", "core-wal"], indirect=True)
async def test_it_belongs_to_the_callers_transaction(make, alias):
    """On the core layer, what is sent in ``transaction.atomic()`` is seen when that commits, and never otherwise."""
    layer = make()
    channels = ["jobs", await layer.new_channel()]
    for channel in channels:
        await layer.group_add("room", channel)

    def work() -> None:
        for roll_back in (True, False):
            with transaction.atomic(using=alias):
                for channel in channels:
                    layer.sync.send(channel, {"type": "sent", "kept": not roll_back})
                with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=alias):
                    layer.sync.send("jobs", {"type": "sent", "kept": False})
                    raise ZeroDivisionError
                layer.sync.group_send("room", {"type": "group", "kept": not roll_back}, exclude=["other"])
                layer.sync.group_add("room" if roll_back else "other-room", "late")
                assert layer.sync.group_count("room") == 2 + roll_back  # it sees its own
                if roll_back:
                    transaction.set_rollback(True, using=alias)
        assert layer.sync.group_channels("other-room") == ["late"]

    tasks = [await waiting(layer, channel) for channel in channels]
    await apart(work)
    received = await soon(asyncio.gather(*tasks))
    received += [await soon(layer.receive(channel)) for channel in channels]
    assert [message["type"] for message in received] == ["sent", "sent", "group", "group"]
    assert all(message["kept"] for message in received)
    for channel in channels:
        assert await is_empty(layer, channel)
    assert await layer.group_count("room") == 2
