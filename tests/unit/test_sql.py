"""The SQL itself, without the layer: every rule holds on the standard library's SQLite and on apsw's."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import apsw
import pytest

from channels_lite import clock, schema, store

FAR = 2**53  # milliseconds: an expiry that no test sees
TTL = 60_000
REFUSED = (sqlite3.IntegrityError, apsw.ConstraintError)
Run = Callable[..., list[Any]]
CAPACITY = {"tiny": 1, "closed": 0, "free": None}  # what channels_lite_capacity() answers for a group; 100 for others
TABLE = -1  # the rules that it takes from there; otherwise they are the capacity


def capacity(rules: int | None, channel: str, shared: bool) -> int | None:
    return CAPACITY.get(channel, 100) if rules == TABLE else rules


def open_sqlite3(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.create_function("channels_lite_capacity", 3, capacity)
    return connection


def open_apsw(path: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.create_scalar_function("channels_lite_capacity", capacity, 3)
    return connection


@pytest.fixture(params=[open_sqlite3, open_apsw])
def connection(request: pytest.FixtureRequest, path: str) -> Iterator[Any]:
    """A database with the whole schema, open in one of the two libraries."""
    connection = request.param(path)
    connection.execute("PRAGMA journal_mode = wal").fetchall()
    connection.execute("PRAGMA synchronous = off")  # these tests are about rules, not about the disk
    schema.apply(schema.executor(connection), schema.steps())
    yield connection
    connection.close()


@pytest.fixture
def run(connection: Any) -> Run:
    """Run a statement to its end and return its rows."""
    return lambda sql, parameters=(): connection.execute(sql, parameters).fetchall()


def send(run: Run, queue: str = "chat", *, prefix: str = "", capacity: int | None = 100, targets: Any = None) -> None:
    """Send one message as the layer does."""
    store.send(run, prefix, queue, targets and json.dumps(targets), b"payload", capacity, queue, False, TTL)


def fill(run: Run, count: int, queue: str = "chat", *, prefix: str = "", expires_at: int = FAR) -> None:
    """Put many messages into a queue at once."""
    run(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO channels_lite_message (prefix, queue, expires_at, payload) SELECT ?, ?, ?, x'' FROM n",
        (count, prefix, queue, expires_at),
    )


def join(run: Run, group: str, *channels: str, prefix: str = "") -> None:
    """Make channels members of a group."""
    for channel in channels:
        name, mark, local = channel.partition("!")
        store.group_add(run, prefix, group, name + mark, local, TTL)


def members(run: Run, group: str, prefix: str = "") -> list[str]:
    """The live members of a group."""
    rows = run(
        "SELECT channel FROM channels_lite_live_membership WHERE prefix = ? AND group_name = ? ORDER BY channel",
        (prefix, group),
    )
    return [channel for (channel,) in rows]


def messages(run: Run, queue: str = "chat", prefix: str = "") -> int:
    """How many messages a queue holds, expired ones included."""
    return run("SELECT count(*) FROM channels_lite_message WHERE prefix = ? AND queue = ?", (prefix, queue))[0][0]


def recorded(run: Run, operation: Callable[..., Any], *arguments: Any) -> list[tuple[str, Sequence[Any]]]:
    """Run a function of ``store``: its statements with their parameters."""
    statements = []

    def execute(sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        statements.append((sql, parameters))
        return run(sql, parameters)

    operation(execute, *arguments)
    return statements


def plan(run: Run, sql: str, parameters: Sequence[Any]) -> str:
    """How SQLite means to run a statement."""
    return "\n".join(row[3] for row in run(f"EXPLAIN QUERY PLAN {sql}", parameters))


def virtual_steps(connection: Any, action: Callable[[], Any]) -> int:
    """How many steps SQLite's virtual machine takes for what an action runs."""
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    connection.set_progress_handler(step, 1)
    try:
        action()
    finally:
        connection.set_progress_handler(None, 1)
    return count


# Capacity.


def test_full_queue_refuses_a_direct_send(run: Run) -> None:
    """A queue takes as many messages as its capacity and then fails a send, until one is taken out."""
    for _ in range(3):
        send(run, capacity=3)
    with pytest.raises(REFUSED, match=store.FULL):
        send(run, capacity=3)
    assert messages(run) == 3
    store.claim_one(run, "", "chat")
    send(run, capacity=3)


def test_refused_send_leaves_the_transaction_open(run: Run) -> None:
    """A send to a full queue undoes its own statement and nothing else of the transaction around it."""
    run("BEGIN IMMEDIATE")
    send(run, "other")
    with pytest.raises(REFUSED):
        send(run, capacity=0)
    run("COMMIT")
    assert (messages(run, "other"), messages(run)) == (1, 0)


