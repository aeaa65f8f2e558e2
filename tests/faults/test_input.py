"""Bad input from the caller: names, messages and options, generated. It is refused with a clear error, or it works."""

import asyncio
import datetime
import decimal
import enum
import os
import re
import string
import sys
import threading
import uuid
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from django.utils.functional import Promise, lazystr
from django.utils.safestring import mark_safe
from hypothesis import example, given
from hypothesis import strategies as st

from channels_lite.codec import Codec
from channels_lite.drops import Reason
from channels_lite.errors import ConfigError, ForeignChannel, InvalidMessage
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from channels_lite.serializers import DEEPEST, INT_MAX, INT_MIN, registry
from tests.faults.generated import KINDS, Layer, Make, generated, layers, rows, same
from tests.patience import PATIENCE, until


@pytest.fixture(params=KINDS)
async def make(request: pytest.FixtureRequest, path: str) -> AsyncIterator[Make]:
    """Make layers of one kind."""
    async with layers(request.param, path) as make:
        yield make


@pytest.fixture
def layer(make: Make) -> Layer:
    """A layer with the default options."""
    return make()


async def receive(layer: Layer, channel: str) -> Any:
    """The next message."""
    return await asyncio.wait_for(layer.receive(channel), PATIENCE)


# Names.

LETTERS = string.ascii_letters + string.digits + "-_."
CHANNEL = re.compile(r"[a-zA-Z0-9\-_.]+(![a-zA-Z0-9\-_.]*)?")
GROUP = re.compile(r"[a-zA-Z0-9\-_.]+")
SQL = "x'; DROP TABLE channels_lite_message; --"


class Odd:
    """Equal to everything, with the hash of a channel that is in use."""

    def __hash__(self) -> int:
        return hash("jobs")

    def __eq__(self, other: object) -> bool:
        return True

    def __str__(self) -> str:
        return "jobs"

    def __len__(self) -> int:
        return 4


class Liar(Odd):
    """Says that it is a str."""

    __class__ = str  # type: ignore[assignment]


class Broken:
    """Fails in all that a dict or a format asks for, but for its repr, in which Hypothesis shows a failure."""

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("nothing is equal")

    def __str__(self) -> str:
        raise RuntimeError("no str")


class Text(str):
    """A str whose methods say something else than what it is."""

    __slots__ = ()

    def __hash__(self) -> int:
        return hash("jobs")

    def __eq__(self, other: object) -> bool:
        return True

    def __len__(self) -> int:
        return 4

    def __str__(self) -> str:
        return "jobs"

    def __format__(self, how: str) -> str:
        return "jobs"

    def partition(self, mark: str) -> Any:
        return ("jobs", "", "")

    def endswith(self, *what: Any) -> bool:
        return True


class Channel(str, enum.Enum):
    """Names as projects write them."""

    MEMBER = "of-an-enum"


NO_NAMES = [None, b"jobs", 5, 1.5, True, (), ["jobs"], {"jobs"}, {"a": 1}, object(), str]
names = st.one_of(
    st.text(max_size=120),
    st.text(LETTERS, min_size=1, max_size=101),
    st.text(LETTERS + "!", max_size=20),
    st.text(string.printable, max_size=12),
    st.builds("!".join, st.lists(st.text(LETTERS, max_size=60), min_size=2, max_size=3)),
    st.sampled_from(NO_NAMES),
    st.text(LETTERS, min_size=1, max_size=20).map(Text),
    st.text(LETTERS, min_size=1, max_size=20).map(mark_safe),
)
REMARKABLE = [
    *(
        "a" * 99,
        "a" * 100,
        "a" * 98 + "!",
        "a" * 99 + "!",
        "!",
        "!a",
        "a!",
        "a!b",
        "a!!",
        "a!b!c",
        "..",
        ".",
        "-",
        "-x",
    ),
    *(
        "-",
        "-x",
        "../../etc/passwd",
        "/tmp/x",
        ".hidden",
        "x\n",
        "x\0",
        "\0",
        "x y",
        SQL,
        "%s",
        "?",
        "*",
        "x\u0661",
        "\ud800",
    ),
    *(chr(code) for code in range(128)),
    *("", Channel.MEMBER, Text("of-a-subclass"), lazystr("lazy"), *NO_NAMES, Odd(), Liar(), Broken()),
]


