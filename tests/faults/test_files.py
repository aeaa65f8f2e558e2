"""A database file that may not be used, is none, or is damaged: a clear error each time, and nothing made anew.

``python -m tests.faults.test_files FOLDER KIND`` is the process of another user: rights do not count for root.
"""

import asyncio
import contextlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async

if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()

from django.db import connections

from channels_lite import cli
from channels_lite.errors import DatabaseFailed, SchemaError
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.page import folder_of
from tests.journal import keep_a_wal
from tests.patience import PATIENCE
from tests.processes.conftest import ROOT

KINDS = ["aio", "core"]
NOBODY = 65534
PAGE = 4096


def open_layer(kind, path):
    """A layer of one kind; the alias ``core`` is its file."""
    connections.settings["core"]["NAME"] = path
    return AIOSQLiteChannelLayer(path=path) if kind == "aio" else SQLiteChannelLayer(database="core")


async def use(layer):
    """Send, receive and join a group: what each of them raises, None where it succeeds."""
    raised = []
    for call in (
        lambda: layer.send("jobs", {"type": "x"}),
        lambda: asyncio.wait_for(layer.receive("jobs"), PATIENCE),
        lambda: layer.group_add("crowd", "member"),
    ):
        try:
            await call()
        except Exception as error:
            raised.append(error)
        else:
            raised.append(None)
    await layer.close()
    await asyncio.sleep(0)
    await sync_to_async(connections.close_all)()
    return raised


def snapshot(folder):
    """Every file in a folder and what is in it; not of the -shm, which who only reads writes to as well."""
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return {str(file): b"" if file.name.endswith("-shm") else file.read_bytes() for file in files}


# Rights.


class Place:
    """A folder that every user can reach, and a database's files in it."""

    def __init__(self, folder, owner):
        self.folder = folder
        self.path = f"{folder}/channels.sqlite3"
        self._owner = owner

    def make(self):
        """A database as a killed process leaves it: with -wal, -shm and -bell. All of it is the other user's."""
        script = (
            "import asyncio, os, sys; from channels_lite.layers.aio import AIOSQLiteChannelLayer as Layer\n"
            "layer = Layer(path=sys.argv[1]); asyncio.run(layer.send('jobs', {'type': 'x'})); os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", script, self.path], cwd=ROOT, check=True)
        shutil.rmtree(folder_of(self.path), ignore_errors=True)
        for file in Path(self.folder).iterdir():
            self.give(file)
        self.give(self.folder)

    def give(self, name):
        """Let it be the other user's."""
        if os.geteuid() == 0:
            os.chown(name, self._owner, self._owner)

    def take(self, name, mode):
        """Let it be somebody else's, with these rights; where there is only one user, with none to write."""
        if os.geteuid() == 0:
            os.chown(name, 0, 0)
            os.chmod(name, mode)
        else:
            os.chmod(name, mode & 0o555 if stat.S_ISDIR(os.stat(name).st_mode) else 0o400)


@pytest.fixture
def place():
    """A place for one test."""
    folder = tempfile.mkdtemp(prefix="channels-lite-")
    os.chmod(folder, 0o755)
    place = Place(folder, NOBODY)
    place.give(folder)
    yield place
    os.chmod(folder, 0o755)
    shutil.rmtree(folder)


def read_only_file(place):
    place.make()
    os.chmod(place.path, 0o444)
    return f"the file {place.path} is not"


def read_only_folder(place):
    place.take(place.folder, 0o755)
    return "" if os.geteuid() else place.folder


def read_only_folder_of_a_database(place):
    place.make()
    for name in ("-wal", "-shm", "-bell"):
        os.unlink(place.path + name)
    place.take(place.folder, 0o755)
    return f"the folder {place.folder} is not"


def somebody_elses(ending, mode):
    def make(place):
        place.make()
        place.take(place.path + ending, mode)
        return f"{place.path}{ending}"

    make.__name__ = f"somebody else's {ending or 'file'}, {mode:o}"
    return make


def no_folder(place):
    place.path = f"{place.folder}/missing/channels.sqlite3"
    return "folder"


def a_folder(place):
    os.mkdir(place.path)
    place.give(place.path)
    return "is a folder"


RIGHTS = [
    read_only_file,
    read_only_folder,
    read_only_folder_of_a_database,
    no_folder,
    a_folder,
    *(somebody_elses(ending, mode) for ending in ("", "-wal", "-shm") for mode in (0o600, 0o444)),
]