def test_group_skips_full_queues(run: Run) -> None:
    """A group's row for a full queue is skipped without failing the others, and is not counted as changed."""
    join(run, "room", "first", "tiny", "zone.client!a", "zone.client!b", "closed")
    send(run, "tiny")
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    assert run("SELECT changes()") == [(2,)]
    assert [messages(run, queue) for queue in ("first", "tiny", "zone.client!", "closed")] == [1, 1, 1, 0]


def test_group_returns_only_what_went_in(run: Run) -> None:
    """RETURNING lists the rows of a group's statement that went in, and not those that were skipped."""
    join(run, "room", "first", "tiny", "last")
    send(run, "tiny")
    ((sql, parameters),) = recorded(run, store.group_send, "", "room", b"payload", TABLE, TTL)
    assert run(f"{sql} RETURNING queue", parameters) == [("first",), ("last",)]


def test_expired_messages_do_not_count(run: Run) -> None:
    """A queue that holds nothing but expired messages is empty to the capacity, for a send and for a group."""
    fill(run, 50, "tiny", expires_at=0)
    join(run, "room", "tiny")
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    assert messages(run, "tiny") == 51
    with pytest.raises(REFUSED):
        send(run, "tiny", capacity=1)


def test_capacity_zero_takes_nothing(run: Run) -> None:
    """Capacity 0 closes a queue."""
    with pytest.raises(REFUSED, match=store.FULL):
        send(run, capacity=0)


def test_no_capacity_takes_everything(run: Run) -> None:
    """Without a capacity no queue is ever full, however many messages it holds."""
    fill(run, 1_000)
    fill(run, 1_000, "free")
    send(run, capacity=None)
    join(run, "room", "free")
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    assert (messages(run), messages(run, "free")) == (1_001, 1_001)


def test_capacity_is_each_prefix_own(run: Run) -> None:
    """What is in a queue of the same name under another prefix does not count."""
    fill(run, 5, prefix="other")
    send(run, capacity=1)
    with pytest.raises(REFUSED):
        send(run, capacity=1)
    with pytest.raises(REFUSED):
        send(run, capacity=5, prefix="other")


def test_capacity_is_each_queue_own(run: Run) -> None:
    """The channels of one process share their queue's capacity; a normal channel of almost that name does not."""
    send(run, "zone.client!", targets=["a"], capacity=1)
    send(run, "zone.client", capacity=1)
    with pytest.raises(REFUSED):
        send(run, "zone.client!", targets=["b"], capacity=1)


def test_group_asks_for_each_queue_by_a_members_name(run: Run) -> None:
    """A group's rows carry the capacity that the connection's function gives for a whole channel name."""
    join(run, "room", "tiny", "free", "zone.client!b", "zone.client!a")
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    found = run("SELECT queue, capacity FROM channels_lite_message ORDER BY queue")
    assert found == [("free", None), ("tiny", 1), ("zone.client!", 100)]


def test_capacity_is_counted_by_index(run: Run) -> None:
    """The trigger counts in the index of queue and expiry alone, by all three columns, up to the capacity."""
    ((trigger,),) = run("SELECT sql FROM sqlite_master WHERE name = 'channels_lite_message_capacity'")
    counting = re.search(r"NEW\.capacity <= \((.*)\)\s*BEGIN", trigger, re.DOTALL)
    assert counting is not None
    sql = re.sub(r"NEW\.(\w+)", "?", counting[1])
    assert "LIMIT ?" in sql
    assert [line for line in plan(run, sql, ("", "chat", 10)).splitlines() if "channels_lite_message" in line] == [
        "SEARCH channels_lite_message USING COVERING INDEX channels_lite_message_expiry "
        "(prefix=? AND queue=? AND expires_at>?)"
    ]


def test_expired_backlog_costs_a_send_nothing(connection: Any, run: Run) -> None:
    """A send takes the same number of steps before 10 expired messages and before 20,000."""
    fill(run, 10, expires_at=0)
    short = virtual_steps(connection, lambda: send(run, capacity=5))
    store.claim_one(run, "", "chat")
    fill(run, 20_000, expires_at=0)
    long = virtual_steps(connection, lambda: send(run, capacity=5))
    assert 0 < long <= short


def test_live_backlog_costs_a_send_nothing(connection: Any, run: Run) -> None:
    """A send is refused in the same number of steps by 10 live messages and by 20,000."""

    def refused() -> None:
        with pytest.raises(REFUSED):
            send(run, capacity=10)

    fill(run, 10)
    short = virtual_steps(connection, refused)
    fill(run, 19_990)
    long = virtual_steps(connection, refused)
    assert 0 < long <= short


