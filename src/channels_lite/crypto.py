"""Encryption of payloads: Fernet over the SHA-256 of each key, with the message's own expiry inside."""

import base64
import hashlib
import math
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from channels_lite.errors import ConfigError, UndecodableMessage

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

HEADER = struct.Struct(">d")  # the message's expiry in seconds, in front of the payload
GRACE = 10  # seconds that clocks and Fernet's whole seconds may be off, as in channels_redis


class Crypter:
    """Encrypts with the first key, decrypts with all, and refuses what is older than its own expiry."""

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        self._fernet = _fernet(keys)

    def __repr__(self) -> str:
        return "<Crypter>"

    def encrypt(self, payload: bytes, expiry: float) -> bytes:
        """A token for a payload that is worthless after ``expiry`` seconds."""
        return self._fernet.encrypt(HEADER.pack(expiry) + payload)

    def decrypt(self, token: bytes) -> bytes:
        """The payload; UndecodableMessage where no key fits, the token was changed, or it is past its expiry.

        Not by Fernet's own ttl: with one it also refuses what is more than a minute from the future, and so all that
        is pending when the system's clock is set back.
        """
        from cryptography.fernet import InvalidToken

        try:
            opened = self._fernet.decrypt(token)
            (expiry,) = HEADER.unpack_from(opened)
            if time.time() > _made_at(token) + _ttl(expiry):
                raise InvalidToken
        except (InvalidToken, struct.error, TypeError, ValueError, OverflowError):
            raise UndecodableMessage("not encrypted with one of the keys, or past its expiry") from None
        return opened[HEADER.size :]


def _made_at(token: bytes) -> int:
    """When a token was made, which its signature covers: in seconds, behind one byte for Fernet's version."""
    return int.from_bytes(base64.urlsafe_b64decode(token[:12])[1:], "big")


def _ttl(expiry: float) -> int:
    return math.ceil(expiry) + GRACE


def _fernet(keys: Sequence[str | bytes]) -> "MultiFernet":
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise ConfigError(
            "CHANNEL_LAYERS: the option 'symmetric_encryption_keys' needs the package cryptography; "
            "install channels-lite[cryptography]."
        ) from None
    digests = (hashlib.sha256(key.encode() if isinstance(key, str) else key).digest() for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])
