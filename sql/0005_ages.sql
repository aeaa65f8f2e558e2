-- When a message was sent and when a member joined: what is waiting, since when, and who came first.

-- NULL: a row from before this file, or a stranger's.
ALTER TABLE channels_lite_message ADD COLUMN sent_at INTEGER; -- milliseconds, as channels_lite_clock

-- As in 0003, with the new column.
DROP VIEW channels_lite_live_message;

CREATE VIEW channels_lite_live_message AS
SELECT id, prefix, queue, targets, group_name, capacity, expires_at, payload, sent_at
FROM channels_lite_message
WHERE +expires_at > CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER);

-- As in 0003, with the time of the last group_add.
DROP VIEW channels_lite_live_membership;

CREATE VIEW channels_lite_live_membership AS
SELECT prefix, group_name, queue, local, queue || local AS channel, joined_at, expires_at
FROM channels_lite_membership
WHERE expires_at > (SELECT now FROM channels_lite_clock);

-- The live messages of each channel, and when the oldest was sent. A group's row counts for each channel that it is for.
CREATE VIEW channels_lite_pending (prefix, channel, messages, oldest) AS
SELECT m.prefix, m.queue || coalesce(t.value, ''), count(*), min(m.sent_at)
FROM channels_lite_live_message AS m
CROSS JOIN json_each(CASE
    WHEN m.targets IS NULL THEN '[null]'
    WHEN json_valid(m.targets) THEN m.targets
    ELSE '[]'
END) AS t
GROUP BY m.prefix, m.queue || coalesce(t.value, '');
