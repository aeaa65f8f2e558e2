"""The processes of one contender, which share a database and do the works they are asked for."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import Contender

CHILD = Path(__file__).parent / "child.py"
LINE = 64 * 1024 * 1024  # bytes of an answer: samples in JSON
PATIENCE = 300.0  # seconds for one work: one that loses a message must not hold up the benchmark for ever


class WorkFailed(Exception):
    """A work ended with an error; the text is its traceback."""

    @property
    def summary(self) -> str:
        """The error without the way to it."""
        return str(self).strip().splitlines()[-1]


class Member:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def work(self, name: str, **arguments: Any) -> Any:
        """Have a function of ``works`` ("module.function") run there, and wait for what it returns.

        WorkFailed with its error; when there is no answer for too long, the process is ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"work": name, "arguments": arguments}).encode() + b"\n")
        try:
            return (await asyncio.wait_for(self.answer(), PATIENCE)).get("result")
        except asyncio.TimeoutError:
            self.process.kill()
            raise WorkFailed(f"{name} did not end within {PATIENCE:.0f} s.") from None

    async def answer(self) -> dict[str, Any]:
        """The next line of the process."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise WorkFailed("The process has ended; its error stands above.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkFailed(answer["error"])
        return answer


async def together(*works: Awaitable[Any]) -> list[Any]:
    """What all of them return. The error of the first that failed, but only when all have ended."""
    answers = await asyncio.gather(*works, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


@contextlib.asynccontextmanager
async def crew(contender: Contender, folder: str, size: int = 1) -> AsyncIterator[list[Member]]:
    """So many processes of the contender on a database in this folder, ready to work, until the block ends."""
    os.makedirs(folder, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_member(contender, folder, first=not i)) for i in range(size)]


@contextlib.asynccontextmanager
async def _member(contender: Contender, folder: str, *, first: bool) -> AsyncIterator[Member]:
    process = await asyncio.create_subprocess_exec(
        *(contender.python, str(CHILD), contender.layer, *([contender.alias] if first else [])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
        env=contender.variables(folder),
    )
    try:
        member = Member(process)
        await member.answer()
        yield member
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
