-- Rows that a stranger writes: what the tables let through, and would fail everybody else; and what expiry takes along.

-- Ids count on from those that are there. After a row with the highest possible id SQLite would pick ids at random or
-- find none, and in front of one with the lowest there would be no place to put a message back. With 2^53 messages from
-- either bound, it takes for ever to get there one by one.
CREATE TRIGGER channels_lite_message_id
AFTER INSERT ON channels_lite_message
WHEN (NEW.id > 9007199254740991 OR NEW.id < -9007199254740991)
    AND NOT EXISTS (SELECT 1 FROM channels_lite_message WHERE id = NEW.id - CASE WHEN NEW.id > 0 THEN 1 ELSE -1 END)
BEGIN
    SELECT RAISE(ABORT, 'channels_lite: the id is too far from the others; leave it out');
END;

-- GLOB, by which the table checks its names, reads a text up to its first NUL, and so does length().
CREATE TRIGGER channels_lite_membership_names
BEFORE INSERT ON channels_lite_membership
WHEN length(NEW.queue) <> length(CAST(NEW.queue AS BLOB)) OR length(NEW.local) <> length(CAST(NEW.local AS BLOB))
BEGIN
    SELECT RAISE(ABORT, 'channels_lite: the name of a channel holds a NUL');
END;

-- As in 0003, but the targets are asked for their validity again: what is JSON to one release of SQLite may be nested
-- too deeply for another. And the index is named, which a DELETE in a trigger cannot do by itself: the planner would read
-- all memberships of the prefix, for each message that expires.
DROP TRIGGER channels_lite_message_expired;

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
