"""Tests of Django's test cases, run by ``manage.py test`` (and by pytest-django as well)."""

import asyncio
import urllib.parse
import urllib.request
from typing import Any
from unittest import mock, skipIf, skipUnless

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.test import LiveServerTestCase, SimpleTestCase, TestCase, TransactionTestCase, override_settings

from channels_lite.testing import own_layer
from rooms import scenarios

BOTH = {"default", "channels"}
core = skipUnless(settings.LAYER == "core", "the sends of the other layer belong to no transaction")
aio = skipUnless(settings.LAYER == "aio", "the apsw layer's own")


class Shared:
    """What holds in TestCase and TransactionTestCase alike."""

    databases = BOTH
    client: Any
    async_client: Any

    def test_sent_is_received(self) -> None:
        scenarios.sent_is_received()

    def test_sockets_hear_a_view(self) -> None:
        async_to_sync(scenarios.sockets_hear)(sync_to_async(self.client.post), "/say/")

    def test_sockets_talk(self) -> None:
        async_to_sync(scenarios.sockets_talk)()

    async def test_sockets_hear_a_view_of_the_async_client(self) -> None:
        await scenarios.sockets_hear(self.async_client.post, "/say/")

    async def test_sockets_hear_an_async_view(self) -> None:
        await scenarios.sockets_hear(self.async_client.post, "/asay/")

    async def test_sockets_talk_in_an_async_test(self) -> None:
        await scenarios.sockets_talk()

    async def test_waiting_receiver_is_woken(self) -> None:
        await scenarios.waiting_receiver_is_woken()

    async def test_async_sends_are_received(self) -> None:
        await scenarios.async_sends_are_received()


class Isolated:
    """Each test begins empty, whichever of the two comes first."""

    databases = BOTH

    def test_begins_empty(self) -> None:
        scenarios.begins_empty()

    def test_begins_empty_again(self) -> None:
        scenarios.begins_empty()

    async def test_begins_empty_in_an_async_test(self) -> None:
        await sync_to_async(scenarios.begins_empty)()


class KeepsConnection:
    """What a TestCase on a file needs for consumers, with any layer. In memory, Django closes nothing."""

    def setUp(self) -> None:
        # Channels' communicators do the same, but not while a socket disconnects: a consumer's end would close the
        # test's connection, with its transaction.
        patch = mock.patch("channels.db.close_old_connections")
        patch.start()
        self.addCleanup(patch.stop)  # type: ignore[attr-defined]


@core
class InTestCase(KeepsConnection, Shared, Isolated, TestCase):
    def test_callbacks_on_commit(self) -> None:
        """captureOnCommitCallbacks sees the site's own callbacks only, and runs them; the layer adds none."""
        layer = get_channel_layer()
        async_to_sync(layer.group_add)("room", "inbox")
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            self.client.post("/say/", {"text": "now"})
        assert len(callbacks) == 1
        assert [scenarios.receive(), scenarios.receive()] == ["now", "committed"]

    def test_number_of_queries(self) -> None:
        """A send is one query, the first one too: neither the tables nor the connection's set-up are counted."""
        with self.assertNumQueries(1, using=settings.ALIAS):
            scenarios.send("counted")
        assert scenarios.receive() == "counted"

    def test_number_of_queries_of_a_layer_of_its_own(self) -> None:
        """It is not emptied, as the test's transaction is rolled back: that would be queries."""
        with self.assertNumQueries(1, using=settings.ALIAS), own_layer():
            scenarios.send("counted")


class ClassData(TestCase):
    """What setUpTestData sends is there in each test."""

    databases = BOTH

    @classmethod
    def setUpTestData(cls) -> None:
        scenarios.send("from the class")

    @core
    def test_finds_it(self) -> None:
        assert scenarios.receive() == "from the class"

    @core
    def test_finds_it_again(self) -> None:
        assert scenarios.receive() == "from the class"


