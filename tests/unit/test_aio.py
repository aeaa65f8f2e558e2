"""What is particular to the apsw layer: rows, transactions, threads."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import apsw
import pytest
from msgspec.structs import replace

from channels_lite import bell as bell_module
from channels_lite import clock, schema
from channels_lite.apsw_database import ApswDatabase
from channels_lite.drops import Reason
from channels_lite.errors import LayerClosed
from channels_lite.layers import base
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.mailbox import Item
from tests.patience import PATIENCE, until

MakeLayer = Callable[..., AIOSQLiteChannelLayer]


@pytest.fixture
def commits(layer: AIOSQLiteChannelLayer) -> Callable[[], int]:
    """How many transactions the layer has committed since the last call."""
    count = 0

    def committed() -> bool:
        nonlocal count
        count += 1
        return False

    def since_the_last_call() -> int:
        nonlocal count
        count, seen = 0, count
        return seen

    async def prepare() -> None:
        (await layer._ready())._connection.set_commit_hook(committed)

    since_the_last_call.prepare = prepare  # type: ignore[attr-defined]
    return since_the_last_call


async def test_each_call_is_one_transaction(layer: AIOSQLiteChannelLayer, make_layer: MakeLayer, commits: Any) -> None:
    """send, group_add, group_send to a thousand members, and a claim of many messages commit once each."""
    await commits.prepare()
    other = make_layer()
    channels = [await other.new_channel() for _ in range(1000)]
    for channel in channels:
        await layer.group_add("group", channel)
    assert commits() == 1000
    await layer.group_send("group", {"type": "x"})
    assert commits() == 1
    for _ in range(5):
        await layer.send(channels[0], {"type": "x"})
    assert commits() == 5
    await other.receive(channels[0])
    assert commits() == 1
    await asyncio.gather(*map(other.receive, channels[1:]))
    assert commits() == 0


async def test_own_channels_commit_nothing(layer: AIOSQLiteChannelLayer, commits: Any) -> None:
    """Sends to own channels, a group of them, and receiving all that: not one transaction."""
    await commits.prepare()
    channels = [await layer.new_channel() for _ in range(10)]
    for channel in channels:
        await layer.group_add("group", channel)
    commits()
    await layer.group_send("group", {"type": "x"})
    for channel in channels:
        await layer.send(channel, {"type": "x"})
    await asyncio.gather(*map(layer.receive, channels * 2))
    receiving = asyncio.ensure_future(layer.receive(channels[0]))
    await asyncio.sleep(0)
    await layer.send(channels[0], {"type": "x"})
    await receiving
    assert commits() == 0


async def test_a_group_has_one_row_for_each_process(make_layer: MakeLayer, path: str) -> None:
    """The row names its targets; a normal channel has a row of its own; nobody else is in them."""
    layer, other, third = make_layer(), make_layer(), make_layer()
    for maker, number in ((other, 500), (third, 3)):
        for _ in range(number):
            await layer.group_add("group", await maker.new_channel())
    await layer.group_add("group", "normal")
    await layer.group_send("group", {"type": "x"})
    reader = apsw.Connection(path)
    rows = reader.execute("SELECT queue, json_array_length(targets), group_name FROM channels_lite_message").fetchall()
    reader.close()
    assert sorted((length or 0, group) for _, length, group in rows) == [(0, "group"), (3, "group"), (500, "group")]


async def test_a_hint_that_is_not_true_any_more(make_layer: MakeLayer) -> None:
    """Who was told of a message that another process took meanwhile waits for the next one."""
    layer, other = make_layer(), make_layer()
    await layer.send("x", {"number": 1})
    assert await other.receive("x") == {"number": 1}
    receiving = asyncio.create_task(layer.receive("x"))
    await until(lambda: layer._mailboxes.queues() == 1)
    await other.send("x", {"number": 2})
    assert await asyncio.wait_for(receiving, PATIENCE) == {"number": 2}


async def test_hints_are_bounded(layer: AIOSQLiteChannelLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender of messages that others receive does not remember each of their channels."""
    monkeypatch.setattr(base, "ADDRESSES", 10)
    for number in range(25):
        await layer.send(f"x.{number}", {"type": "x"})
    assert len(layer._told) <= 10
    assert len(layer._addresses) <= 10
    for number in range(25):
        assert await layer.receive(f"x.{number}") == {"type": "x"}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[threading.Thread]]:
    """The threads in which the connection was opened, used and closed."""
    seen: dict[str, set[threading.Thread]] = {"connect": set(), "_execute": set(), "close": set()}

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(*arguments: Any, **named: Any) -> Any:
            seen[name].add(threading.current_thread())
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, noting)

    note(schema, "connect")
    note(ApswDatabase, "_execute")
    note(ApswDatabase, "close")
    return seen


