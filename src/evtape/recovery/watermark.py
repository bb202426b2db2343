"""The watermark of a stream: what is known to be durable, so that a crash does not cost a scan of everything.

It lies next to the stream as ``<name>.side``, one record of 88 bytes. It can be deleted at any time; then the stream
is walked from its beginning. It is ignored when its checksum, its generation
(`system/sidecar.py`), or its anchor (the bytes before the watermark) does not match the stream.
A small stream has none once it is closed, since it is walked in a
moment.
"""

from __future__ import annotations

import contextlib
import os
import struct
from functools import cache
from typing import Final, NamedTuple, Self

from .. import errors
from ..core.backend import core
from ..core.format import ENTRY_SIZE, FIRST_OFFSET, INT64_MAX, TIME_MIN
from ..system import sidecar
from ..system.live import LiveFile
from ..system.sidecar import NO_GENERATION, SidecarFile
from .index_file import IndexFile

FROM_SIZE: Final = 16 << 20  # bytes of a stream from which on it keeps its sidecar when it is closed

SUFFIX: Final = ".side"
MAGIC: Final = b"evtape\0s"
VERSION: Final = 2
# magic version checksum boot_id start_timestamp offset count last_timestamp anchor generation
_RECORD = struct.Struct("<8sII16sqqqqI4x16s")
_PAGE = 4096  # bytes that are written to the disk together, at most
_ANCHOR_SIZE = 4096  # bytes below the watermark that the anchor is the CRC-32 of


class Watermark(NamedTuple):
    """Everything below ``offset`` was durable when this was written, and good when it was last walked."""

    boot_id: bytes  #: the boot of the machine during which the writer ran
    start_timestamp: int
    offset: int
    events: int  #: how many lie below ``offset``
    last_timestamp: int  #: of the last of them
    anchor: int  #: CRC-32 of the bytes before ``offset``, so that another stream's sidecar is not taken for this one's


assert _RECORD.size == 88


@cache
def boot_id() -> bytes:
    """What changes at every boot of this machine; empty bytes where it cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


class WatermarkFile:
    """The sidecar of one stream that is open.

    ``path`` is the resolved path of the stream and ``stream`` its descriptor, which has to outlive this object.
    """

    def __init__(self, path: str, stream: int) -> None:
        self._path = path
        self._stream = stream
        self._file = SidecarFile(path, SUFFIX, MAGIC, stream)
        self._generation: bytes | None = None  # of the stream, while this object alone can change it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors. The sidecar stays."""
        self._file.close()

    def live_file(self, start_timestamp: int) -> LiveFile:
        """The file for the followers of the stream. It has to be closed before this object."""
        return LiveFile(self._path, self._stream, start_timestamp, self._file)

    def index_file(self) -> IndexFile:
        """The index file of the stream. It has to be closed before this object."""
        return IndexFile(self._path, self._stream, self._file)

    @property
    def held(self) -> bool:
        """Whether a record was stored through this object."""
        return self._file.held

    @property
    def is_bound(self) -> bool:
        """Whether a sidecar may match the stream, here or next to another of its names."""
        return sidecar.generation_of(self._stream) != NO_GENERATION or self.load() is not None

    def load(self) -> Watermark | None:
        """The record that belongs to the stream, or None when there is none that is whole."""
        record = self._file.read(_RECORD.size + 1)
        if record is None or len(record) != _RECORD.size:
            return None
        magic, version, checksum, *fields, generation = _RECORD.unpack(record)
        if version != VERSION or core.crc32(_RECORD.pack(magic, version, 0, *fields, generation)) != checksum:
            return None
        if generation != sidecar.generation_of(self._stream):
            return None
        mark = Watermark(*fields)
        return mark if generation != NO_GENERATION or is_of_this_boot(mark) else None

    def store_first(self, start_timestamp: int) -> None:
        """Store the record of a stream that has no name yet.

        Nothing is durable, so a power loss may tear all that comes. The flush of the stream and of its directory
        makes the record durable.
        """
        self._generation = sidecar.renew_generation(self._stream)
        mark = Watermark(boot_id(), start_timestamp, FIRST_OFFSET, 0, TIME_MIN, core.crc32(b""))
        self._store(mark, named=False)

    def store(self, mark: Watermark) -> None:
        """Replace the record and make it durable. A power loss leaves the old record or the new one.

        If it cannot be stored, no record matches the stream any more. Raises OSError if the older one still does.
        """
        self._store(mark, named=True)

    def update(self, mark: Watermark) -> None:
        """Replace the record, and let the system write it to the disk when it likes.

        A power loss leaves this record, or one since the last durable one. Each states what was durable before it was
        stored, so an older one is true too, and one that cannot be stored can be left out.
        """
        with contextlib.suppress(OSError):
            self._file.overwrite(self._packed(mark))

    def _store(self, mark: Watermark, *, named: bool) -> None:
        try:
            stored = self._file.write(self._packed(mark), named=named)
        except OSError:
            stored = False
        if not stored and self.load() is not None:
            self.retire()

    def _packed(self, mark: Watermark) -> bytes:
        if self._generation is None:
            self._generation = sidecar.generation_of(self._stream)
        record = _RECORD.pack(MAGIC, VERSION, 0, *mark, self._generation)
        return _RECORD.pack(MAGIC, VERSION, core.crc32(record), *mark, self._generation)

    def move(self, path: str) -> None:
        """The stream is about to get the name ``path``, and its sidecar gets the name that belongs to it now."""
        self._file.move(path, SUFFIX)
        self._path = path

    def retire(self) -> None:
        """From here on no record matches the stream: neither this sidecar nor one next to another of its names."""
        if sidecar.generation_of(self._stream) != NO_GENERATION:
            self._renew_generation()
        self._file.remove()

    def renew(self, mark: Watermark) -> None:
        """Store ``mark`` for a writer that takes over. Every earlier record is invalid before this one is there."""
        self._renew_generation()
        self._store(mark, named=True)

    def _renew_generation(self) -> None:
        self._generation = None
        try:
            sidecar.renew_generation(self._stream)
            os.fsync(self._stream)
        except OSError as error:
            raise errors.with_path(error, self._path, "making its older sidecars invalid") from None

    def discard(self) -> None:
        """Remove the sidecar, if it is this stream's."""
        self._file.remove()


