"""The types of the public API: what an application's ``mypy --strict`` says of right and of wrong uses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from channels_lite.layers.sync import Sync

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "typing"
KITCHEN = ROOT / "examples" / "orders" / "orders" / "management" / "commands" / "kitchen.py"
MARK = re.compile(r"  # ([a-z-]+)$")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """What mypy finds wrong there: file, line and code. Of the package, only the types are used, as installed."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    command += ["--cache-dir", str(tmp_path_factory.mktemp("cache")), str(FOLDER), str(KITCHEN)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    errors = re.findall(r"^(?:.*/)?(\w+\.py):(\d+): error: .*  \[([a-z-]+)\]$", ended.stdout, re.MULTILINE)
    assert len(errors) == ended.stdout.count(": error: "), ended.stdout
    return [(file, int(line), code) for file, line, code in errors]


def test_right_uses(found: list[tuple[str, int, str]]) -> None:
    """A consumer, a view, a worker, a serializer and an example have nothing that mypy minds."""
    assert [error for error in found if error[0] != "mistakes.py"] == []


def test_mistakes(found: list[tuple[str, int, str]]) -> None:
    """Each use with a wrong type is an error, with the code that the comment there says, and nothing else is."""
    lines = (FOLDER / "mistakes.py").read_text(encoding="utf-8").splitlines()
    marked = [("mistakes.py", number, mark[1]) for number, line in enumerate(lines, 1) if (mark := MARK.search(line))]
    assert len(marked) > 30
    assert sorted(found) == marked


@pytest.mark.parametrize("file", ["consumer.py", "mistakes.py"])
def test_every_method_is_used(file: str) -> None:
    """What the layer and ``layer.sync`` have in common is used in both ways, and so what is there for one of them."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    methods = {name for name in vars(Sync) if not name.startswith("_")}
    awaited = {*methods, "receive", "new_channel", "flush", "clean_expired"}
    assert awaited <= set(re.findall(r"await (?:layer|get_layer\(\))\.(\w+)\(", text))
    assert methods <= set(re.findall(r"(?<!await )layer\.(\w+)\(", text))
