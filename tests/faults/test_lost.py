"""The database, or what SQLite keeps beside it, deleted or replaced under running processes."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction

from channels_lite.errors import DatabaseLost, SchemaError
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.faults.actor import waited_for_processor
from tests.faults.conftest import Cast, ask, integrity
from tests.faults.log import Event
from tests.journal import keep_a_wal
from tests.patience import PATIENCE, until
from tests.processes.conftest import ROOT

WORDS = "Deleted or replaced while in use"


def delete(path, *suffixes):
    """Remove files."""
    for suffix in suffixes:
        os.unlink(path + suffix)


def replace(path):
    """Put another database in place of this one, as somebody does who restores a copy."""
    command = [sys.executable, "-m", "channels_lite.cli", "apply", "--path", f"{path}.copy"]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(f"{path}.copy", path)


LOSSES = {
    "database": lambda path: delete(path, ""),
    "all": lambda path: delete(path, "", "-wal", "-shm"),
    "replaced": replace,
    "-wal": lambda path: delete(path, "-wal"),
    "-shm": lambda path: delete(path, "-shm"),
}


# The apsw layer, whose file is its own: it goes on in a new one.


@pytest.fixture
async def aio_cast(path, tmp_path):
    """The processes of a test on the apsw layer."""
    cast = Cast(path, tmp_path / "logs", core=False)
    yield cast
    await cast.end()
    assert integrity(path) == "ok"


@pytest.mark.parametrize("loss", LOSSES)
async def test_traffic_goes_on(aio_cast, loss):
    """Every process says so loudly, and goes on in the new files: no message is lost, and no membership."""
    cast = aio_cast
    await cast.start({"do": "receive", "channel": "jobs"}, {"do": "own", "groups": ["all"], "count": 2})
    await cast.start({"do": "own", "groups": ["all"], "count": 2, "timeout": 0.01})
    channels = await cast.made(4)
    await cast.start(
        {"do": "send", "channels": ["jobs", "later"], "pause": 0.002},
        {"do": "send", "channels": channels, "size": 70_000, "pause": 0.01},
        capacity=1_000_000,
    )
    await cast.start({"do": "send", "channels": ["all"], "group": True, "pause": 0.005}, capacity=1_000_000)
    await asyncio.sleep(0.3)
    LOSSES[loss](cast.path)
    await asyncio.sleep(1.5)  # until all have noticed
    await cast.stop_senders()
    await cast.start({"do": "receive", "channel": "later"})
    verdict = (await cast.verdict())._replace(swapped=[])  # not all notice it at the same moment
    assert not verdict, verdict
    assert ask(cast.path, "SELECT count(*) FROM channels_lite_membership") == "4"
    errors = [await actor.end() for actor in cast.actors[:4]]
    assert [error.count(WORDS) for error in errors] == [1] * 4, errors
    assert "Traceback" not in "".join(errors), "".join(errors)


async def test_a_newcomer_before_anybody_has_noticed(aio_cast):
    """A process that opens the place of a database that was just deleted begins a new one, and all meet there."""
    cast = aio_cast
    await cast.start({"do": "receive", "channel": "jobs"}, {"do": "own", "groups": ["all"]})
    await cast.start({"do": "send", "channels": ["jobs", *await cast.made(1)], "pause": 0.002})
    delete(cast.path, "")
    await cast.start({"do": "send", "channels": ["jobs"], "count": 200}, {"do": "receive", "channel": "late"})
    await cast.start({"do": "send", "channels": ["late", "jobs"], "pause": 0.01})
    await cast.until(lambda: len(cast.records(Event.OK)) > 600)
    await cast.stop_senders()
    verdict = (await cast.verdict())._replace(swapped=[])
    assert not verdict, verdict


@pytest.fixture
async def layer(make_layer):
    """An apsw layer with a message in its database."""
    layer = make_layer()
    await layer.send("jobs", {"type": "before"})
    return layer


async def receive(layer, channel="jobs"):
    """The type of the next message."""
    return (await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"]


def is_back(layer, path):
    """Whether the layer has opened the file that is at its path."""
    return os.path.exists(path) and not layer._database.files.lost()


async def test_noticed_within_a_second(layer, path, caplog):
    """A process that neither sends nor receives notices that its database is gone within a second."""
    begun, others = time.monotonic(), waited_for_processor()
    os.unlink(path)
    await until(lambda: is_back(layer, path))
    assert time.monotonic() - begun - (waited_for_processor() - others) < 1.0
    assert WORDS in caplog.text
    assert await receive(layer) == "before"


def rights(path):
    """Who may use a file."""
    status = os.stat(path)
    return status.st_mode, status.st_uid, status.st_gid


@pytest.mark.parametrize("loss", ["database", "all"])
async def test_whoever_might_use_it(layer, path, loss):
    """The new one has the rights of the old one, also if those were given while it was in use."""
    os.chmod(path, 0o660)
    if os.geteuid() == 0:
        os.chown(path, -1, 12345)
    before = rights(path)
    await until(lambda: (layer._database.files.owned.st_mode, layer._database.files.owned.st_gid) == before[::2])
    LOSSES[loss](path)
    await until(lambda: is_back(layer, path))
    assert [rights(path + suffix) for suffix in ("", "-wal", "-shm")] == [before] * 3
    assert await receive(layer) == "before"


async def test_a_layer_that_is_closed_just_then(layer, path, make_layer):
    """What it had acknowledged is in the new database when it has closed."""
    os.unlink(path)
    await layer.send("jobs", {"type": "acknowledged"})
    await layer.close()
    other = make_layer()
    assert [await receive(other) for _ in range(2)] == ["before", "acknowledged"]


FORKS = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from asgiref.sync import async_to_sync
from channels_lite.layers.aio import AIOSQLiteChannelLayer
layer = AIOSQLiteChannelLayer(path=sys.argv[1])
async_to_sync(layer.send)("jobs", {"type": "before"})
os.unlink(sys.argv[1])
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
    print(async_to_sync(layer.receive)("jobs")["type"])
else:
    async_to_sync(layer.send)("jobs", {"type": "of the child"})
    os._exit(0)
"""


