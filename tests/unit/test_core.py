"""What is particular to the layer on Django's connection: the caller's transaction, wakes, threads, locks."""

import asyncio
import contextlib
import gc
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import apsw
import pytest
from asgiref.sync import AsyncToSync, async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.exceptions import ChannelFull
from django.core.handlers.asgi import ASGIHandler
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import override_settings
from django.urls import path as url

from channels_lite import django_database, link, schema, store
from channels_lite import keeper as keeper_module
from channels_lite.errors import DatabaseBusy, LayerClosed, Locked
from channels_lite.keeper import Keeper
from channels_lite.layers.core import Request, SQLiteChannelLayer
from channels_lite.statements import executor
from tests.conformance.test_sync import apart
from tests.ear import Ear
from tests.patience import PATIENCE, until

MakeLayer = Callable[..., SQLiteChannelLayer]


class Refused(Exception):
    """What a test raises to have a transaction rolled back."""


@pytest.fixture(params=["own-wal", "own-delete", "default-wal"])
def home(request: pytest.FixtureRequest, path: str, alias: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The layer's alias: one of its own or `default`, in a journal mode, with a table of the application's."""
    where, _, mode = request.param.partition("-")
    with contextlib.closing(sqlite3.connect(path)) as application:
        application.execute(f"PRAGMA journal_mode = {mode}")
        application.execute("CREATE TABLE shop_order (number INTEGER)")
    name = "default" if where == "default" else alias
    connections["default"].close()
    monkeypatch.setitem(connections.settings[name], "NAME", path)
    backend = f"{SQLiteChannelLayer.__module__}.{SQLiteChannelLayer.__name__}"
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend, "CONFIG": {"database": name}}}):
        yield name
    connections[name].close()


only = pytest.mark.parametrize("home", ["own-wal"], indirect=True)
in_both_modes = pytest.mark.parametrize("home", ["own-wal", "own-delete"], indirect=True)


@pytest.fixture
def make(home: str) -> Iterator[MakeLayer]:
    """Make layers that never look unasked, with `jobs` in the group `group`; they are closed afterwards."""
    layers: list[SQLiteChannelLayer] = []

    def make_one(**options: Any) -> SQLiteChannelLayer:
        layers.append(SQLiteChannelLayer(**{"database": home, "polling_interval": None, **options}))
        return layers[-1]

    yield make_one
    for layer in layers:
        async_to_sync(layer.close)()


@pytest.fixture
def layer(make: MakeLayer) -> SQLiteChannelLayer:
    """The layer that sends."""
    layer = make()
    async_to_sync(layer.group_add)("group", "jobs")
    return layer


@pytest.fixture
def ear(layer: SQLiteChannelLayer, make: MakeLayer) -> Iterator[Ear]:
    """Another layer that waits on `jobs` in another thread."""
    ear = Ear(make())
    yield ear
    ear.close()


def rows(path: str, table: str = "channels_lite_message") -> int:
    """How many rows somebody else sees."""
    with contextlib.closing(sqlite3.connect(path)) as other:
        return int(other.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def tell(layer: SQLiteChannelLayer, word: str) -> None:
    """Send from synchronous code."""
    async_to_sync(layer.send)("jobs", {"type": word})


def tell_group(layer: SQLiteChannelLayer, word: str) -> None:
    """Send to a group from synchronous code."""
    async_to_sync(layer.group_send)("group", {"type": word})


def in_this_thread(work: Callable[[], None]) -> None:
    work()


def in_djangos_thread(work: Callable[[], None]) -> None:
    asyncio.run(sync_to_async(work)())


def in_a_pool_thread(work: Callable[[], None]) -> None:
    asyncio.run(sync_to_async(work, thread_sensitive=False)())


def below_two_bridges(work: Callable[[], None]) -> None:
    """Synchronous code, called by a coroutine that synchronous code has called."""
    async_to_sync(sync_to_async(work))()


everywhere = pytest.mark.parametrize(
    "where", [in_this_thread, in_djangos_thread, in_a_pool_thread, below_two_bridges], ids=lambda f: f.__name__
)
any_way = pytest.mark.parametrize("say", [tell, tell_group], ids=lambda f: f.__name__)


# The caller's transaction.


@everywhere
@any_way
def test_a_send_belongs_to_the_transaction(home, path, layer, ear, where, say):
    """Nobody sees it before the commit, everybody does after it, without a poll; nobody ever after a rollback."""

    def work():
        with contextlib.closing(connections[home]):
            with transaction.atomic(using=home):
                say(layer, "one")
                say(layer, "two")
                assert rows(path) == 0
                assert ear.hears_nothing()
            assert [ear.next()["type"] for _ in range(2)] == ["one", "two"]
            with contextlib.suppress(Refused), transaction.atomic(using=home):
                say(layer, "never")
                raise Refused
            with transaction.atomic(using=home):
                say(layer, "neither")
                transaction.set_rollback(True, using=home)
            assert rows(path) == 0
            say(layer, "end")
            assert ear.next()["type"] == "end"

    where(work)


@any_way
def test_nested_blocks(home, layer, ear, say):
    """What a savepoint rolls back is never seen, and the rest only when the outermost block commits."""
    with transaction.atomic(using=home, durable=True):
        say(layer, "outer")
        with transaction.atomic(using=home):
            say(layer, "inner")
            with contextlib.suppress(Refused), transaction.atomic(using=home):
                say(layer, "never")
                raise Refused
        assert ear.hears_nothing()
        with transaction.atomic(using=home):
            say(layer, "neither")
            transaction.set_rollback(True, using=home)
        with transaction.atomic(using=home, savepoint=False):
            say(layer, "last")
        assert ear.hears_nothing()
    assert [ear.next()["type"] for _ in range(3)] == ["outer", "inner", "last"]
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        with transaction.atomic(using=home):
            say(layer, "kept by the inner block alone")
        raise Refused
    say(layer, "end")
    assert ear.next()["type"] == "end"


@only
def test_durable(home, layer):
    """A send opens no block of its own around which a durable one would be refused, and is none itself."""
    tell(layer, "before")
    with transaction.atomic(using=home, durable=True):
        tell(layer, "inside")
    with transaction.atomic(using=home):
        tell(layer, "outer")
        with pytest.raises(RuntimeError, match="durable"), transaction.atomic(using=home, durable=True):
            pass


def test_the_applications_rows_and_the_messages_are_one(home, path, layer, ear):
    """An order and the message about it are both there or both not."""
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        connections[home].cursor().execute("INSERT INTO shop_order VALUES (1)")
        tell(layer, "order 1")
        raise Refused
    with transaction.atomic(using=home):
        connections[home].cursor().execute("INSERT INTO shop_order VALUES (2)")
        tell(layer, "order 2")
        assert rows(path, "shop_order") == rows(path) == 0
    assert ear.next()["type"] == "order 2"
    assert rows(path, "shop_order") == 1


@only
def test_another_alias(layer, ear, tmp_path):
    """A transaction on another alias has nothing to do with the layer's."""
    other = connections.create_connection("channels")
    other.settings_dict = {**other.settings_dict, "NAME": tmp_path / "other.sqlite3"}
    try:
        other.set_autocommit(False)
        tell(layer, "at once")
        assert ear.next()["type"] == "at once"
        other.rollback()
    finally:
        other.close()


@only
def test_callbacks_of_the_user(home, layer, ear):
    """on_commit() callbacks run as ever; a message that one sends comes after those of the transaction."""
    ran = []
    with transaction.atomic(using=home):
        transaction.on_commit(lambda: (ran.append("before"), tell(layer, "of a callback")), using=home)
        tell(layer, "of the transaction")
        transaction.on_commit(lambda: ran.append("after"), using=home)
    assert ran == ["before", "after"]
    assert [ear.next()["type"] for _ in range(2)] == ["of the transaction", "of a callback"]


@only
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_callback_that_raises(home, layer, ear, when):
    """A user's on_commit() callback that fails does not keep the committed message from its receiver."""

    def fail():
        raise Refused

    @transaction.atomic(using=home)
    def work():
        if when == "before":
            transaction.on_commit(fail, using=home)
        tell(layer, "committed")
        if when == "after":
            transaction.on_commit(fail, using=home)

    with pytest.raises(Refused):
        work()
    assert ear.next()["type"] == "committed"


def test_groups_in_a_transaction(home, layer, ear):
    """Memberships begin and end with the commit, and not at all where it is rolled back."""
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        async_to_sync(layer.group_add)("others", "jobs")
        async_to_sync(layer.group_discard)("group", "jobs")
        raise Refused
    async_to_sync(layer.group_send)("others", {"type": "never a member"})
    tell_group(layer, "still a member")
    assert ear.next()["type"] == "still a member"
    with transaction.atomic(using=home):
        async_to_sync(layer.group_add)("others", "jobs")
        async_to_sync(layer.group_discard)("group", "jobs")
        async_to_sync(layer.group_send)("others", {"type": "a member from here on"})
        tell_group(layer, "no member any more")
    assert ear.next()["type"] == "a member from here on"
    tell(layer, "end")
    assert ear.next()["type"] == "end"


def test_a_full_channel_in_a_transaction(home, make, path):
    """ChannelFull undoes nothing: what was sent before is kept, and the transaction goes on."""
    layer = make(capacity=2)
    with transaction.atomic(using=home):
        tell(layer, "one")
        tell(layer, "two")
        with pytest.raises(ChannelFull):
            tell(layer, "three")
        connections[home].cursor().execute("INSERT INTO shop_order VALUES (1)")
    assert rows(path) == 2
    assert rows(path, "shop_order") == 1


@only
def test_a_transaction_receives_what_it_sent(home, layer, path):
    """receive() in a transaction finds what that has sent; a rollback gives back what was taken."""
    tell(layer, "before")
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        tell(layer, "inside")
        assert async_to_sync(layer.receive)("jobs")["type"] == "before"
        assert async_to_sync(layer.receive)("jobs")["type"] == "inside"
        raise Refused
    assert async_to_sync(layer.receive)("jobs")["type"] == "before"
    assert rows(path) == 0


# Views.


def view() -> None:
    """A test puts its own here."""


def run_view(request: HttpRequest) -> HttpResponse:
    view()
    return HttpResponse("done")


urlpatterns = [url("", run_view)]


def through_wsgi() -> None:
    Client().get("/")


def through_the_async_client() -> None:
    async def main() -> None:
        try:
            await AsyncClient().get("/")
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(main())


def through_asgi() -> None:
    """As a server does it. The handler makes its own error pages: what the view raised is raised again here."""

    async def main() -> list[dict[str, Any]]:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        application = ApplicationCommunicator(ASGIHandler(), scope)
        await application.send_input({"type": "http.request"})
        received = [await application.receive_output(PATIENCE) for _ in range(2)]
        await application.wait(PATIENCE)
        return received

    start, _ = asyncio.run(main())
    if start["status"] != 200:
        raise Refused(start["status"])


servers = pytest.mark.parametrize(
    "request_page", [through_wsgi, through_asgi, through_the_async_client], ids=lambda f: f.__name__
)


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Have the page run this function."""

    def use(function: Callable[[], None]) -> None:
        monkeypatch.setitem(globals(), "view", function)

    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[]):
        yield use


@only
@servers
def test_views(home, path, layer, ear, views, request_page):
    """In a synchronous view, what is sent in atomic() is seen after it, and what is rolled back never is."""

    def page():
        with contextlib.suppress(Refused), transaction.atomic(using=home):
            tell(layer, "never")
            raise Refused
        with transaction.atomic(using=home):
            tell(layer, "one")
            tell_group(layer, "two")
            assert rows(path) == 0
            assert ear.hears_nothing()
        assert [ear.next()["type"] for _ in range(2)] == ["one", "two"]

    views(page)
    request_page()


@only
@servers
def test_atomic_requests(home, path, layer, ear, views, request_page, monkeypatch, caplog):
    """With ATOMIC_REQUESTS, what a view sends is seen when it has returned, and never if it has raised."""
    caplog.set_level(logging.CRITICAL, "django.request")
    monkeypatch.setitem(connections.settings[home], "ATOMIC_REQUESTS", True)

    def good():
        assert connections[home].in_atomic_block
        tell(layer, "good")
        assert rows(path) == 0
        assert ear.hears_nothing()

    def bad():
        tell(layer, "bad")
        raise Refused

    views(bad)
    with pytest.raises(Refused):
        request_page()
    views(good)
    request_page()
    assert ear.next()["type"] == "good"
    tell(layer, "end")
    assert ear.next()["type"] == "end"


# Wakes for what the application's own SQL inserts.

INSERT = (
    (
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
        "VALUES ('', 'jobs', '{\"type\":\"by SQL\"}', 9999999999999)"
    )
    .replace("'{", "CAST('{")
    .replace("}'", "}' AS BLOB)")
)


def insert(home: str) -> None:
    with connections[home].cursor() as cursor:
        cursor.execute(INSERT)


@everywhere
def test_the_applications_own_sql(home, ear, where):
    """A row that Django's connection inserts wakes its receiver, after the commit and not before."""

    def work():
        with contextlib.closing(connections[home]):
            insert(home)
            assert ear.next()["type"] == "by SQL"
            with contextlib.suppress(Refused), transaction.atomic(using=home):
                insert(home)
                raise Refused
            with transaction.atomic(using=home):
                insert(home)
                assert ear.hears_nothing()
            assert ear.next()["type"] == "by SQL"
            assert ear.hears_nothing()

    where(work)


@only
def test_a_trigger_of_the_application(home, ear):
    """So does a row that a trigger on an application's table inserts."""
    connections[home].cursor().execute(f"CREATE TRIGGER tell AFTER INSERT ON shop_order BEGIN {INSERT}; END")
    connections[home].cursor().execute("INSERT INTO shop_order VALUES (1)")
    assert ear.next()["type"] == "by SQL"
    with transaction.atomic(using=home):
        connections[home].cursor().executemany("INSERT INTO shop_order VALUES (%s)", [(2,), (3,)])
        assert ear.hears_nothing()
    assert [ear.next()["type"] for _ in range(2)] == ["by SQL"] * 2


@only
@pytest.mark.parametrize("tables", ["no tables yet", "tables"])
@pytest.mark.parametrize("atomic", [False, True])
def test_a_connection_from_before_the_layer(home, make, tables, atomic):
    """A connection that was made before the layer was opened, or even its tables, is heard as well."""
    if tables == "tables":
        async_to_sync((first := make()).send)("other", {"type": "x"})
        async_to_sync(first.close)()
    connections[home].close()
    connections[home].ensure_connection()
    ear = Ear(make())
    try:
        with transaction.atomic(using=home) if atomic else contextlib.nullcontext():
            insert(home)
        assert ear.next()["type"] == "by SQL"
    finally:
        ear.close()


@only
def test_a_connection_made_anew(home, ear):
    """Django's connection is heard again after it was closed and opened again, also in the middle of things."""
    for _ in range(3):
        insert(home)
        assert ear.next()["type"] == "by SQL"
        connections[home].close()
    with transaction.atomic(using=home):
        connections[home].cursor().execute("SELECT 1")
        insert(home)
    assert ear.next()["type"] == "by SQL"


@only
def test_a_first_statement_that_is_rolled_back(home, make, layer):
    """Where the first use of a connection is rolled back, what its later statements insert is heard."""
    connections[home].close()
    with override_settings(CHANNEL_LAYERS={}):  # so that nothing is set up when the connection is made
        connections[home].ensure_connection()
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        tell(layer, "never")
        raise Refused
    ear = Ear(make())
    try:
        insert(home)
        assert ear.next()["type"] == "by SQL"
    finally:
        ear.close()


def test_several_threads(home, layer, ear):
    """Threads that insert and send at once, some rolled back: what is committed is heard once, in each one's order."""
    errors = []

    def work(name):
        try:
            with contextlib.closing(connections[home]):
                for number in range(20):
                    with contextlib.suppress(Refused), transaction.atomic(using=home):
                        connections[home].cursor().execute("INSERT INTO shop_order VALUES (1)")
                        async_to_sync(layer.send)("jobs", {"type": name, "number": number})
                        if number % 2:
                            raise Refused
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    heard = [ear.next() for _ in range(40)]
    for thread in threads:
        thread.join(PATIENCE)
    assert not errors
    for name in {message["type"] for message in heard}:
        assert [m["number"] for m in heard if m["type"] == name] == list(range(0, 20, 2))
    assert ear.hears_nothing()


# Somebody else's long transaction.


@pytest.fixture
def blocker(home: str, path: str, layer: SQLiteChannelLayer) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's, for a long transaction; the layer is open already."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


@pytest.fixture
def impatient(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the layers and connections that are made from now on wait 0.3 s for a lock."""
    monkeypatch.setitem(connections.settings[home]["OPTIONS"], "timeout", 0.3)


async def a_few_beats() -> None:
    """Returns when the loop has gone round in peace; what blocks the loop would never let it."""
    for _ in range(20):
        await asyncio.sleep(0.002)


@in_both_modes
async def test_a_send_waits_without_blocking_the_loop(layer, blocker):
    """While somebody else writes, sends wait and the loop goes on; when that ends they go through, in order."""
    await layer.send("other", {"type": "x"})
    blocker.execute("BEGIN IMMEDIATE")
    calls = [
        asyncio.ensure_future(layer.send("jobs", {"type": "one"})),
        asyncio.ensure_future(layer.group_send("group", {"type": "two"})),
        asyncio.ensure_future(layer.group_add("others", "jobs")),
    ]
    await a_few_beats()
    assert not any(call.done() for call in calls)
    blocker.execute("COMMIT")
    await asyncio.wait_for(asyncio.gather(*calls), PATIENCE)
    received = {(await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["type"] for _ in range(2)}
    assert received == {"one", "two"}


@in_both_modes
@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_the_deadline(impatient, make, blocker, path, lock):
    """At the deadline, every call ends with DatabaseBusy, has changed nothing, and works again later."""
    layer = make()

    async def main():
        await layer.group_add("group", "jobs")
        blocker.execute(f"BEGIN {lock}")
        results = await asyncio.gather(
            layer.send("jobs", {"type": "x"}),
            layer.group_send("group", {"type": "x"}),
            layer.group_add("others", "jobs"),
            layer.group_discard("group", "jobs"),
            layer.flush(),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [DatabaseBusy] * 5
        blocker.execute("COMMIT")
        await layer.send("end", {"type": "x"})

    asyncio.run(main())
    assert rows(path) == 1
    assert rows(path, "channels_lite_membership") == 1


@in_both_modes
@everywhere
@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("connected", [False, True])
def test_the_deadline_in_synchronous_code(home, impatient, make, blocker, path, where, lock, connected):
    """The same from synchronous code, with and without a transaction of its own, on a new connection and an old one."""
    layer = make()
    connections[home].close()
    tell(layer, "first")
    connections[home].close()

    def work():
        with contextlib.closing(connections[home]):
            if connected:
                tell(layer, "connected")
            before = rows(path)
            blocker.execute(f"BEGIN {lock}")
            with pytest.raises(DatabaseBusy):
                tell(layer, "x")
            with pytest.raises(DatabaseBusy), transaction.atomic(using=home):
                tell(layer, "x")
            blocker.execute("COMMIT")
            assert rows(path) == before
            tell(layer, "end")

    where(work)


@in_both_modes
def test_a_transaction_that_cannot_begin_to_write(home, impatient, layer, blocker, ear):
    """A transaction that has read cannot write after another's commit: DatabaseBusy says what helps."""
    with transaction.atomic(using=home):
        assert list(connections[home].cursor().execute("SELECT * FROM shop_order")) == []
        blocker.execute("BEGIN IMMEDIATE")
        blocker.execute("INSERT INTO shop_order VALUES (1)")
        if blocker.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            blocker.execute("COMMIT")
        with pytest.raises(DatabaseBusy, match="transaction_mode"):
            tell(layer, "never")
        connections[home].cursor().execute("SELECT 1")
    if blocker.in_transaction:
        blocker.execute("COMMIT")
    tell(layer, "afterwards")
    assert ear.next()["type"] == "afterwards"


@in_both_modes
def test_receivers_outlast_a_lock(ear, layer, blocker):
    """A receiver that met somebody's lock receives when that is gone."""
    blocker.execute("BEGIN IMMEDIATE")
    blocker.execute(INSERT)
    assert ear.hears_nothing()
    blocker.execute("COMMIT")
    blocker.execute("BEGIN IMMEDIATE")  # the message is there to see, but nobody can take it
    ear._loop.call_soon_threadsafe(ear.layer.look)
    blocker.execute("COMMIT")
    assert ear.next()["type"] == "by SQL"


# receive().


@only
async def test_cancelled_at_any_moment(layer, make):
    """However far a receive() has got when it is cancelled, the message is there for the next."""
    other = make()
    for steps in range(40):
        await layer.send("jobs", {"type": "x", "number": steps})
        receiving = asyncio.ensure_future(layer.receive("jobs"))
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        await asyncio.sleep(0.0002 * (steps % 8))
        if receiving.done():
            assert receiving.result()["number"] == steps
            continue
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            assert (await receiving)["number"] == steps
            continue
        assert (await asyncio.wait_for(other.receive("jobs"), PATIENCE))["number"] == steps


async def claimed_by_the_keeper(layer: SQLiteChannelLayer) -> "asyncio.Task[dict[str, Any]]":
    """A task in receive() on `jobs` whose message the keeper has claimed, and which does not know it yet."""
    receiving = asyncio.ensure_future(layer.receive("jobs"))
    await until(lambda: layer._mailboxes.queues() == 1)
    await layer._ask(layer._database, lambda execute: None)
    claimed = threading.Event()

    def claim(execute):
        store.send(execute, "", "jobs", None, b'{"type":"claimed"}', id(layer), "jobs", False, 60_000)
        layer._claim("jobs", execute)
        claimed.set()

    layer._database.keeper.ask(claim)
    assert claimed.wait(PATIENCE)  # meanwhile the loop stands still
    return receiving


@only
@pytest.mark.parametrize("locked", [False, True])
async def test_cancelled_between_claim_and_hand_over(layer, make, blocker, locked, path):
    """A message that the keeper claimed for a receive() that was cancelled meanwhile is in front again."""
    receiving = await claimed_by_the_keeper(layer)
    assert rows(path) == 0
    if locked:
        blocker.execute("BEGIN IMMEDIATE")
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    if locked:
        await a_few_beats()
        blocker.execute("COMMIT")
    await layer.send("jobs", {"type": "later"})
    received = [(await asyncio.wait_for(make().receive("jobs"), PATIENCE))["type"] for _ in range(2)]
    assert received == ["claimed", "later"]


@only
async def test_who_waits_already_hears_what_was_put_back(layer, make):
    """A message that is put back wakes a receiver elsewhere who looked while it was claimed."""
    await layer._ready()
    receiving = await claimed_by_the_keeper(layer)
    ear = Ear(make())  # the loop stands still: it looks before the cancelled task goes on
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    try:
        assert (await asyncio.to_thread(ear.next))["type"] == "claimed"
    finally:
        await asyncio.to_thread(ear.close)


@only
@pytest.mark.parametrize("specific", [False, True])
async def test_many_receivers_of_one_channel(layer, specific):
    """A hundred receivers of a channel share a hundred messages, whoever sends them how."""
    channel = await layer.new_channel() if specific else "jobs"
    tasks = [asyncio.ensure_future(layer.receive(channel)) for _ in range(100)]
    await until(lambda: layer._mailboxes.queues() == 1)
    for number in range(0, 100, 2):
        await layer.send(channel, {"type": "x", "number": number})
        await sync_to_async(async_to_sync(layer.send))(channel, {"type": "x", "number": number + 1})
    received = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
    assert sorted(message["number"] for message in received) == list(range(100))
    await sync_to_async(connections.close_all)()


@only
@pytest.mark.parametrize("specific", [False, True])
def test_two_loops(layer, specific):
    """Two loops in two threads share the messages of a channel that a third sends."""
    channel = async_to_sync(layer.new_channel)() if specific else "jobs"
    shares: list[list[int]] = [[], []]

    async def receive(share):
        while True:
            number = (await layer.receive(channel))["number"]
            if number < 0:
                return
            share.append(number)

    threads = [threading.Thread(target=lambda share=share: asyncio.run(receive(share))) for share in shares]
    for thread in threads:
        thread.start()
    for number in range(300):
        while True:
            try:
                async_to_sync(layer.send)(channel, {"type": "x", "number": number})
                break
            except ChannelFull:
                continue
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(ChannelFull):
            async_to_sync(layer.send)(channel, {"type": "x", "number": -1})
    assert sorted(shares[0] + shares[1]) == list(range(300))


@only
async def test_a_rolled_back_claim_is_nobody_elses(home, layer, make):
    """What a transaction takes and gives back has not been handed to another receiver meanwhile."""
    waiting = asyncio.ensure_future(layer.receive("jobs"))
    await until(lambda: layer._mailboxes.queues() == 1)

    def work():
        with contextlib.suppress(Refused), transaction.atomic(using=home):
            tell(layer, "taken back")
            taken.append(async_to_sync(receive)()["type"])
            raise Refused
        connections[home].close()

    taken = []
    patience = PATIENCE / 4

    async def receive():
        return await asyncio.wait_for(layer.receive("jobs"), patience)

    await sync_to_async(work, thread_sensitive=False)()
    await layer.send("jobs", {"type": "real"})
    assert (await asyncio.wait_for(waiting, PATIENCE))["type"] == "real"


# close().


@only
async def test_closing_while_receivers_wait(layer):
    """Whoever waits in receive() hears LayerClosed, and the layer works again afterwards."""
    tasks = [asyncio.ensure_future(layer.receive(name)) for name in ("a", "b", await layer.new_channel())]
    await until(lambda: layer._mailboxes.queues() == 3)
    await layer.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    assert [type(result) for result in results] == [LayerClosed] * 3
    await layer.close()
    await layer.send("a", {"type": "again"})
    assert (await asyncio.wait_for(layer.receive("a"), PATIENCE))["type"] == "again"


@only
async def test_closing_while_sends_are_queued(layer, blocker, path):
    """Sends that wait for a lock when the layer is closed end with LayerClosed at once, and sent nothing."""
    await layer.send("jobs", {"type": "x"})
    for _ in range(20):
        blocker.execute("BEGIN IMMEDIATE")
        sends = [asyncio.ensure_future(layer.send("jobs", {"type": "x"})) for _ in range(5)]
        await asyncio.sleep(0.001)
        await layer.close()
        results = await asyncio.wait_for(asyncio.gather(*sends, return_exceptions=True), PATIENCE)
        assert [type(result) for result in results] == [LayerClosed] * 5
        blocker.execute("COMMIT")
        await layer._ready()
    assert rows(path) == 1


@only
def test_reopened_it_hears_again(make, path):
    """What the last look saw of the database before it was closed does not make the next one deaf."""
    layer = make()
    Ear(layer).close()
    for first_look in (True, False):
        ear = Ear(layer, look=first_look)
        with contextlib.closing(sqlite3.connect(path)) as stranger, stranger:
            stranger.execute(INSERT)
        try:
            ear.look()
            assert ear.next()["type"] == "by SQL"
        finally:
            ear.close()


@only
async def test_layers_forgotten_without_close(home, make):
    """The last layer that the garbage collector takes closes the database."""
    layer = SQLiteChannelLayer(database=home)
    await layer.send("jobs", {"type": "x"})
    database = weakref.ref(layer._database)
    del layer
    gc.collect()
    await until(lambda: gc.collect() >= 0 and database() is None)


# Threads.


@pytest.mark.parametrize("home", ["own-delete"], indirect=True)
def test_the_loops_thread_runs_no_sql(home, layer, monkeypatch):
    """Without a -wal, where each commit waits for the disk, a loop's thread never enters SQLite."""
    seen = set()

    def note(owner, name):
        original = getattr(owner, name)

        def noting(*arguments, **keywords):
            seen.add(threading.current_thread())
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, noting)

    note(django_database.Own, "__init__")
    note(django_database.Own, "execute")
    note(django_database.Own, "close")
    note(django_database, "translating_executor")
    note(django_database.Link, "__init__")
    async_to_sync(layer.close)()

    async def main():
        channel = await layer.new_channel()
        await layer.group_add("group", channel)
        for name in (channel, "jobs"):
            waiting = asyncio.ensure_future(layer.receive(name))
            await asyncio.sleep(0)
            await layer.send(name, {"type": "x"})
            await asyncio.wait_for(waiting, PATIENCE)
        await layer.group_send("group", {"type": "x"})
        await layer.receive(channel)
        await sync_to_async(async_to_sync(layer.send))(channel, {"type": "x"})
        await layer.receive(channel)
        await layer.group_discard("group", channel)
        await layer.flush()
        await layer.clean_expired()
        await sync_to_async(connections.close_all)()
        await layer.close()

    asyncio.run(main())
    assert seen
    assert threading.current_thread() not in seen


@only
async def test_slow_synchronous_code_holds_nobody_up(layer):
    """While the thread that Django runs synchronous code in is busy, asynchronous code sends and receives."""
    begun, end = threading.Event(), threading.Event()
    slow = asyncio.ensure_future(sync_to_async(lambda: (begun.set(), end.wait(PATIENCE)))())
    await until(begun.is_set)
    await layer.send("jobs", {"type": "x"})
    await layer.group_send("group", {"type": "x"})
    for _ in range(2):
        await asyncio.wait_for(layer.receive("jobs"), PATIENCE)
    await layer.flush()
    assert not slow.done()
    end.set()
    await slow


@only
@pytest.mark.parametrize("missing", ["executors", "loop_thread_executors"])
def test_without_what_asgiref_keeps_to_itself(home, path, layer, ear, monkeypatch, missing):
    """Where asgiref's own attributes are called something else, transactions and wakes are right all the same."""
    from channels_lite import caller

    class Other:
        """An AsyncToSync that does not show the attribute."""

    for name in {"executors", "loop_thread_executors"} - {missing}:
        setattr(Other, name, getattr(AsyncToSync, name))
    monkeypatch.setattr(caller, "AsyncToSync", Other)
    with contextlib.suppress(Refused), transaction.atomic(using=home):
        tell(layer, "never")
        raise Refused
    with transaction.atomic(using=home):
        tell(layer, "one")
        assert rows(path) == 0
    assert ear.next()["type"] == "one"

    async def main():
        await layer.send("jobs", {"type": "two"})
        assert (await asyncio.to_thread(ear.next))["type"] == "two"
        waiting = asyncio.ensure_future(layer.receive("mine"))
        await layer.send("mine", {"type": "three"})
        assert (await asyncio.wait_for(waiting, PATIENCE))["type"] == "three"
        await sync_to_async(connections.close_all)()

    asyncio.run(main())


@only
async def test_a_task_that_outlives_its_caller(layer):
    """A task that synchronous code has left behind can still send and receive, when that code has gone on."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    tasks = []

    async def later():
        await gone.wait()
        await layer.send("jobs", {"type": "afterwards"})
        return await layer.receive("jobs")

    async def begin():
        await layer.send("jobs", {"type": "at once"})
        tasks.append(loop.create_task(later()))

    await sync_to_async(async_to_sync(begin))()
    assert (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["type"] == "at once"
    gone.set()
    assert (await asyncio.wait_for(tasks[0], PATIENCE))["type"] == "afterwards"
    await sync_to_async(connections.close_all)()


# The keeper's end.


class Shut:
    """A connection that meets a lock in every statement."""

    def execute(self, sql, parameters):
        raise Locked("the database is locked")

    def is_open(self):
        return True

    def checkpoint(self):
        raise AssertionError

    def close(self, *, quickly=False):
        pass


def statement(execute):
    execute("SELECT 1", ())


async def test_a_job_is_never_forgotten(path):
    """A keeper that is stopped just when a job has decided to be tried again answers it all the same."""
    keeper = Keeper(path, Shut)

    def refusal():
        stopping = keeper.stopping
        keeper.stop(0)
        return LayerClosed() if stopping else DatabaseBusy()

    request = Request(statement, PATIENCE, refusal)
    assert keeper.ask(request)
    keeper.start()
    with pytest.raises(LayerClosed):
        await asyncio.wait_for(request.future, PATIENCE)
    await asyncio.to_thread(keeper.stop)
    assert not keeper.ask(statement)


@pytest.mark.parametrize("stops", [False, True])
async def test_a_keeper_without_a_connection(path, monkeypatch, caplog, stops):
    """Who waits for a keeper that cannot connect hears so at the deadline, or when it is stopped."""
    monkeypatch.setattr(keeper_module, "RETRY_PAUSE", 0.01)

    def connect():
        raise OSError

    keeper = Keeper(path, connect)
    request = Request(
        statement, PATIENCE if stops else 0.05, lambda: LayerClosed() if keeper.stopping else DatabaseBusy()
    )
    assert keeper.ask(request)
    keeper.start()
    try:
        if stops:
            await asyncio.to_thread(keeper.stop)
        with pytest.raises(LayerClosed if stops else DatabaseBusy):
            await asyncio.wait_for(request.future, PATIENCE)
    finally:
        await asyncio.to_thread(keeper.stop)
    assert not keeper.ask(statement)


@in_both_modes
async def test_apsw_never_has_the_file(layer, monkeypatch):
    """Whatever the layer does, from opening to closing, it makes no connection of apsw's but to memory."""
    opened = []
    monkeypatch.setattr(apsw, "connection_hooks", [lambda connection: opened.append(connection.filename)])
    apsw.Connection(":memory:").close()
    assert opened == [""]  # the hook hears of each connection
    await layer.close()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    await layer.send(channel, {"type": "x"})
    await layer.receive(channel)
    await layer.group_send("group", {"type": "x"})
    await sync_to_async(async_to_sync(layer.send))("jobs", {"type": "x"})
    await layer.clean_expired()
    await layer.flush()
    await sync_to_async(connections.close_all)()
    await layer.close()
    assert set(opened) == {""}


# Rare orders of things, and odd input.


@only
def test_a_specific_channel_in_a_transaction_that_is_rolled_back(home, layer):
    """A receive() there takes its own channel's messages alone: its siblings get theirs once, and no phantoms."""
    mine, sibling = (async_to_sync(layer.new_channel)() for _ in range(2))
    send, receive = async_to_sync(layer.send), async_to_sync(layer.receive)
    send(sibling, {"type": "committed"})
    with contextlib.suppress(ZeroDivisionError), transaction.atomic(using=home):
        send(sibling, {"type": "phantom"})
        send(mine, {"type": "own"})
        assert receive(mine)["type"] == "own"
        raise ZeroDivisionError
    send(sibling, {"type": "later"})
    assert [receive(sibling)["type"] for _ in range(2)] == ["committed", "later"]


@only
def test_a_connection_without_autocommit(home, layer, path, monkeypatch):
    """AUTOCOMMIT = False is for the application's connections: what a coroutine sends is committed all the same."""
    monkeypatch.setitem(connections.settings[home], "AUTOCOMMIT", False)
    async_to_sync(layer.close)()
    asyncio.run(layer.send("jobs", {"type": "x"}))
    assert rows(path) == 1
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE").execute("ROLLBACK")


@only
def test_tables_removed_and_made_again(home, path, layer, ear):
    """After `migrate channels_lite zero` and back in one process, a send wakes its receiver as before."""
    tell(layer, "before")
    assert ear.next()["type"] == "before"
    execute = executor(connections[home])
    schema.remove(execute, schema.steps())
    link.unsettle_all()  # as the migration does
    schema.create(execute, schema.steps())
    tell(layer, "after")
    assert ear.next()["type"] == "after"


@only
def test_a_fork_leaves_a_connection_in_use_alone(home, layer, path):
    """A fork closes this thread's idle connection, and never one with a transaction or rows still to be fetched."""
    tell(layer, "x")
    connection = connections[home]

    def is_open_after_a_fork():
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return connection.connection is not None

    assert not is_open_after_a_fork()
    cursor = connection.cursor()
    cursor.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) SELECT i FROM n")
    assert cursor.fetchone() == (1,)
    assert is_open_after_a_fork()
    assert len(cursor.fetchall()) == 4999
    cursor.execute("BEGIN")
    cursor.execute("INSERT INTO shop_order VALUES (1)")
    assert is_open_after_a_fork()
    cursor.execute("COMMIT")
    cursor.close()
    connection.set_autocommit(False)
    assert is_open_after_a_fork()
    connection.set_autocommit(True)
    with transaction.atomic(using=home):
        assert is_open_after_a_fork()
    assert rows(path, "shop_order") == 1
    assert not is_open_after_a_fork()


