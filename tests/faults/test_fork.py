"""A process forks, or starts others, while its layer is open and busy: each has a name and a connection of its own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import PATIENCE, environment, integrity, run_module
from tests.processes.conftest import ROOT


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
async def test_multiprocessing(kind: str, path: str, method: str) -> None:
    """Children and parent talk to each other, whose traffic goes on; nobody is called as another is."""
    ours = environment(kind, path, {})
    code, output, errors = await run_module(ours, "-m", "tests.faults.family", method)
    assert (code, output) == (0, b"[0, 0, 0, 0] True\n"), errors.decode()
    assert integrity(path) == "ok"


class Server:
    """A gunicorn with two workers, asked by HTTP. Each answer says which of them it is from."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._url = f"http://127.0.0.1:{port}"

    async def ask(self, verb: str) -> tuple[int, Any]:
        """Ask any of them; it is asked again while the server is not there yet."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                return await asyncio.to_thread(self._ask, verb)
            except OSError:
                assert asyncio.get_running_loop().time() < deadline, self.log.read_text()
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)

    def _ask(self, verb: str) -> tuple[int, Any]:
        with urllib.request.urlopen(f"{self._url}/{verb}", timeout=PATIENCE) as answer:
            told = json.load(answer)
        return told["pid"], told["answer"]

    async def ask_both(self, verb: str) -> dict[int, Any]:
        """Ask until both have answered: what each said last."""
        answers: dict[int, Any] = {}
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while len(answers) < 2:
            assert asyncio.get_running_loop().time() < deadline, answers
            answers.update([await self.ask(verb)])
        return answers


def free_port() -> int:
    """A port that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def server(kind: str, path: str, tmp_path: Path) -> AsyncIterator[Server]:
    """``gunicorn --preload`` with two uvicorn workers, and a master whose layer was open before it forked."""
    port, log = free_port(), tmp_path / "gunicorn.log"
    arguments = ["-k", "uvicorn_worker.UvicornWorker", "-w", "2", "-b", f"127.0.0.1:{port}", "--preload"]
    configuration = ["-c", "python:tests.faults.gunicorn_master"]
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gunicorn", *arguments, *configuration, "tests.faults.server:application"),
            cwd=ROOT,
            env={**environment(kind, path, {}), "FAULTS_ANSWER": str(tmp_path / "answer")},
            stdout=output,
            stderr=output,
        )
    try:
        yield Server(process, port, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE)


async def test_gunicorn(server: Server, path: str, tmp_path: Path) -> None:
    """Workers forked from a master with an open layer have their own names, hear each other, and leave it unharmed."""
    told = await server.ask_both("about")
    master = next(iter(told.values()))["master"]
    assert master["pid"] == server.process.pid not in told
    assert len({master["prefix"], *(each["prefix"] for each in told.values())}) == 3
    assert set((await server.ask_both("master")).values()) == {"ForeignChannel"}
    found = [(await server.ask("before"))[1] for _ in range(3)]
    assert [message["pid"] for message in found if message] == [master["pid"]], "sent before the fork, received once"
    senders = [(await server.ask("tell"))[0] for _ in range(10)]
    os.kill(master["pid"], signal.SIGUSR2)
    answer = tmp_path / "answer"
    heard: list[Any] = []
    wanted = sorted([*senders, master["pid"]])
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not answer.exists() or any(sorted(m["from"] for m in messages) != wanted for messages in heard) or not heard:
        assert asyncio.get_running_loop().time() < deadline, (heard, wanted, server.log.read_text())
        heard = list((await server.ask_both("heard")).values())
    assert json.loads(answer.read_text()) == {"number": 7, "prefix": master["prefix"]}
    server.process.terminate()
    assert await asyncio.wait_for(server.process.wait(), PATIENCE) == 0
    assert "Traceback" not in server.log.read_text(), server.log.read_text()
    assert integrity(path) == "ok"
