"""What hears for a process dies: it is logged and begun anew, and what others send meanwhile is received."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from channels_lite import inbox
from channels_lite.django_database import Own
from channels_lite.inbox import Inbox
from channels_lite.keeper import Keeper
from channels_lite.watcher import Watcher, Watchers
from tests.faults.conftest import PATIENCE, Process, Start, open_layer
from tests.needs import need
from tests.patience import until

POLLS = 3  # within so many polls a message is received, however slow the machine


@pytest.fixture
async def layer(kind: str, path: str, alias: str) -> AsyncIterator[Any]:
    """A layer of each kind in this process, to which faults happen."""
    async with open_layer(kind, path, alias) as layer:
        yield layer


@pytest.fixture
async def sender(layer: Any, start: Start) -> Process:
    """Another process that sends."""
    return await start()


class Receivers:
    """One waits on a normal channel, and one on a channel of this process."""

    def __init__(self, layer: Any, sender: Process) -> None:
        self._layer = layer
        self._sender = sender
        self._waiting: dict[str, asyncio.Task[Any]] = {}

    async def wait(self) -> Watcher:
        """Begin to wait; the watcher that hears for both."""
        for channel in ("jobs", await self._layer.new_channel()):
            self._waiting[channel] = asyncio.ensure_future(self._layer.receive(channel))
        await until(lambda: self._layer._mailboxes.queues() == 2)
        await asyncio.sleep(0)
        [watcher] = self._layer._watchers
        return watcher

    async def hear(self) -> None:
        """Both receive what the other process sends now, and wait again."""
        for number, channel in enumerate(self._waiting):
            assert await self._sender.do("send", channel, {"type": "x", "number": number}) is None
        for number, channel in enumerate(self._waiting):
            assert (await asyncio.wait_for(self._waiting[channel], PATIENCE))["number"] == number
            self._waiting[channel] = asyncio.ensure_future(self._layer.receive(channel))
        await until(lambda: self._layer._mailboxes.queues() == 2)

    async def hear_until(self, condition: Callable[[], bool]) -> None:
        """Have messages come until this is true; all of them are received."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            assert asyncio.get_running_loop().time() < deadline
            await self.hear()

    async def end(self) -> None:
        """Wait no more."""
        for task in self._waiting.values():
            task.cancel()
        await asyncio.gather(*self._waiting.values(), return_exceptions=True)


@pytest.fixture
async def receivers(layer: Any, sender: Process) -> AsyncIterator[Receivers]:
    """Receivers in this process, of what the other one sends."""
    receivers = Receivers(layer, sender)
    yield receivers
    await receivers.end()


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How often a watcher of this process has polled, and when."""
    polled: list[float] = []
    tick = Watcher._tick

    def counted(self: Watcher) -> None:
        polled.append(self.loop.time())
        tick(self)

    monkeypatch.setattr(Watcher, "_tick", counted)
    return polled


def warnings(caplog: pytest.LogCaptureFixture, logger: str = "channels_lite.watcher") -> list[str]:
    """What was logged as a warning or an error."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name == logger]


# Errors.


class Fault:
    """A method of a class that fails, when it is told to, the next few times it is called."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Callable[[], BaseException]
    ) -> None:
        self.left = 0
        self._work = getattr(owner, name)
        self._error = error
        monkeypatch.setattr(owner, name, lambda *arguments, **named: self._called(*arguments, **named))

    def _called(self, *arguments: Any, **named: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self._error()
        return self._work(*arguments, **named)


@pytest.mark.parametrize(
    ("owner", "step"), [(Watchers, "_look"), (Watcher, "_tick"), (Watcher, "_rung"), (Watcher, "_look_if_changed")]
)
async def test_error_in_a_step(
    receivers: Receivers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    step: str,
) -> None:
    """A look, a poll or a ring that fails is logged, and the watcher begins again: who waits hears, now and later."""
    fault = Fault(monkeypatch, owner, step, lambda: OSError("disk I/O error"))
    ears = await receivers.wait()
    fault.left = 1
    await receivers.hear_until(lambda: not fault.left)
    await until(lambda: ears.running)
    assert [text for text in warnings(caplog) if "starts again" in text]
    await receivers.hear()


async def test_errors_in_the_inbox(
    receivers: Receivers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An inbox that cannot be read for a while is logged, and what has come meanwhile is received."""
    need(inbox.is_possible(), "there are inboxes on Linux only")
    fault = Fault(monkeypatch, Inbox, "collect", lambda: OSError("out of memory"))
    await receivers.wait()
    fault.left = 3
    await receivers.hear_until(lambda: not fault.left)
    assert [text for text in warnings(caplog) if "starts again" in text]
    await receivers.hear()
    caplog.clear()  # the tracebacks keep the inbox


# The descriptors are taken away by code that does not know them.


def close_listener(ears: Watcher) -> None:
    os.close(ears._listener.fileno())  # type: ignore[union-attr]


def close_all_ears(ears: Watcher) -> None:
    close_listener(ears)
    if ears._ear is not None:
        os.close(ears._ear.fileno())
    os.close(ears._source.bell._fd)  # type: ignore[attr-defined]


