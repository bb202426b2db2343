"""A mapped file for itself: read and change bytes in place, sync, grow."""

from __future__ import annotations

import os
import sys
from typing import Any, Self

from . import errors, guard
from .core import describe
from .core.backend import core
from .errors import ReadOnlyError
from .system.files import BINARY, open_descriptor, require_regular
from .system.signals import SignalsDeferred

_FLAGS = {
    "r": os.O_RDONLY,
    "r+": os.O_RDWR,
    "x": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "w": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}


class MappedFile:
    """A file in memory: ``m[a:b]`` reads bytes, ``m[a:b] = data`` changes them in place, ``sync`` makes them durable.

    ``mode`` is ``"r"`` (read), ``"r+"`` (read and change), ``"x"`` (make a new file) or ``"w"`` (make it anew if it
    exists). ``size`` grows the file to that many bytes. Memory that was handed out by ``view`` stays valid when the
    file grows and after ``close``.

    Raises OSError for what the operating system refuses, ReadOnlyError for a change in mode "r", ClosedError after
    ``close``.
    """

    _fd = -1  # until there is one, so that what could not be opened can be closed
    _region: core.Region = None  # type: ignore[assignment]

    def __init__(self, path: str | bytes | os.PathLike[Any], mode: str = "r", size: int = 0) -> None:
        self.path = os.fsdecode(path)
        if mode not in _FLAGS:
            raise ValueError(f"{self.path}: mode must be 'r', 'r+', 'x' or 'w', not {mode!r}")
        errors.require_size(self.path, "size", size)
        if mode in ("r", "r+"):
            require_regular(self.path)
        guard.ensure()
        self.writable = mode != "r"
        try:
            with SignalsDeferred():
                self._open(mode, size)
        except BaseException:
            made = self._fd >= 0 and mode in ("x", "w")
            self.close()
            if made:
                os.unlink(self.path)
            raise

    def _open(self, mode: str, size: int) -> None:
        if mode == "w" and os.path.lexists(self.path):
            os.unlink(
                self.path
            )  # a process that has the old file mapped keeps it; a truncation in place would take it away
        self._fd = open_descriptor(self.path, _FLAGS[mode] | BINARY)
        found = os.fstat(self._fd).st_size
        if not self.writable:
            errors.require_bytes(self.path, self._fd, found)
        self._region = core.Region(self._fd, found, self.path, writable=self.writable)
        if size > self._region.size:
            self.grow(size)

    def __repr__(self) -> str:
        if self._fd < 0:
            return f"<evtape mapped file {self.path!r}, closed>"
        return (
            f"<evtape mapped file {self.path!r}: {len(self):,} bytes, {'writable' if self.writable else 'read-only'}>"
        )

    def _repr_html_(self) -> str:
        state = "closed" if self._fd < 0 else "writable" if self.writable else "read-only"
        return describe.table("mapped file", self.path, {"bytes": f"{len(self):,}", "state": state})

    def __len__(self) -> int:
        return self._region.size

    def __getitem__(self, key: int | slice) -> Any:
        """A byte as int, or a slice as bytes (a copy). O(length)."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return bytes(self._region.view(start, max(start, stop)))[::step] if step > 0 else bytes(self.view())[key]
        at = range(len(self))[key]
        return self._region.view(at, at + 1)[0]

    def __setitem__(self, key: int | slice, value: Any) -> None:
        """Change bytes in place. A slice keeps its length: ValueError otherwise, and nothing is changed."""
        view = self.view(writable=True)
        if isinstance(key, slice):
            data = memoryview(value).cast("B")
            wanted = len(range(*key.indices(len(self))))
            if len(data) != wanted:
                raise ValueError(
                    f"{self.path}: {len(data)} bytes do not fit a slice of {wanted}; bytes are changed in place"
                )
            view[key] = data
        else:
            view[range(len(self))[key]] = value
        self._check()

    def view(self, start: int = 0, stop: int | None = None, *, writable: bool = False) -> memoryview:
        """The bytes [start, stop) without a copy (the pure core copies in mode "r"). O(1)."""
        if writable and not self.writable:
            raise ReadOnlyError(f"{self.path}: the file is open for reading; open it with mode 'r+' to change bytes")
        view = self._region.view(start, self._region.size if stop is None else stop)
        return view if writable else view.toreadonly()

    if sys.version_info >= (3, 12):

        def __buffer__(self, flags: int, /) -> memoryview:
            return self.view(writable=self.writable)

    def grow(self, size: int) -> None:
        """Make the file at least ``size`` bytes long; new bytes are zero and allocated.

        A full disk raises OSError and changes nothing.
        """
        if not self.writable:
            raise ReadOnlyError(f"{self.path}: the file is open for reading; open it with mode 'r+' to grow it")
        if size > self._region.size:
            self._region.grow(size)

    def sync(self) -> None:
        """Make every change so far durable; they survive power loss when this returns."""
        if self.writable and self._region.size:
            self._region.flush(0, self._region.size)
            os.fsync(self._fd)
        self._check()

    def _check(self) -> None:
        if self._region.faults:
            raise errors.faulted(self.path)

    def close(self) -> None:
        """Close the file. Views that are alive stay valid. Closing twice is fine."""
        if self._fd < 0:
            return
        with SignalsDeferred():
            fd, self._fd = self._fd, -1
            try:
                if self._region is not None:
                    self._region.close()
            finally:
                if fd >= 0:  # else another thread has closed it
                    os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            self.close()
