"""The stats of a layer as tables on a terminal."""

import os
from collections.abc import Mapping, Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from channels_lite.cleaning import size
from channels_lite.stats import Process, Stats

MOST = 10  # channels, and groups, that are shown


def of(name: str, file: str, seen: Stats | str) -> RenderableType:
    """What is shown of the entry ``name`` of CHANNEL_LAYERS; ``seen`` is a text where there is nothing to be seen."""
    title = Text.assemble((name, "bold"), "  ", os.path.basename(file))
    if isinstance(seen, str):
        return title.append(f"  {seen}", "yellow")
    on_redis = seen.watcher == "redis"
    more = "" if on_redis else f", -wal {size(seen.wal_bytes)}, schema {seen.schema_version}"
    title.append(f"  {size(seen.database_bytes)}{more}", "dim")
    title.append(f"\n{_age(seen)}")
    waiting = _numbers("channel", "messages waiting", seen.pending)
    groups = _numbers("group", "members", seen.groups)
    parts: list[RenderableType] = [title, "", Columns([waiting, groups], padding=(0, 6))]
    return Group(*parts) if on_redis else Group(*parts, "", _processes(seen.processes, seen))


def _age(seen: Stats) -> str:
    if not seen.pending:
        return "nothing waits"
    if seen.oldest_age is None:
        return "since when the oldest message waits, nobody knows"
    return f"the oldest message waits for {seen.oldest_age:,.1f} s"


def _numbers(what: str, unit: str, numbers: Mapping[str, int]) -> Table:
    table = _table(what)
    table.add_column(unit, justify="right")
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    for name, number in ranked[:MOST]:
        table.add_row(Text(name), f"{number:,}")
    if rest := ranked[MOST:]:
        table.add_row(Text(f"{len(rest):,} more", "dim"), f"{sum(number for _, number in rest):,}")
    if not numbers:
        table.add_row(Text("none", "dim"), "")
    return table


def _processes(processes: Sequence[Process], together: Stats) -> Table:
    table = _table("process")
    for heading in ("sent", "received", "in memory", "busy retries"):
        table.add_column(heading, justify="right")
    table.add_column("dropped")
    table.add_column("hears by")
    for process in processes:
        numbers = (process.sent, process.received, process.parked, process.busy_retries)
        table.add_row(str(process.pid), *map("{:,}".format, numbers), _dropped(process.dropped), process.watcher)
    if len(processes) > 1:
        parked = sum(process.parked for process in processes)
        numbers = (together.sent, together.received, parked, together.busy_retries)
        table.add_row("together", *map("{:,}".format, numbers), _dropped(together.dropped), "", style="bold")
    if not processes:
        table.add_row(Text("none runs", "dim"))
    return table


def _dropped(by_reason: Mapping[str, int]) -> Text:
    told = [f"{number:,} {reason.replace('_', ' ')}" for reason, number in by_reason.items() if number]
    return Text(", ".join(told), "red") if told else Text("0", "dim")


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column(first)
    return table
