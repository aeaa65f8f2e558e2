"""The entries of CHANNEL_LAYERS that are layers of this package, read from the settings without making a layer."""

import contextlib
from typing import NamedTuple

from django.conf import settings
from django.utils.module_loading import import_string

from channels_lite.config import Options
from channels_lite.errors import ConfigError
from channels_lite.layers.layer import Layer


class Entry(NamedTuple):
    """One of them."""

    name: str
    backend: type[Layer]
    options: Options

    def __str__(self) -> str:
        return f"CHANNEL_LAYERS[{self.name!r}]"

    @property
    def alias(self) -> str | None:
        """The alias in DATABASES that it names, said or not; None where it names a path."""
        return self.options.alias

    @property
    def has_database(self) -> bool:
        """Whether its layer keeps its messages in a SQLite database, and not on Redis."""
        return self.backend.kind == "SQLite"

    def file(self) -> str:
        """The database file that its layer uses, or ``:memory:``; "" where it has none."""
        return self.backend.locate(self.options)


def entries() -> list[Entry]:
    """Those with a database."""
    return [entry for entry in ours() if entry.has_database]


def ours() -> list[Entry]:
    """Those whose BACKEND loads and whose CONFIG is right; the others fail when Channels makes them, and say why."""
    found = []
    for name in names():
        with contextlib.suppress(Exception):  # to import is to run code: Channels meets the same error
            found.append(read(name))
    return [entry for entry in found if entry is not None]


def names() -> list[str]:
    """All names in CHANNEL_LAYERS."""
    return list(getattr(settings, "CHANNEL_LAYERS", {}))


def no_entry(name: str) -> ConfigError:
    """The error for a name that CHANNEL_LAYERS does not have."""
    there = ", ".join(map(repr, names())) or "it is empty"
    return ConfigError(f"CHANNEL_LAYERS has no entry {name!r} ({there}); add it, or name another one.")


def read(name: str) -> Entry | None:
    """One entry; None where its BACKEND is not ours; ImportError, KeyError or ConfigError where it is wrong."""
    entry = settings.CHANNEL_LAYERS[name]
    backend = import_string(entry["BACKEND"])
    if not (isinstance(backend, type) and issubclass(backend, Layer)):
        return None
    return Entry(name, backend, backend.parse(entry.get("CONFIG") or {}))