def test_steps_are_counted_in_the_trigger(connection: Any, run: Run) -> None:
    """A larger capacity costs more steps: what the two tests above count includes the trigger's."""
    fill(run, 1_000)
    few = virtual_steps(connection, lambda: send(run, capacity=None))
    many = virtual_steps(connection, lambda: send(run, capacity=2_000))
    assert many > few + 1_000


# Expiry.


def test_every_message_is_live_or_expired(run: Run) -> None:
    """A message is in one of the two views: live until its expiry, and expired from that millisecond on."""
    fill(run, 2)
    fill(run, 3, expires_at=0)
    now = "(SELECT now FROM channels_lite_clock)"
    run(f"INSERT INTO channels_lite_message (prefix, queue, expires_at, payload) VALUES ('', 'chat', {now}, x'')")
    assert run("SELECT id FROM channels_lite_live_message ORDER BY id") == [(1,), (2,)]
    assert run("SELECT id FROM channels_lite_expired_message ORDER BY id") == [(3,), (4,), (5,), (6,)]


def test_every_membership_is_live_or_expired(run: Run) -> None:
    """A membership is in one of the two views, and joining again brings it back to the live ones."""
    join(run, "room", "stays", "goes", "zone.client!goes")
    run("UPDATE channels_lite_membership SET expires_at = 0 WHERE queue <> 'stays'")
    assert members(run, "room") == ["stays"]
    assert run("SELECT queue, local FROM channels_lite_expired_membership ORDER BY queue") == [
        ("goes", ""),
        ("zone.client!", "goes"),
    ]
    join(run, "room", "zone.client!goes")
    assert members(run, "room") == ["stays", "zone.client!goes"]


def test_expired_members_are_not_sent_to(run: Run) -> None:
    """A group's message goes to live members only."""
    join(run, "room", "stays", "goes", "zone.client!stays", "zone.client!goes")
    run("UPDATE channels_lite_membership SET expires_at = 0 WHERE queue = 'goes' OR local = 'goes'")
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    found = run("SELECT queue, targets FROM channels_lite_message ORDER BY queue")
    assert found == [("stays", None), ("zone.client!", '["stays"]')]


def test_expiry_evicts_the_targets_and_not_their_siblings(run: Run) -> None:
    """An expired message takes its own targets out of all groups, and no other channel behind the same "!"."""
    join(run, "room", "zone.client!a", "zone.client!b", "zone.client!c", "zone.client")
    join(run, "hall", "zone.client!a", "zone.client!c")
    join(run, "room", "zone.client!a", prefix="other")
    run("UPDATE channels_lite_membership SET joined_at = 0")
    send(run, "zone.client!", targets=["a", "b"])
    run("UPDATE channels_lite_message SET expires_at = 0")
    assert store.trim(run) == (1, 0)
    assert members(run, "room") == ["zone.client", "zone.client!c"]
    assert members(run, "hall") == ["zone.client!c"]
    assert members(run, "room", "other") == ["zone.client!a"]
    assert messages(run, "zone.client!") == 0


def test_expiry_spares_who_joined_later(run: Run) -> None:
    """Who joined, or joined again, after the message had expired is alive, and stays however late it is trimmed."""
    join(run, "room", "worker")
    join(run, "hall", "worker")
    run("UPDATE channels_lite_membership SET joined_at = 0")
    fill(run, 1, "worker", expires_at=1)
    join(run, "room", "worker")
    assert store.trim(run) == (1, 0)
    assert (members(run, "room"), members(run, "hall")) == (["worker"], [])


def test_expiry_evicts_a_normal_channel(run: Run) -> None:
    """An expired message of a normal channel takes that channel out of all groups, under its own prefix only."""
    join(run, "room", "worker", "worker2", "worker!a")
    join(run, "hall", "worker")
    join(run, "room", "worker", prefix="other")
    run("UPDATE channels_lite_membership SET joined_at = 0")
    fill(run, 1, "worker", expires_at=0)
    assert store.trim(run) == (1, 0)
    assert members(run, "room") == ["worker!a", "worker2"]
    assert members(run, "hall") == []
    assert members(run, "room", "other") == ["worker"]


