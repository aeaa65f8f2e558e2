"""The supervisor: child processes that live together and end together."""

import asyncio
import os
import signal
import subprocess
from asyncio.subprocess import Process
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 10  # seconds that a child may take to end when asked


class ChildEnded(Exception):
    """A child has ended by itself; the text says which one, and how."""


class Stopped(Exception):
    """A signal has asked for the end. Supervisor's ``async with`` ends with it, quietly."""


class Supervisor:
    """Starts child processes; none of them outlives the ``async with`` block, however it ends.

    SIGINT, SIGTERM and SIGHUP end the block. A child has a session of its own, so that Ctrl-C in a terminal reaches
    the supervisor alone and the children are asked to end once; where there are sessions, its own children go with it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, Process] = {}
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> "Supervisor":
        with suppress(NotImplementedError):  # Windows: KeyboardInterrupt ends the block
            for number in SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self._stopped.set)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        for child in self._children.values():
            with suppress(ProcessLookupError):
                child.terminate()
        await asyncio.gather(*map(_end, self._children.values()))
        return isinstance(error, Stopped)

    async def start(self, name: str, *command: str) -> None:
        """Start a child; its name is for people."""
        self._children[name] = await asyncio.create_subprocess_exec(
            *command, cwd=self._folder, stdin=subprocess.DEVNULL, start_new_session=True
        )

    async def unless_ended(self, work: Awaitable[object]) -> None:
        """Wait for something; Stopped or ChildEnded instead, when that comes first."""
        wanted = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stopped.wait())
        ends = {asyncio.ensure_future(child.wait()): name for name, child in self._children.items()}
        waits = [stopped, *ends, wanted]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if stopped.done():
            raise Stopped
        for end, name in ends.items():
            if end.done():
                raise ChildEnded(f"The {name} has ended (status {end.result()}), and so the rest was ended too.")
        wanted.result()


async def _end(child: Process) -> None:
    """Wait for a child that was asked to end; after a while, end it and what it may have left behind."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(child.wait(), PATIENCE)
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    await child.wait()
