"""What the servers and the worker run: pages, WebSockets, and the bot on the channel ``dice``."""

import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
pages = get_asgi_application()  # sets Django up, which what follows needs

from chat import bot, consumers  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AllowedHostsOriginValidator(URLRouter([path("ws", consumers.Browser.as_asgi())])),
        "channel": ChannelNameRouter({bot.CHANNEL: bot.DiceBot.as_asgi()}),
    }
)
