"""A process that sends to itself, over all layers and the raw floor."""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

SECONDS = 1.0  # after which a turn ends with fewer messages: 0.4.0 looks every 0.1 s only
RAW = Contender(names.RAW, "", alias="")


class Work(NamedTuple):
    """A function of ``works.inprocess``, and how often it does what it does."""

    name: str
    function: str
    unit: str
    messages: int
    arguments: Mapping[str, int] = MappingProxyType({})


WORKS = (
    Work(names.SEQUENTIAL, "sequential", "s", 400),
    Work(names.SPECIFIC, "specific", "s", 400),
    Work(names.WAITING_NORMAL, "waiting_normal", "s", 60),
    Work(names.WAITING_SPECIFIC, "waiting_specific", "s", 60),
    Work(names.CONCURRENT, "concurrent", "1/s", 20, {"tasks": 60}),
    Work(names.GROUP_ADD, "group_add", "1/s", 200),
    Work(names.FROM_SYNC, "from_sync", "s", 60),
)


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result]:
    """Each work by all contenders in turn, the floor right beside the work that it is the floor of."""
    sheet = Sheet()
    async with contextlib.AsyncExitStack() as stack:
        processes = {
            contender: (await stack.enter_async_context(crew(contender, f"{folder}/{contender.slug}")))[0]
            for contender in (RAW, *contenders)
        }
        floor = processes.pop(RAW)
        for number in range(effort.rounds + 1):
            for work in WORKS:
                if work.name == names.SEQUENTIAL:
                    await _turn(sheet, work, RAW, floor, "floors.insert_and_claim", effort, warm_up=not number)
                for contender, process in processes.items():
                    function = f"inprocess.{work.function}"
                    await _turn(sheet, work, contender, process, function, effort, warm_up=not number)
    return sheet.results


async def _turn(
    sheet: Sheet, work: Work, contender: Contender, process: Member, function: str, effort: Effort, *, warm_up: bool
) -> None:
    result = sheet.result(work.name, contender, work.unit)
    if not result.reason:
        messages = effort.of(work.messages)
        samples = process.work(function, messages=messages, seconds=SECONDS, **work.arguments)
        await sheet.turn(result, samples, warm_up=warm_up)
