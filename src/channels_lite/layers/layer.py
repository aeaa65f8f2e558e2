"""What every layer of this package offers, on SQLite and on Redis: the type of what ``get_layer`` returns."""

import abc
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from channels.layers import BaseChannelLayer

from channels_lite import config
from channels_lite.drops import Drops
from channels_lite.errors import ChannelsLiteError, InvalidMessage
from channels_lite.stats import Stats

logger = logging.getLogger("channels_lite.config")


class SyncCalls(abc.ABC):
    """The layer for synchronous code: what ``layer.sync`` gives. Each method does what the layer's own one does."""

    __slots__ = ()

    @abc.abstractmethod
    def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        """Send a message to a channel; ``expiry`` in seconds."""

    @abc.abstractmethod
    def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        """Send a message to every channel in a group but those in ``exclude``."""

    @abc.abstractmethod
    def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group for ``group_expiry`` seconds from now."""

    @abc.abstractmethod
    def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens where there is none."""

    @abc.abstractmethod
    def group_channels(self, group: str) -> list[str]:
        """The channels that are in a group now, in the order in which they joined it."""

    @abc.abstractmethod
    def group_count(self, group: str) -> int:
        """How many channels are in a group now."""

    @abc.abstractmethod
    def groups(self, channel: str) -> list[str]:
        """The groups that a channel is in now, in the order of their names."""

    @abc.abstractmethod
    def stats(self) -> Stats:
        """What is going on."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the layer as its ``close()`` does: may be called more than once, and the next use opens it again."""


class Layer(BaseChannelLayer, abc.ABC):
    """A channel layer: the calls of Channels' specification, and those that it does not have. Times are in seconds."""

    extensions: ClassVar = ["groups", "flush"]
    defaults: ClassVar[dict[str, Any]] = {}
    library: ClassVar[str]
    """The Python module that it speaks through. Those of SQLite destroy a file that two of them open."""
    idle: ClassVar[tuple[str, ...]]
    """The options that have no effect on this layer, and are for the other kind."""
    kind: ClassVar[str]
    """What it keeps messages in: SQLite or Redis."""
    failures: ClassVar[tuple[type[Exception], ...]] = (ChannelsLiteError,)
    """What its calls raise when it cannot work just then, whoever calls."""
    options: config.Options
    group_expiry: float
    drops: Drops

    # Deviation from BaseChannelLayer, whose patterns let a line feed and non-ASCII letters through against its own
    # error message.
    channel_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?\Z")
    group_name_regex = re.compile(r"[a-zA-Z0-9\-_.]+\Z")

    def match_type_and_length(self, name: Any) -> bool:
        """Whether this is a str that is short enough, whatever it says of itself."""
        return issubclass(type(name), str) and str.__len__(name) < self.MAX_NAME_LENGTH

    def _channel_name(self, name: Any) -> str:
        """A valid name of a channel without its subclass, which could have it compare and print as another one."""
        self.require_valid_channel_name(name)
        return str.__str__(name)

    def _group_name(self, name: Any) -> str:
        """As ``_channel_name``, for a group."""
        self.require_valid_group_name(name)
        return str.__str__(name)

    def _names(self, channels: Iterable[str]) -> frozenset[str]:
        """These channels; TypeError where one has no valid name, or it is a single name."""
        if isinstance(channels, str | bytes) or not isinstance(channels, Iterable):
            raise TypeError(f"exclude is a list of channels, not {type(channels).__name__}; write exclude=[channel].")
        return frozenset(map(self._channel_name, channels))

    @classmethod
    def parse(cls, configuration: Mapping[str, Any]) -> config.Options:
        """Check CONFIG as this layer understands it; ConfigError names the option that is wrong."""
        return config.parse(configuration, **cls.defaults)

    @staticmethod
    @abc.abstractmethod
    def locate(options: config.Options) -> str:
        """The database file of a layer with these options, ``:memory:``, or "" for none. Reads settings only."""

    def file(self) -> str:
        """The database file of this layer, ``:memory:``, or "" for none. Reads settings only."""
        return self.locate(self.options)

    def _warn(self) -> None:
        """Tell the log what is to be said of the options."""
        if warning := config.weak_keys(self.options):
            logger.warning("%s Take %s.", warning, config.RANDOM_KEY)
        if told := config.unused(self.options, self.idle, self.kind):
            logger.info("%s", told)

    @property
    @abc.abstractmethod
    def sync(self) -> SyncCalls:
        """The layer for synchronous code; its methods raise LoopRunning where an event loop runs in their thread."""

    @abc.abstractmethod
    async def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        """Send a message to a channel; ``expiry``: seconds until it is gone unread, the layer's own when left out."""

    @abc.abstractmethod
    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message on a channel and take it."""

    @abc.abstractmethod
    async def new_channel(self, prefix: str = "specific") -> str:
        """A new name for a channel that only this process can receive from; it begins with ``prefix``."""

    @abc.abstractmethod
    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group for ``group_expiry`` seconds from now."""

    @abc.abstractmethod
    async def group_discard(self, group: str, channel: str) -> None:
        """End a channel's membership in a group; nothing happens where there is none."""

    @abc.abstractmethod
    async def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        """Send a message to every channel in a group but those in ``exclude``. Full channels are skipped."""

    @abc.abstractmethod
    async def group_channels(self, group: str) -> list[str]:
        """The channels that are in a group now, in the order in which they joined it (their last ``group_add``)."""

    @abc.abstractmethod
    async def group_count(self, group: str) -> int:
        """How many channels are in a group now."""

    @abc.abstractmethod
    async def groups(self, channel: str) -> list[str]:
        """The groups that a channel is in now, in the order of their names."""

    @abc.abstractmethod
    async def stats(self) -> Stats:
        """What waits, who is in which group, what was sent, received and dropped, and more: see ``stats.Stats``."""

    @abc.abstractmethod
    async def flush(self) -> None:
        """Remove all messages and groups of this layer's prefix; returns when they are gone."""

    @abc.abstractmethod
    async def clean_expired(self) -> tuple[int, int]:
        """Remove what has expired: how many messages and memberships there were."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of files and connections; a waiting receive() ends with LayerClosed.

        May be called more than once; the next use opens them again.
        """


def seconds_of(expiry: Any) -> float:
    """The ``expiry`` of a message; InvalidMessage where it is no number of seconds."""
    if isinstance(expiry, bool) or not isinstance(expiry, int | float):
        raise InvalidMessage(f"expiry is a number of seconds, not {type(expiry).__name__}.")
    if not 0 < expiry <= 10**9:
        given = expiry if -(10**12) < expiry < 10**12 else "out of range"  # an int may have too many digits to be shown
        raise InvalidMessage(f"expiry is {given}; it is a number of seconds above 0, up to 1,000,000,000.")
    return expiry