async def test_threads(layer: AIOSQLiteChannelLayer, threads: dict[str, set[threading.Thread]]) -> None:
    """Statements run on the loop's own thread; opening and closing, which may wait for a lock or the disk, do not."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    assert threads["_execute"]
    threads["_execute"].clear()  # the first use has opened it
    await layer.send(channel, {"type": "x"})
    await layer.group_send("group", {"type": "x"})
    for _ in range(2):
        await layer.receive(channel)
    await layer.group_discard("group", channel)
    await layer.flush()
    await layer.clean_expired()
    await layer.close()
    here = threading.current_thread()
    assert threads["_execute"] == {here}
    assert threads["connect"]
    assert threads["close"]
    assert here not in threads["connect"] | threads["close"]


async def test_targets_that_are_no_text(layer: AIOSQLiteChannelLayer, make_layer: MakeLayer, path: str) -> None:
    """A stranger's row whose targets are not even UTF-8 is skipped, and harms none of the messages claimed with it."""
    channel, other = await layer.new_channel(), make_layer()
    for number in range(10):
        await other.send(channel, {"type": "x", "number": number})
    stranger = apsw.Connection(path)
    stranger.execute(
        "INSERT INTO channels_lite_message (prefix, queue, targets, payload, expires_at) "
        "VALUES ('', ?, CAST(x'5b22ff225d' AS TEXT), x'80', 9999999999999)",
        (channel.partition("!")[0] + "!",),
    )
    stranger.close()
    assert [(await layer.receive(channel))["number"] for _ in range(10)] == list(range(10))
    assert layer.drops.by_reason == {Reason.NO_TARGET: 1}


async def test_closing_while_it_opens(make_layer: MakeLayer) -> None:
    """A receive() that is opening the database when the layer is closed ends, however far it has got."""
    for steps in range(8):
        layer = make_layer()
        receiving = asyncio.ensure_future(layer.receive("jobs"))
        await asyncio.sleep(0)  # it has begun
        for _ in range(steps):
            await asyncio.sleep(0.002)
        await layer.close()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(receiving, PATIENCE)


async def test_a_sender_that_hears_nothing_rings_the_right_bell(make_layer: MakeLayer, path: str) -> None:
    """A process that only sends notices that the bell was deleted, and rings the one that the others listen to."""
    layer = make_layer()
    await layer.send("jobs", {"type": "x"})
    os.unlink(f"{path}-bell")
    await asyncio.sleep(bell_module.FRESH)  # for so long it is believed to be there
    await layer.send("jobs", {"type": "x"})
    bell = layer._database.bell if layer._database else None
    assert bell is not None
    assert os.path.samestat(os.stat(f"{path}-bell"), os.fstat(bell._fd))


async def test_attributes_are_few(layer: AIOSQLiteChannelLayer) -> None:
    """A layer has no more attributes than CPython finds quickly: see OpenableLayer."""
    await layer.send("jobs", {"type": "x"})
    assert len(vars(layer)) <= 29


async def test_flush_by_another_layer(make_layer: MakeLayer) -> None:
    """What is parked in this process goes too when another of its layers flushes the same prefix."""
    layer, other, apart = make_layer(), make_layer(), make_layer(prefix="apart")
    for one in (layer, apart):
        slow, quick = await one.new_channel(), await one.new_channel()
        sender = make_layer(prefix=one.options.prefix)
        await sender.send(slow, {"type": "claimed"})
        await sender.send(quick, {"type": "x"})
        await one.receive(quick)
        await one.send(slow, {"type": "handed over"})
        assert len(one._mailboxes._parked[slow]) == 2
    await other.flush()
    assert not layer._mailboxes._parked
    assert apart._mailboxes._parked


