"""The statements of the running layer. Together with ``sql/``, all the SQL there is."""

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import msgspec

from channels_lite.schema import Execute, transaction

CLAIM_BATCH = 1_000  # messages that one claim of a process-specific queue takes
TRIM_BATCH = 200  # expired rows that one transaction removes: about 2 ms of the write lock
FEW = 8  # queues up to which asking for each is faster than one statement over a JSON array
FAR = 2**62  # milliseconds: later than anything expires
FULL = "channels_lite: channel is full"  # what the capacity trigger raises

parse_names = msgspec.json.Decoder(list[str]).decode  # a JSON array of channels, or of their local parts

_INSERT = """
INSERT INTO channels_lite_message (prefix, queue, targets, payload, capacity, expires_at, sent_at)
VALUES (
    ?, ?, ?, ?, channels_lite_capacity(?, ?, ?),
    (SELECT now FROM channels_lite_clock) + ?, (SELECT now FROM channels_lite_clock)
)
"""

_INSERT_GROUP = """
INSERT INTO channels_lite_message (prefix, queue, targets, group_name, payload, capacity, expires_at, sent_at)
SELECT
    prefix,
    queue,
    CASE WHEN substr(queue, -1) = '!' THEN json_group_array(local) END,
    group_name,
    ?,
    channels_lite_capacity(?, queue || min(local), count(*) > 1),
    (SELECT now FROM channels_lite_clock) + ?,
    (SELECT now FROM channels_lite_clock)
FROM channels_lite_live_membership
WHERE prefix = ? AND group_name = ? AND queue NOT IN (SELECT value FROM json_each(?))
GROUP BY queue
"""

# Apart, because it takes a quarter longer.
_INSERT_GROUP_BUT = _INSERT_GROUP.replace(
    "GROUP BY queue", "  AND channel NOT IN (SELECT value FROM json_each(?))\nGROUP BY queue"
)

_QUEUES_OF_GROUP = """
WITH RECURSIVE queues (queue) AS (
    SELECT min(queue) FROM channels_lite_membership WHERE prefix = ? AND group_name = ?
    UNION ALL
    SELECT (
        SELECT min(m.queue) FROM channels_lite_membership AS m
        WHERE m.prefix = ? AND m.group_name = ? AND m.queue > queues.queue
    )
    FROM queues
    WHERE queue IS NOT NULL
    LIMIT ?
)
SELECT queue FROM queues WHERE queue IS NOT NULL
"""

_MEMBERS_IN_QUEUE = """
SELECT json_group_array(channel), coalesce(min(expires_at), ?) FROM (
    SELECT channel, expires_at FROM channels_lite_live_membership
    WHERE prefix = ? AND group_name = ? AND queue = ? ORDER BY joined_at
)
"""

_CLAIM_ONE = """
DELETE FROM channels_lite_message WHERE id = (
    SELECT id FROM channels_lite_live_message WHERE prefix = ? AND queue = ? ORDER BY id LIMIT 1
) RETURNING payload, expires_at, coalesce(sent_at, 0)
"""

_NEXT_OF_CHANNEL = """
SELECT id, json_array_length(targets) FROM channels_lite_live_message
WHERE prefix = ? AND queue = ? AND EXISTS (
    SELECT 1 FROM json_each(CASE WHEN json_valid(targets) THEN targets ELSE '[]' END) WHERE value = ?
)
ORDER BY id LIMIT 1
"""

_CLAIM_ID = "DELETE FROM channels_lite_message WHERE id = ? RETURNING payload, expires_at, coalesce(sent_at, 0)"

_LAST_OF_BATCH = f"""
SELECT max(id) FROM (
    SELECT id FROM channels_lite_live_message WHERE prefix = ? AND queue = ? ORDER BY id LIMIT {CLAIM_BATCH}
)
"""

# The targets as bytes: a stranger's may be no text, and turning them into str would fail after the rows are gone.
# "id IN (SELECT … LIMIT …)" in one statement takes twice as long as these two together.
_CLAIM_UP_TO = """
DELETE FROM channels_lite_message
WHERE prefix = ? AND queue = ? AND id <= ? AND +expires_at > (SELECT now FROM channels_lite_clock)
RETURNING id, CAST(targets AS BLOB), payload, expires_at, coalesce(sent_at, 0)
"""

_PUT_BACK = """
INSERT INTO channels_lite_message (id, prefix, queue, targets, payload, expires_at, sent_at)
SELECT min(coalesce(min(id), 0), 0) - 1, ?, ?, ?, ?, ?, nullif(?, 0) FROM channels_lite_message
"""

