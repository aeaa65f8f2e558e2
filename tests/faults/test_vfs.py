"""Each open, read, write, sync and lock of SQLite's failing, one after the other, on the whole way of a layer.

The layer on Django's connection speaks through Python's sqlite3, where nothing can be put between SQLite and the disk:
what holds there is shown by ``test_disk`` and ``test_files``.
"""

import asyncio
import contextlib
import sys
import threading
from pathlib import Path

import apsw
import pytest

from channels_lite import apsw_database, keeper, schema, store
from channels_lite.errors import DatabaseBusy, DatabaseFailed, Locked, SchemaError
from channels_lite.layers import handover
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.faults.failing_vfs import KINDS, failing
from tests.patience import PATIENCE, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system calls are replaced as Linux has them")

CLEAR = (DatabaseFailed, SchemaError, DatabaseBusy)  # what a fault may be for who calls
OFTEN = 0.0002  # seconds between two looks: there are a thousand ways to go
STARVED = 3  # tries for room, or a lock, after which a receiver is not waited for any more


class Journey:
    """The whole way of a layer: what was accepted, what was refused, what arrived."""

    def __init__(self, path, tries):
        self.layer = AIOSQLiteChannelLayer(path=path)
        self.other = AIOSQLiteChannelLayer(path=path, prefix="other")
        self.peer = AIOSQLiteChannelLayer(path=path)
        for layer in (self.layer, self.other, self.peer):
            layer._deadline = 0.05  # a lock that is never given ends in DatabaseBusy soon
        self.own = ""  # a process-specific channel
        self.accepted, self.refused, self.arrived = [], [], []  # channel and word of each message
        self.flushed = False
        self.errors = []
        self._tries = tries

    async def go(self):
        """Open, send, receive, join a group, send to it, flush, copy the -wal back, close."""
        await self.send("jobs", "alone")
        await asyncio.gather(*[self.send("jobs", f"together{number}") for number in range(3)])
        await self.receive("jobs")
        await self.group_send("crowd", "member", "group")
        await self.receive("member")
        self.own = await self.layer.new_channel()
        await self.send(self.own, "own", self.peer)
        await self.receive(self.own)
        await self._attempt(self.other.send("jobs", {"type": "flushed"}))
        self.flushed = await self._attempt(self.other.flush())
        await self._copy_back()
        await self.send("jobs", "after")
        await self.close()

    async def _attempt(self, call):
        """Whether it succeeded; any but a clear error fails the test."""
        try:
            await call
        except CLEAR as error:
            self.errors.append(error)
            return False
        return True

    async def send(self, channel, word, layer=None):
        """Whether it was accepted."""
        sent = await self._attempt((layer or self.layer).send(channel, {"type": word}))
        (self.accepted if sent else self.refused).append((channel, word))
        return sent

    async def group_send(self, group, channel, word):
        """A message to a group whose only member joins just before."""
        joined = await self._attempt(self.layer.group_add(group, channel))
        sent = await self._attempt(self.layer.group_send(group, {"type": word}))
        (self.accepted if joined and sent else self.refused).append((channel, word))

    async def receive(self, channel):
        """Receive what was accepted, unless the disk stays full, or locked."""
        if channel not in [name for name, _ in self.accepted]:
            return
        begun = len(self._tries)
        receiving = asyncio.ensure_future(self.layer.receive(channel))
        with contextlib.suppress(asyncio.CancelledError):
            await until(lambda: receiving.done() or len(self._tries) >= begun + STARVED, OFTEN)
            receiving.cancel()
            if await self._attempt(receiving):
                self.arrived.append((channel, receiving.result()["type"]))

    async def _copy_back(self):
        if self.layer._database is not None:
            done, keeping = threading.Event(), self.layer._database.keeper
            keeping.checkpoint()
            await until(lambda: not keeping._checkpoint_due or keeping._connection is None, OFTEN)
            keeping.ask(lambda execute: done.set())  # in the next round
            await until(done.is_set, OFTEN)

    async def close(self):
        """Close both layers."""
        for layer in (self.layer, self.other, self.peer):
            with contextlib.suppress(apsw.IOError):  # of a VFS in Python alone: see failing_vfs
                await layer.close()
        await asyncio.sleep(0)


@pytest.fixture
def tries(monkeypatch):
    """Hear how often something met a full disk or a lock. It is tried again at once, and not for long."""
    monkeypatch.setattr(handover, "is_possible", lambda: False)  # what goes from layer to layer is a row
    monkeypatch.setattr(schema, "LOCK_WAIT_MS", 20)
    monkeypatch.setattr(apsw_database, "LOCK_WAIT_MS", 20)
    monkeypatch.setattr(keeper, "FULL_PAUSE", 0.001)
    monkeypatch.setattr(keeper, "RETRY_PAUSE", 0.001)
    heard, suffer = [], keeper.Keeper.suffer

    def note(self, error):
        heard.append(error)
        suffer(self, error)

    monkeypatch.setattr(keeper.Keeper, "suffer", note)
    return heard


