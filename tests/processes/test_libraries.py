"""Two SQLite libraries never meet: real processes in which apsw, Django and sqlite3 want the same file."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes.conftest import PATIENCE, ROOT

BEGINNING = """
import asyncio, contextlib, io, os, sqlite3, sys, threading
from pathlib import Path
from django.conf import settings
folder = Path(sys.argv[1])
os.chdir(folder)
file = folder / "channels.sqlite3"
(folder / "elsewhere").mkdir()

def database(name):
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name}

settings.configure(
    USE_TZ=True,
    INSTALLED_APPS=["channels", "channels_lite"],
    DATABASES={
        "default": database(folder / "db.sqlite3"),
        "channels": database(file),
        "symlink": database(folder / "elsewhere" / "symlink.sqlite3"),
        "hard link": database(folder / "elsewhere" / "hardlink.sqlite3"),
        "relative": database("channels.sqlite3"),
        "uri": {**database(f"file:{file}?cache=private"), "OPTIONS": {"uri": True}},
        "memory": database(":memory:"),
    },
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
            "CONFIG": {"database": "channels"},
        },
    },
)
import django
django.setup()
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import connections
from channels_lite import cli
from channels_lite.errors import TwoLibraries

layer = get_channel_layer()
NAMES = ["channels", "symlink", "hard link", "relative", "uri"]

def link():
    os.symlink(file, folder / "elsewhere" / "symlink.sqlite3")
    os.link(file, folder / "elsewhere" / "hardlink.sqlite3")

def send():
    async_to_sync(layer.send)("x", {"type": "x"})

def look(alias):
    with connections[alias].cursor() as cursor:
        return cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

def refused(act, *arguments):
    try:
        act(*arguments)
    except TwoLibraries as error:
        assert type(error) is TwoLibraries and error.__cause__ is None, repr(error)
        return str(error)
    raise SystemExit(f"not refused: {act.__name__}{arguments}")
"""


async def run(script: str, folder: Path) -> str:
    """Run a script in a process of its own, which must succeed in silence; returns what it prints."""
    command = [sys.executable, "-W", "error", "-c", BEGINNING + script, str(folder)]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
    return result.stdout


async def test_the_layer_first(tmp_path: Path) -> None:
    """Django may not open the layer's file, by whatever name, until the layer is closed; other files it may."""
    await run(
        """
send()
link()
for alias in NAMES:
    text = refused(look, alias)
    assert f"DATABASES[{alias!r}]" in text, text
    assert "CHANNEL_LAYERS['default'] ('database': 'channels')" in text, text
    assert "channels_lite.layers.core.SQLiteChannelLayer" in text and "'path'" in text, text
    assert len(text.split(". ")) == 3, text
for name in (file, str(file), os.fsencode(file), "channels.sqlite3", "../" + folder.name + "/channels.sqlite3"):
    refused(sqlite3.connect, name)
for name in (f"file:{file}", f"file://{file}", f"file://localhost{file}?mode=ro", f"file:{file}?immutable=1#x",
             "file:channels%2Esqlite3"):
    refused(lambda: sqlite3.connect(name, uri=True))
class Mine(sqlite3.Connection):
    pass
refused(Mine, file)
refused(lambda: sqlite3.connect(file, factory=Mine))
assert look("default") == look("memory") == 0
sqlite3.connect(":memory:").close()
sqlite3.connect("").close()
sqlite3.connect(f"file:{file}?mode=memory&cache=shared", uri=True).close()
sqlite3.connect(folder / "other.sqlite3").close()
for wrong in ("/no/such/folder/x", "nul\\0", 5):
    try:
        sqlite3.connect(wrong)
    except (sqlite3.Error, ValueError, TypeError):
        pass
    else:
        raise SystemExit(wrong)
send()
async_to_sync(layer.close)()
for alias in NAMES:
    assert look(alias) > 3
    refused(send)
    connections[alias].close()
send()
""",
        tmp_path,
    )


async def test_django_first(tmp_path: Path) -> None:
    """The layer and the schema command may not open a file that Django has open, by whatever name."""
    await run(
        """
file.touch()
link()
for alias in NAMES:
    look(alias)
    text = refused(send)
    assert f"The file {file} was not opened with apsw" in text, text
    assert f"DATABASES[{alias!r}]" in text and "CHANNEL_LAYERS['default']" in text, text
    with contextlib.redirect_stderr(io.StringIO()) as said:
        for verb in ("apply", "status", "validate", "show"):
            assert cli.main([verb, "--path", str(file)]) == 1, verb
    assert said.getvalue().count("was not opened with apsw") == 4, said.getvalue()
    look(alias)  # it goes on with its own connection
    connections[alias].close()
assert file.stat().st_size == 0
send()
""",
        tmp_path,
    )