def ask(place, kind):
    """What another user's process is told: the types and texts of errors, and what the schema command says."""
    command = [sys.executable, "-m", "tests.faults.test_files", place.path, kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lack", RIGHTS, ids=lambda lack: lack.__name__)
def test_without_the_right(place, kind, lack):
    """The first use, whichever it is, and the schema command say which file it is and what to do; nothing is made."""
    words = lack(place)
    before = snapshot(place.folder)
    told = ask(place, kind)
    for name, text in told["use"]:
        assert name == "SchemaError", text
        assert place.path in text
        assert words in text
        assert text.count(". ") <= 1
    assert len({text for _, text in told["use"]}) == 1
    assert told["code"] == 1
    assert told["said"].startswith("channels-lite-schema: error: ")
    assert words in told["said"]
    assert snapshot(place.folder) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_bell_of_somebody_else(place, kind):
    """A bell that may not be written is named at the first use."""
    place.make()
    place.take(f"{place.path}-bell", 0o600)
    for name, text in ask(place, kind)["use"]:
        assert name == "SchemaError"
        assert f"The bell {place.path}-bell" in text
        assert "check the rights of that file" in text


@pytest.mark.parametrize("kind", KINDS)
def test_an_inbox_of_somebody_else(place, kind):
    """Where the folder of inboxes may not be used, messages are rows, and all works."""
    place.make()
    os.mkdir(folder_of(place.path), 0o700)
    place.take(folder_of(place.path), 0o500)
    assert ask(place, kind)["use"] == [None] * 3


async def as_another(path, kind):
    """Use the file as another user, and say how that went."""
    with tempfile.TemporaryDirectory() as folder:  # what is imported late is imported now
        scratch = f"{folder}/scratch.sqlite3"
        await use(open_layer(kind, scratch))
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(["status", "--path", scratch])
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    raised = await use(open_layer(kind, path))
    told = [error and (type(error).__name__, str(error)) for error in raised]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = cli.main(["apply", "--path", path])
    return {"use": told, "code": code, "said": said.getvalue()}


# What is no database, or a damaged one.


def scribble(path, offset, content):
    """Write over a part of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.fixture(params=KINDS)
def kind(request, alias):
    """Which layer is under test; the alias is the test's file."""
    return request.param


@pytest.fixture
async def filled(path, kind):
    """A database with messages of a page each, and without a -wal."""
    keep_a_wal(path)
    layer = open_layer(kind, path)
    for number in range(40):
        await layer.send("jobs", {"type": "x", "number": number, "text": "x" * 3500})
    await layer.close()
    await asyncio.sleep(0)
    await sync_to_async(connections.close_all)()
    shutil.rmtree(folder_of(path), ignore_errors=True)
    assert not os.path.exists(f"{path}-wal")
    return path


def garbage(path):
    Path(path).write_bytes(os.urandom(10 * PAGE))


def text(path):
    Path(path).write_text("To whom it may concern")


def cut_within_a_page(path):
    os.truncate(path, 5 * PAGE + 1000)


def cut_to_some_pages(path):
    os.truncate(path, 3 * PAGE)


def cut_within_the_first_page(path):
    os.truncate(path, 1000)


def cut_within_the_header(path):
    os.truncate(path, 50)


def header_of_a_newer_format(path):
    scribble(path, 18, b"\x09\x09")


DAMAGES = [
    garbage,
    text,
    cut_within_a_page,
    cut_to_some_pages,
    cut_within_the_first_page,
    cut_within_the_header,
    header_of_a_newer_format,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_no_database_any_more(filled, kind, damage):
    """Each use says which file it is and what is wrong with it, and no byte of it is changed."""
    damage(filled)
    before = Path(filled).read_bytes()
    for _ in range(2):
        for error in await use(open_layer(kind, filled)):
            assert isinstance(error, SchemaError), error
            assert filled in str(error)
            assert any(word in str(error) for word in ("is damaged", "is not a SQLite database", "for writing"))
    assert Path(filled).read_bytes() == before


async def test_an_empty_file(path, kind):
    """A file with nothing in it is a new database."""
    Path(path).touch()
    assert await use(open_layer(kind, path)) == [None] * 3


async def test_tables_of_somebody_else(path, kind):
    """A database with other tables gets ours beside them, and they stay as they are."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE message (id); INSERT INTO message VALUES (1), (2)")
    assert await use(open_layer(kind, path)) == [None] * 3
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM message").fetchall() == [(1,), (2,)]


def pages_of(path, name):
    """The numbers of the pages of a table or index, but for its root."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
    content = Path(path).read_bytes()[(root - 1) * PAGE : root * PAGE]
    assert content[0] == 5  # the root of a table with several pages
    count = int.from_bytes(content[3:5], "big")
    cells = [int.from_bytes(content[12 + 2 * n : 14 + 2 * n], "big") for n in range(count)]
    return [int.from_bytes(content[cell : cell + 4], "big") for cell in cells]


async def test_a_damaged_page(filled, kind):
    """A damaged page in the middle of the messages is an error for who comes to it; what is before it arrives once."""
    damaged = pages_of(filled, "channels_lite_message")[20]
    scribble(filled, (damaged - 1) * PAGE, b"\xff" * PAGE)
    layer = open_layer(kind, filled)
    numbers = []

    async def receive_all():
        while True:
            numbers.append((await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["number"])

    with pytest.raises(DatabaseFailed, match=f"{filled} is damaged"):
        await receive_all()
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 40
    for _ in range(3):
        with pytest.raises(DatabaseFailed, match=f"{filled} is damaged"):
            await asyncio.wait_for(layer.receive("jobs"), PATIENCE)
    with pytest.raises(DatabaseFailed, match="is damaged"):
        await layer.flush()
    await layer.close()
    await asyncio.sleep(0)


async def test_a_damaged_page_at_the_end(filled, kind):
    """A damaged page where a message would be put is an error for its sender, each time."""
    damaged = int.from_bytes(root_of(filled, "channels_lite_message")[8:12], "big")
    scribble(filled, (damaged - 1) * PAGE, b"\xff" * PAGE)
    layer = open_layer(kind, filled)
    for _ in range(3):
        with pytest.raises(DatabaseFailed, match=f"{filled} is damaged.*restore it from a backup"):
            await layer.send("jobs", {"type": "x"})
    await layer.close()
    await asyncio.sleep(0)


def root_of(path, name):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0]
    return Path(path).read_bytes()[(root - 1) * PAGE : root * PAGE]


# The -wal.


@pytest.fixture
def killed(path, kind):
    """A database with a -wal, as a killed process leaves it: 20 messages, sent one after the other."""
    keep_a_wal(path)
    command = [sys.executable, "-m", "tests.faults.test_files", path, kind, "20"]
    subprocess.run(command, cwd=ROOT, check=True)
    shutil.rmtree(folder_of(path), ignore_errors=True)
    os.unlink(f"{path}-shm")  # as after the system has gone down
    assert os.path.getsize(f"{path}-wal") > 20 * PAGE
    return path


async def send_and_die(path, kind, count):
    """Send so many messages and end without a word."""
    layer = open_layer(kind, path)
    for number in range(int(count)):
        await layer.send("jobs", {"type": "x", "number": number, "text": "x" * 3500})
    os._exit(0)


async def drain(layer):
    """The numbers of all messages that are there."""
    await layer.send("jobs", {"type": "end", "number": -1})
    numbers = []
    while (number := (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["number"]) >= 0:
        numbers.append(number)
    await layer.close()
    await asyncio.sleep(0)
    return numbers


async def test_a_whole_wal(killed, kind):
    """What a killed process has committed is there."""
    assert await drain(open_layer(kind, killed)) == list(range(20))


@pytest.mark.parametrize("part", [0.5, 0.7, 0.9, 0.99])
async def test_a_wal_that_was_cut(killed, kind, part):
    """What was committed before the cut is there, in order, and nothing else. What comes after it is gone: no trace of
    it is left that anybody could report."""
    os.truncate(f"{killed}-wal", int(os.path.getsize(f"{killed}-wal") * part))
    numbers = await drain(open_layer(kind, killed))
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 20


async def test_garbage_in_a_wal(killed, kind):
    """Frames with a wrong checksum end what is there, as a cut does."""
    scribble(f"{killed}-wal", os.path.getsize(f"{killed}-wal") // 2, os.urandom(2 * PAGE))
    numbers = await drain(open_layer(kind, killed))
    assert numbers == list(range(len(numbers)))
    assert 0 < len(numbers) < 20


async def test_a_wal_that_is_no_wal(filled, kind):
    """A -wal of garbage adds nothing to the database, and takes nothing from it."""
    Path(f"{filled}-wal").write_bytes(os.urandom(10 * PAGE))
    assert await drain(open_layer(kind, filled)) == list(range(40))


if __name__ == "__main__":
    work = send_and_die if len(sys.argv) > 3 else as_another
    result = asyncio.run(work(*sys.argv[1:]))
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)
