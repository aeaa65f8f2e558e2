"""group_send to groups of several sizes, whose members are channels of one process or of four."""

import contextlib
import time
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import BARE, Contender
from tests.benchmarks.crew import Member, crew, together
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SIZES = (10, 100, 1_000, 10_000)
ONE = {names.RETURNS: "s", names.ALL_HAVE_IT: "s", names.DELIVERIES: "1/s"}
FOUR = {names.RETURNS_4: "s", names.ALL_HAVE_IT_4: "s", names.DELIVERIES_4: "1/s"}
SLOW = 0.4  # seconds of the first round; who takes longer is measured at no larger size, where it would be much more
TIMES = 10  # messages in a turn, each of them sent when all have the one before
LARGE, FEWER_TIMES = 1_000, 3  # in a group of so many, so many


class Party:
    """The processes of a contender, and the group in them."""

    def __init__(self, sheet: Sheet, contender: Contender, works: dict[str, str]) -> None:
        self._sheet = sheet
        self._contender = contender
        self._works = works
        self._members: Sequence[Member] = ()
        self._results: list[Result] = []
        self._size = 0
        self._first = 0.0  # seconds of the first round
        self._number = 0  # of the next message

    async def start(self, stack: contextlib.AsyncExitStack, folder: str, processes: int, sizes: Sequence[int]) -> bool:
        """Whether its processes run."""
        opening = stack.enter_async_context(crew(self._contender, f"{folder}/{self._contender.slug}", processes))
        results = [result for size in sizes for result in self._of(size)]
        self._members = await self._sheet.attempt(opening, *results) or ()
        return bool(self._members)

    async def gather(self, size: int) -> None:
        """Make the group, whose members are spread evenly over the processes."""
        self._size, self._results = size, self._of(size)
        await self._sheet.attempt(self._join(), *self._results)

    async def round(self, number: int) -> None:
        """A turn."""
        begun = time.monotonic()
        await self._sheet.turn(self._turn(), *self._results)
        if not number:
            self._first = time.monotonic() - begun

    async def end(self, larger: Sequence[int]) -> bool:
        """Empty the layer. Whether these larger groups are to be measured, too."""
        await self._sheet.attempt(self._leave(), *self._results)
        reason = self._results[0].reason
        if not reason and self._first > SLOW:
            reason = f"a round takes {self._first:.1f} s with {self._size:,} members".replace(",", " ")
        for result in (result for size in larger for result in self._of(size)):
            result.reason = reason
        return not reason

    def _of(self, size: int) -> list[Result]:
        return [self._sheet.result(work, self._contender, unit, size) for work, unit in self._works.items()]

    async def _join(self) -> None:
        counts = [len(range(first, self._size, len(self._members))) for first in range(len(self._members))]
        works = zip(self._members, counts, strict=True)
        await together(*(member.work("groups.join", group=self._group, count=count) for member, count in works))

    @property
    def _group(self) -> str:
        return f"members-{self._size}"

    async def _turn(self) -> list[list[float]]:
        """Some messages, one after the other: the samples of each figure."""
        times = TIMES if self._size < LARGE else FEWER_TIMES
        first, self._number = self._number, self._number + times
        await together(*(member.work("groups.listen", first=first, count=times) for member in self._members))
        samples = [await self._send(number) for number in range(first, self._number)]
        returned, all_have_it = (list(figures) for figures in zip(*samples, strict=True))
        return [returned, all_have_it, [self._size / seconds for seconds in all_have_it]]

    async def _send(self, number: int) -> tuple[float, float]:
        """Seconds of one group_send, until it returned and until the last member had it."""
        start, returned = await self._members[0].work("groups.send", group=self._group, number=number)
        heard = await together(*(member.work("groups.heard", number=number) for member in self._members))
        return returned - start, max(heard) - start

    async def _leave(self) -> None:
        await together(*(member.work("groups.leave") for member in self._members))


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """All sizes in one process, then in four. Every member waits when the message is sent."""
    sizes = sorted({effort.of(size) for size in SIZES})
    one = [Party(sheet, contender, ONE) for contender in [*contenders, BARE]]
    four = [Party(sheet, contender, FOUR) for contender in contenders if contender.crosses]
    for processes, parties in ((1, one), (4, four)):
        async with contextlib.AsyncExitStack() as stack:
            place = f"{folder}/{processes}"
            able = [party for party in parties if await party.start(stack, place, processes, sizes)]
            for number, size in enumerate(sizes, start=1):
                able = await _rounds(sheet, able, size, effort.rounds, sizes[number:])


async def _rounds(sheet: Sheet, parties: Sequence[Party], size: int, rounds: int, larger: Sequence[int]) -> list[Party]:
    """All rounds at one size: who goes on to the larger ones."""
    for party in parties:
        await party.gather(size)
    for number in sheet.rounds(rounds):
        for party in parties:
            await party.round(number)
    return [party for party in parties if await party.end(larger)]
