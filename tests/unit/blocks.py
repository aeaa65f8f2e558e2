"""Settings of channels-lite 0.3: each block as its users have it in a settings module, and what it promises."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

CORE = "channels_lite.layers.core.SQLiteChannelLayer"
AIO = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
BACKENDS = {"core": CORE, "aio": AIO}

PROJECT = """\
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = "a key of this test's own, with enough entropy for it"
USE_TZ = True
INSTALLED_APPS = ["channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""

SEPARATE = """\
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
    },
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "channels.sqlite3",
        "OPTIONS": {
            "init_command": (
                "PRAGMA journal_mode=WAL; "
                "PRAGMA synchronous=NORMAL; "
                "PRAGMA busy_timeout=5000;"
            ),
        },
    },
}
"""

TUNED = """\
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            "init_command": (
                "PRAGMA journal_mode=WAL; "
                "PRAGMA synchronous=NORMAL; "
                "PRAGMA cache_size=10000; "
                "PRAGMA temp_store=MEMORY; "
                "PRAGMA busy_timeout=5000;"
            ),
        },
    },
}
"""

INSTALLED = """\
INSTALLED_APPS = [
    "channels",
    "channels_lite",
]
"""

CHANNEL_LAYERS = """\
CHANNEL_LAYERS = {{
    "default": {{
        "BACKEND": "{backend}",
        "CONFIG": {config},
    }},
}}
"""

PATTERNS = """{
            "database": "default",
            "capacity": 100,
            "channel_capacity": {
                "http.request": 200,
                "http.response!*": 10,
                "websocket.send!*": 20,
            },
        }"""

KEYS = """{
            "database": "default",
            "symmetric_encryption_keys": [SECRET_KEY],
        }"""


class Block(NamedTuple):
    """One of them: CONFIG as source, what stands around it in the settings, and what the layer must do with it."""

    config: str = '{"database": "default"}'
    around: str = ""
    alias: str = "default"
    capacities: Mapping[str, int | None] = MappingProxyType({})  # channel -> messages until it is full; None: never
    expiry: int = 60
    group_expiry: int = 86400
    serializer_format: str | None = None  # None: the layer's own
    encrypted: bool = False

    def settings(self, backend: str) -> str:
        """The text of a settings module with this block."""
        return PROJECT + self.around + CHANNEL_LAYERS.format(backend=backend, config=self.config)


def _config(alias: str = "default", **options: Any) -> str:
    return repr({"database": alias, **options})


BLOCKS = {
    "database": Block(),
    "separate database": Block(_config("channels"), SEPARATE + INSTALLED, alias="channels"),
    "expiry": Block(_config(expiry=60), expiry=60),
    "group_expiry": Block(_config(group_expiry=86400), group_expiry=86400),
    "capacity": Block(_config(capacity=100), capacities={"plain": 100}),
    "enforce_capacity": Block(_config(capacity=100, enforce_capacity=True), TUNED, capacities={"plain": 100}),
    "channel_capacity": Block(
        PATTERNS,
        TUNED,
        capacities={"plain": 100, "http.request": 200, "http.response!one": 10, "websocket.send!one": 20},
    ),
    "auto_trim": Block(_config(auto_trim=True), INSTALLED),
    "symmetric_encryption_keys": Block(KEYS, encrypted=True),
    "serializer_format": Block(_config(serializer_format="json"), serializer_format="json"),
    "polling_interval": Block(_config(polling_interval=0.1)),
    "polling_idle_timeout": Block(_config(polling_idle_timeout=1800)),
    "pool_size": Block(_config(pool_size=10)),
    "tuned database": Block(around=TUNED),
}

# What the same text says beside the blocks: the other values that it names, and that a value may be turned up or down.
OTHER_VALUES = {
    "other lives": Block(_config(expiry=30, group_expiry=600), expiry=30, group_expiry=600),
    "lower capacity": Block(_config(capacity=3), capacities={"plain": 3, "specific!one": 3}),
    "no capacity": Block(_config(capacity=3, enforce_capacity=False), capacities={"plain": None, "specific!one": None}),
    "msgpack": Block(_config(serializer_format="msgpack"), serializer_format="msgpack"),
}
