"""The clock of what is in memory."""

import time


def now() -> int:
    """Milliseconds since 1970, UTC: the system's clock, which the view ``channels_lite_clock`` reads as well.

    Deviation from the rule that expiry is compared in SQL: asking the view takes 5 us, and a message that is handed
    over within the process takes about ten in all.
    """
    return time.time_ns() // 1_000_000


def milliseconds(seconds: float) -> int:
    """At least one."""
    return max(1, round(seconds * 1000))
