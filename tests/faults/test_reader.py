"""A slow foreign reader holds a snapshot and keeps the -wal from beginning anew: reported, and over with the reader."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from channels_lite import keeper
from tests.faults.conftest import PATIENCE, open_layer
from tests.patience import until

READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
print(*connection.execute("SELECT count(*) FROM channels_lite_message").fetchone(), flush=True)
sys.stdin.read()
"""

TEXT = "x" * 400_000


@pytest.fixture
async def layer(kind: str, path: str, alias: str) -> AsyncIterator[Any]:
    """A layer of each kind."""
    async with open_layer(kind, path, alias) as layer:
        yield layer


@contextlib.asynccontextmanager
async def a_reader(path: str) -> AsyncIterator[None]:
    """Another process that holds a snapshot of the database."""
    reader = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", READER, path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stdin is not None
    try:
        assert await asyncio.wait_for(reader.stdout.readline(), PATIENCE)
        yield
    finally:
        reader.stdin.close()
        await asyncio.wait_for(reader.wait(), PATIENCE)


async def pump(layer: Any, count: int) -> None:
    """Send and receive so many large messages: each is a row, and takes its size in the -wal."""
    for number in range(count):
        await layer.send("jobs", {"type": "x", "number": number, "text": TEXT})
        assert (await asyncio.wait_for(layer.receive("jobs"), PATIENCE))["number"] == number


async def test_slow_reader(
    layer: Any, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages go on, one warning says how large the -wal is and what to do, and it shrinks when the reader ends."""
    monkeypatch.setattr(keeper, "LARGE_WAL", 16 * 1024**2)
    async with a_reader(path):
        await pump(layer, 150)
        assert os.stat(f"{path}-wal").st_size > 50 * 1024**2 > keeper.JOURNAL_LIMIT
        await until(lambda: "-wal" in caplog.text)
    for _ in range(20):
        await pump(layer, 20)
        if os.stat(f"{path}-wal").st_size <= keeper.JOURNAL_LIMIT:
            break
    assert os.stat(f"{path}-wal").st_size <= keeper.JOURNAL_LIMIT
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.name == "channels_lite.keeper"
    assert path in warning.getMessage()
    assert "MB" in warning.getMessage()
    assert "lsof" in warning.getMessage()


async def test_without_a_reader(layer: Any, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Traffic of as much as is reported says nothing, and leaves a -wal that is smaller."""
    for _ in range(8):
        await pump(layer, 40)
        await until(lambda: not layer._database.keeper._checkpoint_due)  # others may have the processor
    assert os.stat(f"{path}-wal").st_size < keeper.LARGE_WAL
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
