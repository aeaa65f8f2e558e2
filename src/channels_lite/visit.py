"""A look into a layer's database by another connection than its layer's, for commands."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial

import apsw
from django.db import Error as DjangoError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from channels_lite import config, schema
from channels_lite.entries import Entry
from channels_lite.errors import Locked
from channels_lite.schema import Execute
from channels_lite.statements import fetch

FAILURES = (apsw.Error, sqlite3.Error, DjangoError, Locked)
"""What both libraries raise in a visit."""


class Visit:
    """The database of one entry of CHANNEL_LAYERS."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.path = entry.file()
        self.wait = config.busy_deadline(entry.options)
        """Seconds that a locked database is waited for."""
        self.upgrade = None if self._through_apsw else f"manage.py migrate --database {entry.alias}"
        """The command that makes the tables; None where the layer does it itself."""
        self.remedy = f"; its tables come with: {self.upgrade}" if self.upgrade and self.path != config.MEMORY else ""
        """That it does, as the end of a sentence."""

    @property
    def _through_apsw(self) -> bool:
        return self.entry.backend.library == "apsw"

    def in_vain(self) -> str:
        """Why there is nothing to be seen, for a sentence that begins with the layer; empty where there is."""
        if self.path == config.MEMORY:
            return "is in memory, which no other process can reach"
        if not os.path.exists(self.path):
            return "does not exist yet"
        if not self._is_ours():
            return "has no tables of channels-lite yet"
        return ""

    def _is_ours(self) -> bool:
        """Whether there is anything of ours, asked without changing a file that may be somebody else's."""
        with self.reading() as execute:
            return bool(schema.records(execute))

    def connection(self) -> BaseDatabaseWrapper | None:
        """Django's connection, where it is that one."""
        return None if self._through_apsw else connections[self.entry.alias or config.DEFAULT_ALIAS]

    def opened(self) -> contextlib.AbstractContextManager[Execute]:
        """A connection to it, in the library that its processes use."""
        wrapper = self.connection()
        if wrapper is None:
            return self._opened_with_apsw()
        wrapper.ensure_connection()
        return contextlib.nullcontext(partial(fetch, wrapper.connection))  # its cursor() logs all queries

    def reading(self) -> contextlib.AbstractContextManager[Execute]:
        """As ``opened``, for who only reads."""
        return self._opened_with_apsw(create_file=False) if self._through_apsw else self.opened()

    @contextlib.contextmanager
    def _opened_with_apsw(self, *, create_file: bool = True) -> Iterator[Execute]:
        connection = schema.connect(self.path, create_file=create_file)
        try:
            connection.set_busy_timeout(round(self.wait * 1000))
            yield schema.executor(connection)
        finally:
            connection.close()
