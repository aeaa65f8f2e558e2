"""group_send to the channels of one process: our layers against channels-lite 0.4.0's, each in its own process."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import release
from tests.benchmarks.figures import Samples

LAYERS = ("apsw", "core")  # names of CHANNEL_LAYERS
MEMBERS = Path(__file__).parent / "members.py"


class Measured(NamedTuple):
    """Seconds of one contender: until group_send returned, and until the last receiver had the message."""

    returned: Samples
    received: Samples


@contextlib.asynccontextmanager
async def members(python: str, folder: str, layer: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ``members`` on databases of its own, ready for its first line, until the block ends."""
    os.mkdir(folder)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings", "CHANNELS_LITE_BENCHMARK": folder}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)  # it has another channels_lite
    process = await asyncio.create_subprocess_exec(
        *(python, str(MEMBERS), layer, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        await _answer(process)
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def _answer(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    if not line:
        raise RuntimeError("A process with the members of a group has ended; its error stands above.")
    return line


async def measure(folder: str, rounds: int, count: int) -> tuple[dict[str, Measured], str]:
    """Seconds of each contender, taken in turn, and why 0.4.0 is not among them; empty where it is."""
    contenders, missing = {name: (sys.executable, name) for name in LAYERS}, ""
    try:
        contenders[release.NAME] = (release.install(f"{folder}/release"), "core")
    except release.NotInstalled as error:
        missing = str(error)
    measured = {name: Measured(Samples(name), Samples(name)) for name in contenders}
    async with contextlib.AsyncExitStack() as stack:
        processes = {
            name: await stack.enter_async_context(members(python, f"{folder}/{number}", layer, count))
            for number, (name, (python, layer)) in enumerate(contenders.items())
        }
        for _ in range(rounds + 1):
            for name, process in processes.items():
                await _round(measured[name], process)
    for samples in (one for both in measured.values() for one in both):
        samples.drop_first_round()
    return measured, missing


async def _round(measured: Measured, process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    for samples, seconds in zip(measured, json.loads(await _answer(process)), strict=True):
        samples.begin_round()
        samples.add(seconds)
