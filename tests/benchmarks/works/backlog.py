"""Messages that wait unread, and what they make of sending and claiming beside them. For this project's layers."""

import time

BATCH = 100_000  # rows of one transaction
PAYLOAD = 100  # bytes of a message that waits
MESSAGE = {"type": "backlog.message", "text": "x" * 60}

_FILL = """
WITH RECURSIVE number (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?)
INSERT INTO channels_lite_message (prefix, queue, payload, expires_at)
SELECT ?, 'backlog.' || (n % ?), zeroblob(?), (SELECT now FROM channels_lite_clock) + 3600000 FROM number
"""


async def fill(layer, rows, queues):
    """Put so many messages into so many queues in turn, live for an hour. Through the API it would take minutes."""
    await layer.send("backlog.first", MESSAGE)  # opens the database
    await layer.receive("backlog.first")
    for start in range(0, rows, BATCH):
        parameters = (start, min(rows, start + BATCH), layer.options.prefix, queues, PAYLOAD)
        await layer._aside(lambda execute, parameters=parameters: execute(_FILL, parameters))


async def alternate(layer, messages):
    """Seconds of each send and of each receive of a message that is there, on one normal channel."""
    sends, claims = [], []
    for _ in range(messages):
        start = time.perf_counter()
        await layer.send("alternate", MESSAGE)
        sent = time.perf_counter()
        await layer.receive("alternate")
        claims.append(time.perf_counter() - sent)
        sends.append(sent - start)
    return {"send": sends, "claim": claims}
