"""Sending and claiming beside messages that nobody reads: what the size of the database does to them."""

import contextlib
import shutil
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SIZES = (0, 10_000, 1_000_000)  # rows that are pending in other queues
QUEUES = 10_000  # that they are in
MESSAGES = 1_000  # of a round, one at a time
SLICE = 50  # messages after which the next size has its turn: what disturbs the machine disturbs them all

Sizes = list[tuple[int, Member]]


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Seconds of a send and of a claim at each size. Our layers alone: each is compared with its own empty database."""
    sizes = [effort.of(rows) if rows else 0 for rows in SIZES]
    async with contextlib.AsyncExitStack() as stack:
        ready: list[tuple[list[Result], Sizes]] = []
        for contender in (one for one in contenders if one.ours):
            results = [
                sheet.result(work, contender, "s", rows)
                for work in (names.BACKLOG_SEND, names.BACKLOG_CLAIM)
                for rows in sizes
            ]
            opening = _prepare(stack, contender, f"{folder}/{contender.slug}", sizes)
            if members := await sheet.attempt(opening, *results):
                ready.append((results, members))
        for _ in sheet.rounds(effort.rounds):
            for results, members in ready:
                await sheet.turn(_round(members, effort.of(MESSAGES)), *results)


async def _prepare(stack: contextlib.AsyncExitStack, contender: Contender, folder: str, sizes: Sequence[int]) -> Sizes:
    """A process on a database of each size. Another one filled it, and left no -wal behind."""
    members = []
    stack.callback(shutil.rmtree, folder, ignore_errors=True)  # hundreds of megabytes
    for rows in sizes:
        async with crew(contender, f"{folder}/{rows}") as (filler,):
            await filler.work("backlog.fill", rows=rows, queues=QUEUES)
        (member,) = await stack.enter_async_context(crew(contender, f"{folder}/{rows}"))
        members.append((rows, member))
    return members


async def _round(members: Sizes, messages: int) -> list[list[float]]:
    """The samples of sends by size, then those of claims by size."""
    samples: dict[str, dict[int, list[float]]] = {kind: {rows: [] for rows, _ in members} for kind in ("send", "claim")}
    for done in range(0, messages, SLICE):
        for rows, member in members:
            taken = await member.work("backlog.alternate", messages=min(SLICE, messages - done))
            for kind, seconds in taken.items():
                samples[kind][rows] += seconds
    return [seconds for by_size in samples.values() for seconds in by_size.values()]
