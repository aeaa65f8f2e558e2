"""The tables of channels-lite 0.3 and 0.4: what they hold, and their removal."""

from typing import NamedTuple

from channels_lite.schema import Execute, transaction

TABLES = ("channels_lite_event", "channels_lite_groupmembership")


class Lost(NamedTuple):
    """What was in them when they were removed, and what was kept."""

    messages: int
    memberships: int
    kept: list[str]
    """Tables that an application's own refer to, which would be broken without them."""


def drop(execute: Execute) -> Lost | None:
    """Remove the old tables in one transaction and say what was in them; None where there are none."""
    if not _tables(execute):
        return None
    with transaction(execute):
        tables = _tables(execute)
        kept = [table for table in tables if _is_referred_to(execute, table)]
        messages, memberships = _rows(execute, [table for table in tables if table not in kept])
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


def _rows(execute: Execute, tables: list[str]) -> list[int]:
    # Expired or not: channels-lite 0.4 wrote the moment of expiry in different time zones.
    undelivered = "NOT delivered" if _has_column(execute, TABLES[0], "delivered") else "true"
    counts = dict.fromkeys(TABLES, 0)
    for table, condition in zip(TABLES, (undelivered, "true"), strict=True):
        if table in tables:
            counts[table] = execute(f"SELECT count(*) FROM {table} WHERE {condition}", ())[0][0]
    return list(counts.values())


def _has_column(execute: Execute, table: str, column: str) -> bool:
    return bool(execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)))
