"""The order."""

from django.db import models
from django.db.models.functions import Now


class Order(models.Model):
    """A dish that somebody wants."""

    dish = models.CharField(max_length=100)
    placed_at = models.DateTimeField(db_default=Now())  # auto_now_add is Python's: SQL would know of no default

    def __str__(self) -> str:
        return f"{self.pk}: {self.dish}"
