"""A site whose tests send and receive. The environment says on which databases."""

import os
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["PROJECT_FOLDER"])
IN_MEMORY = os.environ["PROJECT_DATABASE"] == "memory"  # or: file
ALIAS = os.environ["PROJECT_ALIAS"]  # the layer's: default, or channels for one of its own
LAYER = os.environ["PROJECT_LAYER"]  # core or aio
INSTALLED = os.environ["PROJECT_INSTALLED"] == "yes"  # whether channels_lite is in INSTALLED_APPS


def database(name: str) -> dict[str, Any]:
    """One whose test database is in memory or a file."""
    test = {} if IN_MEMORY else {"NAME": FOLDER / f"test-{name}.sqlite3"}
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / f"{name}.sqlite3", "TEST": test}


BACKENDS = {
    "core": "channels_lite.layers.core.SQLiteChannelLayer",
    "aio": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
}

SECRET_KEY = "only for tests, and long enough for them"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["channels", "rooms", *(["channels_lite"] if INSTALLED else [])]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "urls"
ASGI_APPLICATION = "mysite.asgi.application"
STATIC_URL = "static/"
DATABASES = {name: database(name) for name in ("default", "channels")}
CHANNEL_LAYERS = {"default": {"BACKEND": BACKENDS[LAYER], "CONFIG": {"database": ALIAS}}}

# Whoever runs the tests looks for this word.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "LOGGED %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
