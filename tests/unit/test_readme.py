"""README: every block in it is executed by a test, and its links, ratios and error texts are true."""

import ast
import asyncio
import inspect
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from operator import attrgetter
from pathlib import Path

import asgiref.sync
import channels.consumer
import channels.exceptions
import channels.layers
import django.core.management
import pytest

import channels_lite
from channels_lite import models
from channels_lite.drops import Drops, Reason
from tests import readme
from tests.readme import ROOT, block, shell
from tests.unit.project import AIO, CORE, Project

BY_CI = {"tests"}  # .ci/run looks for this one by itself
SHOWN = {"diagram"}
TESTS = ROOT / "tests"


# Blocks.


def test_every_block_is_executed() -> None:
    """Each block has a name of its own, and a test that asks for the block by this name."""
    names = [found.name for found in readme.blocks()]
    nameless = [found.text for found in readme.blocks() if not found.name]
    assert not nameless, f"write <!-- a name --> before each of these, and a test that executes it: {nameless}"
    assert len(set(names)) == len(names)
    asked = {name for file in TESTS.glob("**/*.py") for name in _asked_for(file)}
    assert set(names) == asked | BY_CI | SHOWN
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()


def _asked_for(file: Path) -> Iterator[str]:
    """The names with which a module calls ``block`` or one of its helpers named ``recipe``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("block", "recipe"):
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """A project with the layer ``aio``, or with the one and the options that are asked for."""
    layers = getattr(request, "param", {"default": (AIO, {})})
    project = Project(tmp_path, layers, INSTALLED_APPS=["channels_lite", "django.contrib.contenttypes"])
    manage = "from django.core.management import execute_from_command_line as run\nimport sys\nrun(sys.argv)\n"
    (tmp_path / "manage.py").write_text(manage)
    return project


def run(project: Project, commands: str) -> str:
    """Run commands in the project's folder, with its settings."""
    return shell(commands, project.folder, DJANGO_SETTINGS_MODULE="project_settings")


@pytest.mark.parametrize("project", [{"default": (AIO, {}), "other": (CORE, {"database": "channels"})}], indirect=True)
def test_migrate(project: Project) -> None:
    """The commands make the tables in the companion and in an alias of its own."""
    run(project, block("migrate"))
    assert project.version("db-channels.sqlite3") == project.version("channels.sqlite3") > 0


def test_schema(project: Project) -> None:
    """The command makes the file that it names."""
    run(project, block("schema"))
    assert project.version("db-channels.sqlite3") > 0


def test_clean(project: Project) -> None:
    """The command finds the layer."""
    project.script("from channels.layers import get_channel_layer\nget_channel_layer().sync.send('x', {'type': 'x'})")
    assert "default" in run(project, block("clean"))


@pytest.mark.parametrize("project", [{"default": (CORE, {})}], indirect=True)
def test_transaction(project: Project) -> None:
    """Of an order that is charged the kitchen hears, and of one that cannot be charged it does not."""
    project.manage("migrate", "-v0")
    printed = project.script(
        f"""
import asyncio
from types import SimpleNamespace as Thing
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from django.contrib.contenttypes.models import ContentType

def charge(placed):
    if placed.model == "poor":
        raise ValueError(placed.model)

Order = Thing(objects=Thing(create=lambda customer: ContentType.objects.create(app_label="x", model=customer)))
redirect = str
{block("transaction")}
layer = get_channel_layer()
layer.sync.group_add("kitchen", "cook")
for customer in ("poor", "rich"):
    try:
        order(Thing(user=customer))
    except ValueError as error:
        print(error)
message = async_to_sync(layer.receive)("cook")
print(message["type"], message["id"] == ContentType.objects.get(app_label="x").pk, layer.sync.stats().pending)
async_to_sync(layer.close)()
"""
    )
    assert printed.splitlines() == ["poor", "order.placed True {}"]


def test_sql(project: Project) -> None:
    """What the statements insert is received, from a channel and by a group's member."""
    project.script(
        "from channels.layers import get_channel_layer\nget_channel_layer().sync.group_add('news', 'reader')"
    )
    with closing(sqlite3.connect(project.file("db-channels.sqlite3"))) as shell, shell:
        shell.executescript(block("sql"))
    printed = project.script("""
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
print(*(async_to_sync(get_channel_layer().receive)(channel)["type"] for channel in ("jobs", "reader")))
""")
    assert printed == "run headline"


