"""Messages to bytes and back: the two formats, and the registry for one's own."""

import abc
import base64
import math
from typing import Any, Protocol

import msgspec
from django.utils.functional import Promise

from channels_lite.errors import InvalidMessage

SCALARS = frozenset({str, bytes, float, bool, type(None)})
INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # the specification's integers have 64 bits
# Levels of dicts and lists in a message. Python's own limit depends on how deep the caller is: what a sender could
# still encode, a receiver could not decode any more.
DEEPEST = 200


class Serializer(Protocol):
    """What the registry's classes make when they are called without arguments."""

    def serialize(self, message: dict[str, Any], /) -> bytes:
        """Turn a message into bytes."""

    def deserialize(self, message: bytes, /) -> dict[str, Any]:
        """Turn the bytes back into an equal message."""


class SerializerDoesNotExist(KeyError):
    """No serializer is registered under this name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class BaseMessageSerializer(abc.ABC):
    """A serializer for the types of the specification; a subclass says how plain data become bytes."""

    @abc.abstractmethod
    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """Encode a message that holds only the specification's types."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes) -> dict[str, Any]:
        """Decode what ``as_bytes`` made."""

    def serialize(self, message: dict[str, Any]) -> bytes:
        """Encode a message; InvalidMessage names the key and the type of what cannot be sent."""
        try:
            return self._as_bytes(message)
        except (InvalidMessage, MemoryError):
            raise
        except RecursionError:
            raise InvalidMessage("The message is nested too deeply to be sent from here.") from None
        except Exception as error:  # objects of the caller's that fail when they are read, or change meanwhile
            raise InvalidMessage(f"The message could not be read: {type(error).__name__}: {error}") from error

    def _as_bytes(self, message: dict[str, Any]) -> bytes:
        try:
            return self.as_bytes(message if is_plain(message) else plain(message, "message"))
        except UnicodeEncodeError:
            plain(message, "message")
            raise

    def deserialize(self, message: bytes) -> dict[str, Any]:
        """Decode a message."""
        return self.from_bytes(message)


def is_plain(value: Any, levels: int = DEEPEST) -> bool:
    """Whether the value can be sent as it is. The quick look at every message; ``plain`` has the answers."""
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is int:
        return bool(INT_MIN <= value <= INT_MAX)
    if not levels:
        return False
    if kind is dict:
        for key, item in value.items():  # a third of the time that all() takes
            if type(key) is not str or (type(item) not in SCALARS and not is_plain(item, levels - 1)):
                return False
        return True
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 # half the time that all() takes
            if type(item) not in SCALARS and not is_plain(item, levels - 1):
                return False
        return True
    return False


def plain(value: Any, where: str, levels: int = DEEPEST) -> Any:
    """A copy with subclasses (SafeString, enum members, …) and lazy strings as plain values.

    InvalidMessage says where in the message something is that cannot be sent, and of which type.
    """
    if isinstance(value, Promise):
        value = str(value)
    kind = type(value)  # isinstance() would believe what a mock says of itself
    if issubclass(kind, str):
        return _text(str.__str__(value), where)
    if value is None or kind is bool:
        return value
    if issubclass(kind, int):
        return _integer(int.__int__(value), where)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, bytes):
        return memoryview(value).tobytes()
    if issubclass(kind, list | tuple | dict) and not levels:
        raise InvalidMessage(f"The message is nested too deeply to be sent: it has more than {DEEPEST} levels.")
    if issubclass(kind, list | tuple):
        return [plain(item, f"{where}[{index}]", levels - 1) for index, item in enumerate(value)]
    if issubclass(kind, dict):
        items = [(_key(key, where), item) for key, item in value.items()]
        return {key: plain(item, f"{where}[{key!r}]", levels - 1) for key, item in items}
    raise InvalidMessage(
        f"{where} is of type {type(value).__name__}, which cannot be sent; "
        "a message holds str, bytes, int, float, bool, None, lists and dicts."
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"{where} is a str with a lone surrogate, which cannot be sent ({error}).") from None
    return value


