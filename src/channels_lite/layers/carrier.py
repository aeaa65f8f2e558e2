"""channels_redis, which carries the messages, where it does not do what a layer must.

All that depends on its inner parts is here.
"""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from channels_lite.config import MOST
from channels_lite.errors import ConfigError

try:
    from channels_redis import core
    from channels_redis.utils import create_pool, decode_hosts
    from redis import RedisError
except ImportError as error:
    raise ImportError(f"channels_redis is missing ({error}): pip install 'channels-lite[redis]'") from error

Envelope = dict[str, Any]

FAILURES = (RedisError, OSError)
"""What is raised where a server cannot be reached, or fails."""
EXCLUDED = "exclude"
"""In an envelope that is sent to a group: the channels that do not get it."""
ADDRESSED = "__asgi_channel__"
"""What channels_redis adds to an envelope for process-specific channels: a channel, or a list of them."""
GROUP = ":group:"
"""What is behind the prefix in the keys of groups."""

# Instead of redis-py 8's defaults. Its pool of 100 is too small: each receiver of a normal channel has a connection.
# Its time-out of 5 seconds ends a receive() that waits as long for channels_redis, and on Python 3.10 and 3.11 it makes
# redis-py swallow cancellations (by asyncio.wait_for), so that servers do not end.
CONNECTIONS = {"max_connections": MOST, "socket_timeout": None}

_channel: ContextVar[str] = ContextVar("channel")  # that is sent to, or received from


class Carrier(core.RedisChannelLayer):  # type: ignore[misc] # it has no types
    """channels_redis' core layer, at most once, on one server for each channel, in any number of event loops."""

    def __init__(self, hosts: Sequence[Any] | None, **options: Any) -> None:
        super().__init__(hosts=_checked(hosts), **options)
        self.receive_buffer = Buffers(self.capacity)
        self.receive_clean_locks = NoLocks()
        self._send_index_generator = self._receive_index_generator = map(self._index, itertools.count())

    def _index(self, turn: int) -> int:
        """The server of a normal channel.

        channels_redis takes each in turn, but a group's messages go where the channel's name leads, and who waits at
        one server does not see what is sent to another.
        """
        index: int = self.consistent_hash(_channel.get())
        return index

    async def carry(self, channel: str, envelope: Envelope) -> None:
        """Send an envelope to a channel; raises ChannelFull."""
        _channel.set(channel)
        await super().send(channel, envelope)

    async def fetch(self, channel: str) -> Envelope:
        """Wait for the next envelope on a channel and take it."""
        _channel.set(channel)
        with self.receive_buffer.waiting_for(channel):
            envelope: Envelope = await super().receive(channel)
            return envelope

    async def _brpop_with_clean(self, index: int, channel: str, timeout: float) -> bytes | None:
        """Take a message.

        Without the copy that channels_redis leaves in Redis until it is delivered, and brings back at the next
        receive() of whichever process: that one has received it, too, by then.
        """
        taken = await self.connection(index).bzpopmin(channel, timeout=timeout)
        return None if taken is None else taken[1]

    async def _clean_receive_backup(self, index: int, channel: str) -> None:
        """There is none."""

    def _map_channel_keys_to_connection(self, channel_names: list[str], message: Envelope) -> Any:
        excluded = message.pop(EXCLUDED, ())
        left = [channel for channel in channel_names if channel not in excluded]
        return super()._map_channel_keys_to_connection(left, message)


class Buffers(defaultdict[str, "asyncio.Queue[Envelope]"]):
    """What was taken from Redis for process-specific channels and not received yet, by channel.

    channels_redis deletes a channel's buffer when a receive() fails or is cancelled. Here this leaves one that has
    something in it, or on which others wait.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(partial(core.BoundedQueue, capacity))
        self._waiting: Counter[str] = Counter()

    def __delitem__(self, channel: str) -> None:
        if channel in self and self[channel].empty() and self._waiting[channel] < 2:
            super().__delitem__(channel)

    @contextmanager
    def waiting_for(self, channel: str) -> Iterator[None]:
        """Somebody receives from a channel meanwhile."""
        self._waiting[channel] += 1
        try:
            yield
        finally:
            self._waiting[channel] -= 1
            if not self._waiting[channel]:
                del self._waiting[channel]

    def keep(self, condition: Callable[[Envelope], bool]) -> None:
        """Throw away what does not meet this, and empty buffers of channels on which nobody waits."""
        for channel, buffer in list(self.items()):
            for envelope in [buffer.get_nowait() for _ in range(buffer.qsize())]:
                if condition(envelope):
                    buffer.put_nowait(envelope)
            if not self._waiting[channel]:
                del self[channel]


class NoLocks:
    """Instead of channels_redis' locks on normal channels, each of which belongs to one event loop.

    They guard the copies that are not made here.
    """

    async def acquire(self, channel: str) -> None:
        """Go on."""

    def release(self, channel: str) -> None:
        """Go on."""


def _checked(hosts: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The servers with our defaults; ConfigError where redis-py cannot make a connection of one."""
    checked = [_with_defaults(host) for host in decode_hosts(hosts)]
    for number, host in enumerate(checked, 1):
        try:
            create_pool(host).make_connection()  # no I/O
        except Exception as error:  # its text may have a part of a password
            raise ConfigError(
                f"CHANNEL_LAYERS: the option 'hosts' has a server that redis-py does not take (number {number} of "
                f"{len(checked)}, {type(error).__name__}): a URL as redis://host:6379/0, rediss://… or unix://path, a "
                "pair of host and port, or a dict of redis-py's options."
            ) from None
    return checked


def _with_defaults(host: dict[str, Any]) -> dict[str, Any]:
    if "sentinels" in host:  # these have pools of their own
        host = {**host, "sentinel_kwargs": {**CONNECTIONS, **(host.get("sentinel_kwargs") or {})}}
    return {**CONNECTIONS, **host}
