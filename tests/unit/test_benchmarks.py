"""What the benchmark says about figures, and that all its parts work. What they measure here is not looked at."""

import argparse
import asyncio
import importlib
import math
import os
from pathlib import Path

import pytest
from channels.layers import InMemoryChannelLayer

from tests.benchmarks import crossing, groups, names, table, targets
from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import WorkFailed, crew, together
from tests.benchmarks.effort import Effort
from tests.benchmarks.lineup import lineup
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.works import inprocess
from tests.benchmarks.works.crossing import drain
from tests.benchmarks.writers import thin

APSW = Contender(names.APSW, "apsw", ours=True)
MEMORY = Contender(names.MEMORY, "memory")
WORKS = {
    "inprocess": (
        *(names.SEQUENTIAL, names.SPECIFIC, names.WAITING_NORMAL, names.WAITING_SPECIFIC),
        *(names.CONCURRENT, names.GROUP_ADD, names.FROM_SYNC, names.SYNC, names.FROM_SYNC_OWN, names.SYNC_OWN),
    ),
    "payloads": (names.PAYLOAD, names.PAYLOAD_ENCRYPTED),
    "groups": (
        *(names.RETURNS, names.ALL_HAVE_IT, names.DELIVERIES),
        *(names.RETURNS_4, names.ALL_HAVE_IT_4, names.DELIVERIES_4),
    ),
    "crossing": (names.ROUND_TRIP, names.ROUND_TRIP_APART, names.FLOOD, names.FLOOD_LOST),
    "writers": (names.WRITERS_THROUGHPUT, names.WRITERS_WAIT, names.WRITERS_ERRORS),
    "idle": (names.IDLE_PROCESSOR, names.IDLE_MEMORY, names.IDLE_RESIDENT),
    "backlog": (names.BACKLOG_SEND, names.BACKLOG_CLAIM),
}


