"""A process of a fault test: ``python -m tests.faults.actor FILE LOGS JSON``. It logs what it sends and receives.

The JSON is an object: ``core`` for the layer on Django's connection, ``options`` for the layer, and ``tasks``, each an
object whose ``do`` is the name of a method of Actor and whose other members are its arguments. It prints "ready" when
all tasks have begun. On the line "stop" it ends those that send and prints "stopped"; it ends when its input is closed.
With ``crowd``, so many processes do the tasks, which end by themselves; then it prints "stopped".
"""

import asyncio
import contextlib
import glob
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

from channels.exceptions import ChannelFull
from django.db import connections

from channels_lite.bell import Bell
from channels_lite.drops import Drops, Reason
from channels_lite.errors import DatabaseBusy
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.faults.log import Event, Log

BEAT = 0.05  # seconds for which an event loop may stand still
REST = 0.005  # seconds between two heartbeats
BEFORE = 0.001  # seconds that a sender waits after a channel was full


class Actor:
    """A layer, a log, and what is done with them."""

    def __init__(self, file: str, logs: str, *, core: bool = False, options: dict[str, Any] | None = None) -> None:
        self.log = Log(logs)
        if core:
            connections.settings["core"]["NAME"] = file
            self.layer: SQLiteLayer[Any] = SQLiteChannelLayer(database="core", **(options or {}))
        else:
            self.layer = AIOSQLiteChannelLayer(path=file, **(options or {}))
        self.layer.drops = LoggedDrops(self.log)
        self.stopped = False
        self._begun = 0
        self._rest: list[asyncio.Future[None]] = []  # who still receives on channels that have left

    def name(self) -> str:
        """A name for a task that no other has, in any process."""
        self._begun += 1
        return f"{os.getpid()}.{self._begun}"

    async def send(
        self,
        channels: list[str],
        *,
        count: int = sys.maxsize,
        size: int = 20,
        expiry: float | None = None,
        pause: float = 0.0,
        group: bool = False,
    ) -> None:
        """Send numbered messages to these channels in turn, or to these groups, until told to stop."""
        sender, text = self.name(), "x" * size
        for number in range(count):
            for channel in channels:
                await self._send_one(channel, sender, number, {"text": text}, expiry, group)
            if pause:
                await asyncio.sleep(pause)
            if self.stopped:
                return

    async def _send_one(
        self, channel: str, sender: str, number: int, content: dict[str, Any], expiry: float | None, group: bool
    ) -> None:
        message = {"type": "x", "sender": sender, "number": number, "to": channel, **content}
        what = {"sender": sender, "number": number, "group": group}
        self.log.note(Event.START, channel, expiry=expiry or self.layer.expiry, **what)
        try:
            if group:
                await self.layer.group_send(channel, message)
            else:
                await self.layer.send(channel, message, expiry=expiry)
        except (ChannelFull, DatabaseBusy) as error:
            self.log.note(Event.BROKEN if group else Event.FAILED, channel, detail=type(error).__name__, **what)
            await asyncio.sleep(BEFORE)
        else:
            self.log.note(Event.OK, channel, **what)

    async def receive(self, channel: str, *, receivers: int = 1, pause: float = 0.0, timeout: float = 0.0) -> None:
        """Receive from a channel, in so many tasks; with a ``timeout`` each wait ends after so many seconds."""
        await asyncio.gather(*(self._receive(channel, pause, timeout) for _ in range(receivers)))

    async def _receive(self, channel: str, pause: float, timeout: float) -> None:
        receiver = self.name()
        while True:
            self.log.note(Event.RECEIVING, channel, receiver=receiver)
            try:
                await asyncio.wait_for(self._receive_one(channel, receiver), timeout or None)
            except asyncio.TimeoutError:
                continue
            if pause:
                await asyncio.sleep(pause)

    async def _receive_one(self, channel: str, receiver: str) -> None:
        message = await self.layer.receive(channel)
        what = {name: message[name] for name in ("sender", "number", "to")}
        self.log.note(Event.RECEIVED, channel, receiver=receiver, **what)

    async def heartbeat(self, *, block: float = 0.0) -> None:
        """Notice it when the event loop does not run for more than BEAT; ``block`` it once for so many seconds."""
        while True:
            begun, others = time.monotonic(), waited_for_processor()
            await asyncio.sleep(0)
            time.sleep(block)  # noqa: ASYNC251 # to see that it is noticed
            block = 0.0
            await asyncio.sleep(REST)
            late = time.monotonic() - begun - REST - (waited_for_processor() - others)
            if late > BEAT:
                self.log.note(Event.LATE, number=round(late * 1000))

    async def die_unrung(self, channel: str) -> None:
        """Send a message and die between the commit and the bell."""
        Bell.ring = lambda bell: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        await asyncio.sleep(0.1)  # until "ready" has been said
        await self.layer.send(channel, {"type": "x", "text": "unrung"})

    async def own(self, *, count: int = 1, groups: list[str] | None = None, churn: float = 0.0, **how: Any) -> None:
        """Receive from channels of one's own, which join these groups; with ``churn``, they leave and join again."""
        channels = [await self.layer.new_channel() for _ in range(count)]
        work: list[Coroutine[Any, Any, None]] = []
        for channel in channels:
            self.log.note(Event.MADE, channel)
            for group in groups or ():
                await self._join(group, channel)
                if churn:
                    work.append(self._churn(group, channel, churn))
            work.append(self.receive(channel, **how))
        await asyncio.gather(*work)

    async def hoard(self, *, ask: bool = False, fill: bool = False, pause: float = 0.0) -> None:
        """Have a channel from which nothing is received; ``ask``: but once, before; ``fill``: and send to it, too."""
        channel = await self.layer.new_channel()
        if ask:
            await self.layer.send(channel, {"type": "x"})
            await self.layer.receive(channel)
        self.log.note(Event.MADE, channel)
        if fill:
            await self.send([channel], count=100_000, pause=pause)

    async def _join(self, group: str, channel: str) -> None:
        self.log.note(Event.JOIN, channel, to=group)
        await self.layer.group_add(group, channel)
        self.log.note(Event.JOINED, channel, to=group)

    async def _leave(self, group: str, channel: str) -> None:
        self.log.note(Event.LEAVE, channel, to=group)
        await self.layer.group_discard(group, channel)
        self.log.note(Event.LEFT, channel, to=group)

    async def _churn(self, group: str, channel: str, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._leave(group, channel)
            await asyncio.sleep(seconds)
            await self._join(group, channel)

    async def newcomer(self, group: str, *, count: int) -> None:
        """Join a group with a new channel, say so, and receive what is sent there then; so many times."""
        for _ in range(count):
            channel = await self.layer.new_channel()
            await self._join(group, channel)
            await self.layer.send("announcements", {"type": "x", "to": group})
            await self._receive_one(channel, "newcomer")
            await self._leave(group, channel)
            self._rest.append(asyncio.ensure_future(self._receive(channel, 0.0, 0.0)))

    async def usher(self, *, count: int) -> None:
        """Send to a group whenever somebody says that he is in it now."""
        sender = self.name()
        for number in range(count):
            announcement = await self.layer.receive("announcements")
            await self._send_one(announcement["to"], sender, number, {}, None, group=True)


def waited_for_processor() -> float:
    """Seconds for which threads of this process were ready to run, and others ran: see schedstats in Linux."""
    total = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        with contextlib.suppress(FileNotFoundError), open(path) as file:  # the thread has ended
            total += int(file.read().split()[1])
    return total / 1e9


class LoggedDrops(Drops):
    """Logs what the layer counts."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def count(self, channel: str, reason: Reason, detail: str = "") -> None:
        self._log.note(Event.DROPPED, channel, detail=reason.name)
        super().count(channel, reason, detail)


SENDING = ("send",)


def crowd(size: int, file: str, logs: str, work: dict[str, Any]) -> None:
    """Do the tasks in so many processes at once, which end when all of theirs are done."""
    children = []
    for _ in range(size):
        children.append(os.fork())
        if not children[-1]:
            asyncio.run(_alone(file, logs, work))
            os._exit(0)
    print("ready", flush=True)
    codes = [os.waitpid(child, 0)[1] for child in children]
    print("stopped" if not any(codes) else codes, flush=True)


async def _alone(file: str, logs: str, work: dict[str, Any]) -> None:
    actor = Actor(file, logs, core=work.get("core", False), options=work.get("options"))
    await asyncio.gather(*(_begin(actor, **how) for how in work["tasks"]))
    await actor.layer.close()


async def main(file: str, logs: str, work: dict[str, Any]) -> None:
    """Do all tasks until the input ends; an error of any of them ends the process."""
    logging.getLogger("channels_lite.drops").setLevel(logging.ERROR)  # they are logged one by one
    actor = Actor(file, logs, core=work.get("core", False), options=work.get("options"))
    await actor.layer.group_discard("nothing", "nobody")
    tasks = {task: asyncio.ensure_future(_begin(actor, **how)) for task, how in enumerate(work["tasks"])}
    sending = [tasks[task] for task, how in enumerate(work["tasks"]) if how["do"] in SENDING]
    await asyncio.sleep(0)
    print("ready", flush=True)
    orders = asyncio.ensure_future(_obey(actor, sending))
    going = {orders, *tasks.values()}
    while not orders.done():
        done, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    for task in going:
        task.cancel()
    await asyncio.gather(*going, return_exceptions=True)
    await actor.layer.close()


async def _begin(actor: Actor, do: str, **how: Any) -> None:
    await getattr(actor, do)(**how)


async def _obey(actor: Actor, sending: list["asyncio.Future[None]"]) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "stop":
            actor.stopped = True
            if sending:
                await asyncio.wait(sending)
            print("stopped", flush=True)


if __name__ == "__main__":
    work = json.loads(sys.argv[3])
    if size := work.get("crowd"):
        crowd(size, *sys.argv[1:3], work)
    else:
        asyncio.run(main(*sys.argv[1:3], work))
