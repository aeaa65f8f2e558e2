"""Tests of Django and of pytest-django that use a layer: the project in tests/project, in processes of its own."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import ROOT, block

PROJECT = ROOT / "tests" / "project"
PATIENCE = 120.0  # seconds until a run that hangs fails its test


def run(folder: Path, setting: str, *command: str, start: str = "") -> str:
    """Run Python in the project, where nothing may fail, warn or log an error; returns what it prints.

    ``setting`` says which layer, its alias, where the test databases are, and whether channels_lite is installed,
    ``start`` how multiprocessing begins a process. Modules in the folder can be imported.
    """
    layer, alias, database, installed = setting.split()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "DJANGO_SETTINGS_MODULE": "settings",
        "PROJECT_FOLDER": str(folder),
        "PROJECT_LAYER": layer,
        "PROJECT_ALIAS": alias,
        "PROJECT_DATABASE": database,
        "PROJECT_INSTALLED": "yes" if installed == "installed" else "no",
        "PROJECT_START": start,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        # From Python 3.13 on, it warns of the connections that Django leaves to threads that end with the process.
        "PYTHONWARNINGS": "error,ignore:unclosed database:ResourceWarning",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed
    assert not re.search(r"LOGGED|Warning|Exception ignored|Traceback", printed), printed
    return printed


def left(folder: Path) -> set[str]:
    """The databases that are still there, the test databases' and the real ones."""
    return {path.name for path in folder.iterdir() if path.suffix == ".sqlite3"}


@pytest.mark.parametrize(
    ("setting", "options"),
    [
        ("core default memory installed", ()),
        ("core default file not-installed", ()),
        ("core channels memory not-installed", ("--parallel", "2")),
        ("core channels file installed", ("--parallel", "2")),
    ],
)
def test_manage_py_test(tmp_path: Path, setting: str, options: tuple[str, ...]) -> None:
    """Test cases of Django send, receive and begin empty, and the test databases are removed afterwards."""
    printed = run(tmp_path, setting, "manage.py", "test", *options)
    ran, skipped = _numbers(printed)
    assert ran - skipped >= 20, printed
    assert "System check identified no issues" in printed  # though the layer's database is in memory
    assert left(tmp_path) == set()


@pytest.mark.parametrize("setting", ["core default memory not-installed", "core channels file installed"])
def test_pytest_django(tmp_path: Path, setting: str) -> None:
    """So do tests with the fixtures and marks of pytest-django, those in pytest-asyncio's loop included."""
    printed = run(tmp_path, setting, "-m", "pytest", "-p", "no:cacheprovider")
    (passed,) = re.findall(r"(\d+) passed", printed)
    assert int(passed) >= 35, printed
    assert left(tmp_path) == set()


@pytest.mark.parametrize(("place", "files"), [("memory", set()), ("file", {"test-default-channels.sqlite3"})])
def test_the_apsw_layer(tmp_path: Path, place: str, files: set[str]) -> None:
    """It follows the default database into memory; beside a file it has a companion, which Django leaves there."""
    ran, skipped = _numbers(run(tmp_path, f"aio default {place} not-installed", "manage.py", "test"))
    assert ran - skipped >= 12
    assert left(tmp_path) == files


def test_what_a_test_case_forbids_is_not_opened(tmp_path: Path) -> None:
    """Where no test needs a database, Django makes no test databases: the layer must not open the real one."""
    run(tmp_path, "core default file not-installed", "manage.py", "test", "rooms.tests.Restricted")
    assert list(tmp_path.iterdir()) == []


def recipe(folder: Path, name: str) -> Path:
    """A module in the folder with the block of README that has this name."""
    module = folder / f"recipe_{name.removeprefix('recipe: ')}.py"
    module.write_text(block(name), encoding="utf-8")
    return module


@pytest.mark.parametrize("setting", ["core default memory not-installed", "aio default memory installed"])
def test_recipes(tmp_path: Path, setting: str) -> None:
    """README's recipes for consumers, pytest-django, management commands and Celery tasks work as they stand there."""
    modules = (
        recipe(tmp_path, "recipe: consumer"),
        recipe(tmp_path, "recipe: pytest"),
        recipe(tmp_path, "recipe: senders"),
    )
    options = ("-c", "pytest.ini", "--rootdir", str(tmp_path), "-p", "no:cacheprovider")
    printed = run(tmp_path, setting, "-m", "pytest", *options, *map(str, modules))
    assert "4 passed" in printed, printed


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("layer", ["core", "aio"])
def test_recipe_for_a_live_server(tmp_path: Path, layer: str, start: str) -> None:
    """So does the one for a live server, in whichever way its process is started."""
    need_method(start)
    module = recipe(tmp_path, "recipe: live").stem
    printed = run(tmp_path, f"{layer} default file not-installed", "manage.py", "test", module, start=start)
    assert _numbers(printed) == (1, 0)


def test_live_server_with_a_layer_of_its_own(tmp_path: Path) -> None:
    """A forked server inherits the layer that the test case was given, of which no file stays."""
    need_method("fork")
    run(tmp_path, "aio default file not-installed", "manage.py", "test", "rooms.liveservers", start="fork")
    assert list(tmp_path.iterdir()) == []


def test_worker_in_a_thread(tmp_path: Path) -> None:
    """A Celery worker in a thread of the test's process sends through the test's own layer, as README says."""
    run(tmp_path, "core default file not-installed", "manage.py", "test", "rooms.workers")


def need_method(start: str) -> None:
    """Skip the test where multiprocessing cannot start processes in this way."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {start}")


def _numbers(printed: str) -> tuple[int, int]:
    """How many tests there were, and how many of them were skipped; Python 3.12.1 does not say that those ran."""
    (found,) = re.findall(r"^Found (\d+) test", printed, re.MULTILINE)
    return int(found), sum(map(int, re.findall(r"skipped=(\d+)", printed)))
