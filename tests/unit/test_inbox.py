"""The inbox of a layer and the ways into it, in one process: what may be sent, what is found, what is left behind."""

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from channels_lite import inbox as module
from channels_lite import outbox as sending
from channels_lite.datagram import MOST_BYTES, Handed, pack, unpack
from channels_lite.inbox import Inbox
from channels_lite.outbox import Outboxes
from channels_lite.page import ANY, PLACES, SOCKET, connect, folder_of, give, open_page, path_of

fcntl = pytest.importorskip("fcntl", reason="there are inboxes on Linux only")
pytestmark = pytest.mark.skipif(not module.is_possible(), reason="there are inboxes on Linux only")

OWNER = "0123456789abcdef0123456789abcdef"
QUEUE = f"specific.{OWNER}!"
MESSAGE = Handed(QUEUE, b'["one"]', b"payload", 10**15)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A file in the place of a database."""
    path = tmp_path / "channels.sqlite3"
    path.write_bytes(b"")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def make(database: str) -> Iterator[Callable[..., Inbox]]:
    """Make inboxes beside it, with room for so many messages; they are closed afterwards."""
    made: list[Inbox] = []

    def make_one(room: int = 10, prefix: str = "", owner: str = OWNER) -> Inbox:
        made.append(Inbox(database, prefix, owner))
        made[-1].make_room(room, 0)
        return made[-1]

    yield make_one
    while made:
        made.pop().discard()


@pytest.fixture
def outboxes(database: str) -> Iterator[Outboxes]:
    """The ways into them."""
    outboxes = Outboxes(database, "")
    yield outboxes
    outboxes._found.clear()


def close(inbox: Inbox) -> list[bytes]:
    """Close an inbox as a layer does: what was still in it."""
    inbox.shut()
    datagrams = inbox.collect()
    inbox.discard()
    return datagrams


def send(outboxes: Outboxes, message: Handed = MESSAGE) -> bool:
    """Whether a message could be sent."""
    outbox = outboxes.find(message.queue)
    quiet = None if outbox is None else outbox.page.quiet
    return outbox is not None and quiet is not None and outboxes.send(outbox, message, ANY, quiet)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 100])
@pytest.mark.parametrize("targets", [b"[]", b'["a","b"]'])
def test_a_message_comes_out_as_it_went_in(targets: bytes, payload: bytes) -> None:
    """Whatever the payload."""
    message = Handed(QUEUE, targets, payload, 2**63)
    assert unpack(pack(message)) == message


def test_messages_arrive_in_order(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """And the inbox is behind until they have been delivered."""
    inbox = make()
    assert not inbox.is_behind
    sent = [replace(MESSAGE, payload=str(number).encode()) for number in range(5)]
    assert all(send(outboxes, message) for message in sent)
    assert inbox.is_behind
    assert [unpack(datagram) for datagram in inbox.collect()] == sent
    assert inbox.is_behind
    inbox.all_delivered()
    assert not inbox.is_behind


@pytest.mark.parametrize("room", [0, 1, 3])
def test_no_more_than_there_is_room_for(make: Callable[..., Inbox], outboxes: Outboxes, room: int) -> None:
    """Not one message more, until the receiver has taken some out and lets others send again."""
    inbox = make(room)
    assert [send(outboxes) for _ in range(room + 2)] == [True] * room + [False] * 2
    assert len(inbox.collect()) == room
    assert not send(outboxes)
    inbox.make_room(2, 0)
    assert [send(outboxes) for _ in range(3)] == [True, True, False]


def test_what_is_under_way_takes_room(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """Messages that were found while more were allowed count against those."""
    inbox = make(4)
    for _ in range(4):
        send(outboxes)
    assert len(inbox.make_room(5, 0)) == 4
    assert [send(outboxes) for _ in range(2)] == [True, False]


def test_room_is_given_again_before_it_is_gone(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """A receiver that keeps up never lets senders run out of it."""
    inbox = make(10)
    for _ in range(100):
        assert send(outboxes)
        inbox.collect()
        if inbox.is_low:
            inbox.make_room(10, 0)


def test_no_inbox(outboxes: Outboxes, make: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has none is not found, whatever the name; once it has one, it is found soon."""
    for queue in (QUEUE, "specific.!", "x!", "!", "a.b.c!"):
        assert outboxes.find(queue) is None
    make()
    assert outboxes.find(QUEUE) is None
    monkeypatch.setattr(sending.time, "monotonic", lambda clock=sending.time.monotonic: clock() + sending.RETRY)
    assert outboxes.find(QUEUE) is not None


