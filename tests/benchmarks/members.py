"""A process whose channels are all in one group: run as a script, it sends to the group for each line that it reads.

It says ``ready``, and then for each line the seconds until group_send returned and until the last of its waiting
receivers had the message, as a JSON array. It uses nothing but the Channels API, and none of this project's modules:
it runs with channels-lite 0.4.0 as well.
"""

import argparse
import asyncio
import json
import sys
import time

import django
from channels.layers import channel_layers
from django.core.management import call_command

SETTLED = 0.3  # seconds until all receivers wait: longer than 0.4.0 sleeps between two looks


async def main(name: str, count: int) -> None:
    """Answer lines until there are no more. All messages of a round are received, so that no channel ever fills up."""
    layer = channel_layers[name]
    members = [await layer.new_channel() for _ in range(count)]
    for member in members:
        await layer.group_add("members", member)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        receiving = [asyncio.ensure_future(layer.receive(member)) for member in members]
        await asyncio.sleep(SETTLED)
        start = time.perf_counter()
        await layer.group_send("members", {"type": "member.hear", "text": "to all of you"})
        returned = time.perf_counter()
        await asyncio.gather(*receiving)
        print(json.dumps([returned - start, time.perf_counter() - start]), flush=True)
    await layer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", help="a name of CHANNEL_LAYERS")
    parser.add_argument("count", type=int, help="channels in the group")
    options = parser.parse_args()
    django.setup()
    call_command("migrate", verbosity=0)
    asyncio.run(main(options.layer, options.count))
