"""The results of a part, filled in turn by turn."""

from collections.abc import Awaitable

from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import WorkFailed
from tests.benchmarks.results import Result


class Sheet:
    """Samples by work, contender and size. One who fails in a work is noted with the reason and left alone there."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str, float | None], Result] = {}

    @property
    def results(self) -> list[Result]:
        """All of them, in the order in which they were first measured."""
        return list(self._results.values())

    def result(self, work: str, contender: Contender, unit: str, size: float | None = None) -> Result:
        """Where the samples belong; empty at first."""
        return self._results.setdefault((work, contender.name, size), Result(work, contender.name, unit, size=size))

    async def turn(self, result: Result, samples: Awaitable[list[float]], *, warm_up: bool) -> None:
        """Wait for the samples of one turn and add them, unless this round only warms up."""
        try:
            measured = await samples
        except WorkFailed as error:
            result.reason = f"failed: {error.summary}"
            result.rounds.clear()
            return
        if not warm_up:
            result.rounds.append(measured)
