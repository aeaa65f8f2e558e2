"""The open databases of this process: the layers on each, who hears of a commit, and what a fork does to them."""

import abc
import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from channels_lite import config, diagnosis, outbox
from channels_lite.bell import Bell, Listener
from channels_lite.errors import LASTING, ChannelsLiteError, Locked
from channels_lite.files import Files
from channels_lite.keeper import Connection, Keeper
from channels_lite.page import Rows
from channels_lite.schema import Execute

T = TypeVar("T")
Rules = Callable[[str, bool, Rows], int | None]
"""A layer's answer to channels_lite_capacity(): of which channel, for a message to several, and what it is part of."""

logger = logging.getLogger("channels_lite.database")


class Sent(NamedTuple):
    """What a write did."""

    queues: Sequence[str]
    """Where its messages went, one for each."""
    considered: list[str]
    """The channels that the statement considered, if it asked for their capacity."""


class Database(abc.ABC):
    """A database and the layers on it. A subclass brings the connection."""

    keeper: Keeper

    def __init__(self, path: str, *, in_memory: bool) -> None:
        self.path = path
        self.in_memory = in_memory
        self.bell: Bell | None = None
        self.failure: ChannelsLiteError | None = None
        """Why it could not be opened again, after a fork or after its files were lost."""
        self._lost: list[str] = []  # those of them that were gone at the last inspection
        self.retries = 0
        """How often a sender met a lock, after which it tried again."""
        self.files: Files | None = None
        """Those that are open; None in memory."""
        self._rules: dict[int, weakref.WeakMethod[Rules]] = {}
        self._forgotten: dict[int, weakref.finalize[..., Any]] = {}
        self._aside = threading.Lock()  # held while a job has a connection of its own
        self._layers: tuple[weakref.ref[Any], ...] = ()  # replaced, never changed: read without a lock

    def hang_bell(self) -> None:
        """Make the bell beside the database, or find it there."""
        try:
            self.bell = Bell(self.path)
        except OSError as error:
            raise diagnosis.refusal_of_bell(self.path, error) from error

    def enlist(self, layer: object, rules: Rules) -> None:
        """Let a layer hear what is announced. If it is forgotten without ``dismiss``, that is noticed too.

        ``rules`` is a method of the layer: the capacity of a channel's queue, for ``capacity``.
        """
        self._rules[id(layer)] = weakref.WeakMethod(rules)
        self._layers = (*self._layers, weakref.ref(layer))
        self._forgotten[id(layer)] = finalizer = weakref.finalize(layer, _close_unused, self)
        finalizer.atexit = False

    def dismiss(self, layer: object | None) -> bool:
        """Forget a layer, and those that are gone; whether none is left."""
        if layer is not None and id(layer) in self._forgotten:
            self._forgotten.pop(id(layer)).detach()
        self._forgotten = {number: finalizer for number, finalizer in self._forgotten.items() if finalizer.alive}
        self._layers = tuple(ref for ref in self._layers if ref() is not None and ref() is not layer)
        self._rules = {number: rules for number, rules in self._rules.items() if rules() is not None}
        return not self._layers

    def capacity(self, layer: int, channel: str, shared: bool, rows: Rows) -> int | None:
        """What channels_lite_capacity(id(layer), channel, shared) in SQL answers: the rules of that layer."""
        rules = self._rules[layer]()
        return None if rules is None else rules(channel, shared, rows)

    def busy_retries(self) -> int:
        """How often something met a lock, after which it was tried again."""
        return self.retries + self.keeper.retries

    def announce(self, prefix: str, queues: Iterable[str], *, abroad: bool = True) -> None:
        """After a commit: wake who waits on these queues, here and, unless all are this process's own, elsewhere."""
        foreign = False
        for queue in queues:
            own = False
            for reference in self._layers:
                layer = reference()
                if layer is not None and layer.hear(prefix, queue):
                    own = True
            foreign = foreign or not own
        if foreign and abroad and self.bell is not None:
            self.bell.ring()

    def announce_all(self, sent: Sequence[tuple[str, str]], *, abroad: bool = True) -> None:
        """As ``announce``, for messages with their prefixes and queues."""
        by_prefix: dict[str, dict[str, None]] = {}
        for prefix, queue in sent:
            by_prefix.setdefault(prefix, {})[queue] = None
        for prefix, queues in by_prefix.items():
            self.announce(prefix, queues, abroad=abroad)

    def forget(self, prefix: str) -> None:
        """Let all layers of this process throw away what is parked under this prefix."""
        for layer in self._present():
            layer.forget(prefix)

    def _present(self) -> list[Any]:
        """The layers on this database that nobody has forgotten."""
        return [layer for reference in self._layers if (layer := reference()) is not None]

    def flushed(self, prefix: str) -> None:
        """After all under this prefix was removed: let this and other processes throw away what is in memory. Waits."""
        if not self.in_memory:
            outbox.flush(self.path, prefix, {name for layer in self._present() for name in layer.inboxes()})
        self.forget(prefix)

    @abc.abstractmethod
    def version(self) -> int:
        """A number that changes when another connection has committed."""

    def news(self) -> Hashable:
        """What is another value when another process has committed and rung the bell. Costs less than ``version``."""
        if self.in_memory:
            return None
        stamp = self.stamp()
        try:
            return self.version() if stamp is None else stamp
        except Locked:
            return object()  # which no other value is equal to

    def stamp(self) -> bytes | None:
        """What was last written to the bell; None where that cannot be told."""
        return None if self.bell is None else self.bell.stamp()

    def listen(self) -> Listener | None:
        """A new listener for the bell."""
        return None if self.bell is None else self.bell.listen()

    def renew_bell(self) -> bool:
        """Make the bell anew if it is gone; whether it was."""
        return self.bell is not None and self.bell.renew()

    def inspect(self, connection: Connection) -> Connection:
        """See to it that the database's files are still there. Called by the keeper; the connection to go on with.

        Where they are not, and cannot be replaced, the error is raised, here and to whoever sends and receives, for as
        long as that is so.
        """
        files, lost = self.files, [] if self.files is None else self.files.lost()
        if lost and config.is_for_tests(self.path):
            return connection  # the tests are over
        if lost and not self._lost:
            logger.error("Deleted or replaced while in use: %s.", " and ".join(lost))
        try:
            if lost and files is not None:
                connection = self._recover(connection, lost, files)
        except LASTING as error:
            self._refuse(error, tell=not self._lost)
            raise
        finally:
            self._lost = lost
        self.failure = None
        return connection

    def _refuse(self, error: ChannelsLiteError, *, tell: bool) -> None:
        self.failure = error
        for layer in self._present() if tell else ():
            layer.fail(error)

    @abc.abstractmethod
    def _recover(self, old: Connection, lost: list[str], files: Files) -> Connection:
        """Go on after these files were lost; an error where that is not possible."""

    @abc.abstractmethod
    def _spare(self, lock_wait_ms: int) -> Connection:
        """Another connection to the database, which waits up to so many milliseconds for a lock."""

    def run_aside(self, job: Callable[[Execute], T], lock_wait: float) -> T:
        """Run a long job on a connection of its own, which waits up to ``lock_wait`` seconds for a lock."""
        with self._aside:
            spare = self._spare(round(lock_wait * 1000))
            try:
                return job(spare.execute)
            finally:
                spare.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Close everything. May take a checkpoint: not for a loop's thread."""

    @abc.abstractmethod
    def suspend(self) -> None:
        """Before a fork: wait until no thread is inside SQLite, and close every connection to the file. Must not raise.

        A child inherits what SQLite keeps for each open file of the process, and believes to hold the parent's locks,
        which the system does not give it. The parent could then remove the -wal while the child is writing to it.
        """

    @abc.abstractmethod
    def resume(self) -> None:
        """After a fork, in the parent: open the connections again."""

    def abandon(self) -> None:
        """After a fork, in the child: everything here is the parent's."""
        if self.bell is not None:
            self.bell.abandon()


