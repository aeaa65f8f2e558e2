"""How long the benchmark takes its time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Rounds, and how much is done in each."""

    rounds: int = 5
    """Rounds that count; one more warms up. In a round all contenders take their turns."""
    share: float = 1.0
    """Of the usual number of messages: less for a quick look."""

    def of(self, number: int) -> int:
        """So many messages as are to be sent where it is usually ``number``; at least one."""
        return max(1, round(number * self.share))
