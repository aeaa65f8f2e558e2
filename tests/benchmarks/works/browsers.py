"""Browsers in one room of the example chat: real WebSocket clients, in a process that has no other use for its layer.

All times are those of ``time.perf_counter()``, a clock that the processes of one machine have in common.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter
from itertools import chain
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

OPENING = 60  # seconds that coming in may take while the room is told about others
TRIES = 100  # connections made for one browser, until it meets a worker that serves fewer than the others
QUIET = 1.0  # seconds without an event after which everybody knows about everybody
PATIENCE = 5.0  # seconds: what has not arrived by then is lost


class Crowd:
    """The browsers of this process, and what they heard."""

    def __init__(self) -> None:
        self.browsers: list[ClientConnection] = []
        self.heard: dict[str, list[float]] = {}
        """When browsers heard a text: one time for each of them."""
        self.event = asyncio.Event()
        """Set whenever one of them is told something."""
        self._everybody: dict[str, asyncio.Future[None]] = {}
        self._listeners: list[asyncio.Task[None]] = []
        self._served: Counter[int] = Counter()  # browsers by worker
        self._said = 0

    async def enter(self, origin: str, room: str, name: str, most: int) -> bool:
        """One more browser, in the room as soon as this returns; False where its worker serves as many already."""
        url = f"{origin.replace('http', 'ws', 1)}/ws?{urlencode({'room': room, 'name': name})}"
        browser = await connect(url, origin=origin, open_timeout=OPENING, close_timeout=1)
        welcome = json.loads(await asyncio.wait_for(browser.recv(), OPENING))
        assert welcome["type"] == "welcome", welcome
        if self._served[welcome["process"]] >= most:
            await browser.close()
            return False
        self._served[welcome["process"]] += 1
        self.browsers.append(browser)
        self._listeners.append(asyncio.ensure_future(self._listen(browser)))
        return True

    async def _listen(self, browser: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # hear() says so
            async for event in browser:
                now = time.perf_counter()
                self.event.set()
                heard = json.loads(event)
                if heard["type"] == "said":
                    self._hear(heard["text"], now)

    def _hear(self, text: str, now: float) -> None:
        times = self.heard.setdefault(text, [])
        times.append(now)
        if len(times) == len(self.browsers) and text in self._everybody:
            self._everybody.pop(text).set_result(None)

    async def say(self, number: int, text: str) -> float:
        """Let one of the browsers speak: when it did."""
        self._said += 1
        start = time.perf_counter()
        await self.browsers[number].send(json.dumps({"type": "say", "id": self._said, "text": text}))
        return start

    async def hear(self, text: str) -> list[float]:
        """When the browsers heard this, as soon as all of them have or patience ends. AssertionError if one is gone."""
        assert not any(listener.done() for listener in self._listeners), "A browser's connection has been closed."
        if len(self.heard.get(text, ())) < len(self.browsers):
            self._everybody[text] = everybody = asyncio.get_running_loop().create_future()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(everybody, PATIENCE)
            self._everybody.pop(text, None)
        return self.heard.get(text, [])


_crowd = Crowd()


async def enter(layer, origin, room, names, most):
    """Bring browsers into a room, one after the other, at most so many of them at any worker."""
    for name in names:
        for _ in range(TRIES):
            if await _crowd.enter(origin, room, name, most):
                break
        else:
            raise RuntimeError(f"One of the workers is not reached in {TRIES} tries.")


async def calm(layer):
    """Wait until nothing has happened in the room for a while."""
    with contextlib.suppress(asyncio.TimeoutError):
        while True:
            _crowd.event.clear()
            await asyncio.wait_for(_crowd.event.wait(), QUIET)


async def say(layer, text):
    """Let the first browser speak: when it did, and when each browser of this process heard it."""
    said = await _crowd.say(0, text)
    return [said, *await _crowd.hear(text)]


async def hear(layer, text):
    """When each browser of this process heard what one of another process says."""
    return await _crowd.hear(text)


async def talk(layer, lines, crowd):
    """Let browsers speak: ``lines`` has for each process, of which this is number ``crowd``, a list for each speaker.

    A speaker goes on when all of its process have heard the line. When that began here, when the last line of all
    processes was heard, and how many times one was heard.
    """
    start = time.perf_counter()
    await asyncio.gather(*(_speak(number, texts) for number, texts in enumerate(lines[crowd])))
    heard = await asyncio.gather(*(_crowd.hear(text) for speakers in lines for texts in speakers for text in texts))
    times = list(chain(*heard))
    return {"start": start, "end": max(times, default=start), "heard": len(times)}


async def _speak(number: int, texts: list[str]) -> None:
    for text in texts:
        await _crowd.say(number, text)
        await _crowd.hear(text)


async def wrong(layer, texts):
    """How many times one of these texts was not heard by a browser, or was heard twice; they are forgotten then."""
    return sum(abs(len(_crowd.heard.pop(text, [])) - len(_crowd.browsers)) for text in texts)
