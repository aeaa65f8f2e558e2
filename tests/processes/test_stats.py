"""``manage.py channels_stats`` and the metrics for Prometheus, while other processes use the layer."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.project import AIO, CORE, FOREIGN, PATIENCE, Project

SERVER = """
import asyncio, os, sys
import django
django.setup()
from channels.layers import get_channel_layer

async def main():
    layer = get_channel_layer()
    own = await layer.new_channel()
    for channel in (own, "jobs"):
        await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "x"}, exclude=["jobs"])
    await layer.receive(own)
    await layer.send("jobs", {"type": "x"})
    await layer.group_send("room", {"type": "x"}, exclude=[own])
    waits = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    while not any(watcher.running for watcher in layer._watchers):
        await asyncio.sleep(0.01)
    layer.tidy()  # as its watcher does each half second
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    waits.cancel()
    await layer.close()

asyncio.run(main())
"""


@pytest.fixture(params=[AIO, CORE])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A project whose layer has room for one message in each channel."""
    layers = {"default": (request.param, {"capacity": 1}), "foreign": (FOREIGN, {})}
    project = Project(tmp_path, layers, SILENCED_SYSTEM_CHECKS=["channels_lite.W005"])
    if request.param == CORE:
        project.manage("migrate", "--verbosity", "0")
    return project


@pytest.fixture
def server(project: Project) -> Iterator["subprocess.Popen[str]"]:
    """A process of it that has sent three messages, received one, and dropped one."""
    process = project.start("-c", SERVER)
    assert process.stdout is not None
    assert process.stdout.readline() == "Dropped 1 message(s) to the channel jobs: the channel is full.\n"
    assert process.stdout.readline() == "ready\n"
    yield process
    if process.poll() is None:
        process.communicate(timeout=PATIENCE)


def looked(project: Project, *arguments: str, **options: Any) -> Any:
    return json.loads(project.manage("channels_stats", "--json", *arguments, **options))


def test_as_json(project: Project, server: "subprocess.Popen[str]") -> None:
    """A line of JSON has the layer's stats; the counts are those of all processes, until these end."""
    stats = looked(project)["default"]
    assert stats["pending"] == {"jobs": 1}
    assert 0 <= stats["oldest_age"] < PATIENCE
    assert stats["groups"] == {"room": 2}
    assert (stats["sent"], stats["received"]) == (3, 1)
    assert stats["dropped"] == {"full": 1, "slow": 0, "undecodable": 0, "no_target": 0}
    (process,) = stats["processes"]
    assert process["pid"] == server.pid
    assert process["watcher"] == stats["watcher"] == "inotify"
    assert process["sent"] == 3
    server.communicate(timeout=PATIENCE)
    stats = looked(project)["default"]
    assert (stats["pending"], stats["sent"], stats["processes"]) == ({"jobs": 1}, 0, [])


def test_as_tables(project: Project, server: "subprocess.Popen[str]") -> None:
    """The tables name the channel, the group, the process and why it dropped a message."""
    printed = project.manage("channels_stats")
    rows = [line.split() for line in printed.splitlines()]
    assert ["jobs", "1", "room", "2"] in rows
    assert [str(server.pid), "3", "1", "0", "0", "1", "full", "inotify"] in rows
    assert "the oldest message waits for" in printed
    assert "foreign" not in printed


