"""Messages that were dropped: counted by reason, with one rate-limited warning."""

import enum
import logging
import threading
import time
from collections import Counter
from typing import NamedTuple

logger = logging.getLogger("channels_lite.drops")

WARNING_INTERVAL = 10.0  # seconds between warnings
LONGEST = 100  # characters of a name in a warning
MOST = 5  # channels and reasons that a warning names


class Reason(str, enum.Enum):
    """Why a message was dropped."""

    FULL = "the channel is full"
    SLOW = "its receiver is too slow, and its mailbox is full"
    UNDECODABLE = "it cannot be decoded"
    NO_TARGET = "its row names no valid targets"


class Drop(NamedTuple):
    """What a warning tells of with a number."""

    channel: str
    reason: Reason
    detail: str

    def __str__(self) -> str:
        why = f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value
        return f"to the channel {_shown(self.channel)}: {why}"


class Drops:
    """Counts dropped messages for one layer. Callable from any thread.

    The log is told at most once in WARNING_INTERVAL, by one record that names the channels with the most.
    """

    def __init__(self) -> None:
        self.by_reason: Counter[Reason] = Counter()
        """How many messages were dropped for each reason, since the process began."""
        self._lock = threading.Lock()
        self._unreported: Counter[Drop] = Counter()
        self._quiet_until = 0.0

    def count(self, channel: str, reason: Reason, detail: str = "") -> None:
        """Count one message to this channel."""
        with self._lock:
            self.by_reason[reason] += 1
            self._unreported[Drop(channel, reason, detail)] += 1
        self.report()

    def report(self, *, last: bool = False) -> None:
        """Tell the log what it has not been told, if it is time to, or the ``last`` time."""
        with self._lock:
            now = time.monotonic()
            if not self._unreported or (now < self._quiet_until and not last):
                return
            self._quiet_until = now + WARNING_INTERVAL
            report, self._unreported = self._unreported, Counter()
        _warn(report)


def _warn(report: "Counter[Drop]") -> None:
    named = report.most_common(MOST)
    told = [f"{number} message(s) {drop}" for drop, number in named]
    if len(report) > MOST:
        told.append(f"{report.total() - sum(number for _, number in named)} others")
    logger.warning("Dropped %s.", "; ".join(told))


def _shown(name: str) -> str:
    """A name as it is, or, where a stranger made it, so that it is one short line of the log."""
    return name if len(name) <= LONGEST and name.isascii() and name.isprintable() else ascii(name[:LONGEST])
