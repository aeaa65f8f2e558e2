"""The layer for synchronous code: the same calls without an event loop."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from channels.exceptions import ChannelFull

from channels_lite import clock, store
from channels_lite.errors import LoopRunning
from channels_lite.layers.layer import SyncCalls
from channels_lite.mailbox import running_loop
from channels_lite.stats import Stats

if TYPE_CHECKING:
    from channels_lite.layers.base import SQLiteLayer


class Sync(SyncCalls):
    """What ``layer.sync`` gives: for views, signals, tasks and scripts, in any thread in which no event loop runs.

    Everything happens in the calling thread. A locked database is waited for there, at most as long as the coroutines
    wait (``OPTIONS["timeout"]`` of the alias, or 5 seconds); then DatabaseBusy. With the layer ``core``, inside
    ``transaction.atomic()`` on its alias, what is sent belongs to the transaction, as with the coroutines.

    For the handler of a signal it is not: what the thread was doing may hold what is waited for.
    Each method raises what the coroutine of its name does, and LoopRunning where an event loop runs in this thread.
    """

    __slots__ = ("_of",)

    def __init__(self, layer: "SQLiteLayer[Any]") -> None:
        self._of = layer

    @property
    def _layer(self) -> "SQLiteLayer[Any]":
        refuse_loop()
        return self._of

    def send(self, channel: str, message: dict[str, Any], expiry: float | None = None) -> None:
        layer = self._layer
        layer._open_here()
        row = layer._hand_on(channel, message, expiry)
        if row is not None:
            try:
                layer._write_here(store.send, *row)
            except ChannelFull:
                raise ChannelFull(channel) from None
        layer._tally.sent += 1

    def group_send(self, group: str, message: dict[str, Any], exclude: Iterable[str] = ()) -> None:
        layer = self._layer
        layer._open_here()
        writes = layer._group_sending(group, message, exclude)
        try:
            write = next(writes)
            while True:
                try:
                    sent = layer._write_here(*write)
                except Exception as error:
                    write = writes.throw(error)
                else:
                    write = writes.send(sent)
        except StopIteration:
            return

    def group_add(self, group: str, channel: str) -> None:
        layer = self._layer
        layer._write_here(store.group_add, *layer._membership(group, channel), clock.milliseconds(layer.group_expiry))

    def group_discard(self, group: str, channel: str) -> None:
        layer = self._layer
        layer._write_here(store.group_discard, *layer._membership(group, channel))

    def group_channels(self, group: str) -> list[str]:
        layer = self._layer
        return layer._read_here(store.group_channels, layer.options.prefix, layer._group_name(group))

    def group_count(self, group: str) -> int:
        layer = self._layer
        return layer._read_here(store.group_count, layer.options.prefix, layer._group_name(group))

    def groups(self, channel: str) -> list[str]:
        layer = self._layer
        return layer._read_here(store.groups, layer.options.prefix, *layer._place(channel))

    def stats(self) -> Stats:
        layer = self._layer
        return layer._aside_here(layer._look_inside)

    def close(self) -> None:
        self._layer._close_here()


def refuse_loop() -> None:
    """Raise LoopRunning where an event loop runs in this thread."""
    if running_loop() is not None:
        raise LoopRunning(
            "An event loop runs in this thread, and layer.sync could hold it up: await the method of the layer "
            "itself, such as layer.send(), or call what uses layer.sync by sync_to_async()."
        )
