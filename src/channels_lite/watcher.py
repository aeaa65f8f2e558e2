"""One event loop's ear for other processes: bell, data_version, and the poll behind them."""

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from channels_lite import keeper
from channels_lite.bell import Listener
from channels_lite.errors import LayerClosed, Locked

logger = logging.getLogger("channels_lite.watcher")

BACKSTOP = 0.5  # seconds between polls while the bell can be heard: for writers that ring none
RESTART_PAUSE = BACKSTOP  # seconds before a watcher that failed is started again: as late as a poll would be
UNKNOWN = -1  # the version of a database that cannot be asked just now


class Source(Protocol):
    """What is listened to."""

    path: str
    in_memory: bool

    def version(self) -> int:
        """A number that changes when another connection has committed."""

    def stamp(self) -> bytes | None:
        """What was last written to the bell; None where that cannot be told."""

    def listen(self) -> Listener | None:
        """A new listener for the bell."""

    def renew_bell(self) -> bool:
        """Make the bell anew if it is gone; whether it was."""


class Inbox(Protocol):
    """Where other processes put messages without the database."""

    def listen_to_inbox(self) -> socket.socket | None:
        """A socket that becomes readable when something is there; None where there is no inbox."""

    def take_in(self) -> None:
        """Deliver what is there."""

    def tidy(self) -> None:
        """As ``take_in``, and see to it that nothing that is over keeps others from sending."""