def test_layers_with_other_prefixes(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """They do not find each other."""
    make(prefix="other")
    assert outboxes.find(QUEUE) is None


def test_many_owners(outboxes: Outboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queues are asked for, few are remembered."""
    monkeypatch.setattr(sending, "MISSING", 10)
    for number in range(50):
        assert outboxes.find(f"specific.{number}!") is None
    assert len(outboxes._missing) <= 10


def test_descriptors_of_a_sender(
    make: Callable[..., Inbox], outboxes: Outboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many inboxes it has sent to, it has few open: none that were closed, and not too many others."""
    monkeypatch.setattr(sending, "OUTBOXES", 5)
    for number in range(20):
        inbox = make(owner=f"gone{number}")
        assert send(outboxes, replace(MESSAGE, queue=f"specific.gone{number}!"))
        close(inbox)
    assert len(outboxes._found) <= 5
    outboxes.prune()
    assert not outboxes._found
    for number in range(20):
        make(owner=f"there{number}")
        assert send(outboxes, replace(MESSAGE, queue=f"specific.there{number}!"))
    assert len(outboxes._found) <= 5


def test_after_it_was_closed(make: Callable[..., Inbox], outboxes: Outboxes, database: str) -> None:
    """Nobody can send any more, not even who knew it; what was there is given back; the files are gone."""
    inbox = make()
    assert send(outboxes)
    assert [unpack(datagram) for datagram in close(inbox)] == [MESSAGE]
    assert not send(outboxes)
    assert os.listdir(folder_of(database)) == []


def test_a_layer_that_opens_again(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """Its new inbox has the name of the one before, and is found by who knew that."""
    close(make())
    assert not send(outboxes)
    outboxes._missing.clear()
    again = make()
    assert send(outboxes)
    assert len(again.collect()) == 1


def test_closing_waits_for_a_sender(make: Callable[..., Inbox], database: str) -> None:
    """One that is in the middle of sending has sent before the inbox is closed, and its message is not lost."""
    inbox = make()
    outbox = Outboxes(database, "").find(QUEUE)
    assert outbox is not None
    assert outbox.page.acquire()
    found: list[bytes] = []
    closing = threading.Thread(target=lambda: found.extend(close(inbox)))
    closing.start()
    outbox.page.count(ANY)
    outbox._socket.send(pack(MESSAGE))
    outbox.page.release()
    closing.join()
    assert [unpack(datagram) for datagram in found] == [MESSAGE]


def test_a_sender_that_was_stopped_in_the_middle(
    make: Callable[..., Inbox], outboxes: Outboxes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds up nobody: others send in another way, the receiver goes on, and closing gives up waiting."""
    monkeypatch.setattr(module, "CLOSING", 0.0)
    inbox = make()
    assert send(outboxes)
    stopped = Outboxes(database, "").find(QUEUE)
    assert stopped is not None
    assert stopped.page.acquire()
    assert not send(outboxes)
    assert len(inbox.collect()) == 1
    assert inbox.make_room(10, 0) == []
    assert close(inbox) == []


class Overtaken:
    """A sender's socket whose receiver goes on before send() returns, as it does on a core that both share."""

    def __init__(self, real: socket.socket, inbox: Inbox) -> None:
        self._socket = real
        self._inbox = inbox
        self.received: list[bytes] = []

    def send(self, datagram: bytes) -> None:
        self._socket.send(datagram)
        self.received += self._inbox.collect()
        self._inbox.all_delivered()


def test_a_receiver_that_overtakes_the_sender(make: Callable[..., Inbox], database: str) -> None:
    """It finds the message counted already, and does not ask for the lock, which the sender still has."""
    inbox = make(10)
    outbox = Outboxes(database, "").find(QUEUE)
    assert outbox is not None
    outbox._socket = overtaken = Overtaken(outbox._socket, inbox)  # type: ignore[assignment]
    assert outbox.send(pack(MESSAGE))
    assert [unpack(datagram) for datagram in overtaken.received] == [MESSAGE]
    assert not inbox.is_low
    assert inbox.is_at_rest


@pytest.mark.parametrize("counted", [True, False])
def test_a_sender_that_was_killed_in_the_middle(
    make: Callable[..., Inbox], outboxes: Outboxes, database: str, counted: bool
) -> None:
    """No room is lost for good by a message that it counted and never sent; a stranger's that was not arrives."""
    inbox = make(10)
    killed = Outboxes(database, "").find(QUEUE)
    assert killed is not None
    if counted:
        killed.page.count(ANY)
    else:
        killed._socket.send(pack(MESSAGE))
    for _ in range(5):
        for _ in range(9):
            assert send(outboxes)
        inbox.collect()
        inbox.make_room(10, 0)
        inbox.all_delivered()
    assert not inbox.is_behind


def test_a_message_that_is_too_long(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """It takes another way; the longest one that does not arrives whole."""
    inbox = make()
    rest = MOST_BYTES - len(pack(MESSAGE)) + len(MESSAGE.payload)
    assert not send(outboxes, replace(MESSAGE, payload=bytes(rest + 1)))
    longest = replace(MESSAGE, payload=bytes(rest))
    assert send(outboxes, longest)
    assert [unpack(datagram) for datagram in inbox.collect()] == [longest]


def test_a_socket_that_is_full(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """Where the system takes no more, messages take another way, and those that were taken arrive."""
    inbox = make(10**6)
    sent = 0
    while send(outboxes, replace(MESSAGE, payload=bytes(60_000))):
        sent += 1
    assert 0 < sent < 10**6
    assert len(inbox.collect()) == sent
    inbox.all_delivered()
    assert not inbox.is_behind


KILLED = """
import os, sys
from channels_lite.inbox import Inbox
inbox = Inbox(sys.argv[1], "", sys.argv[2])
inbox.make_room(10, 0)
os._exit(0)
"""


@pytest.fixture
def killed(database: str) -> str:
    """The path of an inbox whose process has ended without a word."""
    subprocess.run([sys.executable, "-c", KILLED, database, OWNER], check=True)
    return path_of(folder_of(database), "", OWNER)


def test_the_inbox_of_a_killed_process(killed: str, outboxes: Outboxes) -> None:
    """Who sends to it notices, and removes what is left."""
    assert os.path.exists(killed)
    assert not send(outboxes)
    assert outboxes.find(QUEUE) is None
    assert not os.path.exists(killed)
    assert not os.path.exists(killed + SOCKET)


def test_a_process_that_is_killed_later(database: str, outboxes: Outboxes) -> None:
    """As above, for one that was known while it lived."""
    script = KILLED.replace("os._exit(0)", "print(flush=True); sys.stdin.read(); os._exit(0)")
    command = [sys.executable, "-c", script, database, OWNER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert send(outboxes)
        process.kill()
    assert not send(outboxes)
    assert os.listdir(folder_of(database)) == []


def test_cleaning(killed: str, make: Callable[..., Inbox], database: str) -> None:
    """What killed processes have left is removed; what others use, or is none of ours, stays."""
    living, other = make(owner="living"), make(owner="other")
    folder = Path(folder_of(database))
    (folder / "strange.socket").mkdir()
    (folder / "folder").mkdir()
    (folder / "a page without a socket").touch()
    living.clean()
    names = {path.name.removesuffix(SOCKET) for path in folder.iterdir()}
    assert names - {"strange"} == {living.name, other.name, "folder"}


def test_cleaning_without_a_folder(make: Callable[..., Inbox], database: str, outboxes: Outboxes) -> None:
    """Where somebody has removed it, whoever knows the inbox goes on using it."""
    inbox = make()
    assert send(outboxes)
    shutil.rmtree(folder_of(database))
    inbox.clean()
    assert send(outboxes)
    assert len(inbox.collect()) == 2


def test_flush(make: Callable[..., Inbox], database: str, killed: str) -> None:
    """Every inbox but our own gets the word, room or not, after what was sent before."""
    inbox, own = make(1, owner="a"), make(1, owner="b")
    assert send(Outboxes(database, ""), replace(MESSAGE, queue="specific.a!"))
    sending.flush(database, "prefix", {own.name})
    message, word = map(unpack, inbox.collect())
    assert message.payload == MESSAGE.payload
    assert (word.queue, word.targets) == ("", b"prefix")
    assert own.collect() == []


def test_a_flush_that_does_not_reach_a_process(
    make: Callable[..., Inbox], database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for a while, and says so."""
    monkeypatch.setattr(sending, "FLUSHING", 0.01)
    inbox = make(10**6)
    full = [Outboxes(database, "")]
    while send(full[-1]):  # until a sender that has sent nothing yet cannot send
        while send(full[-1]):
            pass
        full.append(Outboxes(database, ""))
    sending.flush(database, "", set())
    assert "Not flushed, because its process does not read it" in caplog.text
    assert inbox.name in caplog.text


def test_flush_without_inboxes(database: str) -> None:
    """Nothing happens."""
    sending.flush(database, "", set())
    assert not os.path.exists(folder_of(database))


@pytest.mark.parametrize(("mode", "folder"), [(0o600, 0o700), (0o660, 0o770), (0o666, 0o777), (0o640, 0o750)])
def test_rights(make: Callable[..., Inbox], database: str, mode: int, folder: int) -> None:
    """Who may use the database may send, and nobody else, whatever the umask."""
    os.chmod(database, mode)
    mask = os.umask(0o077 if mode == 0o666 else 0)
    try:
        inbox = make()
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(folder_of(database)).st_mode) == folder
    for name in (inbox.name, inbox.name + SOCKET):
        assert stat.S_IMODE(os.stat(os.path.join(folder_of(database), name)).st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else(database: str, make: Callable[..., Inbox]) -> None:
    """It is not used: messages would be given to whoever made it."""
    os.mkdir(folder_of(database))
    os.chown(folder_of(database), 12345, -1)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        make()
    os.chown(database, 12345, -1)
    make()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_users_who_share_a_group(database: str, make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """All that is made belongs to the group of the database; each of its members may have made the folder."""
    os.chmod(database, 0o660)
    os.chown(database, 11111, 22222)
    inbox = make()
    folder = Path(folder_of(database))
    assert {path.stat().st_gid for path in (folder, *folder.iterdir())} == {22222}
    os.chmod(folder, 0o2770)
    give(str(folder), os.stat(database))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    close(inbox)
    os.chown(folder, 33333, 22222)
    make()
    assert send(outboxes)


def test_an_inbox_that_cannot_be_made(
    make: Callable[..., Inbox], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind of one whose page cannot be made."""

    def no_room(path: str, owned: os.stat_result) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "new_page", no_room)
    with pytest.raises(OSError, match="No space left"):
        make()
    assert os.listdir(folder_of(database)) == []


def test_a_strange_page(database: str, outboxes: Outboxes) -> None:
    """One that is too short is as good as none, and leaves no descriptor open."""
    os.mkdir(folder_of(database))
    path = path_of(folder_of(database), "", OWNER)
    Path(path).touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match=r"mmap|empty file"):
        open_page(path)
    assert outboxes.find(QUEUE) is None
    assert os.listdir("/proc/self/fd") == before


def test_descriptors(database: str) -> None:
    """All are given back when both sides are gone."""
    before = os.listdir("/proc/self/fd")
    inbox, outboxes = Inbox(database, "", OWNER), Outboxes(database, "")
    outboxes.find(QUEUE)
    ear = inbox.listen()
    assert len(os.listdir("/proc/self/fd")) > len(before)
    ear.close()
    close(inbox)
    del inbox, outboxes
    assert os.listdir("/proc/self/fd") == before


def test_a_long_path(tmp_path: Path) -> None:
    """A socket's own limit, about a hundred characters, does not matter."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    database = str(folder / "channels.sqlite3")
    Path(database).touch()
    inbox = Inbox(database, "", OWNER)
    inbox.make_room(1, 0)
    assert send(Outboxes(database, ""))
    inbox.discard()


def test_strangers_bytes_in_a_socket(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """An inbox takes what it is given; it is for the layer to refuse it. What is behind it is found all the same."""
    inbox = make()
    with connect(inbox._path + SOCKET) as stranger:
        stranger.send(b"what?")
    assert inbox.collect() == [b"what?"]
    inbox.make_room(10, 0)
    for collect in (lambda: inbox.collect(all_of_it=True), lambda: inbox.make_room(10, 0)):
        with connect(inbox._path + SOCKET) as stranger:
            stranger.send(b"what?")
        assert send(outboxes)
        assert collect() == [b"what?", pack(MESSAGE)]


def test_a_lock_that_a_signal_handler_has_left(
    make: Callable[..., Inbox], outboxes: Outboxes, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has raised just after the page was locked: whoever sends next in this thread puts that right."""
    inbox = make(10)
    outbox = outboxes.find(QUEUE)
    assert outbox is not None
    assert outbox.page.acquire()
    assert send(outboxes)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", lambda fd, how: (_ for _ in ()).throw(TimeoutError) if how & fcntl.LOCK_NB else 0)
        with pytest.raises(TimeoutError):
            send(outboxes)
    other = Outboxes(database, "").find(QUEUE)
    assert other is not None
    assert other.page.acquire()
    other.page.release()
    assert send(outboxes)
    assert len(inbox.collect()) == 2


def test_another_inbox_of_the_same_owner(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """What was known of the rows of the one before says nothing about those of the next."""
    inbox = make()
    before = inbox.page.quiet
    close(inbox)
    after = make()
    assert before is not None
    assert after.page.quiet not in (None, before)
    outbox = outboxes.find(QUEUE)
    assert outbox is not None
    assert not outboxes.send(outbox, MESSAGE, ANY, before)
    assert send(outboxes)


def test_more_mailboxes_than_places(make: Callable[..., Inbox]) -> None:
    """Those that find no place are taken for empty; those that have one keep it, and empty ones make room."""
    inbox = make()
    names = [f"{QUEUE}{number}" for number in range(3 * PLACES)]
    for name in names:
        inbox.hold(name, 7, 7)
    told = [name for name in names if inbox.page.held("none", name) == 7]
    assert PLACES / 2 < len(told) <= PLACES
    assert {inbox.page.held("none", name) for name in names} == {0, 7}
    for name in told:
        inbox.hold(name, 0, 0)
    for name in names[-100:]:
        inbox.hold(name, 3, 3)
    assert {inbox.page.held("none", name) for name in names[-100:]} == {3}


def test_a_message_that_never_comes(make: Callable[..., Inbox], outboxes: Outboxes) -> None:
    """One that was counted, and is not there when it is looked for again, is waited for no longer."""
    inbox = make(10)
    outbox = outboxes.find(QUEUE)
    assert outbox is not None
    outbox.page.count(ANY)
    assert inbox.collect() == []
    assert not inbox.is_low  # it may just be being sent
    assert inbox.collect() == []
    assert inbox.is_low
    inbox.make_room(10, 0)
    inbox.all_delivered()
    assert inbox.is_at_rest


def test_a_lock_that_stays_locked(make: Callable[..., Inbox], database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried each time: whoever has it may have been stopped."""
    inbox = make(10)
    stopped = Outboxes(database, "").find(QUEUE)
    assert stopped is not None
    assert stopped.page.acquire()
    tries = []
    monkeypatch.setattr(module, "BUSY", 3600)
    monkeypatch.setattr(inbox.page, "acquire", lambda patience: tries.append(1))
    for _ in range(5):
        assert inbox.make_room(10, 0) == []
        assert inbox.is_low
    assert len(tries) == 1
