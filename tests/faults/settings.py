"""Django settings for the processes of this folder: the layer that the environment names, on the file that it names."""

import json
import os

FILE = os.environ["FAULTS_FILE"]
CORE = os.environ.get("FAULTS_KIND") == "core"
OPTIONS = json.loads(os.environ.get("FAULTS_OPTIONS", "{}"))

SECRET_KEY = "only for tests, and long enough for them"
USE_TZ = True
INSTALLED_APPS = ["channels"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FILE if CORE else ":memory:"}}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_lite.layers.core.SQLiteChannelLayer", "CONFIG": OPTIONS}
    if CORE
    else {"BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer", "CONFIG": {"path": FILE, **OPTIONS}}
}
