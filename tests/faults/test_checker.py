"""The checker itself: a good log passes, and one with a lost, doubled, swapped or invented message does not."""

import subprocess
import sys

import msgspec
import pytest

from tests.faults.checker import Delivery, Message, judge
from tests.faults.log import Event, Log, Record, read
from tests.processes.conftest import ROOT

SENDER, READER, OTHER = 1, 2, 3  # processes


def direct(number, at, *, expiry=60.0, channel="jobs"):
    """A message that was acknowledged."""
    what = {"channel": channel, "sender": "1.1", "number": number, "expiry": expiry}
    return [Record(Event.START, at, SENDER, **what), Record(Event.OK, at + 0.1, SENDER, **what)]


def taken(number, at, *, process=READER, to="jobs", channel="jobs", receiver="2.1"):
    """A receive() that began half a second before it gave a message."""
    what = {"receiver": receiver, "sender": "1.1", "number": number, "to": to}
    return [
        Record(Event.RECEIVING, at - 0.5, process, channel, receiver=receiver),
        Record(Event.RECEIVED, at, process, channel, **what),
    ]


def grouped(number, at):
    """A group's message that was acknowledged."""
    what = {"channel": "all", "sender": "1.1", "number": number, "group": True}
    return [Record(Event.START, at, SENDER, **what), Record(Event.OK, at + 0.1, SENDER, **what)]


def member(channel, begin, *, end=None):
    """A channel that joins the group "all", and perhaps leaves it again."""
    times = {Event.JOIN: begin, Event.JOINED: begin, Event.LEAVE: end, Event.LEFT: end}
    return [Record(event, at, READER, channel, to="all") for event, at in times.items() if at is not None]


GOOD = [
    *(record for number in range(4) for record in direct(number, number)),
    *(record for number in range(4) for record in taken(number, number + 0.2)),
    *member("a", 0.0),
    *member("b", 0.0, end=5.0),
    *(record for number in (4, 6) for record in grouped(number, number)),
    *taken(4, 4.2, to="all", channel="a"),
    *taken(4, 4.2, to="all", channel="b"),
    *taken(6, 6.2, to="all", channel="a"),
]


def position(event, number, channel="jobs"):
    """Where a record stands in the good log."""
    return next(
        place
        for place, record in enumerate(GOOD)
        if (record.event, record.number, record.channel) == (event, number, channel)
    )


def without(event, number, channel="jobs"):
    """The good log without one record."""
    place = position(event, number, channel)
    return GOOD[:place] + GOOD[place + 1 :]


def delivery(number, to="jobs", channel="jobs"):
    """What a verdict names."""
    return Delivery(Message("1.1", to, number), channel)


def wrong(records):
    """What a verdict finds."""
    return {name: found for name, found in judge(records)._asdict().items() if found}


def test_a_good_log():
    """A log in which every promise was kept has nothing wrong."""
    assert not judge(GOOD)
    assert str(judge(GOOD)) == "nothing wrong"


def test_a_lost_message():
    """An acknowledged message that nobody received is found."""
    assert wrong(without(Event.RECEIVED, 2)) == {"lost": [delivery(2)]}


def test_a_message_lost_for_one_member_of_a_group():
    """One member of a group did not get a message that the other got."""
    assert wrong(without(Event.RECEIVED, 4, "b")) == {"lost": [delivery(4, "all", "b")]}


def test_a_doubled_message():
    """A message that was received twice is found, by the same receiver or by two processes."""
    assert wrong(GOOD + taken(3, 9.0)) == {"doubled": [delivery(3)]}
    assert wrong(GOOD + taken(2, 9.0, process=OTHER, receiver="3.1")) == {"doubled": [delivery(2)]}


def test_swapped_messages():
    """Two messages of one sender that the only receiver of a channel got in the wrong order are found."""
    records = list(GOOD)
    one, other = position(Event.RECEIVED, 1), position(Event.RECEIVED, 2)
    records[one], records[other] = records[other], records[one]
    assert wrong(records) == {"swapped": [delivery(1)]}


def test_two_receivers_may_share_a_channel():
    """Between two receivers there is no order."""
    records = without(Event.RECEIVED, 1) + taken(1, 9.0, process=OTHER, receiver="3.1")
    assert not judge(records)


@pytest.mark.parametrize(
    "records", [taken(7, 9.0), taken(1, 9.0, to="all", channel="a"), taken(6, 9.0, to="all", channel="c")]
)
def test_an_invented_message(records):
    """A message that nobody sent is found: unknown, to another group, or to a channel that never was a member."""
    assert len(wrong(GOOD + records)["invented"]) == 1


def test_a_message_on_another_channel():
    """A message that comes out of another channel than it was sent to is an invented one."""
    assert list(wrong(GOOD + taken(3, 9.0, channel="other"))) == ["invented"]


