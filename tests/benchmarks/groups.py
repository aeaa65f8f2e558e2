"""group_send to groups of several sizes, whose members are channels of one process or of four."""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SIZES = (10, 100, 1_000, 10_000)
WORKS = {
    1: (names.RETURNS, names.ALL_HAVE_IT, names.DELIVERIES),
    4: (names.RETURNS_4, names.ALL_HAVE_IT_4, names.DELIVERIES_4),
}
UNITS = ("s", "s", "1/s")
SLOW = 1.0  # seconds of a round; who takes longer is measured at no larger size, where it would be ten times that
TOO_LONG = 5.0  # seconds of a round; who takes longer is measured only once at that size, too


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result]:
    """All sizes in one process, then in four. Every member waits when the message is sent."""
    sheet = Sheet()
    for processes in WORKS:
        able = [contender for contender in contenders if contender.crosses or processes == 1]
        async with contextlib.AsyncExitStack() as stack:
            crews = {
                contender: await stack.enter_async_context(
                    crew(contender, f"{folder}/{processes}/{contender.slug}", processes)
                )
                for contender in able
            }
            for size in sorted({effort.of(size) for size in SIZES}):
                await _size(sheet, crews, size, effort)
    return sheet.results


async def _size(sheet: Sheet, crews: dict[Contender, list[Member]], size: int, effort: Effort) -> None:
    """The rounds at one size. Who fails or takes too long leaves the crews."""
    parties = {contender: Party(sheet, contender, crew, size) for contender, crew in crews.items()}
    for party in parties.values():
        await party.join()
    for number in range(effort.rounds + 1):
        for party in parties.values():
            if not party.over:
                await party.round(number, warm_up=not number)
    for contender, party in parties.items():
        await party.leave()
        if party.over or party.last:
            del crews[contender]


class Party:
    """A contender at one size."""

    def __init__(self, sheet: Sheet, contender: Contender, crew: list[Member], size: int) -> None:
        self._crew = crew
        self._size = size
        self._group = f"members-{size}"
        works = zip(WORKS[len(crew)], UNITS, strict=True)
        self._results = [sheet.result(work, contender, unit, size) for work, unit in works]
        self.over = False
        self.last = size >= max(SIZES)
        """Whether larger groups are not to be measured."""

    async def join(self) -> None:
        """Spread the members evenly over the processes."""
        numbers = [len(range(first, self._size, len(self._crew))) for first in range(len(self._crew))]
        await self._all(
            member.work("groups.join", group=self._group, count=count)
            for member, count in zip(self._crew, numbers, strict=True)
        )

    async def round(self, number: int, *, warm_up: bool) -> None:
        """One group_send, until the last member has it."""
        begun = time.monotonic()
        await self._all(member.work("groups.listen", number=number) for member in self._crew)
        sent = await self._all([self._crew[0].work("groups.send", group=self._group, number=number)])
        heard = await self._all(member.work("groups.heard") for member in self._crew)
        if self.over:
            return
        self._judge(time.monotonic() - begun, warm_up=warm_up)
        if not warm_up or self.over:
            start, returned = sent[0]
            all_have_it = max(heard) - start
            for result, sample in zip(
                self._results, (returned - start, all_have_it, self._size / all_have_it), strict=True
            ):
                result.rounds.append([sample])

    def _judge(self, took: float, *, warm_up: bool) -> None:
        if not warm_up:
            return
        if took > TOO_LONG:
            self._end(f"one round only, which took {took:.1f} s")
        elif took > SLOW and not self.last:
            self.last = True
            self._note(f"a round took {took:.1f} s; larger groups not measured")

    async def leave(self) -> None:
        """Empty the layer in all processes."""
        if not self.over:
            await self._all(member.work("groups.leave") for member in self._crew)

    async def _all(self, works: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        """What the works return; over if one of them fails."""
        if self.over:
            for work in works:
                work.close()
            return []
        answers: list[Any] = await asyncio.gather(*works, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, WorkFailed):
                self._end(f"failed: {answer.summary}")
                for result in self._results:
                    result.rounds.clear()
            elif isinstance(answer, BaseException):
                raise answer
        return answers

    def _end(self, reason: str) -> None:
        self.over = True
        self._note(reason)

    def _note(self, reason: str) -> None:
        for result in self._results:
            result.reason = reason
