"""The part of select.kqueue that watches a file, made of inotify: it tells of what its manual page promises.

Written from kqueue(2) of macOS and FreeBSD: NOTE_WRITE for a write through any descriptor, NOTE_DELETE when unlink() is
called though the file is still open, NOTE_RENAME when it is renamed, and with EV_CLEAR each of them once. It becomes
readable a little more often than a real one, and then has no event: inotify tells of changed rights as well.
"""

import contextlib
import os
import struct
from typing import Any, NamedTuple

with contextlib.suppress(ImportError):  # elsewhere than on Linux, nobody asks for a pretended one
    import inotify_simple

KQ_FILTER_VNODE = -4
KQ_EV_ADD, KQ_EV_CLEAR = 0x1, 0x20
KQ_NOTE_DELETE, KQ_NOTE_WRITE, KQ_NOTE_RENAME = 0x1, 0x2, 0x20

HEAD = struct.Struct("iIII")  # as inotify(7) has it; a watched file has no name behind it


class kevent(NamedTuple):  # noqa: N801 # as select calls it
    """What is asked for, or what happened."""

    ident: int
    filter: int = 0
    flags: int = 0
    fflags: int = 0


class kqueue:  # noqa: N801 # as select calls it
    """A queue for one file."""

    def __init__(self) -> None:
        self._flags = inotify_simple.flags
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self.asked: list[kevent] = []

    def fileno(self) -> int:
        """What becomes readable."""
        return int(self._inotify.fileno())

    def control(self, changes: "list[kevent] | None", most: int, timeout: float) -> list[kevent]:
        """Ask for events, or fetch those that have happened; it is never made to wait here."""
        assert timeout == 0
        for event in changes or []:
            assert (event.filter, event.flags) == (KQ_FILTER_VNODE, KQ_EV_ADD | KQ_EV_CLEAR)
            self.asked.append(event)
            flags = self._flags
            self._inotify.add_watch(f"/proc/self/fd/{event.ident}", flags.MODIFY | flags.ATTRIB | flags.MOVE_SELF)
        happened = self._happened() & self.asked[0].fflags if most else 0
        return [self.asked[0]._replace(fflags=happened)] if happened else []

    def _happened(self) -> int:
        try:
            masks = [mask for _, mask, _, _ in HEAD.iter_unpack(os.read(self.fileno(), 65536))]
        except BlockingIOError:
            return 0
        happened = 0
        for mask in masks:
            happened |= KQ_NOTE_WRITE if mask & self._flags.MODIFY else 0
            happened |= KQ_NOTE_RENAME if mask & self._flags.MOVE_SELF else 0
        if os.fstat(self.asked[0].ident).st_nlink == 0:
            happened |= KQ_NOTE_DELETE
        return happened

    def close(self) -> None:
        """Give the descriptor back; a file's events go with it."""
        self._inotify.close()


def put_into(module: Any) -> None:
    """Give a module what select has of it on macOS."""
    for name in ("kqueue", "kevent", *(name for name in globals() if name.startswith("KQ_"))):
        setattr(module, name, globals()[name])
