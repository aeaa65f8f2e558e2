"""The files of an inbox: a socket, and a page of shared memory with what its owner and those who send must agree on."""

import contextlib
import hashlib
import itertools
import mmap
import os
import secrets
import socket
import stat
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence

from channels_lite.errors import Locked

if sys.platform != "win32":  # where there are no inboxes
    import fcntl

PATIENCE = 0.001  # seconds that a thread waits for others of its process

TRIES = 20  # for the lock of a page: about 20 us, four times as long as a sender has it
STUCK = 0.05  # seconds after which who has had the lock all the time has been stopped with it

FORMAT = 1  # of pages and datagrams: releases with different ones do not find each other's inboxes, and send rows
SOCKET = ".socket"  # the ending of a socket's name; the page has none
SIZE = 80 * 1024
HIGHEST = 2**64 - 1  # on a page; counting goes on at 0, so that a number that somebody spoilt fails nobody
# What stands where on it, in numbers of eight bytes: whether it is open; how many messages were ever allowed, sent, and
# received; how often sending a row was begun or ended; how many claimed rows are not in mailboxes yet, plus CLAIMING.
OPEN, GIVEN, TAKEN, READ, ROWS, CLAIMED = range(6)
# Then come the places of mailboxes: how many messages are in one, times 2**32, plus the mark of its channel or queue.
FIRST_PLACE = 8
PLACES = 8192
NEAR = 16  # places, one after the other, where a mailbox may be
# And then, in numbers of four bytes, the mark of each message's channel, by the number that it was sent as.
FIRST_MARK = 2 * (FIRST_PLACE + PLACES)
MARKS = 2048
# And then, in numbers of eight bytes again, what its owner lets others know of itself: see ``stats.Process``.
FIRST_COUNT = FIRST_PLACE + PLACES + MARKS // 2
COUNTS = 16
ANY = 0  # the mark of a message to several
CLAIMING = 2**32  # from a claim until the room that its rows take has been taken back
LOW = 2**32 - 1  # the lower half of a number


def folder_of(database: str) -> str:
    """The folder of a database's inboxes."""
    return f"{database}-inbox"


def path_of(folder: str, prefix: str, owner: str) -> str:
    """Where an inbox is: layers with different prefixes do not see each other."""
    name = hashlib.blake2b(f"{FORMAT}\0{prefix}\0{owner}".encode(), digest_size=16).hexdigest()
    return os.path.join(folder, name)


