"""Mounts: whether a path is on a network or virtual-machine mount, as far as the system tells."""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

TABLE = "/proc/self/mountinfo"  # proc_pid_mountinfo(5); only Linux has it

# Network file systems, by the lists of systemd (fstype_is_network) and gnulib (ME_REMOTE), but for Veritas' vxfs, which
# is mostly a local one; and BeeGFS under its present name, and two that show a store on the network as a folder.
NETWORK = {
    "acfs", "afs", "auristorfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "ibrix",
    "lustre", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "pvfs2", "smb3", "smbfs", "sshfs", "beegfs", "rclone", "s3fs",
}  # fmt: skip
# What shows the files of the host to a virtual machine, or to a container in one: QEMU and others (9p, virtiofs),
# Windows (9p; WSL 1: drvfs), Docker Desktop (osxfs, grpcfuse, fakeowner), VirtualBox, VMware (vmhgfs) and Parallels.
MACHINE = {
    "9p", "virtiofs", "drvfs", "osxfs", "grpcfuse", "fakeowner", "vboxsf", "vmhgfs", "vmhgfs-fuse", "prl_fs", "prl_fsd",
}  # fmt: skip


class Mount(NamedTuple):
    """One line of the table."""

    id: int
    parent: int
    """The mount that this one is mounted on; for the first of all, itself, or one that the table does not have."""
    point: str
    """The folder, or the file, where it is mounted."""
    kind: str
    """The type of its file system: ``ext4``, ``nfs4``, ``fuse.sshfs``."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether another system keeps its files. Of ``fuse`` without a name, nothing is known."""
        kind = self.kind.removeprefix("fuse.")
        return kind in NETWORK or kind in MACHINE

    def holds(self, path: str) -> bool:
        """Whether the path is at or below the place where this is mounted."""
        return path == self.point or path.startswith(self.point.rstrip("/") + "/")


def mount_of(path: str) -> Mount | None:
    """The mount that a file is on, or would be if there were one; None where the system does not tell."""
    real = os.path.realpath(path)  # before the table is read: on the way there, an automount may come
    try:
        with open(TABLE, "rb") as file:
            table = file.read()
    except OSError:
        return None
    return find(real, parse(table))


def parse(table: bytes) -> list[Mount]:
    """The mounts in a text such as ``/proc/self/mountinfo`` has."""
    return [_mount(line.split(b" ")) for line in table.split(b"\n") if line]


def _mount(fields: list[bytes]) -> Mount:
    kind = fields[fields.index(b"-") + 1]  # there may be any number of fields before the hyphen
    return Mount(int(fields[0]), int(fields[1]), _plain(fields[4]), _plain(kind))


def _plain(field: bytes) -> str:
    r"""A field as it was: what would end it is written as ``\040``."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), field))


def find(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """The mount of a real path. It is looked for from the root on, as the system does.

    The longest mount point would be wrong where a later mount hides it, and the order of the table does not tell: a
    mount hides what is mounted below its own place, and on its place, on any other than itself.
    """
    holding = [mount for mount in mounts if mount.holds(path)]
    known = {mount.id for mount in holding}
    found = None
    above = [mount for mount in holding if mount.parent == mount.id or mount.parent not in known]
    while above:
        found = min(above, key=lambda mount: len(mount.point))
        above = [mount for mount in holding if mount.parent == found.id != mount.id]
    return found
