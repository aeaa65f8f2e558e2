"""Messages that were dropped: counted by reason, with one rate-limited warning."""

import logging
import threading
import time
from collections import Counter

logger = logging.getLogger("channels_lite.drops")

WARNING_INTERVAL = 10.0  # seconds between warnings


class Drops:
    """Counts dropped messages for one layer. Callable from any thread."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._unreported: Counter[tuple[str, str]] = Counter()
        self._quiet_until = 0.0

    def count(self, channel: str, reason: str) -> None:
        """Count one message to this channel; at most one warning in WARNING_INTERVAL tells of all since the last."""
        with self._lock:
            self.by_reason[reason] += 1
            self._unreported[channel, reason] += 1
            now = time.monotonic()
            if now < self._quiet_until:
                return
            self._quiet_until = now + WARNING_INTERVAL
            report, self._unreported = self._unreported, Counter()
        for (name, why), number in report.most_common(5):
            logger.warning("Dropped %d message(s) to the channel %s: %s.", number, name, why)
