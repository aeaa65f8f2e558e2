"""The inbox: a Unix datagram socket through which other processes hand messages over to a layer's own channels.

Nobody but the layer that made a process-specific channel ever receives from it, so a message for it need not outlive
that process: in its socket it is as safe as on the disk, and a transaction each for sender and receiver is saved.

Beside the database is a folder with two files for each inbox: the socket, and a page of shared memory, in which the
receiver says for how many messages it has room. Who sends does it under a lock on that page, so that never more than
this are under way, and none after the inbox was closed. What is sent as a row all the same is counted there, too: each
channel has its capacity, wherever its messages are.
"""

import contextlib
import logging
import os
import socket
import stat
import sys
import time

from channels_lite.datagram import MOST_BYTES
from channels_lite.page import (
    HIGHEST,
    NEAR,
    PATIENCE,
    SOCKET,
    TAKEN,
    at,
    first_place,
    folder_of,
    give,
    mark,
    new_page,
    path_of,
    remove,
    remove_if_dead,
)

logger = logging.getLogger("channels_lite.inbox")

BUSY = 0.0002  # seconds until a page whose lock somebody has is tried again: ten times as long as the trying takes
CLOSING = 1.0  # seconds that closing waits for a sender in another process, which may have been stopped


def is_possible() -> bool:
    """Whether this system has what an inbox takes. On macOS a name in a folder is too long for a socket."""
    return sys.platform == "linux"


