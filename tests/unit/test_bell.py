"""The bell file: who hears it, what becomes of it, and the platforms that have none."""

import asyncio
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from channels_lite import bell as module
from channels_lite.bell import Bell, KqueueListener, Listener, ring_once
from tests import kqueue
from tests.patience import PATIENCE

MakeBell = Callable[[], Bell]
Listen = Callable[[Bell], "Ear"]

linux = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="inotify is Linux's")


@pytest.fixture
def database(path: str) -> str:
    """A file in the database's place; a bell never looks into it."""
    Path(path).touch(0o600)
    return path


@pytest.fixture
def make_bell(database: str) -> Iterator[MakeBell]:
    """Make bells of the same database, as several processes do; they are closed afterwards."""
    bells: list[Bell] = []

    def make() -> Bell:
        bells.append(Bell(database))
        return bells[-1]

    yield make
    for bell in bells:
        bell.close()


@pytest.fixture
def bell(make_bell: MakeBell) -> Bell:
    """One bell."""
    return make_bell()


class Ear:
    """A listener in the running loop."""

    def __init__(self, listener: Listener | None) -> None:
        assert listener is not None
        self.listener = listener
        self._readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(listener.fileno(), self._readable.set)

    async def hears(self) -> bool:
        """Wait until something is heard: False where the listener is of no more use."""
        await asyncio.wait_for(self._readable.wait(), PATIENCE)
        self._readable.clear()
        return self.listener.drain()

    def close(self) -> None:
        """Give the descriptor back."""
        asyncio.get_running_loop().remove_reader(self.listener.fileno())
        self.listener.close()


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Listen to bells; in the end nobody does any more."""
    ears: list[Ear] = []

    def listen(bell: Bell) -> Ear:
        ears.append(Ear(bell.listen()))
        return ears[-1]

    yield listen
    for ear in ears:
        ear.close()


def mode_of(path: str) -> int:
    """A file's permissions."""
    return stat.S_IMODE(os.stat(path).st_mode)


@linux
async def test_ring_is_heard(bell: Bell, make_bell: MakeBell, listen: Listen) -> None:
    """What another process's bell rings is heard in the loop, every time, and several rings at once as one."""
    ear = listen(bell)
    other = make_bell()
    for rings in (1, 1, 5):
        for _ in range(rings):
            other.ring()
        assert await ear.hears()


@linux
async def test_ring_without_a_bell_of_ones_own(bell: Bell, database: str, listen: Listen) -> None:
    """Who has not opened the database rings its bell all the same, every time."""
    ear = listen(bell)
    for _ in range(2):
        ring_once(database)
        assert await ear.hears()


@linux
async def test_drained_twice(bell: Bell, listen: Listen) -> None:
    """Draining when there is nothing to hear neither waits nor fails."""
    listener = bell.listen()
    assert listener is not None
    assert listener.drain()
    bell.ring()
    assert listener.drain()
    assert listener.drain()
    listener.close()


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o664, 0o664), (0o777, 0o666)])
def test_mode(database: str, make_bell: MakeBell, mode: int, expected: int) -> None:
    """Who may read and write the database may do so with the bell, whatever the umask says."""
    os.chmod(database, mode)
    before = os.umask(0o077)
    try:
        bell = make_bell()
    finally:
        os.umask(before)
    assert mode_of(bell.path) == expected


def test_existing_file_is_kept(bell: Bell, make_bell: MakeBell) -> None:
    """A bell that is there is used as it is, and has eight bytes whoever rings how often."""
    os.chmod(bell.path, 0o640)
    inode = os.stat(bell.path).st_ino
    other = make_bell()
    for each in (bell, other, bell):
        each.ring()
    status = os.stat(bell.path)
    assert (status.st_ino, stat.S_IMODE(status.st_mode), status.st_size) == (inode, 0o640, 8)


@linux
def test_stamp(bell: Bell, make_bell: MakeBell) -> None:
    """Each ring, whoever rings, leaves a stamp that was not there before, and all read the same one."""
    bells = [bell, make_bell(), make_bell()]
    stamps = [bell.stamp()]
    for each in bells * 300:
        each.ring()
        stamps.append(each.stamp())
        assert {other.stamp() for other in bells} == {stamps[-1]}
    assert None not in stamps
    assert len(set(stamps)) == len(stamps)


