"""A window of a real browser with the chat in it: what test_browser.py is written with."""

import re
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import ConsoleMessage, Locator, Page, expect


class Window:
    """One window, and what the browser complains about in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._printed)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(f"{request.url}: {request.failure}"))
        page.on("crash", lambda _: self.complaints.append("the page has crashed"))

    def _printed(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    # What is in it.

    @property
    def room_field(self) -> Locator:
        return self.page.get_by_label("Which room?")

    @property
    def name_field(self) -> Locator:
        return self.page.get_by_label("Your name")

    @property
    def text_field(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message")

    @property
    def send_button(self) -> Locator:
        return self.page.get_by_role("button", name="Send")

    @property
    def connection(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    @property
    def texts(self) -> Locator:
        """What each message says."""
        return self.log.locator(".text")

    @property
    def people(self) -> Locator:
        """The names of who is here."""
        return self.page.get_by_role("listitem").locator(":not(.avatar)")

    def message(self, text: str | re.Pattern[str]) -> Locator:
        return self.log.locator(".message").filter(has=self.page.locator(".text").get_by_text(text, exact=True))

    def state(self, text: str) -> Locator:
        """Whether a message of one's own has been sent."""
        return self.message(text).locator(".state")

    # What one does with it.

    async def join(self, name: str) -> None:
        await self.name_field.fill(name)
        await self.name_field.press("Enter")
        await expect(self.log).to_contain_text("You are in the room")

    async def say(self, text: str) -> None:
        await self.text_field.fill(text)
        await self.text_field.press("Enter")

    async def process(self) -> int:
        """The server process that serves it."""
        await expect(self.connection).to_have_text(re.compile(r"^Connected, by server process \d+\.$"))
        return int("".join(filter(str.isdigit, await self.connection.inner_text())))

    async def violations(self) -> list[dict[str, Any]]:
        """The rules of accessibility that the page violates. Contrast has been looked at."""
        results = (await Axe().run(self.page)).response
        judged = [rule["id"] for rule in results["passes"] + results["violations"]]
        assert "color-contrast" in judged, judged
        found: list[dict[str, Any]] = results["violations"]
        return found
