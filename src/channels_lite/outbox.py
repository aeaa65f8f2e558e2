"""The ways into the inboxes of other layers."""

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Collection

from channels_lite.datagram import MOST_BYTES, Handed, pack, pack_flush
from channels_lite.page import ANY, PATIENCE, SOCKET, connect, folder_of, open_page, path_of, remove_if_dead

logger = logging.getLogger("channels_lite.inbox")

RETRY = 1.0  # seconds after which an inbox that was not there is looked for again
OUTBOXES = 100  # inboxes of others that a layer has open; each takes three descriptors
MISSING = 1_000  # owners without one that a layer remembers
CROWDED = 0.00005  # seconds that a socket is tried in which 10 messages wait, all that fit in: less than a row takes
FLUSHING = 1.0  # seconds that a flush waits for a process that does not read its inbox


class Outbox:
    """The way into another layer's inbox; OSError or ValueError where there is none."""

    def __init__(self, path: str) -> None:
        self.page = open_page(path)
        self._socket = connect(path + SOCKET)
        weakref.finalize(self, self._socket.close)  # by then no thread uses it any more

    @property
    def is_open(self) -> bool:
        """Whether its receiver has not closed it."""
        return self.page.is_open

    def send(self, datagram: bytes, mark: int = ANY, quiet: int | None = None) -> bool:
        """Hand a message over; False where it is not possible just now. ConnectionError: nobody is there.

        ``mark``: of its channel. ``quiet``: of the page, before it was known that no rows come first. Without, it is
        handed over past all rows and whether it is allowed or not.
        """
        end = 0.0
        while self.page.acquire():
            try:
                if quiet is not None and (self.page.room <= 0 or self.page.quiet != quiet):
                    break
                if self._send(datagram, mark):
                    return True
            finally:
                self.page.release()
            now = time.monotonic()
            end = end or now + CROWDED
            if now >= end:
                break
            os.sched_yield()
        return False

    def _send(self, datagram: bytes, mark: int) -> bool:
        # Counted first: on a core that both share, the receiver goes on before send() returns.
        self.page.count(mark)
        try:
            self._socket.send(datagram)
        except OSError as error:
            if _is_foreign(error):
                raise
            self.page.uncount()
            if isinstance(error, BlockingIOError):
                return False
            raise
        return True


def _is_foreign(error: OSError) -> bool:
    """Whether it comes from a signal handler, such as one that raises TimeoutError: the message may have been sent."""
    return error.errno is None


def flush(database: str, prefix: str, own: Collection[str]) -> None:
    """Tell all layers with this prefix in other processes to throw away what they hold in memory.

    ``own``: the names of this process's inboxes. Not for a loop's thread: it waits for a process that has not read its
    inbox for long, but not for ever.
    """
    folder, deadline = folder_of(database), time.monotonic() + FLUSHING
    names = os.listdir(folder) if os.path.isdir(folder) else []
    left = {os.path.join(folder, name) for name in names if name not in own and not name.endswith(SOCKET)}
    word = pack_flush(prefix)
    while left := {path for path in left if not _flush(path, word)}:
        if time.monotonic() > deadline:
            inboxes = ", ".join(map(ascii, sorted(left)))
            logger.warning("Not flushed, because its process does not read it: the inbox %s.", inboxes)
            return
        time.sleep(PATIENCE)


def _flush(path: str, word: bytes) -> bool:
    """Whether the inbox has got the word, or is none."""
    try:
        return Outbox(path).send(word)
    except (ConnectionRefusedError, FileNotFoundError):  # its process has ended
        return True
    except (OSError, ValueError) as error:
        logger.warning("The inbox %a cannot be flushed: %s.", path, error)  # its name may be a stranger's
        return True


class Outboxes:
    """The ways into the inboxes of other layers on a database. Used from any thread."""

    def __init__(self, database: str, prefix: str) -> None:
        self._folder = folder_of(database)
        self._prefix = prefix
        self._found: dict[str, Outbox] = {}  # owner -> the way to it
        self._missing: dict[str, float] = {}  # owner -> when to look again

    def find(self, queue: str, *, again: bool = False) -> Outbox | None:
        """The way to who receives from this process-specific queue; None where there is none.

        ``again``: look also where there was none a moment ago.
        """
        owner = queue[queue.rfind(".") + 1 : -1]
        outbox = self._found.get(owner) or self._open(owner, again)
        if outbox is not None and not outbox.is_open:
            self._found.pop(owner, None)
            return None
        return outbox

    def send(self, outbox: Outbox, message: Handed, mark: int, quiet: int) -> bool:
        """Hand a message over, as ``Outbox.send``; False where it has to go another way."""
        datagram = pack(message)
        if len(datagram) > MOST_BYTES:
            return False
        try:
            return outbox.send(datagram, mark, quiet)
        except OSError as error:
            if _is_foreign(error):
                raise
            self._lose(outbox, error)
            return False

    def _open(self, owner: str, again: bool) -> Outbox | None:
        if self._missing.get(owner, 0.0) > time.monotonic() and not (again and os.path.exists(self._path(owner))):
            return None
        if len(self._found) >= OUTBOXES:
            self.prune()
        if len(self._found) >= OUTBOXES:
            self._found.clear()
        if len(self._missing) >= MISSING:
            self._missing.clear()
        try:
            outbox = Outbox(self._path(owner))
        except (OSError, ValueError) as error:
            self._miss(owner, error)
            return None
        self._missing.pop(owner, None)
        return self._found.setdefault(owner, outbox)

    def prune(self) -> None:
        """Let go of those whose layers have closed them, or whose processes have ended and were cleaned up after."""
        for owner, outbox in list(self._found.items()):
            if not outbox.is_open or not os.path.exists(self._path(owner)):
                self._found.pop(owner, None)

    def _lose(self, lost: Outbox, error: OSError) -> None:
        for owner in [owner for owner, outbox in list(self._found.items()) if outbox is lost]:
            self._found.pop(owner, None)
            self._miss(owner, error)

    def _miss(self, owner: str, error: Exception) -> None:
        known = owner in self._missing
        self._missing[owner] = time.monotonic() + RETRY
        path = self._path(owner)
        if isinstance(error, ConnectionRefusedError):
            logger.debug("The process of the inbox %s has ended.", path)
            with contextlib.suppress(PermissionError):  # then its own user will do it
                remove_if_dead(path)
        elif not isinstance(error, FileNotFoundError) and not known:
            logger.info("The inbox %s cannot be used, and messages for it become rows: %s.", path, error)

    def _path(self, owner: str) -> str:
        return path_of(self._folder, self._prefix, owner)
