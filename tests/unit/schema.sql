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

CREATE VIEW channels_lite_group_send (group_name, message) AS
SELECT NULL, NULL WHERE false;

CREATE TRIGGER channels_lite_group_send_insert
INSTEAD OF INSERT ON channels_lite_group_send
BEGIN
    INSERT INTO channels_lite_published VALUES (true, NEW.group_name, NEW.message);
END;

CREATE TABLE channels_lite_layer (
    prefix   TEXT PRIMARY KEY,
    expiry   INTEGER NOT NULL CHECK (expiry > 0),               -- milliseconds
    capacity INTEGER CHECK (capacity >= 0),                     -- NULL: not enforced
    rules    TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(rules)), -- JSON: [GLOB, capacity] pairs, the first match wins
    refuses  INTEGER NOT NULL DEFAULT 0                         -- it encrypts, and takes nothing that is not encrypted
) STRICT, WITHOUT ROWID;

CREATE VIEW channels_lite_live_membership AS
SELECT prefix, group_name, queue, local, queue || local AS channel, joined_at, expires_at
FROM channels_lite_membership
WHERE expires_at > (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_live_message AS
SELECT id, prefix, queue, targets, group_name, capacity, expires_at, payload, sent_at
FROM channels_lite_message
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
, sent_at INTEGER) STRICT;

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

CREATE VIEW channels_lite_pending (prefix, channel, messages, oldest) AS
SELECT m.prefix, m.queue || coalesce(t.value, ''), count(*), min(m.sent_at)
FROM channels_lite_live_message AS m
CROSS JOIN json_each(CASE
    WHEN m.targets IS NULL THEN '[null]'
    WHEN json_valid(m.targets) THEN m.targets
    ELSE '[]'
END) AS t
GROUP BY m.prefix, m.queue || coalesce(t.value, '');

CREATE VIEW channels_lite_published (to_group, name, message) AS
SELECT NULL, NULL, NULL WHERE false;

CREATE TRIGGER channels_lite_published_insert
INSTEAD OF INSERT ON channels_lite_published
BEGIN
    SELECT CASE WHEN NEW.to_group
        THEN RAISE(ABORT, 'channels_lite: the group has no valid name; it is fewer than 100 ASCII letters, digits, "-", "_" and "."')
        ELSE RAISE(ABORT, 'channels_lite: the channel has no valid name; it is fewer than 100 ASCII letters, digits, "-", "_" and ".", with at most one "!", and not in front')
    END
    WHERE typeof(NEW.name) <> 'text'
       OR NEW.name IN ('', '!')
       OR NEW.name GLOB CASE WHEN NEW.to_group THEN '*[^-A-Za-z0-9_.]*' ELSE '*[^-A-Za-z0-9_.!]*' END
       OR NEW.name GLOB '!*'
       OR NEW.name GLOB '*!*!*'
       OR length(CAST(NEW.name AS BLOB)) <> length(NEW.name)
       OR length(NEW.name) >= 100;
    SELECT RAISE(ABORT, 'channels_lite: the message is not the text of a JSON object')
    WHERE typeof(NEW.message) <> 'text'
       OR NOT json_valid(NEW.message)
       OR instr(CAST(NEW.message AS BLOB), x'00')
       OR json_type(CASE WHEN json_valid(NEW.message) THEN NEW.message END) IS NOT 'object';
    SELECT RAISE(ABORT, 'channels_lite: layers with several prefixes use this database, and none without one: it cannot be told which is meant; remove from channels_lite_layer those that do no more')
    WHERE NOT EXISTS (SELECT 1 FROM channels_lite_publisher);
    SELECT RAISE(ABORT, 'channels_lite: the layer encrypts its messages, and these are not encrypted; its option plain_sql accepts them')
    FROM channels_lite_publisher
    WHERE refuses;
    INSERT INTO channels_lite_message (prefix, queue, targets, group_name, payload, capacity, expires_at, sent_at)
    SELECT
        p.prefix,
        r.queue,
        CASE WHEN substr(r.queue, -1) = '!' THEN r.locals END,
        CASE WHEN NEW.to_group THEN NEW.name END,
        CAST(x'00' || 'json:' || NEW.message AS BLOB),
        coalesce((
            SELECT json_extract(value, '$[1]') FROM json_each(p.rules)
            WHERE r.queue || r.local GLOB json_extract(value, '$[0]')
            ORDER BY key LIMIT 1
        ), p.capacity),
        now + p.expiry,
        now
    FROM channels_lite_publisher AS p, channels_lite_clock, (
        SELECT NULL AS prefix, queue, local, json_array(local) AS locals
        FROM (
            SELECT
                substr(NEW.name, 1, coalesce(nullif(instr(NEW.name, '!'), 0), 100)) AS queue,
                substr(NEW.name, coalesce(nullif(instr(NEW.name, '!'), 0), 100) + 1) AS local
        )
        WHERE NOT NEW.to_group
        UNION ALL
        SELECT m.prefix, m.queue, min(m.local), json_group_array(m.local)
        FROM channels_lite_publisher AS q
        CROSS JOIN channels_lite_live_membership AS m ON m.prefix = q.prefix AND m.group_name = NEW.name
        WHERE NEW.to_group
        GROUP BY m.prefix, m.queue
    ) AS r
    WHERE r.prefix IS NULL OR r.prefix = p.prefix;
END;

CREATE VIEW channels_lite_publisher (prefix, expiry, capacity, rules, refuses) AS
SELECT prefix, expiry, capacity, rules, refuses
FROM channels_lite_layer
WHERE prefix = '' OR (SELECT count(*) FROM channels_lite_layer) = 1
UNION ALL
SELECT '', 60000, 100, '[]', 0
WHERE NOT EXISTS (SELECT 1 FROM channels_lite_layer);

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

CREATE VIEW channels_lite_send (channel, message) AS
SELECT NULL, NULL WHERE false;

CREATE TRIGGER channels_lite_send_insert
INSTEAD OF INSERT ON channels_lite_send
BEGIN
    INSERT INTO channels_lite_published VALUES (false, NEW.channel, NEW.message);
END;

