"""README's commands that go on until Ctrl-C, as they stand there, and what they print."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.readme import PATIENCE, ROOT, block, read, running
from tests.unit.project import AIO, Project

PYTHON = "../../.venv/bin/python"


def test_orders(tmp_path: Path) -> None:
    """The kitchen opens, and hears of an order that SQL has placed."""
    commands = block("orders").replace("cd examples/orders", f"cd {ROOT / 'examples' / 'orders'}")
    here = commands.replace(PYTHON, sys.executable)
    assert here.count(sys.executable) == 2
    with running(here, tmp_path, ORDERS_DATA=str(tmp_path)) as kitchen:
        read(kitchen, lambda printed: "The kitchen is open" in printed)
        order = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
        insert = "INSERT INTO orders_order (dish) VALUES ('soup')"
        subprocess.run([sys.executable, "-c", order, str(tmp_path / "orders.sqlite3"), insert], check=True)
        assert "soup" in read(kitchen, lambda printed: "Order" in printed)


SERVER = """
import asyncio, sys
import django
django.setup()
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    for group in ["lobby"] * 3 + ["news"] * (sys.argv[1] == "first"):
        await layer.group_add(group, await layer.new_channel())
    if sys.argv[1] == "first":
        await layer.group_add("lobby", "jobs")
    waits = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    while not any(watcher.running for watcher in layer._watchers):
        await asyncio.sleep(0.01)
    for line in ["ready", "sent"]:
        layer.tidy()  # as its watcher does each half second
        print(line, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if line == "ready":
            for channel in ["jobs"] * 50 * (sys.argv[1] == "first") + ["mail"]:
                await layer.send(channel, {"type": "x"})
            await layer.group_send("lobby", {"type": "x"})
    waits.cancel()
    await layer.close()

asyncio.run(main())
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose channels hold 50 messages."""
    manage = "from django.core.management import execute_from_command_line as run\nimport sys\nrun(sys.argv)\n"
    (tmp_path / "manage.py").write_text(manage)
    return Project(tmp_path, {"default": (AIO, {"capacity": 50})})


@pytest.fixture
def servers(project: Project) -> Iterator[None]:
    """Two processes of it, with what the output in README has: 50 jobs, 2 mails, two groups, and drops in both."""
    processes = []
    for name in ("first", "second"):
        processes.append(project.start("-c", SERVER, name))
        read(processes[-1], lambda printed: "ready\n" in printed)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        read(process, lambda printed: "sent\n" in printed)
    yield
    for process in processes:
        process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == 0


def masked(text: str) -> list[str]:
    """The lines without what differs each time: numbers, sizes, and the width of columns."""
    numbers = re.sub(r"\d[\d,.]*( [kKMG]?B\b)?", "0", text)
    return [" ".join(line.split()) for line in numbers.splitlines()]


def test_stats(project: Project, servers: None) -> None:
    """The command shows what README shows, but for the numbers; that which installs it is in test_packaging.py."""
    expected = masked(block("stats output"))
    command = block("stats").splitlines()[-1]
    with running(command, project.folder, DJANGO_SETTINGS_MODULE="project_settings", COLUMNS="200") as watching:
        printed = read(watching, lambda printed: "together" in printed)
    assert masked(printed) == expected
