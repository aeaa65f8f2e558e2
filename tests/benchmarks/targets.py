"""What is to be reached, as ratios of figures of one run, and whether it was."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.benchmarks import names
from tests.benchmarks.contenders import Missing
from tests.benchmarks.results import Result
from tests.benchmarks.table import shown

Measured = dict[tuple[str, str, float | None], Result]


class Figure(NamedTuple):
    """A quantile of a contender's work."""

    work: str
    contender: str = names.APSW
    size: float | None = None
    quantile: float = names.P50
    each: bool = False
    """Divided by the size: what each member costs."""

    def of(self, measured: Measured) -> float:
        """Its value; KeyError where it was not measured."""
        result = measured[self.work, self.contender, self.size]
        if not result.rounds:
            raise KeyError(self)
        value = result.quantile(self.quantile)
        return value / self.size if self.each and self.size else value

    def value(self, measured: Measured) -> str:
        """Its value for a reader."""
        return shown(self.of(measured), measured[self.work, self.contender, self.size].unit)


class Target(NamedTuple):
    """A line of the issue's table: a figure of ours, beside another one or by itself."""

    title: str
    ours: Figure
    wanted: float
    beside: Figure | None = None
    at_least: bool = False
    """The ratio says how many times as good as the other one we are; otherwise how many times as much ours costs."""
    floor: Figure | None = None
    """Something simpler, without a layer's promises, that stands in the place of ours."""
    unit: str = ""
    """That of ``wanted`` where it is no ratio."""

    def reached(self, ratio: float) -> bool:
        """Whether this ratio is enough."""
        return ratio >= self.wanted if self.at_least else ratio <= self.wanted

    def ratio(self, measured: Measured, figure: Figure | None = None) -> float:
        """What ``wanted`` is compared with, of ours or of this figure. KeyError where one was not measured."""
        ours = (figure or self.ours).of(measured)
        if self.beside is None:
            return ours
        other = self.beside.of(measured)
        costs = measured[self.ours.work, self.ours.contender, self.ours.size].unit != "1/s"
        above, below = (other, ours) if self.at_least and costs else (ours, other)
        return above / below


def _beside(
    title: str,
    work: str,
    others: Sequence[str],
    wanted: float,
    *,
    size: float | None = None,
    quantile: float = names.P50,
    at_least: bool = False,
    floor: str = "",
) -> list[Target]:
    """The same wish beside each of the others."""
    ours = Figure(work, size=size, quantile=quantile)
    below = ours._replace(contender=floor) if floor else None
    return [
        Target(f"{title}, beside {other}", ours, wanted, ours._replace(contender=other), at_least, below)
        for other in others
    ]


THOUSAND, MILLION = 1_000, 1_000_000
TARGETS = [
    *_beside(names.SEQUENTIAL, names.SEQUENTIAL, names.REDIS_CORE, 20, at_least=True, floor=names.RAW),
    *_beside(names.SEQUENTIAL, names.SEQUENTIAL, (names.RAW,), 0.6, at_least=True),
    *_beside(names.SPECIFIC, names.SPECIFIC, (names.MEMORY,), 1.5),
    *_beside(names.CONCURRENT, names.CONCURRENT, (names.MEMORY,), 0.8, at_least=True),
    *_beside(names.CONCURRENT, names.CONCURRENT, names.REDIS_PUBSUB, 10, at_least=True),
    *(
        Target(
            f"{directly}, beside async_to_sync(layer.send), {contender}",
            Figure(directly, contender),
            20,
            Figure(by_a_loop, contender),
            at_least=True,
            floor=Figure(directly, names.RAW) if directly == names.SYNC else None,
        )
        for directly, by_a_loop in ((names.SYNC, names.FROM_SYNC), (names.SYNC_OWN, names.FROM_SYNC_OWN))
        for contender in names.OURS
    ),
    *(
        target
        for work, until in ((names.RETURNS, "until it returns"), (names.ALL_HAVE_IT, "until all have it"))
        for others, wanted in ((names.REDIS_PUBSUB, 10), (names.REDIS_CORE, 40))
        for target in _beside(
            f"group_send to 1 000, {until}", work, others, wanted, size=THOUSAND, at_least=True, floor=names.BARE
        )
    ),
    *_beside(
        "deliveries in that group",
        names.DELIVERIES,
        names.REDIS_PUBSUB,
        3,
        size=THOUSAND,
        at_least=True,
        floor=names.BARE,
    ),
    *_beside(f"{names.ROUND_TRIP}, p50", names.ROUND_TRIP, names.REDIS_PUBSUB, 0.6),
    *_beside(f"{names.ROUND_TRIP}, p50", names.ROUND_TRIP, (names.SOCKET,), 2),
    *_beside(f"{names.ROUND_TRIP_APART}, p50", names.ROUND_TRIP_APART, (names.SOCKET,), 2),
    *_beside(f"{names.ROUND_TRIP}, p99", names.ROUND_TRIP, names.REDIS_PUBSUB, 1, quantile=names.P99),
    Target("idle, 1 000 waiting receivers: of a core", Figure(names.IDLE_PROCESSOR), 0.001, unit="cores"),
    *_beside(names.IDLE_MEMORY, names.IDLE_MEMORY, (names.MEMORY,), 1),
    Target(
        "4 processes writing at once, beside one alone",
        Figure(names.WRITERS_THROUGHPUT, size=4),
        0.8,
        Figure(names.WRITERS_THROUGHPUT, size=1),
        at_least=True,
    ),
    Target(
        "4 processes writing at once: worst wait",
        Figure(names.WRITERS_WAIT, size=4, quantile=names.WORST),
        0.05,
        unit="s",
    ),
    Target(
        "4 processes writing at once: errors",
        Figure(names.WRITERS_ERRORS, size=4, quantile=names.WORST),
        0,
        unit="errors",
    ),
    *(
        Target(
            f"{work}, 1 000 000 rows pending elsewhere, beside none",
            Figure(work, size=MILLION),
            1.3,
            Figure(work, size=0),
        )
        for work in (names.BACKLOG_SEND, names.BACKLOG_CLAIM)
    ),
    *(
        Target(
            f"{work}, for each member: of 10 000 beside 1 000",
            Figure(work, size=10_000, each=True),
            1.1,  # the cost does not grow; a tenth is this measurement's noise
            Figure(work, size=THOUSAND, each=True),
        )
        for work in (names.RETURNS, names.ALL_HAVE_IT)
    ),
]


