"""Gunicorn's configuration for the test of a fork: on a signal, the master uses the layer that it forked with."""

import json
import os
import signal
from typing import Any

control_socket_disable = True  # by newer ones it is a socket in the home directory


def when_ready(server: Any) -> None:
    """Let SIGUSR2, which would start another master, have this one send to its own channel and the workers' group."""
    signal.signal(signal.SIGUSR2, lambda *_: _use())


def _use() -> None:
    import asyncio

    from tests.faults.server import MASTER, layer

    async def use() -> Any:
        await layer.send(MASTER["channel"], {"type": "x", "number": 7})
        await layer.group_send("workers", {"type": "x", "from": os.getpid()})
        return (await asyncio.wait_for(layer.receive(MASTER["channel"]), 20))["number"]

    answer = {"number": asyncio.run(use()), "prefix": layer.client_prefix}
    with open(os.environ["FAULTS_ANSWER"] + ".new", "w") as file:
        json.dump(answer, file)
    os.rename(os.environ["FAULTS_ANSWER"] + ".new", os.environ["FAULTS_ANSWER"])
