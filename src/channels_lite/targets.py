"""The databases that get the schema when Django migrates an alias."""

import contextlib
import os

from django.conf import settings

from channels_lite import config
from channels_lite.claims import same_file
from channels_lite.entries import Entry, entries
from channels_lite.errors import ConfigError


def holds(alias: str) -> bool:
    """Whether a layer keeps its messages in this alias's own database; True for each alias where there is no layer."""
    found = entries()
    return not found or any(alias in _aliases(entry) for entry in found)


def files(alias: str) -> list[str]:
    """The files of apsw that go with this alias: with ``default``, those that no alias leads to.

    None while ``default`` is a test database in memory: a test run must not touch what a ``path`` names.
    """
    if alias != config.DEFAULT_ALIAS or _own_file(alias) == config.MEMORY:
        return []
    found = {}
    for entry in entries():
        file = _file(entry)
        if file not in (None, config.MEMORY) and not _aliases(entry):
            found[os.path.realpath(str(file))] = str(file)
    return list(found.values())


def _aliases(entry: Entry) -> list[str]:
    """The aliases whose own database the entry's layer uses."""
    if entry.backend.library == "sqlite3":
        return [entry.alias] if entry.alias else []
    file = _file(entry)
    return [alias for alias in settings.DATABASES if _same(file, _own_file(alias))]


def _file(entry: Entry) -> str | None:
    with contextlib.suppress(ConfigError):  # the layer says it when it is made
        return entry.file()
    return None


def _own_file(alias: str) -> str | None:
    with contextlib.suppress(ConfigError):  # not SQLite, or no file
        return config.alias_file(alias)
    return None


def _same(file: str | None, other: str | None) -> bool:
    return file is not None and other is not None and config.MEMORY not in (file, other) and same_file(file, other)
