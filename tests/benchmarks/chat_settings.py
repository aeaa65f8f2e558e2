"""The example chat on the layer of another contender: the example's settings, but for CHANNEL_LAYERS."""

import os

from chat.settings import *  # noqa: F403

from tests.benchmarks import settings

CHANNEL_LAYERS = {"default": settings.CHANNEL_LAYERS[os.environ["CHANNELS_LITE_BENCHMARK_CHAT"]]}