@linux
def test_stamp_of_a_bell_that_was_there(bell: Bell, make_bell: MakeBell) -> None:
    """Hanging up a bell that is there, and only looking at it, changes no stamp."""
    bell.ring()
    before = bell.stamp()
    other = make_bell()
    assert other.stamp() == bell.stamp() == before
    other.close()
    assert bell.stamp() == before


@linux
def test_no_stamp_of_a_deleted_bell(bell: Bell, make_bell: MakeBell) -> None:
    """Who has a deleted bell open sees none of the rings of its successor: it has no stamp until it is renewed."""
    other = make_bell()
    bell.ring()
    before = bell.stamp()
    os.unlink(bell.path)
    other.ring()  # which renews it
    while (stamp := bell.stamp()) == before:
        time.sleep(module.FRESH)
    assert stamp is None
    assert other.stamp() not in (before, None)
    assert bell.renew()
    assert bell.stamp() == other.stamp()
    other.ring()
    assert bell.stamp() == other.stamp()


@linux
def test_no_stamp_without_a_bell(bell: Bell, make_bell: MakeBell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed bell has no stamp, nor has one that cannot be heard, though it may be there."""
    bell.close()
    assert bell.stamp() is None
    monkeypatch.setattr(module, "_listener_class", lambda: None)
    assert make_bell().stamp() is None


@linux
async def test_deleted_is_heard(bell: Bell, listen: Listen) -> None:
    """A listener hears that the bell was deleted, so that even without polls it is made anew."""
    ear = listen(bell)
    os.unlink(bell.path)
    assert not await ear.hears()


@linux
async def test_replaced_is_heard(bell: Bell, listen: Listen) -> None:
    """A listener hears that the bell was moved away."""
    ear = listen(bell)
    os.rename(bell.path, f"{bell.path}-old")
    assert not await ear.hears()


@linux
async def test_deleted_is_made_anew(
    bell: Bell, make_bell: MakeBell, caplog: pytest.LogCaptureFixture, listen: Listen
) -> None:
    """A deleted bell is made anew with the same rights and a warning, and all who renew theirs ring the same one."""
    other = make_bell()
    os.unlink(bell.path)
    assert bell.renew()
    assert not bell.renew()
    assert other.renew()
    assert mode_of(bell.path) == 0o600
    assert "was deleted; it is made anew" in caplog.text
    ear = listen(bell)
    other.ring()
    assert await ear.hears()


@linux
async def test_replaced_is_opened(bell: Bell, make_bell: MakeBell, listen: Listen) -> None:
    """Where somebody else has put a new bell in place, that one is rung."""
    Path(f"{bell.path}-new").write_bytes(b"\0")
    os.replace(f"{bell.path}-new", bell.path)
    assert bell.renew()
    ear = listen(make_bell())
    bell.ring()
    assert await ear.hears()


def test_failed_renewal_spares_other_files(bell: Bell, tmp_path: Path) -> None:
    """A bell that cannot be made anew never writes to another file that was given its descriptor's number."""
    os.unlink(bell.path)
    os.mkdir(bell.path)  # in place of the bell: it cannot be opened for writing
    with pytest.raises(IsADirectoryError):
        bell.renew()
    with (tmp_path / "stranger").open("w+b", buffering=0) as stranger:
        stranger.write(b"SQLite format 3")
        bell.ring()
        assert stranger.seek(0) == 0
        assert stranger.read() == b"SQLite format 3"
    os.rmdir(bell.path)
    assert bell.renew()


def test_ring_that_fails(bell: Bell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring on a full disk, made to fail here, is logged and not raised: the commit stands."""

    def fail(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fail)
    bell.ring()
    assert "cannot be rung: [Errno 28] No space left on device. Other processes hear by polling" in caplog.text


def test_ring_where_none_hangs(database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who has not opened the database makes no bell, and rings none through a link; that is logged and not raised."""
    ring_once(database)
    assert (os.path.exists(f"{database}-bell"), caplog.text) == (False, "")
    (tmp_path / "elsewhere").write_bytes(b"12345678")
    os.symlink(tmp_path / "elsewhere", f"{database}-bell")
    ring_once(database)
    assert (tmp_path / "elsewhere").read_bytes() == b"12345678"
    assert "-bell cannot be rung: " in caplog.text


def test_closed(bell: Bell) -> None:
    """A closed bell is silent, may be closed again, and its file stays."""
    bell.close()
    bell.close()
    bell.ring()
    assert not bell.renew()
    assert os.path.exists(bell.path)
    assert not open_descriptors(bell.path)


def open_descriptors(path: str) -> list[str]:
    """This process's descriptors of a file."""
    folder = "/proc/self/fd"
    numbers = os.listdir(folder) if os.path.exists(folder) else []
    return [n for n in numbers if os.path.exists(f"{folder}/{n}") and os.readlink(f"{folder}/{n}") == path]


@linux
def test_listener_without_file(bell: Bell) -> None:
    """Listening to a bell that is gone is an OSError that leaves no descriptor behind."""
    os.unlink(bell.path)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        bell.listen()
    assert os.listdir("/proc/self/fd") == before


@linux
def test_listener_unavailable(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for an inotify instance, simulated here, the bell can be rung, and listening is an OSError."""

    def fail(path: str) -> Listener:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module, "InotifyListener", fail)
    bell = Bell(database)
    with pytest.raises(OSError, match="Too many open files"):
        bell.listen()
    bell.ring()
    bell.close()


def test_platform_without_bell(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a platform with neither inotify nor kqueue, which is only pretended here, no bell is made or rung."""
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(module, "select", SimpleNamespace())
    bell = Bell(database)
    bell.ring()
    ring_once(database)
    assert bell.listen() is None
    assert not bell.renew()
    assert not os.path.exists(bell.path)
    bell.close()


@pytest.fixture
def macos(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A pretended macOS, whose kqueue is made of inotify; returns its module select."""
    pretended = SimpleNamespace()
    kqueue.put_into(pretended)
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(module, "select", pretended)
    return pretended


@linux
async def test_kqueue(macos: SimpleNamespace, make_bell: MakeBell, listen: Listen) -> None:
    """With a kqueue, which is only pretended here, a bell is heard that another process has opened."""
    bell, ringing = make_bell(), make_bell()
    ear = listen(bell)
    assert isinstance(ear.listener, KqueueListener)
    for _ in range(3):
        ringing.ring()
        assert await ear.hears()
    ring_once(bell.path.removesuffix(module.SUFFIX))
    assert await ear.hears()


@linux
@pytest.mark.parametrize("end", [os.unlink, lambda path: os.rename(path, f"{path}-old")], ids=["deleted", "renamed"])
async def test_kqueue_after_its_end(
    macos: SimpleNamespace, bell: Bell, listen: Listen, end: Callable[[str], None]
) -> None:
    """The pretended kqueue says that the file is gone, and the bell that is made anew is heard by a new one."""
    ear = listen(bell)
    end(bell.path)
    assert not await ear.hears()
    assert bell.renew()
    new = listen(bell)
    bell.ring()
    assert await new.hears()


@linux
def test_kqueue_closed(macos: SimpleNamespace, bell: Bell) -> None:
    """Closing the pretended kqueue and the bell gives back both descriptors of the file."""
    listener = bell.listen()
    assert listener is not None
    assert len(open_descriptors(bell.path)) == 2
    listener.close()
    bell.close()
    assert not open_descriptors(bell.path)


@linux
def test_kqueue_unavailable(macos: SimpleNamespace, bell: Bell) -> None:
    """Without room for a kqueue, simulated here like the kqueue itself, no descriptor is left behind."""
    before = open_descriptors(bell.path)

    def fail() -> None:
        raise OSError(24, "Too many open files")

    macos.kqueue = fail
    with pytest.raises(OSError, match="Too many open files"):
        bell.listen()
    assert open_descriptors(bell.path) == before


def test_nobody_closes_it_while_it_is_rung(make_bell: MakeBell) -> None:
    """Who closes it waits until it is rung: the number of its descriptor may be another file's right afterwards."""
    bell = make_bell()
    closing, closed, real = (
        threading.Thread(target=lambda: (bell.close(), closed.set())),
        threading.Event(),
        bell._write,
    )

    def write(fd: int) -> None:
        closing.start()
        assert not closed.wait(0.05)
        real(fd)

    bell._write = write  # type: ignore[method-assign]
    bell.ring()
    closing.join()
    assert closed.is_set()


def test_ring_when_it_is_closed(make_bell: MakeBell, tmp_path: Path) -> None:
    """Where it was closed, nothing is written, whichever file has its number by now."""
    bell = make_bell()
    bell.close()
    other = tmp_path / "other"
    with other.open("wb") as file:
        bell._fd = file.fileno()
        bell.ring()
    assert other.read_bytes() == b""