def test_looking_changes_nothing(project: Project) -> None:
    """Where nobody has used the layer, the command says so, and makes no file."""
    before = sorted(os.listdir(project.folder))
    printed = project.manage("channels_stats")
    assert "does not exist yet" in printed or "nothing waits" in printed  # the tables of core are there by migrate
    assert sorted(set(os.listdir(project.folder)) - {"__pycache__"}) == [n for n in before if n != "__pycache__"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_watching(project: Project, server: "subprocess.Popen[str]", options: tuple[str, ...]) -> None:
    """With --watch it looks again and again, until it is interrupted, and ends without an error."""
    process = project.start("-m", "django", "channels_stats", "--watch", "0.05", *options)
    assert process.stdout is not None
    looks = 0
    while looks < 3:
        line = process.stdout.readline()
        assert line
        looks += "jobs" in line
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in rest


@pytest.mark.parametrize("project", [AIO], indirect=True)
def test_watching_on_a_terminal(project: Project, server: "subprocess.Popen[str]") -> None:
    """On a terminal the tables stay in their place, and the screen from before comes back at the end."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(project.folder), "DJANGO_SETTINGS_MODULE": "project_settings"}
    process = subprocess.Popen(
        [sys.executable, "-m", "django", "channels_stats", "--watch", "0.05"],
        cwd=project.folder, env={**environment, "TERM": "xterm"}, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = _read(ours, lambda text: text.count("jobs") >= 3)
    assert "\x1b[?1049h" in shown  # the other screen
    process.send_signal(signal.SIGINT)
    assert "\x1b[?1049l" in _read(ours, lambda text: False)
    os.close(ours)
    assert process.wait(PATIENCE) == 0


def _read(terminal: int, enough: Any) -> str:
    text, deadline = "", time.monotonic() + PATIENCE
    while not enough(text) and time.monotonic() < deadline:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        text += more.decode()
    return text


def test_what_cannot_be_looked_into(tmp_path: Path) -> None:
    """A file that is no database is an error that says so, beside which the others are shown."""
    (tmp_path / "garbage.sqlite3").write_bytes(b"garbage" * 1000)
    layers = {
        "broken": (AIO, {"path": str(tmp_path / "garbage.sqlite3")}),
        "memory": (AIO, {"path": ":memory:"}),
        "none yet": (AIO, {"path": str(tmp_path / "new.sqlite3")}),
    }
    project = Project(tmp_path, layers, SILENCED_SYSTEM_CHECKS=["channels_lite.W005"])
    printed = project.manage("channels_stats", code=1)
    assert "memory  :memory:  is in memory, which no other process can reach" in printed
    assert "none yet  new.sqlite3  does not exist yet" in printed
    assert "CommandError: layer 'broken': " in printed
    printed = project.manage("channels_stats", "--json", code=1)
    found = json.loads(printed.splitlines()[0])
    assert found["memory"] == {"nothing": "is in memory, which no other process can reach"}
    assert "garbage.sqlite3" in found["broken"]["error"]
    assert (tmp_path / "garbage.sqlite3").read_bytes() == b"garbage" * 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "nobody"], "There is no entry 'nobody' in CHANNEL_LAYERS"),
        (["--layer", "foreign"], "is not a layer of channels-lite"),
        (["--watch", "0"], "'0' is no number of seconds above 0"),
        (["--watch", "soon"], "'soon' is no number of seconds above 0"),
    ],
)
@pytest.mark.parametrize("project", [AIO], indirect=True)
def test_wrong_arguments(project: Project, arguments: list[str], words: str) -> None:
    """What is wrong with the arguments is said in one sentence."""
    process = project.start("-m", "django", "channels_stats", *arguments)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (1, 2)
    assert words in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("project", [AIO], indirect=True)
def test_without_rich(project: Project) -> None:
    """Where rich is not installed, the tables are refused with the command that installs it; JSON needs nothing."""
    hide = "import sys\nsys.modules['rich'] = sys.modules['rich.console'] = None\n"
    run = f"{hide}from django.core.management import *\nexecute_from_command_line(['manage.py', 'channels_stats'])"
    assert "pip install 'channels-lite[stats]', or take --json" in project.run("-c", run, code=1)
    assert project.run("-c", run.replace("stats']", "stats', '--json']")).startswith('{"default":')


METRICS = """
from prometheus_client import REGISTRY, generate_latest
from channels.layers import get_channel_layer
from channels_lite.prometheus import Collector
layer = get_channel_layer()
REGISTRY.register(Collector())
assert layer._database is None  # to be registered opens nothing
layer.sync.send("specific.someone!x", {})
layer.sync.send("specific.somebody!y", {})
print(generate_latest(REGISTRY).decode())
layer.sync.close()
"""


def test_metrics(project: Project, server: "subprocess.Popen[str]") -> None:
    """Prometheus gets the same numbers, of whichever process it asks; process-specific channels are taken together."""
    lines = [line for line in project.script(METRICS).splitlines() if line.startswith("channels_lite_")]
    found = dict(line.rsplit(" ", 1) for line in lines)
    assert float(found['channels_lite_pending_messages{channel="jobs",layer="default"}']) == 1
    assert float(found['channels_lite_pending_messages{channel="specific!",layer="default"}']) == 2
    assert float(found['channels_lite_group_members{group="room",layer="default"}']) == 2
    assert float(found['channels_lite_oldest_message_age_seconds{layer="default"}']) >= 0
    assert float(found['channels_lite_schema_version{layer="default"}']) > 0
    assert float(found['channels_lite_database_bytes{layer="default"}']) > 0
    assert 'channels_lite_wal_bytes{layer="default"}' in found
    labels = f'layer="default",pid="{server.pid}"'
    assert float(found[f"channels_lite_sent_messages_total{{{labels}}}"]) == 3
    assert float(found[f"channels_lite_received_messages_total{{{labels}}}"]) == 1
    assert float(found[f'channels_lite_dropped_messages_total{{{labels},reason="full"}}']) == 1
    assert float(found[f'channels_lite_listening{{by="inotify",{labels}}}']) == 1
    assert f"channels_lite_busy_retries_total{{{labels}}}" in found
    assert f"channels_lite_parked_messages{{{labels}}}" in found
    assert float(found['channels_lite_up{layer="default"}']) == 1


BROKEN = """
import logging
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from channels.layers import get_channel_layer
from channels_lite.errors import ConfigError
from channels_lite.prometheus import Collector
logging.disable()
registry = CollectorRegistry(auto_describe=True)
Gauge("of_the_application", "text", registry=registry).set(7)
for wrong, error in ((lambda: Collector("nope"), ConfigError), (lambda: Collector("foreign"), ConfigError)):
    try:
        wrong()
    except error as refusal:
        print(refusal)
registry.register(Collector("default", "broken"))
try:
    registry.register(Collector("default"))
except ValueError as refusal:
    print(refusal)
print(generate_latest(registry).decode())
get_channel_layer().sync.close()
"""


def test_metrics_of_a_layer_that_cannot_be_asked(tmp_path: Path) -> None:
    """It is down, and all other metrics are there. A wrong entry, and to register twice, is refused at once."""
    (tmp_path / "garbage.sqlite3").write_bytes(b"garbage" * 1000)
    layers = {
        "default": (AIO, {}),
        "broken": (AIO, {"path": str(tmp_path / "garbage.sqlite3")}),
        "foreign": (FOREIGN, {}),
    }
    printed = Project(tmp_path, layers).script(BROKEN)
    assert "CHANNEL_LAYERS has no entry 'nope'" in printed
    assert "CHANNEL_LAYERS['foreign'] is a" in printed
    assert "Duplicated timeseries" in printed
    for line in (
        'channels_lite_up{layer="default"} 1.0',
        'channels_lite_up{layer="broken"} 0.0',
        "of_the_application 7.0",
    ):
        assert line in printed
    assert 'channels_lite_database_bytes{layer="default"}' in printed
    assert 'channels_lite_database_bytes{layer="broken"}' not in printed


@pytest.mark.parametrize("project", [AIO], indirect=True)
def test_nothing_is_imported_that_is_not_used(project: Project) -> None:
    """Neither rich nor prometheus_client is imported by a layer that sends, receives and is asked for its stats."""
    text = """
import sys
from channels.layers import get_channel_layer
layer = get_channel_layer().sync
layer.send("jobs", {})
layer.stats()
layer.close()
print(sorted({"rich", "prometheus_client"} & set(sys.modules)))
"""
    assert project.script(text) == "[]"
