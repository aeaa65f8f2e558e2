"""Whose files they are, who else may use them, that a file's name is only a name, and that no key is ever shown."""

import base64
import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings
from django.views.debug import ExceptionReporter
from hypothesis import given
from hypothesis import strategies as st

from channels_lite import cli, config, inbox, schema
from channels_lite.codec import Codec
from channels_lite.crypto import Crypter
from channels_lite.errors import ConfigError, InvalidMessage, UndecodableMessage
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.faults.generated import generated, layers
from tests.processes.conftest import PATIENCE, ROOT
from tests.readme import block

MESSAGE = {"type": "x"}
APSW = "channels_lite.layers.aio.AIOSQLiteChannelLayer"
CORE = "channels_lite.layers.core.SQLiteChannelLayer"


# Files.


def modes(folder: Path) -> dict[str, str]:
    """The rights of all that lies in a folder and below, by the ends of the names."""
    return {
        "in the inbox" if path.parent != folder else path.name.partition(".sqlite3")[2]: oct(
            stat.S_IMODE(path.lstat().st_mode)
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("umask", [0, 0o077], ids=oct)
@pytest.mark.parametrize("kind", ["aio", "core", "core without a -wal"])
@pytest.mark.parametrize("mode", [None, 0o600, 0o640, 0o660, 0o666], ids=lambda mode: oct(mode) if mode else "new")
async def test_rights(path: str, tmp_path: Path, kind: str, mode: int | None, umask: int) -> None:
    """The file of the layer aio is its owner's alone; one that is there keeps its rights, and all beside it has them.

    The database of an alias that is not there yet is made by Django, and has the rights that the umask leaves.
    """
    if mode is not None:
        Path(path).touch()
        os.chmod(path, mode)
    before = os.umask(umask)
    try:
        async with layers(kind, path) as make:
            layer = make()
            for channel in ("x", "chat.other!x"):
                await layer.send(channel, MESSAGE)
            found = modes(tmp_path)
    finally:
        os.umask(before)
    whole = mode or (0o600 if kind == "aio" else 0o644 & ~umask)
    expected = dict.fromkeys(["", "-bell", "in the inbox", "-wal", "-shm"], oct(whole))
    expected["-inbox"] = oct(whole | whole >> 2 & 0o111)
    assert found == {name: expected[name] for name in found}
    assert {"", "-bell"} | ({"-inbox", "in the inbox"} if inbox.is_possible() else set()) <= found.keys()
    assert {"-wal", "-shm"} <= found.keys() or "without" in kind


def test_rights_of_a_journal(path: str, alias: str) -> None:
    """Without a -wal, SQLite's -journal has the rights of the database too."""
    Path(path).touch()
    os.chmod(path, 0o660)
    layer = SQLiteChannelLayer(database=alias)
    async_to_sync(layer.send)("x", MESSAGE)
    async_to_sync(layer.close)()
    script = (
        "import os, sqlite3, sys; os.umask(0o077); connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('DELETE FROM channels_lite_message'); print(oct(os.stat(sys.argv[1] + '-journal').st_mode))"
    )
    output = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, text=True).stdout
    assert output.strip().endswith("660")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
USERS, GROUP, NOBODY = (65_533, 65_534), 65_432, 65_431  # who own nothing


@as_root
@pytest.mark.parametrize("kind", ["aio", "core"])
async def test_what_root_makes(path: str, tmp_path: Path, kind: str) -> None:
    """It belongs to the owner of the database: a command that root runs keeps no server from its own files."""
    Path(path).touch()
    os.chown(path, USERS[0], GROUP)
    async with layers(kind, path) as make:
        await make().send("x", MESSAGE)
        assert {(file.lstat().st_uid, file.lstat().st_gid) for file in tmp_path.rglob("*")} == {(USERS[0], GROUP)}


MEMBER = """
import asyncio, os, sys
from django.conf import settings
path, kind, user = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": path}
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.dummy"}, "core": database})
import django; django.setup()
import inotify_simple, django.db.backends.sqlite3.base, hashlib
from django.db import connections; connections["core"]
from channels_lite.layers.aio import AIOSQLiteChannelLayer
from channels_lite.layers.core import SQLiteChannelLayer
from tests.journal import keep_a_wal
# From here on as another user, who may not even be able to read what was imported.
os.setgroups([int(group) for group in sys.argv[4:]])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.umask(0o022)

async def main():
    if kind == "core" and os.access(path, os.W_OK):
        keep_a_wal(path)
    layer = AIOSQLiteChannelLayer(path=path) if kind == "aio" else SQLiteChannelLayer(database="core")
    channel = await layer.new_channel()
    await layer.group_add("both", channel)
    print(channel, flush=True)
    other, whose = sys.stdin.readline().split()
    for text in ("direct", "a row" * 20_000):
        await layer.send(other, {"type": "x", "from": user, "text": text})
    await layer.group_send("both", {"type": "x", "from": user, "text": "group"})
    await layer.send("jobs-" + whose, {"type": "x", "from": user, "text": "job"})
    heard = [await asyncio.wait_for(layer.receive(channel), 60) for _ in range(4)]
    heard.append(await asyncio.wait_for(layer.receive(f"jobs-{user}"), 60))
    print(*sorted(f"{message['from']}:{message['text'][:5]}" for message in heard), flush=True)
    outbox = layer._outboxes.find(other.partition("!")[0] + "!")
    print("inbox" if outbox is not None else "rows", flush=True)
    sys.stdin.readline()
    await layer.close()

asyncio.run(main())
"""


class Member:
    """A process of another user."""

    def __init__(self, path: str, kind: str, user: int, *groups: int) -> None:
        command = [sys.executable, "-c", MEMBER, path, kind, str(user), *map(str, groups)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, *words: str) -> None:
        """Say something to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Wait for its end: what it wrote to standard error."""
        return self.process.communicate(timeout=PATIENCE)[1]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A place that other users can get to, as they cannot to pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def recipe(folder: Path) -> str:
    """The database that the commands of README's recipe make, here and with a group's number."""
    commands = block("group").replace("sudo ", "").replace("-g chat", f"-g {GROUP}")
    here = commands.replace("/srv/chat", str(folder / "chat"))
    subprocess.run(["sh", "-ec", here], check=True)
    return str(folder / "chat" / "channels.sqlite3")


@as_root
@pytest.mark.skipif(not inbox.is_possible(), reason="there are inboxes on Linux only")
@pytest.mark.parametrize("kind", ["aio", "core"])
def test_two_users_in_a_group(shared_folder: Path, kind: str) -> None:
    """As README says: two users send to each other, in rows and through inboxes, and nobody else can."""
    path = recipe(shared_folder)
    members = [Member(path, kind, user, GROUP) for user in USERS[:1]]
    channels = [members[0].line()]
    members.append(Member(path, kind, USERS[1], GROUP))
    channels.append(members[1].line())
    assert all(channels), [member.end() for member in members]
    for member, other, whose in zip(members, channels[::-1], USERS[::-1], strict=True):
        member.tell(other, str(whose))
    for member, user, other in zip(members, USERS, USERS[::-1], strict=True):
        heard = [f"{other}:direc", f"{other}:a row", f"{other}:group", f"{other}:job", f"{user}:group"]
        assert member.line().split(" ") == " ".join(sorted(heard)).split(" ")
        assert member.line() == "inbox"
    for file in Path(path).parent.rglob("*"):
        assert file.lstat().st_gid == GROUP
        assert stat.S_IMODE(file.lstat().st_mode) & 0o667 == 0o660
    stranger = Member(path, kind, NOBODY, NOBODY)
    assert "cannot be" in stranger.end()
    for member in members:
        member.tell()
        assert member.end() == ""
        assert member.process.returncode == 0


# Names of files.

NAMES = [
    *("it's.db", 'quo"te.db', "semi;colon.db", "per%cent.db", "%2e%2e.db", "question?mode=memory.db", "hash#tag.db"),
    *("two words.db", " leading.db", "trailing.db ", "line\nfeed.db", "grüße.db", "☃.db", "-dash.db", "--path.db"),
    *(
        "back\\slash.db",
        "$HOME.db",
        "*.db",
        "~",
        "tab\t.db",
        ".hidden",
        "a" * 200,
        "x'; DROP TABLE y; --.db",
        ":memory:x",
    ),
]


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """The alias "core" has this NAME."""
    alias = connections.settings["core"]
    alias["NAME"] = name
    yield
    alias["NAME"] = ""


@pytest.mark.parametrize("kind", ["aio", "core"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
async def test_names_of_files(tmp_path: Path, kind: str, name: str) -> None:
    """Whatever characters a file's name is made of, it is that file that is used, and its companions beside it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    async with layers(kind, str(folder / name)) as make:
        layer = make()
        channel = await layer.new_channel()
        for each in ("x", channel, "chat.other!x"):
            await layer.send(each, MESSAGE)
        assert await layer.receive("x") == await layer.receive(channel) == MESSAGE
        assert await layer.clean_expired() == (0, 0)
    assert name in os.listdir(folder)
    assert all(file.startswith(name) for file in os.listdir(folder))
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_files_for_the_command(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So it is for channels-lite-schema, and the commands that it and errors tell to type mean that file."""
    path = str(tmp_path / name)
    for verb in ("apply", "status", "validate", "show"):
        assert cli.main([verb, "--path", path]) == 0
    assert name in os.listdir(tmp_path)
    assert all(file.startswith(name) for file in os.listdir(tmp_path))
    assert shlex.split(schema.command(path))[-1] == path
    assert capsys.readouterr().err == ""


REFUSED = ["file:x.db", "file:///x.db?mode=ro", "nul\0.db", "lone\udcff.db", "", "file:%2e"]


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
async def test_names_that_are_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """What SQLite could not open, or would open as something else, is an error that says so; nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'path'"):
        AIOSQLiteChannelLayer(path=name)
    with named(name):
        for layer in (AIOSQLiteChannelLayer(database="core"), SQLiteChannelLayer(database="core")):
            with pytest.raises(ConfigError, match="'core'"):
                await layer.send("x", MESSAGE)
            await layer.close()
    if "\0" not in name:  # which no command line can have
        assert cli.main(["apply", "--path", name]) == 1
        assert "error" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


# Keys.

secrets = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40).map(lambda text: f"s3cr\N{SNOWMAN}t'\"\\{text}"),
    st.binary(max_size=40).map(lambda data: b"s3cr\xfft" + data),
)
WRONG = [lambda key: [key, 5], lambda key: [key, ""], lambda key: key, lambda key: {"k": key}, lambda key: {key}]
WRONG += [lambda key: [[key]], lambda key: [{"k": key}], lambda key: [key, None], lambda key: [key, "\ud800"]]


def traces(key: str | bytes) -> list[str]:
    """What a key looks like where it is shown: as it is, in a repr, and what Fernet makes of it."""
    data = key.encode() if isinstance(key, str) else key
    digest = hashlib.sha256(data).digest()
    halves = [digest, digest[:16], digest[16:]]
    shown = [repr(key)[2:-1], ascii(key)[2:-1], "s3cr", data.hex(), base64.b64encode(data).decode()]
    return [*shown, *(half.hex() for half in halves), *(base64.urlsafe_b64encode(half).decode() for half in halves)]


def assert_hidden(key: str | bytes, *texts: object) -> None:
    """No text shows a key."""
    for text in texts:
        found = [trace for trace in traces(key) if trace in str(text) or trace in repr(text)]
        assert not found


def all_of(error: BaseException | None) -> Iterator[object]:
    """An error, and what led to it, as it can be shown."""
    while error is not None:
        yield from (str(error), repr(error), error.args, getattr(error, "__notes__", ()))
        yield "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__


@generated
@given(keys=st.lists(secrets, min_size=1, max_size=3), wrong=st.sampled_from(WRONG))
def test_keys_are_in_no_repr_and_no_error(keys: list[Any], wrong: Any) -> None:
    """Neither the layer nor any part of it shows a key, and no error about wrong ones, or about what they open."""
    layer = AIOSQLiteChannelLayer(path=":memory:", symmetric_encryption_keys=keys)
    codec = Codec("msgpack", keys)
    for key in keys:
        assert_hidden(key, layer, layer.options, str(layer.options), vars(layer), codec, Crypter(keys), vars(codec))
        assert_hidden(key, vars(codec._crypter), config.weak_keys(layer.options))
        for backend in (AIOSQLiteChannelLayer, SQLiteChannelLayer):
            with pytest.raises(ConfigError) as refused:
                backend(database="core", symmetric_encryption_keys=wrong(key))
            assert_hidden(key, *all_of(refused.value))
        with pytest.raises(UndecodableMessage) as forged:
            codec.decode(Codec("msgpack", ["another"]).encode({"a": 1}, 60))
        assert_hidden(key, *all_of(forged.value))


async def test_keys_are_in_no_log(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does a whole life of a layer tell one, with messages that cannot be read, at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for kind in ("aio", "core"):
        async with layers(kind, f"{path}-{kind}") as make:
            layer = make(symmetric_encryption_keys=["s3cr"])
            await make().send("x", MESSAGE)
            for channel in ("x", await layer.new_channel()):
                await layer.send(channel, MESSAGE)
                assert await layer.receive(channel) == MESSAGE
            with pytest.raises(InvalidMessage):
                await layer.send("x", {"a": object()})
            await layer.flush()
            await layer.clean_expired()
    assert "cannot be decoded" in caplog.text
    assert "less than 16 bytes" in caplog.text
    assert_hidden("s3cr", caplog.text, *(vars(record) for record in caplog.records))


@generated
@given(key=secrets, wrong=st.sampled_from(WRONG))
def test_keys_are_in_no_check(key: Any, wrong: Any) -> None:
    """Nor does ``manage.py check``, whether they are right or wrong."""
    for number, keys in enumerate(([key], wrong(key))):
        entry = {"BACKEND": APSW, "CONFIG": {"path": ":memory:", "symmetric_encryption_keys": keys}}
        with override_settings(CHANNEL_LAYERS={"default": entry}):
            messages = run_checks()
        assert_hidden(key, messages)
        assert not number or "channels_lite.E002" in [message.id for message in messages]


def page_of_an_error(layer: AIOSQLiteChannelLayer) -> str:
    """What Django shows where DEBUG is on, for an error of a send in a view."""
    try:
        async_to_sync(layer.send)("x", {"a": object()})
    except InvalidMessage:
        reporter = ExceptionReporter(None, *sys.exc_info())
    return str(reporter.get_traceback_html()) + str(reporter.get_traceback_text())


def test_keys_are_on_no_debug_page() -> None:
    """Nor does Django's page for an error of a send: settings are hidden by their name, and no frame has them.

    An error of the CONFIG itself is another matter: Channels' own frames hold all of it. README says so.
    """
    key = f"s3cr{os.urandom(16).hex()}"
    options = {"path": ":memory:", "symmetric_encryption_keys": [key]}
    with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": APSW, "CONFIG": options}}, DEBUG=True):
        page = page_of_an_error(AIOSQLiteChannelLayer(**options))  # type: ignore[arg-type]
    assert "symmetric_encryption_keys" in page
    assert "channels_lite/codec.py" in page
    assert key not in page


@pytest.mark.parametrize(
    ("keys", "numbers"),
    [
        (["x" * 16], None),
        ([b"x" * 16, "ü" * 8], None),
        (["x" * 15], "1 of 1"),
        (["x" * 16, b"\xff" * 15, "ü" * 7], "2, 3 of 3"),
        ([], None),
        (None, None),
    ],
)
async def test_short_keys(keys: Any, numbers: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A key that can be found by trying is warned about, once for a layer and in the system checks; the layer works."""
    entry = {"BACKEND": APSW, "CONFIG": {"path": ":memory:", "symmetric_encryption_keys": keys}}
    layer = AIOSQLiteChannelLayer(**entry["CONFIG"])
    for _ in range(2):
        await layer.send("x", MESSAGE)
        assert await layer.receive("x") == MESSAGE
    await layer.close()
    warnings = [record for record in caplog.records if record.name == "channels_lite.config"]
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        found = [message for message in run_checks() if message.id == "channels_lite.W002"]
    assert len(warnings) == len(found) == (numbers is not None)
    for text in (*(record.getMessage() for record in warnings), *(message.msg for message in found)):
        assert f"number {numbers}" in text
