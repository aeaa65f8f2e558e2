"""The ASGI application: the pages, and the sockets beside them."""

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()  # first: a live server's process that is spawned has not set Django up

from rooms import consumers

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": URLRouter(
            [
                path("sync/", consumers.Room.as_asgi()),
                path("async/", consumers.AsyncRoom.as_asgi()),
                path("room/", consumers.AsyncRoom.as_asgi()),  # in README's recipes
                path("served/", consumers.Served.as_asgi()),
            ]
        ),
        "channel": ChannelNameRouter({"jobs": consumers.Worker.as_asgi()}),
    }
)
