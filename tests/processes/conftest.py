"""Starting and ending the other processes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

PATIENCE = 60.0  # seconds until a test that waits for another process fails
ROOT = Path(__file__).parent.parent.parent


class Peer:
    """A running ``tests.processes.peer``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line that the peer prints."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        if not line and self.process.stderr is not None:
            raise AssertionError(f"the peer ended: {(await self.process.stderr.read()).decode()}")
        return line.decode().strip()

    async def tell(self, *words: str) -> None:
        """Have a peer that obeys do something. It says "done" at the end."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words).encode() + b"\n")

    async def obey(self, *words: str) -> None:
        """Have it do something that says no more than this; it is done when this returns."""
        await self.tell(*words)
        assert await self.line() == "done"

    async def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        await self.process.wait()

    async def end(self) -> str:
        """Close the peer's input and wait for its end; returns what it wrote to standard error."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        _, errors = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        return errors.decode()


StartPeer = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def start(path: str) -> AsyncIterator[StartPeer]:
    """Start peers on the test's file and wait until they are ready; they end with the test.

    ``system``: the one that ``tests.pretend`` is to pretend to them.
    """
    peers: list[Peer] = []

    async def start_one(*arguments: str, system: str = "") -> Peer:
        pretended = ("tests.pretend", system) if system else ()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *pretended, "tests.processes.peer", path, *arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=10 * 1024 * 1024,
        )
        peers.append(Peer(process))
        assert await peers[-1].line() == "ready"
        return peers[-1]

    yield start_one
    for peer in peers:
        if peer.process.returncode != -signal.SIGKILL:
            await peer.end()
            assert peer.process.returncode == 0
