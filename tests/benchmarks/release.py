"""channels-lite 0.4.0 from PyPI, in a virtual environment of its own: its import name is ours."""

import asyncio
import os
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


async def install(folder: str) -> str:
    """Make the environment in this folder: its Python. On the versions of Django and Channels that run here."""
    await asyncio.to_thread(venv.create, folder)
    python = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
    pip = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", "--python", python, "install", "-q", *REQUIREMENTS),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await pip.communicate()
    except asyncio.CancelledError:  # the folder is about to go
        pip.kill()
        await pip.wait()
        raise
    if pip.returncode:
        said = (error or out).decode().strip() or f"pip has ended with {pip.returncode}"
        raise NotInstalled(said.splitlines()[-1])
    return python