_NEWEST = """
SELECT id, prefix, queue, targets, group_name, sent_at, expires_at, payload
FROM channels_lite_message ORDER BY id DESC LIMIT ?
"""

_MOVE_IN = """
INSERT INTO channels_lite_message (id, prefix, queue, targets, group_name, sent_at, expires_at, payload)
SELECT (SELECT min(coalesce(min(id), 0), 0) - 1 FROM channels_lite_message), ?, ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (
    SELECT 1 FROM channels_lite_message
    WHERE (id, prefix, queue) = (?, ?, ?) AND targets IS ? AND group_name IS ? AND sent_at IS ?
      AND (expires_at, payload) = (?, ?)
)
"""

_MEMBERSHIPS = "SELECT prefix, group_name, queue, local, joined_at, expires_at FROM channels_lite_membership"

_JOIN_IN = """
INSERT OR IGNORE INTO channels_lite_membership (prefix, group_name, queue, local, joined_at, expires_at)
VALUES (?, ?, ?, ?, ?, ?)
"""

# On a connection of sqlite3, which has no update hook. In the temporary schema: other programs lack the function.
WAKE = """
CREATE TEMP TRIGGER IF NOT EXISTS channels_lite_wake AFTER INSERT ON main.channels_lite_message
BEGIN
    SELECT channels_lite_inserted(NEW.prefix, NEW.queue);
END
"""

_HAS_LIVE = "SELECT 1 FROM channels_lite_live_message WHERE prefix = ? AND queue = ? LIMIT 1"

_PENDING = "SELECT count(*) FROM (SELECT 1 FROM channels_lite_live_message WHERE prefix = ? AND queue = ? LIMIT ?)"

_PENDING_IN_MANY = """
SELECT value, (SELECT count(*) FROM (
    SELECT 1 FROM channels_lite_live_message WHERE prefix = ? AND queue = value LIMIT ?
)) FROM json_each(?)
"""

_ADD = """
INSERT INTO channels_lite_membership (prefix, group_name, queue, local, joined_at, expires_at)
SELECT ?, ?, ?, ?, now, now + ? FROM channels_lite_clock WHERE true
ON CONFLICT DO UPDATE SET joined_at = excluded.joined_at, expires_at = excluded.expires_at
"""

_DISCARD = "DELETE FROM channels_lite_membership WHERE prefix = ? AND group_name = ? AND queue = ? AND local = ?"

_GROUP_CHANNELS = """
SELECT channel FROM channels_lite_live_membership WHERE prefix = ? AND group_name = ? ORDER BY joined_at, channel
"""

_GROUP_COUNT = "SELECT count(*) FROM channels_lite_live_membership WHERE prefix = ? AND group_name = ?"

_GROUPS = """
SELECT group_name FROM channels_lite_live_membership WHERE prefix = ? AND queue = ? AND local = ? ORDER BY group_name
"""

# The index is named: the planner would read all memberships of the prefix.
_EVICT = """
DELETE FROM channels_lite_membership INDEXED BY channels_lite_membership_channel
WHERE prefix = ? AND queue = ? AND local = ? AND joined_at <= ?
"""

_EXPIRED_MESSAGE_IDS = """
SELECT m.id
FROM channels_lite_queue AS q
CROSS JOIN channels_lite_expired_message AS m ON m.prefix = q.prefix AND m.queue = q.queue
LIMIT ?
"""

_TRIM_MESSAGES = "DELETE FROM channels_lite_expired_message WHERE id IN (SELECT value FROM json_each(?))"

# Counted by SQLite: the names in a stranger's row may be no text for Python.
_EXPIRED_MEMBERSHIPS = "SELECT count(*) FROM (SELECT 1 FROM channels_lite_expired_membership LIMIT ?)"

_TRIM_MEMBERSHIPS = """
DELETE FROM channels_lite_membership WHERE (prefix, group_name, queue, local) IN (
    SELECT prefix, group_name, queue, local FROM channels_lite_expired_membership LIMIT ?
)
"""


_REGISTER = """
INSERT INTO channels_lite_layer (prefix, expiry, capacity, rules, refuses) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE
SET expiry = excluded.expiry, capacity = excluded.capacity, rules = excluded.rules, refuses = excluded.refuses
"""

_REGISTERED = "SELECT prefix, expiry, capacity, rules, refuses FROM channels_lite_layer WHERE prefix = ?"

