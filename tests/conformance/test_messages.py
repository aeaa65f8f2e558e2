"""What a message may hold."""

import asyncio
import datetime

import pytest

from tests.conformance.conftest import soon
from tests.patience import until

SPECIFICATION = {
    "type": "everything",
    "text": "Grüße ☃ \x00 \U0001f600",
    "empty": "",
    "bytes": bytes(range(256)),
    "int": 42,
    "big": 2**63 - 1,
    "small": -(2**63),
    "float": 0.1 + 0.2,
    "list": [1, "two", [3.0], {"four": b"4"}, None],
    "dict": {"nested": {"deeper": {"list": [{}]}}},
    "true": True,
    "false": False,
    "none": None,
}

FORMATS = ["msgpack", "json"]


@pytest.fixture(params=FORMATS)
def formatted(make, kind, request):
    """The layer with each of its formats; InMemory has one."""
    if kind == "memory":
        return make()
    return make(serializer_format=request.param)


async def test_every_type_of_the_specification(formatted):
    """str, bytes, int of 64 bits, float, list, dict, bool and None come back equal and of the same type."""
    await formatted.send("jobs", SPECIFICATION)
    received = await soon(formatted.receive("jobs"))
    assert received == SPECIFICATION
    assert {key: type(value) for key, value in received.items()} == {
        key: type(value) for key, value in SPECIFICATION.items()
    }


@pytest.mark.deviation("memory", "it hands a copy over, in which tuples stay tuples")
async def test_a_tuple_arrives_as_a_list(formatted):
    """Tuples may be sent; they arrive as lists."""
    await formatted.send("jobs", {"type": "x", "tuple": (1, (2, 3))})
    assert (await soon(formatted.receive("jobs")))["tuple"] == [1, [2, 3]]


@pytest.mark.parametrize("size", [1, 1_000, 1_000_000])
async def test_messages_up_to_a_megabyte(formatted, size):
    """A message of one megabyte passes."""
    await formatted.send("jobs", {"type": "x", "text": "x" * size})
    assert len((await soon(formatted.receive("jobs")))["text"]) == size


@pytest.mark.parametrize("message", [None, "text", b"bytes", 7, ["type"], ("type", "x")])
async def test_only_a_dict_is_a_message(layer, message):
    """Anything else than a dict is refused at send() and group_send(), as Channels' layers do it."""
    with pytest.raises(AssertionError):
        await layer.send("jobs", message)
    with pytest.raises(AssertionError):
        await layer.group_send("group", message)


@pytest.mark.deviation("memory", "it copies whatever it is given")
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({1: "int key"}, r"message\['value'\] has the key 1 of type int"),
        (datetime.date(2026, 1, 1), r"message\['value'\] is of type date"),
        ([0, {"deep": {1, 2}}], r"message\['value'\]\[1\]\['deep'\] is of type set"),
        (2**63, r"message\['value'\] is an int of more than 64 bits"),
        (object(), "of type object"),
        ("\ud800", "lone surrogate"),
    ],
)
async def test_what_cannot_be_sent_fails_at_send(formatted, value, named):
    """int keys, dates and the like fail at send(), with the key and the type named, and nothing is stored."""
    with pytest.raises(TypeError, match=named):
        await formatted.send("jobs", {"type": "x", "value": value})
    await formatted.send("jobs", {"type": "next"})
    assert (await soon(formatted.receive("jobs")))["type"] == "next"


@pytest.mark.deviation("memory", "it stores no bytes")
async def test_encrypted_layers_understand_each_other(make):
    """Two layers with a common key exchange messages, and one without the key cannot read them."""
    one = make(symmetric_encryption_keys=["new key of some length", "old key of some length"])
    old = make(symmetric_encryption_keys=["old key of some length"])
    await old.send("jobs", {"type": "x", "text": "in clear"})
    assert (await soon(one.receive("jobs")))["text"] == "in clear"
    stranger = make()
    await old.send("jobs", {"type": "x", "text": "in clear"})
    task = asyncio.ensure_future(stranger.receive("jobs"))
    await until(lambda: sum(stranger.drops.by_reason.values()) == 1)
    assert not task.done()
    task.cancel()
