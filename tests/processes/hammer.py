"""Both libraries hammering in one process: ``python -m tests.processes.hammer FOLDER [unguarded]``.

The apsw layer writes to the companion of the default database, the ORM and the core layer to that database, as they
should; meanwhile others try to open each file with the wrong library. Prints as JSON what was committed and what became
of the attempts.
"""

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path
from typing import Any

import django
from django.conf import settings

FOLDER = Path(sys.argv[1])
WRITES = 3_000
os.symlink("db-channels.sqlite3", FOLDER / "link.sqlite3")
settings.configure(
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.contenttypes", "channels_lite"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": FOLDER / "db.sqlite3",
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": "PRAGMA journal_mode=wal"},
        },
        "link": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "link.sqlite3", "OPTIONS": {"timeout": 30}},
    },
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
            "CONFIG": {"database": "default", "enforce_capacity": False, "expiry": 3600},
        },
        "core": {
            "BACKEND": "channels_lite.layers.core.SQLiteChannelLayer",
            "CONFIG": {"database": "default", "enforce_capacity": False, "expiry": 3600},
        },
    },
)
django.setup()

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection, connections, transaction

from channels_lite import guard, schema
from channels_lite.errors import TwoLibraries

if "unguarded" in sys.argv:
    guard._is_held = lambda identity, besides=None: False
    guard._is_open = lambda identity: False

attempts: dict[str, int] = {}
refusals: dict[str, int] = {}
errors: list[str] = []
open_both = threading.Barrier(4)  # until both libraries have their own file open
working = threading.Semaphore(0)


def send(name: str) -> None:
    """Send to the layer's file, and keep it open until all others have ended."""
    asyncio.run(_send(get_channel_layer(name)))


async def _send(layer: Any) -> None:
    await layer.send("numbers", {"type": "x", "number": -1})
    await asyncio.to_thread(open_both.wait)
    for number in range(WRITES):
        await layer.send("numbers", {"type": "x", "number": number})
    working.release()
    await asyncio.to_thread(everybody_ended.wait)
    await layer.close()


def save() -> None:
    """Write rows with the ORM, a tenth of them with a message, and keep the connection open until all have ended."""
    ContentType.objects.create(app_label="numbers", model="-1")
    tell = async_to_sync(get_channel_layer("core").send)
    open_both.wait()
    for number in range(WRITES):
        with transaction.atomic():
            ContentType.objects.create(app_label="numbers", model=str(number))
            if number % 10 == 0:
                tell("rows", {"type": "x", "number": number})
    working.release()
    everybody_ended.wait()
    connection.close()


def raw() -> None:
    """The layer's file with sqlite3."""
    with contextlib.closing(sqlite3.connect(FOLDER / "db-channels.sqlite3", timeout=30)) as mine:
        mine.execute("CREATE TABLE IF NOT EXISTS raw (number)")
        mine.commit()


def orm() -> None:
    """The layer's file with Django, under another name."""
    with contextlib.closing(connections["link"]), connections["link"].cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS orm (number)")


def fast() -> None:
    """Django's file with apsw."""
    with contextlib.closing(schema.connect(str(FOLDER / "db.sqlite3"))) as mine:
        mine.execute("CREATE TABLE IF NOT EXISTS fast (number)")


def again_and_again(intrude: Any) -> None:
    """Try for as long as the others write."""
    open_both_done.wait()
    name = intrude.__name__
    while not stop.is_set():
        attempts[name] = attempts.get(name, 0) + 1
        try:
            intrude()
        except TwoLibraries:
            refusals[name] = refusals.get(name, 0) + 1
            time.sleep(0.001)  # what is refused must not keep the writers from their work


def reported(job: Any, *arguments: Any) -> threading.Thread:
    """A thread that runs a job, and notes its error."""

    def run() -> None:
        try:
            job(*arguments)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            working.release()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


everybody_ended, open_both_done, stop = threading.Event(), threading.Event(), threading.Event()
call_command("migrate", verbosity=0)
writers = [reported(send, "default"), reported(send, "core"), reported(save)]
intruders = [reported(again_and_again, job) for job in (raw, orm, fast)]
open_both.wait(30)
open_both_done.set()
for _ in writers:
    working.acquire()
stop.set()
for intruder in intruders:
    intruder.join(30)
everybody_ended.set()
for writer in writers:
    writer.join(30)
print(json.dumps({"attempts": attempts, "refusals": refusals, "errors": errors}))
