"""The files of an open database: whether they are still those that were opened."""

import contextlib
import os

from channels_lite.guard import Identity

JOURNAL = ("-wal", "-shm")  # what SQLite keeps beside a database in WAL mode
NONE = (-1, -1)


class Files:
    """The database and what SQLite keeps beside it, known by device and inode. They are never opened here."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known = {path: NONE, **{path + suffix: NONE for suffix in JOURNAL}}
        self.lost()

    def lost(self) -> list[str]:
        """Those that were deleted, or have others in their place. One that comes into being meanwhile is none."""
        lost = []
        for path, known in self._known.items():
            there = _identify(path)
            if known == NONE:
                self._known[path] = there
            elif there != known:
                lost.append(path)
        return lost

    def remove(self) -> None:
        """Remove what is left of them. A journal would be taken for that of the next database in this place."""
        for path, known in self._known.items():
            if _identify(path) == known != NONE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def _identify(path: str) -> Identity:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return NONE
    return (status.st_dev, status.st_ino)
