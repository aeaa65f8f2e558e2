"""What a stranger leaves: rows straight in the tables, datagrams in an inbox, pages, bells and files. All go on."""

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from channels.exceptions import ChannelFull
from cryptography.fernet import Fernet
from hypothesis import example, given
from hypothesis import strategies as st

from channels_lite import clock, inbox, store
from channels_lite.codec import Codec
from channels_lite.crypto import GRACE, HEADER
from channels_lite.datagram import Handed, pack
from channels_lite.drops import Reason
from channels_lite.errors import SchemaError, UndecodableMessage
from channels_lite.page import SOCKET, at, connect, folder_of, open_page, path_of
from tests.faults.generated import KINDS, Layer, Make, generated, layers, rows, same
from tests.patience import PATIENCE, until
from tests.stranger import Stranger

with_inboxes = pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")

Put = Callable[..., Any]


@pytest.fixture(params=KINDS)
async def make(request: pytest.FixtureRequest, path: str) -> AsyncIterator[Make]:
    """Make layers of one kind."""
    async with layers(request.param, path) as make:
        yield make


@pytest.fixture(params=KINDS[:2])
async def make_on_file(request: pytest.FixtureRequest, path: str) -> AsyncIterator[Make]:
    """Make layers of one kind, on a file."""
    async with layers(request.param, path) as make:
        yield make


@pytest.fixture
def stranger(path: str) -> Iterator[Stranger]:
    """Another process."""
    stranger = Stranger(path)
    yield stranger
    stranger.end()


async def put(layer: Layer, stranger: Stranger, sql: str, *parameters: Any) -> bool:
    """Have the stranger write, and ring the bell; into a database in memory, only the same connection can."""
    database = await layer._ready()
    if database.bell is None:
        before = await rows(layer, "SELECT total_changes()")
        try:
            await rows(layer, sql, *parameters)
        except Exception as error:
            if not re.search("constraint|too far|holds a NUL|ChannelFull|datatype|user-defined function", repr(error)):
                raise
            return False
        return await rows(layer, "SELECT total_changes()") != before
    done = stranger.put(sql, *parameters)
    database.bell.ring()
    return done


async def receive(layer: Layer, channel: str) -> Any:
    """The next message."""
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


async def until_marked(layer: Layer, channel: str, mark: int) -> list[Any]:
    """The messages before the marked one, which comes."""
    found = []
    while not same(message := await receive(layer, channel), {"type": "mark", "number": mark}):
        found.append(message)
    return found


# Rows.


class Row(NamedTuple):
    """A row of a stranger's; texts are bytes, which need not be UTF-8, with LOCAL for our channel's local part."""

    id: int | None
    prefix: bytes
    queue: bytes
    targets: bytes | None
    group_name: bytes | None
    capacity: int | None
    expires_at: int
    payload: bytes


INSERT = """
INSERT INTO channels_lite_message (id, prefix, queue, targets, group_name, capacity, expires_at, payload)
VALUES (?, CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?)
"""
JOIN = """
INSERT OR REPLACE INTO channels_lite_membership (prefix, group_name, queue, local, joined_at, expires_at)
VALUES (CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT), ?, ?)
"""
LOWEST, HIGHEST = -(2**63), 2**63 - 1
WHOLE = {"type": "whole"}
NORMAL, OWN, LOCAL = b"jobs", b"OWN", b"LOCAL"

