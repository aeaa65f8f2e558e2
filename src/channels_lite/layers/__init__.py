"""The channel layers: one module a backend, for the BACKEND of CHANNEL_LAYERS, and the way to the layer of an entry."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channels_lite.layers.layer import Layer


def get_layer(alias: str = "default") -> "Layer":
    """The layer of an entry of CHANNEL_LAYERS, with the type that Channels' ``get_channel_layer`` does not tell.

    The same object for the whole process, as from ``get_channel_layer``. Does no I/O.
    Raises ConfigError where there is no such entry, or it is no layer of channels-lite, or its CONFIG is wrong;
    InvalidChannelLayerError, of which that is one, where Channels cannot import its BACKEND.
    """
    from channels.layers import get_channel_layer

    from channels_lite.entries import no_entry
    from channels_lite.errors import ConfigError
    from channels_lite.layers.layer import Layer

    layer = get_channel_layer(alias)
    if layer is None:
        raise no_entry(alias)
    if not isinstance(layer, Layer):
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        raise ConfigError(
            f"CHANNEL_LAYERS[{alias!r}] is a {kind}, and no layer of channels-lite; take one of its layers as BACKEND, "
            "or get this one with Channels' get_channel_layer()."
        )
    return layer
