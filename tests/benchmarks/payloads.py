"""Messages of several sizes that a process sends to itself, with and without encryption."""

import contextlib
import dataclasses
from collections.abc import Sequence

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SIZES = {100: 200, 10_000: 200, 1_000_000: 10}  # bytes, and messages of a turn
SECONDS = 1.0  # after which a turn ends with fewer messages


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result]:
    """Each size by all contenders in turn, without keys and then with them."""
    sheet = Sheet()
    for work, suffix in ((names.PAYLOAD, ""), (names.PAYLOAD_ENCRYPTED, "-encrypted")):
        async with contextlib.AsyncExitStack() as stack:
            processes = []
            for contender in contenders:
                if contender.encrypts or not suffix:
                    variant = dataclasses.replace(contender, layer=contender.layer + suffix)
                    crewed = await stack.enter_async_context(crew(variant, f"{folder}/{contender.slug}{suffix}"))
                    processes.append((contender, crewed[0]))
                else:
                    sheet.result(work, contender, "s", 100).reason = "it does not encrypt"
            await _rounds(sheet, work, processes, effort)
    return sheet.results


async def _rounds(sheet: Sheet, work: str, processes: list[tuple[Contender, Member]], effort: Effort) -> None:
    for number in range(effort.rounds + 1):
        for size, messages in SIZES.items():
            for contender, process in processes:
                result = sheet.result(work, contender, "s", size)
                if not result.reason:
                    samples = process.work(
                        "inprocess.payload", size=size, messages=effort.of(messages), seconds=SECONDS
                    )
                    await sheet.turn(result, samples, warm_up=not number)
