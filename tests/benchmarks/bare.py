"""The floor under group_send: what a layer with a file does at least for the members of a group in one process."""

import asyncio
from typing import Any

import apsw
import msgspec
from channels.layers import BaseChannelLayer


class BareLayer(BaseChannelLayer):
    """It keeps none of a layer's promises: a message for which nobody waits is lost, and all is in this process.

    A group's message is encoded once; SQLite is asked whether another process has changed the file, where groups are
    kept; every receive() has a future of its own, and decodes a message of its own. A layer of another build may do
    with less: with one future for all, members go on after three quarters of the time.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._connection = apsw.Connection(path)
        self._connection.execute("PRAGMA journal_mode=WAL").fetchall()
        self._groups: dict[str, list[str]] = {}
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._names = 0

    async def new_channel(self, prefix: str = "specific") -> str:
        self._names += 1
        return f"{prefix}!{self._names}"

    async def group_add(self, group: str, channel: str) -> None:
        self._groups.setdefault(group, []).append(channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        payload = msgspec.msgpack.encode(message)
        self._connection.execute("PRAGMA data_version").fetchone()
        asyncio.get_running_loop().call_soon(self._wake, self._groups[group], payload)

    def _wake(self, channels: list[str], payload: bytes) -> None:
        for channel in channels:
            self._waiting.pop(channel).set_result(payload)

    async def receive(self, channel: str) -> dict[str, Any]:
        self._waiting[channel] = woken = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = msgspec.msgpack.decode(await woken)
        return message

    async def flush(self) -> None:
        self._groups.clear()
