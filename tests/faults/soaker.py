"""A process of the soak test: ``python -m tests.faults.soaker ROLE NAME PARTNER SECONDS``. It prints lines of JSON.

A server asks its partner and the worker, and awaits each answer; it speaks to groups, whose members come and go, and
sends what expires unread or finds its channel full. The worker answers what comes to a normal channel.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import sys
import time
from collections import Counter
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer

from tests.faults.sizes import resident
from tests.patience import until

WINDOW = 1.0  # seconds of one report
PAUSE = 0.005  # seconds between two questions of a task: the machine is not to be busy
LOST = 30.0  # seconds after which an answer is lost
COMERS = 5  # channels that join and leave rooms
ROOMS = 3
SHORT = 1.0  # seconds of the expiry of what nobody reads


class Soaker:
    """What all roles share: it listens to the group "all" from the beginning to the end."""

    def __init__(self, name: str, partner: str, seconds: float) -> None:
        self.layer: Any = get_channel_layer()
        self.name = name
        self.partner = partner
        self.seconds = seconds
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.heard: dict[str, int] = {}  # sender -> the last number of its messages to all
        self.waits: list[float] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Be there for the others."""
        self.own = {what: await self.layer.new_channel() for what in ("all", "echo", "partner", "worker")}
        await self.layer.group_add("all", self.own["all"])
        self._begin(self._listen())
        self._begin(self._echo())

    def _begin(self, work: Any) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def _listen(self) -> None:
        while True:
            message = await self.layer.receive(self.own["all"])
            sender, number = message["sender"], message["number"]
            if number != self.heard.get(sender, 0) + 1:
                self.faults.append(f"number {number} of {sender} came after {self.heard.get(sender, 0)}")
            self.heard[sender] = number

    async def _echo(self) -> None:
        while True:
            message = await self.layer.receive(self.own["echo"])
            await self._send(message["reply"], message)

    async def _send(self, channel: str, message: dict[str, Any]) -> None:
        """Send what must arrive: again while the channel is full, which is no acknowledgement."""
        while True:
            try:
                return await self.layer.send(channel, message)
            except ChannelFull:
                self.counts["full, tried again"] += 1
                await asyncio.sleep(0.01)

    async def run(self, others: dict[str, str]) -> None:
        """Do the work of the role for as long as it takes; ``others``: name -> channel that echoes."""
        end = time.monotonic() + self.seconds
        works = [asyncio.ensure_future(work) for work in self.works(others, end)]
        while time.monotonic() < end:
            await asyncio.sleep(min(WINDOW, max(0.0, end - time.monotonic())))
            self._report()
        await asyncio.gather(*works)

    def works(self, others: dict[str, str], end: float) -> list[Any]:
        """The coroutines that do it."""
        return []

    def _report(self) -> None:
        waits, self.waits = sorted(self.waits), []
        p99 = waits[math.ceil(len(waits) * 0.99) - 1] if waits else None
        say({"resident": resident(), "descriptors": len(os.listdir("/proc/self/fd")), "p99": p99})

    async def finish(self, sent: dict[str, int]) -> None:
        """Wait until all that others have sent to all has come; tell what went wrong."""
        with contextlib.suppress(AssertionError):  # it is told below what is missing
            await until(lambda: all(self.heard.get(sender, 0) >= count for sender, count in sent.items()))
        if {sender: self.heard.get(sender, 0) for sender in sent} != sent:
            self.faults.append(f"of {sent} to all, {self.heard} came")
        for task in self.tasks:
            task.cancel()
        drops = {reason.name: count for reason, count in self.layer.drops.by_reason.items()}
        say({"faults": self.faults[:5], "counts": dict(self.counts), "drops": drops})
        await self.layer.close()


class Server(Soaker):
    """Asks, speaks, and lets members come and go."""

    def works(self, others: dict[str, str], end: float) -> list[Any]:
        return [
            self._ask("partner", others[self.partner], end),
            self._ask("worker", "jobs", end),
            self._speak(end),
            self._waste(end),
            *(self._come_and_go(end) for _ in range(COMERS)),
        ]

    async def _ask(self, what: str, channel: str, end: float) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            begun = time.perf_counter()
            large = "x" * 70_000 * (number % 50 == 0)  # too long to be handed over: a row
            await self._send(channel, {"type": "x", "reply": self.own[what], "number": number, "text": large})
            try:
                answer = await asyncio.wait_for(self.layer.receive(self.own[what]), LOST)
            except asyncio.TimeoutError:
                self.faults.append(f"no answer of the {what} to number {number}")
                continue
            if answer["number"] != number:
                self.faults.append(f"the {what} answered {answer['number']} to {number}")
            self.waits.append(time.perf_counter() - begun)
            self.counts[f"answers of the {what}"] += 1
            await asyncio.sleep(PAUSE)

    async def _speak(self, end: float) -> None:
        while time.monotonic() < end:
            self.counts["to all"] += 1
            await self.layer.group_send("all", {"type": "x", "sender": self.name, "number": self.counts["to all"]})
            await self.layer.group_send(f"room{random.randrange(ROOMS)}", {"type": "x"})
            await asyncio.sleep(4 * PAUSE)

    async def _waste(self, end: float) -> None:
        while time.monotonic() < end:
            for channel in ("nobody", f"{self.own['all']}-gone"):
                try:
                    await self.layer.send(channel, {"type": "x", "text": "x" * 1000}, expiry=SHORT)
                    self.counts["to nobody"] += 1
                except ChannelFull:
                    self.counts["full"] += 1
            await asyncio.sleep(PAUSE)

    async def _come_and_go(self, end: float) -> None:
        channel = await self.layer.new_channel()
        while time.monotonic() < end:
            room = f"room{random.randrange(ROOMS)}"
            await self.layer.group_add(room, channel)
            with contextlib.suppress(asyncio.TimeoutError):
                for _ in range(random.randrange(10)):
                    await asyncio.wait_for(self.layer.receive(channel), 0.1)
                    self.counts["in rooms"] += 1
            await self.layer.group_discard(room, channel)


class Worker(Soaker):
    """Answers what comes to a normal channel."""

    async def start(self) -> None:
        await super().start()
        self._begin(self._work())

    async def _work(self) -> None:
        while True:
            message = await self.layer.receive("jobs")
            self.counts["jobs"] += 1
            await self._send(message["reply"], message)


def say(what: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(what), flush=True)


async def hear() -> Any:
    """The next line."""
    return json.loads(await asyncio.to_thread(sys.stdin.readline))


async def main() -> None:
    """Say where others find this one, hear where they are, work, say what was sent to all, hear what others sent."""
    role, name, partner, seconds = sys.argv[1:]
    soaker = {"server": Server, "worker": Worker}[role](name, partner, float(seconds))
    await soaker.start()
    say({"echo": soaker.own["echo"]})
    await soaker.run(await hear())
    say({"sent": soaker.counts["to all"]})
    await soaker.finish(await hear())


if __name__ == "__main__":
    asyncio.run(main())
