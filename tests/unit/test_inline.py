"""What the core layer runs on a loop's own thread: with a -wal, what waits for nothing; everything else, never."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from channels_lite import store
from channels_lite.layers.core import SQLiteChannelLayer
from tests.patience import until

MESSAGE = {"type": "test.message", "text": "x" * 1000}


def use(mode: str, path: str) -> None:
    """Give the test's database this journal mode; a -wal is remembered in the file."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
    connection.close()


@pytest.mark.parametrize("mode", ["wal", "delete"])
async def test_commits_that_wait_for_the_disk_are_made_in_the_keepers_thread(
    mode: str, alias: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    claim = store.claim_one

    def seen(*arguments: object) -> object:
        threads.add(threading.current_thread().name)
        return claim(*arguments)  # type: ignore[arg-type]

    use(mode, path)
    monkeypatch.setattr(store, "claim_one", seen)
    layer = SQLiteChannelLayer(database=alias)
    for _ in range(10):
        await layer.send("news", MESSAGE)
        database = layer._database
        assert database is not None
        await until(lambda: database.keeper.inline(lambda execute: None))  # noqa: B023 - used before the next round
        assert await layer.receive("news") == MESSAGE
    await layer.close()
    here = threading.current_thread().name
    assert here in threads if mode == "wal" else threads == {f"channels_lite keeper of {os.path.realpath(path)}"}


async def test_the_wal_is_copied_back_and_begun_anew(alias: str, path: str) -> None:
    use("wal", path)
    layer = SQLiteChannelLayer(database=alias)
    for _ in range(3000):
        await layer.send("news", MESSAGE)
        await layer.receive("news")
    size = Path(f"{path}-wal").stat().st_size
    await layer.close()
    assert size < 12_000_000  # 6000 commits of at least one page of 4 kB each would be twice as much
