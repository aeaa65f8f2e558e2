"""The layer on Redis, where it is not as on SQLite: what the conformance tests cannot say of all layers alike."""

import asyncio
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from channels.layers import get_channel_layer
from django.core.checks import run_checks
from django.test import override_settings

from channels_lite.errors import ConfigError, LayerClosed, LoopRunning
from channels_lite.layers import get_layer
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.redis import RedisChannelLayer
from channels_lite.prometheus import Collector
from channels_lite.testing import own_layer
from tests.conformance.conftest import is_empty, soon, waiting
from tests.conformance.test_sync import apart
from tests.patience import PATIENCE
from tests.processes.chat import Chat, end
from tests.readme import block, text
from tests.redis_server import Redis
from tests.unit.project import Project

REDIS = "channels_lite.layers.redis.RedisChannelLayer"
APSW = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
KEY = "a key of more than 16 bytes"
FOR_SQLITE = {
    "database": "not in DATABASES",
    "path": "channels.sqlite3",
    "auto_trim": False,
    "plain_sql": True,
    "polling_interval": 5,
    "polling_idle_timeout": 5,
    "pool_size": 1,
}

Make = Callable[..., RedisChannelLayer]


@pytest.fixture
async def make(redis: Redis) -> AsyncIterator[Make]:
    """Make layers on the tests' server; they are closed afterwards."""
    made: list[RedisChannelLayer] = []

    def make_one(**options: Any) -> RedisChannelLayer:
        made.append(RedisChannelLayer(**{"hosts": [redis.unix], **options}))
        return made[-1]

    yield make_one
    for layer in made:
        await layer.close()


# Options.


async def test_moving_there_and_back(redis: Redis, path: str) -> None:
    """The settings in README work on Redis, and with the other BACKEND on SQLite, as they are."""
    names: dict[str, Any] = {}
    exec(block("redis"), names)
    layers = names["CHANNEL_LAYERS"]
    layers["default"]["CONFIG"]["hosts"] = [redis.tcp]  # README's port is anybody's
    for backend in (REDIS, APSW, REDIS):
        layers["default"]["BACKEND"] = backend
        with override_settings(CHANNEL_LAYERS=layers):
            layer = get_layer()
            assert f"{type(layer).__module__}.{type(layer).__name__}" == backend
            assert layer.options.capacity == 500
            await layer.send("jobs", {"type": "x"})
            assert await soon(layer.receive("jobs")) == {"type": "x"}
            await layer.close()


