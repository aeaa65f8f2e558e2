-- Tables, indexes and the clock.
--
-- A message waits in the queue it was sent to. The queue of a normal channel is the channel itself; the queue of a
-- process-specific channel is its part up to and including the "!", so that one process finds all that is meant for
-- it in one place.

CREATE TABLE channels_lite_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

-- The one clock: milliseconds since 1970, UTC. julianday() and not unixepoch('subsec'), which SQLite 3.40 lacks.
-- SQLite holds 'now' still for the length of a statement, its triggers included.
CREATE VIEW channels_lite_clock (now) AS
SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER);

-- The id is the order of arrival. It is bounded so that a stranger's row with the highest possible id cannot make
-- SQLite pick ids at random. The table has a rowid because update hooks are silent for tables without one.
CREATE TABLE channels_lite_message (
    id         INTEGER PRIMARY KEY CHECK (id < 4611686018427387904),
    prefix     TEXT NOT NULL,
    queue      TEXT NOT NULL CHECK (queue <> ''),
    targets    TEXT CHECK (targets IS NULL OR json_valid(targets)), -- local parts, a JSON array; NULL: normal channel
    group_name TEXT,                                                -- NULL: sent directly
    capacity   INTEGER CHECK (capacity >= 0),                       -- of the queue, when sent; NULL: not enforced
    expires_at INTEGER NOT NULL,                                    -- milliseconds, as channels_lite_clock
    payload    BLOB NOT NULL
) STRICT;

-- For the claim: the oldest message of a queue.
CREATE INDEX channels_lite_message_order ON channels_lite_message (prefix, queue);

-- For counting live messages and finding expired ones without reading the others.
CREATE INDEX channels_lite_message_expiry ON channels_lite_message (prefix, queue, expires_at);

-- A member's channel is queue || local. Clustered by group and queue: group_send reads one range, already in the
-- order it groups by. Its names are checked: group_send puts them together, and one that is no text would fail it.
CREATE TABLE channels_lite_membership (
    prefix     TEXT NOT NULL,
    group_name TEXT NOT NULL,
    queue      TEXT NOT NULL CHECK (queue <> '' AND queue NOT GLOB '*[^-A-Za-z0-9_.!]*'),
    local      TEXT NOT NULL CHECK (local NOT GLOB '*[^-A-Za-z0-9_.]*'), -- '' for a normal channel
    joined_at  INTEGER NOT NULL,                                         -- the last group_add
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (prefix, group_name, queue, local)
) STRICT, WITHOUT ROWID;

-- For taking one channel out of all its groups.
CREATE INDEX channels_lite_membership_channel ON channels_lite_membership (prefix, queue, local);
