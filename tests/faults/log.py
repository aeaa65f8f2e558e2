"""What a process of a fault test did, written down line by line, so that SIGKILL loses nothing of it."""

import os
import time
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path

import msgspec


class Event(str, Enum):
    """What happened."""

    MADE = "made"  # a channel of one's own
    JOIN = "join"  # group_add() is called
    JOINED = "joined"  # it returned
    LEAVE = "leave"  # group_discard() is called
    LEFT = "left"  # it returned
    START = "start"  # send() or group_send() is called
    OK = "ok"  # it returned
    FAILED = "failed"  # it raised, and promises that nothing was sent
    BROKEN = "broken"  # it raised, and some may have the message
    RECEIVING = "receiving"  # receive() is called
    RECEIVED = "received"  # it returned
    DROPPED = "dropped"  # the layer dropped a message, and counted it
    LATE = "late"  # a heartbeat, by ``number`` milliseconds in which nothing else kept the process from running
    KILLED = "killed"  # a process was ended by the test; ``sender`` is its number


class Record(msgspec.Struct, omit_defaults=True, frozen=True):
    """One line."""

    event: Event
    at: float  # seconds, of a clock that all processes share
    process: int
    channel: str = ""  # that it is about; of START, OK and FAILED: the channel or group that was sent to
    sender: str = ""  # a task that sends one message after the other
    number: int = 0  # of the message, counted by its sender
    to: str = ""  # of RECEIVED: the channel or group that it was sent to
    receiver: str = ""  # a task that receives one message after the other
    group: bool = False  # whether ``channel`` or ``to`` is a group
    expiry: float = 0.0  # seconds
    detail: str = ""


class Log:
    """The file of one process."""

    def __init__(self, folder: str) -> None:
        self._process = os.getpid()
        path = os.path.join(folder, f"{self._process}.log")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, event: Event, channel: str = "", **fields: object) -> None:
        """Write one line."""
        record = Record(event, time.monotonic(), self._process, channel, **fields)  # type: ignore[arg-type]
        os.write(self._fd, msgspec.json.encode(record) + b"\n")


def read(folder: str | Path) -> list[Record]:
    """The records of all processes; those of each in its order. A line that was not finished is left out."""
    return [record for path in sorted(Path(folder).glob("*.log")) for record in _parse(path)]


def _parse(path: Path) -> Iterator[Record]:
    lines: Iterable[bytes] = path.read_bytes().split(b"\n")[:-1]
    return (msgspec.json.decode(line, type=Record) for line in lines)
