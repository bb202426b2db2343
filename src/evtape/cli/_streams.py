"""Storing what arrives on a pipe: reading as it comes, and what signals mean during that."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterator
from types import FrameType

import evtape
from evtape import Writer

from . import DAMAGED, GOOD, STDIN, named
from ._show import progress

_READ = 1 << 20  # bytes asked for at once; a pipe gives what it has


def chunks(fd: int) -> Iterator[bytes]:
    """What can be read from ``fd``, standard input, as it arrives, to its end. A regular file has a progress bar."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        while chunk := _read(fd):
            yield chunk
        return
    done = os.lseek(fd, 0, os.SEEK_CUR)
    with progress("append") as advance:
        while chunk := _read(fd):
            yield chunk
            done += len(chunk)
            if advance is not None:
                advance(done, status.st_size)


def _read(fd: int) -> bytes:
    with named(STDIN):
        return os.read(fd, _READ)


def store(tape: Writer, payloads: list[bytes | memoryview]) -> int:
    """Append them with one publication. Returns how many."""
    if len(payloads) == 1:
        tape.append(payloads[0])
    elif payloads:
        tape.append_many(payloads)
    return len(payloads)


def close_on_sigterm() -> None:
    """SIGTERM ends the program like Ctrl-C does: through the ``with`` that closes the stream."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def code_after(tape: Writer) -> int:
    """1 when opening had to cut events that an earlier writer had published; a RecoveryWarning has told so."""
    repaired: evtape.Report | None = tape.recovered
    return DAMAGED if repaired is not None and repaired.lost else GOOD
