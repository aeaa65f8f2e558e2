"""A process that sends to itself, over all layers and the raw floor."""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from tests.benchmarks import names
from tests.benchmarks.contenders import RAW, Contender
from tests.benchmarks.crew import crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.sheet import Sheet

SECONDS = 0.3  # after which a turn ends with fewer messages: 0.4.0 looks every 0.1 s only


class Work(NamedTuple):
    """A function of ``works``, and how often it does what it does."""

    name: str
    function: str
    unit: str
    messages: int
    arguments: Mapping[str, int] = MappingProxyType({})
    floor: str = ""
    """The function that is the floor of this one, where there is one."""
    ours: bool = False
    """Whether only our layers have what it uses."""


WORKS = (
    Work(names.SEQUENTIAL, "inprocess.sequential", "s", 400, floor="floors.insert_and_claim"),
    Work(names.SPECIFIC, "inprocess.specific", "s", 400),
    Work(names.WAITING_NORMAL, "inprocess.waiting_normal", "s", 60),
    Work(names.WAITING_SPECIFIC, "inprocess.waiting_specific", "s", 60),
    Work(names.CONCURRENT, "inprocess.concurrent", "1/s", 20, {"tasks": 60}),
    Work(names.GROUP_ADD, "inprocess.group_add", "1/s", 200),
    Work(names.FROM_SYNC, "inprocess.from_sync", "s", 60),
    Work(names.SYNC, "inprocess.from_sync", "s", 60, {"directly": 1}, "floors.insert", ours=True),
    Work(names.FROM_SYNC_OWN, "inprocess.from_sync", "s", 60, {"own": 1}),
    Work(names.SYNC_OWN, "inprocess.from_sync", "s", 60, {"own": 1, "directly": 1}, ours=True),
)


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Each work by all contenders in turn, the floor right beside the work that it is the floor of."""
    async with contextlib.AsyncExitStack() as stack:
        processes = {}
        for contender in (RAW, *contenders):
            results = [sheet.result(work.name, contender, work.unit) for work in _works(contender)]
            opening = stack.enter_async_context(crew(contender, f"{folder}/{contender.slug}"))
            if members := await sheet.attempt(opening, *results):
                processes[contender] = members[0]
        for _ in sheet.rounds(effort.rounds):
            for work in WORKS:
                for contender, process in processes.items():
                    if work in _works(contender):
                        function = work.floor if contender is RAW else work.function
                        messages = effort.of(work.messages)
                        arguments = {} if contender is RAW else work.arguments
                        samples = process.work(function, messages=messages, seconds=SECONDS, **arguments)
                        await sheet.turn(samples, sheet.result(work.name, contender, work.unit))


def _works(contender: Contender) -> list[Work]:
    if contender is RAW:
        return [work for work in WORKS if work.floor]
    return [work for work in WORKS if contender.ours or not work.ours]
