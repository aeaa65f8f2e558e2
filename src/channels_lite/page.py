"""The files of an inbox: a socket, and a page of shared memory that says how many messages may be sent to it."""

import contextlib
import hashlib
import mmap
import os
import socket
import stat
import sys
import threading
import weakref
import zlib
from collections.abc import Callable

if sys.platform != "win32":  # where there are no inboxes
    import fcntl

PATIENCE = 0.001  # seconds that a thread waits for others of its process

TRIES = 20  # for the lock of a page: about 20 us, four times as long as a sender has it

SOCKET = ".socket"  # the ending of a socket's name; the page has none
SIZE = mmap.PAGESIZE
HIGHEST = 2**64 - 1  # on a page; counting goes on at 0, so that a number that somebody spoilt fails nobody
# What stands where on it, in numbers of eight bytes: whether it is open; how many messages were ever allowed, sent, and
# received; how many messages are in the mailbox that has the most, times 2**32, plus the mark of its channel or queue.
OPEN, GIVEN, TAKEN, READ, FULLEST = range(5)


def folder_of(database: str) -> str:
    """The folder of a database's inboxes."""
    return f"{database}-inbox"


def path_of(folder: str, prefix: str, owner: str) -> str:
    """Where an inbox is: layers with different prefixes do not see each other."""
    return os.path.join(folder, hashlib.blake2b(f"{prefix}\0{owner}".encode(), digest_size=16).hexdigest())


class Page:
    """The page that a receiver and those who send to it share.

    Shared memory ends a process that reads it when somebody has cut its file short. So does SQLite's own -shm.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.numbers = memoryview(mmap.mmap(fd, SIZE)).cast("Q")
        self._lock = threading.Lock()  # between the threads of a process: the system's lock is all of theirs
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

    def count(self) -> None:
        """Under the lock: one more is being sent."""
        self.numbers[TAKEN] = self.numbers[TAKEN] + 1 & HIGHEST

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

    def held(self, *names: str) -> int:
        """How much is under way, or in the mailbox of one of these if it is the one that has the most."""
        # In this order: a receiver says first what it holds, then that it has read it.
        under_way = max(0, _ahead(self.numbers[TAKEN], self.numbers[READ]))
        number, fullest = divmod(self.numbers[FULLEST], 1 << 32)
        return under_way + (number if fullest in map(mark, names) else 0)

    def acquire(self) -> bool:
        """Lock the page; False where another process has the lock, which may have been stopped with it."""
        if not self._lock.acquire(blocking=False) and not self._lock.acquire(timeout=PATIENCE):
            return False
        for _ in range(TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except OSError:  # a file system without locks: then nobody sends to this inbox
                break
            return True
        self._lock.release()
        return False

    def release(self) -> None:
        """Unlock it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._lock.release()


def mark(name: str) -> int:
    """What stands for a name on a page."""
    return zlib.crc32(name.encode())


def _ahead(one: int, other: int) -> int:
    """How much further one number is than another; negative where it is behind."""
    return (one - other + HIGHEST // 2 & HIGHEST) - HIGHEST // 2


def new_page(path: str, owned: os.stat_result) -> Page:
    """Make the page of an inbox, open and without room, for those who have this file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (1).to_bytes(SIZE, sys.byteorder))  # in full: that the disk has no room must be noticed here
        give(path, owned)
        return Page(fd)
    except (OSError, ValueError):
        os.close(fd)
        raise


def give(path: str | int, owned: os.stat_result) -> None:
    """Let those use it, and nobody else, who have the rights to a file: past the umask, and to its group.

    What root makes gets its owner too, as SQLite does with its files: the servers must be able to use what a command of
    root's has made. ``path`` may be a descriptor.
    """
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
