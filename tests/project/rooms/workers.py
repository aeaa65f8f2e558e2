"""A test with a Celery worker of its own, run by its name: the worker takes four seconds to end."""

from celery.contrib.testing.worker import start_worker
from django.test import TransactionTestCase
from mysite.celery import app

from channels_lite.testing import own_layer
from rooms import scenarios, tasks


class OnAWorker(TransactionTestCase):
    def test_task(self) -> None:
        """What a task sends in the worker's thread reaches the test."""
        with own_layer() as layer, start_worker(app, perform_ping_check=False):
            layer.sync.group_add("room", "inbox")
            tasks.announce.delay("hello")
            assert scenarios.receive() == "hello"
