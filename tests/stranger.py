"""Somebody else who writes into the database."""

import ast
import subprocess
import sys
from typing import Any

WRITER = """
import ast, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
for line in sys.stdin:
    try:
        print((connection.execute(*ast.literal_eval(line)).rowcount != 0, ""), flush=True)
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:
        print((False, str(error)), flush=True)
"""


class Stranger:
    """Another process that writes into the database with Python's sqlite3 and rings no bell."""

    def __init__(self, path: str) -> None:
        command = [sys.executable, "-c", WRITER, path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def put(self, sql: str, *parameters: Any) -> bool:
        """Whether the tables allow it."""
        return bool(self._run(sql, parameters)[0])

    def why_not(self, sql: str, *parameters: Any) -> str:
        """What SQLite says of it; empty where it is allowed."""
        return str(self._run(sql, parameters)[1])

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> tuple[bool, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{(sql, parameters)!r}\n")
        self._process.stdin.flush()
        changed, error = ast.literal_eval(self._process.stdout.readline())
        return changed, error

    def end(self) -> None:
        """End the process."""
        self._process.communicate()
        assert self._process.returncode == 0
