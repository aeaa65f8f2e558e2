"""``manage.py chat``: the web server's workers and the dice bot, together."""

import asyncio
import socket
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError

from chat import bot
from chat.supervisor import ChildEnded, Supervisor

HOST = "127.0.0.1"
MAX_FRAME = 2**16  # bytes of one WebSocket message: many times rooms.MAX_TEXT
GRACE = 3  # seconds that an open page may hold up the end


class Command(BaseCommand):
    help = "Start the chat: web server processes and the dice bot. Ctrl-C ends all of them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--workers", type=int, default=2, help="web server processes")

    def handle(self, *, port: int, workers: int, **options: Any) -> None:
        if workers < 1:
            raise CommandError("--workers is 1 or more.")
        _check_free(port)
        try:
            asyncio.run(self.serve(port, workers))
        except KeyboardInterrupt:  # where signals cannot be handled in the loop
            pass
        except ChildEnded as error:
            raise CommandError(str(error)) from None

    async def serve(self, port: int, workers: int) -> None:
        """Run until a signal, or until one of the processes ends."""
        async with Supervisor(settings.BASE_DIR) as supervisor:
            await supervisor.start("web server", *_web_server(port, workers))
            await supervisor.start("dice bot", sys.executable, "manage.py", "runworker", bot.CHANNEL)
            await supervisor.unless_ended(_accepting(port))
            self.say(f"The chat is at http://{HOST}:{port}/ - Ctrl-C ends it.")
            await supervisor.unless_ended(asyncio.Event().wait())
        self.say("The chat has ended.")

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _web_server(port: int, workers: int) -> list[str]:
    return [
        *(sys.executable, "-m", "uvicorn", "chat.asgi:application"),
        *("--host", HOST, "--port", str(port), "--workers", str(workers)),
        *("--lifespan", "off", "--log-level", "warning", "--ws-max-size", str(MAX_FRAME)),
        *("--timeout-graceful-shutdown", str(GRACE)),
    ]


def _check_free(port: int) -> None:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise CommandError(f"Port {port} cannot be used ({error}); choose another one with --port.") from None


async def _accepting(port: int) -> None:
    """Wait until the web server accepts connections."""
    while True:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