async def test_companion_of_the_default_database(tmp_path: Path) -> None:
    """A layer on the companion of ``default`` and Django on ``default`` work in one process."""
    await run(
        """
from channels_lite.layers.aio import AIOSQLiteChannelLayer
layer = AIOSQLiteChannelLayer(database="default")
look("default")
send()
look("default")
refused(sqlite3.connect, folder / "db-channels.sqlite3")
refused(async_to_sync(AIOSQLiteChannelLayer(path=folder / "db.sqlite3").send), "x", {"type": "x"})
send()
""",
        tmp_path,
    )


async def test_fork(tmp_path: Path) -> None:
    """After a fork the parent still holds its file; the child holds nothing, and is refused what it opened itself."""
    await run(
        """
send()
pid = os.fork()
if pid == 0:
    look("channels")
    refused(send)
    connections["channels"].close()
    send()
    refused(look, "channels")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
refused(look, "channels")
send()
""",
        tmp_path,
    )


async def test_the_moment_of_a_fork(tmp_path: Path) -> None:
    """While the connections are closed for a fork, nobody else gets in; the layer goes on after it."""
    await run(
        """
from channels_lite import guard
send()
tries = []
os.register_at_fork(before=lambda: tries.append(refused(look, "channels")))  # runs before the one that closes them
os.register_at_fork(after_in_parent=lambda: tries.append(refused(look, "channels")))
from channels_lite.apsw_database import ApswDatabase
suspend = ApswDatabase.suspend
def suspended(self):
    suspend(self)
    tries.append(refused(look, "channels"))
ApswDatabase.suspend = suspended
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert len(tries) == 3
send()
async_to_sync(layer.close)()
assert not guard._holds
""",
        tmp_path,
    )


async def test_file_replaced_before_a_fork(tmp_path: Path) -> None:
    """Where the layer's path leads to a file of Django's after a fork, calls fail with the same error, and close."""
    await run(
        """
import logging
logging.disable(logging.ERROR)  # that it is gone from its place is said, too
send()
os.rename(file, folder / "moved.sqlite3")
look("channels")
pid = os.fork()
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
for _ in range(2):
    refused(send)
async_to_sync(layer.close)()
connections["channels"].close()
send()
""",
        tmp_path,
    )


async def test_race(tmp_path: Path) -> None:
    """Many threads that open one file at once with either library: never both, and the losers hear the error."""
    printed = await run(
        """
from channels_lite import schema
schema.connect(str(file)).close()
rounds = {"apsw": 0, "sqlite3": 0, "nobody": 0}
inside, lock, wrong = {"apsw": 0, "sqlite3": 0}, threading.Lock(), []

def open_it(library):
    return schema.connect(str(file)) if library == "apsw" else sqlite3.connect(file)

def compete(library, other):
    for number in range(60):
        barrier.wait()
        try:
            connection = open_it(library)
        except TwoLibraries:
            connection = None
        else:
            with lock:
                inside[library] += 1
                if inside[other]:
                    wrong.append(number)
        with lock:
            if connection is not None:
                won.add(library)
        barrier.wait()
        if connection is not None:
            with lock:
                inside[library] -= 1
            connection.close()
        if barrier.wait() == 0:
            rounds["/".join(sorted(won)) or "nobody"] += 1
            won.clear()

won = set()
barrier = threading.Barrier(12)
threads = [threading.Thread(target=compete, args=pair) for pair in [("apsw", "sqlite3"), ("sqlite3", "apsw")] * 6]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
assert sum(rounds.values()) == 60, rounds
print(rounds)
""",
        tmp_path,
    )
    assert printed


async def hammer(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, object]]:
    """Run ``tests.processes.hammer``: how it ended, and what is in the two files afterwards."""
    command = [sys.executable, "-W", "error", "-m", "tests.processes.hammer", str(folder), *arguments]
    result = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT, check=False
    )
    messages = content(folder / "db-channels.sqlite3", "SELECT count(*) FROM channels_lite_message")
    rows = content(folder / "db.sqlite3", "SELECT count(*) FROM django_content_type WHERE app_label = 'numbers'")
    core = content(folder / "db.sqlite3", "SELECT count(*) FROM channels_lite_message")
    return result, {"messages": messages, "rows": rows, "core": core}


def content(file: Path, query: str) -> tuple[str, int] | str:
    """What an integrity check says of a file and how many rows it has, or the error."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchone()[0], connection.execute(query).fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)


WHOLE = {"messages": ("ok", 3_001), "rows": ("ok", 3_001), "core": ("ok", 3_001 + 300)}


async def test_hammering(tmp_path: Path) -> None:
    """Both layers and the ORM each write thousands of rows while others try the wrong library: all is there."""
    result, found = await hammer(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["errors"] == []
    assert report["attempts"] == report["refusals"]
    assert set(report["attempts"]) == {"raw", "orm", "fast"}
    assert found == WHOLE


@pytest.mark.skipif(sys.platform == "win32", reason="only POSIX locks belong to a process")
async def test_hammering_unguarded(tmp_path: Path) -> None:
    """Without the guard the same destroys files: that is what it is for, and the test above would see it."""
    result, found = await hammer(tmp_path, "unguarded")
    assert result.returncode in (0, -signal.SIGBUS)  # from a -shm that the other library has cut off
    assert found != WHOLE
