"""Before the first append: find a stream or make one, take its lock, map it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from dataclasses import dataclass

from .. import errors, guard
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER, HEADER_SIZE
from ..recovery.repair import repair_for_append
from ..recovery.walk import Report
from ..recovery.watermark import Sidecar
from ..system import files
from ..system.files import WRITE, open_descriptor
from ..system.lock import WriterLock
from ..system.sidecar import resolved, resolved_new

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HUGE_PAGE = 2 << 20


@dataclass(frozen=True)
class OpenedStream:
    """A stream that is locked and mapped, ready for a writer."""

    lock: WriterLock
    fd: int
    region: core.Region
    sidecar: Sidecar
    recovered: Report | None = None  #: what opening found and repaired; None for a stream that was just made

    def close(self) -> None:
        """For when there will be no writer."""
        self.region.close()
        self.sidecar.close()
        os.close(self.fd)
        self.lock.release()


def open_for_writing(path: str, mode: str, durable: bool, capacity: int) -> OpenedStream:
    """Open for "a", "x" or "w" (see ``evtape.open``), with room for ``capacity`` bytes."""
    opened = _find_or_make(path, mode, durable)
    try:
        if capacity > opened.region.size:
            # Where the file ends within a large page, that page is made of small ones.
            whole_pages = capacity + -capacity % HUGE_PAGE
            _grow(opened.region, max(capacity, min(whole_pages, 1 << 62)), capacity)
    except BaseException:
        opened.close()
        raise
    return opened


def _find_or_make(path: str, mode: str, durable: bool) -> OpenedStream:
    if mode == "w":
        return _replace(path, durable)
    if mode == "x" or not os.path.exists(path):
        try:
            return _make(path, durable, replace=False)
        except FileExistsError:
            if mode != "a":
                raise  # with "a", somebody else made it in between
    return _find(path)


def _find(path: str) -> OpenedStream:
    with contextlib.ExitStack() as undo:
        lock = WriterLock(path)
        undo.callback(lock.release)
        fd = open_descriptor(path, WRITE)
        undo.callback(os.close, fd)
        if (os.fstat(fd).st_dev, os.fstat(fd).st_ino) != lock.identity:
            raise errors.LockedError(f"{path}: the file was replaced while it was opened; try again")
        sidecar = Sidecar(resolved(path), fd)
        undo.callback(sidecar.close)
        report = repair_for_append(path, fd, sidecar)
        region = core.Region(fd, os.fstat(fd).st_size, path, writable=True, split_at_pages=files.copies_on_write(fd))
        undo.pop_all()
    return OpenedStream(lock, fd, region, sidecar, report)


def _replace(path: str, durable: bool) -> OpenedStream:
    """Make a new stream in the place of the old one, if there is one: its live writer must not lose its name."""
    old: WriterLock | None = None
    with contextlib.suppress(FileNotFoundError):
        old = WriterLock(path)
    try:
        opened = _make(path, durable, replace=True)
        if not durable:
            opened.sidecar.discard()  # of the stream that had this name
        return opened
    finally:
        if old is not None:
            old.release()


def _make(path: str, durable: bool, replace: bool) -> OpenedStream:
    """Make a stream without events, and take its lock before anyone can know its name."""
    if not replace and os.path.lexists(path):
        raise files.already_exists(path)
    guard.ensure()
    new = files.AtomicFile(path, durable=durable, replace=replace)
    started = time.time_ns()
    header = HEADER.pack(FIRST_OFFSET, 0, started)
    opened: OpenedStream | None = None
    try:
        with new as fd:
            if os.name == "nt":  # where a file that is open cannot be renamed; it is locked a moment later there
                files.write_all(fd, header)
            else:
                opened = _start(path, new.temporary, fd, header, durable)
    except BaseException as error:
        if opened is not None:
            opened.sidecar.discard()
            opened.close()
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise errors.with_path(error, path, "creating the stream") from None
        raise
    if opened is None:
        opened = dataclasses.replace(_find(path), recovered=None)
        if durable:
            opened.sidecar.store_first(started)
    return opened


def _start(path: str, temporary: str, new: int, header: bytes, durable: bool) -> OpenedStream:
    """Lock and map an empty file and store its header."""
    with contextlib.ExitStack() as undo:
        fd = files.duplicate(new)
        undo.callback(os.close, fd)
        lock = WriterLock(temporary)
        undo.callback(lock.release)
        sidecar = Sidecar(resolved_new(path), fd)
        undo.callback(sidecar.close)
        if durable:
            undo.callback(sidecar.discard)
            sidecar.store_first(HEADER.unpack(header)[2])
        region = core.Region(fd, 0, path, writable=True, split_at_pages=files.copies_on_write(fd))
        undo.callback(region.close)
        if durable:
            # A flush writes whole pages, so the header gets a small page of its own: the one that a write brings in.
            files.write_all(fd, header)
            region.extend(len(header))
        else:
            # A large page for the header and what follows it. Where a small page is there first, the large one cannot
            # be had any more, and 512 small ones cost ten times as much.
            _grow(region, HUGE_PAGE, HEADER_SIZE)
            region.view(0, len(header))[:] = header
        undo.pop_all()
    return OpenedStream(lock, fd, region, sidecar)


def _grow(region: core.Region, wanted: int, needed: int) -> None:
    """Make room for the bytes wanted, or on a full disk for those that are needed."""
    try:
        region.grow(wanted)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        region.grow(needed)
