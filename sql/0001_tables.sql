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

-- The id is the order of arrival. The table has a rowid because update hooks are silent for tables without one.
CREATE TABLE channels_lite_message (
    id         INTEGER PRIMARY KEY,
    prefix     TEXT NOT NULL,
    queue      TEXT NOT NULL CHECK (queue <> ''),
    targets    TEXT CHECK (targets IS NULL OR json_valid(targets)), -- local parts, a JSON array; NULL: normal channel
    group_name TEXT,                                                -- NULL: sent directly
    capacity   INTEGER CHECK (capacity >= 0),                       -- of the queue, when sent; NULL: not enforced
    expires_at INTEGER NOT NULL,                                    -- milliseconds, as channels_lite_clock
    payload    BLOB NOT NULL
) STRICT;

-- Ids count on from those that are there. After a stranger's row with the highest possible id SQLite would pick ids at
-- random, and in front of one with the lowest there would be no place to put a message back. With 2^53 messages from
-- either bound, it takes for ever to get there one by one.
CREATE TRIGGER channels_lite_message_id
AFTER INSERT ON channels_lite_message
WHEN (NEW.id > 9007199254740991 OR NEW.id < -9007199254740991)
    AND NOT EXISTS (SELECT 1 FROM channels_lite_message WHERE id = NEW.id - CASE WHEN NEW.id > 0 THEN 1 ELSE -1 END)
BEGIN
    SELECT RAISE(ABORT, 'channels_lite: the id is too far from the others; leave it out');
END;

-- For the claim: the oldest message of a queue.
CREATE INDEX channels_lite_message_order ON channels_lite_message (prefix, queue);

-- For counting live messages and finding expired ones without reading the others.
CREATE INDEX channels_lite_message_expiry ON channels_lite_message (prefix, queue, expires_at);

-- A member's channel is queue || local. Clustered by group and queue: group_send reads one range, already in the
-- order it groups by. Its names are checked: group_send puts them together, and one that is no text would fail it.
-- GLOB reads a text up to its first NUL, and so does length().
CREATE TABLE channels_lite_membership (
    prefix     TEXT NOT NULL,
    group_name TEXT NOT NULL,
    queue      TEXT NOT NULL CHECK (queue <> '' AND queue NOT GLOB '*[^-A-Za-z0-9_.!]*'),
    local      TEXT NOT NULL CHECK (local NOT GLOB '*[^-A-Za-z0-9_.]*'), -- '' for a normal channel
    joined_at  INTEGER NOT NULL,                                         -- the last group_add
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (prefix, group_name, queue, local),
    CHECK (length(queue) = length(CAST(queue AS BLOB)) AND length(local) = length(CAST(local AS BLOB)))
) STRICT, WITHOUT ROWID;

-- For taking one channel out of all its groups.
CREATE INDEX channels_lite_membership_channel ON channels_lite_membership (prefix, queue, local);
