"""What tests share: the format written down a second time, with nothing of the package in it, and processes to kill."""

from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

HEADER = struct.Struct("<qqq")
ENTRY = struct.Struct("<qII")
DATA = Path(__file__).parent / "data"
NS = 1_640_995_823_000_000_000  # a time to count from: 2022-01-01T00:10:23Z
FUTURE = 4_000_000_000_000_000_000  # October 2096

Pairs = list[tuple[int, bytes]]


def entry(timestamp: int, data: bytes) -> bytes:
    return ENTRY.pack(timestamp, len(data), zlib.crc32(data)) + data


def stream(
    events: Iterable[tuple[int, bytes]], *, start: int = NS, count: int | None = None, offset: int | None = None
) -> bytes:
    """A stream as the format says, byte for byte. `count` and `offset` put something wrong into its header."""
    packed = [entry(timestamp, data) for timestamp, data in events]
    body = b"".join(packed)
    head = HEADER.pack(24 + len(body) if offset is None else offset, len(packed) if count is None else count, start)
    return head + body


def prefix(raw: bytes, end: int) -> Pairs:
    """The events below `end`, checksums compared. The slow reference of every reading test."""
    at, events = 24, []
    while at < end:
        timestamp, size, checksum = ENTRY.unpack_from(raw, at)
        data = raw[at + 16 : at + 16 + size]
        assert len(data) == size
        assert zlib.crc32(data) == checksum
        events.append((timestamp, data))
        at += 16 + size
    assert at == end
    return events


def published(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a stream up to its WriteOffset. What lies above belongs to nobody."""
    raw = Path(path).read_bytes()
    return raw[: HEADER.unpack_from(raw)[0]]


def sample(count: int, *, start: int = NS, step: int = 1000) -> Pairs:
    """Events of many sizes, the empty one included, with rising timestamps."""
    return [(start + i * step, bytes([i % 251]) * (i * 37 % 300)) for i in range(count)]


def pairs(events: Iterable[object]) -> Pairs:
    """Events as tuples of their timestamp and a copy of their payload."""
    return [(timestamp, bytes(data)) for timestamp, data in events]  # type: ignore[misc]


def copy_sidecar(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Give the stream `target` the sidecar of `source` and the generation that binds the two."""
    record = Path(f"{source}.side").read_bytes()
    Path(f"{target}.side").write_bytes(record)
    os.setxattr(target, "user.evtape.generation", record[72:88])


def start_python(core: str, code: str, *args: object) -> subprocess.Popen[str]:
    """Another interpreter on `core`, with pipes to talk to it."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(str, args)],
        env={**os.environ, "EVTAPE_BACKEND": core},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(core: str, code: str, *args: object, returncode: int = 0) -> str:
    """Run `code` in another interpreter on `core` and return what it printed."""
    process = start_python(core, code, *args)
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == returncode, err
    return out


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return as soon as `condition` holds; fail when it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


RECORD = struct.Struct("<qqqqIIHHI")  # of an index file


def index_records(raw: bytes, *, partial: bool = True) -> bytes:
    """The records of the index of a stream, from docs/format.md alone."""
    end, _, start = HEADER.unpack_from(raw)
    at, number, running, before, unsorted, out = 24, 0, -(2**63), -(2**63), False, []
    while at < end:
        offset, headers, stamps, sizes = at, [], [], []
        while at < end and len(stamps) < 64:
            timestamp, size, _ = ENTRY.unpack_from(raw, at)
            headers.append(raw[at : at + 16])
            unsorted |= timestamp < before
            before = timestamp
            stamps.append(timestamp)
            sizes.append(size)
            at += 16 + size
        if len(stamps) < 64 and not partial:
            break
        running = max(running, *stamps)
        equal = len(set(sizes)) == 1
        fields = offset, min(stamps), max(stamps), running, zlib.crc32(b"".join(headers)), sizes[0] if equal else 0
        out.append(seal(RECORD.pack(*fields, len(stamps), equal | 2 * unsorted, 0), start, number))
        number += 1
    return b"".join(out)


def seal(record: bytes, start: int, number: int) -> bytes:
    """A record with the checksum that its fields should have."""
    return record[:44] + struct.pack("<I", zlib.crc32(struct.pack("<qq", start, number) + record[:44]))


def open_descriptors() -> int:
    """How many descriptors this process has, once those that belong to garbage of earlier tests are closed."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
