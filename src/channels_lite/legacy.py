"""The tables of channels-lite 0.3 and 0.4: what they hold, and their removal."""

from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from channels_lite.schema import Execute, transaction

TABLES = ("channels_lite_event", "channels_lite_groupmembership")


class Lost(NamedTuple):
    """What was live in them when they were removed."""

    messages: int
    memberships: int


def drop(execute: Execute, connection: BaseDatabaseWrapper) -> Lost | None:
    """Remove the old tables in one transaction and say what was live in them; None where there are none."""
    if not _tables(execute):
        return None
    with transaction(execute):
        tables = _tables(execute)
        lost = _live(execute, connection, tables)
        for table in tables:
            execute(f"DROP TABLE {table}", ())
    return lost if tables else None


def _tables(execute: Execute) -> list[str]:
    names = {name for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'", ())}
    return [table for table in TABLES if table in names]


def _live(execute: Execute, connection: BaseDatabaseWrapper, tables: list[str]) -> Lost:
    now = connection.ops.adapt_datetimefield_value(timezone.now())  # as the ORM wrote it, with USE_TZ and without
    counts = dict.fromkeys(TABLES, 0)
    for table, condition in zip(TABLES, ("NOT delivered AND expires_at > ?", "expires_at > ?"), strict=True):
        if table in tables:
            counts[table] = execute(f"SELECT count(*) FROM {table} WHERE {condition}", (now,))[0][0]
    return Lost(*counts.values())