# The names as bytes: a stranger's may be no text.
_PENDING_BY_CHANNEL = """
SELECT CAST(channel AS BLOB), messages, coalesce(oldest, 0) FROM channels_lite_pending WHERE prefix = ?
"""

_GROUP_SIZES = """
SELECT CAST(group_name AS BLOB), count(*) FROM channels_lite_live_membership WHERE prefix = ? GROUP BY group_name
"""

_COUNT_EXPIRED = """
SELECT (SELECT count(*) FROM channels_lite_expired_message) + (SELECT count(*) FROM channels_lite_expired_membership)
"""


class Claimed(NamedTuple):
    """A row that was taken out of a process-specific queue."""

    id: int
    targets: bytes | None
    payload: bytes
    expires_at: int
    sent_at: int


def send(
    execute: Execute,
    prefix: str,
    queue: str,
    targets: str | None,
    payload: bytes,
    rules: int,
    channel: str,
    shared: bool,
    ttl: int,
) -> Sequence[str]:
    """Put one message into a queue for ``ttl`` milliseconds; the trigger raises FULL when there is no room.

    ``rules``, the channel and ``shared`` are for channels_lite_capacity(), which is asked under the write lock.
    Returns the queue, as all functions here that write return the queues of their messages if they know them.
    """
    execute(_INSERT, (prefix, queue, targets, payload, rules, channel, shared, ttl))
    return (queue,)


def group_send(
    execute: Execute,
    prefix: str,
    group: str,
    payload: bytes,
    rules: int,
    ttl: int,
    without: Collection[str] = (),
    excluded: Collection[str] = (),
) -> None:
    """Put one message into the queue of every member, one row a queue, but for the queues ``without``.

    ``rules`` is for channels_lite_capacity(); ``excluded`` are members that do not get it.
    """
    arguments = (payload, rules, ttl, prefix, group, json.dumps(list(without)))
    if excluded:
        execute(_INSERT_GROUP_BUT, (*arguments, json.dumps(list(excluded))))
    else:
        execute(_INSERT_GROUP, arguments)


def queues_of_group(execute: Execute, prefix: str, group: str, at_most: int) -> list[str]:
    """The queues of a group's members, expired ones included, in their order.

    They are found by stepping from one to the next: the cost is theirs, and not of all the members.
    """
    return [row[0] for row in execute(_QUEUES_OF_GROUP, (prefix, group, prefix, group, at_most))]


def members(execute: Execute, prefix: str, group: str, queues: Collection[str]) -> tuple[dict[str, list[str]], int]:
    """The live members of a group in each of these queues that has any, and when the first membership expires."""
    found, until = {}, FAR
    for name in queues:
        names, expires_at = execute(_MEMBERS_IN_QUEUE, (FAR, prefix, group, name))[0]
        until = min(until, expires_at)
        if channels := parse_names(names):
            found[name] = channels
    return found, until


