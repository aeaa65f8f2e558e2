"""How large a process and what its layer keeps in memory are."""

import gc
import os
import threading
from pathlib import Path
from typing import Any

BOUND = 1_000  # names that a layer may remember in these tests: fewer than usual, so that it is reached early
KEPT = ("_addresses", "_told", "_empty", "_groups", "_queues_here", "_owed", "_batches", "_tasks", "_asked")
MAILBOXES = ("_parked", "_unasked", "_waiters", "_waiting", "_apart", "_woken", "_loops", "_abandoned")


def sizes(layer: Any) -> dict[str, int]:
    """All that must not grow for ever, by name."""
    gc.collect()
    numbers = {name: len(getattr(layer, name)) for name in KEPT if hasattr(layer, name)}
    numbers.update({name: len(getattr(layer._mailboxes, name)) for name in MAILBOXES})
    numbers["watchers"] = len(list(layer._watchers))
    if layer._outboxes is not None:
        numbers["outboxes"] = len(layer._outboxes._found)
        numbers["missing"] = len(layer._outboxes._missing)
    numbers["messages parked"] = sum(map(len, layer._mailboxes._parked.values()))
    numbers["descriptors"] = len(os.listdir("/proc/self/fd"))
    numbers["threads"] = threading.active_count()
    return numbers


def resident() -> int:
    """Bytes of memory that the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
