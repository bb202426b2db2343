"""Before the first append: open a stream or create one, take its lock, map it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time

from .. import errors, guard
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER, HEADER_SIZE
from ..core.paging import HUGE_PAGE
from ..recovery.examined import Examined
from ..recovery.repair import repair_for_append
from ..recovery.watermark import WatermarkFile
from ..system import files
from ..system.files import DISK_FULL, WRITE, open_descriptor
from ..system.lock import WriterLock
from ..system.sidecar import resolved, resolved_new
from .opened import OpenedStream


def open_for_writing(path: str, mode: str, *, durable: bool, capacity: int, page_size: int) -> OpenedStream:
    """Open for "a", "x" or "w" (see ``evtape.open``), and preallocate ``capacity`` bytes in pages of ``page_size``."""
    opened = _open_or_create(path, mode, durable)
    opened.region.set_page_size(page_size)
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
                opened = start_stream(resolved_new(path), new.temporary, fd, header, durable, path)
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
    opened.watermark_file.index_file().discard()  # of a stream that had this name
    return opened


def start_stream(
    resolved_path: str, temporary: str, new: int, header: bytes, durable: bool, shown: str
) -> OpenedStream:
    """Lock and map an empty file and store its header.

    ``resolved_path`` is where its sidecar goes, ``temporary`` its name now, ``shown`` the path for messages.
    """
    with contextlib.ExitStack() as undo:
        fd = files.duplicate(new)
        undo.callback(os.close, fd)
        lock = undo.enter_context(WriterLock(temporary))
        watermark_file = undo.enter_context(WatermarkFile(resolved_path, fd))
        if durable:
            undo.callback(watermark_file.discard)
            watermark_file.store_first(HEADER.unpack(header)[2])
        region = core.Region(fd, 0, shown, writable=True, split_at_pages=files.copies_on_write(fd))
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
