"""The keeper: checkpoints, trimming and jobs, all of it away from the loops' threads."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest

from channels_lite import apsw_database, store
from channels_lite import keeper as module
from channels_lite.apsw_database import Spare
from channels_lite.errors import Locked
from channels_lite.keeper import Keeper
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.schema import Execute
from tests.patience import PATIENCE, until

NEVER = 3600.0  # seconds between two rounds, where a test asks for its own

MakeLayer = Callable[..., AIOSQLiteChannelLayer]


class Other:
    """A connection of somebody else's to the test's file."""

    def __init__(self, path: str) -> None:
        self.connection = apsw.Connection(path)
        self.connection.set_busy_timeout(5_000)

    def run(self, sql: str, *values: Any) -> list[Any]:
        return self.connection.execute(sql, values).fetchall()

    def count(self, table: str) -> int:
        return int(self.run(f"SELECT count(*) FROM channels_lite_{table}")[0][0])


@pytest.fixture
async def ready(layer: AIOSQLiteChannelLayer) -> AIOSQLiteChannelLayer:
    """A layer that has opened its database."""
    await layer.group_discard("nobody", "x")
    return layer


@pytest.fixture
def other(ready: AIOSQLiteChannelLayer, path: str) -> Iterator[Other]:
    """Somebody else's connection, closed in the end."""
    other = Other(path)
    yield other
    other.connection.close()


@pytest.fixture
def keeper(ready: AIOSQLiteChannelLayer, path: str) -> Iterator[Keeper]:
    """A running keeper of the test's file, beside the layer's own."""
    keeper = keeper_on(path)
    keeper.start()
    yield keeper
    keeper._jobs.clear()
    keeper.stop()


def keeper_on(path: str) -> Keeper:
    """A keeper as the apsw layer has it."""
    return Keeper(path, lambda: Spare(path, apsw_database.LOCK_WAIT_MS))


def keeper_of(layer: AIOSQLiteChannelLayer) -> Keeper:
    """The keeper of a layer's database."""
    assert layer._database is not None
    return layer._database.keeper


def wait_for(event: threading.Event) -> None:
    """Wait for what happens in the keeper's thread."""
    assert event.wait(PATIENCE)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads in which checkpoints ran, as they come; how each ended is behind the name."""
    threads: list[str] = []
    checkpoint = Spare.checkpoint

    def noted(spare: Spare) -> bool:
        name = threading.current_thread().name
        begins_anew = checkpoint(spare)
        threads.append(name if begins_anew else f"{name}: busy")
        return begins_anew

    monkeypatch.setattr(Spare, "checkpoint", noted)
    return threads


async def test_wal_begins_anew(
    make_layer: MakeLayer, path: str, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a steady stream of messages the -wal begins anew again and again, and no checkpoint runs on the loop."""
    monkeypatch.setattr(module, "CHECKPOINT_PAGES", 500)
    layer = make_layer()
    await layer.send("x", {"type": "x"})
    await layer.receive("x")
    assert layer._database is not None
    keeper, pages = layer._database.keeper, [0]
    monkeypatch.setattr(keeper, "committed", lambda count: (pages.append(count), Keeper.committed(keeper, count)))
    for _ in range(50_000):
        await layer.send("x", {"type": "x", "text": "y" * 500})
        await layer.receive("x")
        if sum(one > other for one, other in itertools.pairwise(pages)) == 3:
            break
    else:
        raise AssertionError(checkpoints)
    assert set(checkpoints) <= {f"channels_lite keeper of {path}", f"channels_lite keeper of {path}: busy"}
    assert layer._database._connection.pragma("wal_autocheckpoint") == 0


