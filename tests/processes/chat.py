"""The example chat in processes of its own, and browsers for it: what its tests are written with."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.ports import HOST, free_port

FOLDER = Path(__file__).parents[2] / "examples" / "chat"
DEADLINE = 30.0  # seconds: what has not happened by then does not happen

Event = dict[str, Any]


class Chat:
    """The chat's processes on one port, with one folder for their data and logs, and these environment variables."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        self.port = free_port()
        self._environment = {"DJANGO_SETTINGS_MODULE": "chat.settings", "CHAT_DATA": str(data), **environment}

    # Processes.

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python in the example's folder; what it prints goes to the log."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=FOLDER,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_servers(self, workers: int) -> subprocess.Popen[bytes]:
        """Start uvicorn with so many processes behind the port, and wait until it accepts connections."""
        command = f"-m uvicorn --workers {workers} chat.asgi:application --host {HOST} --port {self.port}"
        server = self.start(*command.split())
        self.wait_until(self._accepts, server)
        return server

    @contextmanager
    def all_of_it(self) -> Iterator[subprocess.Popen[bytes]]:
        """``manage.py chat``, which accepts connections by now. It ends with the block, unless it has ended before."""
        command = self.manage("chat", "--port", str(self.port))
        try:
            self.wait_until(self._accepts, command)
            yield command
        finally:
            if command.poll() is None:
                end(command)

    def manage(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a management command."""
        return self.start("manage.py", *arguments)

    async def say(self, *arguments: str) -> int:
        """Run ``manage.py say``; its status."""
        return await asyncio.to_thread(self.manage("say", *arguments).wait, DEADLINE)

    @property
    def _log(self) -> Path:
        return self.data / "processes.log"

    @property
    def log(self) -> str:
        """What all processes have printed so far."""
        return self._log.read_text(errors="replace")

    def wait_until(self, happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Wait for something that a process is expected to do."""
        deadline = time.monotonic() + DEADLINE
        while not happened():
            assert process.poll() is None, f"the process has ended with {process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"it has not happened within {DEADLINE} s:\n{self.log}"
            time.sleep(0.02)

    def _accepts(self) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex((HOST, self.port)) == 0

    # Pages and browsers.

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def page(self, path: str, **query: str) -> tuple[int, str]:
        """Get a page: status and text."""
        return await asyncio.to_thread(self._page, f"{self.origin}{path}?{urllib.parse.urlencode(query)}")

    def _page(self, url: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode()

    @asynccontextmanager
    async def browser(self, *, origin: str | None = None, **query: str) -> AsyncIterator["Browser"]:
        """A WebSocket as a page of the chat opens it; ``query`` has room, name and ticket."""
        url = f"ws://{HOST}:{self.port}/ws?{urllib.parse.urlencode(query)}"
        async with connect(url, origin=origin or self.origin, open_timeout=DEADLINE) as connection:  # type: ignore[arg-type] # a NewType of str
            yield Browser(connection)

    @asynccontextmanager
    async def visitor(self, room: str, name: str, **query: str) -> AsyncIterator["Browser"]:
        """A browser that is in the room."""
        async with self.browser(room=room, name=name, **query) as browser:
            browser.welcome = await browser.next("welcome")
            yield browser

    @asynccontextmanager
    async def crowd(self, room: str, size: int, processes: int) -> AsyncIterator[list["Browser"]]:
        """So many browsers in a room, served by so many processes. One that adds nothing to this leaves again."""
        deadline = time.monotonic() + DEADLINE
        async with AsyncExitStack() as doors:
            crowd: list[Browser] = []
            while len(crowd) < size:
                assert time.monotonic() < deadline, f"{processes} processes are not seen: {_served_by(crowd)}"
                visit = self.visitor(room, f"visitor {len(crowd)}")
                browser = await visit.__aenter__()
                missing = processes - len(_served_by([*crowd, browser]))
                if missing < size - len(crowd):
                    doors.push_async_exit(visit)
                    crowd.append(browser)
                else:
                    await visit.__aexit__(None, None, None)
            yield crowd


def _served_by(browsers: Iterable["Browser"]) -> set[int]:
    return {browser.welcome["process"] for browser in browsers}


class Browser:
    """One end of a WebSocket to the chat."""

    welcome: Event

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_id = 0

    async def send(self, message: Any) -> None:
        await self._connection.send(json.dumps(message))

    async def say(self, text: str) -> int:
        """Say something in the room; the message's id."""
        self._last_id += 1
        await self.send({"type": "say", "id": self._last_id, "text": text})
        return self._last_id

    async def next(self, kind: str, **having: Any) -> Event:
        """The next event of a kind in which these keys have these values. Other events are passed over."""
        return await asyncio.wait_for(self._next(kind, having), DEADLINE)

    async def _next(self, kind: str, having: Event) -> Event:
        while True:
            event: Event = json.loads(await self._connection.recv())
            if event["type"] == kind and having.items() <= event.items():
                return event

    async def closed(self) -> int | None:
        """Wait until the server has closed the connection; the code."""
        await asyncio.wait_for(self._connection.wait_closed(), DEADLINE)
        return self._connection.close_code


# Ends of processes.


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Ask a process that this test started to end; its status."""
    process.send_signal(number)
    try:
        return process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        kill(process)
        raise


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that this test started, and all that it has started, without a word."""
    children = descendants(process.pid)
    with Watched(children) as watched:
        for pid in [process.pid, *children]:
            with suppress(ProcessLookupError):  # it has ended with its parent
                os.kill(pid, signal.SIGKILL)
        process.wait()
        assert watched.left() == set()


def descendants(pid: int) -> dict[int, str]:
    """The processes that a process and its children have started: pid and command line. Linux only."""
    parents: dict[int, int] = {}
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{number}/stat").read_text()
        except OSError:  # ended meanwhile
            continue
        parents[int(number)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: _command(child) for child in found - {pid}}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


class Watched:
    """Processes that are expected to end, known by descriptors and not by numbers that may be used again."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = {os.pidfd_open(pid): pid for pid in pids}

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def left(self) -> set[int]:
        """Wait until all have ended; the ones that have not."""
        deadline = time.monotonic() + DEADLINE
        waiting = set(self._descriptors)
        while waiting and (remaining := deadline - time.monotonic()) > 0:
            ended, _, _ = select.select(waiting, [], [], remaining)
            waiting -= set(ended)
        return {self._descriptors[descriptor] for descriptor in waiting}
