"""The options of a layer: their types, defaults and meaning, and which file they lead to."""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from msgspec import Meta, Struct

from channels_lite.errors import AliasError, ConfigError

MEMORY = ":memory:"
DEFAULT_ALIAS = "default"
BUSY_DEADLINE = 5.0  # seconds; Django's own default for a locked SQLite database

Seconds = Annotated[float, Meta(gt=0, le=10**9)]
MOST = 2**31
# Bytes of a key. Who has a message can try keys as fast as SHA-256 goes. Fernet's own keys for encrypting and for
# signing have 128 bits each: with fewer than that, the key given here is what is tried.
SHORT_KEY = 16
RANDOM_KEY = "a random one, such as secrets.token_urlsafe(32) makes"  # what an error or a hint says to take
SECRET = frozenset({"symmetric_encryption_keys", "hosts"})  # hosts may have passwords
OF_REDIS = frozenset({"random_prefix_length", "on_disconnect", "on_reconnect"})  # of channels_redis' own layers
Count = Annotated[int, Meta(ge=0, le=MOST)]
Name = Annotated[str, Meta(min_length=1)]
CapacityRules = list[tuple[re.Pattern[str], int]]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CONFIG of one entry in CHANNEL_LAYERS. Names and defaults are those of channels-lite 0.3."""

    database: Name | None = None
    """Alias in DATABASES. ``default`` stands for a companion file beside that database."""
    path: Name | None = None
    """A file, or ``:memory:``, instead of an alias."""
    prefix: Annotated[str, Meta(max_length=100, pattern=r"^[\x20-\x7e]*\Z")] = ""
    """Layers with different prefixes share a file without seeing each other. Up to 100 printable ASCII characters."""
    expiry: Seconds = 60
    """Seconds after which an unread message is gone."""
    group_expiry: Seconds = 86400
    """Seconds after its last ``group_add`` for which a channel stays in a group."""
    capacity: Count = 100
    """Live messages that a channel holds before it is full."""
    enforce_capacity: bool = True
    """False: no channel is ever full."""
    channel_capacity: dict[Any, Any] = {}
    """Glob or compiled pattern to capacity; the first match wins."""
    auto_trim: bool = True
    """Remove what has expired in the background."""
    symmetric_encryption_keys: list[Any] | None = None
    """Keys; the first one encrypts, all decrypt."""
    plain_sql: bool = False
    """With keys: take what is published from SQL all the same, which is not encrypted."""
    serializer_format: str = "msgpack"
    """A name in ``channels_lite.serializers.registry``."""
    polling_interval: Seconds | None = 0.1
    """Seconds between looks where there is no bell to hear; None: never look unasked."""
    polling_idle_timeout: Seconds = 1800
    """Seconds without a waiting receiver after which a loop's watcher is put away; the poll sees to it."""
    pool_size: Annotated[int, Meta(ge=1)] = 10
    """Accepted for the sake of older settings; a process has one connection to the file, whatever this says."""
    hosts: list[str | dict[str, Any] | tuple[str, int]] | None = None
    """Redis servers, as channels_redis takes them; without effect on SQLite."""

    @property
    def alias(self) -> str | None:
        """The alias that is meant, said or not; None where a path is given."""
        return None if self.path is not None else self.database or DEFAULT_ALIAS

    def __repr__(self) -> str:
        """All options but those with secrets: reprs end up in logs and error reports."""
        shown = (name for name in self.__struct_fields__ if name not in SECRET)
        return f"Options({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


def parse(config: Mapping[str, Any], **defaults: Any) -> Options:
    """Check CONFIG and fill in what it leaves out; ConfigError names the option that is wrong."""
    options = parse_without_place(config, **defaults)
    if options.database is not None and options.path is not None:
        raise ConfigError("CHANNEL_LAYERS: give the option 'database' or the option 'path', not both.")
    if options.path is None:
        check_alias(options.database or DEFAULT_ALIAS)
    else:
        own_file(options)  # refuses a URI
    return options


def parse_without_place(config: Mapping[str, Any], **defaults: Any) -> Options:
    """As ``parse``, for a layer that has no database: what is said of one is not asked for."""
    _refuse_unknown(config)
    given = {**defaults, **{name: _plain(name, value) for name, value in config.items()}}
    try:
        options = msgspec.convert(given, Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"CHANNEL_LAYERS: {_readable(error)}.") from None
    _check_keys(options.symmetric_encryption_keys)
    return options


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    known = Options.__struct_fields__
    redis = [repr(name) for name in config if name in OF_REDIS]
    if redis:
        options, them = ("options", "are") if redis[1:] else ("option", "is")
        raise ConfigError(
            f"CHANNEL_LAYERS: the {options} {', '.join(redis)} {them} for the layers of channels_redis alone; "
            f"take {'them' if redis[1:] else 'it'} out."
        )
    for name in config:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}."
            raise ConfigError(f"CHANNEL_LAYERS: unknown option {name!r}; {hint}")


