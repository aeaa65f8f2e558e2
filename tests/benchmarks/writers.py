"""Processes that write into one database at once: what they get done together, how long one waits, what fails."""

import contextlib
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns, slug, together

WRITERS = "writers"
THROUGHPUT = "writers: throughput"
WAIT = "writers: wait"
ERRORS = "writers: errors"

SIZES = (1, 2, 4, 8)  # processes at once
SECONDS = 1.0  # of writing in a turn
KEPT = 500  # samples of a turn


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result | Missing]:
    """Sends a second of all writers together, seconds of their sends, and errors; by the number of writers.

    Nobody receives: a layer that keeps nothing for a receiver that is not there has only to hand its messages on.
    """
    turns = Turns()
    async with contextlib.AsyncExitStack() as stack:
        crews: list[tuple[Contender, Sequence[Member]]] = []
        for contender in (one for one in contenders if one.crosses):
            place = f"{folder}/{slug(contender.name)}"
            try:
                crews.append((contender, await stack.enter_async_context(crew(contender, place, max(SIZES)))))
            except WorkFailed as error:
                turns.fail(WRITERS, contender, error)
        for _ in range(effort.rounds + 1):
            for size in SIZES:
                for contender, members in crews:
                    await _turn(turns, contender, members[:size], SECONDS * effort.share)
    return turns.results()


async def _turn(turns: Turns, contender: Contender, members: Sequence[Member], seconds: float) -> None:
    if turns.out(WRITERS, contender):
        return
    try:
        answers = await together(
            *(member.work("writers.write", writer=number, seconds=seconds) for number, member in enumerate(members))
        )
        await members[0].work("writers.flush")
        if not any(len(answer["waits"]) > len(answer["errors"]) for answer in answers):
            raise WorkFailed(answers[0]["errors"][0])
    except WorkFailed as error:
        turns.fail(WRITERS, contender, error)
    else:
        _add(turns, contender, answers)


def _add(turns: Turns, contender: Contender, answers: Sequence[dict[str, Any]]) -> None:
    size = len(answers)
    sent = sum((len(answer["waits"]) - len(answer["errors"])) / answer["took"] for answer in answers)
    turns.add(THROUGHPUT, contender, "1/s", [sent], size)
    turns.add(WAIT, contender, "s", thin([wait for answer in answers for wait in answer["waits"]]), size)
    turns.add(ERRORS, contender, "errors", [sum(len(answer["errors"]) for answer in answers)], size)


def thin(samples: Sequence[float], most: int = KEPT) -> list[float]:
    """At most so many of the samples, in order: evenly by rank, from the worst, which is always kept."""
    step = -(-len(samples) // most)
    return sorted(samples)[::-1][::step][::-1]
