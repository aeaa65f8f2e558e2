"""channels-lite 0.4.0 from PyPI, in a virtual environment of its own: its import name is ours."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import channels
import django

REQUIREMENTS = (
    "channels-lite[aio,cryptography]==0.4.0",
    f"channels=={channels.__version__}",
    f"django=={django.__version__}",
)


class NotInstalled(Exception):
    """It is not there to be measured; the text is the reason."""


def install(folder: str) -> str:
    """Make the environment in this folder: its Python. On the versions of Django and Channels that run here."""
    try:
        venv.create(folder)
        python = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "install", "-q", *REQUIREMENTS],
            check=True,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr or error.stdout or error).strip().splitlines()
        raise NotInstalled(lines[-1]) from None
    return python
