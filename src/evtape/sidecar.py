"""The sidecar of a stream: what is known to be durable, so that a crash does not cost a scan of everything.

It lies beside the stream as ``<name>.side``, one record of 72 bytes. It can be deleted at any time; then the stream
is walked from its beginning. It is ignored when its checksum, or its anchor (the bytes before the watermark), does
not match the stream. A small stream has none once it is closed, since it is walked in a moment.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from functools import cache

from ._backend import core
from ._format import ENTRY_SIZE, FIRST_OFFSET, TIME_MAX, TIME_MIN
from .files import READ, WRITE, write_all

FROM_SIZE = 16 << 20  # bytes of a stream from which on it keeps its sidecar when it is closed

MAGIC = b"evtape\0s"
VERSION = 1
# magic version checksum boot_id start_timestamp offset count last_timestamp anchor
_RECORD = struct.Struct("<8sII16sqqqqI4x")
_PAGE = 4096  # bytes that are written to the disk together, at most
_ANCHOR_SIZE = 4096  # bytes below the watermark that the anchor is the CRC-32 of


@dataclass(frozen=True)
class Watermark:
    """Everything below ``offset`` was durable when this was written, and good when it was last walked."""

    boot_id: bytes  #: the boot of the machine during which the writer ran
    start_timestamp: int
    offset: int
    count: int  #: events below ``offset``
    last_timestamp: int  #: of the last of them
    anchor: int  #: CRC-32 of the bytes before ``offset``, so that another stream's sidecar is not taken for this one's


assert _RECORD.size == 72


# A name that leads elsewhere, or to a pipe that would block, is never a sidecar.
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def name_of(path: str) -> str:
    """The sidecar lies beside the file itself, not beside a symbolic link to it."""
    return os.path.realpath(path) + ".side"


@cache
def boot_id() -> bytes:
    """What changes at every boot of this machine; empty bytes where it cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def store_first(path: str, start_timestamp: int) -> None:
    """The record of a stream that is being made: nothing is durable, so a power loss may tear all that comes."""
    store(path, Watermark(boot_id(), start_timestamp, FIRST_OFFSET, 0, TIME_MIN, core.crc32(b"")))


def store(path: str, watermark: Watermark) -> None:
    """Replace the record in place and make it durable. It lies in one sector: a power loss leaves the old or the new.

    It must be the newest when a sync is acknowledged, because what lies past it is held to more than a checksum. A
    sidecar that cannot be written (a full disk, a folder without permission) is removed: then there is none to trust.
    """
    fields = (
        watermark.boot_id,
        watermark.start_timestamp,
        watermark.offset,
        watermark.count,
        watermark.last_timestamp,
        watermark.anchor,
    )
    record = _RECORD.pack(MAGIC, VERSION, 0, *fields)
    record = _RECORD.pack(MAGIC, VERSION, core.crc32(record), *fields)
    if _is_foreign(path):
        return
    try:
        fd = os.open(name_of(path), WRITE | os.O_CREAT | _PLAIN, 0o666)
        try:
            write_all(fd, record)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        discard(path)


def load(path: str) -> Watermark | None:
    """The record beside ``path``, or None when there is none that is whole."""
    try:
        with open(os.open(name_of(path), READ | _PLAIN), "rb") as file:
            record = file.read(_RECORD.size + 1)
    except OSError:
        return None
    if len(record) != _RECORD.size:
        return None
    magic, version, checksum, *fields = _RECORD.unpack(record)
    if magic != MAGIC or version != VERSION:
        return None
    if core.crc32(_RECORD.pack(MAGIC, VERSION, 0, *fields)) != checksum:
        return None
    return Watermark(*fields)


def discard(path: str) -> None:
    """Remove the sidecar, if there is one: the stream of this name is another one now.

    A file of that name that is not a sidecar is somebody else's, and stays.
    """
    if not _is_foreign(path):
        with contextlib.suppress(OSError):
            os.unlink(name_of(path))


def _is_foreign(path: str) -> bool:
    """Whether a file without our magic has the sidecar's name."""
    try:
        with open(os.open(name_of(path), READ | _PLAIN), "rb") as file:
            start = file.read(len(MAGIC))
    except PermissionError:
        return False  # another user's sidecar, which must not stay: it is not the newest any more
    except OSError:
        return os.path.lexists(name_of(path))
    return not MAGIC.startswith(start)


def matching(path: str, region: core.Region) -> Watermark | None:
    """The watermark of the stream in ``region``, or None when there is none that belongs to it."""
    mark = _of_stream(path, region)
    return mark if mark is not None and mark.anchor == _anchor(region, mark.offset) else None


def torn_from(path: str, region: core.Region) -> int:
    """Where the bytes begin that a power loss may have torn: past the watermark of an earlier boot, if any.

    Where the anchor does not match, the page that the watermark lies in was written again and lost.
    """
    mark = _of_stream(path, region)
    if mark is None or is_of_this_boot(mark):
        return TIME_MAX
    if mark.anchor == _anchor(region, mark.offset):
        return mark.offset
    return max(FIRST_OFFSET, mark.offset // _PAGE * _PAGE - ENTRY_SIZE + 1)  # an entry may lie across its beginning


def _of_stream(path: str, region: core.Region) -> Watermark | None:
    mark = load(path)
    if mark is None:
        return None
    write_offset, _, start_timestamp = region.load_header()
    lost = write_offset == 0 and start_timestamp in (0, mark.start_timestamp)
    if lost and mark.count == 0 and not is_of_this_boot(mark):
        return mark  # a power loss took the header's sector, and with it nothing that was durable
    fits = FIRST_OFFSET <= mark.offset <= min(write_offset, region.size)
    return mark if fits and mark.start_timestamp == start_timestamp else None


def is_of_this_boot(mark: Watermark) -> bool:
    """Whether the machine has been up since: then only processes can have died, which takes no store back."""
    return any(mark.boot_id) and mark.boot_id == boot_id()


def at(region: core.Region, offset: int, count: int, last_timestamp: int) -> Watermark:
    """The watermark at ``offset``, below which there are ``count`` events."""
    start_timestamp = region.load_header()[2]
    return Watermark(boot_id(), start_timestamp, offset, count, last_timestamp, _anchor(region, offset))


def _anchor(region: core.Region, offset: int) -> int:
    return core.crc32(region.view(max(FIRST_OFFSET, offset - _ANCHOR_SIZE), offset))