@core
class InTransactionTestCase(Shared, TransactionTestCase):
    def setUp(self) -> None:
        async_to_sync(get_channel_layer().flush)()


@core
@skipUnless(settings.INSTALLED, "Django's flush must know of the layer's tables")
class IsolatedTransactions(Isolated, TransactionTestCase):
    pass


@core
class OnALiveServer(LiveServerTestCase):
    databases = BOTH

    def setUp(self) -> None:
        async_to_sync(get_channel_layer().flush)()
        async_to_sync(get_channel_layer().group_add)("room", "inbox")

    def test_view_in_another_thread(self) -> None:
        """What a view sends in the server's thread reaches who looks later."""
        self.post("1")
        assert [scenarios.receive(), scenarios.receive()] == ["1", "committed"]

    @skipIf(settings.IN_MEMORY, "Django shares one connection, which two threads must not use at the same time")
    async def test_waiting_for_a_view_in_another_thread(self) -> None:
        """And who waits meanwhile in the test's."""
        waiting = asyncio.ensure_future(scenarios.areceive())
        await asyncio.sleep(0)
        await asyncio.to_thread(self.post, "2")
        assert await waiting == "2"

    def post(self, text: str) -> None:
        data = urllib.parse.urlencode({"text": text}).encode()
        with urllib.request.urlopen(f"{self.live_server_url}/say/", data) as answer:
            assert answer.status == 201


@core
class Restricted(SimpleTestCase):
    """Where a test case allows no database, the layer meets Django's own error."""

    def test_send(self) -> None:
        with self.assertRaisesMessage(AssertionError, f"to '{settings.ALIAS}' are not allowed in SimpleTestCase"):
            scenarios.send("forbidden")

    def test_receive(self) -> None:
        with self.assertRaisesMessage(AssertionError, f"to '{settings.ALIAS}' are not allowed in SimpleTestCase"):
            scenarios.receive("forbidden")

    async def test_async_send(self) -> None:
        with self.assertRaisesMessage(AssertionError, f"to '{settings.ALIAS}' are not allowed in SimpleTestCase"):
            await get_channel_layer().send("inbox", {"type": "told"})


@core
@skipUnless(settings.ALIAS == "channels", "needs an alias of the layer's own")
class RestrictedToDefault(TestCase):
    databases = {"default"}  # noqa: RUF012 - as Django writes it

    def test_send(self) -> None:
        with self.assertRaisesMessage(AssertionError, "to 'channels' are not allowed in this test"):
            scenarios.send("forbidden")


class Apsw(KeepsConnection):
    """The other layer: what it sends belongs to no transaction, and arrives all the same."""

    databases = BOTH

    def test_sockets_hear_a_view(self) -> None:
        async_to_sync(scenarios.sockets_hear)(sync_to_async(self.client.post), "/say/", refuse=False)

    async def test_sockets_hear_an_async_view(self) -> None:
        await scenarios.sockets_hear(self.async_client.post, "/asay/", refuse=False)

    async def test_sockets_talk(self) -> None:
        await scenarios.sockets_talk()

    async def test_flush_empties_it(self) -> None:
        layer = get_channel_layer()
        await layer.send("inbox", {"type": "told", "text": "stale"})
        await layer.flush()
        await layer.send("inbox", {"type": "told", "text": "fresh"})
        assert await scenarios.areceive() == "fresh"


@aio
class ApswInTestCase(Apsw, TestCase):
    pass


@aio
class ApswInTransactionTestCase(Apsw, TransactionTestCase):
    pass


@aio
@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": settings.BACKENDS["aio"], "CONFIG": {"path": ":memory:"}}})
class ApswInMemory(Apsw, TestCase):
    pass


@aio
@override_settings(CHANNEL_LAYERS={"default": {"BACKEND": settings.BACKENDS["aio"], "CONFIG": {"path": ":memory:"}}})
class ApswInSimpleTestCase(SimpleTestCase):
    async def test_needs_no_database(self) -> None:
        await scenarios.async_sends_are_received()
