"""File systems of one's own: in memory, or in an image on a loop device. All of it needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .harness import NotRun

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    # Not mixed (-M), which is what small ones were once made as: there a store into a page of a full disk waits in the
    # kernel, which looks for room for its metadata among the data, for minutes.
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
QUOTA = 32 << 20
SIZES = {"ext4": 64 << 20, "xfs": 300 << 20, "btrfs": 300 << 20}


def command(*words: object) -> None:
    """Run a tool; NotRun with its words when it fails."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(f"{words[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def make(kind: str, image: Path, size: int = 0) -> None:
    """A file system in an image file."""
    if os.geteuid() != 0:
        raise NotRun(f"{kind}: mounting needs root")
    if shutil.which(MAKE[kind][0]) is None:
        raise NotRun(f"{kind}: no {MAKE[kind][0]}")
    with open(image, "wb") as file:
        file.truncate(size or SIZES[kind])
    command(*MAKE[kind], image)


@contextlib.contextmanager
def mounted(kind: str, size: int = 0) -> Iterator[Path]:
    """The directory of a new file system; unmounted afterwards. "quota": a directory of a btrfs that may hold less."""
    if kind == "quota":
        with mounted("btrfs", size) as target:
            command("btrfs", "quota", "enable", target)
            command("btrfs", "subvolume", "create", target / "limited")
            command("btrfs", "qgroup", "limit", QUOTA, target / "limited")
            yield target / "limited"
        return
    if os.geteuid() != 0:
        raise NotRun(f"{kind}: mounting needs root")
    directory = Path(tempfile.mkdtemp(prefix=f"evtape-{kind}-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    target = directory / "mount"
    target.mkdir()
    try:
        if kind == "tmpfs":
            command("mount", "-t", "tmpfs", "-o", f"size={size or 32 << 20}", "evtape-faults", target)
        else:
            make(kind, directory / "image", size)
            command("mount", "-o", "loop", directory / "image", target)
        try:
            yield target
        finally:
            command("umount", target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
