"""The apsw connection: one for each file and process, never waiting for a lock on the loop's thread, and private."""

import asyncio
import contextlib
import gc
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from django.conf import settings

from channels_lite import apsw_database, store
from channels_lite import database as module
from channels_lite.apsw_database import ApswDatabase, Write, open_file
from channels_lite.database import release
from channels_lite.errors import DatabaseBusy, LayerClosed, Locked, SchemaError
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.page import Rows
from tests.patience import PATIENCE, until

MakeLayer = Callable[..., AIOSQLiteChannelLayer]


async def opened(layer: AIOSQLiteChannelLayer) -> ApswDatabase:
    """The layer's database, opened."""
    await layer.group_discard("nobody", "x")
    assert layer._database is not None
    return layer._database


def is_closed(database: ApswDatabase) -> bool:
    """Whether nothing is left open of a database."""
    try:
        database.read(store.data_version)
    except LayerClosed:
        return not database.keeper._thread.is_alive() and database not in module._open.values()
    return False


class Locker:
    """Somebody else who holds the write lock of a file."""

    def __init__(self, path: str) -> None:
        self.connection = apsw.Connection(path)
        self.connection.set_busy_timeout(5_000)

    def lock(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def unlock(self) -> None:
        self.connection.execute("ROLLBACK")


@pytest.fixture
async def locker(layer: AIOSQLiteChannelLayer, path: str) -> Any:
    """Somebody else's connection to the file of an open layer, closed in the end."""
    await opened(layer)
    locker = Locker(path)
    yield locker
    locker.connection.close()


@pytest.fixture
def hasty(layer: AIOSQLiteChannelLayer, monkeypatch: pytest.MonkeyPatch) -> AIOSQLiteChannelLayer:
    """A layer that gives a lock up soon."""
    monkeypatch.setattr(layer, "_deadline", 0.1)
    return layer


# One connection for each file.


async def test_one_for_all_layers(make_layer: MakeLayer, path: str, tmp_path: Path) -> None:
    """Layers on the same file share one database, by whatever name they know it; another file has another."""
    first = await opened(make_layer())
    os.symlink(path, tmp_path / "symlink.sqlite3")
    os.link(path, tmp_path / "hardlink.sqlite3")
    for name in ("channels.sqlite3", "symlink.sqlite3", "hardlink.sqlite3", "../" + tmp_path.name + "/symlink.sqlite3"):
        assert await opened(make_layer(path=f"{tmp_path}/{name}", prefix="x")) is first
    assert await opened(make_layer(path=tmp_path / "other.sqlite3")) is not first


async def test_opened_by_symlink(make_layer: MakeLayer, path: str, tmp_path: Path) -> None:
    """The bell of a file that is reached through a symlink lies beside the file: the others ring it there."""
    await opened(make_layer())
    link = tmp_path / "elsewhere" / "link.sqlite3"
    link.parent.mkdir()
    os.symlink(tmp_path / "target.sqlite3", link)
    (tmp_path / "target.sqlite3").touch()
    database = await opened(make_layer(path=link))
    assert database.bell is not None
    assert os.path.realpath(database.bell.path) == str(tmp_path / "target.sqlite3-bell")


async def test_first_uses_at_once(make_layer: MakeLayer) -> None:
    """Layers that open a file at the same time, in several threads, end with one database."""
    layers = [make_layer() for _ in range(8)]
    databases = await asyncio.gather(*map(opened, layers))
    assert len(set(map(id, databases))) == 1
    assert len([db for db in module._open.values() if db is databases[0]]) == 1


async def test_closed_with_the_last_layer(make_layer: MakeLayer) -> None:
    """A database is closed with its last layer and not before; closing twice is harmless; the next use opens anew."""
    one, other = make_layer(), make_layer()
    database = await opened(one)
    assert await opened(other) is database
    await one.close()
    await one.close()
    await other.send("x", {"type": "x"})
    assert not is_closed(database)
    await other.close()
    assert is_closed(database)
    assert await one.receive("x") == {"type": "x"}
    assert one._database is not database


@pytest.mark.parametrize("file", ["channels.sqlite3", ":memory:"])
async def test_closed_when_the_layer_is_forgotten(tmp_path: Path, file: str) -> None:
    """A layer that is garbage-collected without close() closes its database, although it had a watcher."""
    layer: AIOSQLiteChannelLayer | None = AIOSQLiteChannelLayer(path=file if file == ":memory:" else tmp_path / file)
    assert layer is not None
    database = await opened(layer)
    await layer.send("x", {"type": "x"})
    await layer.receive("x")  # starts a watcher
    del layer
    gc.collect()
    await until(lambda: is_closed(database))


async def test_forgotten_beside_others(make_layer: MakeLayer, path: str) -> None:
    """A forgotten layer leaves the database to those that still use it."""
    stays = make_layer()
    database = await opened(stays)
    goes: AIOSQLiteChannelLayer | None = AIOSQLiteChannelLayer(path=path)
    assert goes is not None
    await opened(goes)
    assert len(database._layers) == 2
    del goes
    gc.collect()
    await until(lambda: len(database._layers) == 1)
    await stays.send("x", {"type": "x"})


async def test_memory(make_layer: MakeLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer in memory has a database of its own, and makes no file."""
    monkeypatch.chdir(tmp_path)
    one, other = make_layer(path=":memory:"), make_layer(path=":memory:")
    assert await opened(one) is not await opened(other)
    await one.send("x", {"type": "one"})
    await other.send("x", {"type": "other"})
    assert await other.receive("x") == {"type": "other"}
    assert not list(tmp_path.iterdir())


async def test_acquire_and_release(path: str) -> None:
    """What is acquired twice by one layer is given back once; releasing what is closed is harmless."""

    class Layer:
        def capacity(self, channel: str, shared: bool, rows: Rows) -> int:
            return len(channel) + shared

    layer = Layer()
    database = await asyncio.to_thread(open_file, path, layer, layer.capacity)
    assert database.capacity(id(layer), "abc", True, Rows()) == 4
    assert await asyncio.to_thread(open_file, path, layer, layer.capacity) is database
    await asyncio.to_thread(release, database, layer)
    assert is_closed(database)
    await asyncio.to_thread(release, database, layer)
    await asyncio.to_thread(release, database, None)


async def test_settings_of_the_connection(layer: AIOSQLiteChannelLayer) -> None:
    """WAL, synchronous=NORMAL, no memory map, no automatic checkpoint, and no waiting for locks."""
    database = await opened(layer)
    expected = {
        "journal_mode": "wal",
        "synchronous": 1,
        "mmap_size": 0,
        "wal_autocheckpoint": 0,
        "busy_timeout": 0,
        "journal_size_limit": apsw_database.JOURNAL_LIMIT,
    }
    assert {name: database._connection.pragma(name) for name in expected} == expected


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_private(make_layer: MakeLayer, path: str, tmp_path: Path, umask: int) -> None:
    """The database and all its companions are their owner's alone, whatever the umask."""
    before = os.umask(umask)
    try:
        await make_layer().send("x", {"type": "x"})
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) & 0o077 for name in os.listdir(tmp_path)}
    assert modes == {f"channels.sqlite3{suffix}": 0 for suffix in ("", "-bell", "-inbox", "-shm", "-wal")}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_rights_of_an_existing_file(make_layer: MakeLayer, path: str, tmp_path: Path) -> None:
    """A file that is there keeps its rights, and its companions have the same."""
    Path(path).touch()
    os.chmod(path, 0o660)
    await make_layer().send("x", {"type": "x"})
    modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    assert modes.pop("channels.sqlite3-inbox") == 0o770
    assert modes == {f"channels.sqlite3{suffix}": 0o660 for suffix in ("", "-bell", "-shm", "-wal")}


