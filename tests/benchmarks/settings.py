"""Django's settings for the children: all layers, and their databases in the folder that the environment names.

The children with channels-lite 0.4.0 run on them too, in folders of their own. All layers keep their defaults, among
them the capacity, which is 100 with all: no work has more than 100 messages pending on one channel.
"""

import os
from typing import Any

FOLDER = os.environ["CHANNELS_LITE_BENCHMARK"]
REDIS = os.environ.get("CHANNELS_LITE_BENCHMARK_REDIS", "redis://127.0.0.1:6379")  # or unix:///path
WAL = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}
OURS = "channels_lite.layers"


def _file(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{FOLDER}/{name}.sqlite3",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 5, **WAL},  # as the README has it
    }


def _both(name: str, backend: str, **config: Any) -> dict[str, Any]:
    keys = {"symmetric_encryption_keys": ["only for measuring"]}
    if "prefix" in config:  # on one Redis
        keys["prefix"] = config["prefix"] + "-encrypted"
    return {
        name: {"BACKEND": backend, "CONFIG": config},
        f"{name}-encrypted": {"BACKEND": backend, "CONFIG": {**config, **keys}},
    }


def _redis(name: str, backend: str) -> dict[str, Any]:
    # redis-py 8.1 gives up after 5 s without an answer, which is as long as the core layer lets the server block: a
    # receiver for whom there is nothing would end with TimeoutError.
    # Its pool has 100 connections, and a core layer with as many receivers takes one for each.
    host = {"address": REDIS, "socket_timeout": None, "max_connections": 10_000}
    return _both(name, f"channels_redis.{backend}", hosts=[host], prefix=f"{name}-{REDIS.partition(':')[0]}")


SECRET_KEY = "only for measuring, and long enough for it"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_lite"]
DATABASES = {"default": _file("default"), "apsw": _file("apsw")}
CHANNEL_LAYERS = {
    **_both("apsw", f"{OURS}.aio.AIOSQLiteChannelLayer", database="apsw"),
    **_both("core", f"{OURS}.core.SQLiteChannelLayer", database="default"),
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "bare": {"BACKEND": "bare.BareLayer", "CONFIG": {"path": f"{FOLDER}/bare.sqlite3"}},
    **_redis("redis-core", "core.RedisChannelLayer"),
    **_redis("redis-pubsub", "pubsub.RedisPubSubChannelLayer"),
}
