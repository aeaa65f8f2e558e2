"""``manage.py kitchen``: hear of each order as it comes."""

import asyncio
import signal
from contextlib import suppress
from typing import Any

from django.core.management import BaseCommand

from channels_lite.layers import get_layer

GROUP = "kitchen"  # that the trigger of orders/migrations/0002_announce.py sends to
HOUR = 3600


class Command(BaseCommand):
    help = "Print each order as it comes. Ctrl-C closes the kitchen."

    def handle(self, **options: Any) -> None:
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(self.cook())
        self.say("The kitchen is closed.")

    async def cook(self) -> None:
        """Be in the group and print what comes, until Ctrl-C."""
        _cancel_by_ctrl_c()
        layer = get_layer()
        channel = await layer.new_channel("kitchen")
        try:
            await layer.group_add(GROUP, channel)
            self.say("The kitchen is open - Ctrl-C closes it.")
            while True:
                with suppress(asyncio.TimeoutError):
                    order = await asyncio.wait_for(layer.receive(channel), HOUR)
                    self.say(f"Order {order['id']}: {order['dish']}")
                await layer.group_add(GROUP, channel)  # a membership ends a day after its last group_add
        finally:
            await layer.group_discard(GROUP, channel)
            await layer.close()

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _cancel_by_ctrl_c() -> None:
    """As asyncio.run() itself does from Python 3.11 on: a KeyboardInterrupt could come in the middle of anything."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
