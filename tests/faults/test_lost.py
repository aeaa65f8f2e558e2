"""The database, or what SQLite keeps beside it, deleted or replaced under running processes."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.db import close_old_connections, connections, transaction

from channels_lite.errors import DatabaseLost, SchemaError
from channels_lite.layers.core import SQLiteChannelLayer
from tests.faults.actor import waited_for_processor
from tests.faults.conftest import ask, integrity
from tests.journal import keep_a_wal
from tests.patience import PATIENCE, until

WORDS = "Deleted or replaced while in use"


def delete(path, *suffixes):
    """Remove files."""
    for suffix in suffixes:
        os.unlink(path + suffix)


def replace(path):
    """Put another database in place of this one, as somebody does who restores a copy."""
    command = [sys.executable, "-m", "channels_lite.cli", "apply", "--path", f"{path}.copy"]
    subprocess.run(command, check=True, capture_output=True)
    keep_a_wal(f"{path}.copy")
    os.replace(f"{path}.copy", path)


LOSSES = {
    "database": lambda path: delete(path, ""),
    "all": lambda path: delete(path, "", "-wal", "-shm"),
    "replaced": replace,
    "-wal": lambda path: delete(path, "-wal"),
    "-shm": lambda path: delete(path, "-shm"),
}


@pytest.mark.parametrize("loss", LOSSES)
async def test_traffic_goes_on(cast, loss):
    """Every process says so loudly, and goes on in the new files: no message is lost, and no membership."""
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
    await asyncio.sleep(1.5)  # until all have noticed, and the one that holds the others up has let them go on
    await cast.stop_senders()
    await cast.start({"do": "receive", "channel": "later"})
    verdict = (await cast.verdict())._replace(swapped=[])  # not all notice it at the same moment
    assert not verdict, verdict
    assert ask(cast.path, "SELECT count(*) FROM channels_lite_membership") == "4"
    assert ask(cast.path, "PRAGMA journal_mode") == "wal"
    errors = [await actor.end() for actor in cast.actors[:4]]
    assert [error.count(WORDS) for error in errors] == [1] * 4, errors
    assert "Traceback" not in "".join(errors), "".join(errors)


@pytest.fixture(params=["aio", "core"])
async def layer(request, path, alias, make_layer):
    """A layer of either kind on a file with a -wal, which is open."""
    if request.param == "core":
        keep_a_wal(path)
        layer = SQLiteChannelLayer(database=alias)
    else:
        layer = make_layer()
    await layer.send("jobs", {"type": "before"})
    yield layer
    await layer.close()


def database_is_back(layer, path):
    """Whether the layer has opened the file that is at its path."""
    files = layer._database.files
    return os.path.exists(path) and not files.lost()


async def test_noticed_within_a_second(layer, path, caplog):
    """A process that neither sends nor receives notices that its database is gone within a second."""
    begun, others = time.monotonic(), waited_for_processor()
    os.unlink(path)
    await until(lambda: database_is_back(layer, path))
    assert time.monotonic() - begun - (waited_for_processor() - others) < 1.0
    assert WORDS in caplog.text
    assert (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["type"] == "before"


async def test_something_else_in_its_place(layer, path, caplog):
    """Where it cannot be opened again, every call says why, until it can; what the process had is not lost."""
    own = await layer.new_channel()
    await layer.group_add("group", own)
    os.rename(path, f"{path}.away")
    Path(path).write_text("no database" * 1000)

    async def is_refused():
        with contextlib.suppress(SchemaError):
            await layer.send("jobs", {"type": "x"})
            return False
        return True

    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not await is_refused():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    with pytest.raises(SchemaError, match=r"not a (SQLite )?database"):
        await layer.group_add("group", own)
    await asyncio.sleep(1.2)  # longer than it takes until it is tried again
    assert caplog.text.count(WORDS) == 1
    assert Path(path).read_text() == "no database" * 1000
    os.unlink(path)
    await until(lambda: database_is_back(layer, path))
    await layer.group_send("group", {"type": "to all"})
    assert (await asyncio.wait_for(layer.receive(own), PATIENCE))["type"] == "to all"
    assert (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["type"] == "before"
    assert integrity(path) == "ok"
    delete(f"{path}.away", "")


def test_under_a_transaction(path, alias):
    """What belongs to a transaction that began before is refused; the next one reaches the new file."""
    keep_a_wal(path)
    layer = SQLiteChannelLayer(database=alias)
    send = async_to_sync(layer.send)
    send("jobs", {"type": "before"})

    def lose():
        os.unlink(path)
        deadline = time.monotonic() + PATIENCE
        while not database_is_back(layer, path):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with contextlib.suppress(DatabaseLost), transaction.atomic(using=alias):
        send("jobs", {"type": "lost with its transaction"})
        lose()
        with pytest.raises(DatabaseLost, match="Roll back"):
            send("jobs", {"type": "refused"})
        raise DatabaseLost
    close_old_connections()  # as Django does between two requests
    with transaction.atomic(using=alias):
        send("jobs", {"type": "after"})
    assert [async_to_sync(layer.receive)("jobs")["type"] for _ in range(2)] == ["before", "after"]
    async_to_sync(layer.close)()
    connections[alias].close()
    assert ask(path, "SELECT count(*) FROM channels_lite_message") == "0"