async def test_opening_again_and_again(layer: AIOSQLiteChannelLayer) -> None:
    """Nothing is kept of the databases that a layer had open before."""
    opened = weakref.WeakSet[ApswDatabase]()
    for _ in range(5):
        await layer.send("jobs", {"type": "x"})
        assert layer._database is not None
        opened.add(layer._database)
        await layer.close()
    gc.collect()
    assert not opened


def test_a_layer_that_is_let_go(path: str) -> None:
    """A layer that nobody has any more is gone at once, without the garbage collector, and so its file is closed."""

    async def use() -> "weakref.ref[AIOSQLiteChannelLayer]":
        layer = AIOSQLiteChannelLayer(path=path)
        await layer.send("jobs", {"type": "x"})
        await layer.receive("jobs")
        return weakref.ref(layer)

    gc.disable()
    try:
        assert asyncio.run(use())() is None
    finally:
        gc.enable()


async def test_what_is_parked_for_a_normal_channel_comes_first(layer: AIOSQLiteChannelLayer) -> None:
    """A receiver gets what waits in memory to be put back before it looks at the database, unless it has expired."""
    await layer.send("normal", {"number": 2})
    live = Item(layer._codec.encode({"number": 1}, 60), clock.now() + 60_000)
    for item in (live, replace(live, expires_at=1)):
        layer._mailboxes.park("normal", item)
    received = [await asyncio.wait_for(layer.receive("normal"), PATIENCE) for _ in range(2)]
    assert [message["number"] for message in received] == [1, 2]


async def test_a_receiver_that_comes_while_the_layer_is_being_closed(layer: AIOSQLiteChannelLayer) -> None:
    """It ends as those that came before do: the database that it would listen to is gone in a moment."""
    await layer.send("other", {"type": "x"})
    with layer._opening:  # the closing cannot go on
        closing = asyncio.create_task(layer.close())
        await asyncio.sleep(0)
        receiving = asyncio.create_task(layer.receive("normal"))
        await until(lambda: layer._mailboxes.queues() == 1)
    await closing
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(receiving, PATIENCE)


async def test_a_layer_that_another_thread_closes_just_before_a_receiver_is_registered(
    layer: AIOSQLiteChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would wake it, nor those that rely on it to have begun to listen."""
    channel = await layer.new_channel()
    await layer.send("other", {"type": "x"})
    original = layer._mailboxes.take_or_wait

    def closed_first(*arguments: str) -> Any:
        layer._closings += 1
        layer._closed()
        return original(*arguments)

    monkeypatch.setattr(layer._mailboxes, "take_or_wait", closed_first)
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(layer.receive(channel), PATIENCE)
    assert layer._mailboxes.queues() == 0


async def test_who_waits_beside_others_sees_to_a_watcher_that_has_failed(layer: AIOSQLiteChannelLayer) -> None:
    """A sibling has begun to listen, but may not listen any more."""
    first, second = await layer.new_channel(), await layer.new_channel()
    receiving = [asyncio.create_task(layer.receive(first))]
    await until(lambda: layer._mailboxes.queues() == 1)
    (watcher,) = layer._watchers
    watcher.stop()
    receiving.append(asyncio.create_task(layer.receive(second)))
    await until(lambda: watcher.running)
    for task in receiving:
        task.cancel()
    await asyncio.gather(*receiving, return_exceptions=True)


def test_loops_of_several_threads_that_end_all_the_time(layer: AIOSQLiteChannelLayer) -> None:
    """Each new one forgets those that were closed, while the others do the same."""
    failures: list[BaseException] = []

    def receive() -> None:
        for _ in range(100):
            try:
                asyncio.run(asyncio.wait_for(layer.receive("normal"), 0.0005))
            except asyncio.TimeoutError:
                continue
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