numbers = st.one_of(st.integers(LOWEST, HIGHEST), st.sampled_from([LOWEST, -1, 0, 1, 2**53 - 1, 2**53, 2**62, HIGHEST]))
ids = st.one_of(st.none(), st.none(), numbers)
texts = st.one_of(st.binary(max_size=20), st.text(max_size=20).map(lambda text: text.encode(errors="surrogatepass")))
TARGETS = [
    *(b'["LOCAL"]', b'["LOCAL", "LOCAL"]', b'["LOCAL", "other"]', b"[]", b"{}", b'{"a": "LOCAL"}', b"[1]", b"null"),
    *(b'[["LOCAL"]]', b'["LOCAL", 5]', b'["LOCAL", null]', b'"LOCAL"', b"5", b"1.5", b"true", b'["a!b", "", ".."]'),
    *(b'["\\ud800"]', b'["\xff"]', b'["\\u0000"]', b'["\xc3\xbc\n"]', b'["' + b"x" * 100_000 + b'"]', b"[1e999]"),
    *(b"[" * 900 + b"]" * 900, b"[" * 1_500 + b"]" * 1_500, b'["x"' + b', "x"' * 10_000 + b"]"),
]
others = st.lists(st.text()).map(lambda names: json.dumps(names).encode())
targets = st.one_of(st.none(), st.sampled_from(TARGETS), others)
PAYLOADS = [
    *(
        b"",
        b"\xc1",
        b"\x80",
        b"{}",
        b"[]",
        b"null",
        b"\x91" * 5_000,
        b"[" * 5_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x81\x01\x02",
    ),
    *(b"\x81\xa1a\xc7\x01\x05x", b"\x81\xa1a\xd6\x05\0\0\0\1", b"\x81\xa1a\xa1\xff", b'{"a": "\xff"}', b'{"a": NaN}'),
    *(b'{"$channels_lite": ["bytes", "?"]}', b'{"$channels_lite": 5}', b'{"a": {"$channels_lite": [1, 2]}}'),
    *(
        msgspec.msgpack.encode(WHOLE),
        msgspec.json.encode(WHOLE),
        msgspec.json.encode(WHOLE) + b"}",
        b"\xff" * 3_000_000,
    ),
]
payloads = st.one_of(st.sampled_from(PAYLOADS), st.binary(max_size=50))
strange_rows = st.builds(
    Row,
    id=ids,
    prefix=st.one_of(st.just(b""), st.just(b""), texts),
    queue=st.one_of(st.sampled_from([NORMAL, NORMAL, OWN, OWN, b"chat.other!", b"chat!", b"a!b"]), texts),
    targets=targets,
    group_name=st.one_of(st.none(), texts),
    capacity=st.one_of(st.none(), st.none(), numbers),
    expires_at=st.one_of(st.sampled_from([HIGHEST, HIGHEST, 2**53, 0, LOWEST]), numbers),
    payload=payloads,
)


class Ours(NamedTuple):
    """What a layer is to find in strangers' rows: messages by their channel, and what is dropped."""

    messages: dict[bytes, list[Any]]
    drops: Counter[Reason]

    def add(self, codec: Codec, row: Row, local: str) -> None:
        """Take a row that went in into account."""
        if row.prefix != b"" or row.queue not in self.messages or row.expires_at <= clock.now():
            return
        if row.queue == OWN:
            try:
                names = msgspec.json.decode(row.targets or b"", type=list[str])
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.drops[Reason.NO_TARGET] += 1
                return
            if local not in names:
                return
        try:
            self.messages[row.queue].append(codec.decode(row.payload))
        except UndecodableMessage:
            self.drops[Reason.UNDECODABLE] += 1


# A victim's rows, of another prefix, queue and group.
VICTIM_ROW = Row(None, b"victim", b"jobs", None, None, None, HIGHEST, b"victim")
VICTIMS = """
SELECT (SELECT count(*) FROM channels_lite_message WHERE payload = CAST('victim' AS BLOB)),
    (SELECT count(*) FROM channels_lite_membership WHERE group_name = 'victims')
"""


async def leave_victims(layer: Layer, stranger: Stranger) -> None:
    """Put in what must stay."""
    for row in (VICTIM_ROW, VICTIM_ROW._replace(prefix=b"", queue=b"victim"), VICTIM_ROW._replace(queue=b"victim.a!")):
        assert await put(layer, stranger, INSERT, *row)
    for prefix, queue in ((b"", b"victim"), (b"", b"victim.a!"), (b"victim", b"jobs")):
        assert await put(layer, stranger, JOIN, prefix, b"victims", queue, b"", 0, HIGHEST)


@pytest.fixture(params=["msgpack", "json"])
async def shared(request: pytest.FixtureRequest, make: Make, stranger: Stranger) -> tuple[Layer, str]:
    """A layer with the rows of victims, and a channel of its own."""
    layer = make(serializer_format=request.param, group_expiry=10**6)
    await leave_victims(layer, stranger)
    return layer, await layer.new_channel()