class Watcher:
    """Calls ``look`` in its loop when another connection has committed.

    ``wanted`` says whether somebody waits, ``crowded`` whether for so many queues that a look is better not taken in
    vain.

    A wake is only a hint: ``look`` reads the database. The watcher supervises itself: what fails is logged, and it
    starts again.
    """

    def __init__(
        self,
        source: Source,
        look: Callable[[], None],
        wanted: Callable[[], bool],
        crowded: Callable[[], bool],
        interval: float | None,
        idle_timeout: float,
        inbox: "Inbox | None" = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._inbox = inbox
        self._ear: socket.socket | None = None  # for the inbox
        self._source = source
        self._look = look
        self._wanted = wanted
        self._crowded = crowded
        self._interval = interval
        self._idle_timeout = idle_timeout
        self._idle_since: float | None = None
        self._listener: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._version = UNKNOWN
        self._again: asyncio.TimerHandle | None = None  # the next look, after one that met a lock
        self._attempts = 0  # looks in vain, one after the other
        self._stamp: bytes | None = None  # what stood on the bell at the last poll
        self._heard = False  # the listener has said since then that it was rung
        self._unheard = False  # it was rung before that, and the listener had not said so
        self._inode = 0  # of the ear
        self._troubles: dict[str, str] = {}  # what was reported since the last poll that did not fail
        self.running = False

    @property
    def how(self) -> str:
        """What it hears by: ``inotify``, ``kqueue``, ``polling`` or ``nothing``."""
        if self._listener is not None:
            return self._listener.how
        return "nothing" if self._interval is None else "polling"

    @property
    def polls(self) -> bool:
        """Whether it runs, and looks unasked."""
        return self.running and self._interval is not None

    def start(self) -> bool:
        """Begin to listen; False where it has begun already. Whoever starts it looks at the database afterwards."""
        if self.running:
            return False
        self._version = self._current_version()
        self.running = True
        self._idle_since = None
        try:
            self._begin()
        except BaseException:
            self.stop()
            raise
        return True

    def _begin(self) -> None:
        why = self._attach()
        pause = self._pause()
        poll = f"polls every {pause:g} s" if pause else "does not poll"
        if self._listener is not None:
            logger.info("Listening for %s by %s on its bell; as a backstop it %s.", self._source.path, self.how, poll)
        else:
            logger.warning("No bell can be heard for %s (%s); the watcher %s.", self._source.path, why, poll)
        if error := self._listen_to_inbox():
            logger.warning("No ear for the inbox of %s (%s); only a poll looks into it.", self._source.path, error)
        self._schedule(pause)

    def _listen_to_inbox(self) -> OSError | None:
        """Listen to the inbox, if there is one; otherwise say why not."""
        if self._inbox is None:
            return None
        ear = None
        try:
            ear = self._inbox.listen_to_inbox()
            if ear is not None:
                self._inode = os.fstat(ear.fileno()).st_ino
                self.loop.add_reader(ear.fileno(), self._guard, self._inbox.take_in)
        except OSError as error:
            if ear is not None:
                ear.close()
            return error
        self._ear = ear
        return None

    def _attach(self) -> str:
        """Listen to the bell; otherwise say why not."""
        listener = None
        try:
            listener = self._source.listen()
            if listener is None:
                return "this platform has neither inotify nor kqueue"
            self.loop.add_reader(listener.fileno(), self._guard, self._rung)
        except (OSError, NotImplementedError) as error:
            if listener is not None:
                listener.close()
            return str(error) or type(error).__name__
        self._listener = listener
        self._stamp, self._unheard = self._source.stamp(), False
        return ""

    def _detach(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(listener.fileno())
            with contextlib.suppress(OSError):  # others have closed it already
                listener.close()

    def _pause(self) -> float | None:
        if self._interval is None or self._listener is None:
            return self._interval
        return max(self._interval, BACKSTOP)

    def _schedule(self, pause: float | None) -> None:
        if pause is not None:
            self._timer = self.loop.call_later(pause, self._guard, self._tick)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LayerClosed:
            self.stop()
        except Exception as error:
            self._report("The watcher of %s failed; it starts again in %g s.", error)
            self.stop()
            self._timer = self.loop.call_later(RESTART_PAUSE, self._restart)

    def _restart(self) -> None:
        try:
            self.start()
            self._look_now()
        except LayerClosed:
            self.stop()
        except Exception as error:
            self._report("The watcher of %s cannot start; the next try is in %g s.", error)
            self.stop()
            self._timer = self.loop.call_later(RESTART_PAUSE, self._restart)

    def _report(self, text: str, error: Exception) -> None:
        """Log what failed, loudly once for as long as it stays the same."""
        level = logging.DEBUG if self._troubles.get(text) == repr(error) else logging.ERROR
        self._troubles[text] = repr(error)
        logger.log(level, text, self._source.path, RESTART_PAUSE, exc_info=True)

    def _rung(self) -> None:
        self._heard = True
        if self._listener is not None and not self._listener.drain():
            self._reattach()
        # Not first data_version: a look costs as little where few queues are waited on, and a ring is mostly news.
        if self._crowded():
            self._look_if_changed()
        else:
            self._look_now()

    def _tick(self) -> None:
        if self._idle_for_too_long():
            logger.debug("Nobody waits for %s; its watcher stops until somebody does.", self._source.path)
            self.stop()
            return
        if self._source.renew_bell():
            self._reattach()
        elif self._is_deaf():
            logger.warning(
                "The bell of %s was rung, and its listener has not heard it; listening anew.", self._source.path
            )
            self._reattach()
        if self._inbox is not None:
            if self._ear is None or self._has_lost_its_ear(self._ear):
                self._listen_to_inbox()
            self._inbox.tidy()
        self._look_if_changed()
        self._troubles.clear()
        self._schedule(self._pause())

    def _is_deaf(self) -> bool:
        """Whether the bell was rung before the last poll, and the listener has not said so since.

        Code that closes what it does not know, as daemons do, may have closed its descriptor.
        """
        heard, self._heard = self._heard, False
        stamp, before = self._source.stamp(), self._stamp
        self._stamp = stamp
        deaf = self._unheard and not heard
        self._unheard = stamp != before and not heard
        return deaf and self._listener is not None

    def _has_lost_its_ear(self, ear: socket.socket) -> bool:
        """Whether the ear's descriptor is closed, or another file's by now. What is there is heard by the poll then."""
        with contextlib.suppress(OSError):
            if os.fstat(ear.fileno()).st_ino == self._inode:
                return False
        logger.warning("The ear for the inbox of %s was closed by other code; listening anew.", self._source.path)
        self.loop.remove_reader(ear.fileno())
        ear.detach()  # the number is not ours to close any more
        self._ear = None
        return True

    def _reattach(self) -> None:
        self._detach()
        self._source.renew_bell()
        why = self._attach()
        if why:
            logger.warning("No bell can be heard for %s any more (%s); left is %s.", self._source.path, why, self.how)

    def _idle_for_too_long(self) -> bool:
        if self._wanted():
            self._idle_since = None
            return False
        if self._idle_since is None:
            self._idle_since = self.loop.time()
        return self.loop.time() - self._idle_since >= self._idle_timeout

    def _look_if_changed(self) -> None:
        version = self._current_version()
        if version != self._version or version == UNKNOWN:
            # Before the look: a commit during it must count as new.
            self._version = version
            self._look_now()

    def _current_version(self) -> int:
        try:
            return self._source.version()
        except Locked:
            return UNKNOWN

    def _look_now(self) -> None:
        """Look; again in a moment where somebody has the lock, who may be mending what a killed process has left."""
        if self._again is not None:
            self._again.cancel()
        try:
            self._look()
        except Locked:
            self._again = self.loop.call_later(keeper.pause(self._attempts), self._guard, self._look_now)
            self._attempts += 1
        else:
            self._attempts = 0

    def abandon(self) -> None:
        """Give the descriptors back without touching the loop."""
        with contextlib.suppress(OSError):  # others have closed it already
            if self._listener is not None:
                self._listener.close()
        with contextlib.suppress(OSError):
            if self._ear is not None:
                self._ear.close()

    def stop(self) -> None:
        """Stop listening and give the descriptors back; ``start`` begins anew."""
        self.running = False
        self._detach()
        ear, self._ear = self._ear, None
        if ear is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(ear.fileno())
            with contextlib.suppress(OSError):  # others have closed it already
                ear.close()
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._timer = self._again = None


class Layer(Inbox, Protocol):
    """Whose waiting receivers are to hear."""

    def look(self) -> None:
        """Look at the database for everybody who waits."""

    def waits(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether anybody waits in this loop."""

    def waits_on_many(self) -> bool:
        """Whether so many queues are waited on that a look is better not taken in vain."""


class Watchers:
    """The watchers of one layer, one for each loop in which somebody waits. They do not keep the layer alive."""

    def __init__(self, layer: Layer, interval: float | None, idle_timeout: float) -> None:
        self._layer = weakref.ref(layer)
        self._interval = interval
        self._idle_timeout = idle_timeout
        self._by_loop: dict[asyncio.AbstractEventLoop, Watcher] = {}
        weakref.finalize(layer, _stop_all, self._by_loop).atexit = False

    def __iter__(self) -> Iterator[Watcher]:
        return iter(list(self._by_loop.values()))

    def listen(self, source: Source) -> bool:
        """Have a running watcher in the running loop, unless the database is in memory, which nobody else can reach.

        Returns whether it begins only now: what was committed before it does not hear.
        """
        if source.in_memory:
            return False
        loop = asyncio.get_running_loop()
        watcher = self._by_loop.get(loop)
        if watcher is None:
            self._forget_closed_loops()
            watcher = Watcher(source, self._look, self._wanted, self._crowded, self._interval, self._idle_timeout, self)
            self._by_loop[loop] = watcher
        return watcher.start()

    def hears(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this loop has a running watcher."""
        watcher = self._by_loop.get(loop)
        return watcher is not None and watcher.running

    def stop(self) -> None:
        """Stop them all, each in its own loop."""
        _stop_all(self._by_loop)

    def abandon(self) -> None:
        """Forget them without touching their loops, which are a parent's or have ended."""
        while self._by_loop:
            self._by_loop.popitem()[1].abandon()

    def _look(self) -> None:
        layer = self._layer()
        if layer is not None:
            layer.look()

    def listen_to_inbox(self) -> socket.socket | None:
        """That of the layer's inbox."""
        layer = self._layer()
        return None if layer is None else layer.listen_to_inbox()

    def take_in(self) -> None:
        """Let the layer deliver what is in its inbox."""
        layer = self._layer()
        if layer is not None:
            layer.take_in()

    def tidy(self) -> None:
        """Let the layer do so now and then."""
        layer = self._layer()
        if layer is not None:
            layer.tidy()

    def _wanted(self) -> bool:
        layer = self._layer()
        return layer is not None and layer.waits(asyncio.get_running_loop())

    def _crowded(self) -> bool:
        layer = self._layer()
        return layer is None or layer.waits_on_many()

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in list(self._by_loop) if loop.is_closed()]:
            watcher = self._by_loop.pop(loop, None)  # another thread may be doing the same
            if watcher is not None:
                watcher.stop()


def _stop_all(by_loop: dict[asyncio.AbstractEventLoop, Watcher]) -> None:
    for loop in list(by_loop):
        watcher = by_loop.pop(loop, None)  # another thread may have taken it
        if watcher is None:
            continue
        try:
            loop.call_soon_threadsafe(watcher.stop)
        except RuntimeError:  # the loop is closed
            watcher.stop()
