"""``manage.py say TEXT``: tell the room."""

from typing import Any

from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    """The command."""

    help = "Tell the room."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("text")

    def handle(self, *args: Any, **options: Any) -> None:
        get_channel_layer().sync.group_send("room", {"type": "told", "text": options["text"]})
