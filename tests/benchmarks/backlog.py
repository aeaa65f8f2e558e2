"""Sending and claiming beside messages that nobody reads: what the size of the database does to them."""

import contextlib
import re
import shutil
from collections.abc import Sequence

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns

WORK = "backlog"
SIZES = (0, 10_000, 1_000_000)  # rows that are pending in other queues
QUEUES = 10_000  # that they are in
MESSAGES = 1_000  # of a round, one at a time
SLICE = 50  # messages after which the next size has its turn: what disturbs the machine disturbs them all

Sizes = list[tuple[int, Member]]


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result | Missing]:
    """Seconds of a send and of a claim at each size. Our layers alone: each is compared with its own empty database."""
    turns = Turns()
    async with contextlib.AsyncExitStack() as stack:
        ready: list[tuple[Contender, Sizes]] = []
        for contender in contenders:
            if contender.ours:
                try:
                    ready.append((contender, await _prepare(stack, contender, folder)))
                except WorkFailed as error:
                    turns.fail(WORK, contender, error)
        for _ in range(effort.rounds + 1):
            for contender, sizes in ready:
                await _round(turns, contender, sizes, effort.of(MESSAGES))
    return turns.results()


async def _prepare(stack: contextlib.AsyncExitStack, contender: Contender, folder: str) -> Sizes:
    """A process on a database of each size. Another one filled it, and left no -wal behind."""
    sizes = []
    for rows in SIZES:
        place = f"{folder}/backlog-{rows}-{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())}"
        stack.callback(shutil.rmtree, place, ignore_errors=True)  # hundreds of megabytes
        async with crew(contender, place) as (filler,):
            await filler.work("backlog.fill", rows=rows, queues=QUEUES)
        (member,) = await stack.enter_async_context(crew(contender, place))
        sizes.append((rows, member))
    return sizes


async def _round(turns: Turns, contender: Contender, sizes: Sizes, messages: int) -> None:
    if turns.out(WORK, contender):
        return
    samples: dict[int, dict[str, list[float]]] = {rows: {"send": [], "claim": []} for rows, _ in sizes}
    try:
        for done in range(0, messages, SLICE):
            for rows, member in sizes:
                taken = await member.work("backlog.alternate", messages=min(SLICE, messages - done))
                for kind, seconds in taken.items():
                    samples[rows][kind] += seconds
    except WorkFailed as error:
        turns.fail(WORK, contender, error)
        return
    for rows, kinds in samples.items():
        for kind, seconds in kinds.items():
            turns.add(f"{WORK}: {kind}", contender, "s", seconds, size=rows)