@pytest.mark.parametrize("evict", ["a message in the database", "a message in a mailbox"])
def test_eviction_costs_by_channels(connection: Any, run: Run, evict: str) -> None:
    """Taking a channel out of its groups takes as many steps among 5 members as among 5,000."""

    def steps() -> int:
        join(run, "room", "zone.client!gone")
        run("UPDATE channels_lite_membership SET joined_at = 0")
        if evict == "a message in a mailbox":
            return virtual_steps(connection, lambda: store.evict(run, "", "zone.client!", "gone", 1))
        send(run, "zone.client!", targets=["gone"])
        run("UPDATE channels_lite_message SET expires_at = 1")
        return virtual_steps(connection, lambda: run("DELETE FROM channels_lite_expired_message"))

    join(run, "room", *(f"zone.client!{number}" for number in range(5)))
    few = steps()
    join(run, "room", *(f"zone.client!{number}" for number in range(5_000)))
    assert 0 < steps() <= 1.1 * few
    assert "zone.client!gone" not in members(run, "room")


def test_live_messages_evict_nobody(run: Run) -> None:
    """Neither a claim, nor a deletion through the view that names a live message, takes anybody out of a group."""
    join(run, "room", "worker")
    fill(run, 2, "worker")
    run("DELETE FROM channels_lite_expired_message WHERE id = 1")
    assert store.claim_one(run, "", "worker") is not None
    assert (members(run, "room"), messages(run, "worker")) == (["worker"], 1)


def test_trim_takes_batches(run: Run) -> None:
    """One trim removes at most a batch of messages and one of memberships, and nothing that is live."""
    fill(run, store.TRIM_BATCH + 1, expires_at=0)
    fill(run, 1)
    join(run, "room", *(f"member{number}" for number in range(store.TRIM_BATCH + 1)))
    run("UPDATE channels_lite_membership SET expires_at = 0")
    join(run, "room", "stays")
    assert [store.trim(run) for _ in range(3)] == [(store.TRIM_BATCH, store.TRIM_BATCH), (1, 1), (0, 0)]
    assert (messages(run), members(run, "room")) == (1, ["stays"])


# Queues and claims.


def test_queue_walk_finds_every_queue(run: Run) -> None:
    """The view of queues lists each pair of prefix and queue once, also where they look like numbers."""
    names = ["1", "01", "10", "2", "a", "a!", "a.b", "é", "\U0001f600", "1e1"]
    pairs = sorted((prefix, queue) for prefix in ("", "1", "01", "p", "é") for queue in names)
    for prefix, queue in pairs:
        fill(run, 3, queue, prefix=prefix, expires_at=0)
    assert sorted(run("SELECT prefix, queue FROM channels_lite_queue")) == pairs


def test_queue_walk_of_nothing(run: Run) -> None:
    """The view of queues is empty where there are no messages."""
    assert run("SELECT * FROM channels_lite_queue") == []


def test_queue_walk_steps_by_both_columns(run: Run) -> None:
    """The walk finds each next prefix, and each next queue of a prefix, by one step in an index."""
    steps = [line for line in plan(run, "SELECT * FROM channels_lite_queue", ()).splitlines() if " m " in line]
    assert steps
    ends = {line.partition(" (")[2] for line in steps}
    assert all("SEARCH m USING COVERING INDEX" in line for line in steps)
    assert ends == {"prefix>?)", "prefix=?)", "prefix=? AND queue>?)"}


def test_queue_walk_costs_by_queues(connection: Any, run: Run) -> None:
    """Finding the queues and their expired messages takes as many steps among 5 messages as among 20,000."""
    (looking,) = [sql for sql, _ in recorded(run, store.trim) if "channels_lite_queue" in sql]

    def look() -> int:
        return virtual_steps(connection, lambda: run(looking, (store.TRIM_BATCH,)))

    for queue in ("a", "b", "c!"):
        fill(run, 5, queue)
    short = look()
    fill(run, 20_000, "b")
    assert 0 < look() <= short


def test_claim_takes_the_oldest(run: Run) -> None:
    """A claim takes the live message that arrived first, also when a later one expires sooner."""
    expiries = [0, FAR, FAR - 2, FAR - 1]
    for expires_at in expiries:
        fill(run, 1, expires_at=expires_at)
    claimed = [store.claim_one(run, "", "chat") for _ in range(4)]
    assert claimed == [(b"", FAR, 0), (b"", FAR - 2, 0), (b"", FAR - 1, 0), None]
    assert messages(run) == 1


