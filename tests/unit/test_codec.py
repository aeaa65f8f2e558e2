"""Payloads: encryption around the serializer, and what becomes of a row that cannot be read."""

import asyncio
import base64
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import apsw
import pytest
from channels.exceptions import InvalidChannelLayerError
from cryptography.fernet import Fernet

from channels_lite import crypto
from channels_lite.codec import PUBLISHED, Codec
from channels_lite.drops import Reason
from channels_lite.errors import ConfigError, InvalidMessage, UndecodableMessage
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.patience import PATIENCE

MakeLayer = Callable[..., AIOSQLiteChannelLayer]

MESSAGE = {"type": "chat.message", "text": "grüße", "data": b"\x00\xff"}


@pytest.fixture(params=["msgpack", "json"])
def serializer_format(request: pytest.FixtureRequest) -> str:
    """Each of the two formats."""
    return str(request.param)


def codec(*keys: str | bytes) -> Codec:
    """A codec with these keys."""
    return Codec("msgpack", keys)


def token_of(age: float, expiry: float, payload: bytes, key: bytes = b"key") -> bytes:
    """A token as it was made ``age`` seconds ago, written out: this is what stands in files of earlier releases."""
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest()))
    return fernet.encrypt_at_time(crypto.HEADER.pack(expiry) + payload, int(time.time() - age))


def test_plain(serializer_format: str) -> None:
    """Without keys, a payload is the serialized message."""
    plain = Codec(serializer_format, None)
    assert plain.decode(plain.encode(MESSAGE, 60)) == MESSAGE
    assert b"chat.message" in plain.encode(MESSAGE, 60)


def test_encrypted(serializer_format: str) -> None:
    """With a key, the message comes back, and nothing of it can be read in the payload, twice the same neither."""
    secret = Codec(serializer_format, ["key"])
    payload = secret.encode(MESSAGE, 60)
    assert secret.decode(payload) == MESSAGE
    assert b"chat" not in payload
    assert b"chat" not in base64.urlsafe_b64decode(payload)
    assert payload != secret.encode(MESSAGE, 60)


@pytest.mark.parametrize("key", ["k", b"k", "\N{SNOWMAN}", b"\x00\xff", "x" * 1_000])
def test_any_key(key: str | bytes) -> None:
    """Keys of any length work, as str or bytes; a str is the same key as its UTF-8."""
    same = key.encode() if isinstance(key, str) else key
    assert codec(same).decode(codec(key).encode(MESSAGE, 60)) == MESSAGE


def test_key_derivation() -> None:
    """The key is the SHA-256 of what is given: another release must read it."""
    payload = Codec("msgpack", None).encode(MESSAGE, 60)
    assert codec("key").decode(token_of(0, 60, payload)) == MESSAGE


def test_rotation() -> None:
    """The first key encrypts and all decrypt, so that old and new processes read each other while a key changes."""
    old, new = codec("old"), codec("new")
    adding, changing = codec("old", "new"), codec("new", "old")
    for writer, reader in ((old, adding), (adding, old), (adding, changing), (changing, adding), (changing, new)):
        assert reader.decode(writer.encode(MESSAGE, 60)) == MESSAGE
    with pytest.raises(UndecodableMessage):
        old.decode(changing.encode(MESSAGE, 60))


def changed(token: bytes) -> bytes:
    """The token with one bit of the ciphertext turned."""
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[30] ^= 1
    return base64.urlsafe_b64encode(bytes(raw))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: Codec("msgpack", None).encode(MESSAGE, 60),
        lambda token: codec("wrong").encode(MESSAGE, 60),
        lambda token: token[:-1],
        lambda token: token[: len(token) // 2],
        changed,
        lambda token: b"",
        lambda token: b"\xff\x00",
    ],
    ids=["plaintext", "wrong key", "short by one", "half", "changed", "empty", "no base64"],
)
def test_not_decrypted(spoil: Callable[[bytes], bytes]) -> None:
    """Plaintext, another key's token, and one that was cut or changed are refused; plaintext most of all."""
    secret = codec("key")
    with pytest.raises(UndecodableMessage) as caught:
        secret.decode(spoil(secret.encode(MESSAGE, 60)))
    assert "key's" not in str(caught.value)
    assert "chat" not in str(caught.value)