def test_a_refused_message_that_arrives():
    """A message whose sender was told that nothing was sent must not arrive."""
    records = [*without(Event.OK, 3), Record(Event.FAILED, 3.1, SENDER, "jobs", sender="1.1", number=3)]
    assert wrong(records) == {"denied": [delivery(3)]}


def test_a_send_that_never_ended():
    """A message of a sender that was killed in the middle may arrive or not."""
    assert not judge(without(Event.OK, 3))
    assert not judge([r for r in GOOD if (r.number, r.channel) != (3, "jobs") or r.event is Event.START])


def test_expiry_explains_a_message_that_was_not_received():
    """A message is missing and had expired before the next one was received; one that had not is lost."""
    rest = [record for record in GOOD if (record.number, record.channel) != (1, "jobs")]
    next_one = 2.2 - 1.0  # seconds from its sending until the next one was received
    assert not judge(rest + direct(1, 1, expiry=next_one - 0.1))
    assert wrong(rest + direct(1, 1, expiry=next_one + 0.1)) == {"lost": [delivery(1)]}


def test_expiry_of_the_last_message():
    """Nothing came after it: it had expired when its channel was last asked, or it is lost."""
    last, lost = direct(8, 8, expiry=1.0), {"lost": [delivery(8)]}
    assert wrong(GOOD + last) == lost
    assert not judge([*GOOD, *last, Record(Event.RECEIVING, 9.1, READER, "jobs", receiver="2.1")])
    assert wrong([*GOOD, *last, Record(Event.RECEIVING, 8.1, READER, "jobs", receiver="2.1")]) == lost


def test_capacity_explains_as_many_as_were_counted():
    """A dropped message that the layer has counted explains one that is missing, in that queue, and no more."""
    dropped, rest = Record(Event.DROPPED, 3.0, READER, "jobs", detail="SLOW"), without(Event.RECEIVED, 2)
    assert not judge([*rest, dropped])
    for change in ({"channel": "other"}, {"detail": "UNDECODABLE"}):
        assert list(wrong([*rest, msgspec.structs.replace(dropped, **change)])) == ["lost"]
    two = [record for record in GOOD if record.event is not Event.RECEIVED or record.number not in (1, 2)]
    assert len(wrong([*two, dropped])["lost"]) == 1


def test_a_killed_receiver_explains_what_it_had_claimed():
    """Each receive() that a killed process had begun may have claimed one message, and no more."""
    killed = Record(Event.KILLED, 9.0, OTHER, number=READER)
    assert not judge([*without(Event.RECEIVED, 3), killed])
    two = [record for record in GOOD if record.event is not Event.RECEIVED or record.number not in (2, 3)]
    assert not judge([*two, killed])
    assert list(wrong([*without(Event.RECEIVED, 3), msgspec.structs.replace(killed, number=OTHER)])) == ["lost"]


def test_a_killed_receivers_own_channels():
    """What was for the own channels of a killed process is lost with it."""
    mine = direct(9, 9, channel="specific.x!y")
    made = Record(Event.MADE, 0.0, READER, "specific.x!y")
    assert list(wrong([*GOOD, made, *mine])) == ["lost"]
    assert not judge([*GOOD, made, *mine, Record(Event.KILLED, 9.5, OTHER, number=READER)])


def test_who_joins_or_leaves_meanwhile_may_have_it_or_not():
    """A member that joins or leaves while a message is sent may get it; one that was not there before must not."""
    for records in (member("c", 6.05), member("c", 5.0, end=6.05)):
        assert not judge(GOOD + records)
        assert not judge(GOOD + records + taken(6, 6.2, to="all", channel="c"))


def test_a_message_for_somebody_who_has_left():
    """Who has left a group, and not come back, must get nothing that is sent there afterwards."""
    late = taken(6, 6.2, to="all", channel="b")
    assert wrong(GOOD + late) == {"invented": [delivery(6, "all", "b")]}
    assert not judge(GOOD + member("b", 6.05) + late)


@pytest.mark.parametrize(("records", "code"), [(GOOD, 0), (without(Event.RECEIVED, 2), 1), ([], 1)])
def test_the_command(tmp_path, records, code):
    """Offline, it reads the files and says what it found; without records it does not say that all is well."""
    lines = [msgspec.json.encode(record) + b"\n" for record in records]
    (tmp_path / "1.log").write_bytes(b"".join(lines))
    command = [sys.executable, "-m", "tests.faults.checker", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, "")
    assert ("nothing wrong" in result.stdout) == (code == 0)


def test_a_line_that_was_not_finished(tmp_path):
    """What a killed process had not written to the end of the line is left out, and all before it is there."""
    log = Log(str(tmp_path))
    log.note(Event.OK, "jobs", sender="1.1", number=5)
    with next(tmp_path.glob("*.log")).open("ab") as file:
        file.write(b'{"event":"received","at":1.0,"pro')
    (record,) = read(tmp_path)
    assert (record.event, record.channel, record.sender, record.number) == (Event.OK, "jobs", "1.1", 5)