async def test_a_fork_just_then(path):
    """Parent and child meet in the new database, and what was in the old one is there."""
    command = [sys.executable, "-W", "error", "-c", FORKS, path]
    result = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (result.returncode, result.stdout in ("before\n", "of the child\n")) == (0, True), result.stderr
    assert WORDS in result.stderr
    assert ask(path, "SELECT count(*) FROM channels_lite_message") == "1"


async def test_a_copy_is_restored(layer, path):
    """A message that is in the copy as well does not come twice."""
    await layer.close()
    shutil.copy(path, f"{path}.copy")
    await layer.send("jobs", {"type": "after"})
    os.replace(f"{path}.copy", path)
    await until(lambda: is_back(layer, path))
    assert sorted([await receive(layer) for _ in range(2)]) == ["after", "before"]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(layer.receive("jobs"), 0.1)


async def test_something_else_in_its_place(layer, path, caplog):
    """Where it cannot be opened again, every call says why, until it can; what the process had is not lost."""
    own = await layer.new_channel()
    await layer.group_add("group", own)
    waiting = asyncio.ensure_future(layer.receive("never"))
    os.rename(path, f"{path}.away")
    Path(path).write_text("no database" * 1000)
    with pytest.raises(SchemaError, match="not a SQLite database"):
        await asyncio.wait_for(waiting, PATIENCE)
    for call in (layer.send("jobs", {"type": "x"}), layer.group_add("group", own), layer.receive("jobs")):
        with pytest.raises(SchemaError, match="not a SQLite database"):
            await asyncio.wait_for(call, PATIENCE)
    await asyncio.sleep(1.2)  # longer than it takes until it is tried again
    assert caplog.text.count(WORDS) == 1
    errors = [record.msg for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == len(set(errors)), caplog.text  # each is said once
    assert Path(path).read_text() == "no database" * 1000
    os.unlink(path)
    await until(lambda: is_back(layer, path))
    await layer.group_send("group", {"type": "to all"})
    assert await receive(layer, own) == "to all"
    assert await receive(layer) == "before"
    assert integrity(path) == "ok"


async def test_the_folder_is_gone(tmp_path, caplog):
    """As long as there is no folder, every call says so; when it is there again, the layer goes on."""
    folder = tmp_path / "folder"
    folder.mkdir()
    layer = AIOSQLiteChannelLayer(path=str(folder / "x.sqlite3"))
    await layer.send("jobs", {"type": "before"})
    shutil.rmtree(folder)
    await until(lambda: layer._database.failure is not None)
    with pytest.raises(SchemaError, match=str(folder)):
        await layer.send("jobs", {"type": "x"})
    assert caplog.text.count(WORDS) == 1
    folder.mkdir()
    await until(lambda: is_back(layer, str(folder / "x.sqlite3")))
    assert await receive(layer) == "before"
    await layer.close()


@pytest.mark.parametrize("name", ["test.sqlite3", "test_2.sqlite3"])
async def test_a_test_database(tmp_path, monkeypatch, caplog, name):
    """Django removes its test databases at the end, those of parallel processes too: that is no loss."""
    path = str(tmp_path / name)
    monkeypatch.setitem(connections.settings["core"]["TEST"], "NAME", str(tmp_path / "test.sqlite3"))
    monkeypatch.setitem(connections.settings["core"], "NAME", path)
    keep_a_wal(path)
    layer = AIOSQLiteChannelLayer(path=path) if name == "test.sqlite3" else SQLiteChannelLayer(database="core")
    await layer.send("jobs", {"type": "x"})
    os.unlink(path)
    await asyncio.sleep(1.2)  # longer than between two inspections
    assert caplog.text == ""
    assert not os.path.exists(path)
    await layer.close()


# The core layer, whose database is the application's: it touches nothing.


@pytest.fixture
def core(path, alias):
    """A core layer, and a row of the application's that is in the -wal."""
    keep_a_wal(path)
    layer = SQLiteChannelLayer(database=alias)
    with connections[alias].cursor() as cursor:
        cursor.execute("CREATE TABLE shop_order (number INTEGER)")
    async_to_sync(layer.send)("jobs", {"type": "before"})
    with connections[alias].cursor() as cursor:
        cursor.execute("INSERT INTO shop_order VALUES (1)")
    yield layer
    async_to_sync(layer.close)()
    connections[alias].close()


def lose(layer):
    """Wait until it has noticed."""
    deadline = time.monotonic() + PATIENCE
    while layer._database.failure is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("loss", LOSSES)
def test_an_applications_database(core, path, alias, loss, caplog):
    """Every call says so, in a transaction and out of it; the application's rows are where they were."""
    os.link(path, f"{path}.kept")
    LOSSES[loss](path)
    left = sorted(Path(path).parent.glob(f"{Path(path).name}*"))
    lose(core)
    assert caplog.text.count(WORDS) == 1
    for call in (core.send, core.group_send):
        with pytest.raises(DatabaseLost, match="Put it back, or restart"):
            async_to_sync(call)("jobs", {"type": "x"})
        with pytest.raises(DatabaseLost), transaction.atomic(using=alias):
            async_to_sync(call)("jobs", {"type": "x"})
    with pytest.raises(DatabaseLost):
        asyncio.run(asyncio.wait_for(core.receive("jobs"), PATIENCE))
    assert "Traceback" not in caplog.text.replace("Traceback", "", 1), "it is said once"
    assert sorted(Path(path).parent.glob(f"{Path(path).name}*")) == left
    with connections[alias].cursor() as cursor:
        assert cursor.execute("SELECT number FROM shop_order").fetchall() == [(1,)]


async def test_an_applications_database_that_comes_back(core, path):
    """Who waits is told; when the file is in its place again, all goes on with what was in it."""
    waiting = asyncio.ensure_future(core.receive("never"))
    await until(lambda: core._mailboxes.queues() == 1)
    os.rename(path, f"{path}.away")
    with pytest.raises(DatabaseLost):
        await asyncio.wait_for(waiting, PATIENCE)
    os.rename(f"{path}.away", path)
    await until(lambda: core._database.failure is None)
    assert await receive(core) == "before"


def test_an_applications_database_after_a_restart(core, path, alias):
    """A layer that is closed and used again opens what is in its place, as a new process does."""
    os.unlink(path)
    lose(core)
    async_to_sync(core.close)()
    connections[alias].close()
    async_to_sync(core.send)("jobs", {"type": "after"})
    assert async_to_sync(receive)(core) == "after"
    assert os.path.exists(path)