class Page:
    """The page that a receiver and those who send to it share.

    Shared memory ends a process that reads it when somebody has cut its file short. So does SQLite's own -shm.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        shared = memoryview(mmap.mmap(fd, SIZE))
        self.numbers = shared.cast("Q")
        self._marks = shared.cast("I")[FIRST_MARK : FIRST_MARK + MARKS]
        self._lock = threading.RLock()  # between the threads of a process: the system's lock is all of theirs
        self._stuck_since = 0.0  # since when the lock could not be had for a row
        self._begun = 0  # what ROWS was at the last look
        self._begun_at = 0.0  # since when it has been that
        weakref.finalize(self, os.close, fd)  # by then no thread uses it any more

    @property
    def is_open(self) -> bool:
        """Whether its receiver has not closed it. Read without the lock: it is a hint."""
        return self.numbers[OPEN] != 0

    def shut(self) -> None:
        """Close it for ever."""
        self.numbers[OPEN] = 0

    @property
    def taken(self) -> int:
        """How many messages have been sent, or are just being sent."""
        return self.numbers[TAKEN]

    def count(self, mark: int) -> None:
        """Under the lock: one more is being sent, to the channel with this mark."""
        taken = self.numbers[TAKEN]
        self._marks[taken % MARKS] = mark
        self.numbers[TAKEN] = taken + 1 & HIGHEST

    def uncount(self) -> None:
        """Under the lock: it was not."""
        self.numbers[TAKEN] = self.numbers[TAKEN] - 1 & HIGHEST

    @property
    def room(self) -> int:
        """Under the lock: how many more may be sent."""
        return _ahead(self.numbers[GIVEN], self.numbers[TAKEN])

    @room.setter
    def room(self, room: int) -> None:
        self.numbers[GIVEN] = self.numbers[TAKEN] + room & HIGHEST

    def read(self, number: int) -> None:
        """Let it be known how many have been received."""
        self.numbers[READ] = number

    def tell(self, counts: Sequence[int]) -> None:
        """Let others know these numbers of its owner, at most COUNTS; each is right, not all at one moment."""
        for place, number in enumerate(counts, FIRST_COUNT):
            self.numbers[place] = number & HIGHEST

    def told(self) -> list[int]:
        """What the owner has told last; all 0 where it has not."""
        return self.numbers[FIRST_COUNT : FIRST_COUNT + COUNTS].tolist()

    # Rows. Who sends one holds the database's write lock, so that there is one at a time, and so does who claims some.

    @property
    def quiet(self) -> int | None:
        """What is another number when rows have come or gone since; None while they do.

        What is handed over and takes no account of rows is right if this was a number before it was known that there
        are none, and is the same number afterwards.
        """
        rows = self.numbers[ROWS]
        return None if rows & 1 or self.numbers[CLAIMED] else rows

    def begin_row(self, *, later: bool = False) -> bool:
        """From here until ``end_row`` nothing is handed over to the owner, by others or by itself.

        False where somebody else has the lock all the time, and may hand over the one message that he is at. ``later``:
        Locked is raised until that is sure.
        """
        locked = self.acquire(0.0 if self._stuck_since else PATIENCE)
        if locked:
            self._stuck_since = 0.0
        else:
            now = time.monotonic()
            self._stuck_since = self._stuck_since or now
            if later and now - self._stuck_since < STUCK:
                raise Locked("The page of an inbox is locked.")
        self.numbers[ROWS] = (self.numbers[ROWS] + 1 | 1) & HIGHEST
        return locked

    def end_row(self, locked: bool) -> None:
        """The row is committed, or will not be; ``locked``: what ``begin_row`` said."""
        self.numbers[ROWS] = (self.numbers[ROWS] | 1) + 1 & HIGHEST
        if locked:
            self.release()

    def forget_row(self) -> None:
        """Under the lock: who has begun to send a row for this long was killed; see ``begin_row`` for who has not."""
        rows, now = self.numbers[ROWS], time.monotonic()
        if rows != self._begun:
            self._begun, self._begun_at = rows, now
        elif rows & 1 and now - self._begun_at > STUCK:
            self.numbers[ROWS] = rows + 1 & HIGHEST

    def begin_claim(self, number: int) -> None:
        """So many rows leave the database, under its write lock. Until ``end_claim`` nothing is handed over."""
        self.claimed(number)
        self.numbers[ROWS] = self.numbers[ROWS] + 2 & HIGHEST

    def claimed(self, left: int) -> None:
        """Of these, so many are not in mailboxes yet."""
        self.numbers[CLAIMED] = CLAIMING | left

    @property
    def is_claiming(self) -> bool:
        """Whether a claim has begun and not ended."""
        return self.numbers[CLAIMED] != 0

    def end_claim(self) -> None:
        """The room of what was claimed has been taken back."""
        self.numbers[CLAIMED] = 0

    def held(self, queue: str, channel: str | None) -> int:
        """How much of the capacity of a channel, or of its queue, is taken by what is not a row.

        Between ``begin_row`` and ``end_row``. While something moves it may be counted twice, and it is never missed.
        """
        wanted = None if channel is None else mark(channel)
        # In this order: its owner says first what is in a mailbox, and then that it is not elsewhere any more.
        elsewhere = (self.numbers[CLAIMED] & LOW) + self._under_way(wanted)
        return elsewhere + max(self._in_mailbox(mark(queue)), 0 if wanted is None else self._in_mailbox(wanted))

    def _under_way(self, wanted: int | None) -> int:
        """How many have been sent and are not in a mailbox: to the channel with this mark, or to any."""
        read = self.numbers[READ]
        number = max(0, _ahead(self.numbers[TAKEN], read))
        if wanted is None or number > MARKS:
            return number
        first = read % MARKS
        marks = self._marks[first : first + number].tolist() + self._marks[: max(0, first + number - MARKS)].tolist()
        return marks.count(wanted) + marks.count(ANY)

    def _in_mailbox(self, wanted: int) -> int:
        first = first_place(wanted)
        for number in self.numbers[first : first + NEAR].tolist():
            if number & LOW == wanted:
                return number >> 32
        return 0

    def acquire(self, patience: float = 0.0) -> bool:
        """Lock the page; False where another process has the lock, which may have been stopped with it.

        ``patience``: seconds after TRIES in which others get the processor. Each such turn can take milliseconds.
        """
        while self._lock._is_owned():  # type: ignore[attr-defined] # as threading.Condition asks it
            self._lock.release()  # a signal handler has raised in this thread just before it would have done so
        if not self._lock.acquire(blocking=False) and not self._lock.acquire(timeout=PATIENCE):
            return False
        try:
            locked = self._acquire_from_others(patience)
        except BaseException:
            self.release()
            raise
        if not locked:
            self._lock.release()
        return locked

    def _acquire_from_others(self, patience: float) -> bool:
        end = 0.0
        for number in itertools.count():
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if number >= TRIES:
                    now = time.monotonic()
                    end = end or now + patience
                    if now >= end:
                        break
                    os.sched_yield()
            except OSError as error:
                if error.errno is None:  # a signal handler's
                    raise
                break  # a file system without locks: then nobody sends to this inbox
            else:
                return True
        return False

    def release(self) -> None:
        """Unlock it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._lock.release()


