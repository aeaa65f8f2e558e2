"""The results of a part, filled in turn by turn."""

from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import WorkFailed
from tests.benchmarks.results import Result

T = TypeVar("T")


class Sheet:
    """Samples by work, contender and size. A result that has a reason is left alone from then on."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str, float | None], Result] = {}
        self._warms_up = False

    @property
    def results(self) -> list[Result]:
        """All of them, in the order in which they were first asked for."""
        return list(self._results.values())

    def result(self, work: str, contender: Contender, unit: str, size: float | None = None) -> Result:
        """Where the samples belong; empty at first."""
        return self._results.setdefault((work, contender.name, size), Result(work, contender.name, unit, size=size))

    def rounds(self, count: int) -> Iterator[int]:
        """The numbers of so many rounds, after number 0, which only warms up: nothing of it is kept."""
        for number in range(count + 1):
            self._warms_up = not number
            yield number

    async def attempt(self, doing: Coroutine[Any, Any, T], *results: Result) -> T | None:
        """What it returns, without which these results cannot go on. None when it fails, or when one of them has ended.

        The failure is the reason of all of them.
        """
        if any(result.reason for result in results):
            doing.close()
            return None
        try:
            return await doing
        except WorkFailed as error:
            for result in results:
                result.reason, result.failed = f"failed: {error.summary}", True
                result.rounds.clear()
            return None

    async def turn(self, samples: Coroutine[Any, Any, Any], *results: Result) -> None:
        """Add the samples of one turn: a list of them, or a list for each of several results."""
        measured = await self.attempt(samples, *results)
        if measured is None or self._warms_up:
            return
        for result, mine in zip(results, measured if len(results) > 1 else [measured], strict=True):
            result.rounds.append(mine)
