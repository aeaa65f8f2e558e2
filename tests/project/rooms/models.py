"""What the site keeps."""

from django.db import models


class Note(models.Model):
    """Something that was said."""

    text = models.TextField()

    def __str__(self) -> str:
        return self.text
