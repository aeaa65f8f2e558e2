"""A cross-process round trip: our layers against a bare asyncio Unix-socket ping-pong."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from channels.layers import channel_layers

from tests.benchmarks.figures import Samples

Trip = Callable[[], Awaitable[None]]

LAYERS = ("apsw", "core", "core-delete")  # names of CHANNEL_LAYERS
SOCKET = "Unix socket"


@contextlib.asynccontextmanager
async def other_process(role: str, where: str) -> AsyncIterator[None]:
    """This module's other side, in a process of its own, until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.roundtrip", role, where), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def layer_trip(name: str) -> AsyncIterator[Trip]:
    """Send to another process, and receive its answer on a channel of this one."""
    layer = channel_layers[name]
    async with other_process("layer", name):
        reply = await layer.new_channel()

        async def trip() -> None:
            await layer.send("echo", {"type": "ping", "reply": reply})
            await layer.receive(reply)

        yield trip
    await layer.close()


@contextlib.asynccontextmanager
async def socket_trip(path: str) -> AsyncIterator[Trip]:
    """The floor: one line to another process over a Unix socket, and one line back."""
    async with other_process("socket", path):
        reader, writer = await asyncio.open_unix_connection(path)

        async def trip() -> None:
            writer.write(b"ping\n")
            await reader.readline()

        yield trip
        writer.close()
        await writer.wait_closed()


async def measure(folder: str, rounds: int, trips: int) -> dict[str, Samples]:
    """Seconds of the trips of each layer and of the socket, taken in turn."""
    measured = {name: Samples(name) for name in (SOCKET, *LAYERS)}
    async with contextlib.AsyncExitStack() as stack:
        ways = {SOCKET: await stack.enter_async_context(socket_trip(f"{folder}/socket"))}
        for name in LAYERS:
            ways[name] = await stack.enter_async_context(layer_trip(name))
        for _ in range(rounds + 1):
            for name, trip in ways.items():
                await _round(measured[name], trip, trips)
    for samples in measured.values():
        samples.drop_first_round()
    return measured


async def _round(samples: Samples, trip: Trip, trips: int) -> None:
    samples.begin_round()
    for _ in range(trips):
        start = time.perf_counter()
        await trip()
        samples.add(time.perf_counter() - start)


async def answer_by_layer(name: str) -> None:
    """The other side of ``layer_trip``."""
    layer = channel_layers[name]
    await layer.new_channel()
    print("ready", flush=True)
    while True:
        message = await layer.receive("echo")
        await layer.send(message["reply"], message)


async def answer_by_socket(path: str) -> None:
    """The other side of ``socket_trip``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)

    server = await asyncio.start_unix_server(serve, path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import django

    django.setup()
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["layer", "socket"])
    parser.add_argument("where", help="a name of CHANNEL_LAYERS, or the socket's path")
    options = parser.parse_args()
    asyncio.run({"layer": answer_by_layer, "socket": answer_by_socket}[options.role](options.where))
