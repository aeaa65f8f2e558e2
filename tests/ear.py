"""Another layer of this process that listens in a thread and loop of its own, for tests of who sees what and when."""

import asyncio
import queue
import threading
from typing import Any

from channels_lite.layers.core import SQLiteChannelLayer
from tests.patience import PATIENCE, until


class Ear:
    """Receives from one channel until it is closed; begins to wait before the constructor returns."""

    def __init__(self, layer: SQLiteChannelLayer, channel: str = "jobs", *, look: bool = True) -> None:
        self.layer = layer
        self._channel = channel
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._waiting = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._waiting.wait(PATIENCE)
        if look:
            self.look()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        receiving = asyncio.ensure_future(self._receive())
        await until(lambda: bool(self.layer._mailboxes.queues() or receiving.done()))
        self._waiting.set()
        await asyncio.wait([receiving, asyncio.ensure_future(self._end.wait())], return_when=asyncio.FIRST_COMPLETED)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        await self.layer.close()

    async def _receive(self) -> None:
        while True:
            self._heard.put(await self.layer.receive(self._channel))

    def next(self) -> dict[str, Any]:
        """The next message that it hears, whenever that comes."""
        return self._heard.get(timeout=PATIENCE)

    def look(self) -> None:
        """Have it look at the database, and return when it has and what it found has been handed over."""
        done = threading.Event()

        def look() -> None:
            database = self.layer._database
            assert database is not None
            self.layer.look()
            database.keeper.ask(lambda execute: self._loop.call_soon_threadsafe(self._loop.call_soon, done.set))

        self._loop.call_soon_threadsafe(look)
        assert done.wait(PATIENCE)

    def hears_nothing(self) -> bool:
        """Whether it has heard nothing, and finds nothing when it looks."""
        self.look()
        return self._heard.empty()

    def close(self) -> None:
        """End the thread and close the layer."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