# A locked database.


async def test_busy_comes_at_once(layer: AIOSQLiteChannelLayer, locker: Locker) -> None:
    """A statement that meets a lock fails at once, and does not wait on the loop's thread."""
    database = await opened(layer)
    assert database._connection.pragma("busy_timeout") == 0
    locker.lock()
    with pytest.raises(Locked):
        database.send("", Write(store.send, ("", "x", None, b"", id(layer), "x", False, 1_000)))
    locker.unlock()


class Heart:
    """A task that beats as long as the loop runs."""

    def __init__(self) -> None:
        self.beats = 0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.beats += 1

    async def beat(self, times: int) -> None:
        """Wait until it has beaten this often."""
        enough = self.beats + times
        await until(lambda: self.beats >= enough)

    def stop(self) -> None:
        self._task.cancel()


@pytest.fixture
async def heart() -> Any:
    """A heart that beats during the test."""
    heart = Heart()
    yield heart
    heart.stop()


WRITES = {
    "send": lambda layer: layer.send("x", {"type": "x"}),
    "group_send": lambda layer: layer.group_send("group", {"type": "x"}),
    "group_add": lambda layer: layer.group_add("group", "y"),
    "group_discard": lambda layer: layer.group_discard("group", "x"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_waits_without_blocking(
    layer: AIOSQLiteChannelLayer, locker: Locker, heart: Heart, write: Callable[[AIOSQLiteChannelLayer], Any]
) -> None:
    """While a call waits for the lock the loop goes on, and the call succeeds when the lock is free."""
    await layer.group_add("group", "x")
    locker.lock()
    writing = asyncio.create_task(write(layer))
    await heart.beat(30)
    assert not writing.done()
    locker.unlock()
    await asyncio.wait_for(writing, PATIENCE)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_deadline(
    hasty: AIOSQLiteChannelLayer, locker: Locker, heart: Heart, path: str, write: Callable[[AIOSQLiteChannelLayer], Any]
) -> None:
    """At the deadline a call fails with an error that names the file, and has changed nothing."""
    await hasty.group_add("group", "x")
    locker.lock()
    with pytest.raises(DatabaseBusy, match=f"The database {path} was locked by somebody else for 0.1 s"):
        await write(hasty)
    locker.unlock()
    assert heart.beats > 0
    database = await opened(hasty)
    assert database.read(lambda execute: execute("SELECT * FROM channels_lite_message", ())) == []
    members = database.read(lambda execute: execute("SELECT queue FROM channels_lite_membership", ()))
    assert members == [("x",)]


async def test_deadline_from_settings(make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is the timeout in the alias's OPTIONS."""
    monkeypatch.setitem(settings.DATABASES["channels"], "OPTIONS", {"timeout": 0.05})
    layer = make_layer(database="channels")
    await opened(layer)
    locker = Locker(layer.file())
    locker.lock()
    with pytest.raises(DatabaseBusy, match=r"for 0\.05 s"):
        await layer.send("x", {"type": "x"})
    locker.connection.close()


async def test_flush_and_cleaning_meet_the_deadline(hasty: AIOSQLiteChannelLayer, locker: Locker, heart: Heart) -> None:
    """What runs beside the loop waits for the lock as long as the others, and then fails like them."""
    await hasty.send("x", {"type": "x"})
    await hasty.send("x", {"type": "x"}, expiry=0.001)
    locker.lock()
    for call in (hasty.flush, hasty.clean_expired):
        with pytest.raises(DatabaseBusy, match=r"for 0\.1 s"):
            await call()
    locker.unlock()
    assert heart.beats > 0
    assert await hasty.clean_expired() == (1, 0)
    assert await hasty.receive("x") == {"type": "x"}


@pytest.mark.parametrize("specific", [False, True], ids=["normal", "process-specific"])
async def test_receiver_at_a_locked_database(
    hasty: AIOSQLiteChannelLayer, make_layer: MakeLayer, locker: Locker, heart: Heart, specific: bool
) -> None:
    """A receiver that cannot claim because of a lock goes on trying past every deadline, and blocks nobody."""
    channel = await hasty.new_channel() if specific else "x"
    message = {"type": "x", "text": "too long to be handed over " * 10_000}
    await make_layer().send(channel, message)
    locker.lock()
    receiving = asyncio.create_task(hasty.receive(channel))
    await heart.beat(200)
    assert not receiving.done()
    locker.unlock()
    assert await asyncio.wait_for(receiving, PATIENCE) == message


async def test_closed_while_a_send_waits(layer: AIOSQLiteChannelLayer, locker: Locker, heart: Heart) -> None:
    """Closing the layer ends a call that waits for the lock."""
    locker.lock()
    sending = asyncio.create_task(layer.send("x", {"type": "x"}))
    await heart.beat(10)
    await layer.close()
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(sending, PATIENCE)
    locker.unlock()


async def test_threads_take_turns(layer: AIOSQLiteChannelLayer) -> None:
    """Statements of several threads on the one connection take turns, and each learns of its own rows."""
    database = await opened(layer)

    async def write(name: str) -> list[tuple[Sequence[str], list[str]]]:
        def in_thread() -> list[tuple[Sequence[str], list[str]]]:
            arguments = ("", name, b"", id(layer), 60_000)
            return [database.send("", Write(store.group_send, arguments)) for _ in range(50)]

        return await asyncio.to_thread(in_thread)

    for name in ("a", "b"):
        await layer.group_add(name, name)
    assert await asyncio.gather(write("a"), write("b")) == [[([name], [name])] * 50 for name in ("a", "b")]


async def test_open_that_fails(make_layer: MakeLayer, path: str) -> None:
    """Where the bell cannot be made, no attempt leaves a descriptor behind, and later ones can succeed."""
    os.mkdir(f"{path}-bell")
    layer = make_layer()
    for _ in range(3):
        with pytest.raises(SchemaError, match=r"bell .* cannot be made: Is a directory"):
            await opened(layer)
    os.rmdir(f"{path}-bell")
    await layer.close()
    assert await opened(layer)


async def test_no_database(make_layer: MakeLayer, path: str) -> None:
    """A file that is no database is an error that names it, every time, and is left as it is."""
    Path(path).write_text("not a database, and long enough to be taken for one" * 100)
    layer = make_layer()
    for _ in range(2):
        with pytest.raises(SchemaError, match=f"{path} is not a SQLite database"):
            await opened(layer)
    assert Path(path).read_text().startswith("not a database")


async def test_a_groups_message_that_is_received_at_once(
    layer: AIOSQLiteChannelLayer, locker: Locker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes a group's message before its sender asks where it went: that does not count as dropped."""
    locker.connection.set_busy_timeout(0)
    asked, ask = [], store.queues

    def too_late(*arguments: Any) -> Any:
        with contextlib.suppress(apsw.BusyError):
            locker.connection.execute("DELETE FROM channels_lite_message")
        asked.append(ask(*arguments))
        return asked[-1]

    monkeypatch.setattr(store, "queues", too_late)
    await layer.group_add("group", "jobs")
    await layer.group_send("group", {"type": "x"})
    assert asked == [[("", "jobs")]]
    assert not layer.drops.by_reason
