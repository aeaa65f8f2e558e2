"""The schema of the SQL files instead of the tables of channels-lite 0.3 and 0.4, and the models over its views."""

from typing import ClassVar

from django.db import migrations, models

from channels_lite.operations import ApplySchema, DropOldTables


class Migration(migrations.Migration):
    """The models are unmanaged: creating them changes no database."""

    atomic = False
    dependencies: ClassVar = [("channels_lite", "0001_initial")]
    operations: ClassVar = [
        ApplySchema(3),
        DropOldTables(),  # after what may fail: only a migrate that comes to its end can say what was dropped
        migrations.CreateModel(
            name="Message",
            fields=[
                ("expires_at", models.BigIntegerField(help_text="Milliseconds since 1970, UTC.")),
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("prefix", models.TextField()),
                ("queue", models.TextField()),
                ("targets", models.TextField(null=True)),
                ("group_name", models.TextField(null=True)),
                ("capacity", models.BigIntegerField(null=True)),
                ("payload", models.BinaryField()),
            ],
            options={
                "managed": False,
                "db_table": "channels_lite_live_message",
                "default_permissions": ("view",),
                "ordering": ("id",),
            },
        ),
        migrations.CreateModel(
            name="Membership",
            fields=[
                ("expires_at", models.BigIntegerField(help_text="Milliseconds since 1970, UTC.")),
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "prefix",
                        "group_name",
                        "queue",
                        "local",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("prefix", models.TextField()),
                ("group_name", models.TextField()),
                ("queue", models.TextField()),
                ("local", models.TextField()),
                ("channel", models.TextField()),
            ],
            options={
                "managed": False,
                "db_table": "channels_lite_live_membership",
                "default_permissions": ("view",),
                "ordering": ("prefix", "group_name", "channel"),
            },
        ),
    ]