def is_name(name: Any, pattern: re.Pattern[str]) -> bool:
    """Whether a layer takes this name."""
    return issubclass(type(name), str) and bool(pattern.fullmatch(text(name))) and len(text(name)) < 100


def text(name: Any) -> str:
    """A str without its subclass."""
    return str.__str__(name)


def remarkable(test: Any) -> Any:
    """Try these names too."""
    for name in REMARKABLE:
        test = example(name=name)(test)
    return test


NUMBER = {"type": "number"}
MESSAGES = "SELECT queue, targets FROM channels_lite_message"
MEMBERS = "SELECT group_name, queue || local FROM channels_lite_membership"


@remarkable
@generated
@given(name=names)
async def test_names_of_channels(layer: Layer, name: Any) -> None:
    """A name is refused by all that take one, and nothing is written; or its message is under that very name."""
    await layer.send("jobs", NUMBER)  # this name is known
    assert await receive(layer, "jobs") == NUMBER
    if not is_name(name, CHANNEL):
        for call in (layer.send(name, NUMBER), layer.receive(name), layer.group_add("group", name)):
            with pytest.raises(TypeError, match="Channel name must be"):
                await call
        with pytest.raises(TypeError, match="Channel name must be"):
            await layer.group_discard("group", name)
        assert await rows(layer, MESSAGES) == await rows(layer, MEMBERS) == []
        return
    await layer.send(name, NUMBER)
    queue, mark, local = text(name).partition("!")
    assert await rows(layer, MESSAGES) == [(queue + mark, f'["{local}"]' if mark else None)]
    if mark:
        with pytest.raises(ForeignChannel, match="belongs to another process"):
            await layer.receive(name)
        await layer.flush()
    else:
        assert await receive(layer, text(name)) == NUMBER
        await layer.send(text(name), NUMBER)
        assert await receive(layer, name) == NUMBER
    await layer.group_add("group", name)
    assert await rows(layer, MEMBERS) == [("group", text(name))]
    await layer.group_discard("group", name)
    assert await rows(layer, MESSAGES) == await rows(layer, MEMBERS) == []


@remarkable
@generated
@given(name=names)
async def test_names_of_groups(layer: Layer, name: Any) -> None:
    """A name is refused by all that takes a group's; or its members get what is sent to that very group."""
    await layer.group_add("jobs", "other")
    if not is_name(name, GROUP):
        for call in (layer.group_add(name, "x"), layer.group_discard(name, "x"), layer.group_send(name, NUMBER)):
            with pytest.raises(TypeError, match="Group name must be"):
                await call
        assert await rows(layer, MEMBERS) == [("jobs", "other")]
        return
    await layer.group_add(name, "member")
    assert (text(name), "member") in await rows(layer, MEMBERS)
    for group in (name, text(name)):
        await layer.group_send(group, NUMBER)
        assert await receive(layer, "member") == NUMBER
    await layer.group_discard(name, "member")
    assert await rows(layer, MEMBERS) == [("jobs", "other")]
    await layer.flush()


@remarkable
@example(name="a" * 53)
@example(name="a" * 54)
@generated
@given(name=names)
async def test_prefixes_of_new_channels(layer: Layer, name: Any) -> None:
    """A prefix is refused with an error that is about the prefix; or a channel comes of it that messages arrive at."""
    if not (type(name) is str and name == "") and (not is_name(name, GROUP) or len(text(name)) > 53):
        with pytest.raises(TypeError, match="prefix"):
            await layer.new_channel(name)
        return
    channel = await layer.new_channel(name)
    assert type(channel) is str
    assert channel.startswith(f"{text(name)}.{layer.client_prefix}!")
    await layer.send(channel, NUMBER)
    assert await receive(layer, channel) == NUMBER


async def test_names_lead_to_no_other_files(layer: Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent to, files are made for the layer itself and nowhere else, and its tables stay."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    await layer.send("first", NUMBER)
    tables, before = await rows(layer, "SELECT name, sql FROM sqlite_master"), sorted(os.listdir(tmp_path))
    for name in REMARKABLE:
        for call in (layer.send(name, NUMBER), layer.group_add(name, "x"), layer.group_send(name, NUMBER)):
            try:
                await call
            except TypeError:
                continue
    assert await rows(layer, "SELECT name, sql FROM sqlite_master") == tables
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "here") == []


