"""From process to process: round trips, wherever they run and on two cores, and a flood in one direction."""

import contextlib
import os
import tempfile
from collections.abc import Sequence

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns, slug, together

FREE = "cross-process round trip"
APART = "cross-process round trip, cores apart"
FLOOD = "one-way flood"
LOST = "one-way flood: lost"
SOCKET = Contender("Unix socket", layer="memory")  # its processes use no layer, as those of RAW
RAW = Contender("raw apsw", layer="memory")

TRIPS = 500  # in a round
MESSAGES = 5000  # of a flood
SECONDS = 2.0  # after which the turn of a slow contender ends


class Pair:
    """Two processes of a contender, which send to each other."""

    def __init__(self, contender: Contender, members: Sequence[Member], folder: str) -> None:
        self.contender = contender
        self.members = members
        self.folder = folder

    async def place(self, *cores: list[int]) -> None:
        """Say on which cores each process is to run."""
        works = zip(self.members, cores, strict=False)
        await together(*(member.work("crossing.place", cores=allowed) for member, allowed in works))

    async def trips(self, most: int) -> list[float]:
        """Seconds of each of at most so many round trips, on process-specific channels."""
        first, second = self.members
        here, there = await together(*(member.work("crossing.name") for member in self.members))
        samples, _ = await together(
            first.work("crossing.trips", to=there, reply=here, most=most, seconds=SECONDS),
            second.work("crossing.echo", channel=there, seconds=SECONDS),
        )
        return list(samples)

    async def flood(self, most: int) -> tuple[float, int]:
        """Messages received a second, and messages lost."""
        first, second = self.members
        here, there = await together(*(member.work("crossing.name") for member in self.members))
        sent, came = await together(
            first.work("crossing.flood", to=there, reply=here, most=most, seconds=SECONDS),
            second.work("crossing.drain", channel=there, reply=here),
        )
        return came / sent["seconds"] if came else 0.0, sent["sent"] - came


class SocketPair(Pair):
    """Two processes at the ends of a Unix socket: the floor under talking to another process."""

    async def trips(self, most: int) -> list[float]:
        """Seconds of each of at most so many lines there and back."""
        first, second = self.members
        with tempfile.TemporaryDirectory(prefix="bench-") as place:  # a socket's path has to be short
            path = f"{place}/socket"
            await second.work("crossing.socket_serve", path=path)
            return list(await first.work("crossing.socket_trips", path=path, most=most, seconds=SECONDS))


class RawPair(Pair):
    """One process that does to a database what a round trip does to it: the floor under going through a file."""

    async def trips(self, most: int) -> list[float]:
        """Seconds of each of at most so many times two INSERTs and two claims."""
        path = f"{self.folder}/raw.sqlite3"
        return list(await self.members[0].work("crossing.raw_trips", path=path, most=most, seconds=SECONDS))


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result | Missing]:
    """Seconds of round trips, messages a second and messages lost of floods: of all that cross, and the floors."""
    turns = Turns()
    apart = _two_cores()
    async with contextlib.AsyncExitStack() as stack:
        pairs = await _pairs(stack, turns, contenders, folder)
        for _ in range(effort.rounds + 1):
            for pair in pairs:
                await _trips(turns, FREE, pair, effort)
            for pair in pairs if apart else []:
                await pair.place(*apart)
                await _trips(turns, APART, pair, effort)
                await pair.place(_cores(), _cores())
            for pair in pairs:
                if type(pair) is Pair:
                    await _flood(turns, pair, effort)
    return [*turns.results(), *([] if apart else [Missing(APART, "this takes Linux and two cores")])]


async def _pairs(
    stack: contextlib.AsyncExitStack, turns: Turns, contenders: Sequence[Contender], folder: str
) -> list[Pair]:
    pairs: list[Pair] = []
    kinds: list[tuple[Contender, type[Pair], int]] = [(SOCKET, SocketPair, 2), (RAW, RawPair, 1)]
    for contender, kind, size in kinds + [(one, Pair, 2) for one in contenders if one.crosses]:
        place = f"{folder}/{slug(contender.name)}"
        try:
            pairs.append(kind(contender, await stack.enter_async_context(crew(contender, place, size)), place))
        except WorkFailed as error:
            for work in FREE, APART, FLOOD:
                turns.fail(work, contender, error)
    return pairs


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _two_cores() -> list[list[int]]:
    """The first and the last core that this process may use; empty where there is no choice."""
    can = hasattr(os, "sched_setaffinity") and os.path.isdir("/proc/self/task") and len(_cores()) > 1
    return [_cores()[:1], _cores()[-1:]] if can else []


async def _trips(turns: Turns, work: str, pair: Pair, effort: Effort) -> None:
    if turns.out(work, pair.contender):
        return
    try:
        turns.add(work, pair.contender, "s", await pair.trips(effort.of(TRIPS)))
    except WorkFailed as error:
        turns.fail(work, pair.contender, error)


async def _flood(turns: Turns, pair: Pair, effort: Effort) -> None:
    if turns.out(FLOOD, pair.contender):
        return
    try:
        rate, lost = await pair.flood(effort.of(MESSAGES))
    except WorkFailed as error:
        turns.fail(FLOOD, pair.contender, error)
    else:
        turns.add(FLOOD, pair.contender, "1/s", [rate])
        turns.add(LOST, pair.contender, "errors", [lost])
