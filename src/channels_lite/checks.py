"""System checks: what is wrong with the settings, said before anything runs. None of them opens a database."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from channels.exceptions import InvalidChannelLayerError
from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks, mail
from django.db import router

from channels_lite import claims, config, mounts
from channels_lite.config import DEFAULT_ALIAS, MEMORY
from channels_lite.entries import Entry, names, read
from channels_lite.errors import AliasError, ConfigError

Apps = Sequence[AppConfig] | None

# Seconds after which daphne closes a WebSocket: the default of its --websocket_timeout (daphne/cli.py). Its runserver,
# which is what daphne is in INSTALLED_APPS for, has no such option, and takes that of daphne.server.Server: the same.
# uvicorn and hypercorn have no such limit.
DAPHNE_TIMEOUT = 86400


class Usable(NamedTuple):
    """An entry whose layer can be made, and its file, or ``:memory:``."""

    entry: Entry
    file: str


def libraries(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """E001: two SQLite libraries meet in one file. W001: they do when a model is used that a router sends there."""
    return [message for file in _apsw_files() for message in _meetings(file, claims.claims(file))]


def configuration(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """E002: the CONFIG of a layer of ours is wrong. E003: its alias is missing, or not SQLite.

    Without this, the first use of the layer says so. The other checks leave such an entry out.
    """
    found = ((name, _try(name)) for name in names())
    return [_refusal(name, error) for name, error in found if isinstance(error, InvalidChannelLayerError)]


def keys(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W002: a key is so short that it can be found by trying. W007: there is a list of keys without a key.

    The layer works all the same.
    """
    return [message for entry, _ in _usable() for message in _weaknesses(entry)]


