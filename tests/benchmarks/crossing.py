"""From process to process: round trips, wherever they run and on two cores, and a flood in one direction."""

import contextlib
import os
import tempfile
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import SOCKET, Contender
from tests.benchmarks.crew import Member, crew, together
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

TRIPS = 500  # in a round
MESSAGES = 5000  # of a flood
ONE_CORE = "this takes Linux and two cores"  # why nothing can be kept apart
SECONDS = 1.0  # after which the turn of a slow contender ends

Cores = list[int]


class Pair:
    """Two processes of a contender, which send to each other."""

    def __init__(self, sheet: Sheet, contender: Contender) -> None:
        self._sheet = sheet
        self._contender = contender
        self._members: Sequence[Member] = ()

    async def start(self, stack: contextlib.AsyncExitStack, folder: str) -> bool:
        """Whether its processes run."""
        opening = stack.enter_async_context(crew(self._contender, f"{folder}/{self._contender.slug}", 2))
        results = [self._result(work) for work in (names.ROUND_TRIP, names.ROUND_TRIP_APART)]
        self._members = await self._sheet.attempt(opening, *results, *self._flooded()) or ()
        return bool(self._members)

    async def round_trips(self, most: int) -> None:
        """A turn wherever the system lets them run."""
        await self._sheet.turn(self._trips(most), self._result(names.ROUND_TRIP))

    async def round_trips_apart(self, cores: Sequence[Cores], most: int) -> None:
        """A turn on cores of their own; the reason where there are none."""
        result = self._result(names.ROUND_TRIP_APART)
        if not cores:
            result.reason = ONE_CORE
            return
        await self._place(*cores)
        await self._sheet.turn(self._trips(most), result)
        await self._place(_cores(), _cores())

    async def flood(self, most: int) -> None:
        """A turn in one direction; none of a floor."""
        await self._sheet.turn(self._flood(most), *self._flooded())

    def _result(self, work: str, unit: str = "s") -> Result:
        return self._sheet.result(work, self._contender, unit)

    def _flooded(self) -> list[Result]:
        return [self._result(names.FLOOD, "1/s"), self._result(names.FLOOD_LOST, "errors")]

    async def _place(self, *cores: Cores) -> None:
        works = zip(self._members, cores, strict=True)
        await together(*(member.work("crossing.place", cores=allowed) for member, allowed in works))

    async def _trips(self, most: int) -> list[float]:
        """Seconds of each of at most so many round trips, on process-specific channels."""
        first, second = self._members
        here, there = await together(*(member.work("crossing.name") for member in self._members))
        samples, _ = await together(
            first.work("crossing.trips", to=there, reply=here, most=most, seconds=SECONDS),
            second.work("crossing.echo", channel=there, seconds=SECONDS),
        )
        return list(samples)

    async def _flood(self, most: int) -> tuple[list[float], list[float]]:
        """Messages received a second, and messages lost."""
        first, second = self._members
        here, there = await together(*(member.work("crossing.name") for member in self._members))
        sent, came = await together(
            first.work("crossing.flood", to=there, reply=here, most=most, seconds=SECONDS),
            second.work("crossing.drain", channel=there, reply=here),
        )
        return [came / sent["seconds"] if came else 0.0], [sent["sent"] - came]


class SocketPair(Pair):
    """Two processes at the ends of a Unix socket: the floor under talking to another process."""

    async def flood(self, most: int) -> None:
        pass

    def _flooded(self) -> list[Result]:
        return []

    async def _trips(self, most: int) -> list[float]:
        """Seconds of each of at most so many lines there and back."""
        first, second = self._members
        with tempfile.TemporaryDirectory(prefix="bench-") as place:  # a socket's path has to be short
            await second.work("floors.serve", path=f"{place}/socket")
            return list(await first.work("floors.ping", path=f"{place}/socket", messages=most, seconds=SECONDS))


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Seconds of round trips, messages a second and messages lost of floods: of all that cross, and the floor."""
    apart = _two_cores()
    able = [Pair(sheet, contender) for contender in contenders if contender.crosses]
    async with contextlib.AsyncExitStack() as stack:
        pairs = [SocketPair(sheet, SOCKET), *able]
        pairs = [pair for pair in pairs if await pair.start(stack, folder)]
        for _ in sheet.rounds(effort.rounds):
            for pair in pairs:
                await pair.round_trips(effort.of(TRIPS))
            for pair in pairs:
                await pair.round_trips_apart(apart, effort.of(TRIPS))
            for pair in pairs:
                await pair.flood(effort.of(MESSAGES))


def _cores() -> Cores:
    return sorted(os.sched_getaffinity(0))


def _two_cores() -> list[Cores]:
    """The first and the last core that this process may use; empty where there is no choice."""
    can = hasattr(os, "sched_setaffinity") and os.path.isdir("/proc/self/task") and len(_cores()) > 1
    return [_cores()[:1], _cores()[-1:]] if can else []
