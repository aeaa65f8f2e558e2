"""What workers do."""

from celery import shared_task

from rooms.views import tell


@shared_task
def announce(text: str) -> None:
    """Tell the room."""
    tell(text)
