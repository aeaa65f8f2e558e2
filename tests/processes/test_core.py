"""The layer on Django's connection, across processes."""

import asyncio
import contextlib
import re
import sqlite3
import subprocess
import sys

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connections, transaction

from channels_lite.errors import DatabaseBusy
from channels_lite.layers.core import SQLiteChannelLayer
from tests.journal import keep_a_wal
from tests.processes.conftest import PATIENCE, ROOT
from tests.processes.peer import send_patiently

COUNT = 10_000


class Refused(Exception):
    """What a test raises to have a transaction rolled back."""


@pytest.fixture
def home(path, alias):
    """The alias of the test's file, which is in WAL mode."""
    keep_a_wal(path)
    return alias


@pytest.fixture
def core(home):
    """A layer that never looks unasked; it is closed afterwards."""
    layer = SQLiteChannelLayer(database=home, polling_interval=None)
    yield layer
    async_to_sync(layer.close)()


KINDS = pytest.mark.parametrize(
    "kind", [("--core", "--format", "json"), ("--format", "json")], ids=["core and core", "core and apsw"]
)


def in_a_thread(work):
    """Run synchronous code with a Django connection of its own, which is closed afterwards."""

    def run():
        try:
            return work()
        finally:
            connections.close_all()

    return asyncio.wait_for(sync_to_async(run, thread_sensitive=False)(), PATIENCE)


@KINDS
async def test_another_process_hears_the_commit(home, core, start, kind):
    """A peer without a poll hears what was committed, after the commit; of what was rolled back it hears nothing."""
    peer = await start("hear", "--channel", "jobs", "--no-poll", *kind)
    loop = asyncio.get_running_loop()
    listening = asyncio.ensure_future(peer.line())

    def work():
        send = async_to_sync(core.send)
        with contextlib.suppress(Refused), transaction.atomic(using=home):
            send("jobs", {"type": "never"})
            raise Refused
        with transaction.atomic(using=home):
            send("jobs", {"type": "one"})
            with contextlib.suppress(Refused), transaction.atomic(using=home):
                send("jobs", {"type": "nor this"})
                raise Refused
            send("jobs", {"type": "two"})
            send("bystander", {"type": "x"})
            assert not listening.done()
        send("jobs", {"type": "end"})

    await in_a_thread(work)
    assert [await listening, await peer.line(), await peer.line()] == ["one", "two", "end"]
    assert loop.is_running()


@KINDS
async def test_another_process_hears_the_applications_sql(home, core, start, kind):
    """A row that the application inserts itself rings the bell as well, in a transaction and without one."""
    await core.send("other", {"type": "x"})
    peer = await start("hear", "--channel", "jobs", "--no-poll", *kind)
    insert = (
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
        "VALUES ('', 'jobs', CAST(json_object('type', %s) AS BLOB), 9999999999999)"
    )

    def work():
        async_to_sync(core.send)("other", {"type": "x"})
        connections[home].cursor().execute(insert, ["alone"])
        with transaction.atomic(using=home):
            connections[home].cursor().execute(insert, ["in a transaction"])

    await in_a_thread(work)
    assert [await peer.line(), await peer.line()] == ["alone", "in a transaction"]


@KINDS
@pytest.mark.parametrize("specific", [False, True], ids=["normal", "specific"])
async def test_ten_thousand_messages_to_a_peer(core, start, kind, specific):
    """10 000 messages to another process arrive once each and in order."""
    channel = "collect!" if specific else "collect"
    peer = await start("collect", "--channel", channel, "--count", str(COUNT), "--no-poll", *kind)
    channel = await peer.line()
    for number in range(COUNT):
        await send_patiently(core, channel, {"type": "x", "number": number})
    assert list(map(int, (await peer.line()).split())) == list(range(COUNT))


@KINDS
async def test_ten_thousand_messages_from_a_peer(core, start, kind):
    """10 000 messages from another process arrive once each and in order."""
    await start("flood", "--channel", "jobs", "--count", str(COUNT), *kind)
    for number in range(COUNT):
        assert (await asyncio.wait_for(core.receive("jobs"), PATIENCE))["number"] == number


@KINDS
async def test_there_and_back(core, start, kind):
    """Requests on a normal channel and answers on a process-specific one, one by one, by the bell alone."""
    await start("echo", "--no-poll", *kind)
    reply = await core.new_channel()
    for number in range(200):
        await core.send("echo", {"type": "x", "number": number, "reply": reply})
        assert (await asyncio.wait_for(core.receive(reply), PATIENCE))["number"] == number


