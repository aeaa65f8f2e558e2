"""A VFS of apsw's whose Nth call of a kind fails, once or from then on.

Most kinds are system calls of SQLite's own VFS, put in their places through ``apsw.VFS.xSetSystemCall``: SQLite meets
the failure as it would meet the system's, in the shared memory of the -wal as well. Its fsync cannot be replaced; for
that there is a VFS in Python above it, the default one while it is in use. What such a VFS raises, apsw passes on at
the end of the call, whether SQLite minds it or not: where SQLite closes a file, it does not.
"""

import contextlib
import ctypes
import errno
import fcntl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import apsw

SYSTEM = "unix"  # the VFS beneath
libc = ctypes.CDLL(None, use_errno=True)
INT, POINTER, SIZE, LONG = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64

CALLS = {
    "open": (INT, ctypes.c_char_p, INT, INT),
    "pread": (ctypes.c_ssize_t, INT, POINTER, SIZE, LONG),
    "pread64": (ctypes.c_ssize_t, INT, POINTER, SIZE, LONG),
    "pwrite": (ctypes.c_ssize_t, INT, POINTER, SIZE, LONG),
    "pwrite64": (ctypes.c_ssize_t, INT, POINTER, SIZE, LONG),
    "ftruncate": (INT, INT, LONG),
    "fcntl": (INT, INT, INT, POINTER),
    "unlink": (INT, ctypes.c_char_p),
    "mmap": (POINTER, POINTER, SIZE, INT, INT, INT, LONG),
}


class Flock(ctypes.Structure):
    """What fcntl() is told of a lock."""

    _fields_ = (("type", ctypes.c_short), ("whence", ctypes.c_short), ("start", LONG))


PENDING_BYTE = 1 << 30  # where the locks of the database itself begin; those of the -shm come before


def _locks(descriptor: int, command: int, argument: int | None) -> bool:
    """Whether this fcntl() takes a lock of the database."""
    return _takes(command, argument) and Flock.from_address(argument or 0).start >= PENDING_BYTE


def _locks_memory(descriptor: int, command: int, argument: int | None) -> bool:
    """Whether this fcntl() takes a lock of the shared memory of the -wal."""
    return _takes(command, argument) and Flock.from_address(argument or 0).start < PENDING_BYTE


def _takes(command: int, argument: int | None) -> bool:
    return command == fcntl.F_SETLK and Flock.from_address(argument or 0).type != fcntl.F_UNLCK


def _any(*arguments: Any) -> bool:
    return True


# What fails: the calls, with which arguments, the system's error.
KINDS: dict[str, tuple[tuple[str, ...], Callable[..., bool], int]] = {
    "open": (("open",), _any, errno.EIO),
    "read": (("pread", "pread64"), _any, errno.EIO),
    "write": (("pwrite", "pwrite64"), _any, errno.EIO),
    "full": (("pwrite", "pwrite64"), _any, errno.ENOSPC),
    "truncate": (("ftruncate",), _any, errno.EIO),
    "lock": (("fcntl",), _locks, errno.EIO),
    "busy": (("fcntl",), _locks, errno.EAGAIN),
    "lock of the -shm": (("fcntl",), _locks_memory, errno.EAGAIN),
    "unlink": (("unlink",), _any, errno.EIO),
    "map": (("mmap",), _any, errno.ENOMEM),
    "sync": ((), _any, 0),
}


class Faults:
    """Which call fails: the one with this number, or each from it on."""

    def __init__(self, kind: str, number: int, *, for_good: bool) -> None:
        self.calls = 0
        self.met = 0  # how many have failed
        self._names, self._concerns, self._errno = KINDS[kind]
        self._number = number
        self._for_good = for_good
        self._lock = threading.Lock()
        self._replaced: dict[str, Any] = {}
        self._vfs = apsw.VFS("channels-lite-faults", SYSTEM)

    def meet(self) -> bool:
        """Count a call; whether it is to fail."""
        with self._lock:
            self.calls += 1
            fails = self.calls == self._number or (self._for_good and self.calls > self._number)
            self.met += fails
        return fails

    def begin(self) -> None:
        """Put the failing calls in their places."""
        for name in self._names:
            replaced = self._replaced[name] = ctypes.CFUNCTYPE(*CALLS[name], use_errno=True)(self._failing(name))
            if not self._vfs.xSetSystemCall(name, ctypes.cast(replaced, POINTER).value):
                raise AssertionError(f"SQLite does not call {name}")

    def _failing(self, name: str) -> Callable[..., Any]:
        call = getattr(libc, name)
        call.restype, call.argtypes = CALLS[name][0], CALLS[name][1:]

        def replacement(*arguments: Any) -> Any:
            if self._concerns(*arguments) and self.meet():
                ctypes.set_errno(self._errno)
                return -1
            return call(*arguments)

        return replacement

    def end(self) -> None:
        """Let all of them succeed again."""
        for name in self._replaced:
            self._vfs.xSetSystemCall(name, 0)
        self._vfs.unregister()


class File(apsw.VFSFile):
    """An open file."""

    def __init__(self, faults: Faults, name: Any, flags: list[int]) -> None:
        self._faults = faults
        super().__init__(SYSTEM, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._faults.meet():
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)


class SyncVFS(apsw.VFS):
    """The system's VFS, but for its fsync."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        super().__init__("channels-lite-sync-faults", SYSTEM, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> File:  # noqa: N802
        return File(self._faults, name, flags)


@contextlib.contextmanager
def failing(kind: str, number: int, *, for_good: bool) -> Iterator[Faults]:
    """All that apsw does meanwhile meets these faults."""
    faults = Faults(kind, number, for_good=for_good)
    vfs = SyncVFS(faults) if kind == "sync" else None
    faults.begin()
    try:
        yield faults
    finally:
        faults.end()
        if vfs is not None:
            vfs.unregister()