def test_prometheus(project: Project) -> None:
    """The collector is registered, and is asked for the layer's metrics."""
    printed = project.script(f"""
{block("prometheus")}
from prometheus_client import generate_latest
from channels.layers import get_channel_layer
get_channel_layer().sync.send("x", {{"type": "x"}})
print(generate_latest().decode())
""")
    assert 'channels_lite_up{layer="default"} 1.0' in printed


# What it says.


def test_links() -> None:
    """A link within README leads to one of its headings."""
    prose = re.sub(r"^```.*?^```$", "", readme.text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", readme.text()))
    assert links <= anchors
    assert len(links) >= 20


def test_ratios() -> None:
    """The ratios beside other layers are those of the benchmark's tables."""
    chosen, everything = readme.text().split("<!-- ratios -->\n")[1].split("## Measured")
    ((_, ours, *others), *rows) = next(_tables(chosen))
    measured = _measured(everything)
    assert ours == "`aio`"
    assert len(rows) >= 10
    for title, value, *ratios in rows:
        assert value == measured[title]["apsw layer"], title
        assert ratios == [_ratio(measured[title].get(other, "-")) for other in others], title


def _tables(markdown: str) -> Iterator[list[list[str]]]:
    """The rows of each table, as cells, with the headings and without the line below them."""
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        yield [rows[0], *rows[2:]]


def _measured(markdown: str) -> dict[str, dict[str, str]]:
    """What stands in the benchmark's tables, by the work, with its size, and the contender."""
    found: dict[str, dict[str, str]] = {}
    for (title, *columns), *rows in _tables(markdown):
        work, by_size, _ = title.partition(", by ")
        for contender, *cells in rows:
            for column, cell in zip(columns, cells, strict=True):
                found.setdefault(f"{work}, {column}" if by_size else column, {})[contender] = cell
    return found


def _ratio(cell: str) -> str:
    """The number in brackets."""
    return cell.rpartition("(")[2].rstrip(")") if "(" in cell else "-"


def test_troubleshooting(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each text in the table is one that this package, or what it works with, really says."""
    section = readme.text().split("## Troubleshooting\n")[1].split("\n## ")[0]
    texts = re.findall(r"^\| `(.+?)`", section, re.MULTILINE)
    assert len(texts) >= 30
    said = [*_ours(), *_others(path), *_logged(caplog)]
    unknown = [text for text in texts if not any(re.search(_pattern(text), one) for one in said)]
    assert not unknown


def _pattern(text: str) -> str:
    return ".+".join(map(re.escape, text.split("…")))


def _ours() -> Iterator[str]:
    """The texts in this package's source, with something else for what differs."""
    for file in Path(channels_lite.__file__).parent.glob("**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _others(path: str) -> Iterator[str]:
    """What Channels, asgiref, Django, Python and SQLite say."""
    for module in (channels.consumer, channels.layers, asgiref.sync, django.core.management):
        yield inspect.getsource(module)
    with pytest.raises(AttributeError) as caught:
        attrgetter("sync")(None)  # as get_channel_layer() gives it
    yield str(caught.value)
    with pytest.warns(RuntimeWarning) as warned:
        asyncio.sleep(0)  # type: ignore[unused-coroutine] # as it is without await
    yield str(warned[0].message)
    yield channels.exceptions.ChannelFull.__name__
    query = f"SELECT * FROM {models.Message._meta.db_table}"
    with closing(sqlite3.connect(path)) as first, closing(sqlite3.connect(path, timeout=0)) as second:
        yield _error(second, query)
        first.execute("BEGIN EXCLUSIVE")
        yield _error(second, query)


def _error(connection: sqlite3.Connection, sql: str) -> str:
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute(sql)
    return str(caught.value)


def _logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    for reason in (Reason.FULL, Reason.UNDECODABLE):
        drops = Drops()
        drops.count("x", reason)
    return caplog.messages
