"""Floors: what the same work takes without any layer."""

import asyncio
import os
import time
from typing import Any

import apsw

SCHEMA = """
    PRAGMA journal_mode=WAL;
    PRAGMA synchronous=NORMAL;
    PRAGMA wal_autocheckpoint=0;
    CREATE TABLE IF NOT EXISTS message (
        id INTEGER PRIMARY KEY, queue TEXT NOT NULL, payload BLOB NOT NULL, expires_at INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS message_queue ON message (queue, id);
"""
INSERT = "INSERT INTO message (queue, payload, expires_at) VALUES (?, ?, ?)"
CLAIM = """
    DELETE FROM message
    WHERE id = (SELECT id FROM message WHERE queue = ? AND expires_at > ? ORDER BY id LIMIT 1)
    RETURNING payload
"""
PAYLOAD = b"type: chat.message, text: to all of you"
MINUTE = 60_000  # milliseconds
LINE = b"x" * 99 + b"\n"

_servers: list[asyncio.AbstractServer] = []


async def insert_and_claim(layer: Any, messages: int, seconds: float) -> list[float]:
    """Seconds of one autocommit INSERT plus one claim. Checkpoints are made when nobody counts.

    The table is as a layer needs it: in the order of ids, with an index for the claim. Without a rowid one b-tree would
    do, and a quarter less time, but then no update hook says what came.
    """
    connection = apsw.Connection(f"{os.environ['CHANNELS_LITE_BENCHMARK']}/raw.sqlite3")
    try:
        connection.execute(SCHEMA).fetchall()
        return _timed(connection, messages, seconds)
    finally:
        connection.close()  # the last one to close makes the checkpoint


async def insert(layer: Any, messages: int, seconds: float) -> list[float]:
    """Seconds of one autocommit INSERT, as above."""
    connection = apsw.Connection(f"{os.environ['CHANNELS_LITE_BENCHMARK']}/raw.sqlite3")
    try:
        connection.execute(SCHEMA).fetchall()
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < messages and time.perf_counter() < end:
            start = time.perf_counter()
            connection.execute(INSERT, ("work", PAYLOAD, time.time_ns() // 1_000_000 + MINUTE))
            samples.append(time.perf_counter() - start)
        connection.execute("DELETE FROM message")
        return samples
    finally:
        connection.close()


def _timed(connection: apsw.Connection, messages: int, seconds: float) -> list[float]:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < messages and time.perf_counter() < end:
        start = time.perf_counter()
        now = time.time_ns() // 1_000_000
        connection.execute(INSERT, ("work", PAYLOAD, now + MINUTE))
        connection.execute(CLAIM, ("work", now)).fetchall()
        samples.append(time.perf_counter() - start)
    return samples


async def serve(layer: Any, path: str) -> None:
    """Give back the lines that come over this Unix socket, as long as the process lives."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    _servers.append(await asyncio.start_unix_server(answer, path))


async def ping(layer: Any, path: str, messages: int, seconds: float) -> list[float]:
    """Seconds of each line to ``serve`` in another process and back."""
    reader, writer = await asyncio.open_unix_connection(path)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < messages and time.perf_counter() < end:
        start = time.perf_counter()
        writer.write(LINE)
        await reader.readline()
        samples.append(time.perf_counter() - start)
    writer.close()
    await writer.wait_closed()
    return samples
