-- Expiry: what is live, what is expired, and what an expired message does to its channel's groups.

CREATE VIEW channels_lite_live_message AS
SELECT id, prefix, queue, targets, group_name, capacity, expires_at, payload
FROM channels_lite_message
-- The unary plus keeps the expiry index out of this view's plans: messages are claimed in the order of id.
-- The clock is written out here: through its view, a claim costs 12 us more.
WHERE +expires_at > CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER);

CREATE VIEW channels_lite_live_membership AS
SELECT prefix, group_name, queue, local, queue || local AS channel, expires_at
FROM channels_lite_membership
WHERE expires_at > (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_expired_message AS
SELECT id, prefix, queue, targets, group_name, expires_at
FROM channels_lite_message
WHERE expires_at <= (SELECT now FROM channels_lite_clock);

CREATE VIEW channels_lite_expired_membership AS
SELECT prefix, group_name, queue, local, expires_at
FROM channels_lite_membership
WHERE expires_at <= (SELECT now FROM channels_lite_clock);

-- The queues that hold a message, found by stepping from one to the next in the index: the cost is the number of
-- queues, not of messages. The unary plus takes the affinity off a stepped value; with it, SQLite would compare the
-- prefix alone by index.
CREATE VIEW channels_lite_queue (prefix, queue) AS
WITH RECURSIVE step (prefix, queue) AS (
    SELECT
        (SELECT prefix FROM channels_lite_message ORDER BY prefix, queue LIMIT 1),
        (SELECT queue FROM channels_lite_message ORDER BY prefix, queue LIMIT 1)
    UNION ALL
    SELECT
        (SELECT m.prefix FROM channels_lite_message AS m
         WHERE (m.prefix, m.queue) > (+step.prefix, +step.queue) ORDER BY m.prefix, m.queue LIMIT 1),
        (SELECT m.queue FROM channels_lite_message AS m
         WHERE (m.prefix, m.queue) > (+step.prefix, +step.queue) ORDER BY m.prefix, m.queue LIMIT 1)
    FROM step
    WHERE step.queue IS NOT NULL
)
SELECT prefix, queue FROM step WHERE queue IS NOT NULL;

-- A message that expires unread takes its channel out of its groups: nobody is reading there. A process-specific
-- channel goes alone; its siblings behind the same "!" stay. Expired messages are therefore deleted through the
-- view. A trigger on the table would do it too, and would add 30 to 40 us to every claim, which never meets one.
CREATE TRIGGER channels_lite_message_expired
INSTEAD OF DELETE ON channels_lite_expired_message
BEGIN
    DELETE FROM channels_lite_message WHERE id = OLD.id;
    DELETE FROM channels_lite_membership
    WHERE prefix = OLD.prefix
      AND queue = OLD.queue
      AND local IN (SELECT value FROM json_each(coalesce(OLD.targets, '[""]')));
END;
