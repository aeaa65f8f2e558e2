"""What is installed: the wheel, the sdist and an editable install bring the SQL files and a command that works."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import channels_lite
from channels_lite import schema
from tests.conftest import WHEEL
from tests.processes.chat import free_port
from tests.readme import block, read, running, shell

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 300.0  # seconds until a build or an install that hangs fails its test
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
TOP_LEVEL = {"pyproject.toml", "src", "sql", "tests", "examples", "README.md", "LICENSE", "CHANGELOG.md"}
NAMES = [step.name for step in schema.steps(ROOT / "sql")]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program, which must succeed; returns what it prints."""
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def listed(*options: str) -> list[str]:
    """The files that git knows of; skips the test where this is no git checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    return run("git", "ls-files", "-z", *options, cwd=ROOT).split("\0")[:-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, new files included and ignored ones not."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in listed("--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture
def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def files(folder: Path) -> list[Path]:
    """The files in a folder, without what Python leaves there when it runs them."""
    return [file for file in folder.rglob("*") if file.is_file() and file.parent.name != "__pycache__"]


class Built(NamedTuple):
    """What a release consists of."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(checkout: Path) -> Built:
    """The sdist, and the wheel made from it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=checkout)
    (wheel,) = (checkout / "dist").glob("*.whl")
    (sdist,) = (checkout / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


class Installed(NamedTuple):
    """An environment with this package in it, and the folder where the package must find its SQL files."""

    scripts: Path
    sql: Path


def environment(folder: Path, *package: str | Path) -> Path:
    """A fresh virtual environment with a package installed, without the network: dependencies are this one's."""
    venv.create(folder)
    python = folder / SCRIPTS / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(purelib) / "dependencies.pth").write_text("\n".join(here))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    run(*pip, "--ignore-installed", "--no-build-isolation", *package, cwd=folder)
    return Path(purelib)


@pytest.fixture(scope="module")
def from_wheel(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    return Installed(folder / SCRIPTS, environment(folder, built.wheel) / "channels_lite" / "sql")


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the checkout, installed as editable."""
    folder = tmp_path_factory.mktemp("editable")
    environment(folder, "-e", checkout)
    return Installed(folder / SCRIPTS, checkout / "sql")


@pytest.fixture(params=["from_wheel", "editable"])
def installed(request: pytest.FixtureRequest) -> Installed:
    """Each kind of installation."""
    found: Installed = request.getfixturevalue(request.param)
    return found


def ask(installed: Installed, code: str, *, cwd: Path) -> str:
    """Run code in an environment, isolated from this one's folders and variables."""
    return run(installed.scripts / "python", "-I", "-c", code, cwd=cwd).strip()


FOLDER = "from channels_lite import schema; print(schema.folder())"
STEPS = "from channels_lite import schema; print(*(step.name for step in schema.steps()))"
DELIVERY = """
import asyncio
from channels_lite.layers.aio import AIOSQLiteChannelLayer
async def deliver():
    layer = AIOSQLiteChannelLayer(path="channels.sqlite3")
    await layer.send("chat", {"text": "it works"})
    print((await layer.receive("chat"))["text"])
    await layer.close()
asyncio.run(deliver())
"""


def test_installation_finds_its_files(installed: Installed, tmp_path: Path) -> None:
    """Outside of the checkout, the wheel has its own SQL files; an editable install has those of the checkout."""
    assert ask(installed, FOLDER, cwd=tmp_path) == str(installed.sql)
    assert ask(installed, STEPS, cwd=tmp_path).split() == NAMES
    assert len(NAMES) >= 3


def test_installation_has_a_working_command(installed: Installed, tmp_path: Path) -> None:
    """The command is installed, and makes a database that it finds valid."""
    command = installed.scripts / "channels-lite-schema"
    printed = run(command, "apply", "--path", "x.sqlite3", cwd=tmp_path)
    assert re.findall(r"applied (\w+)", printed) == NAMES
    assert "as the files make it" in run(command, "validate", "--path", "x.sqlite3", cwd=tmp_path)


def test_installation_brings_the_fixture(installed: Installed, tmp_path: Path) -> None:
    """pytest knows the fixture channel_layer of an installed package without being told."""
    test = "from django.conf import settings\nsettings.configure()\ndef test(channel_layer): channel_layer.file()\n"
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    assert "1 passed" in run(installed.scripts / "python", "-I", "-m", "pytest", "-p", "no:django", cwd=tmp_path)


def test_installation_delivers(installed: Installed, tmp_path: Path) -> None:
    """The installed layer makes its file and delivers a message."""
    assert ask(installed, DELIVERY, cwd=tmp_path) == "it works"


def test_editable_install_follows_the_checkout(editable: Installed, tmp_path: Path) -> None:
    """A new SQL file in the checkout is found without installing again."""
    new = editable.sql / f"{len(NAMES) + 1:04}_new.sql"
    new.touch()
    try:
        assert ask(editable, STEPS, cwd=tmp_path).split() == [*NAMES, new.stem]
    finally:
        new.unlink()


PYTHON = "Programming Language :: Python"  # a family of classifiers
INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_wheel_has_everything(built: Built, checkout: Path) -> None:
    """The wheel holds the modules, the mark of being typed and the SQL files once, and nothing beside the package."""
    source = checkout / "src"
    expected = {file.relative_to(source).as_posix(): file for file in files(source)}
    expected |= {f"channels_lite/sql/{file.name}": file for file in files(checkout / "sql")}
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        held = {name: wheel.read(name) for name in names if ".dist-info/" not in name}
    assert held == {name: file.read_bytes() for name, file in expected.items()}
    assert "channels_lite/py.typed" in held
    assert len(names) == len(set(names))
    info = f"channels_lite-{channels_lite.__version__}.dist-info"
    assert set(names) - set(held) == {f"{info}/{name}" for name in INFO}


def test_sdist_has_everything(built: Built, checkout: Path) -> None:
    """The sdist holds what git knows of, tests and examples included, and beside it the metadata only."""
    with tarfile.open(built.sdist) as sdist:
        held = [member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()]
    known = [name for name in listed("--cached", "--others", "--exclude-standard") if (checkout / name).is_file()]
    assert sorted(held) == sorted([*known, "PKG-INFO"])


def test_twine_has_nothing_to_say(built: Built, tmp_path: Path) -> None:
    """The package index would take both files, and show README."""
    printed = run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=tmp_path)
    assert printed.count("PASSED") == 2, printed