def test_claim_of_a_process_takes_all_in_order(run: Run) -> None:
    """A claim of a process-specific queue takes its live messages in the order of arrival, a batch at a time."""
    fill(run, 1, "zone.client!", expires_at=0)
    fill(run, store.CLAIM_BATCH + 1, "zone.client!")
    first, second = (store.claim_queue(run, "", "zone.client!", bool, bool) for _ in range(2))
    assert [row.id for row in first + second] == list(range(2, store.CLAIM_BATCH + 3))
    assert (len(second), store.claim_queue(run, "", "zone.client!", bool, bool)) == (1, [])


@pytest.mark.parametrize(
    "claim", [store.claim_one, partial(store.claim_queue, before=bool, claiming=bool)], ids=["one", "queue"]
)
def test_claim_uses_the_order_index(run: Run, claim: Callable[..., Any]) -> None:
    """What picks and takes messages in their order reads the index of queue and id, and sorts nothing."""
    fill(run, 2)
    ordered = [each for each in recorded(run, claim, "", "chat") if re.search("ORDER BY id|id <=", each[0])]
    assert ordered
    for sql, parameters in ordered:
        found = plan(run, sql, parameters)
        assert "channels_lite_message_order (prefix=? AND queue=?" in found
        assert "TEMP B-TREE" not in found


@pytest.mark.parametrize(
    "claim", [store.claim_one, partial(store.claim_queue, before=bool, claiming=bool)], ids=["one", "queue"]
)
def test_claim_finds_its_queue_by_index(run: Run, claim: Callable[..., Any]) -> None:
    """No statement of a claim scans the messages."""
    fill(run, 2)
    for sql, parameters in recorded(run, claim, "", "chat"):
        assert "SCAN channels_lite_message" not in plan(run, sql, parameters)


def test_claims_see_their_own_prefix(run: Run) -> None:
    """A claim does not see a queue of the same name under another prefix."""
    fill(run, 1, prefix="other")
    fill(run, 1, "zone.client!", prefix="other")
    assert store.claim_one(run, "", "chat") is None
    assert store.claim_queue(run, "", "zone.client!", bool, bool) == []


def test_group_send_is_one_statement_and_one_row_a_process(run: Run) -> None:
    """A message to 1,000 channels of one process is one statement, one row, and sorts nothing."""
    join(run, "room", *(f"zone.client!{number:03}" for number in range(1_000)))
    ((sql, parameters),) = recorded(run, store.group_send, "", "room", b"payload", TABLE, TTL)
    ((targets,),) = run("SELECT targets FROM channels_lite_message")
    assert sorted(json.loads(targets)) == [f"{number:03}" for number in range(1_000)]
    assert "TEMP B-TREE" not in plan(run, sql, parameters)


def test_group_send_without_some_queues(run: Run) -> None:
    """The queues that the caller serves by himself get no row; the others do."""
    join(run, "room", "chat", "zone.one!a", "zone.other!b")
    store.group_send(run, "", "room", b"payload", TABLE, TTL, ["zone.one!", "none!"])
    assert run("SELECT queue FROM channels_lite_message ORDER BY queue") == [("chat",), ("zone.other!",)]


def test_members(run: Run) -> None:
    """The live members of each queue that is asked for and has any."""
    join(run, "room", "zone.one!a", "zone.one!b", "zone.other!c")
    join(run, "elsewhere", "chat")
    names = ["zone.one!", "zone.other!", "zone.third!"]
    here, until = store.members(run, "", "room", names)
    assert until == min(run("SELECT min(expires_at) FROM channels_lite_membership WHERE group_name = 'room'")[0])
    assert {queue: sorted(channels) for queue, channels in here.items()} == {
        "zone.one!": ["zone.one!a", "zone.one!b"],
        "zone.other!": ["zone.other!c"],
    }
    run("UPDATE channels_lite_membership SET expires_at = 0 WHERE local IN ('b', 'c')")
    assert store.members(run, "", "room", names)[0] == {"zone.one!": ["zone.one!a"]}
    assert store.members(run, "", "nobody", names) == ({}, store.FAR)
    assert store.members(run, "other", "room", names) == ({}, store.FAR)


def test_queues_of_a_group(run: Run) -> None:
    """Each once, in their order, up to so many."""
    join(run, "room", "zone.one!a", "zone.one!b", "zone.other!c", "chat")
    join(run, "elsewhere", "other")
    assert store.queues_of_group(run, "", "room", 10) == ["chat", "zone.one!", "zone.other!"]
    assert store.queues_of_group(run, "", "room", 2) == ["chat", "zone.one!"]
    assert store.queues_of_group(run, "", "nobody", 10) == []
    assert store.queues_of_group(run, "other", "room", 10) == []


