"""Before the first append: open a stream or create one, take its lock, map it."""

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
from ..core.paging import HUGE_PAGE
from ..recovery.examined import Examined
from ..recovery.repair import repair_for_append
from ..recovery.report import Report
from ..recovery.watermark import WatermarkFile
from ..system import files
from ..system.files import WRITE, open_descriptor
from ..system.lock import WriterLock
from ..system.sidecar import resolved, resolved_new

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class OpenedStream:
    """A stream that is locked and mapped, ready for a writer."""

    lock: WriterLock
    fd: int
    region: core.Region
    watermark_file: WatermarkFile
    recovered: Report | None = None  #: what opening found and repaired; None for a stream that was just made

    def close(self) -> None:
        """For when there will be no writer."""
        self.region.close()
        self.watermark_file.close()
        os.close(self.fd)
        self.lock.release()


def open_for_writing(path: str, mode: str, *, durable: bool, capacity: int) -> OpenedStream:
    """Open for "a", "x" or "w" (see ``evtape.open``), with ``capacity`` bytes preallocated."""
    opened = _open_or_create(path, mode, durable)
    try:
        if capacity > opened.region.size:
            # A huge page in which the file ends is made of small ones, so whole ones are asked for.
            whole_pages = capacity + -capacity % HUGE_PAGE
            _grow(opened.region, max(capacity, min(whole_pages, 1 << 62)), capacity)
    except BaseException:
        opened.close()
        raise
    return opened


def _open_or_create(path: str, mode: str, durable: bool) -> OpenedStream:
    if mode == "w":
        return _replace(path, durable)
    if mode == "x" or not os.path.exists(path):
        try:
            return create(path, durable=durable, replace=False)
        except FileExistsError:
            if mode != "a":
                raise  # with "a", another process created it in between
    return open_existing(path)


def open_existing(path: str) -> OpenedStream:
    """Lock the stream, repair it, and map it once for the repair and the writer."""
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(WriterLock(path))
        fd = open_descriptor(path, WRITE)
        undo.callback(os.close, fd)
        if (os.fstat(fd).st_dev, os.fstat(fd).st_ino) != lock.identity:
            raise errors.LockedError(f"{path}: the file was replaced while it was opened; try again")
        watermark_file = undo.enter_context(WatermarkFile(resolved(path), fd))
        with Examined(path, fd, watermark_file) as file:
            report = repair_for_append(file)
            region = file.take_writable()
        undo.pop_all()
    return OpenedStream(lock, fd, region, watermark_file, report)


def _replace(path: str, durable: bool) -> OpenedStream:
    """Make a new stream in the place of the old one, if there is one: its live writer must not lose its name."""
    old: WriterLock | None = None
    with contextlib.suppress(FileNotFoundError):
        old = WriterLock(path)
    try:
        opened = create(path, durable=durable, replace=True)
        if not durable:
            opened.watermark_file.discard()  # of the stream that had this name
        return opened
    finally:
        if old is not None:
            old.release()


def create(path: str, *, durable: bool, replace: bool) -> OpenedStream:
    """Create a stream without events, and take its lock before it has its name."""
    if not replace and os.path.lexists(path):
        raise files.already_exists(path)
    guard.ensure()
    new = files.AtomicFile(path, durable=durable, replace=replace)
    started = time.time_ns()
    header = HEADER.pack(FIRST_OFFSET, 0, started)
    opened: OpenedStream | None = None
    try:
        with new as fd:
            if os.name == "nt":  # which cannot rename an open file; the lock is taken a moment later there
                files.write_all(fd, header)
            else:
                opened = _start(path, new.temporary, fd, header, durable)
    except BaseException as error:
        if opened is not None:
            opened.watermark_file.discard()
            opened.close()
        if isinstance(error, OSError) and not isinstance(error, FileExistsError):
            raise errors.with_path(error, path, "creating the stream") from None
        raise
    if opened is None:
        opened = dataclasses.replace(open_existing(path), recovered=None)
        if durable:
            opened.watermark_file.store_first(started)
    return opened


def _start(path: str, temporary: str, new: int, header: bytes, durable: bool) -> OpenedStream:
    """Lock and map an empty file and store its header."""
    with contextlib.ExitStack() as undo:
        fd = files.duplicate(new)
        undo.callback(os.close, fd)
        lock = undo.enter_context(WriterLock(temporary))
        watermark_file = undo.enter_context(WatermarkFile(resolved_new(path), fd))
        if durable:
            undo.callback(watermark_file.discard)
            watermark_file.store_first(HEADER.unpack(header)[2])
        region = core.Region(fd, 0, path, writable=True, split_at_pages=files.copies_on_write(fd))
        undo.callback(region.close)
        if durable:
            # A flush writes whole pages, so the header gets a small page of its own: the one that write() makes.
            files.write_all(fd, header)
            region.extend(len(header))
        else:
            # A huge page for the header and what follows it. Once a small page is there, a huge one is not possible
            # any more, and 512 small ones cost ten times as much.
            _grow(region, HUGE_PAGE, HEADER_SIZE)
            region.view(0, len(header))[:] = header
        undo.pop_all()
    return OpenedStream(lock, fd, region, watermark_file)


def _grow(region: core.Region, wanted: int, needed: int) -> None:
    """Preallocate the bytes wanted, or on a full disk those that are needed."""
    try:
        region.grow(wanted)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        region.grow(needed)
