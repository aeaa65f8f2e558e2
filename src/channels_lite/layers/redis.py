"""The layer for the day one machine is not enough: the same options and calls, on Redis.

channels_redis carries the messages. What it carries is an envelope, in which the message is as it is on SQLite:
serialized, encrypted where there are keys, with the moment at which it expires.
"""

import asyncio
import contextlib
import math
import os
import sys
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from channels_lite import clock, config, stats
from channels_lite.codec import Codec
from channels_lite.drops import Drops, Reason
from channels_lite.errors import LayerClosed, UndecodableMessage, foreign
from channels_lite.layers.carrier import ADDRESSED, EXCLUDED, FAILURES, GROUP, Carrier
from channels_lite.layers.layer import Layer, SyncCalls, seconds_of
from channels_lite.layers.openable import WAITING, Tally
from channels_lite.layers.sync import refuse_loop
from channels_lite.stats import Stats

T = TypeVar("T")

PAYLOAD, EXPIRES, SENT = "payload", "expires_at", "sent_at"  # of an envelope; times as channels_lite.clock has them
SWEEP = 30.0  # seconds after which receive() looks for what has expired in this process
NO_ENVELOPE = {PAYLOAD: b"", SENT: 0, EXPIRES: 0}

_layers: "weakref.WeakSet[RedisChannelLayer]" = weakref.WeakSet()
_of_parents: list[Any] = []  # connections from before a fork: to close them would take them from the parent's loop