def _integer(value: int, where: str) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise InvalidMessage(f"{where} is an int of more than 64 bits, which cannot be sent; send it as a str.")
    return value


def _key(key: Any, where: str) -> str:
    if isinstance(key, Promise):
        key = str(key)
    if not issubclass(type(key), str):
        raise InvalidMessage(
            f"{where} has the key {_shown(key)} of type {type(key).__name__}; the keys of a message are str."
        )
    return _text(str.__str__(key), f"a key of {where}")


def _shown(key: Any) -> str:
    try:
        return repr(key)[:100]
    except Exception:  # an int of 5,000 digits; an object whose repr fails
        return "that has no repr"


def _refuse_extension(code: int, data: memoryview) -> Any:
    raise ValueError(f"the extension type {code} of MessagePack, which no message has")


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack: compact, and bytes are bytes."""

    _encode = staticmethod(msgspec.msgpack.Encoder().encode)
    _decode = staticmethod(msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_refuse_extension).decode)

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """Encode a message."""
        return self._encode(message)

    def from_bytes(self, message: bytes) -> dict[str, Any]:
        """Decode a message."""
        return self._decode(message)


BOX = "$channels_lite"  # the only key of a dict that stands for what JSON lacks


class JSONSerializer(BaseMessageSerializer):
    """JSON text, in UTF-8. What JSON lacks (bytes, infinities, not-a-number) travels in a box {"$channels_lite": …}."""

    def as_bytes(self, message: dict[str, Any]) -> bytes:
        """Encode a message."""
        return msgspec.json.encode(_boxed(message))

    def from_bytes(self, message: bytes) -> dict[str, Any]:
        """Decode a message."""
        decoded: dict[str, Any] = msgspec.json.decode(message)
        return _unboxed(decoded) if BOX.encode() in message else decoded


def _boxed(value: Any) -> Any:
    kind = type(value)
    if kind is bytes:
        return {BOX: ["bytes", base64.b64encode(value).decode()]}
    if kind is float and not math.isfinite(value):
        return {BOX: ["float", repr(value)]}
    if kind is dict:
        items = {key: _boxed(item) for key, item in value.items()}
        return {BOX: ["dict", items]} if len(value) == 1 and BOX in value else items
    if kind is list or kind is tuple:
        return [_boxed(item) for item in value]
    return value


def _unboxed(value: Any) -> Any:
    if isinstance(value, list):
        return [_unboxed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or BOX not in value:
        return {key: _unboxed(item) for key, item in value.items()}
    kind, content = value[BOX]
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind == "float":
        return float(content)
    return {key: _unboxed(item) for key, item in content.items()}


class SerializersRegistry:
    """Serializer classes by the name that the option ``serializer_format`` uses."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Serializer]] = {}

    def register_serializer(self, format: str, serializer_class: type[Serializer]) -> None:
        """Make a class known under a name, or replace the one that has it.

        The class is called without arguments; its objects have ``serialize(message) -> bytes`` and
        ``deserialize(bytes) -> message``. AssertionError where one of the two is missing. Encryption is added around
        it by the layer.
        """
        for method in ("serialize", "deserialize"):
            assert callable(getattr(serializer_class, method, None)), (
                f"The serializer {serializer_class!r} has no method {method}()."
            )
        self._classes[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Serializer:
        """A new serializer of this format; SerializerDoesNotExist where nobody registered it."""
        try:
            serializer_class = self._classes[format]
        except KeyError:
            known = ", ".join(map(repr, self._classes))
            raise SerializerDoesNotExist(f"There is no serializer {format!r}; registered are {known}.") from None
        return serializer_class(*args, **kwargs)


registry = SerializersRegistry()
registry.register_serializer("msgpack", MsgPackSerializer)
registry.register_serializer("json", JSONSerializer)
