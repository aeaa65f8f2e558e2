"""Encryption of payloads: Fernet over the SHA-256 of each key, with the message's own expiry inside."""

import base64
import hashlib
import math
import struct
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

    def decrypt(self, token: bytes, usual_expiry: float) -> bytes:
        """The payload; UndecodableMessage where no key fits, the token was changed, or it is past its expiry.

        A token is decrypted once where the expiry inside it is ``usual_expiry``, more often where it is another.
        """
        from cryptography.fernet import InvalidToken

        try:
            try:
                opened, checked = self._fernet.decrypt(token, ttl=_ttl(usual_expiry)), usual_expiry
            except InvalidToken:
                opened, checked = self._fernet.decrypt(token), math.inf
            (expiry,) = HEADER.unpack_from(opened)
            if expiry < checked:
                self._fernet.decrypt(token, ttl=_ttl(expiry))
        except (InvalidToken, struct.error, TypeError, ValueError, OverflowError):
            raise UndecodableMessage("not encrypted with one of the keys, or past its expiry") from None
        return opened[HEADER.size :]


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
