"""System checks: what is wrong with the settings, said before anything runs."""

from collections.abc import Iterator, Sequence
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.db import router

from channels_lite import claims, config
from channels_lite.config import DEFAULT_ALIAS, MEMORY
from channels_lite.entries import entries, names, read


def libraries(app_configs: Sequence[AppConfig] | None = None, **options: Any) -> list[checks.CheckMessage]:
    """E001: two SQLite libraries meet in one file. W001: they do when a model is used that a router sends there."""
    return [message for file in _apsw_files() for message in _meetings(file, claims.claims(file))]


def configuration(app_configs: Sequence[AppConfig] | None = None, **options: Any) -> list[checks.CheckMessage]:
    """E002: the CONFIG of a layer of ours is wrong. Without this, the first use of the layer says so."""
    return [
        checks.Error(f"CHANNEL_LAYERS[{name!r}] cannot be used. {why}", id="channels_lite.E002")
        for name in names()
        if (why := _why_not(name))
    ]


def keys(app_configs: Sequence[AppConfig] | None = None, **options: Any) -> list[checks.CheckMessage]:
    """W002: a key is so short that it can be found by trying. The layer works all the same."""
    return [
        checks.Warning(f"CHANNEL_LAYERS[{entry.name!r}]: {warning}", id="channels_lite.W002")
        for entry in entries()
        if (warning := config.weak_keys(entry.options))
    ]


def _why_not(name: str) -> str:
    try:
        entry = read(name)
        if entry is not None:
            entry.backend(**(settings.CHANNEL_LAYERS[name].get("CONFIG") or {})).file()  # no I/O, and all the checks
    except InvalidChannelLayerError as error:
        return str(error)
    except Exception:  # a BACKEND of somebody else's that does not load: Channels will say why
        return ""
    return ""


def _apsw_files() -> list[str]:
    files: list[str] = []
    for entry in entries():
        try:
            file = entry.file()
        except InvalidChannelLayerError:  # the layer will say it
            continue
        known = any(claims.same_file(file, other) for other in files)
        if entry.backend.library == "apsw" and file != MEMORY and not known:
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
