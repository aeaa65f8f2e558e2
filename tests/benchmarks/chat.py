"""The example chat under real WebSocket clients, all in one room, on two workers: started as its users start it."""

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from itertools import chain
from pathlib import Path

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import Member, WorkFailed, crew
from tests.benchmarks.effort import Effort
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns, together

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
WORKERS = 2
CLIENTS = 200
CROWDS = 2  # processes that the clients are in
MESSAGES = 40  # of a round, said one at a time
SPEAKERS = 5  # of each crowd, who talk at the same time
LINES = 10  # that each of them says in a round
PATIENCE = 30.0  # seconds that the chat may take to start, and to end

WORK = "chat"
ALL = f"{WORK}: message to all {CLIENTS}"
ONE = f"{WORK}: message to one"
RATE = f"{WORK}: messages delivered"
WRONG = f"{WORK}: messages lost"


async def measure(contenders: Sequence[Contender], folder: str, effort: Effort) -> list[Result | Missing]:
    """Seconds of a message to each and to the last client, deliveries a second, and what was lost or came twice.

    Our layer is measured as the example configures it; the others take its place there.
    """
    turns = Turns()
    async with contextlib.AsyncExitStack() as stack:
        ready = []
        for contender in filter(_can_take_part, contenders):
            try:
                ready.append((contender, await stack.enter_async_context(_crowds(contender, folder))))
            except WorkFailed as error:
                turns.fail(WORK, contender, error)
        for number in range(effort.rounds + 1):
            for contender, crowds in ready:
                await _round(turns, contender, crowds, f"{number}", effort)
    return turns.results()


def _can_take_part(contender: Contender) -> bool:
    """Whether the example's workers would reach each other through this layer. It needs this project's environment."""
    return contender.crosses and contender.python == sys.executable and (not contender.ours or _is_examples(contender))


def _is_examples(contender: Contender) -> bool:
    return contender.layer == "apsw"


# The chat and its clients.


@contextlib.asynccontextmanager
async def _crowds(contender: Contender, folder: str) -> AsyncIterator[list[Member]]:
    """Processes with all the clients, in a room of a chat of their own."""
    place = f"{folder}/chat-{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())}"
    async with _chat(contender, place) as origin, crew(contender, place, CROWDS) as crowds:
        names = [[f"client {number}" for number in range(crowd, CLIENTS, CROWDS)] for crowd in range(CROWDS)]
        await together(
            *(
                # Contenders with the same Redis meet where their rooms have the same name.
                crowd.work("browsers.enter", origin=origin, room=contender.name, names=mine, most=len(mine) // WORKERS)
                for crowd, mine in zip(crowds, names, strict=True)
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


async def _round(turns: Turns, contender: Contender, crowds: list[Member], name: str, effort: Effort) -> None:
    if turns.out(WORK, contender):
        return
    texts = [f"{name} {number}" for number in range(effort.of(MESSAGES))]
    lines = [
        [[f"{name} {crowd} {one} {number}" for number in range(effort.of(LINES))] for one in range(SPEAKERS)]
        for crowd in range(CROWDS)
    ]
    try:
        each, last = await _say(crowds, texts)
        rate = await _talk(crowds, lines)
        said = [*texts, *(text for crowd in lines for speaker in crowd for text in speaker)]
        wrong = await together(*(crowd.work("browsers.wrong", texts=said) for crowd in crowds))
    except WorkFailed as error:
        turns.fail(WORK, contender, error)
        return
    turns.add(ONE, contender, "s", each)
    turns.add(ALL, contender, "s", last)
    turns.add(RATE, contender, "1/s", [rate])
    turns.add(WRONG, contender, "errors", [sum(wrong)])


async def _say(crowds: list[Member], texts: list[str]) -> tuple[list[float], list[float]]:
    """Seconds until each client, and until the last one, heard what a client said; the next one is said then."""
    each: list[float] = []
    last: list[float] = []
    for text in texts:
        others = (crowd.work("browsers.hear", text=text) for crowd in crowds[1:])
        (said, *times), *more = await together(crowds[0].work("browsers.say", text=text), *others)
        delays = [moment - said for moment in chain(times, *more)]
        each += delays
        if len(delays) == CLIENTS:
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
