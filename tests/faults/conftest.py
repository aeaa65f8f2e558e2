"""Starting and ending the processes of a fault test, and the verdict on them."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

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
            await asyncio.sleep(3)  # six times the backstop
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
    """How long a load lasts: half a minute, or as long as the soak."""
    minutes = request.config.getoption("--soak", default=None)
    return 30.0 if minutes is None else float(minutes) * 60