marks = iter(range(10**9))


@generated
@given(strange=st.lists(strange_rows, min_size=1, max_size=5))
@example(strange=[Row(2**62 - 1, b"", NORMAL, None, None, None, HIGHEST, b"")])
@example(strange=[Row(2**53 - 1, b"", NORMAL, None, None, None, HIGHEST, b"")])
@example(strange=[Row(LOWEST, b"", OWN, b'["LOCAL"]', None, None, HIGHEST, b"")])
@example(strange=[Row(None, b"", b"chat!", b"[" * 1_500 + b"]" * 1_500, None, None, 0, b"")])
@example(strange=[Row(None, b"\xff", b"\xff", b'["\xff"]', b"\xff", None, 0, b"")])
@example(strange=[Row(None, b"", OWN, b'["LOCAL", "LOCAL"]', None, None, HIGHEST, payload) for payload in PAYLOADS])
async def test_rows(shared: tuple[Layer, str], stranger: Stranger, strange: list[Row]) -> None:
    """What can be read is delivered, once; the rest is counted and gone; then comes what was sent after it.

    What has expired is removed, and nothing of somebody else's is touched.
    """
    layer, channel = shared
    queue, _, local = channel.partition("!")
    ours, mark = Ours({NORMAL: [], OWN: []}, Counter()), next(marks)
    for row in strange:
        found = row._replace(targets=row.targets and row.targets.replace(LOCAL, local.encode()))
        actual = found._replace(queue=f"{queue}!".encode()) if row.queue == OWN else found
        if await put(layer, stranger, INSERT, *actual):
            ours.add(layer._codec, found, local)
    layer.drops.by_reason.clear()
    for name, kind in (("jobs", NORMAL), (channel, OWN)):
        layer._empty.clear()  # it looks for rows first: otherwise a stranger's have no order with what it hands over
        await layer.send(name, {"type": "mark", "number": mark})
        received = await until_marked(layer, name, mark)
        assert same(received, ours.messages[kind])
        assert all(type(key) is str for message in received for key in message)
    assert layer.drops.by_reason == ours.drops
    await layer.clean_expired()
    assert await rows(layer, "SELECT count(*) FROM channels_lite_expired_message") == [(0,)]
    assert await rows(layer, VICTIMS) == [(3, 3)]
    await layer._aside(lambda execute: execute("DELETE FROM channels_lite_message WHERE payload <> ?", (b"victim",)))
    layer._mailboxes.clear()


NAMES = [b"jobs", b"chat!", b"a!b!", b"!", b"a\0\xff", b"a\0!", b"x" * 1_000_000, b""]
names = st.one_of(texts, st.sampled_from(NAMES))
memberships = st.tuples(st.sampled_from([b"", b"", b"\xff"]), st.sampled_from([b"g", b"g", b"\xff"]), names, names)


@generated
@given(strange=st.lists(st.tuples(memberships, numbers, numbers), min_size=1, max_size=5))
@example(strange=[((b"", b"g", b"a\0\xff", b""), 0, HIGHEST)])
@example(strange=[((b"", b"g", b"a!", b"b\0\xff"), 0, HIGHEST)])
@example(strange=[((b"", b"g", b"x" * 1_000_000, b""), 0, HIGHEST)])
@example(strange=[((b"\xff", b"\xff", b"jobs", b""), HIGHEST, LOWEST)])
@example(strange=[((b"", b"g", b"a!b!", b"c"), LOWEST, HIGHEST), ((b"", b"g", b"!", b""), LOWEST, HIGHEST)])
async def test_memberships(shared: tuple[Layer, str], stranger: Stranger, strange: list[Any]) -> None:
    """Whatever members a stranger makes, the others get the group's messages, and those that are over are removed."""
    layer, channel = shared
    for name, joined_at, expires_at in strange:
        await put(layer, stranger, JOIN, *name, joined_at, expires_at)
    mark = {"type": "mark", "number": next(marks)}
    for name in ("member", channel):
        await layer.group_add("g", name)
    await layer.group_send("g", mark)
    assert await receive(layer, "member") == await receive(layer, channel) == mark
    await layer.clean_expired()
    assert await rows(layer, "SELECT count(*) FROM channels_lite_expired_membership") == [(0,)]
    assert await rows(layer, VICTIMS) == [(3, 3)]
    for table, keep in (("membership", "group_name <> 'victims'"), ("message", "payload <> CAST('victim' AS BLOB)")):
        await layer._aside(lambda execute, s=f"DELETE FROM channels_lite_{table} WHERE {keep}": execute(s, ()))
    layer._mailboxes.clear()


