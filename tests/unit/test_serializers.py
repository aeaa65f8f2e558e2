"""Messages to bytes and back, what cannot be sent, and the registry of formats."""

import enum
import json
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from channels_lite import serializers
from channels_lite.errors import ConfigError, InvalidMessage
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.serializers import Serializer, SerializerDoesNotExist, registry


class Colour(str, enum.Enum):
    """An enum as Django's TextChoices make it."""

    RED = "red"


class Level(enum.IntEnum):
    """An enum as Django's IntegerChoices make it."""

    LOW = 1


class Amount(float):
    """A float of one's own."""


class Bytes(bytes):
    """Bytes of one's own."""


Pair = namedtuple("Pair", "left right")  # a user's, without types

SENT_AS_IT_IS = [
    {},
    {"": ""},
    {"type": "chat.message", "text": "grüße \N{SNOWMAN} \U0001f600 \x00\n\"\\'"},
    {"a": b"", "b": b"\x00\xff\xfe", "c": [b"in a list", {"d": b"deep"}]},
    {"int": [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]},
    {"float": [0.0, 0.1, -1.5, 1e308, 5e-324, math.inf, -math.inf, math.pi]},
    {"bool": [True, False], "none": None},
    {"empty": [[], {}, "", b"", [[]], [{}]]},
    {"nested": {"dict": {"of": [{"dicts": [{"x": 1}]}, [1, [2, [3, None]]]]}}},
    {"text": "x" * 1_000_000, "bytes": b"y" * 1_000_000, "list": list(range(10_000))},
    {f"key {number}": number for number in range(1_000)},
    {"$channels_lite": ["bytes", "eA=="]},
    {"$channels_lite": None},
    {"a": {"$channels_lite": ["dict", {}]}, "b": [{"$channels_lite": {"$channels_lite": b"boxed"}}]},
    {"a": {"$channels_lite": ["float", "nan"], "and": "more"}},
    {"text": '"$channels_lite"'},
]

SENT_AS_PLAIN = [
    ((1, (2, [3])), [1, [2, [3]]]),
    (Pair("l", b"r"), ["l", b"r"]),
    (mark_safe("<b>"), "<b>"),
    (lazystr("lazy"), "lazy"),
    (gettext_lazy("Yes"), "Yes"),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    (Amount(1.5), 1.5),
    (Bytes(b"x"), b"x"),
    (OrderedDict(a=Colour.RED), {"a": "red"}),
    ({mark_safe("k"): 1, Colour.RED: 2, lazystr("z"): 3}, {"k": 1, "red": 2, "z": 3}),
    ([{"deep": [Level.LOW, (lazystr("x"),)]}], [{"deep": [1, ["x"]]}]),
]

NOT_SENT = [
    ({"a": {1, 2}}, r"message\['a'\] is of type set"),
    ({"a": [1, {"b": datetime.now(timezone.utc)}]}, r"message\['a'\]\[1\]\['b'\] is of type datetime"),
    ({"a": Decimal("1.5")}, r"message\['a'\] is of type Decimal"),
    ({"a": ("x", range(1))}, r"message\['a'\]\[1\] is of type range"),
    ({"a": bytearray(b"x")}, r"message\['a'\] is of type bytearray"),
    ({"a": 1j}, r"message\['a'\] is of type complex"),
    ({1: "x"}, r"message has the key 1 of type int"),
    ({"a": {None: "x"}}, r"message\['a'\] has the key None of type NoneType"),
    ({"a": [{b"k": 1}]}, r"message\['a'\]\[0\] has the key b'k' of type bytes"),
    ({"a": {("t",): 1}}, r"message\['a'\] has the key \('t',\) of type tuple"),
    ({"a": 2**63}, r"message\['a'\] is an int of more than 64 bits"),
    ({"a": [-(2**63) - 1]}, r"message\['a'\]\[0\] is an int of more than 64 bits"),
    ({"a": 10**1000}, r"message\['a'\] is an int of more than 64 bits"),
    ({"a": ["\ud800"]}, r"message\['a'\]\[0\] is a str with a lone surrogate"),
    ({"a": {"\udfff": 1}}, r"a key of message\['a'\] is a str with a lone surrogate"),
    ({"b": b"x", "\ud800": 1}, r"a key of message is a str with a lone surrogate"),
    ({"a": mark_safe("\ud800")}, r"message\['a'\] is a str with a lone surrogate"),
]


@pytest.fixture(params=["msgpack", "json"])
def serializer(request: pytest.FixtureRequest) -> Serializer:
    """Each of the two formats."""
    return registry.get_serializer(request.param)


def back_again(serializer: Serializer, message: dict[str, Any]) -> dict[str, Any]:
    """What a reader gets of a message."""
    return serializer.deserialize(serializer.serialize(message))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types all the way down: 1 == 1.0 == True otherwise."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("message", SENT_AS_IT_IS, ids=lambda message: ascii(message)[:40])
def test_sent_as_it_is(serializer: Serializer, message: dict[str, Any]) -> None:
    """Every type of the specification comes back as it was, in its order."""
    assert same(back_again(serializer, message), message)


def test_not_a_number(serializer: Serializer) -> None:
    """NaN, which equals nothing, comes back as NaN; the sign of zero is kept."""
    message = back_again(serializer, {"nan": [math.nan], "zero": -0.0})
    assert math.isnan(message["nan"][0])
    assert math.copysign(1, message["zero"]) == -1


