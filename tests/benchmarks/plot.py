"""Figures of what was measured, as PNG: how round trips spread, and what grows with members, writers and rows."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks import names
from tests.benchmarks.results import Result

SPREAD = {
    names.SPECIFIC: "Send and receive, process-specific channel",
    names.ROUND_TRIP: "Round trip between processes",
    names.ROUND_TRIP_APART: "Round trip between two cores",
}
OURS = ("#0072B2", "#D55E00")  # these colours and the others are those of Okabe and Ito
COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = "osD^vPX*<>"
DASHES = ("--", ":", "-.", (0, (8, 2)))  # with six colours: no two contenders have the same

Median = Callable[[Result], float]


def draw(results: Sequence[Result], folder: str) -> list[str]:
    """Draw into PNG files in this folder: their paths. Needs matplotlib."""
    os.makedirs(folder, exist_ok=True)
    results = [result for result in results if result.rounds]
    sheets = {
        "latency.png": [(title, _of(results, work), _spread) for work, title in SPREAD.items()],
        "groups.png": [(work, _of(results, work), _members) for work in _sized(results, names.MEMBERS)],
        "writers.png": [
            ("Sends a second, all processes together", _of(results, names.WRITERS_THROUGHPUT), _throughput),
            ("Longest wait of one send", _of(results, names.WRITERS_WAIT), _longest),
        ],
        "backlog.png": [(work, _of(results, work), _rows) for work in _sized(results, names.PENDING)],
    }
    styles = _styles(results)
    return [
        _sheet(os.path.join(folder, name), [panel for panel in panels if panel[1]], styles)
        for name, panels in sheets.items()
        if any(shown for _, shown, _ in panels)
    ]


def _of(results: Sequence[Result], work: str) -> list[Result]:
    return [result for result in results if result.work == work]


def _sized(results: Sequence[Result], what: str) -> list[str]:
    """Works whose sizes are this and that were measured at several ones, in the order of their first result."""
    sizes: dict[str, set[float]] = {}
    for result in results:
        if names.SIZES.get(result.work) == what and result.unit == "s" and result.size is not None:
            sizes.setdefault(result.work, set()).add(result.size)
    return [work for work, several in sizes.items() if len(several) > 1]


def _styles(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """How each contender's line looks, the same in all figures: ours are thick and unbroken."""
    contenders = sorted({result.contender: None for result in results}, key=lambda name: name not in names.OURS)
    return {
        name: {
            "color": OURS[number] if name in names.OURS else COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "-" if name in names.OURS else DASHES[number % len(DASHES)],
            "linewidth": 2.8 if name in names.OURS else 1.5,
            "zorder": 3 if name in names.OURS else 2,
            "markersize": 6,
        }
        for number, name in enumerate(contenders)
    }


def _sheet(path: str, panels: Sequence[tuple[str, list[Result], Any]], styles: dict[str, dict[str, Any]]) -> str:
    """One figure with its panels side by side, at most two in a row, and one legend below."""
    from matplotlib.figure import Figure

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 * columns, 4.4 * rows + 0.9), dpi=120, layout="constrained")
    lines: dict[str, Any] = {}
    for number, (title, shown, kind) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(title)
        axes.grid(visible=True, which="major", alpha=0.3)
        kind(axes, shown, styles)
        lines |= {str(line.get_label()): line for line in axes.get_lines()}
    in_order = [name for name in styles if name in lines]
    figure.legend(
        [lines[name] for name in in_order], in_order, loc="outside lower center", ncols=2 * columns, frameon=False
    )
    figure.savefig(path)
    return path


def _spread(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]]) -> None:
    """The share of samples that took no longer than so many microseconds."""
    for result in shown:
        samples = sorted(sample * 1e6 for one in result.rounds for sample in one)
        shares = [(number + 1) / len(samples) for number in range(len(samples))]
        axes.plot(
            samples, shares, label=result.contender, **styles[result.contender], markevery=max(1, len(samples) // 8)
        )
    axes.set_xscale("log")
    axes.set_xlabel("microseconds")
    axes.set_ylabel("share of samples that took no longer")


def _curves(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]], value: Median) -> None:
    """A line for each contender over the sizes."""
    for name in styles:
        mine = sorted((r for r in shown if r.contender == name), key=lambda result: result.size or 0)
        if mine:
            axes.plot([result.size for result in mine], [value(r) for r in mine], label=name, **styles[name])


def _ticks(axes: Any, shown: Sequence[Result]) -> None:
    """A tick at each size that was measured, and only there."""
    sizes = sorted({result.size or 0 for result in shown})
    axes.set_xticks(sizes, [f"{size:,.0f}".replace(",", "\u202f") for size in sizes])
    axes.set_xticks([], minor=True)


def _members(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]]) -> None:
    _curves(axes, shown, styles, lambda result: result.quantile() * 1e3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("members of the group")
    axes.set_ylabel("milliseconds (median)")
    _ticks(axes, shown)


def _throughput(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]]) -> None:
    _curves(axes, shown, styles, lambda result: result.quantile())
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("processes that write at once")
    axes.set_ylabel("sends a second (median)")
    _ticks(axes, shown)


def _longest(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]]) -> None:
    _curves(axes, shown, styles, lambda result: result.worst() * 1e3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("processes that write at once")
    axes.set_ylabel("milliseconds (worst of all rounds)")
    _ticks(axes, shown)


def _rows(axes: Any, shown: Sequence[Result], styles: dict[str, dict[str, Any]]) -> None:
    _curves(axes, shown, styles, lambda result: result.quantile() * 1e6)
    axes.set_xscale("symlog", linthresh=1000)  # none at all is one of the sizes
    axes.set_ylim(bottom=0)
    axes.set_xlabel(names.PENDING)
    axes.set_ylabel("microseconds (median)")
    _ticks(axes, shown)
