"""Turns of the contenders, round after round: what they gave, and who failed."""

import asyncio
import re
from collections.abc import Awaitable, Iterable
from typing import Any

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import WorkFailed
from tests.benchmarks.results import Result


class Turns:
    """Collects samples. A contender that fails in a work has no result of it: it is missing there."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str, float | None], Result] = {}
        self._missing: dict[tuple[str, str], Missing] = {}

    def add(
        self, work: str, contender: Contender, unit: str, samples: Iterable[float], size: float | None = None
    ) -> None:
        """Add one round of a contender."""
        result = Result(work, contender.name, unit, size=size)
        self._results.setdefault((work, contender.name, size), result).rounds.append(list(samples))

    def fail(self, work: str, contender: Contender, error: Exception) -> None:
        """From now on the contender is out of this work, all figures of which are named ``work`` and what follows."""
        reason = str(error).strip().splitlines() or [type(error).__name__]
        self._missing[work, contender.name] = Missing(contender.name, f"{work}: {reason[-1]}")

    def out(self, work: str, contender: Contender) -> bool:
        """Whether the contender failed in this work."""
        return (work, contender.name) in self._missing

    def results(self) -> list[Result | Missing]:
        """What was measured, without the first round, which was for warming up; then who is missing."""
        measured = [result for result in self._results.values() if not self._failed(result)]
        for result in measured:
            del result.rounds[0]
        return [*measured, *self._missing.values()]

    def _failed(self, result: Result) -> bool:
        return any(
            name == result.contender and (result.work == work or result.work.startswith(f"{work}:"))
            for work, name in self._missing
        )


async def together(*works: Awaitable[Any]) -> list[Any]:
    """What all of them return. WorkFailed of the first that failed, but only when all have ended."""
    answers = await asyncio.gather(*works, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer if isinstance(answer, WorkFailed) else WorkFailed(repr(answer)) from answer
    return answers


def slug(name: str) -> str:
    """A contender's name as one of a folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
