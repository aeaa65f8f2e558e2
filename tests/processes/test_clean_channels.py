"""manage.py clean_channels beside running servers: they go on, and no message is lost."""

import asyncio
import os
import sys
from pathlib import Path

import apsw
import pytest

from channels_lite import schema
from tests.processes.conftest import PATIENCE

EXPIRED = 5_000
LEAST = 100  # rounds that the servers make at least

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_lite"]
OPTIONS = {{"timeout": 30}}  # as the writer, which leaves little room between its turns
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": {path!r}, "OPTIONS": OPTIONS}}}}
CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels_lite.layers.{layer}", "CONFIG": {config!r}}}}}
"""

WRITER = """
import sqlite3, sys
path = sys.argv[1]
connection = sqlite3.connect(path, timeout=30, isolation_level=None)
for number, _ in enumerate(sys.stdin):
    connection.execute(
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) VALUES ('', 'live', ?, 9999999999999)",
        (b"%d" % number,),
    )
    connection.execute("SELECT count(*) FROM channels_lite_live_message").fetchall()
    print(number, flush=True)
"""


def fill(path: str, journal_mode: str) -> None:
    """Make a database with many expired messages."""
    connection = apsw.Connection(path)
    connection.pragma("journal_mode", journal_mode)
    schema.create(schema.executor(connection), schema.steps())
    connection.execute(
        "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT ?) "
        "INSERT INTO channels_lite_message (prefix, queue, payload, expires_at) "
        "SELECT '', 'q' || (n % 20), zeroblob(1000), 1 FROM n",
        (EXPIRED,),
    ).fetchall()
    connection.close()


async def start_command(folder: Path, settings: str) -> asyncio.subprocess.Process:
    """Start the command with these settings."""
    (folder / "site_settings.py").write_text(settings)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(folder)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "django", "clean_channels"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def check_success(command: asyncio.subprocess.Process, path: str, before: int) -> None:
    out, errors = await asyncio.wait_for(command.communicate(), PATIENCE)
    assert (command.returncode, errors) == (0, b"")
    assert f"{EXPIRED} expired messages and 0 memberships removed, ".encode() in out
    assert out.endswith(b" MB given back\n")
    assert Path(path).stat().st_size < before / 2


async def test_servers_on_the_apsw_layer(make_layer, start, path, tmp_path):
    """Two processes ask and answer all the while: every answer comes, and in order."""
    fill(path, "wal")
    before = Path(path).stat().st_size
    layer = make_layer(auto_trim=False)
    await start("echo", "--keep-expired")
    reply = await layer.new_channel()
    settings = SETTINGS.format(
        path=str(tmp_path / "app.sqlite3"), layer="aio.AIOSQLiteChannelLayer", config={"path": path}
    )
    command = await start_command(tmp_path, settings)
    ending, number = asyncio.ensure_future(check_success(command, path, before)), 0
    while number < LEAST or not ending.done():
        await layer.send("echo", {"type": "x", "number": number, "reply": reply})
        assert (await asyncio.wait_for(layer.receive(reply), PATIENCE))["number"] == number
        number += 1
    await ending


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
async def test_a_writer_on_the_standard_librarys_sqlite(path, tmp_path, journal_mode):
    """A process that reads and inserts all the while sees no error, and all its rows are there in the end."""
    fill(path, journal_mode)
    before = Path(path).stat().st_size
    writer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITER, path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    settings = SETTINGS.format(path=path, layer="core.SQLiteChannelLayer", config={})
    command = await start_command(tmp_path, settings)
    ending, number = asyncio.ensure_future(check_success(command, path, before)), 0
    while number < LEAST or not ending.done():
        writer.stdin.write(b"\n")
        line = await asyncio.wait_for(writer.stdout.readline(), PATIENCE)
        assert line == b"%d\n" % number, await writer.stderr.read()
        number += 1
    await ending
    writer.stdin.close()
    assert (await writer.communicate())[1] == b""
    connection = apsw.Connection(path)
    rows = connection.execute("SELECT CAST(payload AS TEXT) FROM channels_lite_message ORDER BY id").fetchall()
    integrity = connection.pragma("integrity_check")
    connection.close()
    assert (integrity, [int(row[0]) for row in rows]) == ("ok", list(range(number)))
