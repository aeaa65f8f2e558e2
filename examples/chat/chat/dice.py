"""Dice: what ``2d6`` means."""

import re
import secrets

MAX_DICE = 20
MAX_SIDES = 100
HELP = f"Write for example /roll 2d6: up to {MAX_DICE} dice of up to {MAX_SIDES} sides."

_DICE = re.compile(r"(\d{0,2})d(\d{1,3})", re.ASCII | re.IGNORECASE)


class BadDice(ValueError):
    """These are no dice that anybody could roll."""


def roll(text: str) -> list[int]:
    """Roll dice such as ``2d6`` or ``d20``: what each of them shows."""
    match = _DICE.fullmatch(text.strip())
    if match is None:
        raise BadDice
    count, sides = int(match[1] or 1), int(match[2])
    if not (1 <= count <= MAX_DICE and 2 <= sides <= MAX_SIDES):
        raise BadDice
    return [1 + secrets.randbelow(sides) for _ in range(count)]
