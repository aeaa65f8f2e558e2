"""Tests of pytest-django's fixtures and marks, run by a pytest with the ini file beside manage.py."""

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connections

from rooms import scenarios

DATABASES = ["default", "channels"]
ERROR = "not allowed"

pytestmark = pytest.mark.skipif(settings.LAYER != "core", reason="the other layer's sends belong to no transaction")
needs_flush = pytest.mark.skipif(not settings.INSTALLED, reason="Django's flush must know of the layer's tables")


@pytest.fixture
def on_a_file_sockets_close_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in InTestCase."""
    monkeypatch.setattr("channels.db.close_old_connections", lambda: None)


@pytest.fixture
def empty(transactional_db: None) -> None:
    """Without Django's flush, a test may find what another one has committed."""
    async_to_sync(get_channel_layer().flush)()


def test_database_is_forbidden() -> None:
    """Without a mark, the layer meets pytest-django's own error."""
    with pytest.raises(RuntimeError, match=ERROR):
        scenarios.send("forbidden")


@pytest.mark.django_db(databases=DATABASES)
@pytest.mark.usefixtures("on_a_file_sockets_close_nothing")
class TestDb:
    def test_sent_is_received(self) -> None:
        scenarios.sent_is_received()

    def test_sockets_hear_a_view(self, client: Any) -> None:
        async_to_sync(scenarios.sockets_hear)(sync_to_async(client.post), "/say/")

    def test_sockets_hear_an_async_view(self, async_client: Any) -> None:
        async_to_sync(scenarios.sockets_hear)(async_client.post, "/asay/")

    def test_sockets_talk(self) -> None:
        async_to_sync(scenarios.sockets_talk)()

    @pytest.mark.parametrize("again", [False, True])
    def test_begins_empty(self, again: bool) -> None:
        scenarios.begins_empty()

    def test_callbacks_on_commit(self, client: Any, django_capture_on_commit_callbacks: Any) -> None:
        async_to_sync(get_channel_layer().group_add)("room", "inbox")
        with django_capture_on_commit_callbacks(execute=True) as callbacks:
            client.post("/say/", {"text": "now"})
        assert len(callbacks) == 1
        assert [scenarios.receive(), scenarios.receive()] == ["now", "committed"]


if settings.ALIAS == "default":

    def test_fixture_db(db: None) -> None:
        scenarios.sent_is_received()
        assert connections["default"].in_atomic_block

    def test_fixture_transactional_db(transactional_db: None) -> None:
        async_to_sync(get_channel_layer().flush)()
        scenarios.sent_is_received()
        assert not connections["default"].in_atomic_block


@pytest.mark.django_db(transaction=True, databases=DATABASES)
@pytest.mark.usefixtures("empty")
class TestTransactionalDb:
    def test_sent_is_received(self) -> None:
        scenarios.sent_is_received()

    def test_sockets_hear_a_view(self, client: Any) -> None:
        async_to_sync(scenarios.sockets_hear)(sync_to_async(client.post), "/say/")

    async def test_sockets_hear_a_view_in_a_loop(self, async_client: Any) -> None:
        await scenarios.sockets_hear(async_client.post, "/say/")

    async def test_sockets_hear_an_async_view(self, async_client: Any) -> None:
        await scenarios.sockets_hear(async_client.post, "/asay/")

    async def test_sockets_talk(self) -> None:
        await scenarios.sockets_talk()

    async def test_waiting_receiver_is_woken(self) -> None:
        await scenarios.waiting_receiver_is_woken()

    async def test_async_sends_are_received(self) -> None:
        await scenarios.async_sends_are_received()


@needs_flush
@pytest.mark.django_db(transaction=True, databases=DATABASES)
class TestIsolatedTransactions:
    @pytest.mark.parametrize("again", [False, True])
    def test_begins_empty(self, again: bool) -> None:
        scenarios.begins_empty()

    async def test_begins_empty_in_a_loop(self) -> None:
        await sync_to_async(scenarios.begins_empty)()


@pytest.fixture
def emptied(transactional_db: None) -> Iterator[None]:
    """Fail a test whose layer has left something in the database, which Django's flush has not emptied yet."""
    yield
    with connections[settings.ALIAS].cursor() as cursor:
        for table in ("channels_lite_message", "channels_lite_membership"):
            assert cursor.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


class TestOwnLayer:
    """The fixture ``channel_layer``."""

    @pytest.mark.django_db(databases=DATABASES)
    def test_in_db(self, channel_layer: Any) -> None:
        assert channel_layer is get_channel_layer()
        scenarios.begins_empty()

    @pytest.mark.django_db(databases=DATABASES)
    @pytest.mark.usefixtures("channel_layer")
    def test_begins_empty(self) -> None:
        scenarios.begins_empty()

    @pytest.mark.django_db(transaction=True, databases=DATABASES)
    @pytest.mark.usefixtures("emptied", "channel_layer")
    def test_in_transactional_db(self) -> None:
        scenarios.begins_empty()

    @pytest.mark.django_db(transaction=True, databases=DATABASES)
    @pytest.mark.usefixtures("emptied", "channel_layer")
    async def test_in_a_loop(self) -> None:
        await scenarios.async_sends_are_received()
        await get_channel_layer().send("left", {"type": "told"})

    if settings.ALIAS == "default":

        def test_before_db(self, channel_layer: Any, db: None) -> None:
            """It does not matter which of the two is named first."""
            scenarios.begins_empty()

        def test_before_transactional_db(self, channel_layer: Any, transactional_db: None) -> None:
            scenarios.begins_empty()