async def drain(layer, channel):
    """All that is on a channel."""
    await layer.send(channel, {"type": "end"})
    messages = []
    while (word := (await asyncio.wait_for(layer.receive(channel), PATIENCE))["type"]) != "end":
        messages.append((channel, word))
    return messages


async def check_messages(journey):
    """What was accepted is there once, in order, and what was refused is not: the same layer, opened again, says it."""
    assert await journey.send("jobs", "again")
    for channel in ("jobs", "member", journey.own):
        found = [message for message in journey.arrived if message[0] == channel]
        found += await drain(journey.layer, channel)
        assert found == [message for message in journey.accepted if message[0] == channel], journey.errors
    await journey.close()


def check_file(path, journey):
    """The file is whole, and so is its schema."""
    connection = schema.connect(path)
    execute = schema.executor(connection)
    assert execute("PRAGMA integrity_check", ()) == [("ok",)]
    assert schema.differences(execute, schema.steps()) == []
    assert len(schema.records(execute)) == len(schema.steps())
    left = execute("SELECT count(*) FROM channels_lite_message WHERE prefix = 'other'", ())[0][0]
    assert left == 0 or not journey.flushed
    connection.close()


async def fail(kind, number, for_good, folder, tries):
    """Go the way with this call failing; whether it came to that."""
    path = str(folder / f"{number}.sqlite3")
    with failing(kind, number, for_good=for_good) as faults:
        journey = Journey(path, tries)
        await journey.go()
    try:
        assert for_good or len(journey.errors) <= 1
        assert not any("no transaction" in str(error) for error in journey.errors)  # that would hide the reason
        await check_messages(journey)
        check_file(path, journey)
    except BaseException:
        print(f"{kind}, call {number}: refused {journey.refused}, accepted {journey.accepted}, {journey.errors}")
        raise
    for file in folder.glob("*.sqlite3*"):
        if file.is_file():
            file.unlink()
    return faults.met > 0


# Not: a lock of the -shm for good. SQLite waits for it itself, ten seconds at each statement: "locking protocol".
WAYS = [
    (kind, for_good) for kind in KINDS for for_good in (False, True) if (kind, for_good) != ("lock of the -shm", True)
]


@pytest.mark.parametrize(("kind", "for_good"), WAYS)
async def test_each_call(kind, for_good, tmp_path: Path, tries, caplog):
    """Whichever call fails: what was accepted arrives once, what was refused never, and the file stays whole."""
    number = 1
    while await fail(kind, number, for_good, tmp_path, tries):
        number += 1
        caplog.clear()
    assert number > 1


def fail_reading_back(monkeypatch, error, times):
    """Let so many reads of where a group's message went fail; what counts them."""
    failed, read_back = [], store.queues

    def fail(execute, ids):
        if len(failed) < times:
            failed.append(ids)
            raise error
        return read_back(execute, ids)

    monkeypatch.setattr(store, "queues", fail)
    return failed


EVER = 10**9


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("error", "times", "raised"),
    [
        (Locked, 2, None),
        (Locked, EVER, DatabaseBusy),
        (DatabaseFailed, EVER, DatabaseFailed),
    ],
)
async def test_reading_back_a_group(path, tries, monkeypatch, error, times, raised, count):
    """Where the layer cannot read where a group's message went: an error and nothing sent, or a success and it is once.

    The failure is put into the statement: SQLite reads from the disk there only if its cache does not hold the rows.
    """
    layer = AIOSQLiteChannelLayer(path=path)
    layer._deadline = 0.05 if raised else PATIENCE
    await layer.group_add("crowd", "member")
    failed = fail_reading_back(monkeypatch, error, times)
    if count == 1:  # of the task that wrote last: inline
        results = [await outcome(layer.group_send("crowd", {"type": "0"}))]
    else:  # in one transaction
        results = await asyncio.gather(
            *[outcome(layer.group_send("crowd", {"type": str(number)})) for number in range(count)]
        )
    assert failed
    monkeypatch.undo()
    assert [type(result) for result in results] == [raised or type(None)] * count
    assert await drain(layer, "member") == ([] if raised else [("member", str(number)) for number in range(count)])
    await layer.close()
    await asyncio.sleep(0)


async def outcome(call):
    """The error of a call, or None."""
    try:
        await call
    except CLEAR as error:
        return error
