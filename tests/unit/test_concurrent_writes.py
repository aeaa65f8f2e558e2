"""What tasks of the apsw layer write at the same time: who hears of it, and what becomes of them where it fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import apsw
import pytest

from channels_lite.errors import LayerClosed
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from tests.patience import PATIENCE

MakeLayer = Callable[..., AIOSQLiteChannelLayer]


async def both(*tasks: Any) -> list[Any]:
    """The results or errors of what must not take long."""
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)


@pytest.mark.parametrize("where", [{"path": ":memory:"}, {"polling_interval": None}])
async def test_each_message_wakes_a_receiver(make_layer: MakeLayer, monkeypatch: Any, where: dict[str, Any]) -> None:
    """Messages of one transaction to one channel wake a receiver each, where no bell tells of them again."""
    monkeypatch.setattr("channels_lite.bell._listener_class", lambda: None)
    layer = make_layer(**where)
    await layer.send("x", {})
    await layer.receive("x")
    receivers = [asyncio.create_task(layer.receive("x")) for _ in range(3)]
    await asyncio.sleep(0)
    await both(*(layer.send("x", {"number": number}) for number in range(3)))
    assert await both(*receivers) == [{"number": number} for number in range(3)]


async def test_closed_while_they_wait_for_a_lock(make_layer: MakeLayer, path: str) -> None:
    """Several writers that wait for the database when the layer is closed all hear of that."""
    layer = make_layer()
    await layer.send("x", {})
    locking = apsw.Connection(path)
    locking.execute("BEGIN IMMEDIATE")
    senders = [asyncio.create_task(layer.send("x", {})) for _ in range(2)]
    await asyncio.sleep(0)
    await layer.close()
    assert [type(error) for error in await both(*senders)] == [LayerClosed, LayerClosed]
    locking.close()