D = TypeVar("D", bound=Database)

_open: dict[Hashable, Any] = {}  # what tells databases apart -> the open one
_databases: set[Database] = set()  # all of them, those that nobody can share too
_opening = threading.Lock()


def acquire(find: Callable[[], Hashable], make: Callable[[], D], layer: object, rules: Rules) -> D:
    """The database that ``find`` names, made if this process has none; None: one that nobody shares.

    ``find`` is asked again after ``make``, which may have made the file. Does I/O and waits.
    """
    with _opening:
        key = find()
        database: D | None = None if key is None else _open.get(key)
        if database is None:
            database = make()
            _databases.add(database)
            if key is not None:
                _open[find()] = database
        database.enlist(layer, rules)
        return database


def find(key: Hashable) -> Any:
    """The open database under this key, or None."""
    return _open.get(key)


def release(database: Database, layer: object | None) -> None:
    """Take back what ``acquire`` gave; the last layer closes the database. Not for a loop's thread."""
    with _opening:
        if database.dismiss(layer) and database in _databases:
            _forget(database)
            database.close()


def known_as(database: Database, key: Hashable) -> None:
    """Let an open database be found under another key than before, unless another one is."""
    _forget_keys(database)
    if database in _databases:  # and not about to be closed
        _open.setdefault(key, database)


def _close_unused(database: Database) -> None:
    """After a layer was forgotten without close(): the garbage collector may be on a loop's thread."""
    threading.Thread(target=release, args=(database, None), daemon=True).start()


def _forget(database: Database) -> None:
    _databases.discard(database)
    _forget_keys(database)


def _forget_keys(database: Database) -> None:
    for key in [key for key, other in list(_open.items()) if other is database]:
        _open.pop(key, None)


def _close_all() -> None:
    with _opening:
        _open.clear()
        while _databases:
            _databases.pop().close()


def _before_fork() -> None:
    _opening.acquire()
    for database in _databases:
        database.suspend()


def _after_fork_in_parent() -> None:
    try:
        for database in _databases:
            database.resume()
    finally:
        _opening.release()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.Lock()
    for database in _databases:
        database.abandon()
    _databases.clear()
    _open.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
