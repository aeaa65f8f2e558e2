"""The bell: a file of eight bytes beside the database. Writing to it after a commit wakes the other processes.

Watching the database or its ``-wal`` instead does not work: the ``-wal`` changes before the commit can be seen, and
opening and closing SQLite's own files drops the locks it holds on them.
"""

import contextlib
import itertools
import logging
import os
import secrets
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from channels_lite.page import give

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("channels_lite.bell")

LOCKED = 3.0  # seconds for which a process waits for its turn
FRESH = 0.001  # seconds for which the bell is believed to be there still: to ask takes twice as long as to read it
STAMP = 8  # bytes that each ring writes: a number from a random start, so that no two rings write the same
SUFFIX = "-bell"  # after the database's own path
NOT_RUNG = "The bell %s cannot be rung: %s. Other processes hear by polling."


class Listener(Protocol):
    """Something whose descriptor becomes readable when the bell rings."""

    how: str

    def fileno(self) -> int:
        """The descriptor to watch."""

    def drain(self) -> bool:
        """Take note of the rings so far; False where the file is gone and a new listener is needed."""

    def close(self) -> None:
        """Give the descriptor back."""


EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name: see inotify(7)


class InotifyListener:
    """Hears the bell on Linux."""

    how = "inotify"

    def __init__(self, path: str) -> None:
        import inotify_simple

        flags = inotify_simple.flags
        self._modified = int(flags.MODIFY)
        self._inotify = inotify_simple.INotify(nonblocking=True)
        try:
            # ATTRIB: to DELETE_SELF a file is deleted when nobody has it open any more, and we have.
            watch = self._inotify.add_watch(path, flags.MODIFY | flags.ATTRIB | flags.DELETE_SELF | flags.MOVE_SELF)
        except OSError:
            self._inotify.close()
            raise
        self._ring = EVENT.pack(watch, self._modified, 0, 0)

    def fileno(self) -> int:
        """The inotify descriptor."""
        return int(self._inotify.fileno())

    def drain(self) -> bool:
        """Read the events away."""
        try:
            events = os.read(self.fileno(), 65536)
        except BlockingIOError:
            return True
        # Anything else than a ring: deleted, moved, overflown. The events of a watched file carry no name, so that
        # each has the length of its head; inotify_simple's own parser takes 8 us. Mostly it is one ring.
        return events == self._ring or all(mask == self._modified for _, mask, _, _ in EVENT.iter_unpack(events))

    def close(self) -> None:
        """Close the inotify descriptor."""
        self._inotify.close()


class KqueueListener:
    """Hears the bell on macOS and the BSDs."""

    how = "kqueue"

    def __init__(self, path: str) -> None:
        self._gone = select.KQ_NOTE_DELETE | select.KQ_NOTE_RENAME  # type: ignore[attr-defined,unused-ignore]
        with contextlib.ExitStack() as undo:
            self._file = os.open(path, os.O_RDONLY | getattr(os, "O_EVTONLY", 0))
            undo.callback(os.close, self._file)
            self._queue = select.kqueue()  # type: ignore[attr-defined,unused-ignore]
            undo.callback(self._queue.close)
            event = select.kevent(  # type: ignore[attr-defined,unused-ignore]
                self._file,
                filter=select.KQ_FILTER_VNODE,  # type: ignore[attr-defined,unused-ignore]
                flags=select.KQ_EV_ADD | select.KQ_EV_CLEAR,  # type: ignore[attr-defined,unused-ignore]
                fflags=select.KQ_NOTE_WRITE | self._gone,  # type: ignore[attr-defined,unused-ignore]
            )
            self._queue.control([event], 0, 0)
            undo.pop_all()

    def fileno(self) -> int:
        """The kqueue descriptor."""
        return int(self._queue.fileno())

    def drain(self) -> bool:
        """Fetch the events."""
        return not any(event.fflags & self._gone for event in self._queue.control(None, 8, 0))

    def close(self) -> None:
        """Close the queue and the file."""
        self._queue.close()
        os.close(self._file)


def _listener_class() -> Callable[[str], Listener] | None:
    if sys.platform == "linux":
        return InotifyListener
    return KqueueListener if hasattr(select, "kqueue") else None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def ring_once(database: str) -> None:
    """Ring the bell of a database that no layer of this process has opened. Where it has none, nobody listens.

    An error is logged, as by ``Bell.ring``.
    """
    if _listener_class() is None:
        return
    try:
        fd = os.open(database + SUFFIX, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, secrets.token_bytes(STAMP), 0)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning(NOT_RUNG, database + SUFFIX, error)


