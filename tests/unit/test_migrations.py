"""The schema through Django: which databases ``migrate`` brings it to, what goes, and what stays as it is."""

import os
import sqlite3
from pathlib import Path

import pytest

from channels_lite import schema
from tests.unit.project import AIO, CORE, FOREIGN, PATIENCE, ROUTER, Project

STEPS = schema.steps()
VERSION = 6  # of the SQL files that the migrations bring
BOTH = ["django.contrib.contenttypes", "django.contrib.auth", "channels_lite"]
COMPANION = "db-channels.sqlite3"
MESSAGE = """
INSERT INTO channels_lite_message (prefix, queue, targets, expires_at, payload)
VALUES ('', 'zone.client!', '["a", "b"]', (SELECT now FROM channels_lite_clock) + 3600000, x'01')
"""
MEMBERSHIP = """
INSERT INTO channels_lite_membership
SELECT '', 'room', 'zone.client!', 'a', now, now + 3600000 FROM channels_lite_clock
"""


# Which database.

FILES = ("db.sqlite3", COMPANION, "channels.sqlite3", "own.sqlite3")
OWN = {"path": "own.sqlite3"}
PLACES = {
    "no layer": ({}, "default", {"db.sqlite3"}),
    "no layer, other alias": ({}, "channels", {"channels.sqlite3"}),
    "a layer of others": ({"default": (FOREIGN, {})}, "default", {"db.sqlite3"}),
    "core": ({"default": (CORE, {})}, "default", {"db.sqlite3"}),
    "core, other alias": ({"default": (CORE, {})}, "channels", set()),
    "core on an alias": ({"default": (CORE, {"database": "channels"})}, "channels", {"channels.sqlite3"}),
    "core on an alias, default": ({"default": (CORE, {"database": "channels"})}, "default", set()),
    "apsw": ({"default": (AIO, {})}, "default", {COMPANION}),
    "apsw on an alias": ({"default": (AIO, {"database": "channels"})}, "channels", {"channels.sqlite3"}),
    "apsw on an alias, default": ({"default": (AIO, {"database": "channels"})}, "default", set()),
    "apsw on a path": ({"default": (AIO, OWN)}, "default", {"own.sqlite3"}),
    "apsw on a path, other alias": ({"default": (AIO, OWN)}, "channels", set()),
    "apsw in memory": ({"default": (AIO, {"path": ":memory:"})}, "default", set()),
    "apsw on the path of an alias": ({"default": (AIO, {"path": "channels.sqlite3"})}, "default", set()),
    "that alias": ({"default": (AIO, {"path": "channels.sqlite3"})}, "channels", {"channels.sqlite3"}),
    "all": (
        {"default": (CORE, {}), "a": (AIO, {}), "b": (AIO, OWN), "c": (AIO, {"database": "channels"})},
        "default",
        {"db.sqlite3", COMPANION, "own.sqlite3"},
    ),
}


@pytest.mark.parametrize(("layers", "alias", "places"), PLACES.values(), ids=PLACES)
def test_migrate_finds_the_database(tmp_path: Path, layers: dict, alias: str, places: set[str]) -> None:
    """migrate makes the schema where a layer looks for it, there only; where no layer is ours, in the alias itself."""
    project = Project(tmp_path, layers)
    project.manage("migrate", "--database", alias)
    assert {name for name in FILES if project.version(name)} == places
    assert all(project.version(name) == VERSION for name in places)
    assert not {"channels_lite_event", "channels_lite_groupmembership"} & project.tables()


@pytest.mark.skipif(os.name != "posix", reason="needs links")
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_one_file_with_two_names(tmp_path: Path, link: object) -> None:
    """A path that is another name for an alias's file is that alias's: apsw does not open it beside Django."""
    project = Project(tmp_path, {"default": (AIO, {"path": "other-name.sqlite3"})})
    sqlite3.connect(project.file("db.sqlite3")).execute("VACUUM").connection.close()
    link(project.file("db.sqlite3"), project.file("other-name.sqlite3"))  # type: ignore[operator]
    assert "channels_lite.E001" in project.manage("migrate", code=1)
    # A file that apsw has opened is in WAL mode afterwards; Django leaves it as it was.
    project.manage("migrate", "--skip-checks")
    assert project.version() == VERSION
    assert project.sql("PRAGMA journal_mode") == [("delete",)]


