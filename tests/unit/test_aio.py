"""What is particular to the apsw layer: rows, transactions, threads."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from channels_lite import schema
from channels_lite.database import Database
from channels_lite.layers.aio import AIOSQLiteChannelLayer

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


async def test_each_call_is_one_transaction(layer: AIOSQLiteChannelLayer, commits: Any) -> None:
    """send, group_add, group_send to a thousand members, and a claim of many messages commit once each."""
    await commits.prepare()
    channels = [await layer.new_channel() for _ in range(1000)]
    for channel in channels:
        await layer.group_add("group", channel)
    assert commits() == 1000
    await layer.group_send("group", {"type": "x"})
    assert commits() == 1
    for _ in range(5):
        await layer.send(channels[0], {"type": "x"})
    assert commits() == 5
    await layer.receive(channels[0])
    assert commits() == 1
    await asyncio.gather(*map(layer.receive, channels[1:]))
    assert commits() == 0


async def test_a_group_has_one_row_for_each_process(make_layer: MakeLayer, path: str) -> None:
    """The row names its targets; a normal channel has a row of its own; nobody else is in them."""
    layer, other = make_layer(), make_layer()
    for maker, number in ((layer, 500), (other, 3)):
        for _ in range(number):
            await layer.group_add("group", await maker.new_channel())
    await layer.group_add("group", "normal")
    await layer.group_send("group", {"type": "x"})
    reader = apsw.Connection(path)
    rows = reader.execute("SELECT queue, json_array_length(targets), group_name FROM channels_lite_message").fetchall()
    reader.close()
    assert sorted((length or 0, group) for _, length, group in rows) == [(0, "group"), (3, "group"), (500, "group")]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[threading.Thread]]:
    """The threads in which the connection was opened, used and closed."""
    seen: dict[str, set[threading.Thread]] = {"connect": set(), "_execute": set(), "close": set()}

    def note(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            seen[name].add(threading.current_thread())
            return original(*arguments)

        monkeypatch.setattr(owner, name, noting)

    note(schema, "connect")
    note(Database, "_execute")
    note(Database, "close")
    return seen


async def test_threads(layer: AIOSQLiteChannelLayer, threads: dict[str, set[threading.Thread]]) -> None:
    """Statements run on the loop's own thread; opening and closing, which may wait for a lock or the disk, do not."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
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
