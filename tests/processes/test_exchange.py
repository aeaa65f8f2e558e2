"""Two processes exchange messages: none is lost, doubled or out of order."""

import asyncio

import pytest

from channels_lite.layers import handover
from tests.processes.conftest import PATIENCE
from tests.processes.peer import send_patiently

COUNT = 10_000


@pytest.mark.parametrize("kind", ["normal", "specific", "specific, in rows"])
async def test_ten_thousand_messages_one_way(layer, start, kind, monkeypatch):
    """10 000 messages from one process to another arrive once each and in order, the full channel notwithstanding."""
    if "rows" in kind:
        monkeypatch.setattr(handover, "is_possible", lambda: False)
    channel = "collect" if kind == "normal" else "collect!"
    peer = await start("collect", "--channel", channel, "--count", str(COUNT))
    channel = await peer.line()
    for number in range(COUNT):
        await send_patiently(layer, channel, {"type": "x", "number": number})
    assert list(map(int, (await peer.line()).split())) == list(range(COUNT))


async def test_ten_thousand_messages_there_and_back(layer, start):
    """5 000 requests on a normal channel and 5 000 answers on a process-specific one, many on the way at once."""
    await start("echo")
    reply = await layer.new_channel()
    number_of_requests = COUNT // 2

    async def ask():
        for number in range(number_of_requests):
            await send_patiently(layer, "echo", {"type": "x", "number": number, "reply": reply})

    async def hear():
        return [(await layer.receive(reply))["number"] for _ in range(number_of_requests)]

    _, answers = await asyncio.wait_for(asyncio.gather(ask(), hear()), PATIENCE)
    assert answers == list(range(number_of_requests))


async def test_several_processes_write_to_one_channel(layer, start):
    """Four processes send 500 messages each to one channel: all arrive once, and each sender's are in order."""
    peers = [await start("flood", "--channel", "jobs", "--count", "500") for _ in range(4)]
    received = [await asyncio.wait_for(layer.receive("jobs"), PATIENCE) for _ in range(2000)]
    for peer in peers:
        own = [message["number"] for message in received if message["sender"] == peer.process.pid]
        assert own == list(range(500))


async def test_several_processes_read_from_one_channel(layer, start):
    """Three processes share 900 messages of one channel: each message is received by exactly one of them."""
    peers = [await start("collect", "--channel", "jobs", "--count", "300") for _ in range(3)]
    for peer in peers:
        assert await peer.line() == "jobs"
    for number in range(900):
        await send_patiently(layer, "jobs", {"type": "x", "number": number})
    shares = [list(map(int, (await peer.line()).split())) for peer in peers]
    assert sorted(number for share in shares for number in share) == list(range(900))
    for share in shares:
        assert share == sorted(share)
