"""``manage.py say ROOM TEXT``: speak into a room from outside the web server."""

from argparse import ArgumentParser
from typing import Any

from django.core.management import BaseCommand, CommandError

from chat import rooms


class Command(BaseCommand):
    help = "Tell everyone in a room something."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("room", help="the room's name")
        parser.add_argument("text", nargs="+", help="what to say")
        parser.add_argument("--name", default="Announcer", help="who says it")

    def handle(self, *, room: str, text: list[str], name: str, **options: Any) -> None:
        try:
            room = rooms.room_name(room)
            event = {"type": "said", "name": rooms.person_name(name), "text": rooms.message(" ".join(text))}
        except rooms.Refused as refusal:
            raise CommandError(str(refusal)) from None
        rooms.announce(room, event)