@only
async def test_large_messages_do_not_make_the_wal_large(layer, path):
    """The -wal is begun anew by what was written, not by the number of messages, and does not stay big."""
    for _ in range(60):
        await layer.send("big", {"type": "x", "text": "y" * 900_000})
        await layer.receive("big")
    assert os.path.getsize(f"{path}-wal") < 40_000_000  # 54 MB were written


@only
async def test_sending_while_another_thread_closes(make):
    """A send that meets the end of the layer's connection says that the layer was closed, or opens it again."""
    layer, stop = make(), threading.Event()
    errors: list[Exception] = []

    def send_on():
        async def main():
            while not stop.is_set():
                try:
                    await layer.send("jobs", {"type": "x"})
                except (LayerClosed, ChannelFull):
                    continue
                except Exception as error:
                    errors.append(error)

        asyncio.run(main())

    thread = threading.Thread(target=send_on)
    thread.start()
    for _ in range(100):
        await layer.send("others", {"type": "x"})
        await layer.receive("others")
        await layer.close()
    stop.set()
    await asyncio.to_thread(thread.join)
    assert errors == []


async def test_a_group_with_one_who_waits_and_one_who_does_not(layer, make):
    """What synchronous code sends to them, outside of a transaction, is sent, and no error comes of it.

    Django's connection tells of the row at the end of its statement: then its page is locked no more.
    """
    waits, does_not = await layer.new_channel(), await layer.new_channel()
    for channel in (waits, does_not):
        await layer.group_add("room", channel)
    task = asyncio.ensure_future(layer.receive(waits))
    await asyncio.sleep(0)
    await apart(async_to_sync(layer.group_send), "room", {"type": "x"})
    assert await asyncio.wait_for(task, PATIENCE) == {"type": "x"}
    assert await asyncio.wait_for(layer.receive(does_not), PATIENCE) == {"type": "x"}
