"""Decides from the logs of all processes whether the promises were kept: ``python -m tests.faults.checker FOLDER``."""

import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from channels_lite.drops import Reason
from tests.faults.log import Event, Record, read

ROUNDING = 0.002  # seconds by which a message may expire early: the layer counts milliseconds
SLACK = 0.2  # seconds between the line that says that receive() is called, and its first look
CAPACITY = (Reason.FULL.name, Reason.SLOW.name)  # reasons for which a layer may drop a message


class Message(NamedTuple):
    """What tells a message apart from all others."""

    sender: str
    to: str
    number: int


class Delivery(NamedTuple):
    """A message and a channel that it is for."""

    message: Message
    channel: str


class Verdict(NamedTuple):
    """What is wrong; all empty where nothing is."""

    invented: list[Delivery]
    """Received, but never sent, or not to this channel, or to a group that it certainly was not in."""
    denied: list[Delivery]
    """Received, although send() raised an error that promises that nothing was sent."""
    doubled: list[Delivery]
    """Received more than once."""
    swapped: list[Delivery]
    """Received after a later message of the same sender to the same channel, of which there is one receiver."""
    lost: list[Delivery]
    """Acknowledged and not received, and neither expiry nor capacity nor the end of its receiver explains it."""

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        parts = [f"{len(found)} {name}, such as {found[0]}" for name, found in self._asdict().items() if found]
        return "; ".join(parts) or "nothing wrong"


class Evidence:
    """The records, looked at from all sides that the verdict needs."""

    def __init__(self, records: Sequence[Record]) -> None:
        by_event: dict[Event, list[Record]] = defaultdict(list)
        for record in records:
            by_event[record.event].append(record)
        self.started = {_sent(record): record for record in by_event[Event.START]}
        self.ok = {_sent(record): record for record in by_event[Event.OK]}
        self.failed = {_sent(record) for record in by_event[Event.FAILED]}
        self.received = by_event[Event.RECEIVED]
        self.over = max((record.at for record in records), default=0.0)
        self.asked = {record.channel: record.at for record in by_event[Event.RECEIVING]}
        self.members = _periods(by_event, Event.JOINED, Event.LEAVE)
        self.absences = _periods(by_event, Event.LEFT, Event.JOIN)
        self.joined = {(record.to, record.channel) for record in by_event[Event.JOIN]}
        self.killed = {record.number for record in by_event[Event.KILLED]}
        # By queue: a group's message that the siblings behind one "!" did not get is counted once, for one of them.
        self.dropped = Counter(_queue(r.channel) for r in by_event[Event.DROPPED] if r.detail in CAPACITY)
        self.made = {record.channel: record.process for record in by_event[Event.MADE]}
        # What a killed process may have claimed: as many messages of a channel as it had receive() calls under way.
        begun = Counter((r.process, r.channel) for r in by_event[Event.RECEIVING] if r.process in self.killed)
        ended = Counter((r.process, r.channel) for r in self.received if r.process in self.killed)
        self.claimed: Counter[str] = Counter()
        for (_, channel), number in (begun - ended).items():
            self.claimed[channel] += number

    def deliveries(self, message: Message) -> Iterator[Delivery]:
        """Where a message that was acknowledged had to arrive."""
        start, ok = self.started[message], self.ok[message]
        if not start.group:
            yield Delivery(message, message.to)
            return
        for channel, periods in self.members.get(message.to, {}).items():
            if any(begin <= start.at and ok.at <= end for begin, end in periods):
                yield Delivery(message, channel)

    def was_for(self, delivery: Delivery) -> bool:
        """Whether somebody had begun to send this message, and perhaps to this channel."""
        start = self.started.get(delivery.message)
        if start is None or not start.group:
            return start is not None and delivery.channel == start.channel
        ok = self.ok.get(delivery.message)
        away = self.absences.get(start.channel, {}).get(delivery.channel, ())
        was_away = ok is not None and any(begin <= start.at and ok.at <= end for begin, end in away)
        return (start.channel, delivery.channel) in self.joined and not was_away


def _queue(channel: str) -> str:
    name, mark, _ = channel.partition("!")
    return name + mark


def _sent(record: Record) -> Message:
    return Message(record.sender, record.channel, record.number)


def _taken(record: Record) -> Delivery:
    return Delivery(Message(record.sender, record.to, record.number), record.channel)


