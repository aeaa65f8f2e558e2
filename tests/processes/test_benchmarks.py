"""The benchmark from its command line to its tables and its JSON; that what it cannot measure is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import names

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 240.0  # seconds until a benchmark that hangs fails its test
PRESENT = [names.APSW, names.CORE, names.MEMORY]
ABSENT = [*names.REDIS_CORE, *names.REDIS_PUBSUB, names.RELEASE_AIO, names.RELEASE_CORE]


def test_ours_are_measured_and_who_cannot_be_installed_is_named_with_the_reason(tmp_path: Path) -> None:
    """Where no program is found on the path, and pip cannot reach any index."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PATH": ""}
    command = [sys.executable, "-m", "tests.benchmarks", "inprocess", "groups", "--rounds", "1", "--share", "0.01"]
    ended = subprocess.run(
        [*command, "--json", str(tmp_path / "all.json")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads((tmp_path / "all.json").read_text())
    _look_at_results(written)
    _look_at_tables(ended.stdout.splitlines())
    assert [one["name"] for one in written["missing"]] == ABSENT
    for one in written["missing"]:
        assert "redis-server" in one["reason"] or "No matching distribution" in one["reason"]
        assert f"- not measured: {one['name']}: {one['reason']}" in ended.stdout.splitlines()


def _look_at_results(written: dict) -> None:
    """Every work has been measured with everybody who can do it, in one round."""
    inprocess, groups = written["parts"]["inprocess"], written["parts"]["groups"]
    assert not [result for result in inprocess + groups if "failed" in result["reason"]]
    # On a slow machine, who is slow is measured in no larger groups.
    assert not [one for one in inprocess + groups if len(one["rounds"]) != 1 and "a round takes" not in one["reason"]]
    at = {(result["work"], result["contender"]) for result in inprocess}
    assert {(names.SEQUENTIAL, contender) for contender in [names.RAW, *PRESENT]} <= at
    assert {(names.FROM_SYNC, contender) for contender in PRESENT} <= at
    assert {result["contender"] for result in groups if result["work"] == names.DELIVERIES} == {names.BARE, *PRESENT}
    assert {result["contender"] for result in groups if result["work"] == names.DELIVERIES_4} == set(PRESENT[:2])


def _look_at_tables(lines: list[str]) -> None:
    """A row for each contender, and the target beside one that is missing says so."""
    for contender in PRESENT:
        assert any(line.startswith(f"| {contender} | ") for line in lines)
    [row] = [line for line in lines if line.startswith(f"| {names.SEQUENTIAL}, beside {names.REDIS_CORE_TCP} |")]
    assert "not measured: There is no redis-server here" in row
