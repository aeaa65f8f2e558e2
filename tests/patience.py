"""How long a test waits for what must come, and how it waits for what nobody announces."""

import asyncio
from collections.abc import Callable

PATIENCE = 20.0  # seconds until a test that waits for an event fails


async def until(condition: Callable[[], bool], pause: float = 0.005) -> None:
    """Wait for something that must come true; looks every ``pause`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < deadline
        await asyncio.sleep(pause)