def test_version_is_that_of_the_changelog(checkout: Path) -> None:
    """The newest heading of CHANGELOG is the package's version, and either unreleased or dated."""
    (heading, *_) = re.findall(r"^## (.+)$", (checkout / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    version = re.escape(channels_lite.__version__)
    assert re.fullmatch(rf"{version} \((unreleased|\d{{4}}-\d\d-\d\d)\)", heading), heading


def claimed(project: dict[str, Any], family: str) -> list[str]:
    """The releases of Python or of Django in the classifiers."""
    found = [re.fullmatch(rf"{family} :: (\d+\.\d+)", line) for line in project["project"]["classifiers"]]
    return [match[1] for match in found if match]


def tox_environments(project: dict[str, Any]) -> list[str]:
    """The names that tox makes of env_list."""
    names = []
    for entry in project["tool"]["tox"]["env_list"]:
        names += [entry] if isinstance(entry, str) else map("-".join, itertools.product(*entry["product"]))
    return names


def test_classifiers_are_what_is_tested(project: dict[str, Any]) -> None:
    """The Pythons and Djangos that the classifiers claim are those of tox's environments and of the requirements."""
    pythons, djangos = (
        claimed(project, family) for family in ("Programming Language :: Python", "Framework :: Django")
    )
    assert project["project"]["requires-python"] == f">={pythons[0]}"
    assert f"django>={djangos[0]}" in project["project"]["dependencies"]
    tested = [re.match(r"py3(\d+)-django(\d)(\d)", name) for name in tox_environments(project)]
    pairs = {(f"3.{match[1]}", f"{match[2]}.{match[3]}") for match in tested if match}
    assert len(tested) > len(pairs) > 0  # one is tested twice, with the lowest dependencies
    assert {python for python, _ in pairs} == set(pythons)
    assert {django for _, django in pairs} == set(djangos)
    assert (pythons[0], djangos[0]) in pairs
    assert (pythons[-1], djangos[-1]) in pairs


def test_every_requirement_has_a_minimum(project: dict[str, Any]) -> None:
    """What is required says from which release on, so that the lowest one can be tested."""
    table = project["project"]
    lines = [*table["dependencies"], *itertools.chain(*table["optional-dependencies"].values())]
    without = {line for line in lines if not line.startswith("channels-lite[") and ">=" not in line.partition(";")[0]}
    assert without == {"tox-uv"}  # which [tool.tox] requires
    assert any(line.startswith("tox-uv>=") for line in project["tool"]["tox"]["requires"])


def test_the_package_under_test(tmp_path: Path) -> None:
    """Processes that tests start have the same package as the tests, from the checkout and from elsewhere."""
    place = [sys.executable, "-c", "import channels_lite; print(channels_lite.__file__)"]
    for folder in (ROOT, ROOT / "examples" / "chat", tmp_path):
        assert Path(run(*place, cwd=folder).strip()).samefile(channels_lite.__file__)
    if os.environ.get(WHEEL):
        assert not Path(channels_lite.__file__).is_relative_to(ROOT / "src")
        assert schema.folder() != str(ROOT / "sql")


def test_the_workflow_runs_ci(project: dict[str, Any]) -> None:
    """The workflow on GitHub runs .ci/run for each push and pull request, with every Python that is claimed."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow[True] == ["push", "pull_request"]  # YAML reads "on" so
    steps = workflow["jobs"]["linux"]["steps"]
    assert any(step.get("run", "").endswith(" .ci/run") for step in steps)
    (pythons,) = [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")]
    assert set(pythons.split()) == set(claimed(project, PYTHON))


def test_version_has_one_place(built: Built, checkout: Path, from_wheel: Installed, tmp_path: Path) -> None:
    """The package says its version, and everything else takes it from there."""
    version = channels_lite.__version__
    project = (checkout / "pyproject.toml").read_text()
    assert re.search(r'^dynamic = \["version"\]$', project, re.MULTILINE)
    assert not re.search(r"^version\s*=", project, re.MULTILINE)
    with zipfile.ZipFile(built.wheel) as wheel:
        metadata = wheel.read(f"channels_lite-{version}.dist-info/METADATA").decode()
    assert re.search(rf"^Version: {re.escape(version)}$", metadata, re.MULTILINE)
    assert built.sdist.name == f"channels_lite-{version}.tar.gz"
    assert run(from_wheel.scripts / "channels-lite-schema", "--version", cwd=tmp_path).strip() == version


def test_top_level_is_tidy() -> None:
    """The top level of the repository holds what is listed here, and dotfiles."""
    names = {name.partition("/")[0] for name in listed()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
    assert {"pyproject.toml", "src", "sql", "README.md", "LICENSE", "CHANGELOG.md"} <= names


# The commands of README that install it.


@pytest.mark.parametrize("name", ["install", "stats"])
def test_readme_installs_it(name: str, built: Built, tmp_path: Path) -> None:
    """The first line of both blocks takes the package, here from the wheel, without the network."""
    commands = {"install": block("install"), "stats": block("stats")}
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    place = {"PIP_FIND_LINKS": str(built.wheel.parent), "PIP_TARGET": str(tmp_path)}
    shell(commands[name].splitlines()[0], tmp_path, **pip, **place)
    assert (tmp_path / "channels_lite" / "sql" / f"{NAMES[0]}.sql").exists()


def test_readme_starts_the_chat(checkout: Path, tmp_path: Path) -> None:
    """The one command makes an environment, installs the checkout and starts the chat, which answers."""
    copy, port = tmp_path / "checkout", free_port()
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("dist"))
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_IGNORE_INSTALLED": "1"}
    dependencies = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    here = {"PYTHONPATH": dependencies, "CHAT_DATA": str(tmp_path / "data"), **pip}
    with running(f"{block('chat').strip()} --port {port}", copy, **here) as chat:
        read(chat, lambda printed: f"http://127.0.0.1:{port}/" in printed)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as page:
            assert page.status == 200
    assert (tmp_path / "data" / "db-channels.sqlite3").exists()
