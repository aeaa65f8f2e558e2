"""The journal of a test's database file."""

import contextlib
import sqlite3


def keep_a_wal(path: str) -> None:
    """Have a file with a -wal: the file remembers it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal").fetchall()
