"""``manage.py kitchen``: hear of each order as it comes."""

import asyncio
from contextlib import suppress
from typing import Any

from django.core.management import BaseCommand

from channels_lite.layers import get_layer

GROUP = "kitchen"  # that the trigger of orders/migrations/0002_announce.py sends to
HOUR = 3600


class Command(BaseCommand):
    help = "Print each order as it comes. Ctrl-C closes the kitchen."

    def handle(self, **options: Any) -> None:
        with suppress(KeyboardInterrupt):
            asyncio.run(self.cook())
        self.say("The kitchen is closed.")

    async def cook(self) -> None:
        """Be in the group and print what comes, until Ctrl-C."""
        layer = get_layer()
        channel = await layer.new_channel("kitchen")
        await layer.group_add(GROUP, channel)
        self.say("The kitchen is open - Ctrl-C closes it.")
        try:
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