def verdict(title: str, results: list[Result], missing: list[Missing] | None = None) -> list[str]:
    """The cells of the target whose title begins so."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in targets.verdicts(results, missing or [])]
    return next(row for row in rows if row[0].startswith(title))


def test_a_work_of_ours_that_takes_a_twentieth_has_reached_twenty_times() -> None:
    ours, other = (
        Result(names.SEQUENTIAL, name, "s", [[seconds]])
        for name, seconds in ((names.APSW, 0.001), (names.REDIS_CORE_TCP, 0.02))
    )
    title = f"{names.SEQUENTIAL}, beside {names.REDIS_CORE_TCP}"
    assert verdict(title, [ours, other])[1:] == ["at least 20", "20 (1 ms beside 20 ms)", "reached"]
    other.rounds = [[0.019]]
    assert verdict(title, [ours, other])[-1] == "missed"


def test_of_rates_more_is_better() -> None:
    ours, other = (
        Result(names.CONCURRENT, name, "1/s", [[rate]]) for name, rate in ((names.APSW, 79), (names.MEMORY, 100))
    )
    title = f"{names.CONCURRENT}, beside {names.MEMORY}"
    assert verdict(title, [ours, other])[-1] == "missed"
    ours.rounds = [[80]]
    assert verdict(title, [ours, other])[-1] == "reached"


def test_a_cost_is_at_most_so_many_times_the_other_ones() -> None:
    ours, other = (
        Result(names.SPECIFIC, name, "s", [[seconds]])
        for name, seconds in ((names.APSW, 0.0016), (names.MEMORY, 0.001))
    )
    assert verdict(names.SPECIFIC, [ours, other])[1:] == ["at most 1.5", "1.6 (1.6 ms beside 1 ms)", "missed"]
    ours.rounds = [[0.0015]]
    assert verdict(names.SPECIFIC, [ours, other])[-1] == "reached"


def test_the_worst_wait_is_that_of_all_rounds() -> None:
    rounds = [[0.001, 0.002], [0.001, 0.051], [0.001, 0.002]]
    results = [Result(names.WRITERS_WAIT, names.APSW, "s", rounds, size=4)]
    assert verdict("4 processes writing at once: worst", results)[2:] == ["51 ms", "missed"]


def test_what_was_not_measured_says_why() -> None:
    title = f"{names.SEQUENTIAL}, beside {names.REDIS_CORE_TCP}"
    ours = Result(names.SEQUENTIAL, names.APSW, "s", [[0.001]])
    missing = [Missing(names.REDIS_CORE_TCP, "There is no redis-server here.")]
    failed = Result(names.SEQUENTIAL, names.REDIS_CORE_TCP, "s", reason="failed: ConnectionError")
    assert verdict(title, [ours])[-1] == "not measured: not part of this run"
    assert verdict(title, [ours], missing)[-1] == "not measured: There is no redis-server here."
    assert verdict(title, [ours, failed])[-1] == "not measured: failed: ConnectionError"


def test_of_a_target_it_is_said_that_the_floor_misses_it_too() -> None:
    ours, redis, raw = (
        Result(names.SEQUENTIAL, name, "s", [[seconds]])
        for name, seconds in ((names.APSW, 80e-6), (names.REDIS_CORE_TCP, 1e-3), (names.RAW, 67e-6))
    )
    title = f"{names.SEQUENTIAL}, beside {names.REDIS_CORE_TCP}"
    assert verdict(title, [ours, redis, raw])[2] == "12.5 (80 µs beside 1 ms; raw apsw: 67 µs)"
    assert list(targets.notes([ours, redis, raw])) == [
        f"- missed by the floor, too: {title}: 0.05 times it is 50 µs; raw apsw has 67 µs"
    ]
    raw.rounds = [[50e-6]]
    assert list(targets.notes([ours, redis, raw])) == []


def test_a_table_has_a_ratio_beside_what_is_not_ours_and_notes_below() -> None:
    results = [
        Result(names.RETURNS, names.APSW, "s", [[0.002]], size=10),
        Result(names.RETURNS, names.MEMORY, "s", [[0.001]], size=10, reason="one round only"),
        Result(names.RETURNS, names.CORE, "s", size=10, reason="failed: OSError"),
    ]
    assert list(table.tables("groups", results)) == [
        f"| {names.RETURNS}, by members | 10 |",
        "|---|---|",
        f"| {names.APSW} | 2 ms |",
        f"| {names.MEMORY} | 1 ms (0.5) |",
        f"| {names.CORE} | - |",
        "",
        f"- {names.MEMORY}, group_send, members in one process, 10: one round only",
        f"- {names.CORE}, group_send, members in one process, 10: failed: OSError",
        "",
    ]


async def test_a_contender_that_fails_in_a_work_is_noted_and_can_do_the_next(tmp_path: Path) -> None:
    sheet = Sheet()
    failed, done = (sheet.result(name, MEMORY, "s") for name in ("one", "another"))
    async with crew(MEMORY, str(tmp_path)) as (member,):
        for _ in sheet.rounds(1):
            await sheet.turn(member.work("inprocess.payload", size="many", messages=1, seconds=1), failed)
            await sheet.turn(member.work("inprocess.payload", size=10, messages=2, seconds=9), done)
    assert failed.reason.startswith("failed: TypeError")
    assert failed.rounds == []
    assert [len(samples) for samples in done.rounds] == [2]


async def test_the_first_round_is_not_kept() -> None:
    async def samples(number: int) -> list[float]:
        return [number]

    sheet = Sheet()
    for number in sheet.rounds(2):
        await sheet.turn(samples(number), sheet.result("work", MEMORY, "s"))
    assert sheet.results == [Result("work", names.MEMORY, "s", [[1], [2]])]


async def test_figures_of_one_turn_end_together() -> None:
    async def samples() -> list[list[float]]:
        return [[1.0], [2.0]]

    async def failing() -> list[list[float]]:
        raise WorkFailed("Traceback\nValueError: no way\n")

    sheet = Sheet()
    rate, lost, wide = (sheet.result(work, MEMORY, "1/s") for work in ("rate", "lost", "wide"))
    for doing in (samples(), failing(), samples()):
        await sheet.turn(doing, rate, lost)
    await sheet.turn(samples(), wide, sheet.result("narrow", MEMORY, "1/s"))
    assert [result.reason for result in (rate, lost)] == ["failed: ValueError: no way"] * 2
    assert [result.rounds for result in (rate, lost, wide)] == [[], [], [[1.0]]]


async def test_a_failure_is_told_only_when_all_works_have_ended() -> None:
    ended = []

    async def work(name: str) -> str:
        await asyncio.sleep(0)
        ended.append(name)
        return name

    async def failing() -> None:
        raise WorkFailed("bad")

    with pytest.raises(WorkFailed, match="bad"):
        await together(failing(), work("good"))
    assert ended == ["good"]
    assert await together(work("one"), work("two")) == ["one", "two"]


def test_quantiles_are_medians_over_the_rounds_and_the_worst_is_of_all_of_them() -> None:
    result = Result("work", "fast", "s", [[1, 2, 3, 4], [5, 1, 3, 2], [1, 9, 8, 1]])
    assert result.quantile(0.5) == 3
    assert result.quantile(0.99) == 5
    assert result.worst() == 9


@pytest.mark.parametrize("count", [1, 499, 500, 501, 20_000])
def test_thinned_samples_keep_the_worst_and_the_quantiles(count: int) -> None:
    kept = thin(list(range(count)))
    assert len(kept) <= 500
    assert kept[-1] == count - 1
    assert kept == sorted(kept)
    assert abs(kept[len(kept) // 2] - count / 2) <= count / 500 + 1


@pytest.mark.parametrize("part", ["inprocess", "payloads", "groups", "crossing", "writers", "idle", "backlog"])
async def test_a_part_measures_all_its_works(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SLOW", math.inf)
    sheet, module = Sheet(), importlib.import_module(f"tests.benchmarks.{part}")
    await module.measure(sheet, [APSW], str(tmp_path), Effort(rounds=1, share=0.01))
    assert {result.work for result in sheet.results if result.contender == names.APSW} == set(WORKS[part])
    for result in sheet.results:
        if result.reason != crossing.ONE_CORE:
            assert result.reason == ""
            assert [len(samples) > 0 for samples in result.rounds] == [True], result


@pytest.fixture
def without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Redis nor the release can be had."""
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.usefixtures("without_peers")
async def test_peers_that_are_not_installed_are_named_with_the_reason(tmp_path: Path) -> None:
    async with lineup(str(tmp_path)) as found:
        assert [contender.name for contender in found.contenders] == [*names.OURS, names.MEMORY]
        missing = {one.name: one.reason for one in found.missing}
    assert list(missing) == [*names.REDIS_CORE, *names.REDIS_PUBSUB, names.RELEASE_AIO, names.RELEASE_CORE]
    assert missing[names.REDIS_CORE_TCP] == "There is no redis-server here; install Debian's package redis-server."
    assert "No matching distribution found" in missing[names.RELEASE_AIO]


