"""A process of a contender, run as a script: it does the works that its parent asks for, one at a time.

A request is a line of JSON with the name of a function of ``works`` and its arguments; the answer is a line with what
it returned, or with its error. It runs with other versions of this package too: it uses none of its modules.
"""

import asyncio
import json
import sys
import traceback

import django
import works
from channels.layers import channel_layers
from django.core.management import call_command


async def main(name: str) -> None:
    """Answer until there are no more requests."""
    layer = channel_layers[name]
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line)
        try:
            answer = {"result": await getattr(works, request["work"])(layer, **request["arguments"])}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    if hasattr(layer, "close"):
        await layer.close()


if __name__ == "__main__":
    django.setup()
    if "--migrate" in sys.argv:
        call_command("migrate", verbosity=0)
    asyncio.run(main(sys.argv[1]))