def _plain(name: str, value: Any) -> Any:
    if name == "path" and isinstance(value, os.PathLike):
        return os.fspath(value)
    if name == "database" and isinstance(value, os.PathLike):
        raise ConfigError(f"CHANNEL_LAYERS: the option {name!r} is an alias in DATABASES; for a file, use 'path'.")
    if name == "hosts" and isinstance(value, str | bytes):
        raise ConfigError(
            f"CHANNEL_LAYERS: the option {name!r} is a list of servers, not a single one; write [server]."
        )
    if name == "channel_capacity" and value is None:
        return {}
    if name == "symmetric_encryption_keys" and isinstance(value, str | bytes):
        raise ConfigError(f"CHANNEL_LAYERS: the option {name!r} is a list of keys, not a single one; write [key].")
    if name == "symmetric_encryption_keys" and isinstance(value, set | frozenset):
        raise ConfigError(f"CHANNEL_LAYERS: the option {name!r} is a list of keys, not a set: the first key encrypts.")
    return value


def _readable(error: msgspec.ValidationError) -> str:
    """Turn msgspec's "Expected `int`, got `str` - at `$.capacity`" into words that name the option."""
    what, _, where = str(error).replace("null", "None").replace("`object`", "`dict`").partition(" - at `$.")
    return f"the option {where.rstrip('`')!r}: {what[:1].lower()}{what[1:]}".replace("`", "")


def _check_keys(keys: list[Any] | None) -> None:
    for key in keys or ():
        if not issubclass(type(key), str | bytes) or not key:
            raise ConfigError(
                "CHANNEL_LAYERS: the option 'symmetric_encryption_keys' holds something that is not a key: "
                f"each one is a non-empty str or bytes, this one is {type(key).__name__}."
            )
        if isinstance(key, str) and not _is_utf8(key):
            raise ConfigError(
                "CHANNEL_LAYERS: the option 'symmetric_encryption_keys' holds a str with a lone surrogate; "
                "give that key as bytes."
            )


def weak_keys(options: Options) -> str:
    """What to warn of in the keys, in one sentence without any of them; empty where there is nothing.

    What to do about it is to take ``RANDOM_KEY``.
    """
    keys = options.symmetric_encryption_keys or []
    short = [str(number) for number, key in enumerate(keys, 1) if _length(key) < SHORT_KEY]
    if not short:
        return ""
    return (
        f"The option 'symmetric_encryption_keys' has a key of less than {SHORT_KEY} bytes (number "
        f"{', '.join(short)} of {len(keys)}), which can be found by trying."
    )


def _length(key: str | bytes) -> int:
    return len(key.encode() if isinstance(key, str) else key)


def unused(options: Options, names: Iterable[str], where: str) -> str:
    """Which of these options were given and have no effect there, in one sentence; empty where none was."""
    given = [repr(name) for name in names if getattr(options, name) != getattr(Options(), name)]
    if not given:
        return ""
    return (
        f"The option{'s'[: len(given) > 1]} {', '.join(given)} {'have' if given[1:] else 'has'} no effect on {where}."
    )


def capacity_rules(channel_capacity: Mapping[Any, Any]) -> CapacityRules:
    """Compile the option ``channel_capacity``: globs become patterns, patterns stay as they are."""
    rules = []
    for key, capacity in channel_capacity.items():
        pattern = key
        if isinstance(pattern, str):
            pattern = re.compile(fnmatch.translate(pattern))
        elif not isinstance(pattern, re.Pattern) or not isinstance(pattern.pattern, str):
            raise ConfigError(
                f"CHANNEL_LAYERS: the option 'channel_capacity' has the key {pattern!r}; "
                "a key is a glob or a compiled regular expression."
            )
        if type(capacity) is not int or not 0 <= capacity <= MOST:
            raise ConfigError(
                f"CHANNEL_LAYERS: the option 'channel_capacity' gives {key!r} a wrong capacity, {_shown(capacity)}; "
                f"a capacity is a whole number from 0 to {MOST}."
            )
        rules.append((pattern, capacity))
    return rules


