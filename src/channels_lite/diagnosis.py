"""What an error of SQLite's says about a database file, whichever of the two libraries reports it."""

import errno
import os

import apsw

from channels_lite.errors import ChannelsLiteError, DatabaseFailed, DiskFull, SchemaError

# A write that failed for another reason than ENOSPC, such as a limit; no room for the -shm.
NO_ROOM = (apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE, apsw.SQLITE_IOERR_SHMSIZE)
OF_THE_FILE = (
    apsw.SQLITE_PERM,
    apsw.SQLITE_READONLY,
    apsw.SQLITE_IOERR,
    apsw.SQLITE_CORRUPT,
    apsw.SQLITE_FULL,
    apsw.SQLITE_CANTOPEN,
    apsw.SQLITE_PROTOCOL,
    apsw.SQLITE_NOTADB,
)

# Python 3.10 does not tell the code. There a write that fails is taken for any other failure of the disk.
WORDS = {
    "attempt to write a readonly database": apsw.SQLITE_READONLY,
    "disk I/O error": apsw.SQLITE_IOERR,
    "database disk image is malformed": apsw.SQLITE_CORRUPT,
    "database or disk is full": apsw.SQLITE_FULL,
    "unable to open database file": apsw.SQLITE_CANTOPEN,
    "locking protocol": apsw.SQLITE_PROTOCOL,
    "file is not a database": apsw.SQLITE_NOTADB,
}


def failure(path: str, error: BaseException) -> ChannelsLiteError | None:
    """What to raise where a statement failed because of the disk or the file; None where that is not the reason."""
    code = _code(error)
    if code in NO_ROOM:
        return _full(path, error)
    if code & 0xFF in OF_THE_FILE:
        return DatabaseFailed(_why(path, code, error))
    return None


def refusal(path: str, error: BaseException) -> ChannelsLiteError:
    """What to raise where a file cannot be opened, or not be given its schema."""
    code = _code(error)
    if code in NO_ROOM:
        return _full(path, error)
    return SchemaError(str(error) if isinstance(error, DatabaseFailed) else _why(path, code, error))


def refusal_by_system(path: str, error: OSError) -> ChannelsLiteError:
    """As ``refusal``, where the system refused it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(path, error)
    return SchemaError(
        f"The database {path} cannot be created: {error.strerror}. "
        "Its folder must be there, and writable for the user who runs this."
    )


def refusal_of_bell(path: str, error: OSError) -> ChannelsLiteError:
    """As ``refusal_by_system``, for the bell beside the database."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(path, error)
    return SchemaError(
        f"The bell {path}-bell, a file beside the database that wakes other processes, cannot be made: "
        f"{error.strerror}; check the rights of that file and of the folder."
    )


def is_of_the_file(error: BaseException) -> bool:
    """Whether the disk or the file is the reason, or a lock, and not the statement."""
    return _code(error) & 0xFF in (*OF_THE_FILE, apsw.SQLITE_BUSY)


def check_rights(path: str) -> None:
    """SchemaError where this user may not write a database's files or its folder: SQLite may read it all the same."""
    what = _unwritable(path)
    if what is not None:
        raise SchemaError(_no_right(path, what))


def _unwritable(path: str) -> str | None:
    """What is in the way, in words; None where nothing is."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name) and not os.access(name, os.W_OK):
            return f"the file {name} is not writable for the user who runs this"
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f"the folder {folder} is not there"
    return (
        None
        if os.access(folder, os.W_OK | os.X_OK)
        else f"the folder {folder} is not writable for the user who runs this"
    )


def _no_right(path: str, why: object) -> str:
    return f"The database {path} cannot be opened for writing ({why}); check the rights of the file and its folder."


def _code(error: BaseException | None) -> int:
    """SQLite's extended result code; 0 where it is not known."""
    if error is None:
        return 0
    code = getattr(error, "extendedresult", 0) or getattr(error, "sqlite_errorcode", 0)
    return code or WORDS.get(str(error), 0) or _code(error.__cause__)  # Django wraps what sqlite3 raises


def _full(path: str, error: BaseException) -> DiskFull:
    return DiskFull(
        f"The database {path} cannot be written, because its disk is full or the file has reached a limit ({error}); "
        "nothing was sent or changed. Make room, and it goes on by itself."
    )


def _why(path: str, code: int, error: BaseException) -> str:
    kind = code & 0xFF
    if os.path.isdir(path):
        return f"{path} is a folder and not a database; give the path of a file."
    if kind == apsw.SQLITE_NOTADB:
        return f"The file {path} is not a SQLite database; give another path, or move the file away."
    if kind == apsw.SQLITE_CORRUPT:
        return f"The database {path} is damaged ({error}); restore it from a backup, or move it away."
    if kind in (apsw.SQLITE_PERM, apsw.SQLITE_READONLY, apsw.SQLITE_CANTOPEN):
        return _no_right(path, _unwritable(path) or error)
    if kind == apsw.SQLITE_BUSY:
        return f"The database {path} is locked by another process ({error}); try again when that one has finished."
    if kind == apsw.SQLITE_IOERR:
        return f"The database {path} cannot be read or written ({error}); look after the disk that it is on."
    return f"The database {path} cannot be used: {error}."
