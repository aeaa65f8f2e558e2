"""The example chat in a real browser: its pages in Chromium, two server processes and the dice bot behind them."""

import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from tests.needs import need
from tests.processes.chat import DEADLINE, Chat, kill
from tests.processes.window import Window

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONES = [(390, 844), (320, 568)]
MARKUP = "<img src=x onerror=alert(1)>"
ROLLED = re.compile(r"^Ann rolls 2d6: [1-6] \+ [1-6] = \d+$")

pytestmark = pytest.mark.asyncio(loop_scope="module")
expect.set_options(timeout=DEADLINE * 1000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests here. Each test has windows of its own."""
    need(CHROMIUM, "there is no chromium to look at the chat's pages with: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def chat(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """The chat, for all tests here but the one that kills it. Each test has a room of its own."""
    chat = Chat(tmp_path_factory.mktemp("chat"))
    with chat.all_of_it():
        yield chat
    assert "Traceback" not in chat.log, chat.log


Open = Callable[..., Awaitable[Window]]


@pytest_asyncio.fixture(loop_scope="module")
async def open_window(browser: Browser) -> AsyncIterator[Open]:
    """Open windows, each as of a person of its own. Nothing in them may fail unless the test expects it."""
    windows: list[Window] = []

    async def open_one(chat: Chat, path: str = "/", **options: Any) -> Window:
        page = await browser.new_page(**options)
        page.set_default_timeout(DEADLINE * 1000)
        windows.append(Window(page))
        await page.goto(chat.origin + path)
        return windows[-1]

    yield open_one
    for window in windows:
        await window.page.close()
    assert [window.complaints for window in windows] == [[]] * len(windows)


@pytest.fixture
def visit(open_window: Open) -> Open:
    """Open a window in which somebody is in a room."""

    async def visit_one(chat: Chat, room: str, name: str, **options: Any) -> Window:
        window = await open_window(chat, "/room?" + urlencode({"room": room}), **options)
        await window.join(name)
        return window

    return visit_one


async def part(one: Window, other: Window) -> None:
    """See to it that two windows are served by two processes. A page that is loaded again is in its room again."""
    deadline = time.monotonic() + DEADLINE
    while await one.process() == await other.process():
        assert time.monotonic() < deadline, "only one process serves"
        await other.page.reload()


# Talking.


async def test_windows_on_two_processes_talk(chat: Chat, visit: Open) -> None:
    """A message is "sending" until its server has passed it on, then "sent", and in the other's window; and back."""
    ann, bob = await visit(chat, "talk", "Ann"), await visit(chat, "talk", "Bob")
    await part(ann, bob)
    process = await ann.process()
    os.kill(process, signal.SIGSTOP)
    try:
        await ann.say("Hello Bob")
        await expect(ann.state("Hello Bob")).to_have_text("sending…")
        await expect(bob.texts).to_have_count(0)
    finally:
        os.kill(process, signal.SIGCONT)
    await expect(ann.state("Hello Bob")).to_have_text("sent")
    await expect(bob.message("Hello Bob").locator(".author")).to_have_text("Ann")
    await bob.say("Hello Ann")
    await expect(bob.state("Hello Ann")).to_have_text("sent")
    await expect(ann.message("Hello Ann").locator(".author")).to_have_text("Bob")
    for window in (ann, bob):
        await expect(window.texts).to_have_text(["Hello Bob", "Hello Ann"])


async def test_the_worker_rolls_dice(chat: Chat, visit: Open) -> None:
    """Both windows see what the bot answers, from a process of its own."""
    ann, bob = await visit(chat, "dice", "Ann"), await visit(chat, "dice", "Bob")
    await ann.say("/roll 2d6")
    for window in (ann, bob):
        await expect(window.message(ROLLED).locator(".author")).to_have_text("Dice bot")


async def test_a_command_speaks_in_the_window(chat: Chat, visit: Open) -> None:
    """What ``manage.py say`` tells the room is there as somebody's message."""
    ann = await visit(chat, "say", "Ann")
    assert await chat.say("say", "Dinner is ready", "--name", "Cook") == 0
    await expect(ann.message("Dinner is ready").locator(".author")).to_have_text("Cook")


async def test_what_is_refused_is_told_of(chat: Chat, visit: Open) -> None:
    """A message that the server does not take is marked as not sent, and the page says why."""
    ann = await visit(chat, "refused", "Ann")
    await ann.text_field.evaluate("field => field.removeAttribute('maxlength')")
    await ann.say("x" * 501)
    await expect(ann.state("x" * 501)).to_have_text("not sent")
    await expect(ann.page.get_by_role("alert")).to_have_text(
        "Not sent: A message can have 500 characters; this has 501."
    )


async def test_markup_is_text(chat: Chat, visit: Open) -> None:
    """What people type as a room, a name or a message is shown as they typed it, and the browser runs none of it."""
    ann, bob = await visit(chat, MARKUP, MARKUP), await visit(chat, MARKUP, "Bob")
    await ann.say(MARKUP)
    await expect(ann.state(MARKUP)).to_have_text("sent")
    await expect(bob.message(MARKUP).locator(".author")).to_have_text(MARKUP)
    await expect(bob.people).to_have_text([MARKUP, "Bob"])
    for window in (ann, bob):
        await expect(window.page.get_by_role("heading", level=1)).to_have_text(MARKUP)
        await expect(window.page).to_have_title(f"{MARKUP} \N{EN DASH} Chat")
        await expect(window.page.locator("img")).to_have_count(0)


# Coming and going.


async def test_the_list_knows_who_is_here(chat: Chat, visit: Open) -> None:
    """Who joins appears in it, and who closes the window is gone from it."""
    ann, bob = await visit(chat, "list", "Ann"), await visit(chat, "list", "Bob")
    await expect(ann.page.get_by_role("heading", level=2)).to_have_text("Here now (2)")
    await expect(ann.people).to_have_text(["Ann", "Bob"])
    await bob.page.close()
    await expect(ann.people).to_have_text(["Ann"])
    carol = await visit(chat, "list", "Carol")
    for window in (ann, carol):
        await expect(window.people).to_have_text(["Ann", "Carol"])
    await expect(ann.log).to_contain_text("Bob has joined.Bob has left.Carol has joined.")


async def test_windows_survive_their_server(tmp_path: Path, visit: Open) -> None:
    """All of its processes are killed: windows say so, come back by themselves, and send what was typed meanwhile."""
    chat = Chat(tmp_path)
    with chat.all_of_it() as command:
        windows = ann, bob, carol = [await visit(chat, "back", name) for name in ("Ann", "Bob", "Carol")]
        await expect(ann.people).to_have_text(["Ann", "Bob", "Carol"])
        before = {await window.process() for window in windows}
        kill(command)
    for window in windows:
        await expect(window.connection).to_have_text("No connection. Trying again…")
    await ann.say("while it was away")
    await expect(ann.state("while it was away")).to_have_text("sending…")
    assert await ann.violations() == []
    await carol.page.close()
    await ann.page.context.set_offline(True)  # so that Bob is back first, and hears Ann
    with chat.all_of_it():
        assert await bob.process() not in before
        await expect(bob.people).to_have_text(["Bob"])
        await ann.page.context.set_offline(False)
        assert await ann.process() not in before
        await expect(ann.state("while it was away")).to_have_text("sent")
        await bob.say("the last word")
        for window in (ann, bob):
            await expect(window.message("the last word")).to_be_visible()
            await expect(window.texts).to_have_text(["while it was away", "the last word"])
            await expect(window.people).to_have_text(["Ann", "Bob"])
        for window in (ann, bob):
            await window.page.close()  # before the server ends once more
    for window in windows:
        assert {complaint.partition(" to ")[0] for complaint in window.complaints} <= {"WebSocket connection"}
        window.complaints.clear()


# For everybody.


async def test_a_phone_has_room_for_it(chat: Chat, visit: Open) -> None:
    """Nothing scrolls sideways, however long the words are; one sees the newest message and the field for the next."""
    ann = await visit(chat, "r" * 50, "n" * 30, has_touch=True)
    await ann.say("/roll 20d100")
    for text in ("w" * 500, "two words"):
        await ann.say(text)
        await expect(ann.state(text)).to_have_text("sent")
    for text in ("W" * 500, newest := "the newest"):
        await chat.say("r" * 50, text, "--name", "N" * 30)
        await expect(ann.message(text)).to_be_visible()
    for width, height in PHONES:
        await ann.page.set_viewport_size({"width": width, "height": height})
        await expect(ann.message(newest)).to_be_in_viewport(ratio=1)
        assert await ann.page.evaluate("document.scrollingElement.scrollWidth") == width
        assert await ann.log.evaluate("log => log.scrollWidth - log.clientWidth") == 0
        for seen in (ann.connection, ann.page.get_by_role("heading", level=2), ann.text_field, ann.send_button):
            await expect(seen).to_be_in_viewport(ratio=1)
        await ann.text_field.tap()
        await ann.text_field.fill(newest := f"from {width} pixels")
        await ann.send_button.tap()
        await expect(ann.message(newest)).to_be_in_viewport(ratio=1)


async def test_the_keyboard_is_enough(chat: Chat, open_window: Open) -> None:
    """From choosing a room to the second message: the focus is where one goes on typing, and is seen."""
    window = await open_window(chat)
    keys = window.page.keyboard
    for field, text in ((window.room_field, "keys"), (window.name_field, "Ann"), (window.text_field, "by Enter")):
        await expect(field).to_be_focused()
        await keys.type(text)
        await keys.press("Enter")
    await expect(window.state("by Enter")).to_have_text("sent")
    await expect(window.text_field).to_be_focused()
    await keys.type("by the button")
    for key, focused in (("Tab", window.send_button), ("Enter", window.text_field), ("Shift+Tab", window.log)):
        await keys.press(key)
        await expect(focused).to_be_focused()
        await expect(focused).to_have_css("outline-style", "solid")
    await expect(window.state("by the button")).to_have_text("sent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_are_accessible(chat: Chat, open_window: Open, visit: Open, scheme: str) -> None:
    """Each page keeps the rules of axe-core, contrast among them, in light and dark."""
    bob = await visit(chat, f"rules {scheme}", "Bob")
    window = await open_window(chat, color_scheme=scheme)
    assert await window.violations() == []
    await window.room_field.fill(f"rules {scheme}")
    await window.room_field.press("Enter")
    await expect(window.name_field).to_be_visible()
    assert await window.violations() == []
    await window.join("Ann")
    await window.say("/roll 2d6")
    await expect(window.message(ROLLED)).to_be_visible()
    await bob.say("Lucky you")
    await expect(window.message("Lucky you")).to_be_visible()
    assert await window.violations() == []


async def test_a_screen_reader_knows_the_parts(chat: Chat, visit: Open) -> None:
    """The parts of the room have roles and names, and a message is told with its author, one's own as well."""
    ann, _ = await visit(chat, "Roles", "Ann"), await visit(chat, "Roles", "Bob")
    await ann.say("Hello")
    await expect(ann.state("Hello")).to_have_text("sent")
    await expect(ann.page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - heading "Roles" [level=1]
          - link "Other rooms"
          - status: /Connected, by server process \\d+\\./
        - complementary "Here now (2)":
          - heading "Here now (2)" [level=2]
          - list "Here now (2)":
            - listitem: Ann (you)
            - listitem: Bob
        - main:
          - log "Messages":
            - paragraph: You are in the room as Ann.
            - paragraph: Bob has joined.
            - paragraph: /Ann Hello .* sent/
          - text: Message
          - textbox "Message"
          - button "Send"
          - paragraph: To roll dice, write for example /roll 2d6
    """)
