"""Floors: what the same work takes without any layer."""

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


async def insert_and_claim(layer: Any, messages: int, seconds: float) -> list[float]:
    """Seconds of one autocommit INSERT plus one claim. Checkpoints are made when nobody counts."""
    connection = apsw.Connection(f"{os.environ['CHANNELS_LITE_BENCHMARK']}/raw.sqlite3")
    try:
        connection.execute(SCHEMA).fetchall()
        return _trips(connection, messages, seconds)
    finally:
        connection.close()  # the last one to close makes the checkpoint


def _trips(connection: apsw.Connection, messages: int, seconds: float) -> list[float]:
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < messages and time.perf_counter() < end:
        start = time.perf_counter()
        now = time.time_ns() // 1_000_000
        connection.execute(INSERT, ("work", PAYLOAD, now + MINUTE))
        connection.execute(CLAIM, ("work", now)).fetchall()
        samples.append(time.perf_counter() - start)
    return samples
