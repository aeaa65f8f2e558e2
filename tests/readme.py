"""README's fenced blocks, each by the name in the comment before it, and a shell that runs them."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds until a command that hangs fails its test


class Block(NamedTuple):
    """A fenced block; the name is empty where no comment stands before it."""

    name: str
    language: str
    text: str


def text() -> str:
    """All of README."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """All of its blocks."""
    found = re.findall(r"(?:^<!-- ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found]


def block(name: str) -> str:
    """The text of the block with this name. Who asks for it executes it: tests/unit/test_readme.py counts on that."""
    (found,) = [block.text for block in blocks() if block.name == name]
    return found


def environment(**more: str) -> dict[str, str]:
    """A user's, in which commands without a path are those of this Python's environment."""
    theirs = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    return {**theirs, "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]), **more}


def shell(commands: str, folder: Path, **variables: str) -> str:
    """Run commands in a folder, which must succeed; returns what they print."""
    ended = subprocess.run(
        ["sh", "-ec", commands],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@contextmanager
def running(commands: str, folder: Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Commands of a shell, until Ctrl-C."""
    process = subprocess.Popen(
        ["sh", "-c", commands],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches the shell and what it has started
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in rest


def read(process: "subprocess.Popen[str]", enough: Callable[[str], bool]) -> str:
    """What it prints, until there is enough of it."""
    assert process.stdout is not None
    printed = ""
    while not enough(printed):
        line = process.stdout.readline()
        assert line, printed
        printed += line
    return printed
