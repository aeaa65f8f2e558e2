"""A Django project in a folder, run in processes of its own as its user would."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds until a process that hangs fails its test
AIO = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
CORE = "channels_lite.layers.core.SQLiteChannelLayer"
FOREIGN = "channels.layers.InMemoryChannelLayer"
ROUTER = "channels_lite.router.ChannelsRouter"

Layers = Mapping[str, tuple[str, Mapping[str, Any]]]


class Project:
    """Settings with the databases ``default`` and ``channels`` and with these layers: name to BACKEND and CONFIG."""

    def __init__(self, folder: Path, layers: Layers = {}, **settings: Any) -> None:  # noqa: B006 # never changed
        self.folder = folder
        databases = {
            alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": self.file(name)}
            for alias, name in (("default", "db.sqlite3"), ("channels", "channels.sqlite3"))
        }
        everything = {
            "SECRET_KEY": "only for tests",
            "USE_TZ": True,
            "DEBUG": True,  # Django then formats each statement once more for its log
            "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
            "INSTALLED_APPS": ["channels_lite"],
            "DATABASES": databases,
            "CHANNEL_LAYERS": {name: {"BACKEND": kind, "CONFIG": dict(rest)} for name, (kind, rest) in layers.items()},
            **settings,
        }
        lines = [f"{name} = {value!r}\n" for name, value in everything.items()]
        (folder / "project_settings.py").write_text("".join(lines), encoding="utf-8")

    def file(self, name: str) -> str:
        """The path of a file in the project's folder."""
        return str(self.folder / name)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start Python in the project."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "DJANGO_SETTINGS_MODULE": "project_settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, typed: str = "", code: int = 0) -> str:
        """Run Python in the project to its end and return what it printed."""
        process = self.start(*arguments)
        printed, _ = process.communicate(typed, timeout=PATIENCE)
        assert process.returncode == code, printed
        return printed

    def manage(self, *arguments: str, **options: Any) -> str:
        """``manage.py`` with these arguments."""
        return self.run("-m", "django", *arguments, **options)

    def script(self, text: str) -> str:
        """Run a script after django.setup()."""
        return self.run("-c", f"import django\ndjango.setup()\n{text}").strip()

    def sql(self, statement: str, *parameters: Any, name: str = "db.sqlite3") -> list[Any]:
        """Run a statement on one of the project's files, while no process of its uses it."""
        with contextlib.closing(sqlite3.connect(self.file(name))) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    def tables(self, name: str = "db.sqlite3") -> set[str]:
        """The tables and views in a file; none where there is no file."""
        if not os.path.exists(self.file(name)):
            return set()
        return {row[0] for row in self.sql("SELECT name FROM sqlite_master WHERE type <> 'index'", name=name)}

    def version(self, name: str = "db.sqlite3") -> int:
        """The version of the schema in a file; 0 where there is none."""
        if "channels_lite_schema" not in self.tables(name):
            return 0
        return int(self.sql("SELECT max(version) FROM channels_lite_schema", name=name)[0][0])
