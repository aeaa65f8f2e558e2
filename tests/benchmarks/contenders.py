"""Who is measured: a layer in processes of its own, with its Python, its settings and its database."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.benchmarks import names


@dataclass(frozen=True)
class Contender:
    """A layer as the benchmark meets it."""

    name: str
    """What tables and the JSON call it."""
    layer: str
    """Its name in CHANNEL_LAYERS of ``settings``; empty for a floor without a layer."""
    python: str = sys.executable
    ours: bool = False
    crosses: bool = True
    """Whether it reaches other processes."""
    encrypts: bool = True
    """Whether ``settings`` has it with keys too, as ``layer`` and "-encrypted"."""
    alias: str = ""
    """The alias whose tables ``migrate`` makes before it starts; empty for none."""
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What its processes need besides ours."""

    @property
    def slug(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"\W+", "-", self.name).lower()

    def variables(self, folder: str) -> dict[str, str]:
        """The environment of its processes, whose databases are in this folder."""
        variables = {**os.environ, **self.environment, "DJANGO_SETTINGS_MODULE": "settings"}
        variables["CHANNELS_LITE_BENCHMARK"] = folder
        if self.python != sys.executable:
            variables.pop("PYTHONPATH", None)  # it has another channels_lite
        return variables


RAW = Contender(names.RAW, "")
SOCKET = Contender(names.SOCKET, "")
BARE = Contender(names.BARE, "bare", crosses=False, encrypts=False)


@dataclass(frozen=True)
class Missing:
    """One that could not be measured, and why."""

    name: str
    reason: str
