"""What was measured: samples in rounds, and what is said about them."""

import statistics
from dataclasses import dataclass, field


@dataclass
class Result:
    """One figure of one contender for one work. Medians over the rounds, since one round proves nothing."""

    work: str
    """The same words for all contenders; they stand in ``names``."""
    contender: str
    unit: str
    """``s``, ``1/s``, ``bytes``, ``cores`` (processor seconds in a second) or ``errors``. Of ``s``, ``bytes``,
    ``cores`` and ``errors``, less is better."""
    rounds: list[list[float]] = field(default_factory=list)
    """The samples of each round; a rate has one sample a round."""
    size: float | None = None
    """Where the work is measured at several sizes for a curve: members, writers, bytes or rows."""
    reason: str = ""
    """Why there are no samples, or fewer than usual."""
    failed: bool = False
    """Whether that is an error of the contender."""

    def quantile(self, share: float = 0.5) -> float:
        """The median over the rounds of this quantile of a round; 1.0 is the highest sample of all rounds."""
        if share == 1:
            return self.worst()
        return statistics.median(sorted(one)[min(len(one) - 1, int(len(one) * share))] for one in self.rounds)

    def worst(self) -> float:
        """The highest sample of all rounds."""
        return max(max(one) for one in self.rounds)
