"""Writing as fast as one process can, while others do the same."""

import asyncio
import os
import time
from typing import Any

TEXT = "x" * 80
NAMES = 2000  # channels to send to in turn, so that none fills up though nobody receives


async def write(layer: Any, start: float, seconds: float) -> dict[str, Any]:
    """Send from ``start`` on, on the clock that all processes share, until the time is over.

    Returns ``waits``: seconds of each send, whatever its end; ``errors``: what failed among them; ``took``: seconds.
    """
    waits: list[float] = []
    errors: list[str] = []
    await asyncio.sleep(start - time.perf_counter())
    begin = now = time.perf_counter()
    while now - begin < seconds:
        number = len(waits)
        try:
            await layer.send(f"writers.{os.getpid()}.{number % NAMES}", {"type": "writers.write", "text": TEXT})
        except Exception as error:
            errors.append(repr(error)[:200])
        before, now = now, time.perf_counter()
        waits.append(now - before)
    return {"waits": waits, "errors": errors, "took": now - begin}


async def flush(layer: Any) -> None:
    """Remove what was written."""
    await layer.flush()