async def test_a_receiver_that_waits(make: Make, stranger: Stranger) -> None:
    """So it is for one that was waiting when the rows came; the keeper sweeps on."""
    layer = make()
    channel = await layer.new_channel()
    await layer.group_discard("g", "x")  # the tables are there
    queue = f"{channel.partition('!')[0]}!".encode()
    for name, place in (("jobs", b"jobs"), (channel, queue)):
        receiving = asyncio.ensure_future(receive(layer, name))
        await asyncio.sleep(0)
        for strange in (b"[1]", b'["LOCAL"]'.replace(LOCAL, channel.partition("!")[2].encode())):
            assert await put(layer, stranger, INSERT, None, b"", place, strange, None, None, HIGHEST, b"\xc1")
        await layer.send(name, WHOLE)
        assert await receiving == WHOLE
    assert layer.drops.by_reason == {Reason.UNDECODABLE: 3, Reason.NO_TARGET: 1}
    await layer._aside(lambda execute: (layer.sweep(execute), store.trim(execute)))


async def test_targets_of_another_release(make_on_file: Make, stranger: Stranger, path: str) -> None:
    """JSON that is nested too deeply for the SQLite that reads it is skipped, and the trimming goes on."""
    layer = make_on_file()
    await layer.group_add("g", "stays")
    assert stranger.put(JOIN, b"", b"g", b"chat.gone!", b"x", 0, HIGHEST)
    stranger.put("PRAGMA ignore_check_constraints = ON")  # as a release with another limit
    for expires_at in (0, HIGHEST):
        row = Row(None, b"", b"chat.gone!", b"[" * 5_000 + b"]" * 5_000, None, None, expires_at, b"")
        assert stranger.put(INSERT, *row)
    assert stranger.put(INSERT, *Row(None, b"", b"chat.gone!", b'["x"]', None, None, 1, b""))
    own = store.claim_own
    await layer._aside(lambda execute: own(execute, "", "chat.gone!", "x", lambda: True))
    await layer.clean_expired()
    assert await rows(layer, "SELECT queue FROM channels_lite_membership") == [("stays",)]


async def test_what_is_logged(make: Make, stranger: Stranger, caplog: pytest.LogCaptureFixture) -> None:
    """A warning is one short line, whatever names a stranger has thought of."""
    layer = make(capacity=1)
    channel = await layer.new_channel()
    queue = f"{channel.partition('!')[0]}!".encode()
    evil = json.dumps(["x\nCRITICAL:root:all is lost\x1b[2J", "y" * 100_000]).encode()
    await layer.group_discard("g", "x")
    for _ in range(4):
        await put(layer, stranger, INSERT, None, b"", queue, evil, None, None, HIGHEST, msgspec.msgpack.encode(WHOLE))
    await layer.send("z", WHOLE)
    receiving = asyncio.ensure_future(receive(layer, channel))
    await until(lambda: layer.drops.by_reason[Reason.FULL] > 0)
    layer.drops._quiet_until = 0
    layer.drops.count(channel, Reason.FULL)
    receiving.cancel()
    assert "CRITICAL" in caplog.text
    assert all(len(line) < 400 and line.isprintable() for line in caplog.messages)


# Forged ciphertext.

KEY = "a key that is long enough"
SECRET = {"type": "secret", "number": 7}


def token(age: float = 0, expiry: float = 60, key: bytes = KEY.encode(), payload: bytes | None = None) -> bytes:
    """A token as it was made ``age`` seconds ago."""
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest()))
    plain = msgspec.msgpack.encode(SECRET) if payload is None else payload
    return fernet.encrypt_at_time(HEADER.pack(expiry) + plain, int(time.time() - age))


