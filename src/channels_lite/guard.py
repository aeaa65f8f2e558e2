"""One file, one SQLite library in a process: apsw and Python's sqlite3 never have the same file open together.

POSIX locks belong to a process: two libraries in it do not exclude each other, and whichever closes the file drops the
locks of both. A file is known by its device and inode, so that a symlink, a hard link and a relative path are the same
file; it is never opened to find that out, because closing it again would drop the locks too.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, unquote

import apsw

from channels_lite.errors import TwoLibraries

Identity = tuple[int, int]  # device and inode

OPENING_WAIT = 0.1  # seconds that apsw waits for another thread that is just opening the file with sqlite3
OPENING_PAUSE = 0.0005  # seconds between two looks at it
MOST_DESCRIPTORS = 65_536  # numbers that are tried where the system does not list the open ones

_holds: "set[Hold]" = set()
_taking = threading.RLock()  # one hold at a time; reentrant because an error's text loads settings, which are code
_openings: dict[int, list[str]] = {}  # thread -> the names it is just opening with sqlite3; stale where that failed
_watching = False  # whether the audit hook is installed


class Hold:
    """Keeps sqlite3 from opening a file in this process, until it is released."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._holds = _holds  # for a connection that dies with the interpreter, after this module
        _holds.add(self)

    def release(self) -> None:
        """Give the file free, unless somebody else holds it as well. Does nothing the second time."""
        self._holds.discard(self)


def hold(path: str) -> Hold:
    """Hold an existing file for apsw; TwoLibraries where this process has it open, but not held. Waits and does I/O."""
    identity = identify(path)
    if identity is None:
        raise FileNotFoundError(2, os.strerror(2), path)
    with _taking:
        _watch()
        if not _is_held(identity):
            _refuse_foreign(path, identity)  # already, so that the others are not refused because of a vain attempt
        mine = Hold(identity)
        try:
            # In this order: who comes from now on is refused, and who came before is seen here.
            if not _is_held(identity, besides=mine):
                _await_openings(identity)
                _refuse_foreign(path, identity)
        except BaseException:
            mine.release()
            raise
        return mine


class Connection(apsw.Connection):
    """An apsw connection to an existing file, which is held as long as the connection is open."""

    def __init__(self, path: str) -> None:
        self.hold = hold(path)
        try:
            super().__init__(path, flags=apsw.SQLITE_OPEN_READWRITE)
        except BaseException:
            self.hold.release()
            raise

    def close(self, force: bool = False) -> None:
        """Close the file, and then give it free."""
        try:
            super().close(force)
        finally:
            self.hold.release()

    def __del__(self) -> None:
        if hasattr(self, "hold"):
            self.close(True)


def identify(path: str) -> Identity | None:
    """Device and inode of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino)


def _is_held(identity: Identity, besides: Hold | None = None) -> bool:
    return any(other.identity == identity and other is not besides for other in tuple(_holds))


def _refuse_foreign(path: str, identity: Identity) -> None:
    if _is_open(identity):
        raise _error(path, "apsw", "this process has it open already, not through channels-lite")


def _is_open(identity: Identity) -> bool:
    """Whether a descriptor of this process leads to the file."""
    for number in _descriptors():
        with contextlib.suppress(OSError):
            status = os.fstat(number)
            if (status.st_dev, status.st_ino) == identity:
                return True
    return False


def _descriptors() -> Iterable[int]:
    try:
        return map(int, os.listdir("/proc/self/fd"))
    except OSError:
        # Not /dev/fd: without fdescfs, BSD lists only 0 to 2 there. Windows needs no look: its locks belong to handles.
        limit = os.sysconf("SC_OPEN_MAX") if hasattr(os, "sysconf") else 0
        return range(min(limit, MOST_DESCRIPTORS) if limit >= 0 else MOST_DESCRIPTORS)


# The side of sqlite3. Its audit event comes before the file is opened, so that an error from the hook prevents that.


def _watch() -> None:
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "sqlite3.connect":
        _about_to_open(arguments[0])
    elif event == "sqlite3.connect/handle":  # it is open
        _openings.pop(threading.get_ident(), None)


def _about_to_open(database: Any) -> None:
    try:
        names = possible_files(database)
    except Exception:  # sqlite3 will say what is wrong with it
        return
    _openings[threading.get_ident()] = names  # in this order: see hold()
    for name in names:
        identity = identify(name)
        if identity is not None and _is_held(identity):
            del _openings[threading.get_ident()]
            raise _error(name, "sqlite3", "this process has it open with apsw")


def _await_openings(identity: Identity) -> None:
    """Wait until no other thread is between the two events for this file."""
    deadline = time.monotonic() + OPENING_WAIT
    while _is_being_opened(identity) and time.monotonic() < deadline:
        time.sleep(OPENING_PAUSE)


def _is_being_opened(identity: Identity) -> bool:
    mine = threading.get_ident()
    others = [names for thread, names in tuple(_openings.items()) if thread != mine]
    return any(identify(name) == identity for names in others for name in names)


def possible_files(database: Any) -> list[str]:
    """The files that sqlite3.connect(database) may mean, with or without ``uri=True``; none for one in memory."""
    name = os.fsdecode(database)
    if name in ("", ":memory:"):
        return []
    names = [os.path.abspath(name)]
    if name.startswith("file:"):
        place, _, query = name[5:].partition("#")[0].partition("?")
        options = parse_qs(query)
        if place.startswith("//"):  # an authority: empty, or "localhost"
            place = "/" + place[2:].partition("/")[2]
        place = unquote(place).partition("\0")[0]  # as SQLite reads it
        in_memory = options.get("mode", [""])[-1] == "memory" or options.get("vfs", [""])[-1] == "memdb"
        if place not in ("", ":memory:") and not in_memory:
            names.append(os.path.abspath(place))
    return names


# What the error says, and a fork.


def _error(path: str, library: str, why: str) -> TwoLibraries:
    text = f"The file {path} was not opened with {library}: {why}, and two SQLite libraries in one process destroy it."
    try:
        from channels_lite import claims

        return TwoLibraries(f"{text} {claims.claims(path)} {claims.REMEDY}")
    except Exception:  # settings that do not load must not hide this
        return TwoLibraries(text)


def _after_fork_in_child() -> None:
    global _taking
    _taking = threading.RLock()
    _openings.clear()
    _holds.clear()  # database.py has closed before the fork what they stood for


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