class Bell:
    """The bell of one database."""

    def __init__(self, database: str) -> None:
        self.path = database + SUFFIX
        self._owned = os.stat(database)  # who may use the database may ring and hear
        self._silent = _listener_class() is None
        self._checked = 0.0  # when it was there
        self._stamps = itertools.count(secrets.randbits(8 * STAMP - 1))
        self._renewing = threading.Lock()
        self._ringing = threading.RLock()  # nobody closes the descriptor meanwhile, whose number is then another file's
        self._fd = -1 if self._silent else self._open()
        # What the descriptor leads to, as long as other code does not close it.
        self._inode = 0 if self._silent else os.fstat(self._fd).st_ino
        self._prepare()

    def _open(self) -> int:
        # Not through a link: it may lead to any file, and be a stranger's.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, self._owned.st_mode & 0o666)
        try:
            if os.fstat(fd).st_size == 0:
                with contextlib.suppress(PermissionError):  # another user has just made it, and is about to do this
                    give(fd, self._owned)
                self._write(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _write(self, fd: int) -> None:
        os.pwrite(fd, next(self._stamps).to_bytes(STAMP, "little"), 0)

    def _prepare(self) -> None:
        """Listen once where waiting is allowed: the first inotify instance runs a program to find the C library."""
        try:
            listener = self.listen()
        except OSError:  # reported by the watcher, which will meet it too
            return
        if listener is not None:
            listener.close()

    def ring(self) -> None:
        """Wake whoever listens. An error is logged and not raised: the commit stands, and the poll finds it."""
        with self._ringing:
            if self._silent:
                return
            try:
                if self._was_gone():  # the others listen to a new one
                    self.renew()
                self._write(self._fd)
            except OSError as error:
                logger.warning(NOT_RUNG, self.path, error)

    def stamp(self) -> bytes | None:
        """What was last written to the bell, which nobody has written before; None where there is no bell.

        Nor is there one after it was deleted, which is noticed within FRESH seconds, until it is made anew: the others
        may be ringing its successor.
        """
        try:
            return None if self._silent or self._was_gone() else os.pread(self._fd, STAMP, 0)
        except OSError:
            return None

    def _was_gone(self) -> bool:
        """As ``_is_gone``, but asked no more often than every FRESH seconds."""
        now = time.monotonic()
        if now - self._checked < FRESH:
            return False
        if self._is_gone():
            return True
        self._checked = now
        return False

    def _is_gone(self) -> bool:
        """Whether the file was deleted, or our descriptor closed: then its number may be another file's by now."""
        try:
            status = os.fstat(self._fd)
        except OSError:
            return True
        return status.st_nlink == 0 or status.st_ino != self._inode

    def listen(self) -> Listener | None:
        """A new listener, or None where this platform has none; OSError where the system has no room for one."""
        listener = _listener_class()
        return None if listener is None else listener(self.path)

    def renew(self) -> bool:
        """Make the file anew if it was deleted or replaced, or open it anew if it was closed; whether it was."""
        if self._silent:
            return False
        with self._renewing:  # who comes second finds it renewed
            ours = self._is_ours()
            if ours and self._is_in_place():
                return False
            self._replace(self._open(), ours)
        return True

    def _replace(self, new: int, ours: bool) -> None:
        inode = os.fstat(new).st_ino
        if ours:
            # Under the same number, without a moment in which it is another file's: a thread may be about to ring it.
            os.dup2(new, self._fd, inheritable=False)
            os.close(new)
        else:
            logger.warning("The descriptor of the bell %s was closed by other code; it is opened anew.", self.path)
            self._fd = new
        self._inode = inode

    def _is_ours(self) -> bool:
        try:
            return os.fstat(self._fd).st_ino == self._inode
        except OSError:
            return False

    def _is_in_place(self) -> bool:
        try:
            there, mine = os.stat(self.path), os.fstat(self._fd)
        except FileNotFoundError:
            logger.warning("The bell %s was deleted; it is made anew.", self.path)
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Do something that one process at a time does; where another takes too long for it, do it all the same."""
        if self._silent or sys.platform == "win32":
            yield
            return
        deadline = time.monotonic() + LOCKED
        while not (mine := _lock(self._fd)) and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield
        finally:
            if mine:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; it stays where it is."""
        with self._ringing:
            self.abandon()

    def abandon(self) -> None:
        """As ``close``, in a forked child, where a thread that is not there may have been ringing."""
        if not self._silent:
            self._silent = True
            if self._is_ours():
                os.close(self._fd)