def test_what_differs_is_in_readme() -> None:
    """Each test that the layer on Redis is excused from names the row of README's table that says why."""
    section = text().partition("## The day one machine is not enough")[2].partition("\n## ")[0].replace("`", "")
    rows = {line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")}
    files = Path(__file__).parent.glob("test_*.py")
    excused = {how for file in files for how in re.findall(r'deviation\("redis", "([^:]+): ', file.read_text())}
    assert len(excused) > 5
    assert excused <= rows


async def test_options_for_sqlite(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What only SQLite has is accepted, whatever it says, and the log says once that it is without effect."""
    layer = make(**FOR_SQLITE)
    with caplog.at_level(logging.INFO, "channels_lite.config"):
        await layer.send("jobs", {"type": "x"})
        assert await soon(layer.receive("jobs")) == {"type": "x"}
    (told,) = [record.getMessage() for record in caplog.records if record.name == "channels_lite.config"]
    assert told.endswith("have no effect on Redis.")
    assert all(f"'{option}'" in told for option in FOR_SQLITE)


def test_one_line_in_the_settings() -> None:
    """The same CONFIG is right for SQLite and for Redis; the system checks say what has no effect on which."""
    config = {"database": "default", "prefix": "site", "capacity": 7, "hosts": ["redis://127.0.0.1:6379"]}
    for backend, told in (
        (REDIS, "The option 'database' has no effect on Redis."),
        (APSW, "The option 'hosts' has no"),
    ):
        layers = {"default": {"BACKEND": backend, "CONFIG": config}}
        with override_settings(CHANNEL_LAYERS=layers, INSTALLED_APPS=["channels", "channels_lite"]):
            (message,) = run_checks(tags=["channels_lite"])
            assert get_layer().options.capacity == 7
        assert message.id == "channels_lite.I001"
        assert told in message.msg


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"hosts": "redis://127.0.0.1"}, {"channels_lite.E002"}),
        ({"hosts": [7]}, {"channels_lite.E002"}),
        ({"hosts": ["redis//host"]}, {"channels_lite.E002"}),
        ({"hosts": ["redis://host:70000"]}, {"channels_lite.E002"}),
        ({"hosts": [{"adress": "redis://host"}]}, {"channels_lite.E002"}),
        ({"hosts": [("host", "port")]}, {"channels_lite.E002"}),
        ({"capasity": 7}, {"channels_lite.E002"}),
        ({"symmetric_encryption_keys": ["short"]}, {"channels_lite.W002"}),
        ({"symmetric_encryption_keys": []}, {"channels_lite.W007"}),
        ({"path": ":memory:"}, {"channels_lite.I001"}),
        ({"path": "/no/such/folder/x.sqlite3"}, {"channels_lite.I001"}),
    ],
)
def test_system_checks(config: dict[str, Any], found: set[str]) -> None:
    """The checks say of an entry on Redis what is wrong with it, and nothing of databases."""
    other = {"BACKEND": REDIS, "CONFIG": {**config, "prefix": "other"}}
    layers = {"default": {"BACKEND": REDIS, "CONFIG": config}, "other": other}
    with override_settings(CHANNEL_LAYERS=layers, INSTALLED_APPS=["channels", "channels_lite"]):
        assert {message.id for message in run_checks(tags=["channels_lite"])} == found


@pytest.mark.parametrize(("config", "found"), [({}, "W006"), ({"serializer_format": "json"}, "E004")])
def test_two_entries_are_one_layer(config: dict[str, Any], found: str) -> None:
    """On the same servers with the same prefix they are, and with other options cannot read each other's messages."""
    hosts = {"hosts": ["redis://127.0.0.1"]}
    layers = {
        "default": {"BACKEND": REDIS, "CONFIG": hosts},
        "other": {"BACKEND": REDIS, "CONFIG": {**hosts, **config}},
        "elsewhere": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://127.0.0.2"]}},
        "sqlite": {"BACKEND": APSW, "CONFIG": {"path": "/tmp/channels.sqlite3"}},
    }
    with override_settings(CHANNEL_LAYERS=layers, INSTALLED_APPS=["channels", "channels_lite"]):
        (message,) = run_checks(tags=["channels_lite"])
    assert message.id == f"channels_lite.{found}"
    assert "the same Redis servers" in message.msg


@pytest.mark.parametrize("hosts", ["redis://:s3cret@host", [7], [("host", "port")], 7, ["redis://:s3cret/@host"]])
def test_wrong_hosts(hosts: Any) -> None:
    """Something else than a list of servers is a ConfigError that names the option, and shows no password."""
    with pytest.raises(ConfigError, match="hosts") as caught:
        RedisChannelLayer(hosts=hosts)
    assert "s3cret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    """Neither the layer nor its options show the hosts, whose addresses may have passwords."""
    layer = RedisChannelLayer(hosts=["redis://:s3cret@host"])
    assert "s3cret" not in f"{layer} {layer!r} {layer.options!r}"


def test_without_channels_redis() -> None:
    """Where channels_redis is missing, the error of importing the layer says what to install."""
    script = f"import sys; sys.modules['channels_redis'] = None; import {REDIS.rpartition('.')[0]}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "pip install 'channels-lite[redis]'" in done.stderr.splitlines()[-1]


# What is in Redis.


async def test_other_keys_are_left_alone(make: Make, redis: Redis) -> None:
    """flush() removes what belongs to the prefix, though it may look like a pattern, and no other keys."""
    await asyncio.to_thread(redis.ask, "SET mine 1")
    prefixes = ["", "*", "a", "ab", "a:", "a[b]", "?", "group", ":group:"]
    layers = [make(prefix=prefix) for prefix in prefixes]
    for number, layer in enumerate(layers):
        await layer.send("jobs", {"type": "x", "number": number})
        await layer.group_add("room", "jobs")
    for number, layer in enumerate(layers):
        await layer.flush()
        assert await is_empty(layer, "jobs")
        for other in layers[number + 1 :]:
            assert await other.group_count("room") == 1
            assert list((await other.stats()).pending.values()) == [1]
    assert await asyncio.to_thread(redis.ask, "DBSIZE") == ":1"


async def test_encryption(make: Make) -> None:
    """With keys, what Redis holds of a message tells nothing of its text; who has the key reads it."""
    layer = make(symmetric_encryption_keys=[KEY])
    for number in range(2):
        await layer.send("jobs", {"type": "x", "text": f"a secret {number}"})
    (key,) = [key async for _, key, _ in layer._keys()]
    held = b"".join(await layer.connection(0).zrange(key, 0, -1))
    assert b"payload" in held
    assert b"secret" not in held
    assert (await soon(layer.receive("jobs")))["text"] == "a secret 0"


@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"\x00" * 12 + b"\x80", b"\x00" * 12 + b"\x81\xa7payload\xc0", b"\xff" * 99]
)
async def test_what_a_stranger_puts_in(make: Make, junk: bytes) -> None:
    """Members that make no sense are skipped and counted, on both kinds of channels, and the receiver goes on."""
    layer = make()
    own = await layer.new_channel()
    for channel in ("jobs", own):
        key = layer.prefix + layer.non_local_name(channel)
        await layer.connection(0).zadd(key, {junk: time.time()})
        await layer.send(channel, {"type": "x"})
        assert await soon(layer.receive(channel)) == {"type": "x"}
    assert (await layer.stats()).decode_failures == 2


async def test_odd_keys_and_addresses(make: Make) -> None:
    """A stranger's keys, and envelopes for what is no channel, disturb neither receivers nor who looks."""
    layer = make()
    connection = layer.connection(0)
    for addressed in ([[1]], {}, [{}], 7, None):
        envelope = {**layer._envelope({"type": "x"}, 60), "__asgi_channel__": addressed}
        await connection.zadd(f"{layer.prefix}jobs", {layer.serialize(envelope): time.time()})
    await connection.zadd(layer.prefix.encode() + b"\xff", {b"x": 1})
    await connection.zadd(layer.prefix.encode() + b":group:\xff", {b"\xff": 1})
    await connection.set(f"{layer.prefix}text", "x")
    await layer.group_add("room", "jobs")
    await connection.zadd(f"{layer.prefix}:group:room", {b"\xff": time.time()})
    await layer.send("jobs", {"type": "whole"})
    assert (await layer.stats()).pending == {"jobs": 1}
    assert (await layer.group_channels("room"), await layer.groups("jobs")) == (["jobs"], ["room"])
    assert await soon(layer.receive("jobs")) == {"type": "whole"}
    await layer.flush()
    assert await connection.dbsize() == 0


# At most once.


async def test_two_processes_receive(make: Make, redis: Redis) -> None:
    """Receivers on one normal channel in several processes: each message is received once, by one of them."""
    script = """
import asyncio, sys
from django.conf import settings
settings.configure()
from channels_lite.layers.redis import RedisChannelLayer
async def main():
    layer = RedisChannelLayer(hosts=[sys.argv[1]], capacity=1000)
    print("ready", flush=True)
    while (message := await layer.receive("jobs"))["number"] >= 0:
        print(message["number"], flush=True)
asyncio.run(main())
"""
    layer = make(capacity=1000)
    command = [sys.executable, "-c", script, redis.unix]
    workers = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert await soon(worker.stdout.readline()) == b"ready\n"
    for number in range(300):
        await layer.send("jobs", {"type": "x", "number": number})
    for _ in workers:
        await layer.send("jobs", {"type": "end", "number": -1})
    printed = [(await soon(worker.communicate()))[0].split() for worker in workers]
    assert sorted(int(number) for numbers in printed for number in numbers) == list(range(300))


async def test_cancelling_a_task_that_receives(make: Make) -> None:
    """A task that receives again and again ends when it is cancelled, whatever it does just then."""
    layer = make(capacity=1000)

    async def work() -> None:
        while True:
            await layer.receive("jobs")

    for turns in range(30):
        task = asyncio.ensure_future(work())
        for number in range(3):
            await layer.send("jobs", {"type": "x", "number": number})
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)


async def test_what_waits_in_the_process_survives_a_cancelled_receiver(make: Make) -> None:
    """Of several receivers on an own channel one is cancelled: what was taken for it is received by the others."""
    layer = make()
    one, other = await layer.new_channel(), await layer.new_channel()
    for channel in (one, one, other):
        await layer.send(channel, {"type": channel})
    await soon(layer.receive(other))  # takes those of the first one into this process
    tasks = [asyncio.ensure_future(layer.receive(one)) for _ in range(3)]
    done, waits = await asyncio.wait(tasks, timeout=0.2)
    assert len(done) == 2
    waits.pop().cancel()
    await layer.send(one, {"type": "next"})
    assert await soon(layer.receive(one)) == {"type": "next"}


# Stats.


async def test_stats(make: Make) -> None:
    """What waits in Redis and in this process, who is in the groups, and what the layer has counted."""
    layer, other = make(), make(prefix="other")
    empty = await layer.stats()
    assert (empty.pending, empty.groups, empty.oldest_age, empty.database_bytes) == ({}, {}, None, 0)
    one, two = await layer.new_channel(), await layer.new_channel()
    for channel in (one, two, "jobs"):
        await layer.group_add("room", channel)
    await layer.send(one, {"type": "x"})
    await layer.group_send("room", {"type": "x"})
    await layer.send("short", {"type": "x"}, expiry=0.001)
    await other.send("jobs", {"type": "x"})
    await asyncio.sleep(0.05)
    stats = await layer.stats()
    assert stats.pending == {one: 2, two: 1, "jobs": 1}
    assert stats.groups == {"room": 3}
    assert stats.oldest_age is not None
    assert 0.04 < stats.oldest_age < PATIENCE
    assert stats.database_bytes > 0
    assert (stats.sent, stats.received, stats.watcher) == (3, 0, "redis")
    assert [process.pid for process in stats.processes] == [os.getpid()]
    await soon(layer.receive(two))  # it takes those of the other one into this process
    stats = await layer.stats()
    assert stats.pending == {one: 2, "jobs": 1}
    assert (stats.received, stats.processes[0].parked) == (1, 2)


async def test_several_servers(make: Make, redis: Redis) -> None:
    """With several hosts, messages, groups, what is told of them and flush() go over all."""
    layer = make(hosts=[redis.tcp, f"{redis.tcp}/1"])
    own = await layer.new_channel()
    for group in ("a", "b", "c", "d"):
        await layer.group_add(group, own)
        await layer.group_send(group, {"type": group})
        await layer.send("jobs", {"type": group})
    stats = await layer.stats()
    assert stats.pending == {own: 4, "jobs": 4}
    other = make(hosts=layer._configuration["hosts"])
    waits = await waiting(other, "late")
    await layer.group_add("late", "late")
    await layer.group_send("late", {"type": "x"})
    assert (await soon(waits))["type"] == "x"
    await layer.group_discard("late", "late")
    for number in range(5):
        await make(hosts=layer._configuration["hosts"]).send("late", {"type": "x", "number": number})
        assert (await soon(other.receive("late")))["number"] == number
    assert await layer.groups(own) == sorted(stats.groups) == ["a", "b", "c", "d"]
    assert [(await soon(layer.receive(own)))["type"] for _ in range(4)] == ["a", "b", "c", "d"]
    assert [(await soon(layer.receive("jobs")))["type"] for _ in range(4)] == ["a", "b", "c", "d"]
    await layer.send("jobs", {"type": "x"})
    await layer.flush()
    assert await asyncio.to_thread(redis.ask, "DBSIZE") == ":0"
    assert (await layer.stats()).pending == {}


async def test_the_longest_expiry(make: Make) -> None:
    """A longer expiry than the layer's is cut to that; memberships that have expired are in no answer."""
    layer = make(expiry=1, group_expiry=1)
    await layer.group_add("room", "jobs")
    await layer.send("jobs", {"type": "x"}, expiry=600)
    (key,) = [key async for _, key, group in layer._keys() if group is None]
    (envelope,) = await layer._live(layer.connection(0), key)
    assert envelope["expires_at"] - envelope["sent_at"] == 1000
    await layer.connection(0).zadd(f"{layer.prefix}:group:room", {"jobs": time.time() - 1.01})
    assert (await layer.group_channels("room"), await layer.group_count("room"), await layer.groups("jobs")) == (
        [],
        0,
        [],
    )
    assert (await layer.stats()).groups == {}


async def test_what_nobody_receives_in_the_process(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages for an own channel whose receiver has ended leave the process's memory when they have expired."""
    layer = make(expiry=0.05)
    gone, here = await layer.new_channel(), await layer.new_channel()
    for channel in (gone, here):
        await layer.send(channel, {"type": "x"})
    await soon(layer.receive(here))
    assert list(layer.receive_buffer) == [gone]
    await asyncio.sleep(0.1)
    monkeypatch.setattr("channels_lite.layers.redis.SWEEP", 0)
    await layer.send(here, {"type": "x"})
    await soon(layer.receive(here))
    assert list(layer.receive_buffer) == []


async def test_sentinels_have_our_defaults(make: Make) -> None:
    """As many connections as receivers need, and no time-out, to the server that Sentinel tells of and to Sentinel."""
    layer = make(hosts=[{"sentinels": [("127.0.0.1", 1)], "master_name": "main"}])
    pool = layer.connection(0).connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for each in (pool, sentinel.connection_pool):
        assert each.max_connections > 10_000
        assert each.make_connection().socket_timeout is None


async def test_clean_expired(make: Make) -> None:
    """clean_expired() removes what has expired, and says how much."""
    layer = make(expiry=0.05, group_expiry=0.05)
    await layer.send("jobs", {"type": "x"})
    await layer.group_add("room", "jobs")
    await layer.group_add("room", "more")
    await asyncio.sleep(0.1)
    assert await layer.clean_expired() == (1, 2)
    assert await layer.clean_expired() == (0, 0)


# Connections, loops and processes.


async def test_many_receivers(make: Make) -> None:
    """More receivers on normal channels than redis-py has connections by itself all get their messages."""
    layer = make()
    tasks = [asyncio.ensure_future(layer.receive(f"jobs-{number}")) for number in range(120)]
    await asyncio.sleep(0)
    for number in range(120):
        await layer.send(f"jobs-{number}", {"type": "x", "number": number})
    assert [message["number"] for message in await soon(asyncio.gather(*tasks))] == list(range(120))


async def test_who_waits_for_long(make: Make, redis: Redis) -> None:
    """redis-py does not give up while the server says for seconds that there is no message, unless it is told to."""
    assert make().connection(0).connection_pool.make_connection().socket_timeout is None
    layer = make(hosts=[{"address": redis.unix, "socket_timeout": 9}])
    assert layer.connection(0).connection_pool.make_connection().socket_timeout == 9


async def test_closed_from_another_thread(make: Make) -> None:
    """layer.sync.close() ends the receivers of other loops with LayerClosed; the next use connects again."""
    layer = make()
    tasks = [await waiting(layer, channel) for channel in ("jobs", await layer.new_channel())]
    while (await layer.connection(0).info("clients"))["blocked_clients"] < 2:  # noqa: ASYNC110 # the server's
        await asyncio.sleep(0.01)
    await apart(lambda: layer.sync.close())
    for task in tasks:
        with pytest.raises(LayerClosed):
            await soon(task)
    await layer.send("jobs", {"type": "x"})
    assert await soon(layer.receive("jobs")) == {"type": "x"}


async def test_close_closes_connections(make: Make) -> None:
    """Those of the running loop, and three receivers on one channel end together."""
    layer, onlooker = make(), make(prefix="onlooker")
    channel = await layer.new_channel()
    tasks = [await waiting(layer, channel) for _ in range(3)]
    count = onlooker.connection(0).info
    while (await count("clients"))["blocked_clients"] < 1:  # noqa: ASYNC110 # the server's
        await asyncio.sleep(0.01)
    await layer.close()
    for task in tasks:
        with pytest.raises(LayerClosed):
            await soon(task)
    while (await count("clients"))["connected_clients"] > 1:  # noqa: ASYNC110 # the server's
        await asyncio.sleep(0.01)


async def test_sync_where_a_loop_runs(make: Make) -> None:
    """In a coroutine layer.sync is refused, as on SQLite; a channel that is full is named."""
    layer = make(capacity=1)
    with pytest.raises(LoopRunning, match="await the method of the layer"):
        layer.sync.send("jobs", {"type": "x"})
    await layer.send("jobs", {"type": "x"})
    with pytest.raises(ChannelFull, match="jobs"):
        await apart(lambda: layer.sync.send("jobs", {"type": "x"}))


FORK = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from channels_lite.layers.redis import RedisChannelLayer
layer = RedisChannelLayer(hosts=[sys.argv[1]])

async def first():
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "warm up"})
    await layer.receive(channel)
    return channel

