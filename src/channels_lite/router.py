"""The database router: the models of this package belong to the alias that the channel layer uses."""

from typing import Any

from django.db.models import Model

from channels_lite.config import DEFAULT_ALIAS
from channels_lite.entries import entries

LABEL = "channels_lite"


class ChannelsRouter:
    """For DATABASE_ROUTERS. Reads CHANNEL_LAYERS at each question, makes no layer and opens nothing."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        """The alias of the layer ``default``, else of the first one; None for the models of others."""
        return _home() if model._meta.app_label == LABEL else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        """Whether a layer uses this alias; None for the applications of others."""
        return db in _aliases().values() if app_label == LABEL else None


def _home() -> str:
    aliases = _aliases()
    return aliases.get("default") or next(iter(aliases.values()))


def _aliases() -> dict[str, str]:
    """The alias that each layer of ours is migrated with, by the layer's name: for a path it is ``default``."""
    found = {entry.name: entry.alias or DEFAULT_ALIAS for entry in entries()}
    return found or {"default": DEFAULT_ALIAS}
