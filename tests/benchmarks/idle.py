"""What a process with many waiting receivers uses while nothing happens: processor and memory."""

import asyncio
import contextlib
import re
from collections.abc import Sequence

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns

RECEIVERS = 1_000
SECONDS = 30  # of waiting in a round: as long as our layers rest between two rounds of removing what has expired
PROCESSOR = "idle: processor"
MEMORY = "idle: memory per receiver"
RESIDENT = "idle: resident memory per receiver"


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result | Missing]:
    """The part of a core that each process uses, and what one receiver adds to its memory."""
    turns = Turns()
    await _processor(turns, contenders, folder, effort)
    for _ in range(effort.rounds + 1):
        await asyncio.gather(*(_memory(turns, contender, _place(folder, contender)) for contender in contenders))
    return turns.results()


async def _processor(turns: Turns, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """All wait side by side: processor time does not grow with what others use, and long rounds show rare work too."""
    async with contextlib.AsyncExitStack() as stack:
        members = []
        for contender in contenders:
            try:
                (member,) = await stack.enter_async_context(crew(contender, _place(folder, contender)))
                members.append((contender, member))
            except WorkFailed as error:
                turns.fail(PROCESSOR, contender, error)
        for number in range(effort.rounds + 1):
            seconds = effort.share * SECONDS if number else 1.0  # the first only warms up
            await asyncio.gather(*(_wait(turns, contender, member, seconds) for contender, member in members))


async def _wait(turns: Turns, contender: Contender, member: Member, seconds: float) -> None:
    if turns.out(PROCESSOR, contender):
        return
    try:
        used = await member.work("idle.wait", receivers=RECEIVERS, seconds=seconds)
        turns.add(PROCESSOR, contender, "cores", [used])
    except WorkFailed as error:
        turns.fail(PROCESSOR, contender, error)


async def _memory(turns: Turns, contender: Contender, folder: str) -> None:
    """In two new processes: one that has had receivers before gives their memory to the next ones."""
    works = [(MEMORY, "idle.traced"), (RESIDENT, "idle.resident")]
    if any(turns.out(work, contender) for work, _ in works):
        return
    work = MEMORY
    try:
        async with crew(contender, folder, size=len(works)) as members:
            for (work, function), member in zip(works, members, strict=True):
                turns.add(work, contender, "bytes", [await member.work(function, receivers=RECEIVERS)])
    except WorkFailed as error:
        turns.fail(work, contender, error)


def _place(folder: str, contender: Contender) -> str:
    return f"{folder}/{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())}"
