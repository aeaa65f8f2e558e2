"""Messages that were dropped: counted by reason, with one rate-limited warning."""

import enum
import logging
import threading
import time
from collections import Counter

logger = logging.getLogger("channels_lite.drops")

WARNING_INTERVAL = 10.0  # seconds between warnings
LONGEST = 100  # characters of a name in a warning


class Reason(str, enum.Enum):
    """Why a message was dropped."""

    FULL = "the channel is full"
    SLOW = "its receiver is too slow, and its mailbox is full"
    UNDECODABLE = "it cannot be decoded"
    NO_TARGET = "its row names no valid targets"


class Drops:
    """Counts dropped messages for one layer. Callable from any thread."""

    def __init__(self) -> None:
        self.by_reason: Counter[Reason] = Counter()
        self._lock = threading.Lock()
        self._unreported: Counter[tuple[str, Reason, str]] = Counter()
        self._quiet_until = 0.0

    def count(self, channel: str, reason: Reason, detail: str = "") -> None:
        """Count one message to this channel; at most one warning in WARNING_INTERVAL tells of all since the last."""
        with self._lock:
            self.by_reason[reason] += 1
            self._unreported[channel, reason, detail] += 1
            now = time.monotonic()
            if now < self._quiet_until:
                return
            self._quiet_until = now + WARNING_INTERVAL
            report, self._unreported = self._unreported, Counter()
        _warn(report)


def _warn(report: "Counter[tuple[str, Reason, str]]") -> None:
    for (channel, reason, detail), number in report.most_common(5):
        why = f"{reason.value} ({detail})" if detail else reason.value
        logger.warning("Dropped %d message(s) to the channel %s: %s.", number, _shown(channel), why)
    if len(report) > 5:
        logger.warning("Dropped messages to %d more channels, or for other reasons.", len(report) - 5)


def _shown(name: str) -> str:
    """A name as it is, or, where a stranger made it, so that it is one short line of the log."""
    return name if len(name) <= LONGEST and name.isascii() and name.isprintable() else ascii(name[:LONGEST])
