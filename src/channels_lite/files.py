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
        self.owned: os.stat_result | None = None
        """Whose the database was, and who might use it, at the last look."""
        self._known = {path: NONE, **{path + suffix: NONE for suffix in JOURNAL}}
        self.lost()

    def lost(self) -> list[str]:
        """Those that were deleted, or have others in their place. One that comes into being meanwhile is none."""
        lost = []
        for path, known in self._known.items():
            status = _stat(path)
            there = _identity(status)
            if known == NONE:
                self._known[path] = there
            elif there != known:
                lost.append(path)
            if path == self.path and path not in lost:
                self.owned = status
        return lost

    def remove(self) -> None:
        """Remove what is left of them. A journal would be taken for that of the next database in this place."""
        for path, known in self._known.items():
            if _identity(_stat(path)) == known != NONE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def size_of(path: str) -> int:
    """Bytes; 0 where the file is not there."""
    status = _stat(path)
    return 0 if status is None else status.st_size


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _identity(status: os.stat_result | None) -> Identity:
    return NONE if status is None else (status.st_dev, status.st_ino)