def test_queues_of_a_group_are_stepped_through(run: Run) -> None:
    """Looking for them does not walk the group's members: a search by index for each."""
    ((sql, parameters),) = recorded(run, store.queues_of_group, "", "room", 10)
    for words in ("SCAN channels_lite_membership", "SCAN m", "TEMP B-TREE"):
        assert words not in plan(run, sql, parameters)


# The run-time statements.


def use_every_function(run: Run) -> None:
    """Call each function of ``store`` so that each of its statements runs."""
    join(run, "room", "chat", "zone.client!a")
    send(run)
    store.group_send(run, "", "room", b"payload", TABLE, TTL)
    store.group_send(run, "", "room", b"payload", TABLE, TTL, (), ["chat", "zone.client!a"])
    assert store.queues(run, [1]) == [("", "chat")]
    assert store.queues(run, [2, 3, 99]) == [("", "chat"), ("", "zone.client!")]
    for names in (["chat", "none"], ["chat", "none", *map(str, range(store.FEW))]):
        assert store.pending(run, "", names, 1) == {name: int(name == "chat") for name in names}
    assert [store.has_live(run, "", name) for name in ("chat", "none")] == [True, False]
    assert store.members(run, "", "room", ["zone.client!"])[0] == {"zone.client!": ["zone.client!a"]}
    assert store.queues_of_group(run, "", "room", 10) == ["chat", "zone.client!"]
    assert store.group_channels(run, "", "room") == ["chat", "zone.client!a"]
    assert store.group_count(run, "", "room") == 2
    assert store.group_sizes(run, "") == {"room": 2}
    pending = {channel: number for channel, number, _ in store.pending_by_channel(run, "")}
    assert pending == {"chat": 2, "zone.client!a": 1}
    assert store.groups(run, "", "zone.client!", "a") == ["room"]
    for _ in range(2):
        store.register(run, "", 60_000, 100, [("a*", 1)], False)
    assert store.data_version(run) > 0
    assert [row.targets for row in store.claim_queue(run, "", "zone.client!", bool, bool)] == [b'["a"]']
    store.put_back(run, "", "zone.client!", "b", b"own", FAR, 7)
    store.put_back(run, "", "zone.client!", "b", b"all", FAR, 7)
    run("UPDATE channels_lite_message SET targets = '[\"a\", \"b\"]' WHERE payload = CAST('own' AS BLOB)")
    assert store.claim_own(run, "", "zone.client!", "a", lambda: True) is None  # it is for another as well
    assert store.claim_own(run, "", "zone.client!", "b", lambda: False) is None  # it is not wanted any more
    assert store.claim_own(run, "", "zone.client!", "b", lambda: True) == (b"all", FAR, 7)
    assert store.claim_own(run, "", "zone.client!", "b", lambda: True) is None
    assert len(store.claim_queue(run, "", "zone.client!", bool, bool)) == 1
    store.put_back(run, "", "chat", None, b"put back", FAR, 7)
    store.put_back(run, "", "chat", None, b"put back last", FAR, 0)
    assert [store.claim_one(run, "", "chat") for _ in range(2)] == [(b"put back last", FAR, 0), (b"put back", FAR, 7)]
    assert (store.claim_one(run, "", "chat") or ("",))[0] == b"payload"
    move_there_and_back(run)
    store.group_discard(run, "", "room", "zone.client!", "a")
    store.evict(run, "", "chat", "", FAR)
    assert members(run, "room") == []
    join(run, "room", "gone")
    run("UPDATE channels_lite_message SET expires_at = 0")
    run("UPDATE channels_lite_membership SET expires_at = 0")
    assert store.count_expired(run) == 2
    assert store.trim(run) == (1, 1)
    assert store.count_expired(run) == 0
    store.flush(run, "")
    store.vacuum(run)
    assert store.empty_wal(run, 0)
    assert store.space(run)[1] == 0


def move_there_and_back(run: Run) -> None:
    """Move all that is in a database into another one, and from there into the first again: all is as it was."""
    other = schema.executor(apsw.Connection(":memory:"))
    schema.apply(other, schema.steps())
    store.put_back(run, "", "chat", None, b"first", FAR, 7)
    what = "prefix, queue, targets, group_name, sent_at, expires_at, payload"
    before = run(f"SELECT {what} FROM channels_lite_message ORDER BY id", ())
    for source, target in ((run, other), (other, run)):
        store.move(source, target, [])
        assert source("SELECT count(*) FROM channels_lite_message", ()) == [(0,)]
        assert target(f"SELECT {what} FROM channels_lite_message ORDER BY id", ()) == before
    assert other("SELECT count(*) FROM channels_lite_membership", ()) == [(2,)]
    assert store.claim_one(run, "", "chat") == (b"first", FAR, 7)