def matching(mark: Watermark | None, region: core.Region) -> Watermark | None:
    """``mark`` if it belongs to the stream in ``region``, else None."""
    return mark if mark is not None and _is_of_stream(mark, region) and _is_anchored(mark, region) else None


def torn_from(mark: Watermark | None, region: core.Region) -> int:
    """Where the bytes begin that a power loss may have torn: past the watermark of an earlier boot, if any.

    Where the anchor does not match, the page that the watermark lies in was written again and lost.
    """
    if mark is None or not _is_of_stream(mark, region) or is_of_this_boot(mark):
        return INT64_MAX
    if _is_anchored(mark, region):
        return mark.offset
    return max(FIRST_OFFSET, mark.offset // _PAGE * _PAGE - ENTRY_SIZE + 1)  # an entry may lie across its beginning


def _is_of_stream(mark: Watermark, region: core.Region) -> bool:
    write_offset, _, start_timestamp = region.load_header()
    lost = write_offset == 0 and start_timestamp in (0, mark.start_timestamp)
    if lost and mark.events == 0 and not is_of_this_boot(mark):
        return True  # a power loss took the header's sector, and with it nothing that was durable
    fits = FIRST_OFFSET <= mark.offset <= min(write_offset, region.size)
    return fits and mark.start_timestamp == start_timestamp


def is_of_this_boot(mark: Watermark) -> bool:
    """Whether the machine has been up since: then only processes can have died, which takes no store back."""
    return any(mark.boot_id) and mark.boot_id == boot_id()


def at(region: core.Region, start_timestamp: int, offset: int, count: int, last_timestamp: int) -> Watermark:
    """The watermark at ``offset``, below which there are ``count`` events."""
    return Watermark(boot_id(), start_timestamp, offset, count, last_timestamp, anchor(region, offset))


def _is_anchored(mark: Watermark, region: core.Region) -> bool:
    return mark.anchor == anchor(region, mark.offset)


def anchor(region: core.Region, offset: int) -> int:
    """CRC-32 of the 4 KiB before ``offset``, by which a place in a stream is recognised."""
    return core.crc32(region.view(max(FIRST_OFFSET, offset - _ANCHOR_SIZE), offset))