def test_router_keeps_it_away(tmp_path: Path) -> None:
    """An alias that the router forbids gets nothing, although it would without the router."""
    project = Project(tmp_path, DATABASE_ROUTERS=[ROUTER])
    project.manage("migrate", "--database", "channels")
    assert project.version("channels.sqlite3") == 0
    project.manage("migrate")
    assert project.version() == VERSION


def test_test_database_in_memory(tmp_path: Path) -> None:
    """A test run with databases in memory makes the schema there, and touches neither a path nor a companion."""
    project = Project(tmp_path, {"default": (CORE, {}), "a": (AIO, {}), "b": (AIO, OWN)})
    printed = project.script("""
from django.db import connections
from channels_lite import schema, statements
for alias in connections:
    connections[alias].creation.create_test_db(verbosity=0)
print(len(schema.records(statements.executor(connections["default"]))))
""")
    assert printed == str(VERSION)
    assert not any(os.path.exists(project.file(name)) for name in FILES)


def test_other_vendors_are_left_alone(tmp_path: Path) -> None:
    """An alias that is not SQLite gets nothing, and the path of a layer gets its schema with it all the same."""
    project = Project(tmp_path, {"default": (AIO, OWN)})
    project.script("""
from types import SimpleNamespace
from channels_lite.operations import ApplySchema, DropOldTables, RemoveWhenReversed
other = SimpleNamespace(alias="default", vendor="postgresql")
DropOldTables().forwards(other)
ApplySchema(6).forwards(other)
RemoveWhenReversed().backwards(other)
""")
    assert project.version("own.sqlite3") == VERSION
    assert not os.path.exists(project.file("db.sqlite3"))


# Again, before, and back.


@pytest.mark.parametrize("kind", [CORE, AIO])
def test_migrate_again(tmp_path: Path, kind: str) -> None:
    """A second migrate says so and changes nothing."""
    project = Project(tmp_path, {"default": (kind, {})})
    project.manage("migrate")
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.sqlite3*")}
    assert "No migrations to apply" in project.manage("migrate")
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.sqlite3*")} == before


@pytest.mark.parametrize("kind", [CORE, AIO])
def test_migrate_after_first_use(tmp_path: Path, kind: str) -> None:
    """Where a layer made the schema at first use, migrate succeeds and its messages stay."""
    project = Project(tmp_path, {"default": (kind, {})})
    name = "db.sqlite3" if kind == CORE else COMPANION
    connection = schema.connect(project.file(name))
    schema.create(schema.executor(connection), STEPS)
    connection.close()
    project.sql(MESSAGE, name=name)
    project.manage("migrate")
    assert project.sql("SELECT count(*) FROM channels_lite_message", name=name) == [(1,)]


def test_migrate_after_a_newer_release(tmp_path: Path) -> None:
    """Where somebody has applied files that this release does not know, migrate has nothing to do and succeeds."""
    project = Project(tmp_path)
    project.manage("migrate")
    project.sql("INSERT INTO channels_lite_schema VALUES (99, '0099_future', 'x', 'some day')")
    project.sql("DELETE FROM django_migrations")
    project.manage("migrate")
    assert project.version() == 99


def test_migrate_from_the_middle(tmp_path: Path) -> None:
    """Where some of the files were applied with the command, migrate applies the rest."""
    project = Project(tmp_path, {"default": (CORE, {})})
    project.run("-m", "channels_lite.cli", "apply", "--path", project.file("db.sqlite3"), "--to", "1")
    project.sql(MESSAGE)
    project.manage("migrate")
    assert project.version() == VERSION
    assert project.sql("SELECT count(*) FROM channels_lite_live_message") == [(1,)]


def test_migrated_schema_is_as_the_files_make_it(tmp_path: Path) -> None:
    """What Django's connection makes is what apsw makes, to the letter."""
    project = Project(tmp_path, {"default": (CORE, {})})
    project.manage("migrate")
    printed = project.run("-m", "channels_lite.cli", "validate", "--path", project.file("db.sqlite3"))
    assert "as the files make it" in printed


