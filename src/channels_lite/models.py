"""Read-only models over the live views, for looking around with the ORM."""

import json
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar, NoReturn, TypeVar

from django.db import connections, models
from django.db.models.signals import pre_save

from channels_lite.errors import ReadOnly

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

M = TypeVar("M", bound=models.Model)


def _refuse(*arguments: Any, **options: Any) -> NoReturn:
    raise ReadOnly(
        "Messages and memberships of a channel layer cannot be changed through the ORM: use the layer's own methods "
        "(send, group_add, flush), and give dumpdata and loaddata the option --exclude channels_lite."
    )


class LiveQuerySet(models.QuerySet[M]):
    """Reads, and refuses to write."""

    def using(self, alias: str | None) -> "LiveQuerySet[M]":
        """Read from this alias. Where it has no such view, there is nothing: dumpdata asks every alias it is given."""
        queryset = super().using(alias)
        tables = connections[queryset.db].introspection.table_names(include_views=True)
        return queryset if self.model._meta.db_table in tables else queryset.none()

    bulk_create = bulk_update = update = delete = _refuse


class Live(models.Model):
    """What both have."""

    expires_at = models.BigIntegerField(help_text="Milliseconds since 1970, UTC.")

    objects: ClassVar[models.Manager[Any]] = models.Manager.from_queryset(LiveQuerySet)()

    class Meta:
        """Shared by both."""

        abstract = True

    @property
    def expires(self) -> datetime:
        """When it expires, in UTC."""
        return EPOCH + timedelta(milliseconds=self.expires_at)

    delete = _refuse


class Message(Live):
    """A message that nobody has received yet and that has not expired."""

    id = models.BigIntegerField(primary_key=True)
    prefix = models.TextField()
    queue = models.TextField()
    targets = models.TextField(null=True)  # no JSONField: for one, Django's checks open the databases of all aliases
    group_name = models.TextField(null=True)
    capacity = models.BigIntegerField(null=True)
    payload = models.BinaryField()

    class Meta:
        """A view in the database."""

        managed = False
        db_table = "channels_lite_live_message"
        default_permissions = ("view",)
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.id} to {', '.join(self.channels)}"

    @property
    def channels(self) -> list[str]:
        """The full names of the channels that it is for: a group's message is one row for each process."""
        targets = None if self.targets is None else json.loads(self.targets)
        return [f"{self.queue}{target}" for target in targets] if isinstance(targets, list) else [self.queue]


class Membership(Live):
    """A channel in a group that has not expired."""

    pk = models.CompositePrimaryKey("prefix", "group_name", "queue", "local")
    prefix = models.TextField()
    group_name = models.TextField()
    queue = models.TextField()
    local = models.TextField()
    channel = models.TextField()

    class Meta:
        """A view in the database."""

        managed = False
        db_table = "channels_lite_live_membership"
        default_permissions = ("view",)
        ordering = ("prefix", "group_name", "channel")

    def __str__(self) -> str:
        return f"{self.channel} in {self.group_name}"


for _model in (Message, Membership):
    # Also before loaddata saves one, which calls neither save() nor a method of the manager.
    pre_save.connect(_refuse, sender=_model)