class RedisChannelLayer(Carrier, Layer):
    """A channel layer on Redis; options: ``channels_lite.config.Options``, with ``hosts`` as channels_redis takes them.

    Its keys begin with ``channels_lite:``, whatever the prefix, and no others are touched. An error of Redis's is
    raised as redis-py raises it; what was being sent then may arrive.
    """

    library = "redis"
    kind = "Redis"
    failures = FAILURES
    idle = ("database", "path", "auto_trim", "plain_sql", "polling_interval", "polling_idle_timeout", "pool_size")

    def __init__(self, **configuration: Any) -> None:
        """Take CONFIG; ConfigError names the option that is wrong. Does no I/O."""
        self._configuration = configuration
        self.options = options = self.parse(configuration)
        limited = options.enforce_capacity
        Carrier.__init__(
            self,
            hosts=options.hosts,
            prefix=f"channels_lite:{quote(options.prefix, safe='')}:",
            expiry=math.ceil(options.expiry),  # Redis counts whole seconds; the envelope knows better
            group_expiry=math.ceil(options.group_expiry),
            capacity=options.capacity if limited else config.MOST,
        )
        rules = config.capacity_rules(options.channel_capacity) if limited else []
        self.channel_capacity = rules  # type: ignore[assignment] # compiled, as get_capacity() wants it
        self._codec = Codec(options.serializer_format, options.symmetric_encryption_keys)
        self.drops = Drops()
        self._tally = Tally()
        self._has_warned = False
        self._waiting: set[asyncio.Task[Any]] = set()  # in receive()
        self._swept = time.monotonic()
        _layers.add(self)

    def __str__(self) -> str:  # channels_redis shows the hosts, which may have passwords
        return repr(self)

    @classmethod
    def parse(cls, configuration: Mapping[str, Any]) -> config.Options:
        """Check CONFIG; what is for SQLite may be wrong in it. ConfigError names the option that is wrong."""
        return config.parse_without_place(configuration)

    @staticmethod
    def locate(options: config.Options) -> str:
        """No file."""
        return ""

    @property
    def sync(self) -> "RedisSync":
        return RedisSync(self)

    def connection(self, index: int) -> Any:
        """channels_redis' connection of the running loop to this one of ``hosts``."""
        if not self._has_warned:
            self._has_warned = True
            self._warn()
        return Carrier.connection(self, index)

    # Channels.

    async def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        """Send a message to a channel. ``expiry`` in seconds is at most the layer's own.

        Raises ChannelFull, InvalidMessage, TypeError for a bad name.
        """
        channel = self._channel_name(channel)
        longest = self.options.expiry
        envelope = self._envelope(message, longest if expiry is None else min(seconds_of(expiry), longest))
        try:
            await self.carry(channel, envelope)
        except ChannelFull:
            raise ChannelFull(channel) from None
        self._tally.sent += 1

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for the next message on a channel and take it. What is just then arriving is lost by cancelling.

        Raises TypeError for a bad name, ForeignChannel for a process-specific channel of another process.
        """
        channel = self._channel_name(channel)
        queue = self.non_local_name(channel)
        if queue != channel and not queue.endswith(f".{self.client_prefix}!"):
            raise foreign(channel)
        if time.monotonic() - self._swept > SWEEP:
            self._sweep()
        message = None
        with self._until_closed():
            while message is None:
                message = self._opened(channel, await self.fetch(channel))
        self._tally.received += 1
        return message

    @contextlib.contextmanager
    def _until_closed(self) -> Iterator[None]:
        """What the running task waits for in here ends with LayerClosed when the layer is closed."""
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # one runs
        self._waiting.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._waiting:  # close() would have taken it out
                raise
            if sys.version_info >= (3, 11):
                task.uncancel()
            raise LayerClosed(WAITING) from None
        finally:
            self._waiting.discard(task)

    def _sweep(self) -> None:
        """Throw away what has expired in this process: whom it is for may have ended."""
        self._swept, now = time.monotonic(), clock.now()
        self.receive_buffer.keep(lambda envelope: envelope[EXPIRES] > now)

    async def new_channel(self, prefix: str = "specific") -> str:
        if not issubclass(type(prefix), str):
            raise TypeError(f"The prefix of a channel is a str, not {type(prefix).__name__}.")
        return self._channel_name(await Carrier.new_channel(self, prefix))

    def _envelope(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        now = clock.now()
        payload = self._codec.encode(message, seconds)
        return {PAYLOAD: payload, SENT: now, EXPIRES: now + clock.milliseconds(seconds)}

    def _opened(self, channel: str, envelope: dict[str, Any]) -> dict[str, Any] | None:
        """The message in an envelope; None where it has expired or cannot be decoded."""
        try:
            return self._codec.decode(envelope[PAYLOAD]) if envelope[EXPIRES] > clock.now() else None
        except UndecodableMessage as error:
            self.drops.count(channel, Reason.UNDECODABLE, str(error))
            return None

    def deserialize(self, message: bytes) -> dict[str, Any]:
        """The envelope in what came from Redis, which channels_redis receives."""
        envelope = self._parsed(message)
        if envelope is NO_ENVELOPE:
            self.drops.count(self.prefix, Reason.UNDECODABLE, "no envelope")
        return envelope.copy()

    def _parsed(self, message: bytes) -> dict[str, Any]:
        """As ``deserialize``; NO_ENVELOPE, as one that has expired, for a stranger's bytes."""
        try:
            envelope: dict[str, Any] = Carrier.deserialize(self, message)
            whole = isinstance(envelope[PAYLOAD], bytes) and envelope[EXPIRES] >= 0 and envelope[SENT] >= 0
            whole = whole and all(type(channel) is str for channel in _channels(envelope, ""))
        except Exception:  # they can fail msgpack in any way
            return NO_ENVELOPE
        return envelope if whole else NO_ENVELOPE

    # Groups.

    async def group_add(self, group: str, channel: str) -> None:
        await Carrier.group_add(self, self._group_name(group), self._channel_name(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        await Carrier.group_discard(self, self._group_name(group), self._channel_name(channel))

    async def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        """Send a message to every channel in a group but those in ``exclude``. Full channels are skipped.

        Raises InvalidMessage, TypeError for a bad name; never ChannelFull.
        """
        group, excluded = self._group_name(group), self._names(exclude)
        envelope = self._envelope(message, self.options.expiry)
        await Carrier.group_send(self, group, {**envelope, EXCLUDED: excluded})
        self._tally.sent += 1

    async def group_channels(self, group: str) -> list[str]:
        key, connection = self._group(group)
        members: list[bytes] = await connection.zrangebyscore(key, self._since(), "+inf")
        return [channel.decode() for channel in members if channel.isascii()]  # others are a stranger's

    async def group_count(self, group: str) -> int:
        key, connection = self._group(group)
        count: int = await connection.zcount(key, self._since(), "+inf")
        return count

    async def groups(self, channel: str) -> list[str]:
        """The groups that a channel is in now, in the order of their names. Asks for each group that there is."""
        channel = self._channel_name(channel)
        found = []
        async for connection, key, group in self._keys():
            if group is None:
                continue
            joined = await connection.zscore(key, channel)
            if joined is not None and joined > time.time() - self.options.group_expiry:
                found.append(group)
        return sorted(found)

    def _group(self, group: str) -> tuple[bytes, Any]:
        """A group's key and a connection to the server that has it."""
        group = self._group_name(group)
        return self._group_key(group), self.connection(self.consistent_hash(group))

    def _since(self) -> str:
        """Who joined at this moment or before is no member any more; as a bound that excludes it."""
        return f"({time.time() - self.options.group_expiry}"

    async def _keys(self, kind: str | None = "zset") -> AsyncIterator[tuple[Any, str, str | None]]:
        """Every key of this layer with a connection to the server that has it, and the group whose key it is.

        ``kind``: what a channel and a group are in Redis; None for what strangers have made of them as well.
        """
        head = self.prefix + GROUP
        for index in range(self.ring_size):
            connection = self.connection(index)
            scan = connection.scan_iter(match=f"{self.prefix}*", count=1_000, _type=kind)
            for name in {name async for name in scan}:  # a scan may tell of a key twice
                key = name.decode(errors="surrogateescape")
                if key.isascii() or kind is None:  # ours are
                    yield connection, key, key.removeprefix(head) if key.startswith(head) else None

    # Extensions and upkeep.

    async def stats(self) -> Stats:
        """What waits in Redis and in this process, and this process's counts. It reads all that waits.

        ``database_bytes`` is the memory that its keys take. Of SQLite alone are ``wal_bytes``, ``schema_version``,
        ``busy_retries`` and the other ``processes``.
        """
        self._sweep()
        buffered = {channel: buffer.qsize() for channel, buffer in self.receive_buffer.items()}
        pending, groups, oldest, size = Counter(buffered), {}, math.inf, 0
        async for connection, key, group in self._keys():
            size += await connection.memory_usage(key) or 0
            if group is not None:
                groups[group] = await connection.zcount(key, self._since(), "+inf")
                continue
            for envelope in await self._live(connection, key):
                pending.update(_channels(envelope, key.removeprefix(self.prefix)))
                oldest = min(oldest, envelope[SENT])
        own = stats.count(
            sent=self._tally.sent, received=self._tally.received, parked=sum(buffered.values()),
            drops=self.drops.by_reason, busy_retries=0, watcher=self.library,
        )  # fmt: skip
        return Stats(
            pending=dict(+pending),
            oldest_age=None if oldest == math.inf else max(0, clock.now() - oldest) / 1000,
            groups=dict(+Counter(groups)),
            sent=own.sent,
            received=own.received,
            dropped=own.dropped,
            decode_failures=own.dropped["undecodable"],
            busy_retries=0,
            watcher=own.watcher,
            database_bytes=size,
            wal_bytes=0,
            schema_version=0,
            processes=[own],
        )

    async def _live(self, connection: Any, key: str) -> list[dict[str, Any]]:
        """The live envelopes of a channel's key."""
        envelopes = [self._parsed(member) for member in await connection.zrange(key, 0, -1)]
        return [envelope for envelope in envelopes if envelope[EXPIRES] > clock.now()]

    async def flush(self) -> None:
        """Remove all messages and groups of this layer's prefix, and what is in the memory of this process.

        Receivers that wait go on waiting, for which channels_redis would close their connections.
        """
        async for connection, key, _ in self._keys(kind=None):
            await connection.delete(key.encode(errors="surrogateescape"))
        self.receive_buffer.keep(lambda envelope: False)

    async def clean_expired(self) -> tuple[int, int]:
        """Remove what has expired: how many messages and memberships there were. Redis does it by itself, later."""
        self._sweep()
        messages = memberships = 0
        async for connection, key, group in self._keys():
            expiry = self.options.expiry if group is None else self.options.group_expiry
            removed = await connection.zremrangebyscore(key, "-inf", time.time() - expiry)
            if group is None:
                messages += removed
            else:
                memberships += removed
        return messages, memberships

    async def close(self) -> None:
        """Close the connections of the running loop; a waiting receive() ends with LayerClosed, in every loop.

        Other loops' connections are closed with them. May be called more than once; the next use connects again.
        """
        for task in list(self._waiting):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(self._end, task)
        await asyncio.sleep(0)  # those of this loop are cancelled before their connections are gone
        connections = self._layers.get(asyncio.get_running_loop())
        if connections is not None:
            await connections.flush()
        self.drops.report(last=True)

    def _end(self, task: "asyncio.Task[Any]") -> None:
        """Let a task that waits in receive() end because the layer is closed."""
        if task in self._waiting:
            self._waiting.remove(task)
            task.cancel()


class RedisSync(SyncCalls):
    """The layer for synchronous code, by ``async_to_sync``: an event loop and a connection for each call.

    Each method raises what the coroutine of its name does, and LoopRunning where an event loop runs in this thread.
    """

    __slots__ = ("_layer",)

    def __init__(self, layer: RedisChannelLayer) -> None:
        self._layer = layer

    def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        _run(self._layer.send, channel, message, expiry)

    def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        _run(self._layer.group_send, group, message, exclude)

    def group_add(self, group: str, channel: str) -> None:
        _run(self._layer.group_add, group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        _run(self._layer.group_discard, group, channel)

    def group_channels(self, group: str) -> list[str]:
        return _run(self._layer.group_channels, group)

    def group_count(self, group: str) -> int:
        return _run(self._layer.group_count, group)

    def groups(self, channel: str) -> list[str]:
        return _run(self._layer.groups, channel)

    def stats(self) -> Stats:
        return _run(self._layer.stats)

    def close(self) -> None:
        _run(self._layer.close)


def _run(method: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
    refuse_loop()
    return async_to_sync(method)(*arguments)


def _channels(envelope: dict[str, Any], name: str) -> list[str]:
    """The channels that an envelope is for, which waits under this name: a channel, or what comes before its "!"."""
    addressed = envelope.get(ADDRESSED, name)
    return addressed if isinstance(addressed, list) else [addressed]


def _after_fork() -> None:
    for layer in list(_layers):
        _of_parents.append(layer._layers)
        layer.__init__(**layer._configuration)  # type: ignore[misc] # with a name of its own, and nothing else of before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
