"""The example chat: two server processes behind one port, the dice bot's process, and manage.py say."""

import asyncio
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.processes.chat import DEADLINE, HOST, Browser, Chat, Event, Watched, descendants, end

PEOPLE = 20
MESSAGES = 10  # from each of them
DICE_CAPACITY = 100  # the layer's default

SERVICE_RESTART = 1012  # WebSocket close codes
REJECTED = 4400


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is reached directly, whatever the environment says of proxies."""
    monkeypatch.setenv("no_proxy", HOST)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """The chat with two server processes, for all tests here. Each test has a room of its own."""
    chat = Chat(tmp_path_factory.mktemp("chat"))
    server = chat.start_servers(workers=2)
    yield chat
    end(server)
    assert "Traceback" not in chat.log, chat.log


@contextmanager
def running_bot(chat: Chat) -> Iterator[None]:
    """The dice bot in a process of its own."""
    worker = chat.manage("runworker", "dice")
    try:
        yield
    finally:
        end(worker)


@pytest.fixture
def bot(chat: Chat) -> Iterator[None]:
    """The bot is there."""
    with running_bot(chat):
        yield


# Messages between browsers.


async def test_everyone_gets_every_message_once_and_in_order(chat: Chat) -> None:
    """20 people on two server processes talk at the same time; the order is that of each sender."""
    async with chat.crowd("once", PEOPLE, processes=2) as crowd:
        assert len({browser.welcome["process"] for browser in crowd}) == 2
        heard = await asyncio.gather(*map(talk, crowd))
        await crowd[0].say("the last word")
        rest = await asyncio.gather(*(browser.next("said") for browser in crowd))
    expected = {browser.welcome["person"]: list(range(1, MESSAGES + 1)) for browser in crowd}
    assert [by_sender(said) for said in heard] == [expected] * PEOPLE
    assert {last["text"] for last in rest} == {"the last word"}, "something came twice"


async def talk(browser: Browser) -> list[Event]:
    """Say ten things, each when the one before is there, and hear what everyone says."""
    heard: list[Event] = []
    await browser.say("first")
    while len(heard) < PEOPLE * MESSAGES:
        heard.append(await browser.next("said"))
        if heard[-1]["person"] == browser.welcome["person"] and heard[-1]["id"] < MESSAGES:
            await browser.say("next")
    return heard


def by_sender(said: list[Event]) -> dict[str, list[int]]:
    ids = defaultdict(list)
    for event in said:
        ids[event["person"]].append(event["id"])
    return dict(ids)


async def test_a_room_hears_nothing_of_another(chat: Chat) -> None:
    async with chat.visitor("here", "Ann") as ann, chat.visitor("there", "Bob") as bob:
        await bob.say("in the other room")
        await bob.next("said")
        await ann.say("in this room")
        assert (await ann.next("said"))["text"] == "in this room"


async def test_a_command_speaks_into_a_room(chat: Chat) -> None:
    async with chat.visitor("Say", "Ann") as ann:
        assert await chat.say("Say", "dinner", "is ready", "--name", "Cook") == 0
        said = await ann.next("said")
        assert said == {"type": "said", "name": "Cook", "text": "dinner is ready"}


async def test_a_command_that_cannot_be_heard_says_why(chat: Chat) -> None:
    assert await chat.say("r" * 51, "text") == 1
    assert "The room's name can have 50 characters; this has 51." in chat.log


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 501, "A message can have 500 characters; this has 501."),
        (" \n ", "A message cannot be empty."),
        (None, "A message is a text."),
    ],
)
async def test_what_cannot_be_sent_is_refused(chat: Chat, text: str | None, reason: str) -> None:
    """The sender is told why, and goes on talking."""
    async with chat.visitor("refusals", "Ann") as ann:
        await ann.send({"type": "say", "id": 1, "text": text})
        assert await ann.next("refused") == {"type": "refused", "id": 1, "text": reason}
        await ann.send({"type": "say", "id": 2, "text": "x" * 500})
        await ann.next("said", id=2)


@pytest.mark.parametrize(
    "nonsense", [17, ["say"], {}, {"type": "room.event"}, {"type": "say"}, {"type": "say", "id": 0, "text": "no id"}]
)
async def test_nonsense_does_no_harm(chat: Chat, nonsense: object) -> None:
    async with chat.visitor("nonsense", "Ann") as ann:
        await ann.send(nonsense)
        await ann.say("still here")
        assert (await ann.next("said"))["text"] == "still here"


async def test_half_a_character_reaches_the_room(chat: Chat) -> None:
    """JSON can hold half a surrogate pair, which UTF-8 cannot."""
    async with chat.visitor("surrogates", "Ann") as ann:
        await ann.say("half \ud83d")
        assert (await ann.next("said"))["text"] == "half ?"


# Coming and going.


async def test_a_newcomer_and_those_present_hear_of_each_other(chat: Chat) -> None:
    async with chat.crowd("arrivals", 2, processes=2) as (ann, bob):
        await ann.next("joined", person=bob.welcome["person"], name="visitor 1")
        await bob.next("present", person=ann.welcome["person"], name="visitor 0")


async def test_a_ping_tells_everybody(chat: Chat) -> None:
    async with chat.crowd("pings", 2, processes=2) as (ann, bob):
        await ann.next("joined", person=bob.welcome["person"])
        await bob.send({"type": "ping"})
        await asyncio.gather(*(browser.next("present", person=bob.welcome["person"]) for browser in (ann, bob)))


async def test_who_leaves_is_announced(chat: Chat) -> None:
    """Also who leaves at once, while the server still has something to tell them."""
    async with chat.visitor("departures", "Ann") as ann:
        for _ in range(PEOPLE):
            async with chat.visitor("departures", "Bob") as bob:
                pass
            left = await ann.next("left")
            assert (left["name"], left["connection"]) == ("Bob", bob.welcome["connection"])


async def test_a_ticket_brings_the_same_person_back(chat: Chat) -> None:
    """Each process takes the other's tickets: both have the same key. A forged one is no ticket."""
    async with chat.crowd("tickets", 2, processes=2) as crowd:
        for browser in crowd:
            person, ticket = browser.welcome["person"], browser.welcome["ticket"]
            async with chat.visitor("tickets", "Ann", ticket=ticket) as again:
                assert again.welcome["person"] == person
                assert again.welcome["connection"] != browser.welcome["connection"]
            async with chat.visitor("tickets", "Eve", ticket=f"{person}:forged") as forger:
                assert forger.welcome["person"] != person


