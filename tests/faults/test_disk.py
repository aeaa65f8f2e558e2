"""A disk without room, and a file that must not grow: senders get an error, receivers go on.

``python -m tests.faults.test_disk FILE KIND`` is the process that runs under a limit for the size of files.
"""

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync, sync_to_async

if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()

from django.db import connections, transaction
from django.db.transaction import TransactionManagementError

from channels_lite import inbox, keeper
from channels_lite.bell import Bell
from channels_lite.errors import DatabaseFailed, DiskFull
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.page import folder_of
from tests.journal import keep_a_wal
from tests.patience import PATIENCE, until
from tests.processes.conftest import ROOT, start  # noqa: F401 # a fixture

KINDS = ["aio", "core", "core-wal"]
SIZE = 2 * 1024 * 1024  # bytes that the small disk has
MESSAGE = {"type": "x", "text": "x" * 3000}  # a page of its own


def mount(folder):
    """Mount a small disk there; what the system says where it does not allow that."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


class Disk:
    """A small disk, and a file on it that takes all the room."""

    def __init__(self, folder):
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self):
        """Leave no room at all."""
        with open(self._ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    def grow(self):
        """Make the disk larger."""
        subprocess.run(["mount", "-o", f"remount,size={20 * SIZE}", str(self.folder)], check=True)

    def make_room(self):
        """Give it back."""
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    """A small disk, mounted in the test's folder."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = mount(str(folder))
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here ({mounted.stderr.strip()}); see test_in_a_namespace")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def path(request, tmp_path):
    """A database file that does not exist yet: on the small disk, where the test has one."""
    folder = request.getfixturevalue("disk").folder if "disk" in request.fixturenames else tmp_path
    return str(folder / "channels.sqlite3")


def open_layer(kind, path):
    """A layer of one kind; the alias ``core`` is its file."""
    if kind == "core-wal":
        keep_a_wal(path)
    if kind == "aio":
        return AIOSQLiteChannelLayer(path=path)
    return SQLiteChannelLayer(database="core", serializer_format="msgpack")  # as the peers


@pytest.fixture(params=KINDS)
def kind(request):
    """Which layer is under test."""
    return request.param


@pytest.fixture
async def make(kind, path, alias):
    """Make layers of this kind on the test's file; they are closed afterwards."""
    made = []

    def make_one():
        made.append(open_layer(kind, path))
        return made[-1]

    yield make_one
    for layer in made:
        await layer.close()
    await sync_to_async(connections.close_all)()
    await asyncio.sleep(0)


@pytest.fixture
def tries(monkeypatch):
    """Hear how often something met the full disk, which is tried again soon."""
    monkeypatch.setattr(keeper, "FULL_PAUSE", 0.02)
    heard, suffer = [], keeper.Keeper.suffer

    def note(self, error):
        if isinstance(error, DiskFull):
            heard.append(error)
        suffer(self, error)

    monkeypatch.setattr(keeper.Keeper, "suffer", note)
    return heard


async def receive(layer, channel):
    """The next message."""
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


async def is_empty(layer, channel):
    """Whether nothing comes on this channel any more: what is sent last comes first."""
    await layer.send(channel, {"type": "last"})
    return await receive(layer, channel) == {"type": "last"}


