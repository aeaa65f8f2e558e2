"""The pytest fixture ``channel_layer``. Every pytest run loads this: nothing else is imported before a test asks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from channels_lite.layers.base import SQLiteLayer

DATABASES = ("transactional_db", "db")  # pytest-django's fixtures


@pytest.fixture
def channel_layer(request: pytest.FixtureRequest) -> "Iterator[SQLiteLayer[Any]]":
    """A channel layer of the test's own, as ``channels_lite.testing.own_layer()`` gives it."""
    from channels_lite.testing import own_layer

    for name in DATABASES:
        if name in request.fixturenames:
            request.getfixturevalue(name)  # first, so that it is there still when the layer is emptied
    with own_layer() as layer:
        yield layer