def flipped(raw: bytes, bit: int) -> bytes:
    """One bit changed."""
    changed = bytearray(raw)
    changed[bit // 8 % len(raw)] ^= 1 << bit % 8
    return bytes(changed)


OTHER = base64.urlsafe_b64decode(token(payload=b"\x80"))
raw = st.builds(lambda: base64.urlsafe_b64decode(token()))
forged = st.one_of(
    payloads,
    st.just(msgspec.msgpack.encode(SECRET)),
    st.just(msgspec.json.encode(SECRET)),
    st.binary(max_size=30).filter(lambda key: key != KEY.encode()).map(lambda key: token(key=key)),
    st.builds(lambda raw, end: base64.urlsafe_b64encode(raw[:end]), raw, st.integers(0, 80)),
    st.builds(lambda raw, bit: base64.urlsafe_b64encode(flipped(raw, bit)), raw, st.integers(0, 2_000)),
    st.builds(lambda raw, more: base64.urlsafe_b64encode(raw + more), raw, st.binary(min_size=1, max_size=33)),
    raw.map(lambda raw: base64.urlsafe_b64encode(raw[:25] + OTHER[25:])),
    st.floats(1, 10**6).map(lambda age: token(age=age + 2 * GRACE, expiry=1)),
    st.builds(lambda: token(age=60 + 2 * GRACE)),
    st.sampled_from([0.0, -1.0, -1e308]).map(lambda expiry: token(expiry=expiry, age=2 * GRACE)),
    st.sampled_from([b"", b"\xc1", b"\x91", b"\x81\x01\x02"]).map(lambda payload: token(payload=payload)),
)


@generated
@given(payloads=st.lists(forged, min_size=1, max_size=4))
async def test_forged_rows(make: Make, stranger: Stranger, payloads: list[bytes]) -> None:
    """With keys, nothing is delivered that was not encrypted with one of them, whole, and in time."""
    layer = make(symmetric_encryption_keys=[KEY], serializer_format="msgpack")
    await layer.group_discard("g", "x")
    channel = await layer.new_channel()
    queue, _, local = channel.partition("!")
    target, mark = json.dumps([local]).encode(), next(marks)
    for payload in payloads:
        assert await put(layer, stranger, INSERT, None, b"", b"jobs", None, None, None, HIGHEST, payload)
        assert await put(layer, stranger, INSERT, None, b"", f"{queue}!".encode(), target, None, None, HIGHEST, payload)
    for name in ("jobs", channel):
        await layer.send(name, {"type": "mark", "number": mark})
        assert await until_marked(layer, name, mark) == []
    assert layer.drops.by_reason == {Reason.UNDECODABLE: 2 * len(payloads)}
    await layer.close()


@generated
@given(position=st.integers(0, 200), byte=st.integers(0, 255))
def test_changed_tokens(position: int, byte: int) -> None:
    """A token that was changed in writing is the same token, or none: never another message."""
    changed = bytearray(token())
    changed[position % len(changed)] = byte
    try:
        assert Codec("msgpack", [KEY]).decode(bytes(changed)) == SECRET
    except UndecodableMessage:
        return
    assert base64.urlsafe_b64decode(bytes(changed)) is not None


async def test_a_replayed_row(make: Make, stranger: Stranger) -> None:
    """A whole row put in again is validly encrypted, and delivered again until it expires: README says so."""
    layer = make(symmetric_encryption_keys=[KEY], serializer_format="msgpack")
    await layer.send("jobs", SECRET)
    ((payload,),) = await rows(layer, "SELECT payload FROM channels_lite_message")
    assert await receive(layer, "jobs") == SECRET
    assert await put(layer, stranger, INSERT, None, b"", b"jobs", None, None, None, HIGHEST, bytes(payload))
    assert await receive(layer, "jobs") == SECRET


# Inboxes.


class Two(NamedTuple):
    """Two layers that reach each other as two processes do, and a channel of the first one."""

    layer: Layer
    channel: str
    other: Layer

    @property
    def page(self) -> str:
        """The page of the first one's inbox."""
        database = self.layer._database
        assert database is not None
        return path_of(folder_of(database.path), "", self.layer.client_prefix)

    def throw(self, datagram: bytes) -> None:
        """Put something into its socket as anybody can who may use the database."""
        with connect(self.page + SOCKET) as stranger:
            stranger.send(datagram)


async def two_of(make: Make, **options: Any) -> Two:
    """Both are open."""
    layer, other = make(**options), make(**options)
    for one in (layer, other):
        await one.group_discard("g", "x")
    return Two(layer, await layer.new_channel(), other)


@pytest.fixture
async def two(make_on_file: Make) -> Two:
    """Without keys."""
    return await two_of(make_on_file, serializer_format="msgpack")


queues = st.one_of(st.text(max_size=200).map(str.encode), st.sampled_from([b"OWN", b"OWN", b"x\nOWN", b"\xff"]), texts)
datagrams = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"", b"\0" * 14, b"\xff" * 65_536, bytes(65_536), b"\0" * 14 + b"\xff"]),
    st.builds(
        lambda *parts: b"".join((struct.pack("=QHI", parts[0], len(parts[1]), len(parts[2])), *parts[1:])),
        st.one_of(st.integers(0, 2**64 - 1), st.just(2**63)),
        queues,
        st.sampled_from(TARGETS).filter(lambda names: len(names) < 50_000),
        payloads.filter(lambda payload: len(payload) < 1_000),
    ),
)