# Messages.


class Number(int):
    def __int__(self) -> int:
        raise RuntimeError("no int")


class Real(float):
    def __float__(self) -> float:
        raise RuntimeError("no float")


class Data(bytes):
    def __bytes__(self) -> bytes:
        raise RuntimeError("no bytes")


class Level(enum.IntEnum):
    HIGH = 3


strings = st.one_of(st.text(st.characters(codec="utf-8")), st.sampled_from(["$channels_lite", "type", "\0"]))
integers = st.one_of(st.integers(INT_MIN, INT_MAX), st.sampled_from([INT_MIN, INT_MAX, 2**53 + 1]))
plain = st.one_of(st.none(), st.booleans(), integers, st.floats(), st.binary(), strings)
odd = st.one_of(  # what is sent as something else
    strings.map(mark_safe), strings.map(Text), strings.map(lazystr), integers.map(Number), st.floats().map(Real),
    st.binary().map(Data), st.just(Level.HIGH), st.just(Channel.MEMBER), st.builds(OrderedDict), st.builds(Counter),
)  # fmt: skip
bad = st.one_of(  # what cannot be sent
    st.integers(INT_MAX + 1), st.integers(max_value=INT_MIN - 1),  st.decimals(), st.dates(),
    st.datetimes(), st.timedeltas(), st.uuids(), st.complex_numbers(), st.sets(st.integers()), st.fractions(),
    st.binary().map(bytearray), st.binary().map(memoryview), st.builds(object), st.just(int), st.just(range(3)),
    st.builds(lambda: (number for number in range(3))), st.just("\ud800"), st.just(mark_safe("x\udfff")),
    st.just({1: 2}), st.just({None: 1}), st.just({b"type": 1}), st.just({True: 1}), st.just({(): 1}),
    st.just({"\udfff": 1}),  st.just(lazystr("\ud800")),
    st.just(NotImplemented), st.just(...), st.just(Path("x")),
)  # fmt: skip


