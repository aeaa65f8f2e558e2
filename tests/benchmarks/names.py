"""What the works and the contenders are called, in tables, in the JSON and in the targets."""

APSW = "apsw layer"
CORE = "core layer"
MEMORY = "InMemoryChannelLayer"
REDIS_CORE_TCP = "channels_redis core, TCP"
REDIS_CORE_UNIX = "channels_redis core, Unix"
REDIS_PUBSUB_TCP = "channels_redis pubsub, TCP"
REDIS_PUBSUB_UNIX = "channels_redis pubsub, Unix"
RELEASE_AIO = "channels-lite 0.4.0, aio"
RELEASE_CORE = "channels-lite 0.4.0, ORM"
RAW = "raw apsw"
SOCKET = "Unix socket"
BARE = "bare layer"

REDIS_CORE = (REDIS_CORE_TCP, REDIS_CORE_UNIX)
REDIS_PUBSUB = (REDIS_PUBSUB_TCP, REDIS_PUBSUB_UNIX)
OURS = (APSW, CORE)

# inprocess
SEQUENTIAL = "send+receive, normal channel"
SPECIFIC = "send+receive, process-specific channel"
WAITING_NORMAL = "receiver waiting, normal channel"
WAITING_SPECIFIC = "receiver waiting, process-specific channel"
CONCURRENT = "60 concurrent tasks, process-specific"
GROUP_ADD = "group_add"
FROM_SYNC = "send from sync code"  # by async_to_sync
FROM_SYNC_OWN = "send from sync code, process-specific channel"
SYNC = "layer.sync.send"
SYNC_OWN = "layer.sync.send, process-specific channel"

# payloads; size: bytes
PAYLOAD = "send+receive of a payload"
PAYLOAD_ENCRYPTED = "send+receive of a payload, encrypted"

# groups; size: members
RETURNS = "group_send, members in one process: until it returns"
ALL_HAVE_IT = "group_send, members in one process: until all have it"
DELIVERIES = "group_send, members in one process: deliveries"
RETURNS_4 = "group_send, members in 4 processes: until it returns"
ALL_HAVE_IT_4 = "group_send, members in 4 processes: until all have it"
DELIVERIES_4 = "group_send, members in 4 processes: deliveries"

# crossing
ROUND_TRIP = "cross-process round trip"
ROUND_TRIP_APART = "cross-process round trip, cores apart"
FLOOD = "one-way flood"
FLOOD_LOST = "one-way flood: lost"

# writers; size: processes that write
WRITERS_THROUGHPUT = "writers: throughput"
WRITERS_WAIT = "writers: wait"
WRITERS_ERRORS = "writers: errors"

# idle
IDLE_PROCESSOR = "idle: processor"
IDLE_MEMORY = "idle: memory per receiver"
IDLE_RESIDENT = "idle: resident memory per receiver"

# backlog; size: rows pending elsewhere
BACKLOG_SEND = "backlog: send"
BACKLOG_CLAIM = "backlog: claim"

# chat
CHAT_CLIENTS = 200
CHAT_ALL = f"chat: message to all {CHAT_CLIENTS}"
CHAT_ONE = "chat: message to one"
CHAT_RATE = "chat: messages delivered"
CHAT_LOST = "chat: messages lost"

MEMBERS = "members"
PENDING = "rows pending elsewhere"
SIZES = {
    **dict.fromkeys((PAYLOAD, PAYLOAD_ENCRYPTED), "bytes"),
    **dict.fromkeys((RETURNS, ALL_HAVE_IT, DELIVERIES, RETURNS_4, ALL_HAVE_IT_4, DELIVERIES_4), MEMBERS),
    **dict.fromkeys((WRITERS_THROUGHPUT, WRITERS_WAIT, WRITERS_ERRORS), "processes"),
    **dict.fromkeys((BACKLOG_SEND, BACKLOG_CLAIM), PENDING),
}
"""What the sizes of a work are."""

P50, P99, WORST = 0.5, 0.99, 1.0
QUANTILES = {
    ROUND_TRIP: (P50, P99),
    ROUND_TRIP_APART: (P50, P99),
    WRITERS_WAIT: (P50, P99, WORST),
    BACKLOG_SEND: (P50, P99),
    BACKLOG_CLAIM: (P50, P99),
    CHAT_ALL: (P50, P99, WORST),
    CHAT_ONE: (P50, P99, WORST),
}
"""What tables show of a work, where it is more than the median."""