async def parent(channel):
    return [(await asyncio.wait_for(layer.receive(channel), 20))["number"] for _ in range(20)]

async def child(channel):
    own = await layer.new_channel()
    assert own.partition("!")[0] != channel.partition("!")[0], own
    waits = asyncio.ensure_future(layer.receive(own))
    for number in range(20):
        await layer.send(channel, {"type": "x", "number": number})
        await asyncio.sleep(0.01)
    await layer.send(own, {"type": "own"})
    assert (await asyncio.wait_for(waits, 20))["type"] == "own"

channel = asyncio.run(first())
pid = os.fork()
if pid == 0:
    asyncio.run(child(channel))
    os._exit(0)
print(asyncio.run(parent(channel)) == list(range(20)), os.waitpid(pid, 0)[1])
"""


def test_a_fork(redis: Redis) -> None:
    """A forked child has a name of its own: it takes none of its parent's messages."""
    command = [sys.executable, "-c", FORK, redis.unix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


# Around it.


def test_in_tests(redis: Redis) -> None:
    """own_layer() is one on SQLite with the entry's options, so that no test needs a server."""
    config = {"hosts": ["redis://127.0.0.1:1"], "capacity": 3, "database": "default"}
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": REDIS, "CONFIG": config}}):
        with own_layer(expiry=5) as layer:
            assert isinstance(layer, AIOSQLiteChannelLayer)
            assert (layer.options.capacity, layer.options.expiry) == (3, 5)
            layer.sync.send("jobs", {"type": "x"})
        assert isinstance(get_channel_layer(), RedisChannelLayer)


@pytest.fixture
def project(redis: Redis, tmp_path: Path) -> Project:
    """A project whose layer is on Redis; another entry is on a server that is not there."""
    layers = {"default": (REDIS, {"hosts": [redis.unix]}), "gone": (REDIS, {"hosts": ["redis://127.0.0.1:1"]})}
    return Project(tmp_path, layers, DATABASE_ROUTERS=["channels_lite.router.ChannelsRouter"])


def test_commands(project: Project, redis: Redis) -> None:
    """migrate and the commands work: one shows what is in Redis, the other says that there is nothing to do."""
    project.manage("migrate", "--verbosity", "0")
    layer = RedisChannelLayer(hosts=[redis.unix])
    layer.sync.send("jobs", {"type": "x"})
    layer.sync.group_add("room", "jobs")
    shown = project.manage("channels_stats", "--layer", "default")
    assert "jobs" in shown
    assert "room" in shown
    assert "-wal" not in shown
    assert "layer 'gone': Redis cannot be asked" in project.manage("channels_stats", code=1)
    cleaned = project.manage("clean_channels")
    assert cleaned.count("nothing to do, Redis removes what has expired by itself") == 2


def test_metrics(redis: Redis) -> None:
    """Prometheus gets the numbers of a layer on Redis, and of one whose server is away, that it is."""
    layers = {
        "here": {"BACKEND": REDIS, "CONFIG": {"hosts": [redis.unix]}},
        "gone": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}},
    }
    with override_settings(CHANNEL_LAYERS=layers):
        get_layer("here").sync.send("jobs", {"type": "x"})
        metrics = {metric.name: metric.samples for metric in Collector("here", "gone").collect()}
    up = {sample.labels["layer"]: sample.value for sample in metrics["channels_lite_up"]}
    assert up == {"here": 1, "gone": 0}
    (pending,) = metrics["channels_lite_pending_messages"]
    assert (pending.labels["channel"], pending.value) == ("jobs", 1)


