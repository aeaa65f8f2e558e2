"""What stands in a row's payload: a serialized message, encrypted where there are keys."""

from collections.abc import Sequence
from typing import Any

from channels_lite.crypto import Crypter
from channels_lite.errors import ConfigError, InvalidMessage, UndecodableMessage
from channels_lite.serializers import SerializerDoesNotExist, registry

PUBLISHED = b"\0json:"  # what the payload of a message begins with that comes from SQL: see sql/0006_publishing.sql


class Codec:
    """Message to payload and back, with one serializer and, perhaps, keys.

    ``plain_sql``: with keys, messages that are published from SQL are taken all the same.
    """

    def __init__(self, serializer_format: str, keys: Sequence[str | bytes] | None, *, plain_sql: bool = False) -> None:
        try:
            self._serializer = registry.get_serializer(serializer_format)
        except SerializerDoesNotExist as error:
            raise ConfigError(f"CHANNEL_LAYERS: the option 'serializer_format': {error}") from None
        self._format = serializer_format
        self._crypter = Crypter(keys) if keys else None
        self._json = registry.get_serializer("json")
        self.refuses_sql = self._crypter is not None and not plain_sql
        """Whether what is published from SQL, which is not encrypted, is not taken."""

    def encode(self, message: Any, expiry: float) -> bytes:
        """The payload of a message; InvalidMessage where it is no dict or cannot be sent."""
        if not isinstance(message, dict):
            raise InvalidMessage(f"A message is a dict, not {type(message).__name__}.")
        payload = self._serializer.serialize(message)
        if not isinstance(payload, bytes):  # a serializer of the user's own; its errors are told as they are
            raise InvalidMessage(f"The serializer {self._format!r} gave {type(payload).__name__} instead of bytes.")
        return payload if self._crypter is None else self._crypter.encrypt(payload, expiry)

    def decode(self, payload: bytes) -> dict[str, Any]:
        """A new message from a payload; UndecodableMessage where that is not possible, whatever the reason."""
        serializer = self._serializer
        if payload.startswith(PUBLISHED) and not self.refuses_sql:
            serializer, payload = self._json, payload[len(PUBLISHED) :]
        elif self._crypter is not None:
            payload = self._crypter.decrypt(payload)
        try:
            message = serializer.deserialize(payload)
        except Exception as error:  # a stranger's bytes can fail a serializer in any way
            raise UndecodableMessage(f"{type(error).__name__}: {error}") from error
        if not isinstance(message, dict):
            raise UndecodableMessage(f"no dict but {type(message).__name__}")
        return message