@with_inboxes
@generated
@given(strange=st.lists(datagrams, min_size=1, max_size=5), waits=st.booleans())
async def test_datagrams(two: Two, strange: list[bytes], waits: bool) -> None:
    """What a stranger throws into an inbox harms nothing: what another process sends after it arrives."""
    queue, _, local = two.channel.partition("!")
    mark = next(marks)
    receiving = asyncio.ensure_future(until_marked(two.layer, two.channel, mark)) if waits else None
    await asyncio.sleep(0)
    for datagram in strange:
        if b"OWN" in datagram and len(datagram) > 14:  # of the same length, to fit the lengths in its head
            head, rest = datagram[:14], datagram[14:]
            expires_at, name, names = struct.unpack("=QHI", head)
            mine = (
                rest[:name].replace(b"OWN", f"{queue}!".encode()),
                rest[name : name + names].replace(LOCAL, local.encode()),
            )
            head = struct.pack("=QHI", expires_at, len(mine[0]), len(mine[1]))
            datagram = b"".join((head, *mine, rest[name + names :]))
        two.throw(datagram[:65_536])
    await two.other.send(two.channel, {"type": "mark", "number": mark})
    found = await (receiving or until_marked(two.layer, two.channel, mark))
    assert all(type(key) is str for message in found for key in message)
    two.layer._mailboxes.clear()


@with_inboxes
@generated
@given(payloads=st.lists(forged, min_size=1, max_size=4))
async def test_forged_datagrams(make_on_file: Make, payloads: list[bytes]) -> None:
    """So it is with keys: what comes through an inbox must be encrypted as well."""
    two = await two_of(make_on_file, symmetric_encryption_keys=[KEY], serializer_format="msgpack")
    queue, _, local = two.channel.partition("!")
    small = [payload for payload in payloads if len(payload) < 60_000]
    for payload in small:
        two.throw(pack(Handed(f"{queue}!", json.dumps([local]).encode(), payload, 2**62)))
    mark = next(marks)
    await two.other.send(two.channel, {"type": "mark", "number": mark})
    assert await until_marked(two.layer, two.channel, mark) == []
    assert two.layer.drops.by_reason[Reason.UNDECODABLE] == len(small)
    for layer in (two.layer, two.other):
        await layer.close()


words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]))


@with_inboxes
@generated
@given(spoilt=st.dictionaries(st.integers(0, 7), words, min_size=1))
@example(spoilt={1: 2**64 - 1})
@example(spoilt={2: 2**64 - 1})
@example(spoilt={2: 2**64 - 1, 1: 2**64 - 1})
@example(spoilt={3: 0, 2: 2**64 - 1})
@example(spoilt={4: 1, 5: 2**64 - 1})
async def test_pages(two: Two, spoilt: dict[int, int]) -> None:
    """Whatever numbers a page is spoilt with, who sends gets ChannelFull at worst, and not for long."""
    page = open_page(two.page)
    for place, number in spoilt.items():
        page.numbers[place] = number
    mark = next(marks)
    receiving = asyncio.ensure_future(until_marked(two.layer, two.channel, mark))
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await two.other.send(two.channel, {"type": "mark", "number": mark})
            break
        except ChannelFull:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            two.layer.take_in()
    assert await receiving == []
    page.numbers[0] = 1
    await two.other.send(two.channel, WHOLE)
    assert await receive(two.layer, two.channel) == WHOLE


