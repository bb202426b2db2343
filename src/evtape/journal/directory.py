"""The directory of a journal: what the names in it mean. See docs/format.md, "Journals"."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from typing import Final

from ..errors import FormatError
from ..system.files import READ, descriptor, sync_directory
from ..system.settings_file import SETTINGS

SEGMENT: Final = ".tape"
DONE: Final = ".done"
QUARANTINE: Final = ".quarantine"
LOCK: Final = "journal.lock"
CURSOR: Final = "cursor-"
_DIGITS = 20
_LENGTH = _DIGITS + len(SEGMENT)
_BESIDE = re.compile(r"(\d{20})\.tape\.(side|live|index|done)")
_TEMPORARY = re.compile(r"\.(next|evtape)-[0-9a-f]{12}\.tmp(\.(side|live))?")


def segment_name(first: int) -> str:
    """The file name of the segment whose first event has the ordinal ``first``."""
    return f"{first:0{_DIGITS}}{SEGMENT}"


def next_name() -> str:
    """A name for a segment that is made ahead."""
    return f".next-{secrets.token_hex(6)}.tmp"


class Directory:
    """The directory of one journal. ``path`` is as it was given; the directory is found once, whatever the working
    directory is later.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = os.path.realpath(path)

    def __fspath__(self) -> str:
        return self.name

    def file(self, name: str) -> str:
        """The path of a file in the directory, for the operating system."""
        return f"{self.name}/{name}"

    def segment(self, first: int) -> str:
        """The path of a segment, for the operating system."""
        return f"{self.name}/{segment_name(first)}"

    def shown(self, first: int) -> str:
        """The path of a segment, for people."""
        return os.path.join(self.path, segment_name(first))

    def segments(self) -> list[int]:
        """The first ordinals of the segments, ascending. O(names)."""
        return sorted(
            int(name[:_DIGITS])
            for name in os.listdir(self.name)
            if len(name) == _LENGTH and name.endswith(SEGMENT) and name.isascii() and name[:_DIGITS].isdigit()
        )

    def cursors(self) -> dict[str, str]:
        """The cursors: name to path. O(names)."""
        return {
            name[len(CURSOR) :]: self.file(name) for name in sorted(os.listdir(self.name)) if name.startswith(CURSOR)
        }

    @property
    def is_journal(self) -> bool:
        """Whether there is a segment or the file of the settings."""
        return os.path.exists(self.file(SETTINGS)) or bool(self.segments())

    def require_journal(self) -> None:
        """FormatError unless this is a journal."""
        if not self.is_journal:
            raise FormatError(
                f"{self.path}: not a regular file, and this directory is not a journal: it has neither a segment (20 "
                f"digits and '.tape') nor '{SETTINGS}'"
            )

    def foreign(self) -> list[str]:
        """The names of a directory that is not a journal which keep it from becoming one."""
        return sorted(name for name in os.listdir(self.name) if not name.startswith(".") and name != LOCK)

    def sync(self) -> None:
        """Make the names durable."""
        sync_directory(self.name)

    def remove_leftovers(self) -> list[str]:
        """Remove what earlier writers left: segments made ahead, other temporary files, pages of writers that
        were killed, and files next to segments that are gone. O(names).

        Only the writer that has the lock of the journal may call it.
        """
        names = os.listdir(self.name)
        known = set(names)
        removed = []
        for name in names:
            beside = _BESIDE.fullmatch(name)
            gone = beside is not None and (beside[2] == "live" or beside[1] + SEGMENT not in known)
            if gone or _TEMPORARY.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.file(name))
                removed.append(name)
        return removed

    def remove_sidecars(self, closed: list[int]) -> None:
        """Remove the sidecars of segments that were closed, which a writer that was killed may have left. O(names)."""
        names = {segment_name(first) + ".side" for first in closed}
        for name in names.intersection(os.listdir(self.name)):
            os.unlink(self.file(name))

    def remove_segment(self, first: int) -> None:
        """Remove a segment, and then the files next to it."""
        os.unlink(self.segment(first))
        for suffix in (".side", ".live", ".index", DONE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.segment(first) + suffix)

    def set_aside(self, first: int) -> str:
        """Take a segment out of the journal; returns its new path."""
        path = self.segment(first)
        target, number = path + QUARANTINE, 0
        while os.path.lexists(target):
            number += 1
            target = f"{path}{QUARANTINE}.{number}"
        os.rename(path, target)
        for suffix in (".side", ".live", ".index", DONE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)
        return target


def closed_cleanly(path: str) -> bool:
    """Whether a segment was closed: its file ends at its WriteOffset, and it has no sidecar any more.

    A segment that was made, and of which a power loss took everything but its header, still has its sidecar.
    """
    if os.path.lexists(f"{path}.side"):
        return False
    with descriptor(path, READ) as fd:
        return int.from_bytes(os.read(fd, 8), "little", signed=True) == os.fstat(fd).st_size


def bytes_of(path: str) -> int:
    """WriteOffset of a segment."""
    with descriptor(path, READ) as fd:
        return int.from_bytes(os.read(fd, 8), "little", signed=True)
