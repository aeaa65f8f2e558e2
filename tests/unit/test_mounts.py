"""Mounts: which one a path is on, from tables that are given and from this system's own."""

import os
import sys
from pathlib import Path

import pytest

from channels_lite import mounts

TABLE = rb"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:30 / /mnt/data rw shared:2 master:1 - nfs4 server:/data rw,vers=4.2
31 27 0:31 / /mnt/my\040data\134\011 rw - virtiofs host rw
32 30 0:32 / /mnt/data/local rw - ext4 /dev/vdb rw
33 27 0:33 / /srv/inner rw - nfs server:/inner rw
34 27 0:34 / /srv rw - tmpfs none rw
35 27 0:35 / /home rw - autofs systemd-1 rw,fd=1
36 35 0:36 / /home rw - fuse.sshfs somebody@server:/home rw
37 27 0:37 /db.sqlite3 /var/db.sqlite3 rw - fakeowner /run/host_mark/Users rw
38 27 0:38 / /fuse rw - fuse something rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "kind", "elsewhere"),
    [
        ("/", "ext4", False),
        ("/mnt/database.sqlite3", "ext4", False),
        ("/mnt/data", "nfs4", True),
        ("/mnt/data/db.sqlite3", "nfs4", True),
        ("/mnt/data/local/db.sqlite3", "ext4", False),
        ("/mnt/my data\\\t/db.sqlite3", "virtiofs", True),
        ("/srv/inner/db.sqlite3", "tmpfs", False),  # mounted over it later, and it comes first in the table
        ("/home/db.sqlite3", "fuse.sshfs", True),
        ("/var/db.sqlite3", "fakeowner", True),
        ("/var/db.sqlite3-wal", "ext4", False),
        ("/fuse/db.sqlite3", "fuse", False),
    ],
)
def test_a_table(path: str, kind: str, elsewhere: bool) -> None:
    """A path is on the mount that the system would find it on, not on one that is hidden or only begins like it."""
    mount = mounts.find(path, mounts.parse(TABLE))
    assert mount is not None
    assert (mount.kind, mount.is_elsewhere) == (kind, elsewhere)


def test_the_root_of_all() -> None:
    """A first mount may be its own parent; in a chroot there may be none for the root, and then nothing is known."""
    own_parent = mounts.parse(b"1 1 0:2 / / rw - rootfs none rw\n27 1 254:0 / / rw - ext4 /dev/vda rw\n")
    assert [mount.id for path in ("/", "/x") if (mount := mounts.find(path, own_parent))] == [27, 27]
    in_chroot = mounts.parse(b"30 29 0:30 / /data rw - nfs server:/ rw\n")
    assert mounts.find("/x", in_chroot) is None
    assert mounts.find("/data/x", in_chroot) == in_chroot[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the table is Linux's")
def test_this_system(tmp_path: Path) -> None:
    """The mount that is found for a path is the one that the system says it is on."""
    os.symlink("/dev/shm", tmp_path / "link")
    for path in ("/", "/proc/self/status", "/dev", "/dev/shm", "/dev/pts", str(tmp_path), str(tmp_path / "link")):
        mount = mounts.mount_of(path)
        assert mount is not None
        assert mount.id == _asked(path), path
    assert mounts.mount_of("/proc/self/status").kind == "proc"  # type: ignore[union-attr]
    assert mounts.mount_of(str(tmp_path / "no" / "file")) == mounts.mount_of(str(tmp_path))


def _asked(path: str) -> int:
    descriptor = os.open(path, os.O_PATH)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    (number,) = (line.split()[1] for line in lines if line.startswith("mnt_id:"))
    return int(number)


def test_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no such table, nothing is known."""
    monkeypatch.setattr(mounts, "TABLE", str(tmp_path / "none"))
    assert mounts.mount_of(str(tmp_path)) is None
