"""Run the benchmark: print its tables, in Markdown, and what of the targets was reached."""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

from tests.benchmarks import table, targets
from tests.benchmarks.contenders import Missing
from tests.benchmarks.effort import Effort
from tests.benchmarks.lineup import Lineup, lineup
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet

PARTS = ("inprocess", "payloads", "groups", "crossing", "writers", "idle", "backlog", "chat")


async def main(options: argparse.Namespace) -> bool:
    """Measure the parts that are asked for; write what was asked for, and print them. Whether nothing failed."""
    with tempfile.TemporaryDirectory(prefix="channels-lite-bench-") as folder:
        async with lineup(folder) as found:
            absent = len(found.missing)
            measured = {part: await _part(part, found, folder, options) for part in options.parts or PARTS}
            missing, machine = found.missing, table.machine(found.redis.version if found.redis else "")
    command = "python -m tests.benchmarks " + shlex.join(sys.argv[1:])
    results = [result for part in measured.values() for result in part]
    if options.json:
        _write(options.json, {"machine": machine, "command": command.strip()}, measured, missing)
    if options.plot:
        _plot(results, options.plot)
    _print(machine, command, measured, missing, rough=options.share < 1)
    return len(missing) == absent and not any(result.failed for result in results)


async def _part(part: str, found: Lineup, folder: str, options: argparse.Namespace) -> list[Result]:
    """The results of a part. One that fails as a whole is reported, and the others go on."""
    sheet, effort, begun = Sheet(), Effort(options.rounds, options.share), time.monotonic()
    print(f"{part} ... ", end="", file=sys.stderr, flush=True)
    await found.clean()
    try:
        module = importlib.import_module(f"tests.benchmarks.{part}")
        await module.measure(sheet, found.contenders, f"{folder}/{part}", effort)
    except Exception as error:
        traceback.print_exc()
        found.missing.append(Missing(f"the part {part}", f"failed: {type(error).__name__}: {error}".splitlines()[0]))
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)
    return sheet.results


def _print(
    machine: str, command: str, measured: dict[str, list[Result]], missing: list[Missing], *, rough: bool
) -> None:
    print(f"{machine}: `{command.strip()}`\n\n{table.CAPTION}\n")
    if rough:
        print("Of a share, figures are rough, and nothing follows for the targets.\n")
    for part, results in measured.items():
        print("\n".join(table.tables(part, results)))
    results = [result for part in measured.values() for result in part]
    print("\n".join([*table.absent(missing), "", *targets.verdicts(results, missing), "", *targets.notes(results)]))


def _write(path: str, about: dict[str, str], measured: dict[str, list[Result]], missing: list[Missing]) -> None:
    everything: dict[str, Any] = {
        **about,
        "missing": [dataclasses.asdict(one) for one in missing],
        "parts": {part: [dataclasses.asdict(result) for result in results] for part, results in measured.items()},
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(everything, file, indent=1)


def _plot(results: list[Result], folder: str) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        print("No plots: matplotlib is not installed; install the extra bench.", file=sys.stderr)
        return
    from tests.benchmarks import plot

    plot.draw(results, folder)


def arguments() -> argparse.Namespace:
    """What is to be measured, and how long."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; all when left out")
    parser.add_argument("--rounds", type=_rounds, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--share", type=_share, default=1.0, help="of the usual messages, group sizes and backlogs")
    parser.add_argument("--json", help="write all samples to this file")
    parser.add_argument("--plot", help="draw into this folder; needs the extra bench")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    try:
        _prepare(options)
    except OSError as error:  # now, and not when all has been measured
        parser.error(str(error))
    return options


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("rounds are a whole number from 1 on")
    return int(text)


def _share(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (share := float(text)) <= 1:
            return share
    raise argparse.ArgumentTypeError("a share is a number above 0, up to 1")


def _prepare(options: argparse.Namespace) -> None:
    """Make what is to be written to; OSError where that is not possible."""
    if options.json:
        with open(options.json, "a", encoding="utf-8"):  # what an earlier run has left stays until this one ends
            pass
    if options.plot:
        os.makedirs(options.plot, exist_ok=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started ends with it
    try:
        sys.exit(not asyncio.run(main(arguments())))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
