"""The database router: where the models of this package belong, asked of the settings as they are at that moment."""

from typing import Any

import pytest
from channels.layers import channel_layers
from django.test import override_settings
from django.utils.module_loading import import_string

from channels_lite.models import Membership, Message
from channels_lite.router import ChannelsRouter
from tests.unit.project import AIO, CORE, FOREIGN, ROUTER

CASES: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "no layers": ({}, "default", {"default"}),
    "none of ours": ({"default": (FOREIGN, {})}, "default", {"default"}),
    "core": ({"default": (CORE, {})}, "default", {"default"}),
    "core on an alias": ({"default": (CORE, {"database": "channels"})}, "channels", {"channels"}),
    "apsw on an alias": ({"default": (AIO, {"database": "channels"})}, "channels", {"channels"}),
    "apsw on a path": ({"default": (AIO, {"path": "own.sqlite3"})}, "default", {"default"}),
    "several": (
        {"first": (AIO, {"path": "own.sqlite3"}), "default": (CORE, {"database": "channels"})},
        "channels",
        {"default", "channels"},
    ),
    "several, none called default": (
        {"other": (FOREIGN, {}), "first": (AIO, {"database": "channels"}), "second": (CORE, {})},
        "channels",
        {"default", "channels"},
    ),
    "one that is wrong": ({"default": (AIO, {"databse": "channels"})}, "default", {"default"}),
}


@pytest.mark.parametrize(("layers", "home", "migrated"), CASES.values(), ids=CASES)
def test_our_models_go_where_the_layers_are(layers: dict[str, Any], home: str, migrated: set[str]) -> None:
    """Reads and writes go to the alias of the layer ``default``, migrations to that of each layer; none is made."""
    router = ChannelsRouter()  # once, before the settings are what they are in the test
    with override_settings(CHANNEL_LAYERS={name: {"BACKEND": k, "CONFIG": c} for name, (k, c) in layers.items()}):
        for model in (Message, Membership):
            assert router.db_for_read(model) == home
            assert router.db_for_write(model, instance=None) == home
        for alias in ("default", "channels", "postgres"):
            for name in (None, "message"):
                assert router.allow_migrate(alias, "channels_lite", model_name=name) is (alias in migrated)
        assert channel_layers.backends == {}


def test_models_of_others_are_not_routed() -> None:
    """For other applications the router has no opinion; it is found under the name that channels-lite 0.3 gave it."""
    router = import_string(ROUTER)()
    foreign = type("Foreign", (), {"_meta": type("Meta", (), {"app_label": "contenttypes"})})
    assert router.db_for_read(foreign) is None
    assert router.db_for_write(foreign) is None
    assert router.allow_migrate("default", "contenttypes", model_name="contenttype") is None
