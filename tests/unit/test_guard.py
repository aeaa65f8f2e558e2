"""The guard: what it takes for the same file, when it holds one, and what it leaves alone."""

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from channels_lite import guard, schema
from channels_lite.errors import ChannelsLiteError, SchemaError, TwoLibraries
from channels_lite.guard import Connection, Hold, hold, possible_files
from tests.patience import PATIENCE


@pytest.fixture
def file(path: str) -> str:
    """A file that is there."""
    Path(path).touch()
    return path


def is_free(path: str) -> bool:
    """Whether sqlite3 may open a file."""
    try:
        sqlite3.connect(path).close()
    except TwoLibraries:
        return False
    return True


def test_held_as_long_as_a_connection_is_open(file: str) -> None:
    """A file is held from its first connection to the close of its last, and closing twice is harmless."""
    first, second = Connection(file), Connection(file)
    assert not is_free(file)
    first.close()
    first.close()
    assert not is_free(file)
    second.close()
    assert is_free(file)


def test_forgotten_connection(file: str) -> None:
    """A connection that nobody closes holds its file as long as it lives, and no longer."""
    connection = Connection(file)
    assert not is_free(file)
    del connection
    assert is_free(file)


def test_failed_opening(tmp_path: Path) -> None:
    """An opening that fails leaves nothing held."""
    with pytest.raises(FileNotFoundError):
        Connection(str(tmp_path / "nothing"))
    with pytest.raises(apsw.CantOpenError):
        Connection(str(tmp_path))
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(SchemaError, match="is not a SQLite database"):
        schema.connect(str(tmp_path / "text"))
    assert is_free(str(tmp_path / "text"))
    assert not guard._holds


def test_refused_while_sqlite3_has_it(file: str) -> None:
    """apsw is refused as long as sqlite3 has the file open, and nothing is held in vain."""
    with closing(sqlite3.connect(file)) as connection:
        for _ in range(2):
            with pytest.raises(TwoLibraries, match=f"The file {file} was not opened with apsw"):
                schema.connect(file)
        sqlite3.connect(file).close()  # sqlite3 itself goes on
        assert threading.get_ident() not in guard._openings
        connection.execute("CREATE TABLE x (y)")
    schema.connect(file).close()


def test_refused_while_anybody_has_it(file: str) -> None:
    """Any descriptor on the file counts: closing it would drop the locks."""
    with open(file, "rb"), pytest.raises(TwoLibraries):
        schema.connect(file)
    schema.connect(file).close()


def test_where_descriptors_are_not_listed(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc every number is tried."""

    def nothing(path: str) -> list[str]:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", nothing)
        with open(file, "rb"), pytest.raises(TwoLibraries):
            schema.connect(file)
        schema.connect(file).close()


def test_no_settings_name_it(file: str) -> None:
    """A file that no setting names is refused with a text that says so."""
    with closing(Connection(file)), pytest.raises(TwoLibraries) as refusal:
        sqlite3.connect(file)
    assert isinstance(refusal.value, ChannelsLiteError)
    assert f"The file {file} was not opened with sqlite3: this process has it open with apsw" in str(refusal.value)
    nobody = "code of this process that no setting names"
    assert f"apsw is for {nobody}, sqlite3 for {nobody}." in str(refusal.value)


@pytest.mark.parametrize("extent", ["waits", "gives up"])
def test_an_opening_in_flight(file: str, monkeypatch: pytest.MonkeyPatch, extent: str) -> None:
    """apsw waits for another thread that sqlite3 has announced but not opened yet, and then sees what came of it."""
    guard._watch()
    announced, go_on = threading.Event(), threading.Event()
    waiting = threading.Event()
    connections: list[Any] = []
    refusals: list[TwoLibraries] = []

    def opens_with_sqlite3() -> None:
        guard._about_to_open(file)  # as the first audit event does
        announced.set()
        assert go_on.wait(PATIENCE)
        monkeypatch.setattr(guard, "_about_to_open", lambda database: None)
        connections.append(sqlite3.connect(file, check_same_thread=False))  # the second event comes by itself

    def opens_with_apsw() -> None:
        try:
            connections.append(schema.connect(file))
        except TwoLibraries as error:
            refusals.append(error)

    pause = guard.time.sleep
    monkeypatch.setattr(guard.time, "sleep", lambda seconds: (waiting.set(), pause(seconds)))
    monkeypatch.setattr(guard, "OPENING_WAIT", PATIENCE if extent == "waits" else 0.01)
    threads = [threading.Thread(target=opens_with_sqlite3), threading.Thread(target=opens_with_apsw)]
    threads[0].start()
    assert announced.wait(PATIENCE)
    threads[1].start()
    assert waiting.wait(PATIENCE)
    if extent == "gives up":  # an opening that failed leaves its announcement behind
        threads[1].join()
        assert (len(connections), refusals) == (1, [])
        connections[0].close()
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(refusals) == (extent == "waits")
    connections[-1].close()
    assert not guard._holds


def test_release_twice(file: str) -> None:
    """Each hold is released once."""
    one, other = hold(file), hold(file)
    one.release()
    one.release()
    assert not is_free(file)
    Hold(other.identity).release()
    assert not is_free(file)
    other.release()
    assert is_free(file)


@pytest.mark.parametrize(
    ("database", "files"),
    [
        (":memory:", []),
        ("", []),
        ("x", ["/here/x"]),
        (b"x", ["/here/x"]),
        (Path("x"), ["/here/x"]),
        ("../x", ["/x"]),
        ("/a/x?y#z", ["/a/x?y#z"]),
        ("file:x", ["/here/file:x", "/here/x"]),
        ("file:/a/x%20y?mode=ro#part", ["/a/x y"]),
        ("file:///a/x", ["/a/x"]),
        ("file://localhost/a/x", ["/a/x"]),
        ("file:/a/x?vfs=unix-excl", ["/a/x"]),
        ("file:/a/x?mode=memory&cache=shared", []),
        ("file:/a/x?vfs=memdb", []),
        ("file:/a/x?mode=memory&mode=rw", ["/a/x"]),
        ("file:/a/x%00zzz", ["/a/x"]),
        ("file::memory:?cache=shared", []),
        ("file:", []),
    ],
)
def test_possible_files(monkeypatch: pytest.MonkeyPatch, database: Any, files: list[str]) -> None:
    """A name may be a URI or, without ``uri=True``, a file that is called so."""
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    monkeypatch.setattr(os, "getcwdb", lambda: b"/here")
    assert possible_files(database)[-len(files) :] == files if files else len(possible_files(database)) < 2
