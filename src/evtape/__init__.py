"""evtape: an append-only stream of timestamped events in a memory-mapped file.

import evtape

with evtape.open("ticks.tape", "a") as tape:
    tape.append(b"payload")

with evtape.open("ticks.tape") as tape:
    for timestamp, data in tape:
        ...
"""

from __future__ import annotations

import os
import threading
from typing import Any, Literal, overload

from . import errors, guard
from .core.backend import Event, backend
from .errors import (
    ClosedError,
    CorruptError,
    Error,
    FormatError,
    LockedError,
    ReadOnlyError,
    RecoveryWarning,
    RewoundError,
    SidecarWarning,
    TruncatedError,
)
from .mapped import MappedFile
from .recovery.repair import recover
from .recovery.report import Problem, Report, Salvaged
from .recovery.walk import verify
from .stream import pickling as _pickling  # noqa: F401 - registers itself
from .stream.lifetime import open_writer
from .stream.reader import Reader
from .stream.slices import Slice
from .stream.tape import Tape
from .stream.writer import Durability, Options, Writer
from .system.signals import SignalsDeferred

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "CorruptError",
    "Error",
    "Event",
    "FormatError",
    "LockedError",
    "MappedFile",
    "Problem",
    "ReadOnlyError",
    "Reader",
    "RecoveryWarning",
    "Report",
    "RewoundError",
    "Salvaged",
    "SidecarWarning",
    "Slice",
    "Tape",
    "TruncatedError",
    "Writer",
    "backend",
    "guard",
    "open",
    "recover",
    "verify",
]


_Path = str | bytes | os.PathLike[Any]


@overload
def open(path: _Path, mode: Literal["r"] = "r", *, verify_checksums: bool = True) -> Reader: ...
@overload
def open(
    path: _Path,
    mode: Literal["a", "x", "w"],
    *,
    capacity: int = 0,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
) -> Writer: ...
@overload
def open(
    path: _Path,
    mode: str = "r",
    *,
    capacity: int = 0,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
) -> Reader | Writer: ...
def open(
    path: _Path,
    mode: str = "r",
    *,
    capacity: int = 0,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
) -> Reader | Writer:
    """Open a stream.

    Modes: ``"r"`` reads, also while another process writes; ``"a"`` appends and creates the stream if there is none;
    ``"x"`` creates a new one and raises FileExistsError if the name is taken; ``"w"`` creates a new one in its place
    (readers of the old one keep what they have).

    ``capacity``: bytes that are preallocated and populated before the first append. ``durability``: ``"close"``
    (default) makes events durable at ``sync()`` and ``close()``, ``"none"`` only at ``sync()``, ``"interval"`` also
    every ``interval`` seconds, ``"full"`` before each append returns. ``verify_checksums=False`` switches off the
    comparison of checksums when payloads are handed out.

    Raises FileNotFoundError, FormatError (not a stream), TruncatedError (shorter than its header says), LockedError
    (another writer), CorruptError (mode "a", damage with intact events after it). O(1) for "r", "x" and "w"; "a"
    reads the stream once.
    """
    name = os.fsdecode(path)
    if mode == "r":
        if capacity or durability != "close":
            raise ValueError(f"{name}: capacity and durability are for writing; mode is 'r'")
        return Reader(name, verify_checksums=verify_checksums)
    if mode not in ("a", "x", "w"):
        raise ValueError(f"{name}: mode must be 'r', 'a', 'x' or 'w', not {mode!r}")
    if durability not in ("none", "close", "interval", "full"):
        raise ValueError(f"{name}: durability must be 'none', 'close', 'interval' or 'full', not {durability!r}")
    errors.require_size(name, "capacity", capacity)
    if not 0 < interval <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name}: interval must be seconds above 0, up to {threading.TIMEOUT_MAX}, not {interval}")
    options = Options(capacity, durability, interval, verify_checksums)
    tape: Writer | None = None
    try:
        with SignalsDeferred():
            tape = open_writer(name, mode, options)
    except BaseException:
        if tape is not None:  # a signal handler raised when all was done
            tape.close()
        raise
    return tape


def __dir__() -> list[str]:
    return __all__
