"""Payloads in a stream of bytes: lines, or records after their length. Takes what is there and waits for nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from evtape.core.format import SIZE_MAX

from . import InputError

NAMES = ("lines", "u32le", "u32be")
_LENGTHS = {"u32le": struct.Struct("<I"), "u32be": struct.Struct(">I")}


class Splitter(Protocol):
    """Cuts a stream of chunks into payloads."""

    def feed(self, chunk: bytes) -> list[bytes | memoryview]:
        """The payloads that are complete now."""

    def finish(self) -> list[bytes | memoryview]:
        """What is left at the end of the input; InputError when that is a part of a record."""


class Lines:
    """Payloads end at a newline, which is not part of them; nothing else is taken away. The last may lack it."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0
        self._lines = 0

    def feed(self, chunk: bytes) -> list[bytes | memoryview]:
        first, *others = chunk.split(b"\n")
        self._pending.append(first)
        self._size += len(first)
        if self._size > SIZE_MAX:
            raise InputError(f"line {self._lines + 1} of the input is longer than {SIZE_MAX} bytes; is it lines?")
        if not others:
            return []
        lines: list[bytes | memoryview] = [b"".join(self._pending), *others[:-1]]
        self._pending, self._size = [others[-1]], len(others[-1])
        self._lines += len(lines)
        return lines

    def finish(self) -> list[bytes | memoryview]:
        rest = b"".join(self._pending)
        self._pending, self._size = [], 0
        return [rest] if rest else []


class Records:
    """Payloads follow their length, an unsigned 32-bit number. A length is believed only as far as bytes arrive."""

    def __init__(self, length: struct.Struct) -> None:
        self._length = length
        self._parts: list[bytes] = []
        self._have = 0
        self._need = length.size  # bytes until the next record can be complete
        self._records = 0
        self._offset = 0  # of the record that is not complete, in the input

    def feed(self, chunk: bytes) -> list[bytes | memoryview]:
        self._parts.append(chunk)
        self._have += len(chunk)
        if (
            self._have < self._need
        ):  # joined only when there is enough, so that a large record is not copied again and again
            return []
        view = memoryview(b"".join(self._parts))
        found: list[bytes | memoryview] = []
        at, head = 0, self._length.size
        while True:
            left = len(view) - at
            self._need = head if left < head else head + self._length.unpack_from(view, at)[0]
            if left < self._need:
                break
            found.append(view[at + head : at + self._need])
            at += self._need
        self._parts, self._have = [bytes(view[at:])], len(view) - at
        self._records += len(found)
        self._offset += at
        return found

    def finish(self) -> list[bytes | memoryview]:
        if self._have == 0:
            return []
        raise InputError(
            f"the input ends inside record {self._records} at byte {self._offset}: {self._have} of {self._need} bytes; "
            f"the {self._records} before it are stored (is the framing right?)"
        )


def splitter(name: str) -> Splitter:
    """What reads the framing ``name``."""
    return Lines() if name == "lines" else Records(_LENGTHS[name])


def framed(name: str) -> Callable[[memoryview], bytes]:
    """What writes the framing ``name``, the way ``splitter`` reads it."""
    if name == "lines":
        return lambda data: bytes(data) + b"\n"
    pack = _LENGTHS[name].pack
    return lambda data: pack(len(data)) + bytes(data)
