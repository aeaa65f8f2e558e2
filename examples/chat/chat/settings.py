"""Settings of the chat. What a machine may want otherwise comes from the environment:

``CHAT_DATA``        the folder of the databases, seen from the one of manage.py, which is the default
``CHAT_DEBUG``       0 turns Django's debug pages off
``CHAT_SECRET_KEY``  the same long and random text for all processes; needed as soon as they are off
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA = BASE_DIR / os.environ.get("CHAT_DATA", "")
DATA.mkdir(parents=True, exist_ok=True)

DEBUG = os.environ.get("CHAT_DEBUG", "1") == "1"
SECRET_KEY = os.environ.get("CHAT_SECRET_KEY") or ("insecure: for development on this machine only" if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("CHAT_DEBUG is off: set CHAT_SECRET_KEY to a long and random text.")
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = ["channels", "channels_lite", "chat"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "chat.urls"
ASGI_APPLICATION = "chat.asgi.application"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "db.sqlite3"}}

# The messages go into db-channels.sqlite3 beside that database. It is made when first needed.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer",
        "CONFIG": {"database": "default"},
    },
}
