"""The streams that are put through a power loss: kinds that a lost block could be mistaken in."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

KINDS = ("new", "empty", "stride64", "times", "stale", "kilobyte", "mixed", "batch", "growth", "reopen")
STAMP = 1_700_000_000_000_000_000


def entry(timestamp: int, data: bytes) -> bytes:
    """An entry as the format has it."""
    return struct.pack("<qII", timestamp, len(data), zlib.crc32(data)) + data


def stream(payloads: list[bytes], above: bytes = b"") -> bytes:
    """A file with these events, and `above` behind WriteOffset."""
    body = b"".join(entry(STAMP + i, data) for i, data in enumerate(payloads))
    return struct.pack("<qqq", 24 + len(body), len(payloads), STAMP) + body + above


def ends(payloads: list[bytes]) -> list[int]:
    """Where a stream ends after i events."""
    found = [24]
    for data in payloads:
        found.append(found[-1] + 16 + len(data))
    return found


def prior(kind: str) -> list[bytes]:
    """The events that a file of this kind has before it is opened for append."""
    return {"stale": [b"s" * 24, b"t" * 48, b""], "stride64": [bytes(24)]}.get(kind, []).copy()


def prepare(kind: str, path: str) -> None:
    """The file before it is opened for append. Kind "new" has none; "stale" has intact entries above WriteOffset."""
    never = [entry(STAMP + i, b"never published %04d" % i + bytes(i % 90)) for i in range(60)]
    above = b"".join(never) if kind == "stale" else b""
    if kind not in ("new", "reopen"):
        Path(path).write_bytes(stream(prior(kind), above))


Step = bytes | tuple[bytes, int] | list[bytes] | None


def steps(kind: str) -> Iterator[Step]:
    """What the writer is told: a payload, one with its timestamp, a batch of payloads, or None for a sync."""
    rng = random.Random(kind)
    if kind in ("new", "mixed", "stale"):
        for i in range(70):
            size = rng.choice((0, 0, 1, 16, 48, 100, 496, 1500)) if kind != "stale" else rng.choice((0, 20, 48, 110))
            yield rng.randbytes(size)
            if i % 17 == 16:
                yield None
    elif kind == "empty":
        for i in range(160):
            yield b""
            if i % 50 == 49:
                yield None
    elif kind == "stride64":
        for i in range(200):
            yield bytes(48) if i % 5 == 0 else rng.randbytes(48)
            if i % 60 == 59:
                yield None
    elif kind == "times":
        # Times and payloads that look like lost sectors wherever a header crosses the end of one.
        for i in range(150):
            payload = rng.randbytes(rng.choice((0, 4, 8, 12, 44, 48)))
            yield payload, rng.choice((0, 1 << 32, 1 << 48, 255, -1)) if payload else 1 << 32
            if i % 12 == 11:
                yield None
    elif kind == "kilobyte":
        for i in range(36):
            yield rng.randbytes(1024)
            if i % 9 == 8:
                yield None
    elif kind == "reopen":
        for i in range(20):
            yield rng.randbytes(50)
            if i % 5 == 4:
                yield None
    elif kind == "batch":
        for i in range(14):
            yield [rng.randbytes(rng.choice((0, 8, 48, 300))) for _ in range(12)]
            if i % 4 == 3:
                yield None
    elif kind == "growth":
        for i in range(24):
            yield rng.randbytes(3000 + 97 * i)
            if i % 5 == 4:
                yield None
