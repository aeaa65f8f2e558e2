"""Settings of the restaurant. ``ORDERS_DATA`` is the folder of the database, seen from the one of manage.py."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
DATA = BASE_DIR / os.environ.get("ORDERS_DATA", "")

SECRET_KEY = "insecure: for development on this machine only"
INSTALLED_APPS = ["channels_lite", "orders"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "orders.sqlite3",
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 5,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    },
}

# The messages go into that database itself: a trigger reaches no other file.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.core.SQLiteChannelLayer",
        "CONFIG": {"database": "default"},
    },
}
