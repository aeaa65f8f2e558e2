"""The synchronous code above a coroutine: whether it is there, and running a function in its thread."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

import apsw
from asgiref.sync import AsyncToSync, sync_to_async
from channels.exceptions import ChannelFull, InvalidChannelLayerError, MessageTooLarge
from django.db import Error

from channels_lite.errors import ChannelsLiteError
from channels_lite.mailbox import running_loop

T = TypeVar("T")

OURS = (ChannelsLiteError, ChannelFull, MessageTooLarge, InvalidChannelLayerError, apsw.Error, sqlite3.Error, Error)
"""What this package, and the two libraries that it speaks to SQLite through, raise by themselves."""


class CallerGone(ChannelsLiteError):
    """The thread that called this coroutine through async_to_sync() has gone on without it."""


def is_there() -> bool:
    """Whether a thread waits in async_to_sync() for this coroutine, perhaps with a transaction open.

    asgiref keeps this to itself; what is read here is what its sync_to_async() goes by. Without these attributes, the
    answer is yes, which is right and slower.
    """
    executors = getattr(AsyncToSync, "executors", None)
    by_loop = getattr(AsyncToSync, "loop_thread_executors", None)
    if executors is None or by_loop is None:
        return True
    return getattr(executors, "current", None) is not None or asyncio.get_running_loop() in by_loop


def is_interruption(error: BaseException) -> bool:
    """Whether this is what a signal handler has raised into synchronous code, such as a time limit of Celery's.

    It may come anywhere, and is nobody's failure: who waits for a message must not be told of it.
    """
    if running_loop() is not None or threading.current_thread() is not threading.main_thread():
        return False
    return not isinstance(error, OURS)


async def run(function: Callable[[], T]) -> T:
    """Run a function in the thread that Django runs synchronous code in: the caller's, if there is one."""
    begun = False

    def call() -> T:
        nonlocal begun
        begun = True
        return function()

    try:
        return await sync_to_async(call)()
    except RuntimeError as error:
        if begun:
            raise
        raise CallerGone(str(error)) from None
