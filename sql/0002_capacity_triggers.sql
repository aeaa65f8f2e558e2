-- Capacity: a queue holds at most `capacity` live messages.
--
-- A direct send to a full queue fails; the row that a group's message would have had there is skipped, and the other
-- rows of the same statement go in. At most `capacity` index entries are read, however long the backlog is and
-- however many expired messages wait to be trimmed. The clock is written out: through its view, a send costs 2 us more.

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
