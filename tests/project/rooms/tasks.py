"""What workers do."""

from celery import shared_task
from channels.layers import get_channel_layer


@shared_task
def announce(text: str) -> None:
    """Tell the room."""
    get_channel_layer().sync.group_send("room", {"type": "told", "text": text})
