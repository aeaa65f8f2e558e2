"""The other process of a test: ``python -m tests.processes.peer FILE COMMAND …``. It prints what it has to say.

The first line is ``ready``; a peer ends when its work is done, or when its standard input is closed.
"""

import argparse
import asyncio
import os
import sqlite3
import sys
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

import apsw
from channels.exceptions import ChannelFull
from django.db import connections

from channels_lite import bell
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.base import SQLiteLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.patience import until

Layer = SQLiteLayer[Any]


async def main() -> None:
    """Run the command from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("command", choices=["echo", "flood", "collect", "hear", "obey", "prefix"])
    parser.add_argument("--channel", default="echo")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--no-poll", action="store_true", help="hear by the bell alone")
    parser.add_argument("--no-bell", action="store_true", help="as on a platform without inotify and kqueue")
    parser.add_argument("--how", action="store_true", help="say on which system one hears by what")
    parser.add_argument("--keep-expired", action="store_true", help="leave it to somebody else to trim")
    parser.add_argument("--large", type=int, default=0, help="make each so many-th message of a flood 100 kB long")
    parser.add_argument("--capacity", type=int, default=100)
    parser.add_argument("--core", action="store_true", help="the layer on Django's connection")
    parser.add_argument("--format", default="msgpack", help="serializer_format")
    options = parser.parse_args()
    if options.no_bell:
        bell._listener_class = lambda: None
    layer = _layer(options)
    work = asyncio.ensure_future(globals()[options.command](layer, options))
    ends = [work] if options.command == "obey" else [work, asyncio.ensure_future(_input_closed())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        work.result()
    await layer.close()
    os._exit(0)  # the thread that reads standard input cannot be ended


def _layer(options: argparse.Namespace) -> Layer:
    configuration = {
        "polling_interval": None if options.no_poll else 0.05,
        "serializer_format": options.format,
        "auto_trim": not options.keep_expired,
        "capacity": options.capacity,
    }
    if not options.core:
        return AIOSQLiteChannelLayer(path=options.file, **configuration)
    connections.settings["core"]["NAME"] = options.file
    return SQLiteChannelLayer(database="core", **configuration)


async def _input_closed() -> None:
    await asyncio.to_thread(sys.stdin.read)


def say(*words: Any) -> None:
    """Print one line at once."""
    print(*words, flush=True)


async def echo(layer: Layer, options: argparse.Namespace) -> None:
    """Send every message on the channel back to the channel that it names."""
    say("ready")
    while True:
        message = await layer.receive(options.channel)
        await send_patiently(layer, message["reply"], message)


async def flood(layer: Layer, options: argparse.Namespace) -> None:
    """Send ``count`` numbered messages, each of them until it is accepted."""
    say("ready")
    for number in range(options.count):
        large = bool(options.large) and number % options.large == 0
        message = {"type": "x", "number": number, "sender": os.getpid(), "text": "x" * 100_000 * large}
        await send_patiently(layer, options.channel, message)


async def collect(layer: Layer, options: argparse.Namespace) -> None:
    """Receive ``count`` messages and print their numbers."""
    channel = options.channel
    if channel.endswith("!"):
        channel = await layer.new_channel()
    say("ready")
    say(channel)
    numbers = [(await layer.receive(channel))["number"] for _ in range(options.count)]
    say(*numbers)


async def hear(layer: Layer, options: argparse.Namespace) -> None:
    """Print the type of each message on the channel, for as long as the peer lives."""
    receiving = asyncio.ensure_future(layer.receive(options.channel))
    await until(lambda: layer._mailboxes.queues() > 0)
    say("ready")
    if options.how:
        say(sys.platform, "inbox" if layer._inbox else "no-inbox", *(watcher.how for watcher in layer._watchers))
    while True:
        say((await receiving)["type"])
        receiving = asyncio.ensure_future(layer.receive(options.channel))


async def obey(layer: Layer, options: argparse.Namespace) -> None:
    """Do what each line of standard input says, and say so when it is done; an own channel is a member of "wide"."""
    channel = await layer.new_channel()
    await layer.group_add("wide", channel)
    library = sqlite3.connect if options.core else apsw.Connection
    locker = library(options.file)
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, *words = line.split()
        if verb == "send":
            await layer.send(words[0], {"type": words[1]})
        elif verb == "group":
            await layer.group_send(words[0], {"type": words[1]})
        elif verb == "fill":
            say(await fill(layer, words[0]))
        elif verb == "flush":
            await layer.flush()
        elif verb == "hear":
            say((await layer.receive(channel))["type"])
        else:
            locker.execute({"lock": "BEGIN IMMEDIATE", "unlock": "ROLLBACK"}[verb])
        say("done")
    locker.close()


async def fill(layer: Layer, channel: str) -> int:
    """Send until the channel is full: how many messages it took.

    A message that its process moves counts twice for a moment, and one that fits may be refused: it is sent again.
    """
    number = 0
    while number < 10_000:
        try:
            await layer.send(channel, {"type": "x", "number": number})
            number += 1
        except ChannelFull:
            if number >= layer.get_capacity(channel):
                return number
            await asyncio.sleep(0)
    raise AssertionError("the channel is never full")


async def prefix(layer: Layer, options: argparse.Namespace) -> None:
    """Print the client prefix."""
    say("ready")
    say(layer.client_prefix)


async def send_patiently(layer: Layer, channel: str, message: dict[str, Any]) -> None:
    """Send a message, and again while the channel is full."""
    while True:
        try:
            return await layer.send(channel, message)
        except ChannelFull:
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main())
