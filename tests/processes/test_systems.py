"""Processes on macOS and on Windows, which ``tests.pretend`` only pretends: none of this runs there."""

import subprocess
import sys

import pytest

from tests.processes.conftest import PATIENCE, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems are pretended on Linux")

SYSTEMS = {"macos": "darwin no-inbox kqueue", "windows": "win32 no-inbox polling"}
MODULES = """
import importlib, pkgutil, sys
from tests import pretend
pretend.begin(sys.argv[1])
import django
django.setup()
import channels_lite
names = [found.name for found in pkgutil.walk_packages(channels_lite.__path__, "channels_lite.")]
for name in names:
    importlib.import_module(name)
print(len(names), sys.platform)
"""


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_module_can_be_imported(system, monkeypatch):
    """No module of the package needs what the pretended system lacks to be imported: fork, fcntl, Unix sockets."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "tests.settings")
    command = [sys.executable, "-c", MODULES, system]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    number, platform = ended.stdout.split()
    assert int(number) > 40
    assert platform == SYSTEMS[system].split()[0]


@pytest.mark.parametrize("layer", [(), ("--core",)], ids=["aio", "core"])
@pytest.mark.parametrize("system", SYSTEMS)
async def test_two_processes_exchange_messages(start, system, layer):
    """On the pretended system, they reach each other's channels and groups without inboxes, and hear in its way."""
    poll = ("--no-poll",) if system == "macos" else ()  # there, by the kqueue alone
    waiting = await start("hear", "--channel", "jobs", "--how", *poll, *layer, system=system)
    assert await waiting.line() == SYSTEMS[system]
    one, other = [await start("obey", *poll, *layer, system=system) for _ in range(2)]
    for number in range(20):
        await one.obey("send", "jobs", f"number{number}")
        assert await waiting.line() == f"number{number}"
    for sender, receiver in ((one, other), (other, one)):
        await receiver.tell("hear")
        await sender.obey("group", "wide", "all")
        assert [await receiver.line() for _ in range(2)] == ["all", "done"]


@pytest.mark.parametrize("system", SYSTEMS)
async def test_nothing_is_lost_between_them(start, system):
    """What a process floods a channel with arrives once and in order on the pretended system, a full one too."""
    collecting = await start("collect", "--count", "500", system=system)
    assert await collecting.line() == "echo"
    await start("flood", "--count", "500", system=system)
    assert (await collecting.line()).split() == [str(number) for number in range(500)]
