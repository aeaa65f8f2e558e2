"""The tables of channels-lite 0.3 and 0.4: what they hold, and their removal."""

from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from channels_lite.schema import Execute, transaction

TABLES = ("channels_lite_event", "channels_lite_groupmembership")


class Lost(NamedTuple):
    """What was live in them when they were removed, and what was kept."""

    messages: int
    memberships: int
    kept: list[str]
    """Tables that an application's own refer to, which would be broken without them."""


def drop(execute: Execute, connection: BaseDatabaseWrapper) -> Lost | None:
    """Remove the old tables in one transaction and say what was live in them; None where there are none."""
    if not _tables(execute):
        return None
    with transaction(execute):
        tables = _tables(execute)
        kept = [table for table in tables if _is_referred_to(execute, table)]
        messages, memberships = _live(execute, connection, [table for table in tables if table not in kept])
        for table in tables:
            if table not in kept:
                execute(f"DROP TABLE {table}", ())
    return Lost(messages, memberships, kept) if tables else None


def _is_referred_to(execute: Execute, table: str) -> bool:
    referring = (
        "SELECT 1 FROM sqlite_master AS other, pragma_foreign_key_list(other.name) AS key "
        "WHERE other.type = 'table' AND lower(key.\"table\") = ?"
    )
    return bool(execute(referring, (table,)))


def _tables(execute: Execute) -> list[str]:
    names = {name for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'", ())}
    return [table for table in TABLES if table in names]


def _live(execute: Execute, connection: BaseDatabaseWrapper, tables: list[str]) -> list[int]:
    now = connection.ops.adapt_datetimefield_value(timezone.now())  # as the ORM wrote it, with USE_TZ and without
    counts = dict.fromkeys(TABLES, 0)
    for table, condition in zip(TABLES, ("NOT delivered AND expires_at > ?", "expires_at > ?"), strict=True):
        if table in tables:
            counts[table] = execute(f"SELECT count(*) FROM {table} WHERE {condition}", (now,))[0][0]
    return list(counts.values())
