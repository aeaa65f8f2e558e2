"""Pages that save a note and tell the room, in one transaction."""

from functools import partial

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse

from rooms.models import Note


class Refused(Exception):
    """The transaction is rolled back."""


def tell(text: str) -> None:
    """Send a text to the room."""
    async_to_sync(get_channel_layer().group_send)("room", {"type": "told", "text": text})


def save(texts: list[str], refuse: bool) -> None:
    """Save notes and tell the room of each; where it is refused, none of that has happened."""
    with transaction.atomic(), transaction.atomic(using=settings.ALIAS):
        for text in texts:
            Note.objects.create(text=text)
            tell(text)
        if refuse:
            raise Refused
        transaction.on_commit(partial(tell, "committed"))


def say(request: HttpRequest) -> HttpResponse:
    """Save what was posted."""
    try:
        save(request.POST.getlist("text"), "refuse" in request.POST)
    except Refused:
        return HttpResponse(status=204)
    return HttpResponse(status=201)


async def asay(request: HttpRequest) -> HttpResponse:
    """Save what was posted."""
    try:
        await sync_to_async(save)(request.POST.getlist("text"), "refuse" in request.POST)
    except Refused:
        return HttpResponse(status=204)
    return HttpResponse(status=201)