class Inbox:
    """The inbox of a layer. One thread at a time collects from it and closes it."""

    def __init__(self, database: str, prefix: str, owner: str) -> None:
        """Make its files; OSError where that is not possible."""
        self._read = self._delivered = 0  # how many messages
        self.left = 0
        """How many messages more others may send."""
        self._low = 0  # when it is time to let them send more
        self._awaited = -1  # how many had been counted when the last of them was not there yet
        self._again = 0.0  # when the lock is tried again
        self._half = -1  # half of what was in the fullest mailbox when that was decided
        self._places: dict[str, tuple[int, int]] = {}  # name of a mailbox -> its place on the page, its mark
        self._names: dict[int, str] = {}  # the other way round
        folder = _folder(database)
        self._path = path_of(folder, prefix, owner)
        owned = os.stat(database)  # who may use the database may send
        with contextlib.ExitStack() as undo:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            undo.callback(self._socket.close)
            at(self._path + SOCKET, self._socket.bind)
            undo.callback(remove, self._path)
            give(self._path + SOCKET, owned)
            self.page = new_page(self._path, owned)
            self.numbers = self.page.numbers
            undo.pop_all()

    @property
    def name(self) -> str:
        """What the folder calls it."""
        return os.path.basename(self._path)

    def listen(self) -> socket.socket:
        """A socket that becomes readable with the inbox; who asked for it closes it."""
        return self._socket.dup()

    @property
    def is_behind(self) -> bool:
        """Whether something has been sent that has not been delivered."""
        return self.page.taken != self._delivered

    @property
    def is_low(self) -> bool:
        """Whether it is time to let others send more."""
        return self.left <= self._low

    @property
    def is_at_rest(self) -> bool:
        """Neither of both."""
        return self.numbers[TAKEN] == self._delivered and self.left > self._low

    def hold(self, name: str, number: int, most: int) -> None:
        """Let it be known how much is in a mailbox, a channel's or a queue's; ``most``: in the fullest one."""
        try:
            place, its_mark = self._places[name]
        except KeyError:
            self._settle(name, number)
        else:
            self.numbers[place] = number << 32 | its_mark
        if most <= self._half:  # there may be more room
            self._low = self.left

    def _settle(self, name: str, number: int) -> None:
        """As ``hold``, for a mailbox without a place: it gets an empty one's, if others do not have all that are near.

        Those that find none are taken for empty, until they find one: rows may then fill them a second time.
        """
        its_mark = mark(name)
        first = first_place(its_mark)
        for place in range(first, first + NEAR):
            if self.numbers[place] >> 32 == 0:
                self._places.pop(self._names.get(place, ""), None)
                self._names[place] = name
                self._places[name] = place, its_mark
                self.numbers[place] = number << 32 | its_mark
                return

    def collect(self, *, all_of_it: bool = False) -> list[bytes]:
        """Take out what has been counted; call ``delivered`` when that has been delivered.

        ``all_of_it``: also what is behind something of a stranger's, which nobody has counted.
        """
        datagrams: list[bytes] = []
        try:
            while all_of_it or not datagrams or self._read != self.page.taken:
                datagrams.append(self._socket.recv(MOST_BYTES))
                self._read = self._read + 1 & HIGHEST
        except BlockingIOError:
            self._check_count(self.page.taken, bool(datagrams))
        self.left -= len(datagrams)
        return datagrams

    def _check_count(self, taken: int, anything: bool) -> None:
        """The socket is empty: see to it that the count is put right if it is wrong."""
        if self._read > taken:  # of a stranger's, which nobody has counted
            self._low = self.left
        elif self._read < taken and not anything:  # it is just being sent; or, the second time, its sender was killed
            if self._awaited == taken:
                self._low = self.left
            self._awaited = taken

    def delivered(self) -> None:
        """One of those that were collected has been delivered, and what ``hold`` was told takes it into account."""
        self._delivered = self._delivered + 1 & HIGHEST
        self.page.read(self._delivered)

    def all_delivered(self) -> None:
        """As ``delivered``, for all of them, and for what was counted and never came."""
        self._delivered = self._read
        self.page.read(self._read)

    def make_room(self, room: int, most: int, *, patient: bool = False) -> list[bytes]:
        """Let others send so many messages more; returns what has come meanwhile, as ``collect``.

        ``most``: what is in the fullest mailbox. ``patient``: try for longer, about a millisecond.
        """
        self._half = most // 2 if most or not room else -1
        if time.monotonic() < self._again and not patient:
            return []
        # Who has the lock may have been stopped: that must not hold up each receive().
        if not self.page.acquire(PATIENCE if patient else 0.0):
            self._low, self._again = self.left, time.monotonic() + BUSY
            return []
        try:
            datagrams = self.collect(all_of_it=True)  # now nothing is under way
            self._read = self.page.taken  # a sender that was killed may have counted one without sending it
            self.page.forget_row()
            self.page.end_claim()
            self.left = self.page.room = max(0, room - len(datagrams)) if self.page.is_open else 0
            self._low = self.left // 2 if self.left else -1  # without room, wait until somebody receives
        finally:
            self.page.release()
        return datagrams

    def shut(self) -> None:
        """Let nobody send any more. Not for a loop's thread: it waits for who is just doing so."""
        deadline = time.monotonic() + CLOSING
        while not (acquired := self.page.acquire()) and time.monotonic() < deadline:
            time.sleep(PATIENCE)
        self.page.shut()
        if acquired:
            self.page.room = 0
            self.page.release()

    def discard(self) -> None:
        """Remove it with all that is in it, when nobody can receive any more."""
        self.page.shut()
        remove(self._path)
        self._socket.close()

    def abandon(self) -> None:
        """Give the descriptors back in a forked child: the inbox is the parent's."""
        self._socket.close()

    def clean(self) -> None:
        """Remove what processes that were killed have left in the folder."""
        folder = os.path.dirname(self._path)
        try:
            names = set(os.listdir(folder))
        except FileNotFoundError:  # who knows the inbox goes on using it; others send rows
            return
        for name in {name.removesuffix(SOCKET) for name in names}:
            try:
                if name + SOCKET in names:
                    remove_if_dead(os.path.join(folder, name))
                else:  # a copy: the socket is made first, and removed last
                    os.unlink(os.path.join(folder, name))
            except OSError as error:
                logger.debug("It cannot be told whether anybody has the inbox %s in %s: %s.", name, folder, error)


def _folder(database: str) -> str:
    """The folder of a database's inboxes, made if it is not there. OSError where it is somebody else's."""
    folder, owned = folder_of(database), os.stat(database)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        _check(os.lstat(folder), owned, folder)
    else:
        give(folder, owned)
    return folder


def _check(there: os.stat_result, owned: os.stat_result, folder: str) -> None:
    """Messages go to whoever made the folder: that must be somebody who may use the database."""
    by_group = owned.st_mode & stat.S_IWGRP and there.st_gid == owned.st_gid
    if there.st_uid not in (os.geteuid(), owned.st_uid) and not by_group and not owned.st_mode & stat.S_IWOTH:
        raise PermissionError(f"the folder {folder} belongs to somebody else")
