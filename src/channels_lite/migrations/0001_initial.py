"""The name that databases of channels-lite 0.3 and 0.4 have on record. Its tables are made no more."""

from typing import ClassVar

from django.db import migrations

from channels_lite.operations import RemoveWhenReversed


class Migration(migrations.Migration):
    """Reversed, the last trace of ours goes."""

    initial = True
    atomic = False
    dependencies: ClassVar = []
    operations: ClassVar = [RemoveWhenReversed()]
