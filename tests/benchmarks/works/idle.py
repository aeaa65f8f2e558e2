"""Receivers that wait, each on a channel of its own, and what they cost while nothing happens."""

import asyncio
import contextlib
import gc
import os
import time
import tracemalloc
from collections.abc import AsyncIterator


async def wait(layer, receivers, seconds, settled):
    """Processor seconds that this process, with all its threads, uses in a second of waiting."""
    async with _waiting(layer, receivers, settled):
        used, start = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        return [(time.process_time() - used) / (time.perf_counter() - start)]


async def traced(layer, receivers, settled):
    """Bytes that Python has allocated for one of so many waiting receivers, its task and its channel's name."""
    await _warm_up(layer, settled)
    tracemalloc.start()
    try:
        before = _traced()
        async with _waiting(layer, receivers, settled):
            return [(_traced() - before) / receivers]
    finally:
        tracemalloc.stop()


async def resident(layer, receivers, settled):
    """Bytes by which one of so many waiting receivers makes the process larger. Once in a process: it keeps memory."""
    await _warm_up(layer, settled)
    gc.collect()
    before = _resident()
    async with _waiting(layer, receivers, settled):
        gc.collect()
        return [(_resident() - before) / receivers]


@contextlib.asynccontextmanager
async def _waiting(layer, receivers, settled) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(layer.receive(await layer.new_channel())) for _ in range(receivers)]
    await asyncio.sleep(settled)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
    assert not errors, f"{len(errors)} of them did not wait; the first: {errors[0]!r}"


async def _warm_up(layer, settled) -> None:
    """What the first message and the first receiver bring about is none of the others' cost."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "idle.warm_up"})
    await layer.receive(channel)
    async with _waiting(layer, 1, settled):
        pass


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    """Bytes of this process in memory. Counted anew by Linux: what ``statm`` says is some pages behind."""
    if not os.path.exists("/proc/self/smaps_rollup"):
        raise NotImplementedError("Linux alone tells a process its resident memory.")
    with open("/proc/self/smaps_rollup") as file:
        (line,) = (line for line in file if line.startswith("Rss:"))
    return int(line.split()[1]) * 1024
