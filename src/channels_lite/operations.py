"""The operations of our migrations: they bring the SQL files to the databases of the layers."""

import pkgutil
from collections.abc import Sequence
from typing import Any

import apsw
from django.core.management.base import OutputWrapper
from django.db import DEFAULT_DB_ALIAS, connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ProjectState

from channels_lite import diagnosis, legacy, link, migrations, schema, statements, targets

APP = "channels_lite"


class _OnDatabase(Operation):
    """What changes databases and not the models. Its migration needs ``atomic = False``: the SQL brings BEGIN."""

    reduces_to_sql = False
    reversible = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            self.forwards(schema_editor.connection)

    def database_backwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: ProjectState, to_state: ProjectState
    ) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label):
            self.backwards(schema_editor.connection)

    def forwards(self, connection: BaseDatabaseWrapper) -> None:
        """What it does; nothing by default."""

    def backwards(self, connection: BaseDatabaseWrapper) -> None:
        """What it does when reversed; nothing by default."""


class RemoveWhenReversed(_OnDatabase):
    """Reversed, it removes the whole schema from the alias's own database. Files of apsw layers stay as they are."""

    def backwards(self, connection: BaseDatabaseWrapper) -> None:
        if connection.vendor == "sqlite":
            schema.remove(statements.executor(connection), schema.steps())
            link.unsettle_all()

    def describe(self) -> str:
        return "Nothing; reversed: remove the tables, views and triggers of channels-lite"


class DropOldTables(_OnDatabase):
    """Remove the tables of channels-lite 0.3 and 0.4, and note what was in them for ``report``."""

    lost: legacy.Lost | None = None

    def forwards(self, connection: BaseDatabaseWrapper) -> None:
        self.lost = None
        if connection.vendor == "sqlite":
            self.lost = legacy.drop(statements.executor(connection))

    def describe(self) -> str:
        return "Drop the tables of channels-lite 0.3 and 0.4, with the messages pending there"


class ApplySchema(_OnDatabase):
    """Bring the files of ``sql/`` up to ``version`` to the databases that go with the alias.

    Reversed, it does nothing: there is no way from a version to the one before.
    """

    def __init__(self, version: int) -> None:
        self.version = version

    def forwards(self, connection: BaseDatabaseWrapper) -> None:
        if connection.vendor == "sqlite" and targets.holds(connection.alias):
            schema.reach(statements.executor(connection), schema.steps(), self.version)
        for path in targets.files(connection.alias):
            self._reach(path)

    def _reach(self, path: str) -> None:
        connection = schema.connect(path)
        try:
            schema.reach(schema.executor(connection), schema.steps(), self.version)
        except apsw.Error as error:
            raise diagnosis.refusal(path, error) from error
        finally:
            connection.close()

    def describe(self) -> str:
        return f"Apply the SQL files of channels-lite up to version {self.version}"


def complete(
    using: str = DEFAULT_DB_ALIAS, plan: Sequence[tuple[Migration, bool]] | None = None, **signal: Any
) -> None:
    """After migrate: make what is missing, such as the tables of a layer that came into the settings afterwards.

    Not after ``flush``, which sends this signal without a plan, nor where our migrations are not all applied.
    """
    if plan is None or not router.allow_migrate(using, APP):
        return
    connection = connections[using]
    applied = {name for app, name in MigrationRecorder(connection).applied_migrations() if app == APP}
    if applied.issuperset(module.name for module in pkgutil.iter_modules(migrations.__path__)):
        ApplySchema(len(schema.steps())).forwards(connection)


def report(
    stdout: OutputWrapper | None = None,
    verbosity: int = 1,
    plan: Sequence[tuple[Migration, bool]] = (),
    **signal: Any,
) -> None:
    """After migrate: say on its output what went with the old tables. An operation itself is given no output."""
    for migration, _ in plan:
        for operation in migration.operations:
            if isinstance(operation, DropOldTables) and operation.lost is not None:
                if stdout is not None and verbosity >= 1:
                    stdout.write(
                        "  The tables of channels-lite 0.3/0.4 were dropped, with "
                        f"{operation.lost.messages} pending message(s) and "
                        f"{operation.lost.memberships} group membership(s)." + _kept(operation.lost.kept)
                    )
                operation.lost = None


def _kept(tables: list[str]) -> str:
    if not tables:
        return ""
    return f" Not dropped, because tables of your own refer to them: {', '.join(tables)}."
