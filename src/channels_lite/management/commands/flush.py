"""Django's flush, which knows the tables of models only, and with it our messages and memberships."""

from typing import Any

from django.core.management.commands import flush
from django.db import connections

from channels_lite import schema, statements, store

QUESTION = """This removes ALL data from the database {name}, and all messages and groups of the channel layers in it.
Type 'yes' to continue: """


class Command(flush.Command):
    """Ask, flush, and empty our tables; TransactionTestCase calls it after each test.

    A receiver of post_migrate would not do: it is not sent in a test with serialized_rollback, nor where no other
    application has a table; and it is sent where nothing was flushed, by migrations that want their permissions made.
    """

    def handle(self, **options: Any) -> None:
        connection = connections[options["database"]]
        if options["interactive"] and input(QUESTION.format(name=connection.settings_dict["NAME"])) != "yes":
            self.stdout.write("Flush cancelled.")
            return
        super().handle(**{**options, "interactive": False})
        if connection.vendor == "sqlite":
            execute = statements.executor(connection)
            if schema.records(execute):
                store.empty(execute)
