"""The layer on Django's own connection: what it sends belongs to the caller's transaction."""

from collections.abc import Mapping
from typing import Any, ClassVar

from channels_lite import config
from channels_lite.errors import ConfigError
from channels_lite.layers.base import SQLiteLayer


class SQLiteChannelLayer(SQLiteLayer):
    """A channel layer on the Django connection of an alias; options: ``channels_lite.config.Options``."""

    library = "sqlite3"
    defaults: ClassVar[dict[str, Any]] = {"serializer_format": "json"}

    @classmethod
    def parse(cls, configuration: Mapping[str, Any]) -> config.Options:
        if configuration.get("path") is not None:
            raise ConfigError(
                "CHANNEL_LAYERS: the option 'path' is not for this layer, which speaks through Django's connection; "
                "name an alias of DATABASES with 'database', or take channels_lite.layers.aio.AIOSQLiteChannelLayer."
            )
        return super().parse(configuration)

    @staticmethod
    def locate(options: config.Options) -> str:
        """The file of the alias itself."""
        return config.alias_file(options.database or config.DEFAULT_ALIAS)
