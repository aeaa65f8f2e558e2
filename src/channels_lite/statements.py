"""Running statements with Python's SQLite, through Django's cursors or below them, and what its errors mean."""

import functools
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from channels.exceptions import ChannelFull, MessageTooLarge
from django.db import DatabaseError, DataError, IntegrityError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_lite import diagnosis, store
from channels_lite.errors import Locked
from channels_lite.schema import Execute

TOO_BIG = "string or blob too big"  # SQLite's words


def executor(connection: BaseDatabaseWrapper) -> Execute:
    """Run a statement on Django's connection of a SQLite alias and return its rows."""

    def execute(sql: str, parameters: Sequence[Any]) -> list[Any]:
        with connection.cursor() as cursor:
            if parameters:
                cursor.execute(_with_percent(sql), parameters)
            else:
                cursor.execute(sql)
            rows: list[Any] = cursor.fetchall()
            return rows

    return execute


@functools.cache
def _with_percent(sql: str) -> str:
    """Django takes "?" as well, and fails with it where DEBUG makes it log the statement."""
    return sql.replace("%", "%%").replace("?", "%s")


def translating_executor(connection: BaseDatabaseWrapper) -> Execute:
    """Run a statement through Django's cursor; Locked where somebody else holds the lock."""
    inner = executor(connection)

    def execute(sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            return inner(sql, parameters)
        except DatabaseError as error:
            raw = connection.connection
            if connection.in_atomic_block and raw is not None and not raw.in_transaction:
                connection.needs_rollback = True  # SQLite has undone it: what follows must not be committed alone
            raise translated(error, partial(file_of, connection)) from error

    return execute


def fetch(raw: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
    """Run a statement to its end below Django's cursors; Locked where somebody else holds the lock."""
    try:
        return raw.execute(sql, parameters).fetchall()
    except sqlite3.Error as error:
        raise translated(error, partial(_file_of, raw)) from error


def translated(error: Exception, file: Callable[[], str]) -> Exception:
    """What an error of SQLite's means for this file; itself where it means nothing in particular."""
    text = str(error)
    if isinstance(error, sqlite3.IntegrityError | IntegrityError) and store.FULL in text:
        return ChannelFull()
    if isinstance(error, sqlite3.OperationalError | OperationalError) and "is locked" in text:
        return Locked(text)
    if isinstance(error, sqlite3.DataError | DataError) and TOO_BIG in text:
        return MessageTooLarge(f"SQLite cannot store a message of this size: {text}")
    return diagnosis.failure(file(), error) or error


def file_of(connection: BaseDatabaseWrapper) -> str:
    """The file of a connection of Django's."""
    return str(connection.settings_dict["NAME"])


def _file_of(raw: sqlite3.Connection) -> str:
    file: str = raw.execute("PRAGMA database_list").fetchone()[2]  # reads nothing from the disk
    return file