STRANGER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute(
    "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at)"
    " VALUES ('', 'jobs', CAST(json_object('type', 'from elsewhere') AS BLOB), 9999999999999)"
)
print("begun", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
print("committed", flush=True)
"""


@contextlib.asynccontextmanager
async def stranger(path):
    """A program without this package, in the middle of a transaction until it is told to commit."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STRANGER, path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )

    async def commit():
        process.stdin.write(b"\n")
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"committed\n"

    assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"begun\n"
    yield commit
    process.stdin.close()
    await process.wait()


async def test_a_writer_that_rings_no_bell(home, path):
    """What a foreign program writes is found by the backstop."""
    layer = SQLiteChannelLayer(database=home)
    await layer.send("other", {"type": "x"})
    waiting = asyncio.ensure_future(layer.receive("jobs"))
    async with stranger(path) as commit:
        await commit()
        assert (await asyncio.wait_for(waiting, PATIENCE))["type"] == "from elsewhere"
    await layer.close()


async def test_another_process_in_a_long_transaction(home, core, path, monkeypatch):
    """While another process writes, sends end with DatabaseBusy at their deadline, or go through when it commits."""
    await core.send("other", {"type": "x"})
    monkeypatch.setitem(connections.settings[home]["OPTIONS"], "timeout", 0.3)
    impatient = SQLiteChannelLayer(database=home)
    async with stranger(path) as commit:
        patient = asyncio.ensure_future(core.send("jobs", {"type": "patient"}))
        with pytest.raises(DatabaseBusy):
            await impatient.send("jobs", {"type": "impatient"})
        with pytest.raises(DatabaseBusy):
            await in_a_thread(lambda: async_to_sync(impatient.send)("jobs", {"type": "impatient"}))
        assert not patient.done()
        await commit()
        await patient
    received = [(await asyncio.wait_for(core.receive("jobs"), PATIENCE))["type"] for _ in range(2)]
    assert received == ["from elsewhere", "patient"]
    await impatient.close()


FORK = """
import asyncio, multiprocessing, os, sys
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
import django
django.setup()
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from channels_lite.layers.core import SQLiteChannelLayer

def child(layer, prefix, mine):
    assert layer.client_prefix != prefix

    async def main():
        own = await layer.new_channel()
        await layer.send(own, {"type": "own"})
        assert (await layer.receive(own))["type"] == "own"
        try:
            await layer.receive(mine)
        except AssertionError:
            pass
        else:
            raise SystemExit("the child received from its parent's channel")
        assert (await layer.receive("jobs"))["type"] == "before the fork"
        for number in range(100):
            await layer.send("numbers", {"type": "x", "number": number})
            await asyncio.sleep(0)

    asyncio.run(main())
    with transaction.atomic():
        async_to_sync(layer.send)("numbers", {"type": "x", "number": 100})
    connections.close_all()

def spawned(prefix, mine):
    child(SQLiteChannelLayer(), prefix, mine)

if __name__ == "__main__":
    layer = SQLiteChannelLayer()
    mine = async_to_sync(layer.new_channel)()
    async_to_sync(layer.send)("jobs", {"type": "before the fork"})
    async_to_sync(layer.send)(mine, {"type": "for the parent"})
    prefix = layer.client_prefix

    async def parent():
        assert layer.client_prefix == prefix
        assert (await layer.receive(mine))["type"] == "for the parent"
        for number in range(101):
            assert (await layer.receive("numbers"))["number"] == number

    if sys.argv[2] == "os.fork":
        pid = os.fork()
        if pid == 0:
            child(layer, prefix, mine)
            os._exit(0)
        asyncio.run(asyncio.wait_for(parent(), 50))
        assert os.waitpid(pid, 0)[1] == 0
    else:
        context = multiprocessing.get_context(sys.argv[2])
        target, arguments = (spawned, ()) if sys.argv[2] == "spawn" else (child, (layer,))
        process = context.Process(target=target, args=(*arguments, prefix, mine))
        process.start()
        asyncio.run(asyncio.wait_for(parent(), 50))
        process.join()
        assert process.exitcode == 0
    with transaction.atomic():
        async_to_sync(layer.send)("jobs", {"type": "still alive"})
    connections.close_all()
    print("done")
"""


@pytest.mark.parametrize("how", ["os.fork", "fork", "spawn"])
async def test_fork(path, tmp_path, how):
    """A child has a prefix and a connection of its own; the parent goes on; nothing is lost, and the file is whole."""
    script = tmp_path / "forks.py"
    script.write_text(FORK.replace("settings.configure(", "settings.configured or settings.configure("))
    command = [sys.executable, str(script), path, how]  # Python itself warns of a fork with threads
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM channels_lite_message").fetchone() == (1,)


FORK_IN_A_COROUTINE = """
import asyncio, concurrent.futures, multiprocessing, os, sys, threading
from django.conf import settings
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": sys.argv[1],
    "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"},
}})
import django
django.setup()
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer

layers = [SQLiteChannelLayer(enforce_capacity=False), AIOSQLiteChannelLayer(enforce_capacity=False)]

async def send(word, number):
    for layer in layers:
        for _ in range(number):
            await layer.send(word, {"type": "x"})

def child():
    thread = threading.Thread(target=asyncio.run, args=(send("child", 100),))
    thread.start()
    thread.join()

async def main():
    await send("parent", 1)
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            child()
            os._exit(0)
        await send("parent", 100)
        for layer in layers:
            await layer.close()
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            await asyncio.sleep(0.01)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, child)
    for layer in layers:
        await layer.close()

asyncio.run(asyncio.wait_for(main(), 60))
print("done")
"""


async def test_fork_in_a_coroutine(path):
    """A fork in the thread of a running loop, with both layers open, harms neither side and hangs nothing."""
    command = [sys.executable, "-c", FORK_IN_A_COROUTINE, path]  # Python itself warns of a fork with threads
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    assert not re.search("Exception ignored|Traceback", result.stderr), result.stderr
    for file in (path, path.replace(".sqlite3", "-channels.sqlite3")):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            counts = connection.execute("SELECT queue, count(*) FROM channels_lite_message GROUP BY 1").fetchall()
            assert counts == [("child", 400), ("parent", 301)]