def test_encrypted_without_key() -> None:
    """A layer without keys cannot read an encrypted message."""
    with pytest.raises(UndecodableMessage):
        Codec("msgpack", None).decode(codec("key").encode(MESSAGE, 60))


def test_token_without_expiry() -> None:
    """A token that holds less than an expiry is refused like any other stranger's."""
    fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"key").digest()))
    with pytest.raises(UndecodableMessage):
        codec("key").decode(fernet.encrypt(b"short"))


@pytest.mark.parametrize(
    ("age", "expiry", "live"),
    [
        (-3600, 60, True),  # made before the clock was set back
        (0, 60, True),
        (50, 60, True),
        (60 + 2 * crypto.GRACE, 60, False),
        (500, 600, True),
        (600 + 2 * crypto.GRACE, 600, False),
        (1, 0.5, True),
        (2 * crypto.GRACE, 0.5, False),
        (2 * crypto.GRACE, 0, False),
    ],
)
def test_expiry(age: float, expiry: float, live: bool) -> None:
    """A token counts for its own message's expiry, longer or shorter than the layer's; a replayed one is refused."""
    token = token_of(age, expiry, Codec("msgpack", None).encode(MESSAGE, 60))
    if live:
        assert codec("wrong", "key").decode(token) == MESSAGE
    else:
        with pytest.raises(UndecodableMessage, match="past its expiry"):
            codec("key").decode(token)


def test_keys_are_never_shown() -> None:
    """No repr of the layer, its options or what does the work shows a key, and no error does."""
    layer = AIOSQLiteChannelLayer(path=":memory:", symmetric_encryption_keys=["first secret", b"second secret"])
    inside = layer._codec
    digest = hashlib.sha256(b"first secret").hexdigest()
    shown = [repr(thing) for thing in (layer, layer.options, inside, inside._crypter, vars(layer), vars(inside))]
    with pytest.raises(UndecodableMessage) as caught:
        inside.decode(b"stranger")
    for text in [*shown, repr(caught.value), str(layer)]:
        assert "secret" not in text
        assert digest not in text


def test_without_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without the package cryptography, whose import is made to fail here, are an error that names the extra."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(InvalidChannelLayerError, match=r"'symmetric_encryption_keys'.*channels-lite\[cryptography\]"):
        AIOSQLiteChannelLayer(symmetric_encryption_keys=["key"])
    AIOSQLiteChannelLayer(symmetric_encryption_keys=[])


def test_unknown_format() -> None:
    """A format that nobody registered is a ConfigError that names the option."""
    with pytest.raises(ConfigError, match="'serializer_format'"):
        Codec("yaml", None)


@pytest.mark.parametrize("message", [None, "text", b"bytes", ["list"], 1, [("type", "x")]])
def test_no_dict(message: Any) -> None:
    """A message that is no dict is refused, with its type, before anything is encoded."""
    with pytest.raises(InvalidMessage, match=type(message).__name__):
        codec().encode(message, 60)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x81\xa1a", b"\x93\x01\x02\x03", b'{"type": "x"}'])
def test_not_decoded(serializer_format: str, payload: bytes) -> None:
    """Bytes that are no message of the format are refused, whatever the decoder would raise."""
    reader = Codec(serializer_format, None)
    if payload.startswith(b"{") and serializer_format == "json":
        assert reader.decode(payload) == {"type": "x"}
        return
    with pytest.raises(UndecodableMessage):
        reader.decode(payload)


@pytest.mark.parametrize(
    "payload", [b'{"$channels_lite": 1}', b'{"$channels_lite": ["bytes", "?"]}', b'[{"$channels_lite": ["float", []]}]']
)
def test_spoilt_box(payload: bytes) -> None:
    """A box in JSON that holds no value is refused too."""
    with pytest.raises(UndecodableMessage):
        Codec("json", None).decode(payload)


def write_row(path: str, queue: str, targets: str | None, payload: bytes) -> None:
    """Put a live row into the table as a stranger would, through a connection of its own."""
    stranger = apsw.Connection(path)
    stranger.set_busy_timeout(5_000)
    stranger.execute(
        "INSERT INTO channels_lite_message (prefix, queue, targets, payload, expires_at) "
        "SELECT '', ?, ?, ?, now + 60000 FROM channels_lite_clock",
        (queue, targets, payload),
    )
    stranger.close()