@with_inboxes
async def test_links_lead_nowhere(two: Two, tmp_path: Path) -> None:
    """A page that is a link to somebody's file is not used: nothing is written to that file, and a row is sent."""
    victim = tmp_path / "victim"
    victim.write_bytes(bytes(8192))
    folder = os.path.dirname(two.page)
    trap = path_of(folder, "", "trap")
    os.symlink(victim, trap)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        at(trap + SOCKET, ear.bind)
        before = victim.read_bytes()
        victim.write_bytes((1).to_bytes(8, sys.byteorder) + (100).to_bytes(8, sys.byteorder) + before[16:])
        before = victim.read_bytes()
        await two.layer.send("chat.trap!x", WHOLE)
        await two.layer.flush()
        await two.layer.send("chat.trap!x", WHOLE)
    assert victim.read_bytes() == before
    assert await rows(two.layer, "SELECT count(*) FROM channels_lite_message") == [(1,)]


@with_inboxes
async def test_files_in_the_folder(two: Two, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever lies among the inboxes, sending, flushing and sweeping go on, and nothing else is touched.

    The log names such files so that each is one printable line.
    """
    folder = Path(os.path.dirname(two.page))
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (folder / "folder").mkdir()
    (folder / "folder.socket").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(outside)
    (folder / "dangling.socket").symlink_to(tmp_path / "nothing")
    (folder / "..socket").write_text("odd")
    (folder / "large").write_bytes(bytes(100_000))
    (folder / "\udcff").write_bytes(b"x")
    (folder / "a\nb").write_bytes(b"x")
    for _ in range(2):
        await two.layer.flush()
        await two.layer._aside(two.layer.sweep)
        await two.other.send(two.channel, WHOLE)
        assert await receive(two.layer, two.channel) == WHOLE
    assert outside.read_text() == "mine"
    told = [record.getMessage() for record in caplog.records if record.name == "channels_lite.inbox"]
    assert any("\\udcff' cannot be flushed" in line for line in told)
    assert any("a\\nb' cannot be flushed" in line for line in told)
    assert all(line.isprintable() for line in told)


# Bells.


@with_inboxes
@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 8, b"text\n" * 1_000], ids=["empty", "short", "8", "long"])
async def test_bells(make_on_file: Make, stranger: Stranger, path: str, content: bytes) -> None:
    """Whatever is in a bell, who waits hears when it is written to, and layers that come later use it."""
    layer = make_on_file(polling_interval=None)
    await layer.group_discard("g", "x")
    for again in range(2):
        receiving = asyncio.ensure_future(receive(layer, "jobs"))
        await until(lambda: layer._mailboxes.queues() > 0)
        assert stranger.put(INSERT, None, b"", b"jobs", None, None, None, HIGHEST, layer._codec.encode(WHOLE, 60))
        Path(f"{path}-bell").write_bytes(content + b"x" * again)
        os.truncate(f"{path}-bell", len(content))
        assert await receiving == WHOLE
    later = make_on_file()
    await later.send("jobs", WHOLE)
    assert await receive(layer, "jobs") == WHOLE


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
async def test_bells_that_are_no_files(make_on_file: Make, path: str, tmp_path: Path, what: str) -> None:
    """A bell that is a link, and so perhaps somebody's file, is refused with an error that names it; so is no file."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    if what == "link":
        os.symlink(victim, f"{path}-bell")
    elif what == "folder":
        os.mkdir(f"{path}-bell")
    else:
        os.mkfifo(f"{path}-bell")
    layer = make_on_file()
    with pytest.raises(SchemaError, match="-bell"):
        await layer.send("x", WHOLE)
    assert victim.read_text() == "mine"
