-- Publishing from SQL: what is inserted into two views is sent, by whoever can write to the database.
--
--     INSERT INTO channels_lite_send (channel, message) VALUES ('jobs', '{"type": "run", "id": 7}');
--     INSERT INTO channels_lite_group_send (group_name, message) VALUES ('news', '{"type": "headline"}');
--
-- The rows of a layer without a bell: receivers hear of them by their backstop, half a second later at most, or at once
-- if the writer rings. Between them and what layers hand over to each other without the database there is no order.

-- What SQL must know of the layers that use this database. Each puts its own here when it opens it.
CREATE TABLE channels_lite_layer (
    prefix   TEXT PRIMARY KEY,
    expiry   INTEGER NOT NULL CHECK (expiry > 0),               -- milliseconds
    capacity INTEGER CHECK (capacity >= 0),                     -- NULL: not enforced
    rules    TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(rules)), -- JSON: [GLOB, capacity] pairs, the first match wins
    refuses  INTEGER NOT NULL DEFAULT 0                         -- it encrypts, and takes nothing that is not encrypted
) STRICT, WITHOUT ROWID;

-- For which of them a message is: the layer without a prefix, or else the only one. Before any has come, the defaults.
CREATE VIEW channels_lite_publisher (prefix, expiry, capacity, rules, refuses) AS
SELECT prefix, expiry, capacity, rules, refuses
FROM channels_lite_layer
WHERE prefix = '' OR (SELECT count(*) FROM channels_lite_layer) = 1
UNION ALL
SELECT '', 60000, 100, '[]', 0
WHERE NOT EXISTS (SELECT 1 FROM channels_lite_layer);

CREATE VIEW channels_lite_send (channel, message) AS
SELECT NULL, NULL WHERE false;

CREATE VIEW channels_lite_group_send (group_name, message) AS
SELECT NULL, NULL WHERE false;

-- Where both lead: one place for what is checked, and for how a row is made.
CREATE VIEW channels_lite_published (to_group, name, message) AS
SELECT NULL, NULL, NULL WHERE false;

CREATE TRIGGER channels_lite_send_insert
INSTEAD OF INSERT ON channels_lite_send
BEGIN
    INSERT INTO channels_lite_published VALUES (false, NEW.channel, NEW.message);
END;

CREATE TRIGGER channels_lite_group_send_insert
INSTEAD OF INSERT ON channels_lite_group_send
BEGIN
    INSERT INTO channels_lite_published VALUES (true, NEW.group_name, NEW.message);
END;

-- GLOB, length() and JSON functions read a text up to its first NUL. What a payload begins with, NUL and "json:", tells
-- the layers how to read it, whatever their own format is: none of those that are in use begins so.
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
