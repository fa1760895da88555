"""Where a store may lie."""

import os
import stat
import sys
from pathlib import Path

from architectures.files import resolved

# SQLite's locks and shared memory do not work between the machines that mount one of these.
NETWORK = frozenset(
    "nfs nfs4 cifs smb2 smb3 smbfs lustre gpfs beegfs beegfs_nodev afs ceph panfs wekafs pvfs2 orangefs "
    "fuse.sshfs fuse.ceph fuse.ceph-fuse fuse.glusterfs fuse.juicefs fuse.s3fs fuse.gcsfuse".split()
)


def default_path() -> Path:
    """$MAD_STORE, else `store.sqlite` in the platform's folder for user data."""
    if named := os.environ.get("MAD_STORE"):
        return resolved(named)
    return user_folder("MAD_STORE", "Application Support", "XDG_DATA_HOME", "~/.local/share") / "store.sqlite"


def user_folder(variable: str, library: str, xdg: str, folder: str) -> Path:
    """Our folder in the platform's for this user: under %LOCALAPPDATA%, ~/Library, $XDG_... or else `folder`.

    `variable` is what names another one where the user has none.
    """
    if sys.platform == "win32":
        folder = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        folder = f"~/Library/{library}"
    else:
        folder = os.environ.get(xdg) or folder
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        raise ValueError(f"{folder} is nowhere: this user has no home folder; set HOME or {variable}")
    return resolved(found) / "mad-suite"


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network file system that holds the path, or None; `mounts` as in /proc/mounts."""
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text(errors="replace") if table.exists() else ""
    best, kind = -1, ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        folder = Path(point.replace("\\040", " "))
        # The deepest mount holds the path; of two on one point the later hides the earlier.
        if path.is_relative_to(folder) and len(folder.parts) >= best:
            best, kind = len(folder.parts), found
    return kind if kind in NETWORK else None


# A store and what SQLite and the lock put beside it.
SIDE_FILES = ("", "-wal", "-shm", "-journal", ".lock")
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFLNK: "link"}


def holds(path: Path) -> bool:
    """Whether a store may be there to be read: a file that is empty is one to be."""
    return path.exists() and path.stat().st_size > 0


def check_regular(path: Path) -> None:
    """Refuse a store that is not a file, before anything waits on it or writes beside it."""
    for end in SIDE_FILES:
        place = path.with_name(f"{path.name}{end}")
        if not os.path.lexists(place):
            continue
        kind = stat.S_IFMT(place.lstat().st_mode)
        if kind != stat.S_IFREG:
            what = f"is a {KINDS.get(kind, 'device')}"
            raise ValueError(
                f"store {path} {what if not end else f'cannot be used: {place.name} beside it {what}'}; pass "
                "--store with the path of a file on a local disk"
            )
