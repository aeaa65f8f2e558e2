"""What a process with many waiting receivers uses while nothing happens: processor and memory."""

import asyncio
import contextlib
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.sheet import Sheet

RECEIVERS = 1_000
SECONDS = 20  # of waiting in a round
SETTLED = 2.0  # seconds until all of them wait, and what their start began has ended


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """The part of a core that each process uses, and what one receiver adds to its memory."""
    await _processor(sheet, contenders, folder, effort)
    for _ in range(effort.rounds):  # nothing to warm up: each has new processes
        await asyncio.gather(*(_memory(sheet, one, f"{folder}/{one.slug}", effort.share) for one in contenders))


async def _processor(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """All wait side by side: processor time does not grow with what others use, and long rounds show rare work too."""
    async with contextlib.AsyncExitStack() as stack:
        ready: list[tuple[Contender, Member]] = []
        for contender in contenders:
            result = sheet.result(names.IDLE_PROCESSOR, contender, "cores")
            opening = stack.enter_async_context(crew(contender, f"{folder}/{contender.slug}"))
            if members := await sheet.attempt(opening, result):
                ready.append((contender, members[0]))
        for number in sheet.rounds(effort.rounds):
            seconds = SECONDS if number else 1.0
            await asyncio.gather(
                *(
                    _wait(sheet, contender, member, effort.share * seconds, effort.share * SETTLED)
                    for contender, member in ready
                )
            )


async def _wait(sheet: Sheet, contender: Contender, member: Member, seconds: float, settled: float) -> None:
    used = member.work("idle.wait", receivers=RECEIVERS, seconds=seconds, settled=settled)
    await sheet.turn(used, sheet.result(names.IDLE_PROCESSOR, contender, "cores"))


async def _memory(sheet: Sheet, contender: Contender, folder: str, share: float) -> None:
    """In two new processes: one that has had receivers before gives their memory to the next ones."""
    works = {names.IDLE_MEMORY: "idle.traced", names.IDLE_RESIDENT: "idle.resident"}
    results = [sheet.result(work, contender, "bytes") for work in works]
    async with contextlib.AsyncExitStack() as stack:
        members = await sheet.attempt(stack.enter_async_context(crew(contender, folder, len(works))), *results)
        for result, function, member in zip(results, works.values(), members or (), strict=False):
            await sheet.turn(member.work(function, receivers=RECEIVERS, settled=share * SETTLED), result)
