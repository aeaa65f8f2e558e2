"""macOS and Windows, pretended on Linux: ``python -m tests.pretend macos|windows MODULE …`` runs a module there.

Replaced is what channels_lite sees of the system: ``sys.platform``, which modules and functions there are, /proc, and,
for macOS, the kqueue, which ``tests.kqueue`` makes of inotify. What the other system's kernel does differently stays
Linux's: its locks, its sockets, whether an open file can be deleted; and so does the standard library.

``python -m tests.pretend windows pytest --capture=sys tests/conformance`` runs whole tests there.
"""

import functools
import importlib
import os
import runpy
import select
import socket
import sys
from typing import Any

from tests import kqueue

# What channels_lite uses somewhere and the other system's Python lacks, as typeshed has it: ``mypy --platform win32``
# and ``--platform darwin`` name it. Besides, what is asked for with hasattr.
MISSING: dict[str, dict[Any, str]] = {
    "macos": {
        os: "O_PATH",
        socket: "SOCK_NONBLOCK",
    },
    "windows": {
        os: "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_PATH"
        " chown fork geteuid pread pwrite register_at_fork sched_yield sysconf",
        socket: "AF_UNIX SOCK_NONBLOCK",
    },
}
PLATFORMS = {"macos": "darwin", "windows": "win32"}
# What the tests use beside channels_lite, and would find itself on the other system if it were imported later.
OTHERS = """
    asyncio.subprocess multiprocessing.connection sqlite3 tempfile apsw channels.layers cryptography.fernet
    django.db.backends.sqlite3.base django.test msgspec prometheus_client rich.live
"""
MODULES = {"macos": ["inotify_simple"], "windows": ["inotify_simple", "fcntl"]}


def begin(system: str) -> None:
    """Pretend from now on; channels_lite must not have been imported before."""
    assert not [name for name in sys.modules if name.startswith("channels_lite")]
    for name in OTHERS.split():
        importlib.import_module(name)
    if system == "macos":
        kqueue.put_into(select)
    else:
        socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # event loops have one
    for name in MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment] # so that importing it is an ImportError
    for module, names in MISSING[system].items():
        for name in names.split():
            delattr(module, name)
    sys.addaudithook(_hide_proc)
    sys.platform = PLATFORMS[system]


def _hide_proc(event: str, arguments: tuple[Any, ...]) -> None:
    """Hide it from channels_lite, but not from the tests, which look there for what is left open."""
    looks = event in ("open", "os.listdir") and str(arguments[0]).startswith("/proc/")
    if looks and sys._getframe(1).f_globals["__name__"].startswith("channels_lite"):
        raise FileNotFoundError(2, os.strerror(2), arguments[0])


if __name__ == "__main__":
    begin(sys.argv[1])
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
