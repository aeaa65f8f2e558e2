"""The pages, and the sockets beside them."""

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path
from rooms import consumers, views

urlpatterns = [path("say/", views.say), path("asay/", views.asay)]

application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [path("sync/", consumers.Room.as_asgi()), path("async/", consumers.AsyncRoom.as_asgi())],
        ),
    }
)
