"""Run the benchmark and print its table."""

import argparse
import asyncio
import datetime
import os
import platform
import tempfile

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import apsw
import django

django.setup()

from tests.benchmarks import idle, roundtrip
from tests.benchmarks.figures import ratio


async def main(rounds: int, trips: int, idle_seconds: float, receivers: int) -> None:
    """Measure everything and print it as a table that can be pasted into the README."""
    with tempfile.TemporaryDirectory(prefix="channels-lite-bench-") as folder:
        ours, floor = await roundtrip.measure(folder, rounds, trips)
        busy = await idle.measure(folder, receivers, idle_seconds)
    print(machine())
    print()
    print("| work | ours | floor | ratio |")
    print("|---|---|---|---|")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        print(
            f"| cross-process round trip, {name} | {ours.quantile(share) * 1e6:.0f} µs "
            f"| {floor.quantile(share) * 1e6:.0f} µs (Unix socket) | {ratio(ours, floor, share):.2f} |"
        )
    print(f"| idle, {receivers} waiting receivers | {busy * 100:.3f} % of a core | - | - |")


def machine() -> str:
    """One line that says where and with what this was measured."""
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, apsw {apsw.apsw_version()}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="rounds that count; one more warms up")
    parser.add_argument("--trips", type=int, default=100, help="round trips in a round")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
    parser.add_argument("--receivers", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(main(options.rounds, options.trips, options.idle_seconds, options.receivers))
