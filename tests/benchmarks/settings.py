"""Django's settings for the benchmark: its layers, and their databases in the folder that the environment names.

The child with channels-lite 0.4.0 runs on them too, in a folder of its own.
"""

import os
from typing import Any

FOLDER = os.environ["CHANNELS_LITE_BENCHMARK"]
WAL = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}  # as the README of 0.4.0 has it


def _file(name: str, **options: Any) -> dict[str, Any]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{FOLDER}/{name}.sqlite3", "OPTIONS": options}


SECRET_KEY = "only for measuring, and long enough for it"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_lite"]
DATABASES = {"default": _file("default", **WAL), "delete": _file("delete"), "apsw": _file("apsw")}
CHANNEL_LAYERS = {
    "core": {"BACKEND": "channels_lite.layers.core.SQLiteChannelLayer", "CONFIG": {"database": "default"}},
    "core-delete": {"BACKEND": "channels_lite.layers.core.SQLiteChannelLayer", "CONFIG": {"database": "delete"}},
    "apsw": {"BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer", "CONFIG": {"database": "apsw"}},
}