def globs(channel_capacity: Mapping[Any, Any]) -> list[tuple[str, int]]:
    """The rules of ``channel_capacity`` that SQL can follow, as patterns of its GLOB: all but regular expressions."""
    return [(_as_glob(key), capacity) for key, capacity in channel_capacity.items() if isinstance(key, str)]


def _as_glob(pattern: str) -> str:
    """What fnmatch writes "[!a]" SQLite writes "[^a]"; a "^" that is meant as such is in no channel's name."""
    return re.sub(r"\[([!^])", lambda found: "[^" if found[1] == "!" else "[", pattern)


def _shown(capacity: Any) -> str:
    """Its number or its type: a number may have too many digits to be shown."""
    return str(capacity) if type(capacity) is int and -MOST <= capacity <= 2 * MOST else type(capacity).__name__


def check_alias(alias: str, where: str = "CHANNEL_LAYERS: the option 'database' names") -> Mapping[str, Any]:
    """The DATABASES entry of ``alias``, which must be there and be SQLite; ``where`` is how an error begins."""
    try:
        databases = settings.DATABASES
    except ImproperlyConfigured:
        databases = {}
    if alias not in databases:
        raise AliasError(
            where,
            alias,
            f"which is not in DATABASES ({', '.join(map(repr, databases)) or 'empty'})",
            "add it there, or give the layer aio a file with 'path'.",
        )
    entry: Mapping[str, Any] = databases[alias]
    engine = str(entry.get("ENGINE", ""))
    if not engine.endswith(("sqlite3", "spatialite")):
        raise AliasError(
            where,
            alias,
            f"whose ENGINE is {engine!r}",
            "a SQLite database is needed: add an alias of its own, or give the layer aio a file with 'path'.",
        )
    return entry


def alias_file(alias: str) -> str:
    """The file of a SQLite alias as Django knows it now (tests rename it), or ``:memory:``."""
    from django.db import connections

    check_alias(alias, "The alias is")
    name = str(connections[alias].settings_dict["NAME"] or "")
    if not name:
        raise ConfigError(f"DATABASES: the alias {alias!r} has no NAME; give it the path of a file.")
    return _file(name, f"DATABASES: the NAME of {alias!r}")


def is_for_tests(path: str) -> bool:
    """Whether Django makes this file for a test run, or for one process of it, and removes it at the end."""
    from django.db import connections

    stem, ending = os.path.splitext(path)
    for database in connections.settings.values():
        name = database.get("TEST", {}).get("NAME")
        of_tests, its_ending = os.path.splitext(os.path.realpath(str(name))) if name else ("", "")
        if name and ending == its_ending and (stem == of_tests or stem.startswith(f"{of_tests}_")):
            return True
    return False


def _file(name: str, what: str) -> str:
    if name == MEMORY or (name.startswith("file:") and ("mode=memory" in name or MEMORY in name)):
        return MEMORY
    if name.startswith("file:"):
        raise ConfigError(f"{what} is the URI {name!r}; give the path of the file instead.")
    if "\0" in name or not _is_utf8(name):
        raise ConfigError(f"{what} is {name!r}, which SQLite cannot open: the path of a file is UTF-8 without NUL.")
    return os.path.abspath(name)


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def own_file(options: Options) -> str:
    """The file that a layer with a connection of its own opens, or ``:memory:``.

    The alias ``default`` leads to a companion beside that database: Django opens the database itself in this process
    with another SQLite library, and two libraries on one file destroy it.
    """
    if options.path is not None:
        return _file(options.path, "CHANNEL_LAYERS: the option 'path'")
    alias = options.database or DEFAULT_ALIAS
    file = alias_file(alias)
    if alias != DEFAULT_ALIAS or file == MEMORY:
        return file
    database = Path(file)
    return str(database.with_name(f"{database.stem}-channels{database.suffix or '.sqlite3'}"))


def busy_deadline(options: Options) -> float:
    """Seconds that a call waits for the database's write lock: OPTIONS["timeout"] of the alias, or 5."""
    if options.path is not None:
        return BUSY_DEADLINE
    entry = check_alias(options.database or DEFAULT_ALIAS)
    timeout = (entry.get("OPTIONS") or {}).get("timeout", BUSY_DEADLINE)
    try:
        return float(timeout)
    except (TypeError, ValueError):
        alias = options.database or DEFAULT_ALIAS
        raise ConfigError(f"DATABASES: the alias {alias!r} has the timeout {timeout!r}, which is no number.") from None