@pytest.mark.parametrize(("value", "expected"), SENT_AS_PLAIN)
def test_sent_as_plain(serializer: Serializer, value: Any, expected: Any) -> None:
    """Tuples become lists, and subclasses, enum members and lazy strings plain values of the specification's types."""
    message = OrderedDict(value=value)
    assert same(back_again(serializer, message), {"value": expected})


def test_message_is_not_changed(serializer: Serializer) -> None:
    """The sender's own objects stay as they were."""
    message: dict[str, Any] = {"a": [mark_safe("x"), b"y", (1,)], "$channels_lite": 1}
    serializer.serialize(message)
    assert type(message["a"][0]) is type(mark_safe(""))
    assert message == {"a": ["x", b"y", (1,)], "$channels_lite": 1}


@pytest.mark.parametrize(("message", "where"), NOT_SENT, ids=lambda value: ascii(value)[:40])
def test_not_sent(serializer: Serializer, message: dict[str, Any], where: str) -> None:
    """What no reader could get back is a TypeError that says where it is and of which type."""
    with pytest.raises(InvalidMessage, match=where) as caught:
        serializer.serialize(message)
    assert isinstance(caught.value, TypeError)


def test_message_inside_itself(serializer: Serializer) -> None:
    """A list or dict that holds itself is refused, and nothing crashes."""
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {"type": mark_safe("x")}
    ring["ring"] = ring
    for message in ({"a": loop}, ring):
        with pytest.raises(InvalidMessage, match="nested too deeply"):
            serializer.serialize(message)


async def test_send_refuses(make_layer: Callable[..., AIOSQLiteChannelLayer]) -> None:
    """The refusal comes at send() and group_send(), and nothing is sent."""
    layer = make_layer()
    await layer.group_add("group", "x")
    for send in (layer.send("x", {"a": {1}}), layer.group_send("group", {"a": {1}}), layer.send("x", ["no dict"])):
        with pytest.raises(InvalidMessage):
            await send
    await layer.send("x", {"type": "the first"})
    assert await layer.receive("x") == {"type": "the first"}


def test_json_is_json() -> None:
    """The json format is UTF-8 JSON without NaN, Infinity or escapes that other readers would not know."""
    payload = registry.get_serializer("json").serialize({"a": "ü", "b": b"x", "c": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(payload, parse_constant=refuse) == {
        "a": "ü",
        "b": {"$channels_lite": ["bytes", "eA=="]},
        "c": {"$channels_lite": ["float", "inf"]},
    }
    assert "ü".encode() in payload


class Reversed:
    """A serializer of one's own: JSON backwards."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        return msgspec.json.encode(message)[::-1]

    def deserialize(self, message: bytes) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(message[::-1])
        return decoded


class Halved:
    """A serializer that cannot read."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        return b""


@pytest.fixture
def own_format(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a format that is registered for one test."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry.register_serializer("reversed", Reversed)
    return "reversed"


async def test_own_serializer(make_layer: Callable[..., AIOSQLiteChannelLayer], own_format: str) -> None:
    """A registered class serves a layer by its name, encryption around it included."""
    for options in ({}, {"symmetric_encryption_keys": ["key"]}):
        layer = make_layer(serializer_format=own_format, **options)
        assert isinstance(layer._codec._serializer, Reversed)
        await layer.send("x", {"type": "hello"})
        assert await layer.receive("x") == {"type": "hello"}


def test_own_serializer_from_the_base() -> None:
    """A subclass of BaseMessageSerializer gets plain data, and its users the same refusals."""

    class Repr(serializers.BaseMessageSerializer):
        def as_bytes(self, message: dict[str, Any]) -> bytes:
            return repr(message).encode()

        def from_bytes(self, message: bytes) -> dict[str, Any]:
            return {"text": message.decode()}

    serializer = Repr()
    assert back_again(serializer, {"a": mark_safe("x"), "b": Level.LOW}) == {"text": "{'a': 'x', 'b': 1}"}
    with pytest.raises(InvalidMessage, match=r"message\['a'\] is of type set"):
        serializer.serialize({"a": set()})


@pytest.mark.parametrize(("wrong", "method"), [(Halved, "deserialize"), (object, "serialize"), (None, "serialize")])
def test_class_without_a_method(own_format: str, wrong: Any, method: str) -> None:
    """A class that lacks a method is refused with the method's name, and the old one stays."""
    with pytest.raises(AssertionError, match=rf"no method {method}\(\)"):
        registry.register_serializer(own_format, wrong)
    assert isinstance(registry.get_serializer(own_format), Reversed)


def test_replacement(own_format: str) -> None:
    """A format registered again, one of the package's own too, is replaced; arguments reach the class."""

    class Other(Reversed):
        def __init__(self, level: int = 0) -> None:
            self.level = level

    for name in (own_format, "json"):
        registry.register_serializer(name, Other)
        serializer = registry.get_serializer(name, level=3)
        assert isinstance(serializer, Other)
        assert serializer.level == 3


def test_unknown_format() -> None:
    """An unknown format is a KeyError of its own that lists the known ones, and a ConfigError for a layer."""
    with pytest.raises(SerializerDoesNotExist, match=r"no serializer 'yaml'; registered are 'msgpack', 'json'") as one:
        registry.get_serializer("yaml")
    assert isinstance(one.value, KeyError)
    with pytest.raises(ConfigError, match=r"option 'serializer_format'.*'yaml'"):
        AIOSQLiteChannelLayer(serializer_format="yaml")
