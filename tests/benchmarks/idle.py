"""What a process with many waiting receivers uses while nothing happens."""

import asyncio
import os
import time


async def measure(folder: str, receivers: int, seconds: float) -> float:
    """The share of one core that this process uses in ``seconds`` of waiting, as a fraction."""
    from channels_lite.layers.aio import AIOSQLiteChannelLayer

    layer = AIOSQLiteChannelLayer(path=f"{folder}/idle.sqlite3")
    channels = [await layer.new_channel() for _ in range(receivers)]
    tasks = [asyncio.ensure_future(layer.receive(channel)) for channel in channels]
    await asyncio.sleep(1)  # until they wait, and what opening began has ended
    before = _cpu()
    await asyncio.sleep(seconds)
    used = _cpu() - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await layer.close()
    return used / seconds


def _cpu() -> float:
    """Seconds of processor time that all threads of this process have used."""
    times = os.times()
    return max(time.process_time(), times.user + times.system)
