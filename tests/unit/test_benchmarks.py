"""The benchmark: each of its parts prints rows of the README's table, and says what could not be measured."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 120.0  # seconds until a benchmark that hangs fails its test


def table(*options: str) -> list[list[str]]:
    """The rows that the benchmark prints, cell by cell, where pip cannot reach any index."""
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    command = [sys.executable, "-m", "tests.benchmarks", *options]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert lines[:2] == ["| work | ours | beside | ratio |", "|---|---|---|---|"]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_round_trips_of_all_layers_stand_beside_what_they_are_compared_with() -> None:
    rows = table("roundtrip", "--rounds", "1", "--trips", "3")
    beside = [(work.rsplit(", ", 1)[0], other.partition("(")[2]) for work, _, other, _ in rows]
    assert beside == [
        *[("cross-process round trip, apsw layer", "Unix socket)")] * 2,
        *[("cross-process round trip, core layer", "apsw)")] * 2,
        *[("cross-process round trip, core layer, journal mode DELETE", "apsw)")] * 2,
    ]


def test_a_release_that_cannot_be_installed_is_named_with_the_reason_and_ours_are_measured() -> None:
    rows = table("group", "--group-rounds", "1", "--receivers", "5")
    assert len(rows) == 4
    for _, ours, beside, ratio in rows:
        assert ours.endswith("s")
        assert beside.startswith("channels-lite 0.4.0, ORM: not installed: ERROR: No matching distribution")
        assert ratio == "-"