# Rooms and names.


@pytest.mark.parametrize("room", ["..", "a/b?c#d%", "Küche & Garten", "部屋", "👩‍🚒", "r" * 50, "<b>bold</b>"])
async def test_a_room_may_have_any_name(chat: Chat, room: str) -> None:
    status, page = await chat.page("/room", room=room)
    assert (status, "<b>bold" in page) == (200, False)
    async with chat.visitor(room, "Ann") as ann:
        assert ann.welcome["room"] == room
        await ann.say("hello")
        await ann.next("said", text="hello", name="Ann")


async def test_case_and_spaces_make_no_other_room(chat: Chat) -> None:
    async with chat.visitor("Tea  Room ", "Ann") as ann, chat.visitor("tea room", "Bob") as bob:
        assert (ann.welcome["room"], bob.welcome["room"]) == ("Tea Room", "tea room")
        await bob.say("hello")
        await ann.next("said", text="hello")


@pytest.mark.parametrize(
    ("room", "name", "reason"),
    [
        ("", "Ann", "The room's name cannot be empty."),
        ("\u202e", "Ann", "The room's name cannot be empty."),
        ("r" * 51, "Ann", "The room's name can have 50 characters; this has 51."),
        ("rejections", " ", "Your name cannot be empty."),
        ("rejections", "n" * 31, "Your name can have 30 characters; this has 31."),
    ],
)
async def test_who_cannot_be_let_in_is_told_why(chat: Chat, room: str, name: str, reason: str) -> None:
    async with chat.browser(room=room, name=name) as browser:
        assert await browser.next("rejected") == {"type": "rejected", "text": reason}
        assert await browser.closed() == REJECTED


async def test_pages_are_served(chat: Chat) -> None:
    """Choosing a room, the room, and what the room's page loads."""
    status, home = await chat.page("/")
    assert (status, 'action="/room"' in home) == (200, True)
    status, room = await chat.page("/room", room="Pages")
    assert (status, 'data-room="Pages"' in room) == (200, True)
    for path in ("/chat.js", "/chat.css"):
        assert f'"{path}"' in room
        status, _ = await chat.page(path)
        assert status == 200


async def test_a_page_says_why_a_room_cannot_be(chat: Chat) -> None:
    status, page = await chat.page("/room", room=" ")
    assert (status, "name cannot be empty." in page) == (400, True)


