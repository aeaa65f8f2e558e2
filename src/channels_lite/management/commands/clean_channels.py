"""The command ``manage.py clean_channels``: which layers to clean, and what it prints about them."""

import os
import time
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper, no_translations

from channels_lite import config
from channels_lite.cleaning import Cleaning
from channels_lite.entries import Entry
from channels_lite.errors import CleaningFailed
from channels_lite.management import selection

QUIET = 1.0  # seconds of work before progress is shown
REWRITE_EVERY = 0.2  # seconds between two states of the line on a terminal
LINE_EVERY = 5.0  # seconds between two lines elsewhere


class Command(BaseCommand):
    """Clean the databases of the channel layers. A failure in one does not keep the others from being cleaned."""

    requires_system_checks = ("channels_lite",)  # others open the files of apsw layers with Django
    help = "Removes expired messages and memberships from the channel layers' databases, and gives the space back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-vacuum", action="store_true", help="only remove; the files keep their size")
        parser.add_argument("--layer", metavar="NAME", help="only this entry of CHANNEL_LAYERS")

    @no_translations
    def handle(self, *, no_vacuum: bool, layer: str | None, verbosity: int, **options: Any) -> None:
        failures = []
        found = selection.of(layer)
        for entry in found:
            if not entry.has_database and verbosity > 0:
                self.stdout.write(f"layer {entry.name!r}: nothing to do, Redis removes what has expired by itself")
        for title, entry in _once_each_file([entry for entry in found if entry.has_database]):
            progress = Progress(self.stdout if verbosity > 0 else None, title)
            try:
                done = Cleaning(entry, vacuum=not no_vacuum, say=progress.say, progress=progress.show).run()
            except (CleaningFailed, InvalidChannelLayerError) as error:
                progress.clear()
                failures.append(f"{title}: {error}")
            else:
                progress.say(done)
        if failures:
            raise CommandError("\n".join(failures))


def _once_each_file(found: list[Entry]) -> list[tuple[str, Entry]]:
    """The entries that lead to different files, each with a title that names all that lead to its file."""
    groups: dict[object, list[Entry]] = {}
    for entry in found:
        try:
            groups.setdefault(_identity(entry), []).append(entry)
        except InvalidChannelLayerError as error:
            raise CommandError(f"layer {entry.name!r}: {error}") from error
    return [(_title(group), group[0]) for group in groups.values()]


def _identity(entry: Entry) -> object:
    file = entry.file()
    if file == config.MEMORY:
        return entry.name
    try:
        status = os.stat(file)
    except OSError:
        return os.path.realpath(file)
    return status.st_dev, status.st_ino


def _title(group: list[Entry]) -> str:
    names = ", ".join(repr(entry.name) for entry in group)
    return f"layer{'s'[: len(group) > 1]} {names} ({os.path.basename(group[0].file())})"


class Progress:
    """What is printed about one database: lines, and on a terminal one line that changes while work is long."""

    def __init__(self, out: OutputWrapper | None, title: str) -> None:
        self._out = out
        self._title = title
        self._terminal = out is not None and out.isatty()
        self._next = time.monotonic() + QUIET
        self._shown = 0  # characters of the changing line

    def say(self, text: str) -> None:
        """Print a line."""
        self.clear()
        if self._out is not None:
            self._out.write(f"{self._title}: {text}")
            self._out.flush()

    def show(self, done: int, expected: int) -> None:
        """Print how far the work is, if it is time to."""
        now = time.monotonic()
        if self._out is None or now < self._next:
            return
        text = f"{self._title}: {done} of {max(done, expected)} rows removed"
        self._next = now + (REWRITE_EVERY if self._terminal else LINE_EVERY)
        self._out.write(f"\r{text}" if self._terminal else text, ending="" if self._terminal else "\n")
        self._out.flush()
        self._shown = len(text) if self._terminal else 0

    def clear(self) -> None:
        """Take the changing line away."""
        if self._out is not None and self._shown:
            self._out.write("\r" + " " * self._shown + "\r", ending="")
            self._shown = 0
