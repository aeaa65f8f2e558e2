"""The command ``manage.py channels_stats``: what is going on in the layers, once or again and again."""

import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from channels.exceptions import InvalidChannelLayerError
from django.core.management.base import BaseCommand, CommandError, CommandParser, no_translations

from channels_lite import schema, stats
from channels_lite.entries import Entry
from channels_lite.errors import ChannelsLiteError
from channels_lite.layers import get_layer
from channels_lite.management import selection
from channels_lite.stats import Stats
from channels_lite.visit import FAILURES, Visit

EVERY = 1.0  # seconds between two looks with --watch
PIPE = 1_000  # columns where there is no terminal


class Look(NamedTuple):
    """What is seen of an entry of CHANNEL_LAYERS."""

    file: str
    seen: Stats | str
    """The stats, or in words why there is nothing to be seen."""
    failed: bool = False
    """Whether it is an error that there is nothing."""

    def plain(self) -> Stats | dict[str, str]:
        """For JSON, an object in any case."""
        if isinstance(self.seen, Stats):
            return self.seen
        return {"error" if self.failed else "nothing": self.seen}


Looks = Iterator[dict[str, Look]]


class Command(BaseCommand):
    """Show the stats of the layers in CHANNEL_LAYERS, without being one of their processes. Changes nothing."""

    requires_system_checks = ("channels_lite",)  # others open the files of apsw layers with Django
    help = "Shows what waits in the channel layers, who is in their groups, and what their processes have done."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--layer", metavar="NAME", help="only this entry of CHANNEL_LAYERS")
        parser.add_argument("--json", action="store_true", help="a line of JSON for each look, instead of tables")
        parser.add_argument(
            "--watch", metavar="SECONDS", nargs="?", type=_seconds, const=EVERY,
            help=f"look again every so many seconds ({EVERY:g}), until Ctrl-C",
        )  # fmt: skip

    @no_translations
    def handle(self, *, layer: str | None, json: bool, watch: float | None, **options: Any) -> None:
        looks = _looks(selection.of(layer), watch)
        show = self._print if json else self._watch if watch is not None else self._draw
        try:
            show(looks)
        except KeyboardInterrupt:
            return

    def _print(self, looks: Looks) -> None:
        for found in looks:
            plain = {name: look.plain() for name, look in found.items()}
            self.stdout.write(msgspec.json.encode(plain).decode())
            self.stdout.flush()
        _fail(found)

    def _draw(self, looks: Looks) -> None:
        found = next(looks)
        console = _console(self.stdout)
        with console.capture() as drawn:
            console.print(_tables({name: look for name, look in found.items() if not look.failed}))
        self.stdout.write(drawn.get())
        _fail(found)

    def _watch(self, looks: Looks) -> None:
        console = _console(self.stdout)
        if not console.is_terminal:
            for found in looks:
                console.print(_tables(found), "")
        from rich.live import Live

        with Live(console=console, auto_refresh=False, screen=True) as live:
            for found in looks:
                live.update(_tables(found), refresh=True)


def _looks(entries: list[Entry], pause: float | None) -> Looks:
    """What is seen of each entry, by name: once, or again and again after ``pause`` seconds."""
    while True:
        yield {entry.name: _look(entry) for entry in entries}
        if pause is None:
            return
        time.sleep(pause)


def _look(entry: Entry) -> Look:
    if not entry.has_database:
        return _look_at_redis(entry)
    try:
        visit = Visit(entry)
        if nothing := visit.in_vain():
            return Look(visit.path, nothing + visit.remedy)
        with visit.reading() as execute:
            schema.check(execute, schema.steps(), visit.path, visit.upgrade)
            return Look(visit.path, stats.look_from_outside(execute, visit.path, entry.options.prefix))
    except (InvalidChannelLayerError, ChannelsLiteError, *FAILURES) as error:
        return Look("", str(error), failed=True)


def _look_at_redis(entry: Entry) -> Look:
    try:
        seen = get_layer(entry.name).sync.stats()
    except entry.backend.failures as error:
        return Look("", f"Redis cannot be asked: {error}", failed=True)
    return Look("Redis", msgspec.structs.replace(seen, processes=[]))  # this one is no process of the layer


def _fail(found: dict[str, Look]) -> None:
    failures = [f"layer {name!r}: {look.seen}" for name, look in found.items() if look.failed]
    if failures:
        raise CommandError("\n".join(failures))


def _console(out: Any) -> Any:
    """What draws to this output; without rich, an error that says what to do."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise CommandError(
            f"The tables are drawn by rich ({error}): pip install 'channels-lite[stats]', or take --json."
        ) from error
    stream = out._out  # its own write() ends each piece with a line feed
    # What reads a pipe wants each row in one line, however long.
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPE)


def _tables(found: dict[str, Look]) -> Any:
    from rich.console import Group

    from channels_lite.management import table

    parts = [part for name, look in found.items() for part in ("", table.of(name, look.file, look.seen))]
    return Group(*parts[1:])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0, up to 86400.")
    return seconds
