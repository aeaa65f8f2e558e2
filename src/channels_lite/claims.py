"""Who is to use a file, according to the settings: the aliases of DATABASES and the entries of CHANNEL_LAYERS."""

import os
from typing import NamedTuple

from channels.exceptions import InvalidChannelLayerError
from django.db import connections

from channels_lite.entries import Entry, entries
from channels_lite.guard import identify, possible_files

REMEDY = (
    "Let the layer speak through Django's connection, with the BACKEND channels_lite.layers.core.SQLiteChannelLayer, "
    "or give it a file of its own that nothing opens through Django, with 'path', or with 'database': 'default', which "
    "means a companion beside that database."
)


class Claims(NamedTuple):
    """Those who lead to one file; its text says which library each of them uses."""

    aliases: list[str]
    entries: list[Entry]

    def __str__(self) -> str:
        layers = {library: [_name(entry) for entry in self.of(library)] for library in ("apsw", "sqlite3")}
        databases = [f"DATABASES[{alias!r}]" for alias in self.aliases]
        return f"apsw is for {_joined(layers['apsw'])}, sqlite3 for {_joined(databases + layers['sqlite3'])}."

    def of(self, library: str) -> list[Entry]:
        """The entries of CHANNEL_LAYERS that speak through this library."""
        return [entry for entry in self.entries if entry.backend.library == library]


def _name(entry: Entry) -> str:
    option = f"'path': {entry.options.path!r}" if entry.alias is None else f"'database': {entry.alias!r}"
    return f"{entry} ({option})"


def _joined(names: list[str]) -> str:
    return " and ".join(names) or "code of this process that no setting names"


def claims(path: str) -> Claims:
    """The aliases and entries whose file this is, by whatever name they know it."""
    return Claims(
        [alias for alias, database in connections.settings.items() if _leads_to(database, path)],
        [entry for entry in entries() if _is_file_of(entry, path)],
    )


def _leads_to(database: dict[str, object], path: str) -> bool:
    if not str(database.get("ENGINE", "")).endswith(("sqlite3", "spatialite")):
        return False
    return any(same_file(name, path) for name in possible_files(str(database.get("NAME") or "")))


def _is_file_of(entry: Entry, path: str) -> bool:
    try:
        return same_file(entry.file(), path)
    except InvalidChannelLayerError:  # the layer will say it
        return False


def same_file(one: str, other: str) -> bool:
    """Whether two names lead to one file; those that do not exist yet are compared as names."""
    if identify(one) is None and identify(other) is None:
        return os.path.realpath(one) == os.path.realpath(other)
    return identify(one) == identify(other)
