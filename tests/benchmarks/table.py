"""The benchmark's tables, in Markdown: a row for each contender, beside each value the ratio to our apsw layer."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apsw

from tests.benchmarks import names
from tests.benchmarks.contenders import Missing
from tests.benchmarks.results import Result

CAPTION = "In brackets: how many times as good our apsw layer is. Below 1, the other one is better."
QUANTILES = {names.P50: "", names.P99: ", p99", names.WORST: ", worst"}


class Column(NamedTuple):
    """What one column shows."""

    title: str
    work: str
    size: float | None
    quantile: float


def machine(redis: str = "") -> str:
    """One line that says where and with what this was measured."""
    said = [
        f"{datetime.date.today()}, {os.cpu_count()} cores ({_model()})",
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        *(f"{name} {_version(package)}" for name, package in (("Django", "django"), ("Channels", "channels"))),
        f"SQLite {sqlite3.sqlite_version}, apsw {apsw.apsw_version()}",
    ]
    if redis:
        said.append(f"Redis {redis}")
        said += [f"{name} {_version(name)}" for name in ("channels_redis", "redis", "hiredis")]
    return ", ".join(said)


def _model() -> str:
    """What the processor calls itself, as far as the system tells."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def tables(part: str, results: Sequence[Result]) -> Iterator[str]:
    """All tables of a part, as lines: one for what has no sizes, and one for each work that has."""
    plain = [result for result in results if result.size is None]
    if plain:
        yield from _table(part, plain)
    for work in dict.fromkeys(result.work for result in results if result.size is not None):
        yield from _table(f"{work}, by {names.SIZES[work]}", [result for result in results if result.work == work])
    notes = dict.fromkeys((result.contender, _where(result), result.reason) for result in results if result.reason)
    for contender, where, reason in notes:
        yield f"- {contender}, {where}: {reason}"
    if notes:
        yield ""


def absent(missing: Iterable[Missing]) -> Iterator[str]:
    """Who could not be measured at all, as lines."""
    for one in missing:
        yield f"- not measured: {one.name}: {one.reason}"


def _where(result: Result) -> str:
    """The work without which of its figures it is, and the size."""
    work = result.work.partition(":")[0]
    return work if result.size is None else f"{work}, {_number(result.size)}"


def _table(title: str, results: Sequence[Result]) -> Iterator[str]:
    columns = _columns(results)
    found = {(result.contender, result.work, result.size): result for result in results}
    yield f"| {title} | {' | '.join(column.title for column in columns)} |"
    yield "|---|" + "---|" * len(columns)
    for contender in dict.fromkeys(result.contender for result in results):
        cells = (_cell(found, contender, column) for column in columns)
        yield f"| {contender} | {' | '.join(cells)} |"
    yield ""


def _columns(results: Sequence[Result]) -> list[Column]:
    seen = sorted(
        dict.fromkeys((result.work, result.size) for result in results),
        key=lambda one: -1 if one[1] is None else one[1],
    )
    return [
        Column(f"{work if size is None else _number(size)}{QUANTILES[quantile]}", work, size, quantile)
        for work, size in seen
        for quantile in names.QUANTILES.get(work, (names.P50,))
    ]


def _cell(found: dict[tuple[str, str, float | None], Result], contender: str, column: Column) -> str:
    result = found.get((contender, column.work, column.size))
    if result is None or not result.rounds:
        return "-"
    value = result.quantile(column.quantile)
    ours = found.get((names.APSW, column.work, column.size))
    if contender == names.APSW or ours is None or not ours.rounds:
        return shown(value, result.unit)
    mine = ours.quantile(column.quantile)
    above, below = (mine, value) if result.unit == "1/s" else (value, mine)
    return f"{shown(value, result.unit)} ({_three(above / below)})" if below else shown(value, result.unit)


def shown(value: float, unit: str) -> str:
    """A value as a reader wants it."""
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms")):
            if value >= factor:
                return f"{_three(value / factor)} {name}"
        return f"{_three(value * 1e6)} µs"
    if unit == "1/s":
        return f"{_number(value)}/s"
    if unit == "bytes":
        return f"{_three(value / 1000)} kB"
    return f"{value * 100:.3f} %" if unit == "cores" else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _three(value: float) -> str:
    """Three digits that count."""
    return _number(value) if abs(value) >= 100 else f"{value:.3g}"
