"""Since when messages wait and members are there, and publishing from SQL."""

from typing import ClassVar

from django.db import migrations

from channels_lite.operations import ApplySchema


class Migration(migrations.Migration):
    """No model changes."""

    atomic = False
    dependencies: ClassVar = [("channels_lite", "0003_strangers")]
    operations: ClassVar = [ApplySchema(6)]
