"""The two pages: choosing a room, and the room itself."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from chat import rooms


def home(request: HttpRequest) -> HttpResponse:
    """Choose a room."""
    return _home(request)


def room(request: HttpRequest) -> HttpResponse:
    """A room. Its name is in the query, where any text is safe: ``/room?room=..`` would be no path."""
    try:
        name = rooms.room_name(request.GET.get("room", ""))
    except rooms.Refused as refusal:
        return _home(request, refusal=refusal, status=400)
    limits = {"max_name": rooms.MAX_NAME, "max_text": rooms.MAX_TEXT}
    return render(request, "chat/room.html", {"room": name, **limits})


def _home(request: HttpRequest, refusal: rooms.Refused | None = None, status: int = 200) -> HttpResponse:
    context = {"refusal": refusal, "room": request.GET.get("room", ""), "max_room": rooms.MAX_ROOM}
    return render(request, "chat/home.html", context, status=status)