def reuse_listener(ears: Watcher) -> None:
    """As code that closes all and opens its own: the number is another file's."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, ears._listener.fileno())  # type: ignore[union-attr]
    os.close(null)


def remove_reader(ears: Watcher) -> None:
    ears.loop.remove_reader(ears._listener.fileno())  # type: ignore[union-attr]


@pytest.mark.parametrize("take", [close_listener, close_all_ears, reuse_listener, remove_reader])
async def test_deaf(
    layer: Any,
    receivers: Receivers,
    polls: list[float],
    caplog: pytest.LogCaptureFixture,
    take: Callable[[Watcher], None],
) -> None:
    """A listener that is closed, replaced or not asked any more: the poll finds what comes, and listens anew."""
    ears = await receivers.wait()
    assert ears.how == "inotify", "or there is nothing to close"
    before = ears._listener
    take(ears)
    begun = len(polls)
    await receivers.hear()
    assert len(polls) - begun <= POLLS
    await receivers.hear_until(lambda: ears._listener is not before)
    assert warnings(caplog)
    assert ears.running
    assert ears.how == "inotify"
    await receivers.hear()


async def test_a_bell_that_is_another_files(layer: Any, receivers: Receivers, tmp_path: Any) -> None:
    """Where the bell's descriptor was closed and is another file's now, that file is not written to; the bell rings."""
    await receivers.wait()
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    bell = layer._database.bell
    taken = os.open(other, os.O_RDWR)
    os.dup2(taken, bell._fd)
    os.close(taken)
    await layer.group_send("group", {"type": "x"})
    heard = bell.listen()
    for _ in range(3):
        await layer.send("elsewhere", {"type": "x"})
    assert other.read_bytes() == b"precious"
    with contextlib.closing(heard):
        assert os.read(heard.fileno(), 1000), "it rings"
    await receivers.hear()


# The keeper.


def kill_by_error(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in its own loop."""
    Fault(monkeypatch, Keeper, "_wait", lambda: RuntimeError("something that nobody thought of")).left = 1


def kill_by_exit(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit, which ends a thread without a word."""
    Fault(monkeypatch, Keeper, "_round", lambda: SystemExit(1)).left = 1


def exit_in_a_job(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that ends its thread."""
    keeper.ask(lambda execute: sys.exit(1))


def close_connection(keeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed under it."""
    connection = keeper._connection
    (connection._raw if isinstance(connection, Own) else connection._connection).close()


@pytest.mark.parametrize("kill", [kill_by_error, kill_by_exit, exit_in_a_job, close_connection])
async def test_keeper(
    layer: Any,
    receivers: Receivers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kill: Callable[[Any, pytest.MonkeyPatch], None],
) -> None:
    """Whatever happens in the keeper's thread is logged; it goes on, and so do messages and the removal of old ones."""
    await receivers.wait()
    keeper = layer._database.keeper
    await until(lambda: keeper._connection is not None)
    kill(keeper, monkeypatch)
    keeper.checkpoint()  # something to do
    await until(lambda: bool(warnings(caplog, "channels_lite.keeper")))
    await receivers.hear()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    assert keeper.ask(lambda execute: loop.call_soon_threadsafe(done.set))
    await asyncio.wait_for(done.wait(), PATIENCE)
    await layer.send("old", {"type": "x"}, expiry=0.001)
    await asyncio.sleep(0.01)
    assert await layer.clean_expired() == (1, 0)


# No room.

WITHOUT_DESCRIPTORS = """
import resource
from tests.faults import agent

class Full(agent.Agent):
    async def fill(self):
        "Take all descriptors that are left."
        self.taken = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        try:
            while True:
                self.taken.append(open("/dev/null"))
        except OSError as error:
            return error.errno

    async def free(self):
        "Give them back."
        for file in self.taken:
            file.close()

agent.Agent = Full
agent.logging.basicConfig(level=agent.logging.INFO, format="%(levelname)s %(name)s %(message)s")
agent.asyncio.run(agent.main())
"""


async def test_no_descriptors(start: Start) -> None:
    """A process that runs out of descriptors before it listens says so and polls; it hears what others send."""
    victim, other = await start(script=WITHOUT_DESCRIPTORS), await start()
    own = await victim.do("new_channel")
    assert await victim.do("fill") == 24
    for round_ in range(2):
        for channel in ("jobs", own):
            await victim.do("wait", channel)
        for channel in ("jobs", own):
            assert await other.do("send", channel, {"type": "x", "number": round_}) is None
            assert (await victim.do("got", channel))["number"] == round_
    assert "WARNING channels_lite.watcher No bell can be heard" in victim.log
    assert "Too many open files" in victim.log
    await victim.do("free")


WITHOUT_INOTIFY = ("unshare", "-U", "-r", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_instances; exec "$@"', "sh")


async def test_no_inotify(start: Start) -> None:
    """A process that gets no inotify instance says so and polls; it hears what others send."""
    made = await asyncio.create_subprocess_exec(*WITHOUT_INOTIFY, "true", stderr=asyncio.subprocess.DEVNULL)
    need(await made.wait() == 0, "no user namespace can be made, whose limit of inotify instances is nobody else's")
    victim, other = await start(within=WITHOUT_INOTIFY), await start()
    own = await victim.do("new_channel")
    for channel in ("jobs", own):
        await victim.do("wait", channel)
        assert await other.do("send", channel, {"type": "x", "number": 1}) is None
        assert (await victim.do("got", channel))["number"] == 1
    assert "WARNING channels_lite.watcher No bell can be heard" in victim.log
    assert "Too many open files" in victim.log
