"""A process of a contender, run as a script: it does the works that its parent asks for, one at a time.

A request is a line of JSON with "module.function" of ``works`` and its arguments; the answer is a line with what it
returned, or with its error. It runs with other versions of this package too: it uses none of its modules.
"""

import argparse
import asyncio
import importlib
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import django
from channels.layers import channel_layers
from django.core.management import call_command


async def main(name: str) -> None:
    """Answer until there are no more requests."""
    layer = channel_layers[name] if name else None
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            answer = {"result": await _work(request["work"])(layer, **request["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    if hasattr(layer, "close"):
        await layer.close()


def _work(name: str) -> Callable[..., Awaitable[Any]]:
    module, function = name.split(".")
    return getattr(importlib.import_module(f"works.{module}"), function)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", help="a name of CHANNEL_LAYERS; empty for a floor without one")
    parser.add_argument("migrate", nargs="?", help="the alias to migrate first")
    options = parser.parse_args()
    django.setup()
    if options.migrate:
        call_command("migrate", database=options.migrate, verbosity=0)
    asyncio.run(main(options.layer))
