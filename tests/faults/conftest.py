"""Starting agents, each of them a process with a layer."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.journal import keep_a_wal
from tests.processes.conftest import PATIENCE, ROOT


class Process:
    """An agent. What it logs goes into a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    async def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)
        assert line, f"the process ended: {self.log}"
        return line.decode().strip()

    async def do(self, *words: Any) -> Any:
        """Have it do something; its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words).encode() + b"\n")
        return json.loads(await self.line())

    async def end(self) -> None:
        """Let it end by itself; kill it if it does not."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture(params=["aio", "core"])
def kind(request: pytest.FixtureRequest, path: str) -> str:
    """Which layer the processes have. The file of ``core`` has a -wal."""
    if request.param == "core":
        keep_a_wal(path)
    return str(request.param)


def environment(kind: str, path: str, options: dict[str, Any]) -> dict[str, str]:
    """What a process needs to have such a layer on this file."""
    ours = {
        "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
        "FAULTS_KIND": kind,
        "FAULTS_FILE": path,
        "FAULTS_OPTIONS": json.dumps(options),
    }
    return {**os.environ, **ours}


@pytest.fixture
async def start(kind: str, path: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start agents on the test's file and wait until they are ready; they end with the test, and without an error."""
    started: list[Process] = []

    async def start_one(
        variables: dict[str, str] | None = None, *, script: str = "", within: Sequence[str] = (), **options: Any
    ) -> Process:
        """With these options and environment; it runs the agent's module or a script, started by a command."""
        what = ("-c", script) if script else ("-m", "tests.faults.agent")
        log = tmp_path / f"agent{len(started)}.log"
        with log.open("w") as errors:
            process = await asyncio.create_subprocess_exec(
                *(*within, sys.executable, *what),
                cwd=ROOT,
                env={**environment(kind, path, options), **(variables or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        started.append(Process(process, log))
        assert await started[-1].line() == "ready"
        return started[-1]

    yield start_one
    for process in started:
        await process.end()
        assert process.process.returncode == 0, process.log
