"""Cleaning a layer's database: remove what has expired and give the space back, while servers go on."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial

import apsw
from django.db import Error as DjangoError
from django.db import connections
from django.template.defaultfilters import filesizeformat

from channels_lite import config, schema, store
from channels_lite.entries import Entry
from channels_lite.errors import CleaningFailed, Locked, SchemaError
from channels_lite.keeper import RESTART_WAIT_MS, trim_all
from channels_lite.schema import Execute
from channels_lite.statements import fetch

WORTHWHILE = 100  # free pages are given back when they are at least one in so many
SHRINK_PAUSE = 0.1  # seconds between two tries to cut off the -wal


class Cleaning:
    """One entry of CHANNEL_LAYERS being cleaned, by another connection than its layer's.

    ``say`` is called with a line for the user, ``progress`` with how many rows of about how many are removed.
    """

    def __init__(
        self, entry: Entry, *, vacuum: bool, say: Callable[[str], object], progress: Callable[[int, int], object]
    ) -> None:
        self.entry = entry
        self.vacuum = vacuum
        self.path = entry.file()
        self.removed = (0, 0)  # messages and memberships
        self._say = say
        self._progress = progress
        self._wait = config.busy_deadline(entry.options)
        self._note = ""
        self._through_apsw = entry.backend.library == "apsw"
        self._upgrade = None if self._through_apsw else f"manage.py migrate --database {entry.alias}"
        self._remedy = f"; its tables come with: {self._upgrade}" if self._upgrade else ""

    def run(self) -> str:
        """Clean, and return what was done in one sentence without a full stop; CleaningFailed says what went wrong."""
        if self.path == config.MEMORY:
            return "is in memory, where another process cannot clean it"
        if not os.path.exists(self.path):
            return "does not exist yet, nothing to clean" + self._remedy
        before = file_size(self.path)
        with self._errors():
            if not self._is_ours():
                return "has no tables of channels-lite yet, nothing to clean" + self._remedy
        with self._errors(), self._opened() as execute:
            schema.check(execute, schema.steps(), self.path, self._upgrade)
            self._trim(execute)
            if self.vacuum:
                self._vacuum(execute)
            free = store.space(execute)[1]
        return f"{_count(*self.removed)} removed, {self._given_back(before, free)}"

    # The connection.

    def _opened(self) -> contextlib.AbstractContextManager[Execute]:
        return self._opened_with_apsw() if self._through_apsw else contextlib.nullcontext(self._djangos())

    @contextlib.contextmanager
    def _opened_with_apsw(self, *, create_file: bool = True) -> Iterator[Execute]:
        connection = schema.connect(self.path, create_file=create_file)
        try:
            connection.set_busy_timeout(round(self._wait * 1000))
            yield schema.executor(connection)
        finally:
            connection.close()

    def _djangos(self) -> Execute:
        wrapper = connections[self.entry.alias or config.DEFAULT_ALIAS]
        if self.vacuum and not wrapper.get_autocommit():
            raise CleaningFailed(
                f"Django's connection {wrapper.alias!r} is in a transaction, where VACUUM is impossible; "
                "run the command outside of it, or with --no-vacuum."
            )
        wrapper.ensure_connection()
        return partial(fetch, wrapper.connection)  # its cursor() logs all queries

    def _is_ours(self) -> bool:
        """Whether there is anything of ours, asked without changing a file that may be somebody else's."""
        reading = self._opened_with_apsw(create_file=False) if self._through_apsw else self._opened()
        with reading as execute:
            return bool(schema.records(execute))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the two libraries raise into CleaningFailed."""
        try:
            yield
        except SchemaError as error:
            raise CleaningFailed(str(error)) from error
        except (apsw.Error, sqlite3.Error, DjangoError, Locked) as error:
            stays = f" Removed before, and gone: {_count(*self.removed)}." if any(self.removed) else ""
            if isinstance(error, apsw.BusyError) or "locked" in str(error):
                raise CleaningFailed(
                    f"The database was locked by somebody else for {self._wait:g} s; "
                    f"run the command again later.{stays}"
                ) from error
            raise CleaningFailed(f"The database could not be cleaned: {error}.{stays}") from error

    # The work.

    def _trim(self, execute: Execute) -> None:
        expected = store.count_expired(execute)

        def report(messages: int, memberships: int) -> None:
            self.removed = messages, memberships
            self._progress(messages + memberships, expected)

        trim_all(execute, report)

    def _vacuum(self, execute: Execute) -> None:
        used, free = store.space(execute)
        if free * WORTHWHILE < used + free or free == 0:
            self._note = ", VACUUM not needed"
        else:
            self._say(
                f"VACUUM writes {size(used)} anew, {size(free)} are free; other writers wait until it has finished"
            )
            store.vacuum(execute)
        self._shrink(execute)

    def _shrink(self, execute: Execute) -> None:
        # Many short tries, and not a long one: each of them holds up the servers.
        deadline = time.monotonic() + self._wait
        while not store.empty_wal(execute, RESTART_WAIT_MS):
            if time.monotonic() >= deadline:
                raise CleaningFailed(
                    f"{_count(*self.removed)} removed, but a reader has kept the file from shrinking for "
                    f"{self._wait:g} s; run the command again when that one has finished."
                )
            time.sleep(SHRINK_PAUSE)

    def _given_back(self, before: int, free: int) -> str:
        if not self.vacuum:
            return f"{size(free)} free inside the file (no VACUUM)"
        given = before - file_size(self.path)
        return (f"{size(given)} given back" if given > 0 else "nothing given back") + self._note


def file_size(path: str) -> int:
    """Bytes that the database and its -wal take on the disk."""
    path = os.path.realpath(path)  # where SQLite puts the -wal
    total = os.stat(path).st_size
    with contextlib.suppress(FileNotFoundError):
        total += os.stat(f"{path}-wal").st_size
    return total


def size(number: int) -> str:
    """Bytes for people, in ASCII."""
    return filesizeformat(number).replace("\xa0", " ")


def _count(messages: int, memberships: int) -> str:
    return f"{messages} expired message{'s'[: messages != 1]} and {memberships} membership{'s'[: memberships != 1]}"
