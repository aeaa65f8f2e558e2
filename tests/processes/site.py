"""A site in a folder, with the settings that README tells to write: what test_deploy.py is written with."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

from websockets.asyncio.client import ClientConnection, connect

from tests.processes.chat import DEADLINE, HOST, end, free_port
from tests.readme import ROOT, block, environment

PROJECT = ROOT / "tests" / "project"
SETTINGS = """
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "only for tests, and long enough for them"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["channels", "channels_lite", "rooms"]
ROOT_URLCONF = "urls"
ASGI_APPLICATION = "mysite.asgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""


class Site:
    """The project of the tests, with README's settings and Celery. One port, on which a recipe's server listens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        for name in ("mysite", "rooms"):
            shutil.copytree(PROJECT / name, folder / name)
        for name in ("urls.py", "manage.py"):
            shutil.copyfile(PROJECT / name, folder / name)
        (folder / "mysite" / "settings.py").write_text(SETTINGS + block("settings") + block("deploy: celery settings"))
        (folder / "mysite" / "celery.py").write_text(block("deploy: celery"))
        (folder / "mysite" / "__init__.py").write_text(block("deploy: celery init"))
        (folder / "rooms" / "tasks.py").write_text(block("deploy: tasks"))

    def here(self, recipe: str, processes: int = 2) -> str:
        """A recipe for this folder and port, with so many processes."""
        recipe = recipe.replace("/srv/mysite/.venv/bin", os.path.dirname(sys.executable))
        recipe = recipe.replace("/srv/mysite", str(self.folder)).replace("--workers 4", f"--workers {processes}")
        return recipe.replace("8000", str(self.port))

    @property
    def log(self) -> str:
        """What all processes have printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def _log(self) -> Path:
        return self.folder / "processes.log"

    @contextmanager
    def running(self, command: str, *, port: int = 0, says: str = "") -> Iterator[None]:
        """A process until it is asked to end; it has begun when it has said this, or listens on the port."""
        with self._log.open("ab") as log:
            process = self._start(command, log)
        try:
            self._wait_until_it_has_begun(process, port or self.port, says)
            yield
        finally:
            end(process)
        assert "Traceback" not in self.log, self.log

    def _start(self, command: str, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=self.folder,
            env=environment(**self.variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    @property
    def variables(self) -> dict[str, str]:
        """What a shell has exported that runs the recipes."""
        return {"DJANGO_SETTINGS_MODULE": "mysite.settings"}

    def _wait_until_it_has_begun(self, process: "subprocess.Popen[bytes]", port: int, says: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while says not in self.log if says else not _listens(port):
            assert process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    @asynccontextmanager
    async def crowd(self, processes: int, port: int | None = None) -> AsyncIterator[list[ClientConnection]]:
        """WebSockets in the room, one or more of each of so many server processes."""
        deadline, seen = time.monotonic() + DEADLINE, set[str]()
        async with AsyncExitStack() as doors:
            crowd = []
            while len(seen) < processes:
                assert time.monotonic() < deadline, seen
                url = f"ws://{HOST}:{port or self.port}/served/"
                crowd.append(await doors.enter_async_context(connect(url, proxy=None, open_timeout=DEADLINE)))
                seen.add(str(await heard(crowd[-1])))
            yield crowd


def _listens(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as attempt:
        return attempt.connect_ex((HOST, port)) == 0


async def heard(client: ClientConnection) -> str | bytes:
    """What it is told next."""
    return await asyncio.wait_for(client.recv(), DEADLINE)
