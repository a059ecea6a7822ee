"""Network file systems, on which SQLite's locks do not hold: two nodes that write at the same time damage the database."""

from pathlib import Path

# Linux lists the mounted file systems here; other systems have no such file, and nothing is detected there
MOUNTS = Path("/proc/mounts")
# types of file systems that several machines share
NETWORK_TYPES = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "lustre", "gpfs", "ceph", "glusterfs"),
        *("beegfs", "fhgfs", "orangefs", "pvfs2", "panfs", "wekafs", "ocfs2", "gfs2", "fuse"),
    )
)
# drivers in user space that keep their files on this machine
LOCAL_FUSE = frozenset(
    ("fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.lxcfs", "fuse.squashfuse", "fuse.unionfs")
)


def find_network_file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the file system that holds a path, if several machines may share it, as "nfs4"; else None.

    Args:
        path: absolute, without symbolic links; it need not exist.
        mounts: content of /proc/mounts: a device, a folder, a type and options in each line.
    """
    best, kind = Path(), None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        # blanks in a folder's name are octal there
        folder = Path(fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # of two file systems at the same folder, the later one hides the other
        if path.is_relative_to(folder) and len(folder.parts) >= len(best.parts):
            best, kind = folder, fields[2]
    if kind is None:
        return None
    is_shared_fuse = kind.startswith("fuse.") and kind not in LOCAL_FUSE
    return kind if kind in NETWORK_TYPES or is_shared_fuse else None


def read_mounts() -> str:
    """Return the content of /proc/mounts, or nothing where there is no such file."""
    try:
        return MOUNTS.read_text(errors="replace")
    except OSError:
        return ""
