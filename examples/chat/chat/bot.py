"""The bot that rolls dice. It runs in the process of ``manage.py runworker dice``, apart from the web server."""

from typing import Any

from channels.consumer import AsyncConsumer

from chat import dice, rooms

CHANNEL = "dice"
NAME = "Dice bot"


class DiceBot(AsyncConsumer):
    """Waits on the channel ``dice`` and answers into the room that a message names."""

    async def roll(self, message: dict[str, Any]) -> None:
        """Handle ``{"type": "roll", "room": …, "dice": "2d6", "name": …}``."""
        answer = _answer(message["name"], message["dice"])
        await rooms.tell(message["room"], {"type": "said", "name": NAME, "text": answer})


def _answer(name: str, text: str) -> str:
    try:
        shown = dice.roll(text)
    except dice.BadDice:
        return f"{name}, I cannot roll that. {dice.HELP}"
    total = f" = {sum(shown)}" if len(shown) > 1 else ""
    return f"{name} rolls {text.strip()}: {' + '.join(map(str, shown))}{total}"
