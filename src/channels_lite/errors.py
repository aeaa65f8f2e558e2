"""What can go wrong: each exception's docstring says when it is raised."""

from channels.exceptions import InvalidChannelLayerError


class ChannelsLiteError(Exception):
    """The base of this package's own errors."""


class DatabaseBusy(ChannelsLiteError):
    """Another process held the database's write lock until the deadline; nothing was sent or changed.

    That is as many seconds after the call as ``OPTIONS["timeout"]`` of the alias says, or 5, which is Django's default.
    """


def busy(path: str, seconds: float) -> DatabaseBusy:
    """The error for a database that was locked for so long."""
    return DatabaseBusy(
        f"The database {path} was locked by somebody else for {seconds:g} s; nothing was sent or changed. "
        'Keep transactions that write short, or let senders wait longer with OPTIONS["timeout"] of the alias.'
    )


class Locked(ChannelsLiteError):
    """Somebody else holds a lock of the database at this moment; nothing was changed. Never leaves the layer."""


class LayerClosed(ChannelsLiteError):
    """The layer was closed while this call was waiting for a message."""


class LoopRunning(ChannelsLiteError, RuntimeError):
    """Something for synchronous code was used in a thread in which an event loop runs; nothing was sent or changed.

    A RuntimeError as well, because that is what asgiref's ``async_to_sync`` raises there.
    """


class DatabaseFailed(ChannelsLiteError):
    """The disk failed, or the database file is damaged or may not be written any more; nothing was sent or changed.

    Where a flush fails, part of what it was to remove may be gone.
    """


class DiskFull(DatabaseFailed):
    """The disk has no room for the database, or the file has reached a limit; nothing was sent or changed.

    Raised for senders only: a receive() goes on by itself when there is room again.
    """


class DatabaseLost(DatabaseFailed):
    """A database of the application's, or its journal, was deleted or replaced; nothing was sent or changed."""


PASSING = (Locked, DiskFull)  # what goes by: receivers and upkeep try again


class SchemaError(ChannelsLiteError):
    """The database's schema is not the one this release needs, or its schema files cannot be used."""


class CleaningFailed(ChannelsLiteError):
    """A database could not be cleaned, or not to the end; what was removed until then stays removed."""


class ReadOnly(ChannelsLiteError):
    """Somebody tried to change the channel layer's messages or memberships through the ORM."""


class TwoLibraries(ChannelsLiteError):
    """A file was to be opened with apsw while this process has it open with another SQLite library, or the other way.

    Raised before it is opened, by the layer or by whoever opens it with sqlite3 or Django. The text names the settings
    and the remedies. Not an ImproperlyConfigured, which Django's ``runserver`` would take for "no database" and hide.
    """


LASTING = (SchemaError, DatabaseFailed, TwoLibraries)  # what does not: whoever needs the database is told


class UndecodableMessage(ChannelsLiteError):
    """A stored message cannot be decrypted or decoded with this layer's settings."""


class InvalidMessage(TypeError, AssertionError):
    """The message cannot be sent: it is no dict, or holds something that no reader could get back.

    An AssertionError as well, because that is what Channels' own layers raise for a message that is no dict.
    """


class ForeignChannel(ValueError, AssertionError):
    """A process-specific channel of another process (or from before a fork): only that process may receive from it.

    An AssertionError as well, because that is what channels_redis raises.
    """


def foreign(channel: str) -> ForeignChannel:
    """The error for a channel that another layer made."""
    return ForeignChannel(
        f"The channel {channel} belongs to another process or layer; "
        "this one receives from the channels that its own new_channel() made."
    )


class ConfigError(InvalidChannelLayerError):
    """The CONFIG of a channel layer is wrong; the text names the option."""


class AliasError(ConfigError):
    """The alias that a layer is for is missing in DATABASES, or is no SQLite database."""

    def __init__(self, where: str, alias: str, why: str, remedy: str) -> None:
        super().__init__(where, alias, why, remedy)
        self.alias, self.why, self.remedy = alias, why, remedy
        self._text = f"{where} {alias!r}, {why}; {remedy}"

    def __str__(self) -> str:
        return self._text
