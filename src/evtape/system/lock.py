"""One writer per stream: an advisory lock that the kernel drops when its process dies.

The lock sits on an open file description that is used for nothing else. A mapping duplicates the descriptor it was
made from, and a lock on that description would outlive ``close()``; and a forked child shares descriptions with its
parent, so the child closes this one (`writer.py`).
"""

from __future__ import annotations

import os
import sys
from typing import Self

from ..errors import LockedError
from .files import WRITE, open_descriptor, require_regular

# A byte far beyond any stream, because a lock is mandatory on Windows and must not hide data from readers. Not run yet.
_WINDOWS_BYTE = 1 << 62
_ATTEMPTS = 100  # a file system may never report the same identity for a name and for its descriptor


class WriterLock:
    """Holds the lock of the stream at ``path`` until ``release()`` or the end of the process.

    Raises FileNotFoundError, FormatError (not a regular file), LockedError (another writer has it; ``busy`` says so).
    """

    def __init__(self, path: str, busy: str = "another writer has this stream open; close it first") -> None:
        self.path = path
        for _ in range(_ATTEMPTS):
            require_regular(path)
            self._fd = open_descriptor(path, WRITE)
            try:
                _lock(self._fd)
                status = os.fstat(self._fd)
                self.identity = (status.st_dev, status.st_ino)
                if self.identity == _identity(path):
                    return
            except OSError as error:
                self.abandon()
                if isinstance(error, (BlockingIOError, PermissionError)):
                    raise LockedError(f"{path}: {busy}") from None
                raise
            # The name was given to another file between open and lock: that file is the stream now.
            self.abandon()
        raise LockedError(f"{path}: the name was given to another file each time it was locked; try again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def release(self) -> None:
        if self._fd >= 0:
            _unlock(self._fd)
        self.abandon()

    def abandon(self) -> None:
        """Close without unlocking: in a forked child the lock is still the parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino)


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, _WINDOWS_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _unlock(fd: int) -> None:
        os.lseek(fd, _WINDOWS_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