async def test_pages_of_other_sites_are_kept_out(chat: Chat) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        async with chat.browser(origin="https://elsewhere.example", room="origins", name="Eve"):
            pass


# The bot.


@pytest.mark.parametrize("dice", ["2d6", "d20", "20d100"])
@pytest.mark.usefixtures("bot")
async def test_the_bot_rolls_dice(chat: Chat, dice: str) -> None:
    async with chat.visitor("dice", "Ann") as ann:
        await ann.say(f"/roll {dice}")
        await ann.next("said", name="Ann", text=f"/roll {dice}")
        answer = await ann.next("said", name="Dice bot")
    roll, _, total = answer["text"].removeprefix(f"Ann rolls {dice}: ").partition(" = ")
    shown = [int(die) for die in roll.split(" + ")]
    assert len(shown) == int(dice.partition("d")[0] or 1)
    assert sum(shown) == int(total or roll)


@pytest.mark.usefixtures("bot")
async def test_the_bot_is_friendly_about_what_it_cannot_roll(chat: Chat) -> None:
    async with chat.visitor("bad dice", "Ann") as ann:
        for dice in ("", "2x6", "0d6", "21d6", "2d1", "2d101", "99999d99999", "two", "²d6", "d" * 400):
            await ann.say(f"/roll {dice}")
            answer = await ann.next("said", name="Dice bot")
            assert answer["text"].startswith("Ann, I cannot roll that. Write for example /roll 2d6"), dice


async def test_rolls_wait_for_the_bot_until_there_are_too_many(chat: Chat) -> None:
    """While the bot is away, its channel fills up; one roll more is answered politely, and none before is lost."""
    async with chat.visitor("waiting", "Ann") as ann:
        for _ in range(DICE_CAPACITY):
            await ann.say("/roll 1d2")
            await ann.next("said")
        await ann.say("/roll 1d2")
        notice = await ann.next("notice")
        assert notice["text"] == "Dice bot is too busy, or away. Please try again in a minute."
        with running_bot(chat):
            for _ in range(DICE_CAPACITY):
                await ann.next("said", name="Dice bot")


# All of it by one command.

watching = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches other processes by pidfd, as on Linux")


@pytest.fixture
async def all_of_it(tmp_path: Path) -> AsyncIterator[tuple[Chat, subprocess.Popen[bytes]]]:
    """A chat started by ``manage.py chat``, and that command's process."""
    chat = Chat(tmp_path)
    with chat.all_of_it() as command:
        chat.wait_until(lambda: f"The chat is at {chat.origin}/" in chat.log, command)
        yield chat, command


@watching
async def test_one_command_starts_and_ends_all_of_it(all_of_it: tuple[Chat, subprocess.Popen[bytes]]) -> None:
    chat, command = all_of_it
    async with chat.crowd("all of it", 2, processes=2) as crowd:
        await crowd[0].say("/roll 2d6")
        await crowd[1].next("said", name="Dice bot")
        children = descendants(command.pid)
        assert {browser.welcome["process"] for browser in crowd} < children.keys()
        with Watched(children) as watched:
            assert await asyncio.to_thread(end, command) == 0
            assert watched.left() == set()
        assert [await browser.closed() for browser in crowd] == [SERVICE_RESTART] * 2
    assert "The chat has ended." in chat.log
    assert "Traceback" not in chat.log


@watching
@pytest.mark.parametrize(("name", "part"), [("web server", "uvicorn"), ("dice bot", "runworker")])
async def test_when_one_process_dies_the_rest_is_ended(
    all_of_it: tuple[Chat, subprocess.Popen[bytes]], name: str, part: str
) -> None:
    chat, command = all_of_it
    children = descendants(command.pid)
    (victim,) = (pid for pid, line in children.items() if part in line)
    with Watched(children) as watched:
        os.kill(victim, signal.SIGKILL)
        assert await asyncio.to_thread(command.wait, DEADLINE) == 1
        assert watched.left() == set()
    assert f"The {name} has ended (status -9), and so the rest was ended too." in chat.log


async def test_a_port_that_is_taken_is_reported(chat: Chat) -> None:
    command = chat.manage("chat", "--port", str(chat.port))
    assert await asyncio.to_thread(command.wait, DEADLINE) == 1
    assert f"Port {chat.port} cannot be used" in chat.log