class Rows:
    """The rows that a statement or a transaction sends to process-specific queues, with the pages of these."""

    def __init__(self, *, later: bool = False) -> None:
        """``later``: who sends them tries again after Locked."""
        self._later = later
        self._pages: dict[Page, bool] = {}  # whether they are locked

    def held(self, page: Page, queue: str, channel: str | None) -> int:
        """As ``Page.held``, for a row to this page's owner that is one of these."""
        if page not in self._pages:
            self._pages[page] = page.begin_row(later=self._later)
        held = page.held(queue, channel)
        # Whoever was stopped with the lock may still send the one message that it is at.
        return held if self._pages[page] else held + 1

    def end(self) -> None:
        """All are committed, or none will be."""
        while self._pages:
            page, locked = self._pages.popitem()
            page.end_row(locked)


def mark(name: str) -> int:
    """What stands for a name on a page."""
    return zlib.crc32(name.encode()) or 1


def first_place(mark: int) -> int:
    """From where on the mailbox with this mark may be."""
    return FIRST_PLACE + mark % (PLACES - NEAR)


def _ahead(one: int, other: int) -> int:
    """How much further one number is than another; negative where it is behind."""
    return (one - other + HIGHEST // 2 & HIGHEST) - HIGHEST // 2


def new_page(path: str, owned: os.stat_result) -> Page:
    """Make the page of an inbox, open and without room, for those who have this file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (1).to_bytes(SIZE, sys.byteorder))  # in full: that the disk has no room must be noticed here
        give(path, owned)
        page = Page(fd)
        page.numbers[ROWS] = 2 * secrets.randbits(29)  # what is known of another page of the same queue says nothing
        return page
    except (OSError, ValueError):
        os.close(fd)
        raise


def give(path: str | int, owned: os.stat_result) -> None:
    """Let those use it, and nobody else, who have the rights to a file: past the umask, and to its group.

    What root makes gets its owner too, as SQLite does with its files: the servers must be able to use what a command of
    root's has made. ``path`` may be a descriptor.
    """
    if sys.platform == "win32":  # who may use a file is its folder's matter there
        return
    there, mode = os.stat(path), owned.st_mode & 0o666
    if stat.S_ISDIR(there.st_mode):
        mode |= mode >> 2 & 0o111 | there.st_mode & stat.S_ISGID
    owner = owned.st_uid if os.geteuid() == 0 else -1
    if (there.st_uid, there.st_gid) != (owned.st_uid, owned.st_gid):
        with contextlib.suppress(PermissionError):  # only members of a group may give to it
            os.chown(path, owner, owned.st_gid)
    os.chmod(path, mode)


def open_page(path: str) -> Page:
    """The page of somebody's inbox; ValueError where it is too short. Not through a link, which may lead anywhere."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return Page(fd)
    except (OSError, ValueError):
        os.close(fd)
        raise


def at(path: str, use: Callable[[str], None]) -> None:
    """Bind or connect a socket, whose own limit for a path is about 100 characters."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def connect(path: str) -> socket.socket:
    """A socket connected to this one; ConnectionRefusedError where its process has ended."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        at(path, connection.connect)
    except OSError:
        connection.close()
        raise
    return connection


def remove(path: str) -> None:
    """Remove the files of an inbox, the page first: a socket without one is still found by ``clean``."""
    for name in (path, path + SOCKET):
        with contextlib.suppress(FileNotFoundError):  # others may do so at the same time
            os.unlink(name)


def remove_if_dead(path: str) -> None:
    """Remove the files of an inbox whose process has ended."""
    try:
        connect(path + SOCKET).close()
    except ConnectionRefusedError:  # its process has ended; one that begins again has another name
        remove(path)
    except FileNotFoundError:
        return