def messages(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Messages with these leaves."""
    nested = st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner), st.tuples(inner, inner), st.dictionaries(strings, inner)),
        max_leaves=20,
    )
    return st.dictionaries(strings, nested)


def arrived(value: Any) -> Any:
    """What a reader gets of a value that can be sent."""
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return value if kind is bool else getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Promise):
        return str(value)
    if isinstance(value, bytes):
        return b"".join([b"", value])
    if isinstance(value, list | tuple):
        return [arrived(item) for item in value]
    return {arrived(key): arrived(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.fixture(params=["msgpack", "json"])
def serializer_format(request: pytest.FixtureRequest) -> str:
    """Each of the two formats."""
    return str(request.param)


@pytest.fixture(params=[None, ["a key that is long enough"]], ids=["plain", "encrypted"])
def codec(request: pytest.FixtureRequest, serializer_format: str) -> Codec:
    """Each of them, without and with encryption."""
    return Codec(serializer_format, request.param)


@generated
@given(message=messages(st.one_of(plain, odd)))
@example(message={})
@example(message={"$channels_lite": ["bytes", "AA=="]})
@example(message={"a": {"$channels_lite": {"$channels_lite": b""}}})
@example(message={"": {"": [[], {}, ()]}})
def test_what_can_be_sent_arrives(codec: Codec, message: Any) -> None:
    """All of the specification's types, at any depth, arrive equal; a tuple as a list, a subclass as what it is of."""
    assert same(codec.decode(codec.encode(message, 60)), arrived(message))


@generated
@given(message=messages(plain), wrong=bad, key=strings, depth=st.integers(0, 3))
def test_what_cannot_be_sent_is_named(codec: Codec, message: Any, wrong: Any, key: str, depth: int) -> None:
    """Anything else is refused, with an error that says where it is and of which type."""
    for _ in range(depth):
        wrong = [wrong]
    where = re.escape(f"message[{key!r}]" + "[0]" * depth)
    with pytest.raises(InvalidMessage, match=where) as caught:
        codec.encode({**message, key: wrong}, 60)
    innermost = wrong
    while isinstance(innermost, list):
        innermost = innermost[0]
    if isinstance(innermost, dict):
        (innermost,) = innermost
    kind = "str" if isinstance(innermost, str | Promise) else type(innermost).__name__
    assert kind in str(caught.value)


@pytest.mark.parametrize(
    "value", [10**5_000, Broken(), Odd(), Liar(), [{10**5_000: 1}], {Broken: 1}], ids=lambda value: type(value).__name__
)
def test_odd_objects_are_named(codec: Codec, value: Any) -> None:
    """So it is for what cannot even be shown, or says that it is a str."""
    with pytest.raises(InvalidMessage, match=re.escape("message['a']")):
        codec.encode({"a": value}, 60)


@pytest.mark.parametrize("message", [None, "x", b"x", 5, [], [("type", "x")], {"x"}, object(), Broken(), Odd(), dict])
def test_a_message_is_a_dict(codec: Codec, message: Any) -> None:
    """What is none is refused, and its type named."""
    with pytest.raises(InvalidMessage, match=type(message).__name__):
        codec.encode(message, 60)


def nested(levels: int, *, lists: bool = False) -> dict[str, Any]:
    """A message with so many levels of dicts or lists, itself included."""
    inner: Any = 0
    for _ in range(levels - 1):
        inner = [inner] if lists else {"x": inner}
    return {"x": inner}


def deep_down(call: Any, frames: int) -> Any:
    """Call something when so many frames are on the stack."""
    return call() if not frames else deep_down(call, frames - 1)


@pytest.mark.parametrize("lists", [True, False], ids=["lists", "dicts"])
@pytest.mark.parametrize("leaf", [0, b"boxed", mark_safe("x")], ids=["int", "bytes", "subclass"])
def test_deep_messages(codec: Codec, lists: bool, leaf: Any) -> None:
    """What is accepted can be read as well, by a reader whose stack is far deeper; one level more is refused."""
    message = nested(DEEPEST, lists=lists)
    message["leaf"] = leaf
    payload = codec.encode(message, 60)
    assert same(deep_down(lambda: codec.decode(payload), sys.getrecursionlimit() // 3), arrived(message))
    for levels in (DEEPEST + 1, sys.getrecursionlimit(), 100_000):
        deeper = nested(levels, lists=lists)
        deeper["leaf"] = leaf
        with pytest.raises(InvalidMessage, match="nested too deeply"):
            codec.encode(deeper, 60)
        while isinstance(deeper, dict | list):  # or taking it apart would overflow the stack of some Pythons
            deeper = deeper.pop("x", None) if isinstance(deeper, dict) else deeper.pop()


def cycle(kind: type) -> Any:
    """A list or dict that holds itself."""
    inner: Any = kind()
    inner.append(inner) if kind is list else inner.update(x=inner)
    return inner


class Growing(dict):  # type: ignore[type-arg]
    """Changes while it is read."""

    def items(self) -> Any:
        for item in super().items():
            self[uuid.uuid4().hex] = 1
            yield item


class Ends(list):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        raise OSError("the rest is on the disk")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (cycle(list), "nested too deeply"),
        (cycle(dict), "nested too deeply"),
        (Growing(a=1), "RuntimeError: dictionary changed size"),
        (Ends([1, 2]), "OSError: the rest is on the disk"),
    ],
    ids=["list", "dict", "changes", "fails"],
)
async def test_messages_that_cannot_be_read(layer: Layer, value: Any, why: str) -> None:
    """Those that hold themselves, change or fail while they are read are refused, and nothing was sent."""
    await layer.group_add("group", "x")
    for call in (layer.send("x", {"a": value}), layer.group_send("group", {"a": value})):
        with pytest.raises(InvalidMessage, match=why):
            await call
    await layer.send("x", NUMBER)
    assert await receive(layer, "x") == NUMBER
    assert await rows(layer, MESSAGES) == []


async def test_a_message_that_another_thread_changes(layer: Layer) -> None:
    """It is sent as it was at some time, or refused; nothing else goes wrong."""
    message: dict[str, Any] = {"a": {}}
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number = (number + 1) % 50
            message["a"].pop(str(number), None) or message["a"].update({str(number): [number]})

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            try:
                await layer.send("x", message)
            except InvalidMessage as error:
                assert "could not be read" in str(error)  # noqa: PT017
            else:
                assert all(value == [int(key)] for key, value in (await receive(layer, "x"))["a"].items())
    finally:
        over.set()
        thread.join()


@generated
@given(message=messages(st.one_of(plain, odd, bad)))
async def test_messages(layer: Layer, message: Any) -> None:
    """What send() and group_send() take arrives equal; what they refuse has not been sent."""
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    expected = []
    for call in (layer.send("x", message), layer.send(channel, message), layer.group_send("group", message)):
        try:
            await call
        except InvalidMessage as error:
            assert str(error).startswith(("message", "a key of message", "The message"))  # noqa: PT017
        else:
            expected.append(arrived(message))
    assert len(expected) in (0, 3)
    for name in ("x", channel):
        await layer.send(name, NUMBER)
    assert same([await receive(layer, "x") for _ in expected[:1]], expected[:1])
    assert same([await receive(layer, channel) for _ in expected[1:]], expected[1:])
    assert await receive(layer, "x") == await receive(layer, channel) == NUMBER
    await layer.group_discard("group", channel)


@pytest.mark.parametrize("size", [0, 1, 4_095, 60_000, 65_535, 65_536, 1_000_000, 8_000_000])
async def test_sizes(make: Make, serializer_format: str, size: int) -> None:
    """From nothing to some MB, as bytes and as str, on both sorts of channels."""
    layer = make(serializer_format=serializer_format)
    message = {"bytes": os.urandom(size), "str": "ü" * size}
    for channel in ("x", await layer.new_channel()):
        await layer.send(channel, message)
        assert await receive(layer, channel) == message


EXPIRIES: list[Any] = [None, 0, -1, 0.0, 10**400, -(10**5_000), 10**5_000, "60", b"1", True, [1], 1e-300, 1e308, 2**62]
EXPIRIES += [float("nan"), float("inf"), float("-inf"), 1j, decimal.Decimal(5), datetime.timedelta(1), Broken(), 10**9]


@pytest.mark.parametrize("expiry", EXPIRIES, ids=lambda value: type(value).__name__)
async def test_expiries(layer: Layer, expiry: Any) -> None:
    """A number of seconds in its bounds is taken, and anything else refused by its name."""
    good = expiry is None or (type(expiry) in (int, float) and 0 < expiry <= 10**9)
    if good:
        await layer.send("x", NUMBER, expiry=expiry)
    else:
        with pytest.raises(InvalidMessage, match="expiry"):
            await layer.send("x", NUMBER, expiry=expiry)
        assert await rows(layer, MESSAGES) == []


# Serializers of a stranger.


class Foreign:
    """A serializer that does what a test wants."""

    given: Any = None
    read: Any = None

    def serialize(self, message: dict[str, Any]) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def deserialize(self, message: bytes) -> Any:
        if isinstance(self.read, Exception):
            raise self.read
        return self.read


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> type[Foreign]:
    """It is registered as "foreign"."""
    monkeypatch.setitem(registry._classes, "foreign", Foreign)
    monkeypatch.setattr(Foreign, "given", b"")
    monkeypatch.setattr(Foreign, "read", {})
    return Foreign


@pytest.mark.parametrize("keys", [None, ["a key that is long enough"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("given", [None, "text", bytearray(b"x"), 5, {}, ZeroDivisionError("mine")], ids=repr)
async def test_serializers_that_do_not_serialize(make: Make, foreign: type[Foreign], given: Any, keys: Any) -> None:
    """What is no bytes is an error that names the serializer; an error of its own is the sender's. Nothing is sent."""
    layer = make(serializer_format="foreign", symmetric_encryption_keys=keys)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    foreign.given = given
    error, why = (ZeroDivisionError, "mine") if isinstance(given, Exception) else (InvalidMessage, "'foreign' gave")
    for call in (layer.send("x", NUMBER), layer.send(channel, NUMBER), layer.group_send("group", NUMBER)):
        with pytest.raises(error, match=why):
            await call
    foreign.given = b""
    for name in ("x", channel):
        await layer.send(name, NUMBER)
        assert await receive(layer, name) == {}
    assert await rows(layer, MESSAGES) == []


@pytest.mark.parametrize(
    "read", [None, "text", [1], 5, ZeroDivisionError("x"), RecursionError(), MemoryError()], ids=repr
)
async def test_serializers_that_do_not_deserialize(make: Make, foreign: type[Foreign], read: Any) -> None:
    """What they make of a message is no message: it is dropped and counted, and the receiver goes on."""
    layer = make(serializer_format="foreign")
    for name in ("x", await layer.new_channel()):
        layer.drops.by_reason.clear()
        foreign.read = read
        receiving = asyncio.ensure_future(receive(layer, name))
        await layer.send(name, NUMBER)
        await until(lambda: bool(layer.drops.by_reason))
        foreign.read = {"type": "whole"}
        await layer.send(name, NUMBER)
        assert await receiving == {"type": "whole"}
        assert layer.drops.by_reason == {Reason.UNDECODABLE: 1}


# Options.

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5), st.builds(object),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(float("nan")), st.just({None: 1}), st.just({re.compile(b"x"): 1}),
    st.just({"jobs[": 3, re.compile("x"): 0}), st.just(["key", ""]), st.just([b"\xff", "\ud800"]), st.just({"key"}),
    st.just("a\n"), st.just("\0"), st.just(Path("x")), st.just(Text("x")),
)  # fmt: skip
SECONDS = st.floats(1, 10**9)
GOOD = {
    "prefix": st.text(string.ascii_letters, max_size=100),
    "expiry": SECONDS,
    "group_expiry": SECONDS,
    "capacity": st.integers(0, 2**31),
    "enforce_capacity": st.booleans(),
    "channel_capacity": st.dictionaries(st.text(max_size=5), st.integers(0, 2**31)),
    "auto_trim": st.booleans(),
    "symmetric_encryption_keys": st.lists(st.one_of(st.binary(min_size=1), strings.filter(bool))),
    "serializer_format": st.sampled_from(["msgpack", "json"]),
    "polling_interval": st.one_of(st.none(), SECONDS),
    "polling_idle_timeout": SECONDS,
    "pool_size": st.integers(1),
}
OPTIONS = [*GOOD, "path", "database", "hosts", "capacities", "", "\0", "Prefix"]
WRONG = st.sampled_from(OPTIONS).flatmap(lambda name: st.fixed_dictionaries({name: ANYTHING}))
configurations = st.builds(
    lambda good, wrong: {**good, **wrong},
    st.fixed_dictionaries({}, optional=GOOD),
    st.one_of(st.just({}), WRONG),
)


def names_one(error: ConfigError, options: dict[str, Any]) -> bool:
    """Whether an error names an option that was given."""
    return any(f"{name!r}" in str(error) for name in options)


@pytest.mark.parametrize("backend", [AIOSQLiteChannelLayer, SQLiteChannelLayer])
@pytest.mark.parametrize("option", sorted(GOOD))
@pytest.mark.parametrize(
    "value", [10**5_000, {"*": 10**5_000}, Broken(), Odd(), Liar(), [Liar()]], ids=lambda value: type(value).__name__
)
def test_odd_objects_as_options(backend: Any, option: str, value: Any) -> None:
    """What cannot even be shown, or says that it is a str, is an error that names the option; or it does no harm."""
    try:
        backend(database="core", **{option: value})
    except ConfigError as error:
        assert names_one(error, {option: value})  # noqa: PT017


@generated
@given(options=configurations)
async def test_options(options: dict[str, Any]) -> None:
    """A CONFIG makes a layer that works, or one ConfigError that names an option of it."""
    options.setdefault("path", ":memory:")
    try:
        layer = AIOSQLiteChannelLayer(**options)
        where = layer.file()
    except ConfigError as error:
        assert names_one(error, options)  # noqa: PT017
        return
    if where != ":memory:":  # a path that works is not for this test
        return
    try:
        await layer.send("x", NUMBER)
        assert await receive(layer, "x") == NUMBER
    except ChannelFull:
        assert layer.get_capacity("x") == 0
    finally:
        await layer.close()


@generated
@given(options=configurations)
async def test_options_of_the_core_layer(options: dict[str, Any], alias: str) -> None:
    """So it is for the other layer."""
    options.setdefault("database", alias)
    try:
        layer = SQLiteChannelLayer(**options)
    except ConfigError as error:
        assert names_one(error, options)  # noqa: PT017
    else:
        await layer.close()
