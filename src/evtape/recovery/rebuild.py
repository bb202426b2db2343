"""One pass -> the index file of a stream, made anew."""

from __future__ import annotations

import os
from typing import Any

from .. import errors
from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..core.paging import RESIDENT
from ..errors import FormatError
from ..system.files import READ, descriptor, require_regular
from ..system.lock import WriterLock
from .examined import Examined, examining
from .index_file import IndexFile, make_records
from .report import Progress


def build_index(path: str | bytes | os.PathLike[Any], progress: Progress | None = None) -> int:
    """Make the index file of a stream, or make it anew; returns how many events it covers. One pass over the headers.

    ``progress(done, total)`` is called now and then with bytes. Raises CorruptError at damage, before which the index
    ends then; FormatError if the file is not a stream, TruncatedError, LockedError while a writer has it open, OSError
    if the index cannot be stored.
    """
    name = os.fsdecode(path)
    require_regular(name)
    with WriterLock(name), descriptor(name, READ) as fd, examining(name, fd) as file:
        end = _end_of(file)
        assert file.watermark_file is not None
        with file.watermark_file.index_file() as index_file:
            try:
                return _build(file, index_file, end, progress)
            except OSError as error:
                raise errors.with_path(error, index_file.path, "storing the index") from None


def _end_of(file: Examined) -> int:
    if not file.has_header:
        raise FormatError(f"{file.path}: a file of {file.region.size} bytes is not a stream")
    write_offset = file.region.load_header()[0]
    if write_offset < FIRST_OFFSET:
        raise FormatError(f"{file.path}: not a stream, or WriteOffset {write_offset} is unusable; see 'evtape recover'")
    if write_offset > file.region.size:
        raise errors.truncated(file.path, file.region.size, write_offset)
    return write_offset


def _build(file: Examined, index_file: IndexFile, end: int, progress: Progress | None) -> int:
    region = file.region
    if not index_file.create(region.load_header()[2]):
        raise FileExistsError
    dropped = FIRST_OFFSET

    def advanced(offset: int) -> None:
        nonlocal dropped
        if offset - dropped > RESIDENT:
            region.drop_pages(dropped, offset)
            dropped = offset
        if progress is not None:
            progress(offset, end)

    indexer = core.Indexer(region)
    events = make_records(indexer, end, index_file, partial=True, advanced=advanced)
    if events < 0:
        raise errors.faulted(file.path)
    index_file.flush()
    if indexer.stopped:
        _require_intact(file, indexer.offset, events, end)
    return events


def _require_intact(file: Examined, offset: int, ordinal: int, end: int) -> None:
    """CorruptError unless the walk from here on meets nothing but zeros that are events (docs/format.md, "Zeros")."""
    scanner = core.Scanner(file.region, offset, ordinal)
    if (reason := scanner.run(end)) is not None:
        raise errors.corrupt(file.path, scanner.ordinal, scanner.offset, reason)
    if scanner.ordinal != file.region.load_header()[1]:
        raise errors.corrupt(file.path, scanner.zero_ordinal, scanner.zero_offset, "zero")
