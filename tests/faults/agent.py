"""A process that does with its layer what each line of standard input says: ``python -m tests.faults.agent``.

A line is a JSON array: a verb and its arguments. The answer is one line of JSON. The environment says which layer.
"""

import asyncio
import itertools
import json
import logging
import os
import sys
import threading
import time
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from channels.layers import get_channel_layer

from tests.patience import PATIENCE, until

QUIET = 0.2  # seconds in which nothing comes, and nothing is expected to


class Agent:
    """A verb is a method here, or one of the layer."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.waiting: dict[str, asyncio.Task[Any]] = {}
        self.heard: list[Any] = []

    async def do(self, verb: str, *arguments: Any) -> Any:
        """Run a verb; the name of an error is an answer, too."""
        try:
            return await getattr(self, verb, getattr(self.layer, verb, None))(*arguments)
        except Exception as error:
            return {"error": type(error).__name__, "text": str(error)}

    async def wait(self, channel: str) -> None:
        """Begin to receive."""
        self.waiting[channel] = asyncio.ensure_future(self.layer.receive(channel))
        await asyncio.sleep(0)

    async def got(self, channel: str) -> Any:
        """What a ``wait`` has come to, or comes to."""
        return await asyncio.wait_for(self.waiting.pop(channel), PATIENCE)

    async def drain(self, wanted: dict[str, int]) -> dict[str, list[Any]]:
        """The numbers that come on each channel, as many as are wanted, and what comes soon after them."""
        return dict(zip(wanted, await asyncio.gather(*itertools.starmap(self._drain, wanted.items())), strict=True))

    async def _drain(self, channel: str, wanted: int) -> list[Any]:
        numbers: list[Any] = []
        while True:
            patience = PATIENCE if len(numbers) < wanted else QUIET
            try:
                numbers.append((await asyncio.wait_for(self.layer.receive(channel), patience))["number"])
            except asyncio.TimeoutError:
                return numbers

    async def listen(self, *channels: str) -> None:
        """Receive from these channels from now on; ``numbers`` tells what came."""
        for channel in channels:
            self.waiting[channel] = asyncio.ensure_future(self._listen(channel))
        await asyncio.sleep(0)

    async def _listen(self, channel: str) -> None:
        while True:
            message = await self.layer.receive(channel)
            self.heard.append([channel, message["number"]])

    async def numbers(self, count: int = 0) -> list[Any]:
        """All that was heard, when it is so much."""
        await until(lambda: len(self.heard) >= count)
        return self.heard

    async def client_prefix(self) -> str:
        """The name of this process."""
        return str(self.layer.client_prefix)

    async def parked(self) -> int:
        """How many messages are in mailboxes."""
        return sum(len(items) for items in self.layer._mailboxes._parked.values())

    async def dropped(self) -> dict[str, int]:
        """What was dropped, and why."""
        return {reason.name: count for reason, count in self.layer.drops.by_reason.items()}


def sleep(seconds: float) -> None:
    """As time.sleep(), whose absolute monotonic deadline libfaketime refuses: EINVAL, from Python 3.11 on."""
    threading.Event().wait(seconds)


async def main() -> None:
    """Obey until standard input ends."""
    agent = Agent(get_channel_layer())
    await agent.layer.group_discard("nothing", "nobody")  # it is open
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await agent.do(*json.loads(line))), flush=True)
    for task in agent.waiting.values():
        task.cancel()
    await agent.layer.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        time.sleep = sleep
    asyncio.run(main())
