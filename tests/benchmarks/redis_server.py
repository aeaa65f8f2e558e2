"""Debian's redis-server for the time of the benchmark, on loopback and on a Unix socket. It keeps nothing."""

import asyncio
import contextlib
import importlib.util
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator

from tests.benchmarks.release import NotInstalled

PATIENCE = 10.0  # seconds until it answers


class Redis:
    """A running server, as clients reach it."""

    def __init__(self, port: int, path: str, version: str) -> None:
        self.port = port
        self.tcp = f"redis://127.0.0.1:{port}"
        self.unix = f"unix://{path}"
        self.version = version

    async def flush(self) -> None:
        """Empty it."""
        await self.ask("FLUSHALL")

    async def ask(self, command: str) -> str:
        """Its answer to a command, in one line. OSError while it does not listen."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(command.encode() + b"\r\n")
            return (await reader.readline()).decode().strip()
        finally:
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def running(folder: str) -> AsyncIterator[Redis]:
    """A server whose files are in this folder, until the block ends. NotInstalled where something is missing."""
    program = shutil.which("redis-server")
    if program is None:
        raise NotInstalled("There is no redis-server here; install Debian's package redis-server.")
    for package in ("channels_redis", "hiredis"):  # without the latter its peers are slower than they need be
        if importlib.util.find_spec(package) is None:
            raise NotInstalled(f"{package} is not installed; install the extra bench.")
    os.makedirs(folder, exist_ok=True)
    redis = Redis(_free_port(), f"{folder}/redis.sock", await _version(program))
    process = await asyncio.create_subprocess_exec(
        *(program, "--bind", "127.0.0.1", "--port", str(redis.port), "--unixsocket", f"{folder}/redis.sock"),
        *("--save", "", "--appendonly", "no", "--dir", folder),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await _answers(redis, process)
        yield redis
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _answers(redis: Redis, process: asyncio.subprocess.Process) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if await redis.ask("PING") == "+PONG":
                return
        if process.returncode is not None or time.monotonic() > deadline:
            raise NotInstalled("redis-server has started and does not answer.")
        await asyncio.sleep(0.02)


async def _version(program: str) -> str:
    asked = await asyncio.create_subprocess_exec(program, "--version", stdout=asyncio.subprocess.PIPE)
    said = (await asked.communicate())[0].decode()
    return said.partition("v=")[2].partition(" ")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