Periods = list[tuple[float, float]]  # from one event until another


def _periods(by_event: dict[Event, list[Record]], first: Event, last: Event) -> dict[str, dict[str, Periods]]:
    """Group -> channel -> from when this happened to it until that did. ``to`` of these records is the group."""
    periods: dict[str, dict[str, Periods]] = defaultdict(lambda: defaultdict(list))
    ends: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in by_event[last]:
        ends[record.to, record.channel].append(record.at)
    for times in ends.values():
        times.sort()
    for record in by_event[first]:
        times = ends[record.to, record.channel]
        place = bisect_right(times, record.at)
        periods[record.to][record.channel].append((record.at, times[place] if place < len(times) else float("inf")))
    return periods


def judge(records: Sequence[Record]) -> Verdict:
    """The verdict on all that was sent and received."""
    evidence = Evidence(records)
    taken = Counter(_taken(record) for record in evidence.received)
    return Verdict(
        invented=[delivery for delivery in taken if not evidence.was_for(delivery)],
        denied=[delivery for delivery in taken if delivery.message in evidence.failed],
        doubled=[delivery for delivery, times in taken.items() if times > 1],
        swapped=list(_swapped(evidence.received)),
        lost=_unexplained(evidence, taken),
    )


def _swapped(received: Sequence[Record]) -> Iterator[Delivery]:
    receivers: dict[str, set[str]] = defaultdict(set)
    last: dict[tuple[str, str, str], int] = {}
    for record in received:
        receivers[record.channel].add(record.receiver)
    for record in received:
        line = (record.channel, record.sender, record.to)
        if record.number < last.get(line, -1) and len(receivers[record.channel]) == 1:
            yield _taken(record)
        last[line] = max(record.number, last.get(line, -1))


def _unexplained(evidence: Evidence, taken: Counter[Delivery]) -> list[Delivery]:
    missing = [
        delivery for message in evidence.ok for delivery in evidence.deliveries(message) if delivery not in taken
    ]
    lost: dict[str, list[Delivery]] = defaultdict(list)
    has_expired = _expiry(evidence)
    for delivery in missing:
        if evidence.made.get(delivery.channel) not in evidence.killed and not has_expired(delivery):
            lost[delivery.channel].append(delivery)
    spared = {channel: evidence.dropped[_queue(channel)] + evidence.claimed[channel] for channel in lost}
    return [delivery for channel, found in lost.items() for delivery in found[spared[channel] :]]


def _expiry(evidence: Evidence) -> Callable[[Delivery], bool]:
    """Whether a message that is missing had expired when its channel was next received from.

    That is: when a later message of the same sender was; where none was, when receive() was last called for it, or all
    was over.
    """
    later: dict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for record in evidence.received:
        later[record.channel, record.sender, record.to].append((record.number, record.at))
    firsts = {line: _first_after(found) for line, found in later.items()}

    def has_expired(delivery: Delivery) -> bool:
        message = delivery.message
        sent = evidence.started[message]
        last = evidence.asked.get(delivery.channel, evidence.over) + SLACK
        first = firsts.get((delivery.channel, message.sender, message.to))
        at = last if first is None else first(message.number, last)
        return bool(sent.expiry) and at >= sent.at + sent.expiry - ROUNDING

    return has_expired


def _first_after(found: list[tuple[int, float]]) -> Callable[[int, float], float]:
    """When the first message with a higher number was received."""
    found = sorted(found)
    numbers = [number for number, _ in found]
    earliest = [at for _, at in found]
    for place in range(len(earliest) - 2, -1, -1):
        earliest[place] = min(earliest[place], earliest[place + 1])

    def first(number: int, otherwise: float) -> float:
        place = bisect_right(numbers, number)
        return earliest[place] if place < len(earliest) else otherwise

    return first


def main(folder: str) -> int:
    """Print the verdict; 1 where something is wrong."""
    records = read(folder)
    verdict = judge(records)
    counts = Counter(record.event.value for record in records)
    print(", ".join(f"{number} {event}" for event, number in sorted(counts.items())) or "no records")
    if records:
        print(verdict)
    return int(bool(verdict) or not records)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python -m tests.faults.checker FOLDER: a folder with the logs of a fault test")
    sys.exit(main(sys.argv[1]))
