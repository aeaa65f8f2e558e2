"""A channel layer of a test's own, which nobody else sends to and of which nothing is left. For tests only."""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from django.conf import settings
from django.db import connections
from django.test.utils import TestContextDecorator, override_settings

from channels_lite.config import DEFAULT_ALIAS
from channels_lite.entries import names, no_entry, read
from channels_lite.layers.base import SQLiteLayer
from channels_lite.link import never_commits
from channels_lite.mailbox import running_loop

AIO = "channels_lite.layers.aio.AIOSQLiteChannelLayer"


class own_layer(TestContextDecorator):  # noqa: N801 # like override_settings, which stands in the same places
    """Give a test a channel layer of its own, which ``get_channel_layer(alias)`` returns meanwhile.

    ``with`` and ``async with`` give the layer. As the decorator of a function, it lasts for a call; of a test case, for
    each test. CHANNEL_LAYERS[alias] is as in the settings but for the options in ``config``; where that is no layer of
    this package, it is the layer ``aio`` with these options, and for the layer on Redis ``aio`` with those as well.

    ``aio`` has a database file in a temporary folder, which is removed afterwards, unless ``config`` names a ``path``
    or a ``database``. ``core`` stays on its alias, and so in Django's test database, with a random ``prefix``; it is
    flushed afterwards, unless the transaction around it is rolled back anyway.

    Raises ConfigError for a wrong option or an entry that is not there, RuntimeError for ``core`` where ``with`` is to
    be ``async with``, TypeError for a decorator without brackets.
    """

    def __init__(self, alias: str = DEFAULT_CHANNEL_LAYER, **config: Any) -> None:
        if not isinstance(alias, str):
            raise TypeError(f"own_layer() takes the name of an entry, not {alias!r}; a decorator is @own_layer().")
        super().__init__()
        self._alias = alias
        self._config = config
        self._uses: list[contextlib.ExitStack] = []  # what has begun and not ended, one within the other

    def enable(self) -> SQLiteLayer[Any]:
        """Begin; returns the layer."""
        layer = self._begin()
        if _is_core(layer) and running_loop() is not None:
            self.disable()
            raise RuntimeError(
                "own_layer() cannot empty the layer core in the thread of an event loop, where Django's connections "
                "are forbidden; write 'async with own_layer()'."
            )
        return layer

    def disable(self) -> None:
        """End what was begun last."""
        self._uses.pop().close()

    def __enter__(self) -> SQLiteLayer[Any]:  # type: ignore[override] # the stubs know Django's own subclasses only
        return self.enable()

    async def __aenter__(self) -> SQLiteLayer[Any]:
        return self._begin()

    async def __aexit__(self, *error: object) -> None:
        await sync_to_async(self.disable)()

    def decorate_callable(self, func: Callable[..., Any]) -> Any:
        if not iscoroutinefunction(func):
            return super().decorate_callable(func)

        @wraps(func)
        async def inner(*args: Any, **kwargs: Any) -> Any:
            async with self:
                return await func(*args, **kwargs)

        return inner

    def _begin(self) -> SQLiteLayer[Any]:
        with contextlib.ExitStack() as undo:
            undo.enter_context(_replaced(self._alias, self._entry(undo)))
            layer: SQLiteLayer[Any] = channel_layers[self._alias]  # type: ignore[assignment] # such as _entry() names
            layer.known_to_sql = not _is_core(layer)  # nothing of it must be left in the settings' database
            undo.callback(layer._close_here)
            undo.callback(_empty, layer)
            self._uses.append(undo.pop_all())
        return layer

    def _entry(self, undo: contextlib.ExitStack) -> dict[str, Any]:
        """The entry for CHANNEL_LAYERS; ``undo`` removes the folder that is made for it."""
        if names() and self._alias not in names():
            raise no_entry(self._alias)
        found = read(self._alias) if names() else None
        entry: dict[str, Any] = {} if found is None else settings.CHANNEL_LAYERS[self._alias]
        if found is None or not found.has_database:  # no test needs a Redis server, or touches one that is there
            entry = {**entry, "BACKEND": AIO}
        config = dict(entry.get("CONFIG") or {})
        if found is not None and found.backend.library == "sqlite3":
            config["prefix"] = f"test-{uuid.uuid4().hex}"
        elif self._config.keys() & {"database", "path"}:
            config = {name: value for name, value in config.items() if name not in ("database", "path")}
        else:
            config.pop("database", None)
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="channels-lite-"))
            config["path"] = os.path.join(folder, "channels.sqlite3")
        return {**entry, "CONFIG": {**config, **self._config}}


@contextlib.contextmanager
def _replaced(alias: str, entry: dict[str, Any]) -> Iterator[None]:
    """Have another entry under this name.

    Channels forgets all its layers when the setting changes. Those under other names are put back, and at the end the
    one that had this name.
    """
    before = others = channel_layers.backends
    try:
        with override_settings(CHANNEL_LAYERS={**getattr(settings, "CHANNEL_LAYERS", {}), alias: entry}):
            channel_layers.backends = _without(alias, before)
            try:
                yield
            finally:
                others = _without(alias, channel_layers.backends)
    finally:
        channel_layers.backends = {**before, **others}


def _without(alias: str, layers: dict[str, Any]) -> dict[str, Any]:
    return {name: layer for name, layer in layers.items() if name != alias}


def _is_core(layer: SQLiteLayer[Any]) -> bool:
    return layer.library == "sqlite3"


def _empty(layer: SQLiteLayer[Any]) -> None:
    """Remove what a layer has left in Django's database, if it has been used."""
    if not _is_core(layer) or (layer._database is None and not layer._closings):
        return
    connection = connections[layer.database or DEFAULT_ALIAS]
    if never_commits(connection) or connection.needs_rollback:
        return
    was_open = connection.connection is not None
    try:
        async_to_sync(layer.flush)()
    finally:
        if not was_open:
            connection.close()
