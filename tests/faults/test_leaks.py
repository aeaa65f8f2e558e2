"""Loops and consumers begin and end by the thousand: what a process and its layer hold stays as large as it was."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import environment, run_module
from tests.faults.sizes import BOUND
from tests.journal import keep_a_wal

PATIENCE = 120.0  # seconds until one of these processes is given up
# What is remembered up to a bound; it is within the bound, and else nothing may grow.
BOUNDS = {"_addresses": BOUND, "_told": BOUND, "_empty": BOUND, "_groups": BOUND}
MEMORY = 4 * 1024**2  # bytes that the process may grow by: half a kilobyte for each consumer


async def sizes(which: str, kind: str, path: str, **options: Any) -> list[dict[str, int]]:
    """What ``tests.faults.ends`` reports."""
    ours = environment(kind, path, options)
    code, output, errors = await run_module(ours, "-W", "error", "-m", "tests.faults.ends", which, patience=PATIENCE)
    assert (code, errors) == (0, b""), errors.decode()
    return list(json.loads(output))


def is_flat(early: dict[str, int], late: dict[str, int]) -> None:
    """Fail where something has grown, and name it."""
    for name, number in late.items():
        if name in BOUNDS:
            assert number <= BOUNDS[name], name
        elif name == "resident":
            assert number - early[name] < MEMORY, f"{early[name]} bytes became {number}"
        else:
            assert number <= early.get(name, number), f"{name}: {early} became {late}"


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """A file for each kind of layer: both have their thousands at the same time."""
    paths = {kind: str(tmp_path / f"{kind}.sqlite3") for kind in ("aio", "core")}
    keep_a_wal(paths["core"])
    return paths


async def test_loops(paths: dict[str, str]) -> None:
    """After 1 000 loops, which sent, received and were closed under a waiting receiver, all is as after 100."""
    for early, late in await asyncio.gather(*(sizes("loops", kind, path) for kind, path in paths.items())):
        is_flat(early, late)
        assert late["_waiters"] == late["_waiting"] == late["_woken"] == late["messages parked"] == 0


async def test_consumers(paths: dict[str, str]) -> None:
    """After 10 000 consumers that ended on a layer message nothing is left of them, nor of what came afterwards."""
    reports = await asyncio.gather(*(sizes("consumers", kind, path, expiry=0.3) for kind, path in paths.items()))
    for early, late in reports:
        assert late.pop("room in a mailbox") <= 100
        is_flat(early, late)
        assert late["_parked"] == late["_unasked"] == 0
        assert late["_waiters"] == 1, "it has lasted"
        assert late["tasks"] == 2
    for path in paths.values():
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for table in ("message", "membership"):
                assert connection.execute(f"SELECT count(*) FROM channels_lite_{table}").fetchone() == (0,)
