"""The example chat under real WebSocket clients, all in one room, on two workers: started as its users start it."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from pathlib import Path

from tests.benchmarks import names
from tests.benchmarks.contenders import Contender
from tests.benchmarks.crew import Member, WorkFailed, crew, together
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
WORKERS = 2
CROWDS = 2  # processes that the clients are in
MESSAGES = 40  # of a round, said one at a time
SPEAKERS = 5  # of each crowd, who talk at the same time
LINES = 10  # that each of them says in a round
ABSENT = "the example runs its own layer, or one of this environment that reaches both of its workers"
PATIENCE = 30.0  # seconds that the chat may take to start, and to end


async def measure(sheet: Sheet, contenders: Sequence[Contender], folder: str, effort: Effort) -> None:
    """Seconds of a message to each and to the last client, deliveries a second, and what was lost or came twice.

    Our layer is measured as the example configures it; the others take its place there.
    """
    async with contextlib.AsyncExitStack() as stack:
        ready = []
        for contender in contenders:
            results = _results(sheet, contender)
            if not _can_take_part(contender):
                for result in results:
                    result.reason = ABSENT
                continue
            opening = stack.enter_async_context(_crowds(contender, f"{folder}/{contender.slug}"))
            if crowds := await sheet.attempt(opening, *results):
                ready.append((results, crowds))
        for number in sheet.rounds(effort.rounds):
            for results, crowds in ready:
                await sheet.turn(_round(crowds, f"{number}", effort), *results)


def _results(sheet: Sheet, contender: Contender) -> list[Result]:
    figures = ((names.CHAT_ONE, "s"), (names.CHAT_ALL, "s"), (names.CHAT_RATE, "1/s"), (names.CHAT_LOST, "errors"))
    return [sheet.result(work, contender, unit) for work, unit in figures]


def _can_take_part(contender: Contender) -> bool:
    """Whether the example's workers would reach each other through this layer. It needs this project's environment."""
    return contender.crosses and contender.python == sys.executable and (not contender.ours or _is_examples(contender))


def _is_examples(contender: Contender) -> bool:
    return contender.layer == "apsw"


# The chat and its clients.


@contextlib.asynccontextmanager
async def _crowds(contender: Contender, folder: str) -> AsyncIterator[list[Member]]:
    """Processes with all the clients, in a room of a chat of their own."""
    async with _chat(contender, folder) as origin, crew(contender, folder, CROWDS) as crowds:
        shares = [range(crowd, names.CHAT_CLIENTS, CROWDS) for crowd in range(CROWDS)]
        clients = [[f"client {number}" for number in share] for share in shares]
        await together(
            *(
                # Contenders with the same Redis meet where their rooms have the same name.
                crowd.work("browsers.enter", origin=origin, room=contender.name, names=mine, most=len(mine) // WORKERS)
                for crowd, mine in zip(crowds, clients, strict=True)
            )
        )
        await together(*(crowd.work("browsers.calm") for crowd in crowds))
        yield crowds


@contextlib.asynccontextmanager
async def _chat(contender: Contender, folder: str) -> AsyncIterator[str]:
    """``manage.py chat`` until the block ends: where it is. WorkFailed where it does not start."""
    os.makedirs(folder, exist_ok=True)
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    log = Path(folder, "chat.log")
    with log.open("wb") as output:  # noqa: ASYNC230 # a temporary file does not hold up the loop
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "manage.py", "chat", "--port", str(port), "--workers", str(WORKERS)),
            cwd=ROOT / "examples" / "chat",
            env=_environment(contender, folder),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _started(process, log)
        yield f"http://{HOST}:{port}"
    finally:
        await _end(process)


def _environment(contender: Contender, folder: str) -> dict[str, str]:
    variables = contender.variables(folder) | {"CHAT_DATA": folder, "CHAT_DEBUG": "0", "CHAT_SECRET_KEY": "x" * 50}
    if _is_examples(contender):
        return variables | {"DJANGO_SETTINGS_MODULE": "chat.settings"}
    variables |= {"DJANGO_SETTINGS_MODULE": "tests.benchmarks.chat_settings", "PYTHONPATH": str(ROOT)}
    return variables | {"CHANNELS_LITE_BENCHMARK_CHAT": contender.layer}


async def _started(process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while "The chat is at" not in (printed := log.read_text(errors="replace")):
        if process.returncode is not None or time.monotonic() > deadline:
            raise WorkFailed(f"The chat does not start. {printed}")
        await asyncio.sleep(0.05)


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends its own processes when it is asked to."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), PATIENCE)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()


# What is measured.


async def _round(crowds: list[Member], name: str, effort: Effort) -> list[list[float]]:
    """The samples of a turn: of each client, of the last one, of deliveries, and of what went wrong."""
    texts = [f"{name} {number}" for number in range(effort.of(MESSAGES))]
    lines = [
        [[f"{name} {crowd} {one} {number}" for number in range(effort.of(LINES))] for one in range(SPEAKERS)]
        for crowd in range(CROWDS)
    ]
    each, last = await _say(crowds, texts)
    rate = await _talk(crowds, lines)
    said = [*texts, *(text for crowd in lines for speaker in crowd for text in speaker)]
    wrong = await together(*(crowd.work("browsers.wrong", texts=said) for crowd in crowds))
    return [each, last, [rate], [sum(wrong)]]


async def _say(crowds: list[Member], texts: list[str]) -> tuple[list[float], list[float]]:
    """Seconds until each client, and until the last one, heard what a client said; the next one is said then."""
    each: list[float] = []
    last: list[float] = []
    for text in texts:
        others = (crowd.work("browsers.hear", text=text) for crowd in crowds[1:])
        (said, *times), *more = await together(crowds[0].work("browsers.say", text=text), *others)
        delays = [moment - said for moment in chain(times, *more)]
        each += delays
        if len(delays) == names.CHAT_CLIENTS:
            last.append(max(delays))
    if not last:
        raise WorkFailed("No message has reached all clients.")
    return each, last


async def _talk(crowds: list[Member], lines: list[list[list[str]]]) -> float:
    """Deliveries a second while several clients talk at the same time."""
    works = (member.work("browsers.talk", lines=lines, crowd=crowd) for crowd, member in enumerate(crowds))
    done = await together(*works)
    seconds = max(one["end"] for one in done) - min(one["start"] for one in done)
    delivered: float = sum(one["heard"] for one in done) / seconds
    return delivered