def test_two_migrates_at_once(tmp_path: Path) -> None:
    """Two processes that bring the files at once bring each of them once, and both succeed."""
    project = Project(tmp_path, {"default": (CORE, {}), "a": (AIO, {})})
    project.sql("CREATE TABLE notes (text)")
    reach = """
import django, sys
django.setup()
from django.db import connection
from channels_lite.operations import ApplySchema
connection.ensure_connection()
print("ready", flush=True)
sys.stdin.read()
ApplySchema(6).forwards(connection)
"""
    processes = [project.start("-c", reach) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in processes:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert (printed, process.returncode) == ("", 0)
    for name in ("db.sqlite3", COMPANION):
        assert project.version(name) == VERSION
        assert project.sql("PRAGMA integrity_check", name=name) == [("ok",)]


def test_back_to_zero(tmp_path: Path) -> None:
    """``migrate channels_lite zero`` takes all that is ours out of Django's database, and nothing else."""
    project = Project(tmp_path, {"default": (CORE, {})}, INSTALLED_APPS=BOTH)
    project.manage("migrate")
    project.sql(MESSAGE)
    project.sql("CREATE TABLE channels_lite_extra_notes (text)")  # of an application called channels_lite_extra
    before = project.tables()
    project.manage("migrate", "channels_lite", "zero")
    assert {name for name in before - project.tables() if not name.startswith("channels_lite_")} == set()
    assert {name for name in project.tables() if name.startswith("channels_lite")} == {"channels_lite_extra_notes"}
    project.manage("migrate")
    assert project.tables() == before


def test_a_failing_file_leaves_no_trace(tmp_path: Path) -> None:
    """On Django's connection as on apsw's: a file that fails is undone, says its name, and leaves no transaction."""
    project = Project(tmp_path)
    printed = project.script("""
from django.db import connection
from channels_lite import schema, statements
from channels_lite.errors import SchemaError
execute = statements.executor(connection)
steps = schema.steps()
for broken in ("INSERT INTO no_such_table VALUES (1);\\n",
               "INSERT OR ROLLBACK INTO channels_lite_schema (version) VALUES (1);\\n"):
    try:
        schema.apply(execute, [*steps, schema.Step(len(steps) + 1, "0099_broken", "CREATE TABLE a (x);\\n" + broken)])
    except SchemaError as error:
        print("0099_broken.sql failed and was undone" in str(error), connection.connection.in_transaction)
print(len(schema.records(execute)) == len(steps), execute("SELECT 1 FROM sqlite_master WHERE name = 'a'", ()))
""")
    assert printed.splitlines() == ["True False", "True False", "True []"]


def test_a_commit_that_fails_leaves_no_transaction(tmp_path: Path) -> None:
    """A reader that keeps the commit from being made leaves Django's connection outside a transaction."""
    project = Project(tmp_path)
    printed = project.script("""
import sqlite3
from django.db import OperationalError, connection
from channels_lite import schema, statements
reader = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
reader.execute("CREATE TABLE notes (text)")
reader.execute("BEGIN")
reader.execute("SELECT * FROM notes").fetchall()
execute = statements.executor(connection)
execute("PRAGMA busy_timeout = 1", ())
try:
    schema.apply(execute, schema.steps())
except OperationalError as error:
    print(error, connection.connection.in_transaction)
reader.execute("COMMIT")
print(len(schema.apply(execute, schema.steps())) == len(schema.steps()))
reader.close()
""")
    assert printed.splitlines() == ["database is locked False", "True"]


def test_sqlmigrate_and_plan(tmp_path: Path) -> None:
    """``migrate --plan`` says what would be done, and ``sqlmigrate`` touches nothing."""
    project = Project(tmp_path, {"default": (AIO, {})})
    planned = project.manage("migrate", "--plan")
    assert "Drop the tables of channels-lite 0.3 and 0.4" in planned
    assert "Apply the SQL files of channels-lite up to version 4" in planned
    assert "CANNOT BE WRITTEN AS SQL" in project.manage("sqlmigrate", "channels_lite", "0002")
    assert project.version(COMPANION) == 0


# From channels-lite 0.3 and 0.4.

OLD = """
CREATE TABLE "django_migrations" (
    "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL,
    "applied" datetime NOT NULL);
INSERT INTO "django_migrations" VALUES (1, 'channels_lite', '0001_initial', '2026-01-07 07:17:00');
CREATE TABLE "channels_lite_event" (
    "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "created_at" datetime NOT NULL, "expires_at" datetime NOT NULL,
    "channel_name" varchar(100) NOT NULL, "data" BLOB NOT NULL, "delivered" bool NOT NULL);
CREATE INDEX "channels_lite_event_expires_at_93842052" ON "channels_lite_event" ("expires_at");
CREATE INDEX "channels_li_channel_7553e7_idx" ON "channels_lite_event" ("channel_name", "delivered", "expires_at");
CREATE TABLE "channels_lite_groupmembership" (
    "id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "group_name" varchar(100) NOT NULL,
    "channel_name" varchar(100) NOT NULL, "expires_at" datetime NOT NULL, "joined_at" datetime NOT NULL);
CREATE UNIQUE INDEX "channels_lite_groupmembership_group_name_channel_name_16b06135_uniq"
    ON "channels_lite_groupmembership" ("group_name", "channel_name");
CREATE INDEX "channels_lite_groupmembership_expires_at_e186f16a" ON "channels_lite_groupmembership" ("expires_at");
CREATE INDEX "channels_li_group_n_6c3675_idx" ON "channels_lite_groupmembership" ("group_name", "expires_at");
INSERT INTO channels_lite_event (created_at, expires_at, channel_name, data, delivered) VALUES
    ('2026-01-07 07:17:00', '9999-01-01 00:00:00', 'chat', x'01', 0),
    ('2026-01-07 07:17:00', '9999-01-01 00:00:00.000001', 'chat', x'01', 0),
    ('2026-01-07 07:17:00', '9999-01-01 00:00:00', 'chat', x'01', 1),
    ('2026-01-07 07:17:00', '2026-01-07 07:18:00', 'chat', x'01', 0);
INSERT INTO channels_lite_groupmembership (group_name, channel_name, expires_at, joined_at) VALUES
    ('room', 'a', '9999-01-01 00:00:00', '2026-01-07 07:17:00'),
    ('room', 'b', '2026-01-07 07:18:00', '2026-01-07 07:17:00');
CREATE TABLE notes (text);
INSERT INTO notes VALUES ('keep me');
"""
SENTENCE = "channels-lite 0.3/0.4 were dropped, with 3 pending message(s) and 2 group membership(s)"


def make_old(project: Project, name: str = "db.sqlite3") -> None:
    """A database of channels-lite 0.3 or 0.4, as its migration made it, with an application's table."""
    connection = sqlite3.connect(project.file(name))
    connection.executescript(OLD)
    connection.close()


@pytest.mark.parametrize("use_tz", [True, False])
@pytest.mark.parametrize("kind", [CORE, AIO])
def test_old_tables_go(tmp_path: Path, kind: str, use_tz: bool) -> None:
    """migrate drops the old tables and says what was live in them; the application's rows stay."""
    project = Project(tmp_path, {"default": (kind, {})}, USE_TZ=use_tz)
    make_old(project)
    assert SENTENCE in project.manage("migrate")
    assert not {name for name in project.tables() if "event" in name or "groupmembership" in name}
    assert project.sql("SELECT text FROM notes") == [("keep me",)]
    assert project.version("db.sqlite3" if kind == CORE else COMPANION) == VERSION
    assert "dropped" not in project.manage("migrate")


def test_an_old_table_that_others_refer_to(tmp_path: Path) -> None:
    """An application's foreign key keeps the table it refers to; the output says so, and its rows can be written."""
    project = Project(tmp_path, {"default": (CORE, {})})
    make_old(project)
    project.sql("CREATE TABLE bills (event INTEGER REFERENCES channels_lite_event (id))")
    project.sql("INSERT INTO bills VALUES (1)")
    printed = project.manage("migrate")
    assert "with 0 pending message(s) and 2 group membership(s)" in printed
    assert "Not dropped, because tables of your own refer to them: channels_lite_event." in printed
    assert "channels_lite_groupmembership" not in project.tables()
    project.sql("INSERT INTO bills VALUES (2)")
    assert project.version() == VERSION


def test_a_layer_that_comes_later(tmp_path: Path) -> None:
    """Where the settings change after migrate, the next migrate makes what they need, and nothing after zero."""
    Project(tmp_path, {"default": (AIO, {})}).manage("migrate")
    layers = {"default": (CORE, {}), "other": (AIO, {"path": str(tmp_path / "other.sqlite3")})}
    project = Project(tmp_path, layers)
    assert [project.version(name) for name in ("db.sqlite3", "other.sqlite3")] == [0, 0]
    assert "No migrations to apply" in project.manage("migrate", "channels_lite", "--database", "default")
    assert [project.version(name) for name in ("db.sqlite3", "other.sqlite3")] == [VERSION, VERSION]
    for target in ("0003", "zero"):
        project.manage("migrate", "channels_lite", target)
        assert project.version() == (VERSION if target == "0003" else 0)  # there is no way back but to nothing


def test_zero_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """A table of somebody else's that has the name of one of ours is not removed."""
    project = Project(tmp_path, {"default": (CORE, {})})
    project.sql("CREATE TABLE channels_lite_message (text)")
    project.manage("migrate", "channels_lite", "0001")
    project.manage("migrate", "channels_lite", "zero")
    assert "channels_lite_message" in project.tables()


def test_old_tables_in_an_alias_of_their_own(tmp_path: Path) -> None:
    """As with 0.4: the router, and ``migrate --database channels``."""
    project = Project(tmp_path, {"default": (AIO, {"database": "channels"})}, DATABASE_ROUTERS=[ROUTER])
    make_old(project, "channels.sqlite3")
    assert "dropped" not in project.manage("migrate")
    assert SENTENCE in project.manage("migrate", "--database", "channels")
    assert project.version("channels.sqlite3") == VERSION


def test_nothing_is_said_without_old_tables_or_a_voice(tmp_path: Path) -> None:
    """A fresh database says nothing about old tables, and neither does migrate -v 0."""
    project = Project(tmp_path)
    assert "dropped" not in project.manage("migrate")
    os.unlink(project.file("db.sqlite3"))
    make_old(project)
    assert project.manage("migrate", "-v", "0") == ""
    assert project.version() == VERSION


def test_old_tables_locked(tmp_path: Path) -> None:
    """While another process writes, migrate fails with both tables in place, and succeeds when it is done."""
    project = Project(tmp_path)
    make_old(project)
    settings = tmp_path / "project_settings.py"
    patient = settings.read_text()
    settings.write_text(f"{patient}DATABASES['default']['OPTIONS'] = {{'timeout': 0.01}}\n")
    other = sqlite3.connect(project.file("db.sqlite3"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "database is locked" in project.manage("migrate", code=1)
    other.execute("ROLLBACK")
    assert other.execute("SELECT count(*) FROM channels_lite_groupmembership").fetchone() == (2,)
    other.close()
    assert SENTENCE in project.manage("migrate")


# Django's flush.


def filled(folder: Path, **settings: object) -> Project:
    """A migrated project with a user, a message and a membership."""
    project = Project(folder, {"default": (CORE, {})}, **{"INSTALLED_APPS": BOTH, **settings})
    project.manage("migrate", "-v", "0")
    project.sql(MESSAGE)
    project.sql(MEMBERSHIP)
    return project


def held(project: Project) -> int:
    """How many messages and memberships there are."""
    ((count,),) = project.sql(
        "SELECT (SELECT count(*) FROM channels_lite_message) + (SELECT count(*) FROM channels_lite_membership)"
    )
    return int(count)


@pytest.mark.parametrize("applications", [BOTH, ["channels_lite"]], ids=["with others", "alone"])
def test_flush_empties_our_tables(tmp_path: Path, applications: list[str]) -> None:
    """manage.py flush removes messages and memberships too, also where no application has a table."""
    project = filled(tmp_path, INSTALLED_APPS=applications)
    assert "cancelled" in project.manage("flush", typed="no\n")
    assert held(project) == 2
    project.manage("flush", typed="yes\n")
    assert held(project) == 0


def test_flush_without_our_tables(tmp_path: Path) -> None:
    """Where the schema is in a companion or nowhere, flush works as always, and leaves the companion alone."""
    project = Project(tmp_path, {"default": (AIO, {})}, INSTALLED_APPS=BOTH)
    project.manage("migrate")
    project.sql(MESSAGE, name=COMPANION)
    project.manage("flush", "--no-input")
    assert project.sql("SELECT count(*) FROM channels_lite_message", name=COMPANION) == [(1,)]


def test_only_flush_empties(tmp_path: Path) -> None:
    """Neither migrate nor an application that has its permissions made (post_migrate) removes a message."""
    project = filled(tmp_path)
    project.manage("migrate")
    project.script("""
from django.core.management.sql import emit_post_migrate_signal
emit_post_migrate_signal(0, False, "default")
""")
    assert held(project) == 2


ISOLATION = f"""
from django.db import connection
from django.test import TransactionTestCase
from channels_lite.models import Membership, Message

class Leaving:
    def leave(self):
        self.assertEqual((Message.objects.count(), Membership.objects.count()), (0, 0))
        with connection.cursor() as cursor:
            cursor.execute('''{MESSAGE}''')
            cursor.execute('''{MEMBERSHIP}''')
        self.assertEqual((Message.objects.count(), Membership.objects.count()), (1, 1))
    def test_one(self):
        self.leave()
    def test_two(self):
        self.leave()

class Plain(Leaving, TransactionTestCase):
    pass

class Serialized(Leaving, TransactionTestCase):
    serialized_rollback = True

class Limited(Leaving, TransactionTestCase):
    available_apps = ["channels_lite"]
"""


def test_transaction_test_cases_are_isolated(tmp_path: Path) -> None:
    """What one TransactionTestCase leaves in our tables is not there in the next, however it restores the others."""
    project = Project(tmp_path, {"default": (CORE, {})}, INSTALLED_APPS=["django.contrib.sessions", "channels_lite"])
    (tmp_path / "test_isolation.py").write_text(ISOLATION)
    assert "Ran 6 tests" in project.manage("test", "-v", "0")


# The migrations of the application.

FIRST = """
from django.db import migrations, models

class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel("Author", [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=20)),
        ]),
        migrations.CreateModel("Note", [
            ("id", models.BigAutoField(primary_key=True)),
            ("text", models.CharField(max_length=20)),
            ("extra", models.IntegerField(default=0, db_index=True)),
            ("author", models.ForeignKey("notes.Author", models.CASCADE)),
        ]),
    ]
"""
REMAKES = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("notes", "0001_initial")]
    operations = [
        migrations.AddField("Note", "code", models.IntegerField(null=True, unique=True)),
        migrations.AddField("Note", "plain", models.IntegerField(null=True)),
        migrations.AlterField("Note", "text", models.TextField(null=True)),
        migrations.AlterField("Author", "id", models.AutoField(primary_key=True)),
        migrations.RenameField("Note", "text", "body"),
        migrations.RenameField("Note", "author", "writer"),
        migrations.RenameModel("Note", "Letter"),
        migrations.RenameModel("Author", "Writer"),
        migrations.AlterModelTable("Letter", "letters"),
        migrations.AddIndex("Letter", models.Index(fields=["code"], name="by_code")),
        migrations.RenameIndex("Letter", new_name="by_number", old_name="by_code"),
        migrations.AddConstraint("Letter", models.UniqueConstraint(fields=["body", "extra"], name="once")),
        migrations.RemoveConstraint("Letter", "once"),
        migrations.RemoveIndex("Letter", "by_number"),
        migrations.AddField("Writer", "letters", models.ManyToManyField("notes.Letter", related_name="+")),
        migrations.RemoveField("Letter", "extra"),
        migrations.RemoveField("Letter", "plain"),
        migrations.RemoveField("Letter", "writer"),
        migrations.DeleteModel("Writer"),
    ]
"""
WITH_TRIGGER = """
from django.core.management import call_command
from django.db import connection

heard = []
connection.ensure_connection()
connection.connection.create_function("channels_lite_inserted", 2, lambda *names: heard.append(names))
call_command("migrate", "notes", verbosity=0)
with connection.cursor() as cursor:
    cursor.execute(MESSAGE)
    cursor.execute("SELECT body, code FROM letters")
    print(cursor.fetchall(), heard)
    cursor.execute("DELETE FROM letters")  # its writer is gone, and the way back needs one
call_command("migrate", "notes", "0001", verbosity=0)
call_command("migrate", "channels_lite", "zero", verbosity=0)
print(connection.introspection.table_names())
"""


def test_an_application_remakes_its_tables(tmp_path: Path) -> None:
    """With our schema in its database, and a temporary trigger on our table, an application's migrations all work."""
    project = Project(tmp_path, {"default": (CORE, {})}, INSTALLED_APPS=["channels_lite", "notes"])
    migrations = tmp_path / "notes" / "migrations"
    migrations.mkdir(parents=True)
    for file in (tmp_path / "notes" / "__init__.py", migrations / "__init__.py", tmp_path / "notes" / "models.py"):
        file.touch()
    (migrations / "0001_initial.py").write_text(FIRST)
    (migrations / "0002_remakes.py").write_text(REMAKES)
    project.manage("migrate", "channels_lite")
    project.manage("migrate", "notes", "0001")
    project.sql("INSERT INTO notes_author VALUES (1, 'Ann')")
    project.sql("INSERT INTO notes_note (id, text, extra, author_id) VALUES (1, 'keep me', 2, 1)")
    printed = project.script(f"MESSAGE = {MESSAGE!r}\n{WITH_TRIGGER}").splitlines()
    assert printed == [
        "[('keep me', None)] [('', 'zone.client!')]",
        "['django_migrations', 'notes_author', 'notes_note']",
    ]
