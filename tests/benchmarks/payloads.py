"""Messages of several sizes that a process sends to itself, with and without encryption."""

import contextlib
import dataclasses
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.sheet import Sheet

SIZES = {100: 200, 10_000: 200, 1_000_000: 10}  # bytes, and messages of a turn
SECONDS = 0.3  # after which a turn ends with fewer messages


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Each size by all contenders in turn, without keys and then with them."""
    for work, suffix in ((names.PAYLOAD, ""), (names.PAYLOAD_ENCRYPTED, "-encrypted")):
        async with contextlib.AsyncExitStack() as stack:
            processes = []
            for contender in contenders:
                if suffix and not contender.encrypts:
                    sheet.result(work, contender, "s", min(SIZES)).reason = "it does not encrypt"
                    continue
                variant = dataclasses.replace(contender, layer=contender.layer + suffix)
                results = [sheet.result(work, contender, "s", size) for size in SIZES]
                opening = stack.enter_async_context(crew(variant, f"{folder}/{contender.slug}{suffix}"))
                if members := await sheet.attempt(opening, *results):
                    processes.append((contender, members[0]))
            await _rounds(sheet, work, processes, effort)


async def _rounds(sheet: Sheet, work: str, processes: list[tuple[Contender, Member]], effort: Effort) -> None:
    for _ in sheet.rounds(effort.rounds):
        for size, messages in SIZES.items():
            for contender, process in processes:
                count = effort.of(messages)
                samples = process.work("inprocess.payload", size=size, messages=count, seconds=SECONDS)
                await sheet.turn(samples, sheet.result(work, contender, "s", size))
