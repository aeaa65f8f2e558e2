"""A cross-process round trip: our layer against a bare asyncio Unix-socket ping-pong."""

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.benchmarks.figures import Samples

Trip = Callable[[], Awaitable[None]]


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
async def layer_trip(folder: str) -> AsyncIterator[Trip]:
    """Send to another process, and receive its answer on a channel of this one."""
    layer = _layer(folder)
    async with other_process("layer", folder):
        reply = await layer.new_channel()

        async def trip() -> None:
            await layer.send("echo", {"type": "ping", "reply": reply})
            await layer.receive(reply)

        yield trip
    await layer.close()


@contextlib.asynccontextmanager
async def socket_trip(folder: str) -> AsyncIterator[Trip]:
    """The floor: one line to another process over a Unix socket, and one line back."""
    async with other_process("socket", folder):
        reader, writer = await asyncio.open_unix_connection(f"{folder}/socket")

        async def trip() -> None:
            writer.write(b"ping\n")
            await reader.readline()

        yield trip
        writer.close()
        await writer.wait_closed()


async def measure(folder: str, rounds: int, trips: int) -> tuple[Samples, Samples]:
    """Seconds of the layer's trips and of the socket's, taken in turn."""
    ours, floor = Samples("layer"), Samples("socket")
    async with layer_trip(folder) as by_layer, socket_trip(folder) as by_socket:
        for samples, trip in ((ours, by_layer), (floor, by_socket)) * (rounds + 1):
            samples.begin_round()
            for _ in range(trips):
                start = time.perf_counter()
                await trip()
                samples.add(time.perf_counter() - start)
    ours.drop_first_round()
    floor.drop_first_round()
    return ours, floor


def _layer(folder: str):  # type: ignore[no-untyped-def]
    from channels_lite.layers.aio import AIOSQLiteChannelLayer

    return AIOSQLiteChannelLayer(path=f"{folder}/channels.sqlite3")


async def answer_by_layer(folder: str) -> None:
    """The other side of ``layer_trip``."""
    layer = _layer(folder)
    await layer.new_channel()
    print("ready", flush=True)
    while True:
        message = await layer.receive("echo")
        await layer.send(message["reply"], message)


async def answer_by_socket(folder: str) -> None:
    """The other side of ``socket_trip``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)

    server = await asyncio.start_unix_server(serve, f"{folder}/socket")
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["layer", "socket"])
    parser.add_argument("folder")
    options = parser.parse_args()
    asyncio.run({"layer": answer_by_layer, "socket": answer_by_socket}[options.role](options.folder))
