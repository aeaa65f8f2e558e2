"""The layer of an entry of CHANNEL_LAYERS, by ``channels_lite.layers.get_layer``."""

import subprocess
import sys

import pytest
from channels.exceptions import InvalidChannelLayerError
from channels.layers import get_channel_layer
from django.test import override_settings

from channels_lite.errors import ConfigError
from channels_lite.layers import get_layer
from channels_lite.layers.aio import AIOSQLiteChannelLayer

LAYERS = {
    "default": {"BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer", "CONFIG": {"path": ":memory:"}},
    "others": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    "wrong": {"BACKEND": "channels_lite.layers.aio.AIOSQLiteChannelLayer", "CONFIG": {"capacty": 1}},
    "nowhere": {"BACKEND": "channels_lite.layers.nowhere.Layer"},
}


@override_settings(CHANNEL_LAYERS=LAYERS)
def test_it_is_the_one_that_channels_has() -> None:
    """There is one layer for an entry, whichever way it is asked for; ``default`` where none is named."""
    layer = get_layer()
    assert isinstance(layer, AIOSQLiteChannelLayer)
    assert get_layer("default") is layer is get_channel_layer()


@pytest.mark.parametrize(
    ("alias", "kind", "words"),
    [
        ("missing", ConfigError, r"no entry 'missing' \('default', 'others', 'wrong', 'nowhere'\); add it"),
        ("others", ConfigError, r"'others'\] is a channels.layers.InMemoryChannelLayer, and no layer of channels"),
        ("wrong", ConfigError, "unknown option 'capacty'; did you mean 'capacity'"),
        ("nowhere", InvalidChannelLayerError, "channels_lite.layers.nowhere.Layer"),
    ],
)
@override_settings(CHANNEL_LAYERS=LAYERS)
def test_what_is_wrong_with_an_entry(alias: str, kind: type[Exception], words: str) -> None:
    """An entry that gives no layer of ours is an error that says why."""
    with pytest.raises(kind, match=words):
        get_layer(alias)


@override_settings(CHANNEL_LAYERS={})
def test_without_any_entry() -> None:
    """So are settings without layers."""
    with pytest.raises(ConfigError, match=r"no entry 'default' \(it is empty\)"):
        get_layer()


def test_to_import_it_is_light() -> None:
    """The module itself loads neither Django nor Channels: each backend's module begins by importing it."""
    script = "import sys, channels_lite.layers; print({'django', 'channels'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
