"""Which entries of CHANNEL_LAYERS a command is for."""

from channels.exceptions import InvalidChannelLayerError
from django.core.management.base import CommandError

from channels_lite import entries
from channels_lite.entries import Entry


def of(name: str | None) -> list[Entry]:
    """The entry with this name, or all that are layers of channels-lite; CommandError where there is none."""
    return _ours() if name is None else [_named(name)]


def _ours() -> list[Entry]:
    found = []
    for name in entries.names():
        try:
            found.append(entries.read(name))
        except InvalidChannelLayerError as error:
            raise CommandError(f"layer {name!r}: {error}") from error
        except (ImportError, KeyError):  # somebody else's, as far as anybody can tell
            continue
    ours = [entry for entry in found if entry is not None]
    if not ours:
        raise CommandError(f"No entry of CHANNEL_LAYERS is a layer of channels-lite ({_what_there_is()}).")
    return ours


def _named(name: str) -> Entry:
    if name not in entries.names():
        raise CommandError(f"There is no entry {name!r} in CHANNEL_LAYERS ({_what_there_is()}).")
    try:
        entry = entries.read(name)
    except (ImportError, KeyError, InvalidChannelLayerError) as error:
        raise CommandError(f"The entry {name!r} in CHANNEL_LAYERS cannot be used: {error}") from error
    if entry is None:
        raise CommandError(
            f"The entry {name!r} in CHANNEL_LAYERS is not a layer of channels-lite; there is {_what_there_is()}."
        )
    return entry


def _what_there_is() -> str:
    ours = {entry.name for entry in entries.ours()}
    listed = [repr(name) + ("" if name in ours else " (not of channels-lite)") for name in entries.names()]
    return ", ".join(listed) or "it is empty"
