"""What the tables refuse from strangers."""

from typing import ClassVar

from django.db import migrations

from channels_lite.operations import ApplySchema


class Migration(migrations.Migration):
    """No model changes."""

    atomic = False
    dependencies: ClassVar = [("channels_lite", "0002_schema")]
    operations: ClassVar = [ApplySchema(4)]