def test_every_statement_runs(run: Run) -> None:
    """All the statements of ``store`` run on both libraries and give what their functions promise."""
    used = {sql for sql, _ in recorded(run, use_every_function)}
    constants = {sql for name, sql in vars(store).items() if re.fullmatch(r"_[A-Z_]+", name)}
    assert len(constants) > 10
    assert constants <= used


def test_flush_removes_its_own_prefix(run: Run) -> None:
    """Flushing removes all messages and memberships of its prefix, more than a batch of them, and no others."""
    fill(run, store.CLAIM_BATCH + 1)
    fill(run, 2, prefix="other")
    join(run, "room", "chat")
    join(run, "room", "chat", prefix="other")
    store.flush(run, "")
    assert (messages(run), messages(run, prefix="other")) == (0, 2)
    assert (members(run, "room"), members(run, "room", "other")) == ([], ["chat"])


# Publishing. The whole of it is in tests/processes/test_publishing.py.

CHANNEL, GROUP = "the channel has no valid name", "the group has no valid name"
NO_MESSAGE = "the message is not the text of a JSON object"


@pytest.mark.parametrize("name", ["jobs", "a", "x" * 99, "Zone.one-2_3!local", "zone!", "a!" + "b" * 97])
def test_channels_to_publish_to(run: Run, name: str) -> None:
    """Every name that the layer takes is taken, and leads to the queue and target that the layer's own would."""
    run("INSERT INTO channels_lite_send VALUES (?, '{}')", (name,))
    queue, mark, local = name.partition("!")
    expected = (f"{queue}{mark}", json.dumps([local], separators=(",", ":")) if mark else None)
    assert run("SELECT queue, targets FROM channels_lite_message") == [expected]


@pytest.mark.parametrize(
    "name", ["", "!", "!a", "a!b!c", "a!!", "x" * 100, "two words", "ümlaut", "a\0b", "line\n", None, 5, b"bytes", 1.5]
)
def test_names_that_nothing_is_published_to(run: Run, name: Any) -> None:
    """What is no name of a channel, or of a group, is refused with words that say so, and nothing is sent."""
    for view, words in (("channels_lite_send", CHANNEL), ("channels_lite_group_send", GROUP)):
        with pytest.raises(REFUSED, match=words):
            run(f"INSERT INTO {view} VALUES (?, '{{}}')", (name,))
    assert run("SELECT count(*) FROM channels_lite_message") == [(0,)]


def test_a_groups_name_has_no_mark(run: Run) -> None:
    """What is a channel's name may be no group's."""
    with pytest.raises(REFUSED, match=GROUP):
        run("INSERT INTO channels_lite_group_send VALUES ('a!b', '{}')")


@pytest.mark.parametrize(
    "message", ["", " ", "[]", "1", '"text"', "null", "{", "{}{}", "{a: 1}", '{"a": NaN}', "{}\0", None, 7, b"{}"]
)
def test_what_is_no_message(run: Run, message: Any) -> None:
    """What is not the text of a JSON object is refused with words that say so."""
    join(run, "room", "chat")
    for view in ("channels_lite_send", "channels_lite_group_send"):
        with pytest.raises(REFUSED, match=NO_MESSAGE):
            run(f"INSERT INTO {view} VALUES ('room', ?)", (message,))
    assert run("SELECT count(*) FROM channels_lite_message") == [(0,)]


def test_the_views_for_publishing_have_two_columns(run: Run) -> None:
    """They can be written to with and without naming their columns, and there is nothing to be read in them."""
    for view, name in (("channels_lite_send", "channel"), ("channels_lite_group_send", "group_name")):
        assert [row[1] for row in run(f"PRAGMA table_info({view})")] == [name, "message"]
        assert run(f"SELECT * FROM {view}") == []


def test_publishing_before_any_layer_came(run: Run) -> None:
    """The defaults of the options hold: a capacity of 100, and 60 seconds."""
    for _ in range(100):
        run("INSERT INTO channels_lite_send VALUES ('jobs', '{}')")
    with pytest.raises(REFUSED, match=store.FULL):
        run("INSERT INTO channels_lite_send VALUES ('jobs', '{}')")
    ttl = "SELECT DISTINCT prefix, expires_at - sent_at FROM channels_lite_message"
    assert run(ttl) == [("", 60_000)]


# Names, the clock and what the tables refuse.


def test_every_name_begins_with_ours(run: Run) -> None:
    """Every table, index, view and trigger can live in an application's database: its name says whose it is."""
    names = [name for (name,) in run("SELECT name FROM sqlite_master")]
    assert len(names) > 10
    assert all(name.startswith(("channels_lite_", "sqlite_autoindex_channels_lite_")) for name in names)


