"""What the benchmark says about its samples; nothing is timed here."""

from collections.abc import Awaitable

import pytest

from tests.benchmarks.contenders import Contender, Missing
from tests.benchmarks.crew import WorkFailed
from tests.benchmarks.results import Result
from tests.benchmarks.turns import Turns, together
from tests.benchmarks.writers import thin

FAST = Contender("fast", layer="memory")
WEAK = Contender("weak", layer="memory")


def test_quantiles_are_medians_over_the_rounds_and_the_worst_is_of_all_of_them():
    result = Result("work", "fast", "s", [[1, 2, 3, 4], [5, 1, 3, 2], [1, 9, 8, 1]])
    assert result.quantile(0.5) == 3
    assert result.quantile(0.99) == 5
    assert result.worst() == 9


@pytest.mark.parametrize("count", [1, 499, 500, 501, 20_000])
def test_thinned_samples_keep_the_worst_and_the_quantiles(count):
    kept = thin(list(range(count)))
    assert len(kept) <= 500
    assert kept[-1] == count - 1
    assert kept == sorted(kept)
    assert abs(kept[len(kept) // 2] - count / 2) <= count / 500 + 1


def test_the_first_round_is_dropped():
    turns = Turns()
    for number in range(3):
        turns.add("work", FAST, "s", [number])
    assert turns.results() == [Result("work", "fast", "s", [[1], [2]])]


def test_who_fails_in_a_work_is_missing_there_and_measured_elsewhere():
    turns = Turns()
    for _ in range(2):
        for contender in FAST, WEAK:
            turns.add("flood", contender, "1/s", [1.0])
            turns.add("flood: lost", contender, "errors", [0.0])
            turns.add("flood, wide", contender, "1/s", [2.0])
    turns.fail("flood", WEAK, WorkFailed("Traceback\nValueError: no way\n"))
    results = turns.results()
    assert [(one.work, one.contender) for one in results if isinstance(one, Result)] == [
        ("flood", "fast"),
        ("flood: lost", "fast"),
        ("flood, wide", "fast"),
        ("flood, wide", "weak"),
    ]
    assert results[-1] == Missing("weak", "flood: ValueError: no way")
    assert turns.out("flood", WEAK)
    assert not turns.out("flood, wide", WEAK)


async def test_a_failure_is_told_only_when_all_works_have_ended():
    ended = []

    async def work(name: str, fails: bool) -> str:
        if fails:
            raise WorkFailed(name)
        ended.append(name)
        return name

    works: list[Awaitable[str]] = [work("bad", True), work("good", False)]
    with pytest.raises(WorkFailed, match="bad"):
        await together(*works)
    assert ended == ["good"]
    assert await together(work("one", False), work("two", False)) == ["one", "two"]
