"""A process that multiplies while its layer is open and busy: ``python -m tests.faults.family METHOD``."""

import asyncio
import multiprocessing
import os
import sys
import threading
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

CHILDREN = 4
QUESTIONS = 25  # for each child
PATIENCE = 40


def child(number: int, parent: str, prefix: str) -> None:
    """What a child does: it asks its parent, and then says that all was well."""
    asyncio.run(asyncio.wait_for(_ask(number, parent, prefix), PATIENCE))


async def _ask(number: int, parent: str, prefix: str) -> None:
    layer = get_channel_layer()
    assert layer.client_prefix != prefix
    own = await layer.new_channel()
    await layer.group_add("family", own)
    try:
        await layer.receive(parent)
        raise SystemExit("the child receives from its parent's channel")
    except AssertionError:
        pass
    for question in range(QUESTIONS):
        await layer.send(parent, {"type": "question", "reply": own, "question": question})
        assert (await layer.receive(own))["question"] == question
    await layer.send("done", {"type": "done", "number": number, "prefix": layer.client_prefix, "own": own})
    assert (await layer.receive(own))["type"] == "goodbye"


class Traffic(threading.Thread):
    """A thread that sends and receives all the time."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.going = True
        self.count = 0

    def run(self) -> None:
        """Until ``going`` is over."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        own = await self.layer.new_channel()
        while self.going:
            for channel in ("traffic", own):
                await self.layer.send(channel, {"type": "x", "number": self.count})
                message = await asyncio.wait_for(self.layer.receive(channel), PATIENCE)
                assert message["number"] == self.count
            self.count += 1


async def _parent(layer: Any, channel: str) -> list[str]:
    answering = asyncio.ensure_future(_answer(layer, channel))
    done = [await asyncio.wait_for(layer.receive("done"), PATIENCE) for _ in range(CHILDREN)]
    assert sorted(message["number"] for message in done) == list(range(CHILDREN))
    await layer.group_send("family", {"type": "goodbye"})
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    return [message["prefix"] for message in done]


async def _answer(layer: Any, channel: str) -> None:
    while True:
        message = await layer.receive(channel)
        await layer.send(message["reply"], message)


def main(method: str) -> None:
    """Have children while a thread is busy, and talk to them."""
    layer = get_channel_layer()
    channel, prefix = async_to_sync(layer.new_channel)(), layer.client_prefix
    async_to_sync(layer.send)("first", {"type": "x"})
    traffic = Traffic(layer)
    traffic.start()
    context = multiprocessing.get_context(method)
    children = [context.Process(target=child, args=(number, channel, prefix)) for number in range(CHILDREN)]
    for process in children:
        process.start()
    prefixes = asyncio.run(_parent(layer, channel))
    for process in children:
        process.join(PATIENCE)
    before = traffic.count
    while traffic.count < before + 10 and traffic.is_alive():
        pass
    traffic.going = False
    traffic.join()
    assert layer.client_prefix == prefix
    assert len({prefix, *prefixes}) == CHILDREN + 1
    assert async_to_sync(layer.receive)("first") == {"type": "x"}
    async_to_sync(layer.close)()
    print([process.exitcode for process in children], traffic.count >= before + 10)


if __name__ == "__main__":
    main(sys.argv[1])
