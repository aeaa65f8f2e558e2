"""The read-only models: what the ORM sees of the layers' tables, and that it changes nothing there."""

from datetime import datetime, timezone
from pathlib import Path

import pytest

from channels_lite.models import Membership, Message
from tests.unit.project import AIO, CORE, ROUTER, Project

ROWS = """
INSERT INTO channels_lite_message (prefix, queue, targets, group_name, capacity, expires_at, payload) VALUES
    ('', 'chat', NULL, NULL, 100, 4102444800500, x'01'),
    ('', 'zone.client!', '["a", "b"]', 'room', NULL, 4102444800500, x'02'),
    ('', 'gone', NULL, NULL, NULL, 1, x'03')
"""
MEMBERS = """
INSERT INTO channels_lite_membership VALUES
    ('', 'room', 'zone.client!', 'b', 0, 4102444800500),
    ('', 'room', 'zone.client!', 'a', 0, 4102444800500),
    ('', 'room', 'gone', '', 0, 1)
"""
ADMIN = {
    "INSTALLED_APPS": [
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "channels_lite",
    ],
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    "TEMPLATES": [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    "ROOT_URLCONF": "project_urls",
    "ALLOWED_HOSTS": ["testserver"],
    "STATIC_URL": "static/",
}


URLS = """
from django.contrib import admin
from django.urls import path
from channels_lite.models import Message

class MessageAdmin(admin.ModelAdmin):
    list_display = ("id", "queue", "channels", "expires")

admin.site.register(Message, MessageAdmin)
urlpatterns = [path("admin/", admin.site.urls)]
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A migrated project with the core layer, and rows in its tables, two of which have expired."""
    project = Project(tmp_path, {"default": (CORE, {})}, **ADMIN)
    (tmp_path / "project_urls.py").write_text(URLS)
    project.manage("migrate", "-v", "0")
    project.sql(ROWS)
    project.sql(MEMBERS)
    return project


def test_properties() -> None:
    """A message names its channels in full, and both say when they expire as an aware datetime."""
    message = Message(id=7, queue="zone.client!", targets='["a", "b"]', expires_at=4102444800500)
    assert message.channels == ["zone.client!a", "zone.client!b"]
    assert str(message) == "7 to zone.client!a, zone.client!b"
    assert message.expires == datetime(2100, 1, 1, 0, 0, 0, 500_000, tzinfo=timezone.utc)
    assert Message(queue="chat", targets=None).channels == ["chat"]
    assert Message(queue="chat", targets="5").channels == ["chat"]  # a stranger's row
    member = Membership(group_name="room", channel="zone.client!a", expires_at=0)
    assert str(member) == "zone.client!a in room"
    assert member.expires == datetime(1970, 1, 1, tzinfo=timezone.utc)


def test_what_is_live_is_seen(project: Project) -> None:
    """The models show what is live, in order, and can be filtered; what has expired is not there."""
    printed = project.script("""
from channels_lite.models import Membership, Message
print([str(message) for message in Message.objects.all()], Message.objects.get(group_name="room").payload)
print([str(member) for member in Membership.objects.all()], Membership.objects.filter(group_name="room").count())
print(Membership.objects.get(pk=("", "room", "zone.client!", "b")).channel, Message.objects.last().pk)
""")
    assert printed.splitlines() == [
        "['1 to chat', '2 to zone.client!a, zone.client!b'] b'\\x02'",
        "['zone.client!a in room', 'zone.client!b in room'] 2",
        "zone.client!b 2",
    ]


CHANGES = [
    "Message(id=9, queue='chat', expires_at=1, payload=b'').save()",
    "Message.objects.first().save()",
    "Message.objects.first().delete()",
    "Message.objects.create(queue='chat', expires_at=1, payload=b'')",
    "Message.objects.get_or_create(queue='nobody', defaults={'expires_at': 1, 'payload': b''})",
    "Message.objects.update_or_create(queue='chat', defaults={'payload': b''})",
    "Message.objects.bulk_create([Message(id=9, queue='chat', expires_at=1, payload=b'')])",
    "Message.objects.bulk_update([Message.objects.first()], ['queue'])",
    "Message.objects.update(queue='other')",
    "Message.objects.filter(queue='chat').delete()",
    "asyncio.run(Message.objects.filter(queue='chat').adelete())",
    "Membership.objects.first().save()",
    "Membership.objects.first().delete()",
    "Membership.objects.all().delete()",
]
TRYING = """
import asyncio
from channels_lite.errors import ReadOnly
from channels_lite.models import Membership, Message
for change in {changes!r}:
    try:
        eval(change)
    except ReadOnly as error:
        assert "cannot be changed through the ORM: use the layer's own methods" in str(error)
    else:
        print("not refused:", change)
"""


def test_every_change_is_refused(project: Project) -> None:
    """Whatever the ORM has for changing rows is refused with one sentence, and the rows stay."""
    assert project.script(TRYING.format(changes=CHANGES)) == ""
    assert project.sql("SELECT count(*) FROM channels_lite_message WHERE queue <> 'other'") == [(3,)]
    assert project.sql("SELECT count(*) FROM channels_lite_membership") == [(3,)]


def test_loaddata_says_what_to_do(project: Project) -> None:
    """A fixture with our rows is refused with the option to use; one made with that option loads."""
    project.manage("dumpdata", "-o", "all.json")
    assert "give dumpdata and loaddata the option --exclude channels_lite" in project.manage(
        "loaddata", "all.json", code=1
    )
    assert "Installed" in project.manage("loaddata", "--exclude", "channels_lite", "all.json")


@pytest.mark.parametrize("alias", ["default", "channels"])
def test_dumpdata_where_there_is_no_view(tmp_path: Path, alias: str) -> None:
    """An alias without our schema is dumped as ever: the layer's messages are elsewhere."""
    project = Project(tmp_path, {"default": (AIO, {})})
    project.manage("migrate", "--database", alias)
    assert project.manage("dumpdata", "--database", alias).strip() == "[]"


@pytest.mark.parametrize("routers", [[], [ROUTER]], ids=["no router", "router"])
def test_nothing_to_migrate(tmp_path: Path, routers: list[str]) -> None:
    """makemigrations finds no difference between the models and the migrations, and check finds nothing."""
    project = Project(tmp_path, {"default": (CORE, {"database": "channels"})}, DATABASE_ROUTERS=routers)
    assert "No changes" in project.manage("makemigrations", "--check", "--dry-run")
    assert "no issues" in project.manage("check", "--database", "default", "--database", "channels")


LOOKING = """
from django.contrib.auth.models import Permission, User
from django.test import Client
viewer = User.objects.create_user("viewer", is_staff=True)
viewer.user_permissions.set(Permission.objects.filter(content_type__app_label="channels_lite"))
print([permission.codename for permission in viewer.user_permissions.order_by("codename")])
client = Client()
client.force_login(viewer)
for address in ("", "2/change/"):
    page = client.get(f"/admin/channels_lite/message/{address}").content.decode()
    print("zone.client!" in page, "addlink" in page, "_save" in page, "deletelink" in page)
"""


def test_admin_shows_messages(project: Project) -> None:
    """Message can be registered in the admin: who may view it sees the list and each one, and no buttons."""
    assert project.script(LOOKING).splitlines() == [
        "['view_membership', 'view_message']",
        "True False False False",
        "True False False False",
    ]
