"""What is going on: in a layer's database, and in the processes that use it."""

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import msgspec

from channels_lite import clock, config, schema, store
from channels_lite.drops import Reason
from channels_lite.files import size_of
from channels_lite.mailbox import Item
from channels_lite.page import SOCKET, connect, folder_of, mark, open_page
from channels_lite.schema import Execute

STOPPED = "stopped"
LISTENING = (STOPPED, "inotify", "kqueue", "polling", "nothing", "redis")
REASONS = {reason: reason.name.lower() for reason in Reason}


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A layer in one process: what it has counted since it was made, or since the fork. Of others, up to 1 s old."""

    pid: int
    sent: int
    """Messages that its ``send()`` and ``group_send()`` took; a group's counts once."""
    received: int
    """Messages that its ``receive()`` returned."""
    parked: int
    """Messages in its memory, for process-specific channels on which nobody waits just then."""
    dropped: dict[str, int]
    """Messages by why they were dropped: ``full``, ``slow``, ``undecodable``, ``no_target``; see ``drops.Reason``."""
    busy_retries: int
    """How often something met a locked database in this process and tried again."""
    watcher: str
    """How it hears of other processes: ``inotify``, ``kqueue``, ``polling``, ``nothing``; ``stopped``: nobody waits. On
    Redis, ``redis``."""

    def numbers(self, prefix: str) -> list[int]:
        """As they stand on the page of its inbox."""
        dropped = [self.dropped[name] for name in REASONS.values()]
        listening = LISTENING.index(self.watcher)
        return [mark(prefix), self.pid, self.sent, self.received, self.parked, self.busy_retries, listening, *dropped]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What ``layer.stats()`` gives, for the layer's prefix: its database, and its own counts as in ``Process``.

    What waits in the memory of other processes is in ``processes`` alone.
    """

    pending: dict[str, int]
    """Live messages by channel: in the database, and in the memory of this process."""
    oldest_age: float | None
    """Seconds since the oldest of them was sent; None where there are none, or it is not known of any."""
    groups: dict[str, int]
    """Live members by group."""
    sent: int
    received: int
    dropped: dict[str, int]
    decode_failures: int
    """Those of ``dropped`` that could not be decoded or decrypted."""
    busy_retries: int
    watcher: str
    database_bytes: int
    """On the disk; in memory, what its pages take."""
    wal_bytes: int
    schema_version: int
    """The number of the last SQL file that was applied to the database."""
    processes: list[Process]
    """Every layer with this prefix in a process that uses the database, this one first. Where there are no inboxes
    (macOS, Windows), this one alone."""


def count(
    *, sent: int, received: int, parked: int, drops: Mapping[Reason, int], busy_retries: int, watcher: str
) -> Process:
    """What a layer in this process has counted."""
    dropped = {name: drops.get(reason, 0) for reason, name in REASONS.items()}
    return Process(
        pid=os.getpid(), sent=sent, received=received, parked=parked, dropped=dropped, busy_retries=busy_retries,
        watcher=watcher,
    )  # fmt: skip


def look(
    execute: Execute, path: str, prefix: str, own: Process, parked: Mapping[str, Sequence[Item]], inbox: str = ""
) -> Stats:
    """The stats of a layer: what the database tells, what is ``parked`` in this process, and what it has counted.

    ``inbox``: the name of its own one.
    """
    processes = [own, *others(path, prefix, {inbox})]
    return _stats(execute, path, prefix, processes, _waiting(parked), own)


def look_from_outside(execute: Execute, path: str, prefix: str) -> Stats:
    """The stats for who is no layer: the counts are those of all processes together."""
    processes = others(path, prefix)
    return _stats(execute, path, prefix, processes, (), together(processes))


def others(path: str, prefix: str, but: Collection[str] = ()) -> list[Process]:
    """What the layers with this prefix in running processes have told of themselves, by process."""
    folder, found = folder_of(path), []
    with contextlib.suppress(OSError):  # nobody has an inbox, or not for us to see
        for name in os.listdir(folder):
            if not name.endswith(SOCKET) and name not in but:
                found += _process(os.path.join(folder, name), prefix)
    return sorted(found, key=lambda process: process.pid)


def _process(path: str, prefix: str) -> list[Process]:
    """The process of an inbox; none where it has ended, has another prefix, or has not told anything yet."""
    try:
        connect(path + SOCKET).close()
        numbers = open_page(path).told()
    except (OSError, ValueError):
        return []
    its_mark, pid, sent, received, parked, busy_retries, listening, *dropped = numbers
    if its_mark != mark(prefix) or listening >= len(LISTENING):
        return []
    return [
        Process(
            pid=pid, sent=sent, received=received, parked=parked, busy_retries=busy_retries,
            dropped=dict(zip(REASONS.values(), dropped, strict=False)), watcher=LISTENING[listening],
        )
    ]  # fmt: skip


def together(processes: Sequence[Process], pid: int = 0) -> Process:
    """All of them as one. Of how they listen, the worst."""
    return Process(
        pid=pid,
        sent=sum(process.sent for process in processes),
        received=sum(process.received for process in processes),
        parked=sum(process.parked for process in processes),
        dropped={name: sum(process.dropped[name] for process in processes) for name in REASONS.values()},
        busy_retries=sum(process.busy_retries for process in processes),
        watcher=max((process.watcher for process in processes), key=LISTENING.index, default=STOPPED),
    )


def _waiting(parked: Mapping[str, Sequence[Item]]) -> list[tuple[str, int, int]]:
    """As ``store.pending_by_channel``, for what is parked."""
    now, waiting = clock.now(), []
    for channel, items in parked.items():
        live = [item.sent_at for item in items if item.expires_at > now]
        if live:
            waiting.append((channel, len(live), min(live)))
    return waiting


def _stats(
    execute: Execute,
    path: str,
    prefix: str,
    processes: list[Process],
    waiting: Iterable[tuple[str, int, int]],
    counted: Process,
) -> Stats:
    pending: Counter[str] = Counter()
    oldest = store.FAR
    for channel, number, sent_at in chain(store.pending_by_channel(execute, prefix), waiting):
        pending[channel] += number
        oldest = min(oldest, sent_at or store.FAR)
    database_bytes, wal_bytes = _sizes(execute, path)
    return Stats(
        pending=dict(pending),
        oldest_age=None if oldest == store.FAR else max(0, clock.now() - oldest) / 1000,
        groups=store.group_sizes(execute, prefix),
        sent=counted.sent,
        received=counted.received,
        dropped=counted.dropped,
        decode_failures=counted.dropped[REASONS[Reason.UNDECODABLE]],
        busy_retries=counted.busy_retries,
        watcher=counted.watcher,
        database_bytes=database_bytes,
        wal_bytes=wal_bytes,
        schema_version=schema.records(execute)[-1].version,
        processes=processes,
    )


def _sizes(execute: Execute, path: str) -> tuple[int, int]:
    if path == config.MEMORY:
        return sum(store.space(execute)), 0
    return size_of(path), size_of(f"{path}-wal")
