"""`check.c` from Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from .harness import compiled
from .reference import Verdict

STATES = ("clean", "open", "damaged", "invalid")
REASONS = (None, "header", "truncated", "size", "checksum", "zero", "count")
JUDGEMENTS = ("fine", "not a prefix of what was appended", "no event boundary", "acknowledged durable, and lost")


class _Verdict(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("state", "events", "end", "reason")]


class Scan(ctypes.Structure):
    """What one pass over the entries finds."""

    _fields_ = [(name, ctypes.c_int64) for name in ("ordinal", "offset", "reason", "zero", "bound")]


class Block(ctypes.Structure):
    """A block that may have one of several contents after a power loss."""

    _fields_ = [
        ("offset", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("versions", ctypes.c_int64),
        ("bytes", ctypes.c_char_p * 8),
    ]


class Checker:
    """The reference parser in C, and the maker and judge of images."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(str(compiled("check.c", shared=True)))
        for name in ("put", "sample", "verdict"):
            getattr(self.lib, name).restype = None
        self.lib.scan.restype = None
        self.lib.mutate.restype = ctypes.c_int64
        self.lib.judge.restype = ctypes.c_int64
        self.lib.crc.restype = ctypes.c_uint32
        self._out = _Verdict()
        self._ref = ctypes.byref(self._out)
        self._tables: dict[int, Any] = {}

    def verdict_at(self, address: int, size: int) -> Verdict:
        """The verdict on bytes in memory."""
        self.lib.verdict(ctypes.c_void_p(address), ctypes.c_int64(size), self._ref)
        out = self._out
        return Verdict(STATES[out.state], out.events, out.end, REASONS[out.reason])

    def verdict(self, data: bytes) -> Verdict:
        """The verdict on a file with these bytes."""
        self.lib.verdict(ctypes.c_char_p(data), ctypes.c_int64(len(data)), self._ref)
        out = self._out
        return Verdict(STATES[out.state], out.events, out.end, REASONS[out.reason])

    def judge(self, address: int, end: int, events: int, stream: bytes, ends: list[int], durable: int) -> int:
        """Index into JUDGEMENTS for the prefix [0, end) of the bytes at `address`."""
        table = self._tables.get(id(ends))
        if table is None:
            table = self._tables[id(ends)] = (ends, (ctypes.c_int64 * len(ends))(*ends))
        p, i = ctypes.c_void_p, ctypes.c_int64
        counts = i(len(ends) - 1), i(durable)
        return int(self.lib.judge(p(address), i(end), i(events), ctypes.c_char_p(stream), table[1], *counts))


class Images:
    """All contents, or a sample of them, that a set of blocks can have over a base image."""

    def __init__(
        self, checker: Checker, address: int, blocks: Sequence[tuple[int, Sequence[bytes]]], seed: int
    ) -> None:
        self._lib = checker.lib
        self._image = ctypes.c_void_p(address)
        self._blocks = (Block * max(1, len(blocks)))()
        self._keep: list[Any] = []
        self.combinations = 1
        for block, (offset, versions) in zip(self._blocks, blocks, strict=False):
            block.offset, block.length, block.versions = offset, len(versions[0]), len(versions)
            for i, version in enumerate(versions):
                block.bytes[i] = version
            self._keep.append(versions)
            self.combinations *= len(versions)
        self._count = ctypes.c_int64(len(blocks))
        self._digits = (ctypes.c_int64 * max(1, len(blocks)))()
        self._state = ctypes.c_uint64(seed)

    def first(self) -> None:
        """Begin with the oldest version of every block."""
        for i in range(self._count.value):
            self._digits[i] = 0
            self._lib.put(self._image, ctypes.byref(self._blocks[i]), ctypes.c_int64(0))

    def next(self) -> bool:
        """The next combination; False after the last."""
        return bool(self._lib.next(self._image, self._blocks, self._count, self._digits))

    def sample(self, bias: int) -> None:
        """Any combination; `bias` of 256 blocks become the newest version."""
        self._lib.sample(self._image, self._blocks, self._count, ctypes.byref(self._state), ctypes.c_int64(bias))


def address_of(buffer: Any) -> int:
    """Where a writable buffer lies in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