async def test_a_message_of_somebody_else_is_not_taken_for_the_one_that_was_sent() -> None:
    layer = InMemoryChannelLayer()
    await inprocess.sequential(layer, 1, 9.0)
    [channel] = [name for name in inprocess._known if name.startswith("work-")]
    await layer.send(channel, {"type": "chat.message", "number": -1})
    with pytest.raises(RuntimeError, match="message -1 has arrived"):
        await inprocess.sequential(layer, 1, 9.0)


@pytest.mark.parametrize(("numbers", "came"), [((1, 2, 3), 3), ((1, 3), 2), ((1, 2, 2, 3), None), ((1, 3, 2), None)])
async def test_a_flood_is_not_taken_for_whole(numbers: tuple[int, ...], came: int | None) -> None:
    """What is missing is counted; what comes twice, or too late, does not make up for it."""
    layer = InMemoryChannelLayer()
    for number in numbers:
        await layer.send("flood", {"type": "crossing.flood", "number": number, "last": number == numbers[-1]})
    draining = drain(layer, "flood", "reply")
    if came is None:
        with pytest.raises(RuntimeError, match=r"has come after message"):
            await draining
    else:
        assert await draining == came


async def test_who_takes_long_is_measured_in_no_larger_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger ones say why; at the size that took long, all rounds are there."""
    monkeypatch.setattr(groups, "SLOW", 0.0)
    sheet = Sheet()
    await groups.measure(sheet, [APSW], str(tmp_path), Effort(rounds=2, share=0.01))
    found = {result.size: result for result in sheet.results if result.work == names.ALL_HAVE_IT}
    assert len(found[1].rounds) == 2
    assert not found[1].reason
    assert "a round takes" in found[100].reason
    assert not found[100].rounds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "rounds are a whole number from 1 on"),
        (["--rounds", "x"], "rounds are a whole number from 1 on"),
        (["--share", "0"], "a share is a number above 0"),
        (["--share", "nan"], "a share is a number above 0"),
        (["--share", "x"], "a share is a number above 0"),
        (["nothing"], "there are inprocess, payloads"),
        (["--json", "missing/file.json"], "missing/file.json"),
    ],
)
def test_arguments_that_are_wrong(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["tests.benchmarks", *arguments])
    with pytest.raises(SystemExit):
        importlib.import_module("tests.benchmarks.__main__").arguments()
    assert said in capsys.readouterr().err


async def measure_groups() -> bool:
    """Whether a run of that part alone ends without a failure."""
    options = argparse.Namespace(parts=["groups"], rounds=1, share=0.01, json=None, plot=None)
    ended_well: bool = await importlib.import_module("tests.benchmarks.__main__").main(options)
    return ended_well


@pytest.mark.usefixtures("without_peers")
@pytest.mark.parametrize("fails", [True, False])
async def test_whether_a_part_has_failed(
    fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part that fails as a whole makes the benchmark's status; a peer that is not installed does not."""

    async def measure(*arguments: object) -> None:
        if fails:
            raise ValueError("as a whole")

    monkeypatch.setattr(groups, "measure", measure)
    assert await measure_groups() is not fails
    assert ("the part groups: failed: ValueError: as a whole" in capsys.readouterr().out) is fails


@pytest.mark.usefixtures("without_peers")
async def test_whether_a_contender_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """That makes the benchmark's status, too."""

    async def fail() -> None:
        raise WorkFailed("alone")

    async def measure(sheet: Sheet, *arguments: object) -> None:
        await sheet.attempt(fail(), sheet.result(names.SPECIFIC, APSW, "s"))

    monkeypatch.setattr(groups, "measure", measure)
    assert not await measure_groups()
