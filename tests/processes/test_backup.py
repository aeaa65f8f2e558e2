"""README's way to back up, while messages flow, and to restore."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.needs import need
from tests.patience import PATIENCE
from tests.processes.conftest import Peer, StartPeer
from tests.readme import block, shell

NAME = "db-channels.sqlite3"
KEPT = 50  # messages that wait all the time


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The companion of the default database, as the recipes name it."""
    return str(tmp_path / NAME)


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[AIOSQLiteChannelLayer]:
    """A layer of this process, until it is closed."""
    layer = AIOSQLiteChannelLayer(path=path, serializer_format="json")
    try:
        yield layer
    finally:
        await layer.close()
        await asyncio.sleep(0)  # its watcher stops in a callback


async def back_up(way: str, folder: Path) -> None:
    """Run one of the two recipes in a process of its own."""
    if way == "shell":
        need(shutil.which("sqlite3"), "needs the shell of SQLite (Debian's package sqlite3)")
        await asyncio.to_thread(shell, block("backup"), folder)
    else:
        (folder / "backup.py").write_text(block("backup script"))
        await asyncio.to_thread(shell, "python backup.py", folder)


async def flow(start: StartPeer) -> list[Peer]:
    """Two processes that send without an end, and one that receives what they send."""
    receiver = await start("collect", "--channel", "flow", "--count", "1000000", "--format", "json")
    senders = [await start("flood", "--channel", "flow", "--count", "1000000", "--format", "json") for _ in range(2)]
    return [receiver, *senders]


@pytest.mark.parametrize("way", ["shell", "script"])
async def test_backup_while_messages_flow(way: str, start: StartPeer, path: str, tmp_path: Path) -> None:
    """A backup is whole, has what waited, and of each sender an unbroken run; restored, it is delivered from."""
    async with opened(path) as layer:
        for number in range(KEPT):
            await layer.send("kept", {"type": "x", "number": number})
        await layer.group_add("group", "kept")
    peers = await flow(start)
    await back_up(way, tmp_path)
    assert [peer.process.returncode for peer in peers] == [None] * 3, "they must have been at work all the time"
    late = await start("collect", "--channel", "kept", "--count", str(KEPT), "--format", "json")
    assert await late.line() == "kept"
    assert await late.line() == " ".join(map(str, range(KEPT))), "after the backup, all that waited is received"
    for peer in peers:
        await peer.kill()
    _is_whole(tmp_path / "backup.sqlite3")
    assert Path(f"{path}-wal").stat().st_size, "the killed must have left one that is not the backup's"
    shell(block("restore"), tmp_path)
    async with opened(path) as layer:
        heard = [(await asyncio.wait_for(layer.receive("kept"), PATIENCE))["number"] for _ in range(KEPT)]
        assert await layer.group_channels("group") == ["kept"]
    assert heard == list(range(KEPT))


def _is_whole(backup: Path) -> None:
    """SQLite finds nothing wrong, and no message is missing between two others of its sender."""
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT payload FROM channels_lite_message WHERE queue = 'flow' ORDER BY id")
        messages = [json.loads(payload) for (payload,) in rows]
    numbers: dict[int, list[int]] = {}
    for message in messages:
        numbers.setdefault(message["sender"], []).append(message["number"])
    for run in numbers.values():
        assert run == list(range(run[0], run[0] + len(run)))


async def test_a_copy_is_no_backup(path: str, tmp_path: Path) -> None:
    """A copy of the file lacks what is still in the -wal, and a backup at the same moment has it."""
    async with opened(path) as layer:
        await layer.send("kept", {"type": "x"})
        shutil.copyfile(path, tmp_path / "copy.sqlite3")
        await back_up("script", tmp_path)
    assert _messages(tmp_path / "backup.sqlite3") == 1
    with pytest.raises(sqlite3.OperationalError, match="no such table"):  # the tables are in the -wal as well
        _messages(tmp_path / "copy.sqlite3")


def _messages(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        found: int = connection.execute("SELECT count(*) FROM channels_lite_message").fetchone()[0]
    return found
