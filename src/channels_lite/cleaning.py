"""Cleaning a layer's database: remove what has expired and give the space back, while servers go on."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import apsw
from django.template.defaultfilters import filesizeformat

from channels_lite import schema, store
from channels_lite.entries import Entry
from channels_lite.errors import CleaningFailed, SchemaError
from channels_lite.files import size_of
from channels_lite.keeper import RESTART_WAIT_MS, trim_all
from channels_lite.schema import Execute
from channels_lite.visit import FAILURES, Visit

WORTHWHILE = 100  # free pages are given back when they are at least one in so many
SHRINK_PAUSE = 0.1  # seconds between two tries to cut off the -wal


class Cleaning:
    """One entry of CHANNEL_LAYERS being cleaned, by another connection than its layer's.

    ``say`` is called with a line for the user, ``progress`` with how many rows of about how many are removed.
    """

    def __init__(
        self, entry: Entry, *, vacuum: bool, say: Callable[[str], object], progress: Callable[[int, int], object]
    ) -> None:
        self.vacuum = vacuum
        self.removed = (0, 0)  # messages and memberships
        self._visit = Visit(entry)
        self._say = say
        self._progress = progress
        self._note = ""

    def run(self) -> str:
        """Clean, and return what was done in one sentence without a full stop; CleaningFailed says what went wrong."""
        with self._errors():
            nothing = self._visit.in_vain()
        if nothing:
            return f"{nothing}, nothing to clean{self._visit.remedy}"
        before = file_size(self._visit.path)
        self._refuse_in_transaction()
        with self._errors(), self._visit.opened() as execute:
            schema.check(execute, schema.steps(), self._visit.path, self._visit.upgrade)
            self._trim(execute)
            if self.vacuum:
                self._vacuum(execute)
            free = store.space(execute)[1]
        return f"{_count(*self.removed)} removed, {self._given_back(before, free)}"

    def _refuse_in_transaction(self) -> None:
        wrapper = self._visit.connection()
        if self.vacuum and wrapper is not None and not wrapper.get_autocommit():
            raise CleaningFailed(
                f"Django's connection {wrapper.alias!r} is in a transaction, where VACUUM is impossible; "
                "run the command outside of it, or with --no-vacuum."
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the two libraries raise into CleaningFailed."""
        try:
            yield
        except SchemaError as error:
            raise CleaningFailed(str(error)) from error
        except FAILURES as error:
            stays = f" Removed before, and gone: {_count(*self.removed)}." if any(self.removed) else ""
            if isinstance(error, apsw.BusyError) or "locked" in str(error):
                raise CleaningFailed(
                    f"The database was locked by somebody else for {self._visit.wait:g} s; "
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
        deadline = time.monotonic() + self._visit.wait
        while not store.empty_wal(execute, RESTART_WAIT_MS):
            if time.monotonic() >= deadline:
                raise CleaningFailed(
                    f"{_count(*self.removed)} removed, but a reader has kept the file from shrinking for "
                    f"{self._visit.wait:g} s; run the command again when that one has finished."
                )
            time.sleep(SHRINK_PAUSE)

    def _given_back(self, before: int, free: int) -> str:
        if not self.vacuum:
            return f"{size(free)} free inside the file (no VACUUM)"
        given = before - file_size(self._visit.path)
        return (f"{size(given)} given back" if given > 0 else "nothing given back") + self._note


def file_size(path: str) -> int:
    """Bytes that the database and its -wal take on the disk."""
    path = os.path.realpath(path)  # where SQLite puts the -wal
    return size_of(path) + size_of(f"{path}-wal")


def size(number: int) -> str:
    """Bytes for people, in ASCII."""
    return filesizeformat(number).replace("\xa0", " ")


def _count(messages: int, memberships: int) -> str:
    return f"{messages} expired message{'s'[: messages != 1]} and {memberships} membership{'s'[: memberships != 1]}"
