"""Run the benchmark and print its table, in Markdown."""

import argparse
import asyncio
import datetime
import os
import platform
import sqlite3
import tempfile

import apsw
import django

PARTS = ("roundtrip", "group", "idle")
TITLES = {"apsw": "apsw layer", "core": "core layer", "core-delete": "core layer, journal mode DELETE"}


async def main(folder: str, options: argparse.Namespace) -> None:
    """Measure the parts that are asked for and print them as a table that can be pasted into the README."""
    rows = []
    for part in options.parts or PARTS:
        rows += await {"roundtrip": roundtrips, "group": groups, "idle": idling}[part](folder, options)
    print(machine())
    print()
    print("| work | ours | beside | ratio |")
    print("|---|---|---|---|")
    print("\n".join(rows))


async def roundtrips(folder: str, options: argparse.Namespace) -> list[str]:
    """Rows: the apsw layer beside the floor, the core layer beside the apsw layer."""
    from tests.benchmarks import roundtrip
    from tests.benchmarks.figures import row

    measured = await roundtrip.measure(folder, options.rounds, options.trips)
    return [
        row(f"cross-process round trip, {TITLES[name]}, {quantile}", measured[name], measured[beside], share)
        for name, beside in (("apsw", roundtrip.SOCKET), ("core", "apsw"), ("core-delete", "apsw"))
        for quantile, share in (("p50", 0.5), ("p99", 0.99))
    ]


async def groups(folder: str, options: argparse.Namespace) -> list[str]:
    """Rows: both layers beside channels-lite 0.4.0's ORM layer."""
    from tests.benchmarks import group, release
    from tests.benchmarks.figures import duration, row

    measured, missing = await group.measure(folder, options.group_rounds, options.receivers)
    rows = []
    for name in group.LAYERS:
        for number, until in enumerate(("until it returns", "until all have it")):
            work = f"group_send to {options.receivers} waiting channels, {TITLES[name]}, {until}"
            if missing:
                took = duration(measured[name][number].quantile(0.5))
                rows.append(f"| {work} | {took} | {release.NAME}: not installed: {missing} | - |")
            else:
                rows.append(row(work, measured[name][number], measured[release.NAME][number]))
    return rows


async def idling(folder: str, options: argparse.Namespace) -> list[str]:
    """Row: what waiting costs."""
    from tests.benchmarks import idle

    busy = await idle.measure(folder, options.receivers, options.idle_seconds)
    return [f"| idle, apsw layer, {options.receivers} waiting receivers | {busy * 100:.3f} % of a core | - | - |"]


def machine() -> str:
    """One line that says where and with what this was measured."""
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, Django {django.__version__}, SQLite {sqlite3.sqlite_version}, "
        f"apsw {apsw.apsw_version()}:"
    )


def arguments() -> argparse.Namespace:
    """What is to be measured, and how long."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; all when left out")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of round trips that count; one more warms up")
    parser.add_argument("--trips", type=int, default=100, help="round trips in a round")
    parser.add_argument("--group-rounds", type=int, default=7, help="group_sends that count; one more warms up")
    parser.add_argument("--receivers", type=int, default=1000, help="channels in the group, and receivers that wait")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    chosen = arguments()
    with tempfile.TemporaryDirectory(prefix="channels-lite-bench-") as place:
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
        os.environ["CHANNELS_LITE_BENCHMARK"] = place
        django.setup()
        asyncio.run(main(place, chosen))
