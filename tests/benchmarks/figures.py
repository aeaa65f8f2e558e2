"""Samples in rounds, and what is said about them: medians over the rounds, since one round proves nothing."""

import statistics


class Samples:
    """Seconds, in rounds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._rounds: list[list[float]] = []

    def begin_round(self) -> None:
        """What is added from now on belongs to a new round."""
        self._rounds.append([])

    def add(self, seconds: float) -> None:
        """Add one sample to the running round."""
        self._rounds[-1].append(seconds)

    def drop_first_round(self) -> None:
        """The first round was for warming up."""
        del self._rounds[0]

    def quantile(self, share: float) -> float:
        """The median over the rounds of this quantile of a round, in seconds."""
        return statistics.median(sorted(one)[min(len(one) - 1, int(len(one) * share))] for one in self._rounds)


def row(work: str, ours: Samples, other: Samples, share: float = 0.5) -> str:
    """A row of the table: our quantile beside the other's."""
    mine, its = ours.quantile(share), other.quantile(share)
    return f"| {work} | {duration(mine)} | {duration(its)} ({other.name}) | {comparison(mine, its)} |"


def duration(seconds: float) -> str:
    """Seconds in the unit that a reader wants."""
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"


def comparison(ours: float, other: float) -> str:
    """Ours as a multiple of the other's; how many times faster it is where it is by far."""
    return f"{ours / other:.2f}" if ours * 10 > other else f"{other / ours:.0f} times faster"