async def test_slow_reader(
    make_layer: MakeLayer, path: str, checkpoints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader with an old snapshot does not stop the senders; the checkpoint is tried again, and works without it."""
    monkeypatch.setattr(module, "CHECKPOINT_PAGES", 100)
    layer = make_layer()
    await layer.send("x", {"type": "x"})
    reader = Other(path)
    reader.run("BEGIN")
    reader.count("message")
    message = {"type": "x", "text": "y" * 5_000}

    async def pump(enough: Callable[[], bool]) -> None:
        for _ in range(50_000):
            await layer.send("x", message)
            await layer.receive("x")
            if enough():
                return
        raise AssertionError(checkpoints)

    await pump(lambda: len([how for how in checkpoints if how.endswith("busy")]) >= 3)
    assert all(how.endswith("busy") for how in checkpoints)
    reader.run("ROLLBACK")
    reader.connection.close()
    await pump(lambda: not checkpoints[-1].endswith("busy"))


def test_when_a_checkpoint_is_due(path: str) -> None:
    """A checkpoint is due at the threshold, and again when as much has come on top or the -wal has begun anew."""
    keeper = keeper_on(path)
    full = module.CHECKPOINT_PAGES
    due = []
    for pages in (1, full - 1, full, full + 1, 2 * full - 1, 2 * full, 2 * full + 1, 1, full):
        keeper.committed(pages)
        if keeper._checkpoint_due:
            due.append(pages)
            keeper._checkpoint_due = False
    assert due == [full, 2 * full, full]


def fill_with_expired(other: Other, number: int) -> None:
    """Expired messages in several queues, and as many expired memberships."""
    other.run(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?) "
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
        "SELECT 'p', 'q' || n % 7, x'', 1 FROM n",
        number,
    )
    other.run(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?) "
        "INSERT INTO channels_lite_membership (prefix, group_name, queue, local, joined_at, expires_at) "
        "SELECT 'p', 'g', 'member' || n, '', 0, 1 FROM n",
        number,
    )


async def test_trim(
    ready: AIOSQLiteChannelLayer, other: Other, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With auto_trim, what has expired is removed in small batches, and what is live stays."""
    batches: list[tuple[int, int]] = []
    trim = store.trim

    def noted(execute: Execute) -> tuple[int, int]:
        batches.append(trim(execute))
        return batches[-1]

    await ready.send("live", {"type": "x"})
    await ready.group_add("g", "live")
    number = 3 * store.TRIM_BATCH + 7
    fill_with_expired(other, number)
    monkeypatch.setattr(store, "trim", noted)
    keeper.look_after(ready, 0.001, trim=True)
    await until(lambda: [sum(kind) for kind in zip(*batches, strict=True)] == [number, number])
    assert (other.count("message"), other.count("membership")) == (1, 1)
    assert max(max(batch) for batch in batches) == store.TRIM_BATCH
    assert await ready.receive("live") == {"type": "x"}


async def test_trim_at_a_locked_database(
    ready: AIOSQLiteChannelLayer, other: Other, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that meets a lock is tried again soon, and not with the next sweep: others may write all the time."""
    tries: list[float] = []
    trim = store.trim

    def locked_at_first(execute: Execute) -> tuple[int, int]:
        tries.append(time.monotonic())
        keeper._next_sweep = tries[-1] + NEVER
        if len(tries) < 3:
            raise Locked("the database is locked")
        return trim(execute)

    fill_with_expired(other, 1)
    monkeypatch.setattr(store, "trim", locked_at_first)
    keeper.look_after(ready, 0.001, trim=True)
    await until(lambda: other.count("message") == 0)


async def test_trim_takes_channels_out_of_groups(ready: AIOSQLiteChannelLayer, other: Other, keeper: Keeper) -> None:
    """A message that the keeper finds expired and unread takes its channel out of its groups."""
    await ready.group_add("g", "x")
    await ready.group_add("g", "y")
    await ready.send("x", {"type": "x"}, expiry=0.001)
    keeper.look_after(ready, 0.001, trim=True)
    await until(lambda: other.run("SELECT queue FROM channels_lite_membership") == [("y",)])


async def test_no_trim(ready: AIOSQLiteChannelLayer, other: Other, keeper: Keeper) -> None:
    """Without auto_trim, mailboxes are swept, and the database is left as it is."""
    swept = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Layer:
        def sweep(self, execute: Execute) -> None:
            loop.call_soon_threadsafe(swept.set)

    layer = Layer()
    fill_with_expired(other, 10)
    keeper.look_after(layer, 0.001, trim=False)
    for _ in range(2):
        await asyncio.wait_for(swept.wait(), PATIENCE)
        swept.clear()
    assert (other.count("message"), other.count("membership")) == (10, 10)


@pytest.mark.parametrize(("options", "trims"), [({}, True), ({"auto_trim": True}, True), ({"auto_trim": False}, False)])
async def test_option(make_layer: MakeLayer, options: dict[str, bool], trims: bool) -> None:
    """The option auto_trim reaches the keeper, whose rounds come at half the expiry, between 1 and 30 seconds."""
    layer = make_layer(expiry=10, **options)
    await layer.send("x", {"type": "x"})
    keeper = keeper_of(layer)
    assert (keeper._trims, keeper._interval) == (trims, 5)


async def test_forgotten_layers(ready: AIOSQLiteChannelLayer, keeper: Keeper) -> None:
    """A keeper does not keep the layers alive whose mailboxes it sweeps."""

    class Layer:
        def sweep(self, execute: Execute) -> None:
            raise AssertionError

    keeper.look_after(Layer(), NEVER, trim=False)
    assert not list(keeper._layers)


def test_jobs(keeper: Keeper, other: Other) -> None:
    """Jobs run one after the other, in the keeper's thread, on a connection that waits for locks."""
    ran: list[tuple[int, str]] = []
    done = threading.Event()

    def job(number: int) -> Callable[[Execute], None]:
        def run(execute: Execute) -> None:
            assert execute("PRAGMA busy_timeout", ()) == [(apsw_database.LOCK_WAIT_MS,)]
            assert execute("PRAGMA wal_autocheckpoint", ()) == [(0,)]
            assert execute("PRAGMA synchronous", ()) == [(1,)]
            ran.append((number, threading.current_thread().name))

        return run

    for number in range(3):
        keeper.ask(job(number))
    keeper.ask(lambda execute: done.set())
    wait_for(done)
    assert ran == [(number, keeper._thread.name) for number in range(3)]


async def test_inline(keeper: Keeper) -> None:
    """A short job runs in the caller's thread where no other comes first, and otherwise not at all."""
    ran: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def run(execute: Execute) -> None:
        ran.append(threading.current_thread().name)

    def locked(execute: Execute) -> None:
        raise Locked("simulated")

    keeper.ask(lambda execute: None)  # it opens its connection
    await until(lambda: keeper.inline(run))
    assert ran == [threading.current_thread().name]
    assert not keeper.inline(locked)
    keeper.ask(lambda execute: (begun.set(), go_on.wait(PATIENCE)))
    assert await asyncio.to_thread(begun.wait, PATIENCE)
    assert not keeper.inline(run)  # the connection is in use
    go_on.set()
    await until(lambda: keeper.inline(run))
    assert len(ran) == 2


def fail(execute: Execute) -> None:
    raise RuntimeError("simulated")


def test_job_that_fails(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """A job that raises is logged with its traceback, and the others run."""
    done = threading.Event()
    keeper.ask(fail)
    keeper.ask(lambda execute: done.set())
    wait_for(done)
    assert "RuntimeError: simulated" in caplog.text
    assert {record.name for record in caplog.records} == {"channels_lite.keeper"}


async def test_sweep_that_fails(ready: AIOSQLiteChannelLayer, keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    """A layer whose sweep raises is logged and keeps neither trimming nor the other layers' sweeps from being done."""
    swept = threading.Event()

    class Bad:
        sweep = staticmethod(fail)

    class Good:
        def sweep(self, execute: Execute) -> None:
            swept.set()

    layers = [*(Bad() for _ in range(10)), Good()]
    for layer in layers:
        keeper.look_after(layer, 0.001, trim=True)
    assert await asyncio.to_thread(swept.wait, PATIENCE)
    await until(lambda: "RuntimeError: simulated" in caplog.text)


async def test_job_at_a_locked_database(
    keeper: Keeper, other: Other, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that met a locked database for too long is done in a later round; it is not forgotten."""
    monkeypatch.setattr(apsw_database, "LOCK_WAIT_MS", 10)
    caplog.set_level(logging.DEBUG, "channels_lite.keeper")
    other.run("INSERT INTO channels_lite_membership VALUES ('', 'g', 'x', '', 0, 1)")
    other.run("BEGIN IMMEDIATE")
    keeper.ask(lambda execute: store.evict(execute, "", "x", "", 1))
    await until(lambda: "locked" in caplog.text)
    other.run("ROLLBACK")
    keeper.ask(lambda execute: None)
    await until(lambda: other.count("membership") == 0)


def test_stop_finishes_jobs(keeper: Keeper) -> None:
    """Stopping waits for the jobs that were asked for, and may be repeated."""
    begun, go_on = threading.Event(), threading.Event()
    ran: list[int] = []

    def job(execute: Execute) -> None:
        begun.set()
        wait_for(go_on)

    keeper.ask(job)
    for number in range(3):
        keeper.ask(lambda execute, number=number: ran.append(number))  # type: ignore[misc]
    wait_for(begun)
    stopping = threading.Thread(target=keeper.stop)
    stopping.start()
    go_on.set()
    stopping.join(PATIENCE)
    assert not keeper._thread.is_alive()
    assert ran == [0, 1, 2]
    keeper.stop()


def test_stop_does_not_wait_for_ever(keeper: Keeper) -> None:
    """A job that hangs holds stop() up only until its timeout."""
    begun, go_on = threading.Event(), threading.Event()

    def job(execute: Execute) -> None:
        begun.set()
        wait_for(go_on)

    keeper.ask(job)
    wait_for(begun)
    keeper.stop(timeout=0.01)
    assert keeper._thread.is_alive()
    go_on.set()


def test_stop_from_within(keeper: Keeper) -> None:
    """A job may stop its own keeper without waiting for itself."""
    keeper.ask(lambda execute: keeper.stop())
    keeper._thread.join(PATIENCE)
    assert not keeper._thread.is_alive()


def test_database_that_cannot_be_opened(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper whose file is gone says so, does not spin, and can be stopped."""
    keeper = keeper_on(str(tmp_path / "gone.sqlite3"))
    said = []
    first = threading.Event()

    def note(*arguments: Any, exc_info: bool) -> None:
        said.append(arguments)
        first.set()

    monkeypatch.setattr(module.logger, "log", note)
    keeper.ask(lambda execute: None)
    keeper.start()
    wait_for(first)
    keeper.stop(timeout=1.0)
    alive = keeper._thread.is_alive()
    keeper._jobs.clear()  # it must not spin on through the other tests
    keeper._thread.join(PATIENCE)
    assert not alive
    assert [level for level, *_ in said] == [logging.ERROR] + [logging.DEBUG] * (len(said) - 1)
    assert len(said) < 10


async def test_memory() -> None:
    """A database in memory is trimmed by its keeper too, on its only connection."""
    layer = AIOSQLiteChannelLayer(path=":memory:")
    await layer.send("x", {"type": "x"}, expiry=0.001)
    keeper_of(layer).look_after(layer, 0.001, trim=True)
    database = layer._database
    assert database is not None
    await until(lambda: database.read(lambda execute: execute("SELECT * FROM channels_lite_message", ())) == [])
    await layer.close()


async def test_a_lock_that_a_signal_handler_has_left(keeper: Keeper) -> None:
    """What this thread holds without being in a job, because a handler raised at that moment, it gives back."""
    done, results = threading.Event(), list[bool]()
    keeper.ask(lambda execute: done.set())
    wait_for(done)
    await until(lambda: keeper._working.acquire(blocking=False))
    assert keeper.inline(lambda execute: results.append(keeper.inline(lambda execute: None)))
    assert results == [False]  # within a job it is in use
    done.clear()
    keeper.ask(lambda execute: (results.append(keeper.inline(lambda execute: None)), done.set()))
    wait_for(done)
    assert results == [False, False]  # and the keeper's own thread has it as long as it works
    assert keeper._thread.is_alive()
