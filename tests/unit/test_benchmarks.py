"""What the benchmark says about figures, and that it measures no other message than the one that was sent."""

from pathlib import Path

import pytest
from channels.layers import InMemoryChannelLayer

from tests.benchmarks import names, table, targets
from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import crew
from tests.benchmarks.results import Result
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.works import inprocess


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


def test_who_failed_in_another_work_is_not_said_to_have_failed_in_this_one() -> None:
    waits = Result(names.ROUND_TRIP, names.APSW, "s", [[0.001]])
    other = Result(names.SPECIFIC, names.REDIS_PUBSUB_TCP, "s", [[0.001]])
    missing = [Missing(names.REDIS_PUBSUB_TCP, f"{names.FLOOD}: TimeoutError")]
    title = f"{names.ROUND_TRIP}, p50, beside {names.REDIS_PUBSUB_TCP}"
    assert verdict(title, [waits, other], missing)[-1] == "not measured: not part of this run"
    missing = [Missing(names.REDIS_PUBSUB_TCP, f"{names.ROUND_TRIP}: TimeoutError")]
    assert verdict(title, [waits, other], missing)[-1] == f"not measured: {names.ROUND_TRIP}: TimeoutError"


def test_a_table_has_a_ratio_beside_what_is_not_ours_and_notes_below() -> None:
    results = [
        Result(names.RETURNS, names.APSW, "s", [[0.002]], size=10),
        Result(names.RETURNS, names.MEMORY, "s", [[0.001]], size=10, reason="one round only"),
        Result(names.RETURNS, names.CORE, "s", size=10, reason="failed: OSError"),
    ]
    assert list(table.tables("groups", results)) == [
        f"| {names.RETURNS} | 10 |",
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
    sheet, contender = Sheet(), Contender(names.MEMORY, "memory")
    failed, done = (sheet.result(name, contender, "s") for name in ("one", "another"))
    async with crew(contender, str(tmp_path)) as (member,):
        await sheet.turn(failed, member.work("inprocess.payload", size="many", messages=1, seconds=1), warm_up=False)
        await sheet.turn(done, member.work("inprocess.payload", size=10, messages=2, seconds=9), warm_up=False)
    assert failed.reason.startswith("failed: TypeError")
    assert failed.rounds == []
    assert [len(samples) for samples in done.rounds] == [2]


async def test_a_message_of_somebody_else_is_not_taken_for_the_one_that_was_sent() -> None:
    layer = InMemoryChannelLayer()
    await inprocess.sequential(layer, 1, 9.0)
    [channel] = [name for name in inprocess._known if name.startswith("work-")]
    await layer.send(channel, {"type": "chat.message", "number": -1})
    with pytest.raises(RuntimeError, match="message -1 has arrived"):
        await inprocess.sequential(layer, 1, 9.0)
