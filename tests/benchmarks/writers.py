"""Processes that write into one database at once: what they get done together, how long one waits, what fails."""

import contextlib
import time
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, WorkFailed, crew, together
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SIZES = (1, 2, 4, 8)  # processes at once
SECONDS = 0.5  # of writing in a turn
SOON = 0.02  # seconds after which all begin
KEPT = 500  # samples of a turn


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Sends a second of all writers together, seconds of their sends, and errors; by the number of writers.

    Nobody receives: a layer that keeps nothing for a receiver that is not there has only to hand its messages on.
    """
    async with contextlib.AsyncExitStack() as stack:
        crews = []
        for contender in (one for one in contenders if one.crosses):
            results = [result for size in SIZES for result in _results(sheet, contender, size)]
            opening = stack.enter_async_context(crew(contender, f"{folder}/{contender.slug}", max(SIZES)))
            if members := await sheet.attempt(opening, *results):
                crews.append((contender, members))
        for _ in sheet.rounds(effort.rounds):
            for size in SIZES:
                for contender, members in crews:
                    samples = _write(members[:size], SECONDS * effort.share)
                    await sheet.turn(samples, *_results(sheet, contender, size))


def _results(sheet: Sheet, contender: Contender, size: int) -> list[Result]:
    figures = ((names.WRITERS_THROUGHPUT, "1/s"), (names.WRITERS_WAIT, "s"), (names.WRITERS_ERRORS, "errors"))
    return [sheet.result(work, contender, unit, size) for work, unit in figures]


async def _write(members: Sequence[Member], seconds: float) -> tuple[list[float], list[float], list[float]]:
    """The samples of one turn: of throughput, of waits and of errors."""
    start = time.perf_counter() + SOON
    answers = await together(*(member.work("writers.write", start=start, seconds=seconds) for member in members))
    await members[0].work("writers.flush")
    errors = [error for answer in answers for error in answer["errors"]]
    waits = [wait for answer in answers for wait in answer["waits"]]
    if len(errors) == len(waits):
        raise WorkFailed(errors[0])
    sent = sum((len(answer["waits"]) - len(answer["errors"])) / answer["took"] for answer in answers)
    return [sent], thin(waits), [len(errors)]


def thin(samples: Sequence[float], most: int = KEPT) -> list[float]:
    """At most so many of the samples, in order: evenly by rank, from the worst, which is always kept."""
    step = -(-len(samples) // most)
    return sorted(samples)[::-1][::step][::-1]
