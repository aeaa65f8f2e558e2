"""What passes from process to process without the database: a message, or the word that a layer was flushed."""

import struct

import msgspec

MOST_BYTES = 64 * 1024  # of one; a longer message goes through the database
HEAD = struct.Struct("=QQHI")  # when it was sent and when it expires, the lengths of its queue and its targets


class Handed(msgspec.Struct, frozen=True, gc=False):
    """A message as it comes out of an inbox."""

    queue: str
    """Empty where it is no message, but says that the layers with the prefix in ``targets`` are flushed."""
    targets: bytes
    """The local parts of its channels, a JSON array."""
    payload: bytes
    expires_at: int
    """Milliseconds, as channels_lite_clock."""
    sent_at: int = 0
    """The same; 0: nobody knows."""


def pack(message: Handed) -> bytes:
    """The datagram of a message."""
    name, targets = message.queue.encode(), message.targets
    head = HEAD.pack(message.sent_at, message.expires_at, len(name), len(targets))
    return b"".join((head, name, targets, message.payload))


def pack_flush(prefix: str) -> bytes:
    """The datagram that tells a layer with this prefix to throw away what came before."""
    return pack(Handed("", prefix.encode(), b"", 0, 0))


def unpack(datagram: bytes) -> Handed:
    """The message of a datagram; struct.error or UnicodeDecodeError where a stranger sent something else."""
    sent_at, expires_at, name, targets = HEAD.unpack_from(datagram)
    middle = HEAD.size + name
    end = middle + targets
    return Handed(datagram[HEAD.size : middle].decode(), datagram[middle:end], datagram[end:], expires_at, sent_at)