async def test_garbage_in_a_normal_channel(make_layer: MakeLayer, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that cannot be decoded are logged with their channel, counted and skipped; the receiver goes on."""
    layer = make_layer(symmetric_encryption_keys=["key"])
    receiving = asyncio.create_task(layer.receive("x"))
    await layer.group_add("opens", "the.database")
    with caplog.at_level(logging.WARNING, "channels_lite.drops"):
        for payload in (b"garbage", b"", codec("wrong").encode(MESSAGE, 60)):
            write_row(path, "x", None, payload)
        await layer.send("x", MESSAGE)
        assert await asyncio.wait_for(receiving, PATIENCE) == MESSAGE
    assert layer.drops.by_reason == {Reason.UNDECODABLE: 3}
    assert "to the channel x: it cannot be decoded" in caplog.text


async def test_garbage_in_a_process_specific_channel(
    make_layer: MakeLayer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for a process-specific channel, and for rows whose targets are missing or no list of str."""
    layer = make_layer()
    channel = await layer.new_channel()
    queue, _, local = channel.partition("!")
    receiving = asyncio.create_task(layer.receive(channel))
    await layer.group_add("opens", "the.database")
    good = Codec("msgpack", None).encode(MESSAGE, 60)
    with caplog.at_level(logging.WARNING, "channels_lite.drops"):
        for targets in (None, '"text"', "{}", "[1]", "[null]", "null"):
            write_row(path, f"{queue}!", targets, good)
        write_row(path, f"{queue}!", json.dumps([local]), b"\xc1")
        write_row(path, f"{queue}!", json.dumps([local]), good)
        assert await asyncio.wait_for(receiving, PATIENCE) == MESSAGE
    assert layer.drops.by_reason == {Reason.NO_TARGET: 6, Reason.UNDECODABLE: 1}
    assert "its row names no valid targets" in caplog.text


async def test_readers_of_other_keys(make_layer: MakeLayer) -> None:
    """A layer with another key drops what it claims and says so, and hears what it can read."""
    writer, reader = make_layer(symmetric_encryption_keys=["one"]), make_layer(symmetric_encryption_keys=["two", "one"])
    await reader.send("x", {"type": "unreadable"})
    await writer.send("x", {"type": "readable"})
    assert await asyncio.wait_for(writer.receive("x"), PATIENCE) == {"type": "readable"}
    assert writer.drops.by_reason == {Reason.UNDECODABLE: 1}
    await writer.send("x", {"type": "readable"})
    assert await asyncio.wait_for(reader.receive("x"), PATIENCE) == {"type": "readable"}
    assert not reader.drops.by_reason


@pytest.mark.parametrize("format_", ["json", "msgpack"])
def test_what_comes_from_sql(format_: str) -> None:
    """JSON that is marked as published from SQL is a message, whatever the layer's own format is."""
    assert Codec(format_, None).decode(PUBLISHED + b'{"type": "run", "id": 7}') == {"type": "run", "id": 7}


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'{"a": 1', b"\xff", b'{"a": "\\ud800"}'])
def test_what_from_sql_is_no_message(payload: bytes) -> None:
    """What is marked so and is no JSON object cannot be decoded, and is no other error."""
    with pytest.raises(UndecodableMessage):
        Codec("msgpack", None).decode(PUBLISHED + payload)


def test_keys_and_what_comes_from_sql() -> None:
    """With keys it is not taken, unless the layer is told otherwise; what is not marked is not taken either way."""
    keys = ["a key of more than 16 bytes"]
    with pytest.raises(UndecodableMessage):
        Codec("json", keys).decode(PUBLISHED + b"{}")
    codec = Codec("json", keys, plain_sql=True)
    assert codec.decode(PUBLISHED + b"{}") == {}
    assert codec.decode(codec.encode({"type": "own"}, 60)) == {"type": "own"}
    with pytest.raises(UndecodableMessage):
        codec.decode(b"{}")


def test_no_format_of_ours_looks_as_if_it_came_from_sql() -> None:
    """What a layer encodes never begins as what comes from SQL does."""
    for format_ in ("json", "msgpack"):
        for keys in (None, ["a key of more than 16 bytes"]):
            for message in ({}, {"json:": 0}, {"\0json:": b"\0json:"}):
                assert not Codec(format_, keys).encode(message, 60).startswith(PUBLISHED)
