"""The example of publishing from SQL: orders that announce themselves, as processes of their own insert them."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes.conftest import PATIENCE, ROOT, Peer

FOLDER = ROOT / "examples" / "orders"
FILE = "orders.sqlite3"
SQL = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).executescript(sys.argv[2])"


class Restaurant:
    """The example with one folder for its data."""

    def __init__(self, data: Path) -> None:
        self.database = data / FILE
        self._environment = {**os.environ, "ORDERS_DATA": str(data), "DJANGO_SETTINGS_MODULE": "orders.settings"}

    def manage(self, *arguments: str) -> None:
        """Run a management command, which must succeed without a warning."""
        self._run("manage.py", *arguments)

    def insert(self, script: str) -> None:
        """Run SQL in a process that knows nothing of Django or of the layer."""
        self._run("-c", SQL, str(self.database), script)

    def _run(self, *arguments: str) -> None:
        command = [sys.executable, *arguments]
        ended = subprocess.run(
            command, cwd=FOLDER, env=self._environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")

    async def open_kitchen(self) -> Peer:
        """Start ``manage.py kitchen``; returns when it is in the group."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", "kitchen"),
            cwd=FOLDER,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        kitchen = Peer(process)
        assert await kitchen.line() == "The kitchen is open - Ctrl-C closes it."
        return kitchen

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database as ``manage.py migrate`` makes it."""
    restaurant = Restaurant(tmp_path_factory.mktemp("orders"))
    restaurant.manage("migrate", "-v0")
    restaurant.manage("makemigrations", "--check", "-v0")
    restaurant.manage("check", "--fail-level", "DEBUG")
    return restaurant.database


@pytest.fixture
def restaurant(migrated: Path, tmp_path: Path) -> Restaurant:
    """A restaurant without an order."""
    shutil.copyfile(migrated, tmp_path / FILE)
    return Restaurant(tmp_path)


@pytest.fixture
async def kitchen(restaurant: Restaurant) -> AsyncIterator[Peer]:
    """An open kitchen. Ctrl-C closes it: it says so, leaves the group, and nothing else is printed."""
    kitchen = await restaurant.open_kitchen()
    yield kitchen
    kitchen.process.send_signal(signal.SIGINT)
    output, errors = await asyncio.wait_for(kitchen.process.communicate(), PATIENCE)
    assert (output, errors) == (b"The kitchen is closed.\n", b"")
    assert kitchen.process.returncode == 0
    assert restaurant.rows("SELECT count(*) FROM channels_lite_membership") == [(0,)]


async def test_an_order_is_announced_with_its_transaction(restaurant: Restaurant, kitchen: Peer) -> None:
    """The kitchen prints each order that is committed, once and in that order, and none that was rolled back."""
    order = "INSERT INTO orders_order (dish) VALUES"
    await asyncio.to_thread(restaurant.insert, f"BEGIN; {order} ('never'); ROLLBACK; {order} ('soup')")
    assert await kitchen.line() == "Order 1: soup"
    await asyncio.to_thread(restaurant.insert, f"BEGIN; {order} ('bread'), ('wine'); COMMIT")
    assert [await kitchen.line(), await kitchen.line()] == ["Order 2: bread", "Order 3: wine"]


async def test_an_order_of_djangos_is_announced(restaurant: Restaurant, kitchen: Peer) -> None:
    """So it does with what the ORM inserts, though no line of Python there knows of the kitchen."""
    create = "from orders.models import Order; Order.objects.create(dish='soup')"
    await asyncio.to_thread(restaurant.manage, "shell", "-v0", "-c", create)
    assert await kitchen.line() == "Order 1: soup"


def test_an_order_while_no_kitchen_is_open(restaurant: Restaurant) -> None:
    """A group that nobody is in is no error: the order is there, with its moment, and no message waits."""
    restaurant.insert("INSERT INTO orders_order (dish) VALUES ('soup')")
    placed = "SELECT dish, placed_at > datetime('now', '-1 day') FROM orders_order"
    assert restaurant.rows(placed) == [("soup", 1)]
    assert restaurant.rows("SELECT count(*) FROM channels_lite_message") == [(0,)]


def test_without_the_layers_tables_there_is_no_trigger(restaurant: Restaurant) -> None:
    """``migrate channels_lite zero`` takes the trigger first, which would let every order fail."""
    restaurant.manage("migrate", "-v0", "channels_lite", "zero")
    restaurant.insert("INSERT INTO orders_order (dish) VALUES ('soup')")
    assert restaurant.rows("SELECT dish FROM orders_order") == [("soup",)]