SETTINGS = """
import os
from chat.settings import *

CHANNEL_LAYERS["default"]["BACKEND"] = "channels_lite.layers.redis.RedisChannelLayer"
CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] = [os.environ["CHAT_REDIS"]]
"""


async def test_the_chat(redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another BACKEND the example works as it is: two web workers, the bot's, and manage.py say."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "on_redis.py").write_text(SETTINGS)
    chat = Chat(tmp_path, DJANGO_SETTINGS_MODULE="on_redis", PYTHONPATH=str(tmp_path), CHAT_REDIS=redis.tcp)
    server = chat.start_servers(workers=2)
    bot = chat.manage("runworker", "dice")
    try:
        async with chat.crowd("lobby", 4, processes=2) as crowd:
            for browser in crowd:
                await browser.say(f"from {browser.welcome['process']}")
            for browser in crowd:
                heard = [(await browser.next("said"))["text"] for _ in crowd]
                assert len(set(heard)) == 2
            await crowd[0].say("/roll 2d6")
            for browser in crowd:
                await browser.next("said", name="Dice bot")
            assert await chat.say("lobby", "Hello from a script") == 0
            for browser in crowd:
                await browser.next("said", text="Hello from a script")
    finally:
        end(server)
        end(bot)
    assert "Traceback" not in chat.log, chat.log
    assert not list(tmp_path.glob("*.sqlite3*"))
