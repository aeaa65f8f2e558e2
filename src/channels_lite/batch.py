"""What the tasks of one event loop write at the same time, in one transaction."""

import asyncio
from collections import deque
from typing import NamedTuple

from channels_lite.apsw_database import TURN, ApswDatabase, Write
from channels_lite.database import Sent
from channels_lite.errors import Locked, busy
from channels_lite.keeper import pause


class Request(NamedTuple):
    """A write that a task waits for."""

    write: Write
    future: asyncio.Future[Sent]
    deadline: float  # loop time until which a locked database is waited for


class Batch:
    """The writes of one event loop. A task alone writes at once; what several want is written at the loop's next turn.

    Measured with 60 tasks that send to normal channels: a transaction for all of them instead of one for each makes
    two to three times as many messages a second. To wait for the loop's next turn makes a lone task's send take half
    as long again, so it does not wait: what the task that wrote last writes next, while nobody else waits, is written
    inline. Tried without gain: to try again for up to 0.2 ms inline where the database is locked.
    """

    def __init__(self, database: ApswDatabase, prefix: str, patience: float) -> None:
        self.database = database
        self._loop = asyncio.get_running_loop()
        self._prefix = prefix
        self._patience = patience  # seconds that a locked database is waited for
        self._requests: deque[Request] = deque()
        self._attempts = 0  # in vain, one after the other
        self._writer = 0  # id() of the task that wrote last; of a new task with the same id, only the order matters

    async def write(self, write: Write) -> Sent:
        """Write and commit, and wake who waits for it."""
        task = id(asyncio.current_task())
        if task == self._writer and not self._requests:
            try:
                return self.database.send(self._prefix, write)
            except Locked:
                pass
        self._writer = task
        return await self._ask(write)

    def _ask(self, write: Write) -> asyncio.Future[Sent]:
        future: asyncio.Future[Sent] = self._loop.create_future()
        if not self._requests:
            self._loop.call_soon(self._flush)
        self._requests.append(Request(write, future, self._loop.time() + self._patience))
        return future

    def _flush(self) -> None:
        requests = self._requests = deque(request for request in self._requests if not request.future.done())
        if not requests:
            return
        try:
            outcomes = self._write_all([request.write for request in requests])
        except Locked:
            self._wait()
            return
        except BaseException:  # the loop is interrupted, and to try again might write twice
            while requests:
                requests.popleft().future.cancel()
            raise
        self._attempts = 0
        for outcome in outcomes:
            _settle(requests.popleft().future, outcome)
        if requests:
            self._loop.call_soon(self._flush)

    def _write_all(self, writes: list[Write]) -> list[Sent | Exception]:
        """The outcomes of as many of the writes, from the first on, as there is time for."""
        if len(writes) == 1:
            return self._write_each(writes)
        try:
            return self.database.send_together(self._prefix, writes)
        except Locked:
            raise
        except Exception:  # nothing was written: the one whose fault it is shall fail alone
            return self._write_each(writes)

    def _write_each(self, writes: list[Write]) -> list[Sent | Exception]:
        end = self._loop.time() + TURN
        outcomes: list[Sent | Exception] = []
        while len(outcomes) < len(writes) and (not outcomes or self._loop.time() < end):
            try:
                outcomes.append(self.database.send(self._prefix, writes[len(outcomes)]))
            except Locked:
                if not outcomes:
                    raise
                break
            except Exception as error:
                outcomes.append(error)
        return outcomes

    def _wait(self) -> None:
        now = self._loop.time()
        for request in self._requests:
            if request.deadline <= now:
                _settle(request.future, busy(self.database.path, self._patience))
        self._loop.call_later(pause(self._attempts), self._flush)
        self._attempts += 1
        self.database.retries += 1


def _settle(future: asyncio.Future[Sent], outcome: Sent | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