def queues(execute: Execute, ids: Sequence[int]) -> list[tuple[str, str]]:
    """Prefix and queue of these messages, as far as they are still there."""
    if len(ids) == 1:
        return execute("SELECT prefix, queue FROM channels_lite_message WHERE id = ?", ids)
    return execute(
        "SELECT prefix, queue FROM channels_lite_message WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )


def has_live(execute: Execute, prefix: str, queue: str) -> bool:
    """Whether there is a live message in this queue."""
    return bool(execute(_HAS_LIVE, (prefix, queue)))


def claim_one(execute: Execute, prefix: str, queue: str, hinted: bool = False) -> tuple[bytes, int, int] | None:
    """Take the oldest live message of a normal channel: its payload, when it expires and when it was sent."""
    # Without a hint it is looked for first: a claim takes the write lock even when there is nothing to take.
    if not hinted and not has_live(execute, prefix, queue):
        return None
    rows = execute(_CLAIM_ONE, (prefix, queue))
    return rows[0] if rows else None


def claim_own(
    execute: Execute, prefix: str, queue: str, local: str, is_wanted: Callable[[], bool]
) -> tuple[bytes, int, int] | None:
    """Take the oldest live message of a process-specific channel, if it is for no other channel as well.

    ``is_wanted`` is asked when it has been found: what was handed over before it must be delivered before.
    """
    found = execute(_NEXT_OF_CHANNEL, (prefix, queue, local))
    if not found or found[0][1] != 1 or not is_wanted():
        return None
    rows = execute(_CLAIM_ID, (found[0][0],))
    return rows[0] if rows else None


def claim_queue(
    execute: Execute,
    prefix: str,
    queue: str,
    before: Callable[[], object],
    claiming: Callable[[int], object],
    *,
    within: bool = False,
) -> list[Claimed]:
    """Take the live messages of a process-specific queue, oldest first, at most CLAIM_BATCH.

    ``before`` is called when it is known which ones they are, and while all others can see them yet. It delivers what
    was handed over before them. Who sent one of them hands nothing over until it is gone. Then ``claiming`` is told how
    many they are, before others can see that they are gone. All of it is one transaction, which has begun already if
    this is ``within`` one: ids begin anew in a table that was emptied meanwhile.

    Tried without gain for a round trip between two processes: to read the messages now and remove them together with
    the next write. What takes the time is reading pages that another process has just changed.
    """
    if not has_live(execute, prefix, queue):  # without the write lock
        return []
    if within:
        return _claim_queue(execute, prefix, queue, before, claiming)
    with transaction(execute):
        return _claim_queue(execute, prefix, queue, before, claiming)


def _claim_queue(
    execute: Execute, prefix: str, queue: str, before: Callable[[], object], claiming: Callable[[int], object]
) -> list[Claimed]:
    last = execute(_LAST_OF_BATCH, (prefix, queue))[0][0]
    if last is None:
        return []
    before()
    # RETURNING promises no order.
    claimed = sorted(Claimed(*row) for row in execute(_CLAIM_UP_TO, (prefix, queue, last)))
    claiming(len(claimed))
    return claimed


def pending(execute: Execute, prefix: str, names: Sequence[str], at_most: int) -> dict[str, int]:
    """How many live messages each of these queues holds, counted up to ``at_most``."""
    if len(names) <= FEW:
        return {name: execute(_PENDING, (prefix, name, at_most))[0][0] for name in names}
    return dict(execute(_PENDING_IN_MANY, (prefix, at_most, json.dumps(names))))


def put_back(
    execute: Execute, prefix: str, queue: str, local: str | None, payload: bytes, expires_at: int, sent_at: int
) -> None:
    """Undo the claim of a channel's oldest message: it is in front again, whatever the capacity."""
    execute(_PUT_BACK, (prefix, queue, None if local is None else json.dumps([local]), payload, expires_at, sent_at))


def move(source: Execute, target: Execute, taken: list[Any]) -> None:
    """Move all messages of a database into another, in front of what is there, and copy all memberships.

    ``taken``: those that are in neither; what is left there when it fails, the next call goes on with. Messages that
    are in the other one already, under the same id, are not put there twice: it may be a copy. Several processes may do
    this at the same time, and one that ends in the middle loses a batch.
    """
    memberships = source(_MEMBERSHIPS, ())
    with transaction(target):
        for membership in memberships:
            target(_JOIN_IN, membership)
    while taken or _take_some(source, taken):
        with transaction(target):
            for row in taken:
                target(_MOVE_IN, (*row[1:], *row))
        taken.clear()


def _take_some(source: Execute, taken: list[Any]) -> bool:
    with transaction(source):
        rows = source(_NEWEST, (CLAIM_BATCH,))
        ids = json.dumps([row[0] for row in rows])
        source("DELETE FROM channels_lite_message WHERE id IN (SELECT value FROM json_each(?))", (ids,))
    taken.extend(rows)
    return bool(taken)


def data_version(execute: Execute) -> int:
    """A number that changes when another connection has committed. apsw's own data_version() does not see that."""
    number: int = execute("PRAGMA data_version", ())[0][0]
    return number


def group_add(execute: Execute, prefix: str, group: str, queue: str, local: str, ttl: int) -> Sequence[str]:
    """Make a channel a member for ``ttl`` milliseconds from now."""
    execute(_ADD, (prefix, group, queue, local, ttl))
    return ()


def group_discard(execute: Execute, prefix: str, group: str, queue: str, local: str) -> Sequence[str]:
    """End a channel's membership, if there is one."""
    execute(_DISCARD, (prefix, group, queue, local))
    return ()


def group_channels(execute: Execute, prefix: str, group: str) -> list[str]:
    """The live members of a group, in the order in which they joined."""
    return [row[0] for row in execute(_GROUP_CHANNELS, (prefix, group))]


def group_count(execute: Execute, prefix: str, group: str) -> int:
    """How many live members a group has."""
    number: int = execute(_GROUP_COUNT, (prefix, group))[0][0]
    return number


def groups(execute: Execute, prefix: str, queue: str, local: str) -> list[str]:
    """The groups that a channel is a live member of, by name."""
    return [row[0] for row in execute(_GROUPS, (prefix, queue, local))]


def pending_by_channel(execute: Execute, prefix: str) -> list[tuple[str, int, int]]:
    """Each channel with live messages: how many, and when the oldest was sent, or 0. It reads all of them."""
    return [(readable(name), number, oldest) for name, number, oldest in execute(_PENDING_BY_CHANNEL, (prefix,))]


def group_sizes(execute: Execute, prefix: str) -> dict[str, int]:
    """How many live members each group has."""
    return {readable(name): number for name, number in execute(_GROUP_SIZES, (prefix,))}


def readable(name: bytes) -> str:
    """A name as text, whatever a stranger has put there."""
    return name.decode(errors="backslashreplace")


def register(
    execute: Execute, prefix: str, expiry: int, capacity: int | None, rules: Sequence[tuple[str, int]], refuses: bool
) -> None:
    """Let SQL know by which rules a layer sends: see ``sql/0006_publishing.sql``. Writes only what is new."""
    row = (prefix, expiry, capacity, json.dumps(rules), int(refuses))
    if execute(_REGISTERED, (prefix,)) != [row]:
        execute(_REGISTER, row)


def evict(execute: Execute, prefix: str, queue: str, local: str, expires_at: int) -> None:
    """Take a channel on which a message expired unread out of the groups that it was in by then."""
    execute(_EVICT, (prefix, queue, local, expires_at))


def trim(execute: Execute) -> tuple[int, int]:
    """Remove one batch of what has expired, whoever it belongs to: how many messages and memberships.

    Looked for first, so that the write lock is taken only when there is something to remove.
    """
    ids = [row[0] for row in execute(_EXPIRED_MESSAGE_IDS, (TRIM_BATCH,))]
    if ids:
        execute(_TRIM_MESSAGES, (json.dumps(ids),))
    memberships = execute(_EXPIRED_MEMBERSHIPS, (TRIM_BATCH,))[0][0]
    if memberships:
        execute(_TRIM_MEMBERSHIPS, (TRIM_BATCH,))
    return len(ids), memberships


def count_expired(execute: Execute) -> int:
    """How many messages and memberships trim() would remove. Reads a whole index: not for a loop's thread."""
    number: int = execute(_COUNT_EXPIRED, ())[0][0]
    return number


def space(execute: Execute) -> tuple[int, int]:
    """How many bytes of the database are in use, and how many are free inside it."""
    page_size, pages, free = (
        execute(f"PRAGMA {name}", ())[0][0] for name in ("page_size", "page_count", "freelist_count")
    )
    return (pages - free) * page_size, free * page_size


def vacuum(execute: Execute) -> None:
    """Write the database anew without its free pages. Writers wait meanwhile; outside WAL mode readers do too."""
    execute("VACUUM", ())


def empty_wal(execute: Execute, wait_ms: int) -> bool:
    """Copy the -wal back and cut it off; False where a reader prevented it. True outside WAL mode.

    Writers are held up for at most ``wait_ms`` milliseconds: the long part, copying, is done before they are.
    """
    usual = execute("PRAGMA busy_timeout", ())[0][0]
    execute(f"PRAGMA busy_timeout = {wait_ms}", ())
    try:
        execute("PRAGMA wal_checkpoint(PASSIVE)", ())
        return not execute("PRAGMA wal_checkpoint(TRUNCATE)", ())[0][0]
    finally:
        execute(f"PRAGMA busy_timeout = {usual}", ())


def flush(execute: Execute, prefix: str) -> None:
    """Remove every message and membership of this prefix that is there at the start.

    In batches in the order of id, so that other writers get their turn. What is sent meanwhile may go too.
    """
    execute("DELETE FROM channels_lite_membership WHERE prefix = ?", (prefix,))
    last = execute("SELECT max(id) FROM channels_lite_message WHERE prefix = ?", (prefix,))[0][0]
    while last is not None and execute(
        "DELETE FROM channels_lite_message WHERE id IN "
        "(SELECT id FROM channels_lite_message WHERE prefix = ? AND id <= ? ORDER BY id LIMIT ?) RETURNING id",
        (prefix, last, CLAIM_BATCH),
    ):
        pass


def empty(execute: Execute) -> None:
    """Remove every message and membership, of all prefixes, at once."""
    execute("DELETE FROM channels_lite_membership", ())
    execute("DELETE FROM channels_lite_message", ())
