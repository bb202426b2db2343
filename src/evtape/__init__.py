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
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from . import errors, guard
from .arrow import Misfits
from .core.backend import Event, backend
from .engines.partition import Partition, Paths, partitions
from .errors import (
    ClosedError,
    CorruptError,
    CursorError,
    Error,
    ExpiredError,
    FormatError,
    LateError,
    LockedError,
    MissingError,
    ReadOnlyError,
    RecoveryWarning,
    ReplacedError,
    RewoundError,
    SchemaError,
    SidecarWarning,
    TruncatedError,
)
from .journal import opening as _journals
from .journal import pickling as _journal_pickling  # noqa: F401 - registers itself
from .journal.by_path import follow, merge
from .journal.checking import JournalReport, recover, verify
from .journal.hook import HookWarning
from .journal.settings import OnFull
from .journal.tape import Journal, JournalReader, Segment
from .journal.writer import JournalWriter
from .mapped import MappedFile
from .recovery.rebuild import build_index
from .recovery.report import Problem, Report, Salvaged
from .schema import Declared, to_declare, to_store
from .stream import pickling as _pickling  # noqa: F401 - registers itself
from .stream.cursor import Cursor
from .stream.flusher import Position
from .stream.lifetime import open_writer
from .stream.merge import Merged
from .stream.order import MergedEvent, MergedSlice
from .stream.reader import Reader, frombuffer
from .stream.slices import Slice
from .stream.tape import Tape
from .stream.writer import Durability, Options, Writer
from .system.signals import SignalsDeferred

if TYPE_CHECKING:
    import polars as pl

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "CorruptError",
    "Cursor",
    "CursorError",
    "Error",
    "Event",
    "ExpiredError",
    "FormatError",
    "HookWarning",
    "Journal",
    "JournalReader",
    "JournalReport",
    "JournalWriter",
    "LateError",
    "LockedError",
    "MappedFile",
    "Merged",
    "MergedEvent",
    "MergedSlice",
    "MissingError",
    "Partition",
    "Position",
    "Problem",
    "ReadOnlyError",
    "Reader",
    "RecoveryWarning",
    "ReplacedError",
    "Report",
    "RewoundError",
    "Salvaged",
    "SchemaError",
    "Segment",
    "SidecarWarning",
    "Slice",
    "Tape",
    "TruncatedError",
    "Writer",
    "backend",
    "build_index",
    "follow",
    "frombuffer",
    "guard",
    "merge",
    "open",
    "open_journal",
    "partitions",
    "recover",
    "scan",
    "verify",
]


_Path = str | bytes | os.PathLike[Any]
_W = TypeVar("_W", bound=Writer)


@overload
def open(
    path: _Path, mode: Literal["r"] = "r", *, verify_checksums: bool = True, schema: Declared | None = None
) -> Reader: ...
@overload
def open(
    path: _Path,
    mode: Literal["a", "x", "w"],
    *,
    capacity: int = 0,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
    schema: Declared | None = None,
    index: bool | None = None,
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
    schema: Declared | None = None,
    index: bool | None = None,
) -> Reader | Writer: ...
def open(
    path: _Path,
    mode: str = "r",
    *,
    capacity: int = 0,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
    schema: Declared | None = None,
    index: bool | None = None,
) -> Reader | Writer:
    """Open a stream, or read a journal (mode "r" of a directory returns a JournalReader).

    Modes: ``"r"`` reads, also while another process writes; ``"a"`` appends and creates the stream if there is none;
    ``"x"`` creates a new one and raises FileExistsError if the name is taken; ``"w"`` creates a new one in its place
    (readers of the old one keep what they have).

    ``capacity``: bytes that are preallocated and populated before the first append. ``durability``: ``"close"``
    (default) makes events durable at ``sync()`` and ``close()``, ``"none"`` only at ``sync()``, ``"interval"`` also
    every ``interval`` seconds, ``"full"`` before each append returns. ``verify_checksums=False`` switches off the
    comparison of checksums when payloads are handed out. ``index``: whether the stream gets an index file
    ``<name>.index``, which makes ordinals and times quick to find; None (default) gives one to streams of 16 MiB or
    more, on the native core.

    ``schema``: what the payloads mean, kept in ``<path>.schema.json``: a structured numpy dtype, ``"json"`` or
    ``"text"``. Then ``append`` takes values and ``event.value`` gives them. In mode "r" it counts more than the file,
    and ``"bytes"`` ignores the file. Mode "a" refuses another schema than the stream has.

    Raises FileNotFoundError, FormatError (not a stream), TruncatedError (shorter than its header says), LockedError
    (another writer), CorruptError (mode "a", damage with intact events after it), SchemaError. O(1)
    for "r", "x" and "w"; "a" reads the stream once.
    """
    name = os.fsdecode(path)
    if mode == "r":
        if capacity or durability != "close" or index is not None:
            raise ValueError(f"{name}: capacity, durability and index are for writing; mode is 'r'")
        return _journals.open_path(name, verify_checksums, schema)
    if mode not in ("a", "x", "w"):
        raise ValueError(f"{name}: mode must be 'r', 'a', 'x' or 'w', not {mode!r}")
    errors.require_durability(name, durability, interval)
    errors.require_size(name, "capacity", capacity)
    errors.require_index(name, index)
    if mode != "x" and os.path.isdir(name):
        raise FormatError(f"{name}: not a regular file; evtape.open_journal opens a journal for writing")
    options = Options(capacity, durability, interval, verify_checksums, to_store(schema, name), index)
    return _opened(lambda: open_writer(name, mode, options))