def test_clock_is_written_the_same_everywhere(run: Run) -> None:
    """The two places that write the clock's expression out write the one of the clock."""
    texts = dict(run("SELECT name, sql FROM sqlite_master WHERE sql LIKE '%julianday%'"))
    expression = texts["channels_lite_clock"].partition("SELECT ")[2].strip()
    assert set(texts) == {"channels_lite_clock", "channels_lite_live_message", "channels_lite_message_capacity"}
    assert all(text.count("julianday") == text.count(expression) == 1 for text in texts.values())


def test_clock_is_right(run: Run) -> None:
    """The clock gives the milliseconds since 1970."""
    before = clock.now()
    ((now,),) = run("SELECT now FROM channels_lite_clock")
    assert isinstance(now, int)
    assert before - 1 <= now <= clock.now() + 1  # one rounds, the other cuts off


MESSAGE = {"prefix": "", "queue": "chat", "expires_at": FAR, "payload": b""}


def insert(run: Run, table: str, values: dict[str, Any]) -> None:
    run(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": "not json"},
        {"targets": "['a']"},
        {"queue": ""},
        {"queue": None},
        {"prefix": None},
        {"id": 2**62},
        {"capacity": -1},
        {"capacity": "many"},
        {"expires_at": "soon"},
        {"expires_at": 1.5},
        {"expires_at": None},
        {"payload": "text"},
        {"payload": None},
    ],
    ids=str,
)
def test_bad_messages_are_refused(run: Run, wrong: dict[str, Any]) -> None:
    """The table of messages refuses what no layer could read, whoever writes it."""
    with pytest.raises(REFUSED):
        insert(run, "channels_lite_message", MESSAGE | wrong)
    assert messages(run) == 0


def test_good_messages_are_accepted(run: Run) -> None:
    """The row that the refusals start from is accepted, and so is each column at its bound."""
    insert(run, "channels_lite_message", MESSAGE)
    insert(run, "channels_lite_message", MESSAGE | {"targets": '["a"]', "id": 2**53 - 1, "capacity": 100})
    assert messages(run) == 2


@pytest.mark.parametrize("number", [2**53, 2**62, 2**63 - 1, -(2**53), -(2**62), -(2**63)])
def test_ids_far_from_the_others_are_refused(run: Run, number: int) -> None:
    """A stranger cannot leave SQLite without ids in order: neither behind all messages nor in front of them."""
    with pytest.raises(REFUSED):
        insert(run, "channels_lite_message", MESSAGE | {"id": number})
    assert messages(run) == 0


def test_ids_go_on_from_the_furthest(run: Run) -> None:
    """After the furthest ids that are accepted, messages are sent and put back as ever."""
    for number in (2**53 - 1, 1 - 2**53):
        insert(run, "channels_lite_message", MESSAGE | {"id": number})
    for _ in range(3):
        send(run)
        store.put_back(run, "", "chat", None, b"", FAR, 0)
    ids = [row[0] for row in run("SELECT id FROM channels_lite_message ORDER BY id", ())]
    assert ids == [*range(-(2**53) - 2, 2 - 2**53), *range(2**53 - 1, 2**53 + 3)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": ""},
        {"queue": "ümlaut!"},
        {"queue": "two words"},
        {"local": None},
        {"local": "a!b"},
        {"queue": "chat\0more"},
        {"local": "a\0b"},
        {"group_name": None},
        {"expires_at": "soon"},
    ],
    ids=str,
)
def test_bad_memberships_are_refused(run: Run, wrong: dict[str, Any]) -> None:
    """The table of memberships refuses what no layer could read."""
    good = {"prefix": "", "group_name": "room", "queue": "chat", "local": "", "joined_at": 0, "expires_at": FAR}
    insert(run, "channels_lite_membership", good)
    with pytest.raises(REFUSED):
        insert(run, "channels_lite_membership", good | {"local": "other"} | wrong)
    assert members(run, "room") == ["chat"]


def test_publishing_reads_the_members_of_its_group_alone(run: Run, connection: Any) -> None:
    """What a group's message costs does not depend on how many memberships there are of other groups."""
    join(run, "room", "chat")

    def steps() -> int:
        return virtual_steps(connection, lambda: run("INSERT INTO channels_lite_group_send VALUES ('room', '{}')"))

    before = steps()
    for number in range(500):
        join(run, f"other{number}", "chat")
    assert 0 < steps() <= 1.5 * before