def test_in_a_namespace(tmp_path):
    """Where only another user namespace may mount, the tests of this module hold in one."""
    if mount(str(tmp_path)).returncode == 0:
        subprocess.run(["umount", str(tmp_path)], check=True)
        pytest.skip("a small disk can be mounted here: all the tests run as they are")
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("neither can a small disk be mounted here, nor a namespace made in which it could")
    command = ["unshare", "-Urm", sys.executable, "-m", "pytest", "-q", __file__, "--deselect", f"{__file__}::{NAME}"]
    done = subprocess.run([*command, "-k", f"not {NAME}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


NAME = test_in_a_namespace.__name__


async def test_senders_hear_of_it(disk, make, path):
    """What cannot be written is a DiskFull that names the file, and has not happened; with room it all works again."""
    layer = make()
    await layer.group_add("crowd", "member")
    await layer.send("before", MESSAGE)
    disk.fill()
    for call in (
        lambda: layer.send("jobs", MESSAGE),
        lambda: layer.group_send("crowd", MESSAGE),
        lambda: layer.group_add("crowd", "x" * 90),
        lambda: layer.group_discard("crowd", "member"),
        layer.flush,
    ):
        with pytest.raises(DiskFull, match=f"{path} cannot be written, because its disk is full.*nothing was sent"):
            await call()
    disk.make_room()
    await layer.group_send("crowd", {"type": "group"})
    assert await receive(layer, "member") == {"type": "group"}
    assert await receive(layer, "before") == MESSAGE
    for channel in ("jobs", "member", "x" * 90):
        assert await is_empty(layer, channel)


async def test_several_senders_at_once(disk, make):
    """Of what many tasks send until the disk is full, the accepted arrives once and in order, and nothing else."""
    layer = make()
    await layer.group_add("crowd", "member")

    async def send(number):
        await layer.send("jobs", {"type": "x", "number": number, "text": "x" * 100_000})
        return number

    results = await asyncio.gather(*[send(number) for number in range(60)], return_exceptions=True)
    accepted = [result for result in results if isinstance(result, int)]
    refused = [result for result in results if not isinstance(result, int)]
    assert accepted
    assert refused
    assert {type(error) for error in refused} == {DiskFull}
    disk.grow()
    assert [(await receive(layer, "jobs"))["number"] for _ in accepted] == accepted
    assert await is_empty(layer, "jobs")


async def test_receivers_go_on(disk, make, tries, caplog):
    """A receiver waits while what it is to take cannot be removed, gets it once there is room; the log is short."""
    layer = make()
    await layer.send("jobs", {"type": "first"})
    disk.fill()
    receiving = [asyncio.ensure_future(receive(layer, "jobs")) for _ in range(2)]
    await until(lambda: len(tries) > 20 or any(task.done() for task in receiving))
    assert not any(task.done() for task in receiving)
    told = [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]
    assert ["wait for room" in record.message for record in told] == [True]
    assert not any(record.exc_info for record in told)
    disk.make_room()
    await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
    await layer.send("jobs", {"type": "second"})
    assert [(await task)["type"] for task in receiving] == ["first", "second"]
    assert await is_empty(layer, "jobs")


@pytest.mark.parametrize("kind", ["core", "core-wal"], indirect=True)
async def test_nothing_piles_up(disk, make, kind, tries):
    """However often somebody asks for a look while the disk is full, as each poll does, few jobs wait for room."""
    layer = make()
    await layer.send("jobs", {"type": "x"})
    disk.fill()
    receiving = asyncio.ensure_future(receive(layer, "jobs"))
    for _ in range(20):
        seen = len(tries)
        layer._seen = None  # as after a commit of somebody else's
        layer.look()
        layer._collect("jobs")
        await until(lambda seen=seen: len(tries) > seen + 2)
    waiting = layer._database.keeper
    assert len(waiting._starving) + len(waiting._jobs) <= 4
    disk.make_room()
    assert await receiving == {"type": "x"}


async def test_what_needs_no_disk_goes_on(disk, make, kind, tries, start):  # noqa: F811
    """While a receiver waits for room, messages in memory arrive: of the process itself, and of another one."""
    if kind == "core":
        pytest.skip("without a -wal everything goes through the database")
    if not inbox.is_possible():
        pytest.skip("there are inboxes on Linux only")
    layer = make()
    await layer.send("jobs", {"type": "stuck"})
    peer = await start("obey", *["--core"] * (kind == "core-wal"))
    channel, other = await layer.new_channel(), await layer.new_channel("other")
    disk.fill()
    stuck = asyncio.ensure_future(receive(layer, "jobs"))
    await until(lambda: bool(tries))
    await layer.send(channel, {"type": "mine"})
    await layer.send(other, {"type": "mine"})
    assert [await receive(layer, name) for name in (channel, other)] == [{"type": "mine"}] * 2
    receiving = asyncio.ensure_future(receive(layer, channel))
    await peer.obey("send", channel, "theirs")
    assert await receiving == {"type": "theirs"}
    assert not stuck.done()
    disk.make_room()
    assert await stuck == {"type": "stuck"}


async def test_rows_for_a_channel_of_ours(disk, make, kind, monkeypatch, tries, start):  # noqa: F811
    """A row that waits for a process-specific channel comes once, when there is room, and before what is sent later."""
    layer = make()
    peer = await start("obey", *["--core"] * kind.startswith("core"))
    channel = await layer.new_channel()
    monkeypatch.setattr(type(layer), "hear", lambda *arguments: True)  # nobody looks yet
    await layer.group_add("crowd", channel)
    if inbox.is_possible():
        for file in Path(folder_of(layer.file())).iterdir():
            file.unlink()  # the peer sends a row
    await peer.obey("send", channel, "row")
    monkeypatch.undo()
    monkeypatch.setattr(keeper, "FULL_PAUSE", 0.02)
    disk.fill()
    receiving = asyncio.ensure_future(receive(layer, channel))
    for _ in range(5):
        with pytest.raises(DiskFull):
            await layer.send(channel, {"type": "later"})
    assert not receiving.done()
    disk.make_room()
    assert await receiving == {"type": "row"}
    assert await is_empty(layer, channel)


@pytest.mark.parametrize("kind", ["aio", "core-wal"], indirect=True)
async def test_the_wal_has_room_of_its_own(disk, make, kind, tries):
    """Where nobody makes room, but the -wal can be copied back, receivers go on with what it has of the disk."""
    layer = make()
    for _ in range(20):
        await layer.send("jobs", MESSAGE)
    keep_a_wal_copied(layer)
    await layer.send("jobs", {"type": "last"})
    disk.fill()
    for _ in range(20):
        assert await receive(layer, "jobs") == MESSAGE
    assert await receive(layer, "jobs") == {"type": "last"}


def keep_a_wal_copied(layer):
    """Let another process copy the -wal back, so that the database has all its pages."""
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint').fetchall()"
    subprocess.run([sys.executable, "-c", script, layer.file()], check=True)


async def test_put_back_when_there_is_room(disk, make, kind, tries):
    """What a cancelled receiver had been given goes back for other processes as soon as there is room."""
    layer = make()
    await layer.send("jobs", {"type": "x"})
    item = await claimed(layer)
    disk.fill()
    layer._mailboxes.park("jobs", item)
    layer._later(lambda execute: layer._put_back("jobs", execute))
    await until(lambda: len(tries) > 2)
    assert layer._mailboxes.held("jobs", "jobs") == 1
    disk.make_room()
    await until(lambda: layer._mailboxes.held("jobs", "jobs") == 0)
    assert await receive(layer, "jobs") == {"type": "x"}
    assert await is_empty(layer, "jobs")


async def claimed(layer):
    """The item of a channel's next message, which a receiver has been given."""
    items, opened = [], layer._open
    layer._open = lambda channel, item: items.append(item) or opened(channel, item)
    await receive(layer, "jobs")
    del layer._open
    return items[0]


@pytest.mark.parametrize("made", [False, True], ids=["a new file", "a file that is there"])
async def test_full_from_the_beginning(disk, make, path, made):
    """The first use of a layer says that the disk is full, each time; with room, the layer works."""
    if made:
        layer = make()
        await layer.send("before", MESSAGE)
        await layer.close()
        for companion in ("-bell", "-shm", "-wal"):
            Path(path + companion).unlink(missing_ok=True)
    layer = make()
    disk.fill()
    for _ in range(2):
        with pytest.raises(DiskFull, match=f"{path} cannot be written"):
            await layer.send("jobs", MESSAGE)
        with pytest.raises(DiskFull, match=f"{path} cannot be written"):
            await receive(layer, "jobs")
    disk.make_room()
    assert await is_empty(layer, "jobs")
    if made:
        assert await receive(layer, "before") == MESSAGE


def test_a_bell_that_cannot_be_made(disk, path):
    """A bell for which there is no room leaves nothing open."""
    Path(path).touch()
    disk.fill()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        Bell(path)
    disk.make_room()
    Bell(path).close()
    assert len(Path(path + "-bell").read_bytes()) == 8


@pytest.mark.parametrize("kind", ["core", "core-wal"], indirect=True)
def test_in_a_transaction(disk, kind, path, alias, make_sync):
    """A transaction in which a send met the full disk is not committed in part, even if the error is swallowed."""
    layer, connection = make_sync(), connections[alias]
    async_to_sync(layer.group_discard)("nothing", "nobody")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE cargo (name TEXT)")
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        cursor.execute("INSERT INTO cargo VALUES (?)", ["x" * 10_000])
        cursor.execute("PRAGMA cache_size = 1")  # pages go to the disk before the commit
        disk.fill()
        with pytest.raises(DiskFull):
            async_to_sync(layer.send)("jobs", {"type": "x", "text": "x" * 500_000})
        disk.make_room()
        assert not connection.connection.in_transaction  # SQLite has undone all of it
        with pytest.raises(TransactionManagementError):
            cursor.execute("INSERT INTO cargo VALUES (?)", ["alone"])
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT count(*) FROM cargo").fetchone()[0] == 0
    assert async_to_sync(is_empty)(layer, "jobs")


@pytest.fixture
def make_sync(kind, path, alias):
    """As ``make``, for tests that are no coroutines."""
    made = []

    def make_one():
        made.append(open_layer(kind, path))
        return made[-1]

    yield make_one
    for layer in made:
        async_to_sync(layer.close)()
    connections.close_all()


# A limit for the size of files.


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_a_limit_for_the_size_of_files(kind, path):
    """Where the file must not grow, senders get a DiskFull and receivers go on when it may."""
    if kind != "aio" and sys.version_info < (3, 11):
        pytest.skip("this Python does not say which failure of the disk it is")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.test_disk", path, kind], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


async def limited(path, kind):
    """Send and receive under a limit that the file has reached already."""
    import resource

    heard, suffer = [], keeper.Keeper.suffer
    keeper.Keeper.suffer = lambda self, error: [heard.append(error), suffer(self, error)]
    connections.settings["core"]["NAME"] = path
    layer = open_layer(kind, path)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 4096, usual[1]))  # too little for the schema
    with pytest.raises(DiskFull):
        await layer.send("jobs", MESSAGE)
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    await layer.send("jobs", MESSAGE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
    for call in (lambda: layer.send("more", MESSAGE), lambda: layer.group_add("crowd", "member"), layer.flush):
        with pytest.raises(DatabaseFailed) as raised:
            await call()
        assert type(raised.value) is DiskFull
    receiving = asyncio.ensure_future(receive(layer, "jobs"))
    await until(lambda: len(heard) > 1 or receiving.done())
    assert not receiving.done()
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert await receiving == MESSAGE
    assert await is_empty(layer, "jobs")
    assert await is_empty(layer, "more")
    await layer.close()


if __name__ == "__main__":
    asyncio.run(limited(*sys.argv[1:]))