def places(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W003: a database is on a network or virtual-machine mount."""
    return [
        checks.Warning(
            f"{entry} keeps its messages in {file}, which is on a network or virtual-machine mount "
            f"({mount.point}, {mount.kind}): SQLite's locks do not work there.",
            hint="Put the file on a disk of this machine: by 'path', or by the NAME of its alias in DATABASES.",
            id="channels_lite.W003",
        )
        for entry, file in _on_disk()
        if (mount := mounts.mount_of(file)) is not None and mount.is_elsewhere
    ]


def unused(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """I001: an option has no effect on this layer. It is kept for the way to Redis and back."""
    return [
        checks.Info(
            f"{entry}: {told}",
            hint="Leave it for the day on which the BACKEND changes, or take it out.",
            id="channels_lite.I001",
        )
        for entry, _ in _usable()
        if (told := config.unused(entry.options, entry.backend.idle, entry.backend.kind))
    ]


def folders(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W008: a database cannot be where it is to be made."""
    return [
        checks.Warning(
            f"{entry} keeps its messages in {file}, {why}.",
            hint="Make the folder, or correct the 'path', or the NAME of the alias in DATABASES.",
            id="channels_lite.W008",
        )
        for entry, file in _on_disk()
        if (why := _nowhere(file))
    ]


def _nowhere(file: str) -> str:
    """Why a database cannot be there, after a comma; empty where it can."""
    if os.path.isdir(file):
        return "which is a folder"
    return "" if os.path.isdir(os.path.dirname(file)) else "whose folder does not exist"


def memberships(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W004: a channel's membership in a group ends before the interface server ends its connection."""
    if not apps.is_installed("daphne"):
        return []
    return [
        checks.Warning(
            f"{entry} ends memberships in groups after {entry.options.group_expiry:g} seconds ('group_expiry'), but "
            f"daphne keeps a WebSocket for {DAPHNE_TIMEOUT}. In the rest of that time its groups' messages miss it.",
            hint=f"Set 'group_expiry' to {DAPHNE_TIMEOUT} or more, or let daphne close WebSockets sooner, with "
            "--websocket_timeout, and put channels_lite.W004 into SILENCED_SYSTEM_CHECKS.",
            id="channels_lite.W004",
        )
        for entry, _ in _usable()
        if entry.options.group_expiry < DAPHNE_TIMEOUT
    ]


def memory(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W005: a layer is in memory where there may be several processes."""
    if settings.DEBUG or _tests_run():
        return []
    return [
        checks.Warning(
            f"{entry} is in memory, and its messages do not leave the process: other server processes, workers and "
            "commands do not get them.",
            hint="Give it a file, with 'path' or with an alias that has one. For a site in a single process, put "
            "channels_lite.W005 into SILENCED_SYSTEM_CHECKS.",
            id="channels_lite.W005",
        )
        for entry, file in _usable()
        if file == MEMORY
    ]


def prefixes(app_configs: Apps = None, **options: Any) -> list[checks.CheckMessage]:
    """W006: two entries are one layer. E004: they are, and cannot read each other's messages."""
    return [_clash(one, other) for one, other in combinations(_usable(), 2) if _clashes(one, other)]


ALL = (libraries, configuration, keys, places, folders, memberships, memory, prefixes, unused)


def _usable() -> list[Usable]:
    """The entries that ``configuration`` has nothing to say about."""
    return [found for name in names() if isinstance(found := _try(name), Usable)]


def _on_disk() -> list[Usable]:
    """Those of them that have a file."""
    return [usable for usable in _usable() if usable.file not in ("", MEMORY)]


def _try(name: str) -> Usable | InvalidChannelLayerError | None:
    """An entry, or what is wrong with it; None where it is not one of ours."""
    try:
        entry = read(name)
        if entry is None:
            return None
        layer = entry.backend(**(settings.CHANNEL_LAYERS[name].get("CONFIG") or {}))  # no I/O, and all its checks
        return Usable(entry, layer.file())
    except InvalidChannelLayerError as error:
        return error
    except Exception as error:
        return _failure(name, error)


def _failure(name: str, error: Exception) -> ConfigError | None:
    """What is wrong with an entry that cannot be read, if it is one of ours; of others, Channels will say it."""
    entry = settings.CHANNEL_LAYERS[name]
    backend = entry.get("BACKEND") if isinstance(entry, Mapping) else None
    if not str(backend).startswith("channels_lite."):
        return None
    config = entry.get("CONFIG")
    if config is not None and not isinstance(config, Mapping):
        return ConfigError(f"Its CONFIG is a dict of options, not {type(config).__name__}.")
    return ConfigError(f"Its BACKEND {backend!r} cannot be imported: {error}.")


def _refusal(name: str, error: InvalidChannelLayerError) -> checks.CheckMessage:
    what = f"CHANNEL_LAYERS[{name!r}] cannot be used."
    if isinstance(error, AliasError):
        hint = error.remedy[:1].upper() + error.remedy[1:]
        return checks.Error(
            f"{what} It is for the alias {error.alias!r}, {error.why}.", hint=hint, id="channels_lite.E003"
        )
    hint = "Correct this entry. README.md of channels-lite has a table of the options."
    return checks.Error(f"{what} {error}", hint=hint, id="channels_lite.E002")


def _weaknesses(entry: Entry) -> Iterator[checks.CheckMessage]:
    if warning := config.weak_keys(entry.options):
        yield checks.Warning(f"{entry}: {warning}", hint=f"Take {config.RANDOM_KEY}.", id="channels_lite.W002")
    if entry.options.symmetric_encryption_keys == []:
        yield checks.Warning(
            f"{entry}: The option 'symmetric_encryption_keys' is an empty list, so nothing is encrypted.",
            hint=f"Put a key into it, {config.RANDOM_KEY}, or leave the option out.",
            id="channels_lite.W007",
        )


def _tests_run() -> bool:
    """Whether this is a test run of Django's or pytest-django's, whose databases are in memory on purpose."""
    return hasattr(mail, "outbox")  # made by setup_test_environment(), or by who sends mail to memory


def _clashes(one: Usable, other: Usable) -> bool:
    if one.entry.options.prefix != other.entry.options.prefix or one.entry.has_database != other.entry.has_database:
        return False
    if not one.entry.has_database:
        return one.entry.options.hosts == other.entry.options.hosts
    return MEMORY not in (one.file, other.file) and claims.same_file(one.file, other.file)


def _clash(one: Usable, other: Usable) -> checks.CheckMessage:
    place = one.file or "the same Redis servers"
    both = f"{one.entry} and {other.entry} are both for {place} with the prefix {other.entry.options.prefix!r}"
    differing = _differing(one.entry, other.entry)
    if not differing:
        return checks.Warning(
            f"{both}: they are one layer, and each receives what is sent to the other.",
            hint="Give one of them another 'prefix' or another place, or leave one out.",
            id="channels_lite.W006",
        )
    return checks.Error(
        f"{both}, but differ in {' and '.join(map(repr, differing))}: what one sends, the other may receive and cannot "
        "read, and it is lost.",
        hint="Give one of them another 'prefix' or another place, or both the same options.",
        id="channels_lite.E004",
    )


def _differing(one: Entry, other: Entry) -> list[str]:
    """The options because of which one of them cannot read what the other sends."""
    differing = []
    if one.options.serializer_format != other.options.serializer_format:
        differing.append("serializer_format")
    if not (_opens(one, other) and _opens(other, one)):
        differing.append("symmetric_encryption_keys")
    return differing


def _opens(receiver: Entry, sender: Entry) -> bool:
    """Whether the receiver can decrypt what the sender encrypts, with the first key that it has."""
    having, used = _keys(receiver), _keys(sender)[:1]
    return used[0] in having if used else not having


def _keys(entry: Entry) -> list[bytes]:
    return [key.encode() if isinstance(key, str) else key for key in entry.options.symmetric_encryption_keys or ()]


def _apsw_files() -> list[str]:
    files: list[str] = []
    for entry, file in _on_disk():
        known = any(claims.same_file(file, other) for other in files)
        if entry.backend.library == "apsw" and not known:
            files.append(file)
    return files


def _meetings(file: str, found: claims.Claims) -> Iterator[checks.CheckMessage]:
    if DEFAULT_ALIAS in found.aliases or found.of("sqlite3"):
        yield checks.Error(
            f"The file {file} is for two SQLite libraries, which in one process destroy it. {found}",
            hint=claims.REMEDY,
            id="channels_lite.E001",
        )
        return
    for alias in found.aliases:
        models = _routed(alias)
        if models:
            yield checks.Warning(
                f"DATABASE_ROUTERS sends {', '.join(models)} to DATABASES[{alias!r}], whose file {file} is a layer's: "
                f"two SQLite libraries in one process would destroy it, so one of them is refused. {found}",
                hint=claims.REMEDY,
                id="channels_lite.W001",
            )


def _routed(alias: str) -> list[str]:
    """The models of other apps that are read from an alias or written to it."""
    return [
        model._meta.label
        for model in apps.get_models()
        if model._meta.app_label != "channels_lite" and alias in (router.db_for_read(model), router.db_for_write(model))
    ]
