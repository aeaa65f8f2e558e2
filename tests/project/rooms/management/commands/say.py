"""``manage.py say TEXT``: tell the room."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from rooms.views import tell


class Command(BaseCommand):
    """The command."""

    help = "Tell the room."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("text")

    def handle(self, *args: Any, **options: Any) -> None:
        tell(options["text"])