def _opened(make: Callable[[], _W]) -> _W:
    tape: _W | None = None
    try:
        with SignalsDeferred():
            tape = make()
    except BaseException:
        if tape is not None:  # a signal handler raised when all was done
            tape.close()
        raise
    return tape


def scan(
    paths: Paths,
    *,
    schema: Declared | None = None,
    starting_at: Any = None,
    ending_before: Any = None,
    include_file_paths: str | None = None,
    errors: Misfits = "raise",
    verify_checksums: bool = True,
) -> pl.LazyFrame:
    """One or many streams as a polars ``LazyFrame``, with the columns of ``Tape.to_arrow``. Needs polars.

    ``paths``: a path, a glob, or a list of them, which all have the same columns. ``schema`` and ``verify_checksums``
    are as in ``evtape.open``, ``errors`` as in ``Tape.to_arrow``. ``starting_at`` and ``ending_before`` read only this
    time window, as in ``Tape.between``; a filter on ``time`` or ``ordinal`` does the same on a sorted stream.
    ``include_file_paths``: the name of a further column, with the path of each event's stream.

    Only the columns of the query are read, and only as many events as ``head`` asks for. A query sees what is published
    when it is collected. ``collect(engine="streaming")`` holds a few batches of at most 16 MiB in memory, whatever the
    size of the streams.

    Raises what ``evtape.partitions`` raises, and ValueError for streams of different columns and for a column of that
    name.
    """
    from .engines.lazyframe import scan_streams

    return scan_streams(
        paths,
        schema=schema,
        starting_at=starting_at,
        ending_before=ending_before,
        include_file_paths=include_file_paths,
        errors=errors,
        verify_checksums=verify_checksums,
    )


@overload
def open_journal(
    path: _Path, mode: Literal["r"] = "r", *, verify_checksums: bool = True, schema: Declared | None = None
) -> JournalReader: ...
@overload
def open_journal(
    path: _Path,
    mode: Literal["a", "x", "w"],
    *,
    roll_bytes: int | None = None,
    roll_every: str | float | timedelta | None = None,
    keep_bytes: int | None = None,
    keep_for: str | float | timedelta | None = None,
    keep_segments: int | None = None,
    keep_at_most_bytes: int | None = None,
    on_full: OnFull | None = None,
    on_closed: Callable[[str], object] | None = None,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
    schema: Declared | None = None,
    index: bool | None = None,
) -> JournalWriter: ...
def open_journal(
    path: _Path,
    mode: str = "r",
    *,
    roll_bytes: int | None = None,
    roll_every: str | float | timedelta | None = None,
    keep_bytes: int | None = None,
    keep_for: str | float | timedelta | None = None,
    keep_segments: int | None = None,
    keep_at_most_bytes: int | None = None,
    on_full: OnFull | None = None,
    on_closed: Callable[[str], object] | None = None,
    durability: Durability = "close",
    interval: float = 1.0,
    verify_checksums: bool = True,
    schema: Declared | None = None,
    index: bool | None = None,
) -> JournalReader | JournalWriter:
    """Open a journal: a directory of streams that is used like one stream, rolls, and deletes what is old.

    Modes, ``durability``, ``interval``, ``verify_checksums``, ``schema`` and ``index`` as in ``open``; "w" removes
    every event of a journal that is there. A segment gets its index file when it is closed. ``schema`` and the settings
    below belong to the journal. Give them when it is created; later they may be left out, and a value that differs
    raises ValueError, or SchemaError.

    ``roll_bytes`` (64 MiB): the size at which a segment ends; a larger event gets a segment of its own. ``roll_every``:
    also end it at each multiple of this time, counted from 1970-01-01 UTC: "1h" rolls on the hour. Durations are text
    ("30s", "15m", "1h", "7d"), seconds or a timedelta.

    ``keep_bytes``, ``keep_for``, ``keep_segments``: delete the oldest segments beyond this size of all segments, this
    time since they were closed, or this number; never the active one, and none that a cursor has not passed.
    ``keep_at_most_bytes``: the size beyond which cursors do not count; their consumers get ExpiredError.
    ``on_full="drop_oldest"``: a full disk deletes the oldest segment, and the append succeeds. ``on_closed(path)`` is
    called in a thread for each closed segment, until it returns without an exception once; the segment is kept so long.

    Raises what ``open`` raises, FormatError for a file or a directory that is not a journal, ValueError and TypeError
    for settings that are wrong or contradict each other, before anything is written.
    """
    name = os.fsdecode(path)
    given = {
        "roll_bytes": roll_bytes,
        "roll_every": roll_every,
        "keep_bytes": keep_bytes,
        "keep_for": keep_for,
        "keep_segments": keep_segments,
        "keep_at_most_bytes": keep_at_most_bytes,
        "on_full": on_full,
        "schema": to_declare(schema, name) if mode != "r" else None,
    }
    if mode == "r":
        if durability != "close" or any(value is not None for value in (on_closed, index, *given.values())):
            raise ValueError(f"{name}: settings, durability and index are for writing; mode is 'r'")
        return _journals.open_reader(name, verify_checksums, schema)
    if mode not in ("a", "x", "w"):
        raise ValueError(f"{name}: mode must be 'r', 'a', 'x' or 'w', not {mode!r}")
    errors.require_durability(name, durability, interval)
    errors.require_index(name, index)
    options = Options(0, durability, interval, verify_checksums, index=index)
    return _opened(lambda: _journals.open_writer(name, mode, options, given, on_closed))


def __dir__() -> list[str]:
    return __all__