def verdicts(results: Sequence[Result], missing: Sequence[Missing]) -> Iterator[str]:
    """The table of all targets, in Markdown, as lines."""
    measured = {(result.work, result.contender, result.size): result for result in results}
    yield "| to reach | wanted | measured | |"
    yield "|---|---|---|---|"
    for target in TARGETS:
        wanted = f"at {'least' if target.at_least else 'most'} {_limit(target)}"
        try:
            ratio = target.ratio(measured)
        except KeyError:
            yield f"| {target.title} | {wanted} | - | not measured: {_why(target, measured, missing)} |"
            continue
        said = "reached" if target.reached(ratio) else "missed"
        yield f"| {target.title} | {wanted} | {_said(target, measured, ratio)} | {said} |"


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What is to be known about the targets: which ones the floors of this run miss, too, and what members cost."""
    measured = {(result.work, result.contender, result.size): result for result in results}
    for target in TARGETS:
        with contextlib.suppress(KeyError):
            yield from _not_allowed(target, measured)
    for work in (names.RETURNS, names.ALL_HAVE_IT, names.RETURNS_4, names.ALL_HAVE_IT_4):
        for contender in (names.APSW, names.BARE):
            costs = [
                f"{shown(result.quantile() / result.size, 's')} of {result.size:.0f}"
                for result in results
                if (result.work, result.contender) == (work, contender) and result.rounds and result.size
            ]
            if costs:
                yield f"- {work}, for each member, {contender}: {', '.join(costs)}"


def _not_allowed(target: Target, measured: Measured) -> Iterator[str]:
    """Where the floor misses the target, a layer that is built like it cannot reach it on this machine."""
    if target.floor is None or target.beside is None or target.reached(target.ratio(measured, target.floor)):
        return
    beside = measured[target.beside.work, target.beside.contender, target.beside.size]
    times = 1 / target.wanted if target.at_least and beside.unit != "1/s" else target.wanted
    allowed = shown(times * target.beside.of(measured), beside.unit)
    alone = f"{target.floor.contender} has {target.floor.value(measured)}"
    yield f"- missed by the floor, too: {target.title}: {times:.3g} times it is {allowed}; {alone}"


def _limit(target: Target) -> str:
    return f"{target.wanted:g}" if target.beside else shown(target.wanted, target.unit)


def _said(target: Target, measured: Measured, ratio: float) -> str:
    if target.beside is None:
        return target.ours.value(measured)
    floor = ""
    with contextlib.suppress(KeyError):
        floor = f"; {target.floor.contender}: {target.floor.value(measured)}" if target.floor else ""
    return f"{ratio:.3g} ({target.ours.value(measured)} beside {target.beside.value(measured)}{floor})"


def _why(target: Target, measured: Measured, missing: Sequence[Missing]) -> str:
    for figure in filter(None, (target.ours, target.beside)):
        result = measured.get((figure.work, figure.contender, figure.size))
        if result is not None and not result.rounds:
            return result.reason
        for one in missing:
            if result is None and one.name == figure.contender:
                return one.reason
    if target.ours.size and any(result.work == target.ours.work for result in measured.values()):
        return f"this run has no size {target.ours.size:.0f}"
    return "not part of this run"
