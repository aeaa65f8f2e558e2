"""Starting and ending the processes of a fault test, and the verdict on them."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.faults.checker import Verdict, judge
from tests.faults.log import Event, Log, Record, read
from tests.journal import keep_a_wal
from tests.processes.conftest import PATIENCE, ROOT, Peer


class Cast:
    """The processes of a test on one database file, each a ``tests.faults.actor``, and their logs."""

    def __init__(self, path: str, logs: Path, *, core: bool) -> None:
        self.path = path
        self.logs = logs
        self.core = core
        self.actors: list[Peer] = []
        self._log: Log | None = None
        logs.mkdir()
        if core:
            keep_a_wal(path)

    async def start(self, *tasks: dict[str, Any], crowd: int = 0, **options: Any) -> Peer:
        """Start a process that does these tasks, or a crowd of them; ``options`` are those of its layer."""
        work = {"core": self.core, "options": options, "tasks": tasks, "crowd": crowd}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.actor", self.path, str(self.logs), json.dumps(work)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        actor = Peer(process)
        self.actors.append(actor)
        assert await actor.line() == "ready"
        return actor

    async def kill(self, actor: Peer) -> None:
        """End a process without a word, and note it."""
        await actor.kill()
        self.actors.remove(actor)
        self._log = self._log or Log(str(self.logs))
        self._log.note(Event.KILLED, number=actor.process.pid)

    async def stop_senders(self) -> None:
        """Let all who send end with what they are at."""
        for actor in self.actors:
            await actor.tell("stop")
        for actor in self.actors:
            assert await actor.line() == "stopped"

    async def end(self) -> str:
        """End all processes, in order: what they wrote to standard error."""
        actors, self.actors = self.actors, []
        errors = await asyncio.gather(*(actor.end() for actor in actors))
        assert {actor.process.returncode for actor in actors} <= {0}, "\n".join(errors)
        return "".join(errors)

    def records(self, event: Event | None = None) -> list[Record]:
        """What is in the logs by now."""
        return [record for record in read(self.logs) if event in (None, record.event)]

    async def made(self, count: int) -> list[str]:
        """The own channels of all processes, when there are so many."""
        await self.until(lambda: len(self.records(Event.MADE)) >= count)
        return [record.channel for record in self.records(Event.MADE)]

    async def until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for something that must come true, without much ado."""
        deadline = asyncio.get_running_loop().time() + patience
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, str(judge(self.records()))
            await asyncio.sleep(0.2)

    async def verdict(self) -> Verdict:
        """The verdict, when all that is under way has arrived: nothing is lost, or nothing has come for long."""
        seen = -1
        while (verdict := judge(self.records())).lost:
            received = len(self.records(Event.RECEIVED))
            if received == seen:
                break
            seen = received
            await asyncio.sleep(2)  # four times the backstop
        return verdict


@pytest.fixture(params=["aio", "core"])
async def cast(request: pytest.FixtureRequest, path: str, tmp_path: Path) -> AsyncIterator[Cast]:
    """The processes of a test, with layers of one kind; the file is whole afterwards."""
    cast = Cast(path, tmp_path / "logs", core=request.param == "core")
    yield cast
    await cast.end()
    assert integrity(path) == "ok"


def ask(path: str, question: str) -> str:
    """The answer of a database to a statement, asked by a process of its own."""
    script = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1], timeout=20).execute(sys.argv[2]).fetchone())"
    command = [sys.executable, "-c", script, path, question]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()


def integrity(path: str) -> str:
    """What SQLite finds wrong with a database; "ok" where nothing is."""
    return ask(path, "PRAGMA integrity_check")


def salt(path: str) -> int:
    """A number in the head of the -wal that is one more each time it begins anew; this process has it not open."""
    with contextlib.suppress(FileNotFoundError), open(f"{path}-wal", "rb") as file:
        return int.from_bytes(file.read(32)[16:20], "big")
    return 0


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long a load lasts: a sixth of the soak."""
    return float(request.config.getoption("--soak")) * 10


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


@contextlib.asynccontextmanager
async def open_layer(kind: str, path: str, alias: str) -> AsyncIterator[Any]:
    """Such a layer in this process, which is open."""
    layer = SQLiteChannelLayer(database=alias) if kind == "core" else AIOSQLiteChannelLayer(path=path)
    await layer.group_discard("nothing", "nobody")
    yield layer
    await layer.close()
    await sync_to_async(connections.close_all)()
    await asyncio.sleep(0)


async def run_module(
    environment: dict[str, str], *arguments: str, patience: float = PATIENCE
) -> tuple[int | None, bytes, bytes]:
    """Run Python with these arguments to its end: its exit code, and what it wrote to output and error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), patience)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return process.returncode, output, errors


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
