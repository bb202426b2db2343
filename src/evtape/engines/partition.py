"""Parts of streams for other processes and machines: what every engine rests on.

A `Partition` is a place in a stream and not its bytes, so it is small and pickles. It says what lay at its end when it
was made, so a worker notices that the file is another one, or was cut.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .. import errors
from ..core.times import nanoseconds
from ..journal.directory import Directory
from ..schema import Declared
from ..stream.reader import FileSource, Reader
from ..stream.slices import Slice
from ..stream.source import StreamSource

Paths = str | bytes | os.PathLike[Any] | Iterable[str | bytes | os.PathLike[Any]]

BYTES = 64 << 20  # of one partition, where no number of events is given
_PASS = 1 << 20  # events per step of a search through an unsorted stream
# What evtape puts next to a stream. A glob that ends in * matches it, too.
_BESIDE = re.compile(r".+\.(side|live|index|schema\.json|salvage\.json|cursor-[^/]*|quarantine-[^/]*)")


class File(NamedTuple):
    """A stream, or a segment of a journal."""

    path: str
    first: int = 0  #: the ordinal of its first event
    journal: str | None = None  #: the path of the journal

    def open(self, verify_checksums: bool = True, schema: Declared | None = None) -> Reader:
        """Its events. Raises ExpiredError for a segment that was deleted."""
        try:
            return Reader._over(FileSource(self.path, verify_checksums, schema, self.first))
        except FileNotFoundError:
            left = [] if self.journal is None else Directory(self.journal).segments()
            if self.journal is None or (left and self.first >= left[0]):
                raise
            raise errors.expired(self.journal, self.first, left[0] if left else self.first) from None


@dataclass(frozen=True, slots=True)
class Partition:
    """Consecutive events of one stream, or of one segment of a journal.

    Made by ``evtape.partitions``; pickles, and is opened where it is processed.
    """

    path: str  #: of the stream, absolute
    start: int  #: ordinal in the stream of the first event
    stop: int  #: ordinal in the stream after the last event
    starting_at: int | None  #: with `ending_before` a time window, ns; None if all events of the range count
    ending_before: int | None  #: see `starting_at`; a window is there only if timestamps go backwards in the stream
    first_timestamp: int  #: of the event `start`, ns
    last_timestamp: int  #: of the event before `stop`, ns
    is_sorted: bool  #: whether timestamps never go backwards up to `stop`
    start_timestamp: int = field(repr=False)  #: of the stream; another one is another stream
    mark: tuple[int, bytes] = field(repr=False)  #: offset and header of the last event, as they were
    first_ordinal: int = 0  #: what ``event.ordinal`` of the stream's first event is: in a journal, that of its segment

    def __len__(self) -> int:
        """How many ordinals there are: the number of events, or more with a time window on unsorted timestamps."""
        return self.stop - self.start

    @contextlib.contextmanager
    def open(self, *, verify_checksums: bool = True, schema: Declared | None = None) -> Iterator[Slice]:
        """The events, as a slice of the stream: ``with partition.open() as events``.

        ``schema`` and ``verify_checksums`` are as in ``evtape.open``. The stream is closed at the end of the block;
        events and arrays that are alive stay readable. Raises ReplacedError if another stream has the name now,
        RewoundError if the events were cut or are others since the partition was made, FileNotFoundError, and what
        ``evtape.open`` raises. A stream that has grown is fine.
        """
        with File(self.path, self.first_ordinal).open(verify_checksums, schema) as tape:
            self._require_same(tape)
            yield slice_of(self, tape)

    def _require_same(self, tape: Reader) -> None:
        if tape.start_timestamp != self.start_timestamp:
            raise errors.partition_replaced(self.path, self.start_timestamp, tape.start_timestamp)
        if len(tape) < self.stop or _before(tape._source, self.stop)[1] != self.mark:
            raise errors.partition_changed(self.path, self.start, self.stop)


def joined(parts: list[Partition], most: int, wanted: int) -> list[Partition]:
    """The parts in about ``wanted`` larger ones: up to ``most`` that follow each other in one stream become one."""
    found = []
    for _, group in itertools.groupby(parts, lambda part: part.path):
        of_one = list(group)
        count = min(len(of_one), max(-(-len(of_one) // most), wanted * len(of_one) // len(parts)))
        edges = [len(of_one) * number // count for number in range(count + 1)]
        for first, end in itertools.pairwise(edges):
            begin, last = of_one[first], of_one[end - 1]
            found.append(replace(last, start=begin.start, first_timestamp=begin.first_timestamp))
    return found


def slice_of(part: Partition, tape: Reader) -> Slice:
    """The events of a part, of its stream that is open and is known to be the same."""
    events = Slice(tape._source, range(part.start, part.stop))
    if part.starting_at is None and part.ending_before is None:
        return events
    return events.between(starting_at=part.starting_at, ending_before=part.ending_before)


def partitions(
    paths: Paths, *, events: int | None = None, starting_at: Any = None, ending_before: Any = None
) -> list[Partition]:
    """Divide streams and journals into parts of about equal size, for a process pool or a cluster.

    ``paths``: a path, a glob, or a list of them; a glob gives its streams in the order of their names. The parts are
    in the order of the streams and of their events, and no event is in two of them. A part of a journal lies in one
    segment. ``events``: at most so many per part, and the parts of one stream differ by one event at most; by default
    a part has about 64 MiB.
    ``starting_at`` and ``ending_before``: only the events of this time window, as in ``Tape.between``.

    Reads no payloads: O(log n) for each part on a sorted stream, one pass over the headers with a time window on one
    whose timestamps go backwards. Raises FileNotFoundError for a path or a glob without a stream, FormatError for a
    file that is not a stream, CorruptError where the headers of a stream are damaged (damaged payloads raise where they
    are read), ValueError for a stream that is given twice.
    """
    return divide(files_of(stream_paths(paths)), events, starting_at, ending_before)


def divide(
    files: Iterable[File], events: int | None, starting_at: Any, ending_before: Any, between_times: bool = False
) -> list[Partition]:
    """``partitions`` of these files.

    With ``between_times`` no part of a sorted stream ends among events of one timestamp, if there is another place in
    the part: an engine that finds a row by its time looks for it in one part.
    """
    if events is not None and events < 1:
        raise ValueError(f"events must be at least 1, the most of one part, not {events}")
    found: list[Partition] = []
    for file in files:
        with file.open() as tape:
            found += parts_of(tape, events, starting_at, ending_before, between_times)
    return found


def parts_of(
    tape: Reader, events: int | None, starting_at: Any, ending_before: Any, between_times: bool = False
) -> list[Partition]:
    """The parts of one stream that is open."""
    low = None if starting_at is None else nanoseconds(starting_at, tape.path)
    high = None if ending_before is None else nanoseconds(ending_before, tape.path)
    return list(_divide(tape, events, low, high, between_times))


def stream_paths(paths: Paths) -> list[str]:
    """The absolute paths of the streams and journals that are meant, globs resolved, in order."""
    given = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
    found: dict[str, str] = {}  # real path to the name it was given by
    for name in map(os.fsdecode, given):
        for path in _matches(name):
            real = os.path.realpath(path)
            if real in found:
                raise errors.given_twice(path, found[real])
            found[real] = os.path.abspath(path)
    if not found:
        raise errors.no_paths()
    return list(found.values())


def files_of(paths: Iterable[str]) -> list[File]:
    """The streams at the paths, and the segments that the journals have now."""
    found = []
    for path in paths:
        if os.path.isdir(path):
            directory = Directory(path)
            found += [File(directory.shown(first), first, path) for first in directory.segments()]
        else:
            found.append(File(path))
    return found


def _matches(name: str) -> list[str]:
    if os.path.isdir(name):
        if not Directory(name).is_journal:
            raise errors.is_directory(name)
        return [name]
    if not glob.has_magic(name) or os.path.lexists(name):
        return [name]
    found = sorted(glob.glob(name, recursive=True))
    found = [path for path in found if not os.path.isdir(path) or Directory(path).is_journal]
    if not _BESIDE.fullmatch(name):
        found = [path for path in found if not _BESIDE.fullmatch(path)]
    if not found:
        raise errors.no_match(name)
    return found


def divide_range(
    file: File,
    start_timestamp: int | None,
    start: int,
    stop: int,
    events: int | None,
    low: int | None,
    high: int | None,
) -> list[Partition]:
    """Parts of the events [start, stop) of a stream that has this StartTimestamp, else ReplacedError."""
    with file.open() as tape:
        if start_timestamp is not None and tape.start_timestamp != start_timestamp:
            raise errors.partition_replaced(file.path, start_timestamp, tape.start_timestamp)
        if len(tape) < stop:
            raise errors.partition_changed(file.path, start, stop)
        return list(_parts(tape, start, stop, events, low, high))


def _divide(
    tape: Reader, events: int | None, low: int | None, high: int | None, between_times: bool
) -> Iterator[Partition]:
    source = tape._source
    unsorted_at = source.unsorted_at()
    count = source.length()
    if source.index.broken is not None:  # else the events after the damage would silently be in no part
        broken = source.index.broken
        source.report_problem(source.first + broken.ordinal, broken.offset, broken.reason)
    if unsorted_at < 0 or unsorted_at >= count:
        window = tape[:count].between(starting_at=low, ending_before=high).ordinals
        start, stop = (window[0], window[-1] + 1) if len(window) else (0, 0)
        return _parts(tape, int(start), int(stop), events, None, None, between_times)
    return _parts(tape, *_covering(tape, count, low, high), events, low, high)


def _parts(
    tape: Reader,
    start: int,
    stop: int,
    events: int | None,
    low: int | None,
    high: int | None,
    between_times: bool = False,
) -> Iterator[Partition]:
    source, started, unsorted_at = tape._source, tape.start_timestamp, tape._source.unsorted_at()
    edges = _edges(source, start, stop, events)
    if between_times:
        edges = [edges[0], *(source.search(_time_of(source, at), "left") for at in edges[1:-1]), edges[-1]]
    for first, end in itertools.pairwise(edges):
        if first < end:  # an event may be larger than a part
            mark = _before(source, end)[1]
            times = _time_of(source, first), _time_of(source, end - 1)
            in_order = unsorted_at < 0 or end <= unsorted_at
            yield Partition(tape.path, first, end, low, high, *times, in_order, started, mark, source.first)


def _before(source: StreamSource, at: int) -> tuple[int, tuple[int, bytes]]:
    """See `StreamSource.before`; ``at`` is an ordinal in the file."""
    return source.before(source.first + at)


def _time_of(source: StreamSource, ordinal: int) -> int:
    return int(source.column("timestamps", ordinal, ordinal + 1)[0])


def _covering(tape: Reader, count: int, low: int | None, high: int | None) -> tuple[int, int]:
    """The smallest range of ordinals with every event of the time window, where timestamps go backwards."""
    if low is None and high is None:
        return 0, count
    start = stop = -1
    for at in range(0, count, _PASS):
        found = tape[at : min(at + _PASS, count)].between(starting_at=low, ending_before=high).ordinals
        if len(found):
            start = int(found[0]) if start < 0 else start
            stop = int(found[-1]) + 1
    return (start, stop) if stop >= 0 else (0, 0)


def _edges(source: StreamSource, start: int, stop: int, events: int | None) -> list[int]:
    """Where the parts of the ordinals [start, stop) begin and end, balanced by events or by bytes. They never fall."""
    count = stop - start
    if count == 0:
        return [start, stop]
    if events is not None:
        parts = -(-count // events)
        return [start + count * part // parts for part in range(parts + 1)]
    first, last = _before(source, start)[0], _before(source, stop)[0]
    parts = min(-(-(last - first) // BYTES), count)
    edges = [start]
    for part in range(1, parts):
        wanted = first + (last - first) * part // parts
        edges.append(_near(source, wanted, (edges[-1], _before(source, edges[-1])[0]), (stop, last)))
    return [*edges, stop]


def _near(source: StreamSource, wanted: int, low: tuple[int, int], high: tuple[int, int]) -> int:
    """An ordinal whose entry begins near the offset ``wanted``, between two ordinals and their offsets.

    Where events have about one size the first guess is good, so few headers are read.
    """
    bisects = False
    while high[0] - low[0] > 1:
        share = 0.5 if bisects else (wanted - low[1]) / (high[1] - low[1])
        ordinal = min(max(low[0] + int((high[0] - low[0]) * share), low[0] + 1), high[0] - 1)
        offset = _before(source, ordinal)[0]
        if abs(offset - wanted) <= BYTES // 64:
            return ordinal
        if offset < wanted:
            low = ordinal, offset
        else:
            high = ordinal, offset
        bisects = not bisects
    return high[0]
