"""Debian's redis-server, for as long as somebody needs it: on loopback and on a Unix socket. It keeps nothing."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from tests.ports import free_port

MISSING = "There is no redis-server here; install Debian's package redis-server."
PATIENCE = 10.0  # seconds until it answers


def program() -> str | None:
    """Where it is; None where there is none."""
    return shutil.which("redis-server")


class Redis:
    """A running server, as clients reach it."""

    def __init__(self, port: int, path: str, version: str) -> None:
        self.version = version
        self.port = port
        self.tcp = f"redis://127.0.0.1:{port}"
        self.unix = f"unix://{path}"

    def flush(self) -> None:
        """Empty it."""
        self.ask("FLUSHALL")

    def ask(self, command: str) -> str:
        """Its answer to a command, in one line. OSError while it does not listen."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.makefile().readline().strip()


@contextlib.contextmanager
def running(folder: str) -> Iterator[Redis]:
    """A server whose files are in this folder, until the block ends. There must be a redis-server."""
    executable = program()
    assert executable, MISSING
    os.makedirs(folder, exist_ok=True)
    redis = Redis(free_port(), f"{folder}/redis.sock", _version(executable))
    process = subprocess.Popen(
        [
            *(executable, "--bind", "127.0.0.1", "--port", str(redis.port), "--unixsocket", f"{folder}/redis.sock"),
            *("--save", "", "--appendonly", "no", "--dir", folder),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        _await_answer(redis, process)
        yield redis
    finally:
        process.terminate()
        process.wait()


def _version(executable: str) -> str:
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout
    return said.partition("v=")[2].partition(" ")[0]


def _await_answer(redis: Redis, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if redis.ask("PING") == "+PONG":
                return
        assert process.poll() is None, "redis-server has ended"
        assert time.monotonic() < deadline, "redis-server does not answer"
        time.sleep(0.02)
