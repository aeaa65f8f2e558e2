CREATE VIEW channels_lite_clock (now) AS
SELECT CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER);

CREATE VIEW channels_lite_expired_membership AS
SELECT prefix, group_name, queue, local, expires_at
FROM channels_lite_membership
WHERE expires_at <= (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_expired_message AS
SELECT id, prefix, queue, targets, group_name, expires_at
FROM channels_lite_message
WHERE expires_at <= (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_live_membership AS
SELECT prefix, group_name, queue, local, queue || local AS channel, expires_at
FROM channels_lite_membership
WHERE expires_at > (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_live_message AS
SELECT id, prefix, queue, targets, group_name, capacity, expires_at, payload
FROM channels_lite_message
-- The unary plus keeps the expiry index out of this view's plans: messages are claimed in the order of id.
-- The clock is written out here: through its view, a claim costs 12 us more.
WHERE +expires_at > CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER);

CREATE TABLE channels_lite_membership (
    prefix     TEXT NOT NULL,
    group_name TEXT NOT NULL,
    queue      TEXT NOT NULL CHECK (queue <> '' AND queue NOT GLOB '*[^-A-Za-z0-9_.!]*'),
    local      TEXT NOT NULL CHECK (local NOT GLOB '*[^-A-Za-z0-9_.]*'), -- '' for a normal channel
    joined_at  INTEGER NOT NULL,                                         -- the last group_add
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (prefix, group_name, queue, local)
) STRICT, WITHOUT ROWID;

CREATE INDEX channels_lite_membership_channel ON channels_lite_membership (prefix, queue, local);

CREATE TRIGGER channels_lite_membership_names
BEFORE INSERT ON channels_lite_membership
WHEN length(NEW.queue) <> length(CAST(NEW.queue AS BLOB)) OR length(NEW.local) <> length(CAST(NEW.local AS BLOB))
BEGIN
    SELECT RAISE(ABORT, 'channels_lite: the name of a channel holds a NUL');
END;

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

CREATE TRIGGER channels_lite_message_capacity
BEFORE INSERT ON channels_lite_message
WHEN NEW.capacity IS NOT NULL AND NEW.capacity <= (
    SELECT count(*) FROM (
        SELECT 1
        FROM channels_lite_message INDEXED BY channels_lite_message_expiry
        WHERE prefix = NEW.prefix
          AND queue = NEW.queue
          AND expires_at > CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)
        LIMIT NEW.capacity
    )
)
BEGIN
    SELECT CASE
        WHEN NEW.group_name IS NULL THEN RAISE(ABORT, 'channels_lite: channel is full')
        ELSE RAISE(IGNORE)
    END;
END;

CREATE TRIGGER channels_lite_message_expired
INSTEAD OF DELETE ON channels_lite_expired_message
BEGIN
    DELETE FROM channels_lite_message WHERE id = OLD.id;
    DELETE FROM channels_lite_membership
    WHERE (prefix, group_name, queue, local) IN (
        SELECT prefix, group_name, queue, local
        FROM channels_lite_membership INDEXED BY channels_lite_membership_channel
        WHERE prefix = OLD.prefix
          AND queue = OLD.queue
          AND joined_at <= OLD.expires_at
          AND local IN (SELECT value FROM json_each(CASE
              WHEN OLD.targets IS NULL THEN '[""]'
              WHEN json_valid(OLD.targets) THEN OLD.targets
              ELSE '[]'
          END))
    );
END;

CREATE INDEX channels_lite_message_expiry ON channels_lite_message (prefix, queue, expires_at);

CREATE TRIGGER channels_lite_message_id
AFTER INSERT ON channels_lite_message
WHEN (NEW.id > 9007199254740991 OR NEW.id < -9007199254740991)
    AND NOT EXISTS (SELECT 1 FROM channels_lite_message WHERE id = NEW.id - CASE WHEN NEW.id > 0 THEN 1 ELSE -1 END)
BEGIN
    SELECT RAISE(ABORT, 'channels_lite: the id is too far from the others; leave it out');
END;

CREATE INDEX channels_lite_message_order ON channels_lite_message (prefix, queue);

CREATE VIEW channels_lite_queue (prefix, queue) AS
WITH RECURSIVE
    prefixes (prefix) AS (
        SELECT min(prefix) FROM channels_lite_message
        UNION ALL
        SELECT (SELECT min(m.prefix) FROM channels_lite_message AS m WHERE m.prefix > prefixes.prefix)
        FROM prefixes
        WHERE prefix IS NOT NULL
    ),
    queues (prefix, queue) AS (
        SELECT prefix, (SELECT min(m.queue) FROM channels_lite_message AS m WHERE m.prefix = prefixes.prefix)
        FROM prefixes
        WHERE prefix IS NOT NULL
        UNION ALL
        SELECT prefix, (
            SELECT min(m.queue) FROM channels_lite_message AS m
            WHERE m.prefix = queues.prefix AND m.queue > queues.queue
        )
        FROM queues
        WHERE queue IS NOT NULL
    )
SELECT prefix, queue FROM queues WHERE queue IS NOT NULL;

CREATE TABLE channels_lite_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

