"""Django settings for the tests: databases in a folder of this run's own."""

import atexit
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="channels-lite-tests-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

SECRET_KEY = "only for tests, and long enough for them"
USE_TZ = True
INSTALLED_APPS = ["channels", "channels_lite"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3"},
    "channels": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "channels.sqlite3",
        "OPTIONS": {"timeout": 3},
    },
    "core": {"ENGINE": "django.db.backends.sqlite3", "NAME": ""},  # the fixture `alias` sets it
    "postgres": {"ENGINE": "django.db.backends.postgresql", "NAME": "never opened"},
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
        "CONFIG": {"database": "channels"},
    },
    "memory": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
}
