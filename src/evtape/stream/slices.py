"""Questions about many events at once: slices, columns, time queries, rows. A slice holds ordinals, never events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, Self, TypeGuard, TypeVar, overload

import numpy as np
import numpy.typing as npt

from .. import arrow, errors
from ..core import describe
from ..core.backend import core
from ..core.format import TIME_MAX, TIME_MIN
from ..core.times import iso, nanoseconds
from .columns import Columns
from .sequence import EventSequence
from .source import Column, ColumnName, Side, Source, StreamSource

Ordinals = range | npt.NDArray[np.int64]
Positions = npt.NDArray[np.integer[Any]] | list[int]

_CHUNK = 1 << 12  # events that are looked up together
_CHUNK_FIRST = 1 << 4
_DENSE = 32  # the headers of a whole span are read if at least one event in so many is selected
_PASS = 1 << 20  # events per step of a search through an unsorted stream


class _Event(Protocol):
    """What a selection asks of its events."""

    @property
    def timestamp(self) -> int: ...
    @property
    def data(self) -> memoryview: ...


E = TypeVar("E", bound=_Event)


class Selection(EventSequence[E]):
    """The queries of slices, whatever kind of events is in them."""

    def __init__(self, source: Source, ordinals: Ordinals) -> None:
        self._source = source
        self._ordinals = ordinals

    def _summary(self) -> dict[str, str]:
        """What the slice is, as text: label to value."""
        rows = {"events": f"{len(self):,}"}
        if len(self):
            rows["ordinals"] = f"{self._ordinals[0]:,} to {self._ordinals[-1]:,}"
            rows |= {"first event": iso(self[0].timestamp), "last event": iso(self[-1].timestamp)}
        return rows

    def __repr__(self) -> str:
        try:
            rows = self._summary()
        except Exception as error:  # noqa: BLE001 - a repr shows what it can
            return f"<evtape slice of {self._source.path!r}: {len(self):,} events, {type(error).__name__}>"
        return describe.line("slice", self._source.path, rows)

    def _repr_html_(self) -> str:
        return describe.table("slice", self._source.path, self._summary())

    @property
    def ordinals(self) -> Ordinals:
        """The ordinals of the events: a range, or an int64 array where a time query met an unsorted stream."""
        return self._ordinals

    def __len__(self) -> int:
        return len(self._ordinals)

    @overload
    def __getitem__(self, key: int) -> E: ...
    @overload
    def __getitem__(self, key: slice | Positions) -> Self: ...
    def __getitem__(self, key: int | slice | Positions) -> E | Self:
        if isinstance(key, slice):
            return type(self)(self._source, self._ordinals[key])
        if is_array(key):
            positions = positions_of(key, len(self), f"{self._source.path}: position", "slice")
            ordinals = self._ordinals
            if isinstance(ordinals, range):
                return type(self)(self._source, ordinals.start + positions * ordinals.step)
            return type(self)(self._source, ordinals[positions])
        position: Any = key
        try:
            ordinal = int(self._ordinals[position])
        except IndexError:
            raise IndexError(f"{self._source.path}: index {key} is outside a slice of {len(self)} events") from None
        event: E = self._source.event(ordinal)
        return event

    def __iter__(self) -> Iterator[E]:
        ordinals = self._ordinals
        if isinstance(ordinals, range) and ordinals.step == 1:
            return self._source.events(ordinals.start, ordinals.stop)
        return _Scattered(self._source, ordinals)

    def __reversed__(self) -> Iterator[E]:
        return iter(self[::-1])

    def head(self, n: int) -> Self:
        """The first ``n`` events, or all if there are fewer, as a slice. O(1)."""
        return self[: _count(n, self._source.path)]

    def tail(self, n: int) -> Self:
        """The last ``n`` events, or all if there are fewer, as a slice. O(1)."""
        return self[max(0, len(self) - _count(n, self._source.path)) :]

    def gather(self) -> tuple[Column, npt.NDArray[np.uint8]]:
        """The payloads of all events, copied end to end in the order of this slice: (offsets, data).

        Payload ``i`` is ``data[offsets[i] : offsets[i + 1]]``. ``offsets`` is int64, shape (len + 1,), ``data`` uint8.
        Raises CorruptError if a checksum does not match. O(bytes), one native call.
        """
        return self._source.gather(_as_array(self._ordinals))

    # --------------------------------------------------------------------------------------- columns

    @property
    def timestamps(self) -> Column:
        """Timestamps, int64 ns, shape (len,), read-only. One pass over the headers."""
        return self._column("timestamps")

    @property
    def sizes(self) -> Column:
        """Payload sizes in bytes, int64, shape (len,), read-only. One pass over the headers."""
        return self._column("sizes")

    @property
    def offsets(self) -> Column:
        """Byte positions of the entries, int64, shape (len,), read-only. One pass over the headers."""
        return self._column("offsets")

    def _column(self, name: ColumnName) -> Column:
        low, high = self._span()
        if isinstance(self._ordinals, range) or high - low <= _DENSE * len(self._ordinals):
            return self._pick(self._source.column(name, low, high), low)
        values = self._source.headers_at(self._ordinals)[("offsets", "timestamps", "sizes").index(name)]
        values.flags.writeable = False
        return values

    def _span(self) -> tuple[int, int]:
        """The smallest [low, high) of ordinals that holds them all."""
        ordinals = self._ordinals
        if len(ordinals) == 0:
            return 0, 0
        if isinstance(ordinals, np.ndarray):
            return int(ordinals.min()), int(ordinals.max()) + 1
        first, last = ordinals[0], ordinals[-1]
        return min(first, last), max(first, last) + 1

    def _pick(self, values: npt.NDArray[Any], low: int) -> npt.NDArray[Any]:
        """The elements of ``values``, which belong to the ordinals from ``low`` on, that are this slice's.

        A range copies nothing.
        """
        ordinals = self._ordinals
        if isinstance(ordinals, range):
            if len(ordinals) == 0:
                return values[:0]
            stop = ordinals.stop - low  # below 0 where a step backwards takes the first one too
            return values[ordinals.start - low : stop if stop >= 0 else None : ordinals.step]
        return values[ordinals - low]

    # ---------------------------------------------------------------------------------- time queries

    def between(
        self, *, starting_at: Any = None, starting_after: Any = None, ending_before: Any = None, ending_at: Any = None
    ) -> Self:
        """The events of a time window, as a slice. Times are int ns, datetime or datetime64.

        ``starting_at`` and ``ending_at`` include their time, ``starting_after`` and ``ending_before`` do not. O(log
        n) on a sorted stream. On one whose timestamps go backwards the events keep their order in the stream, and the
        headers of all blocks are read in which the index file says that such a time can be; without one, all headers.
        """
        if starting_at is not None and starting_after is not None:
            raise TypeError("give starting_at or starting_after, not both")
        if ending_before is not None and ending_at is not None:
            raise TypeError("give ending_before or ending_at, not both")
        path = self._source.path
        # As int64 limits, both included; Python's integers do not wrap around at the ends of int64.
        low = nanoseconds(starting_at, path) if starting_at is not None else None
        if starting_after is not None:
            low = nanoseconds(starting_after, path) + 1
        high = nanoseconds(ending_at, path) if ending_at is not None else None
        if ending_before is not None:
            high = nanoseconds(ending_before, path) - 1
        if (low is not None and low > TIME_MAX) or (high is not None and high < TIME_MIN):
            return type(self)(self._source, range(0))
        found = self._window(low, high)
        if found is not None:
            return type(self)(self._source, found)
        if self._is_sorted():
            start = 0 if low is None else self._search(low, "left")
            stop = len(self) if high is None else self._search(high, "right")
            return type(self)(self._source, self._ordinals[start : max(start, stop)])
        return type(self)(self._source, self._matching(low, high))

    def searchsorted(self, when: Any, side: Side = "left") -> int:
        """Position in this sequence where an event at ``when`` belongs, as ``numpy.searchsorted``. O(log n).

        Raises ValueError when timestamps go backwards, because there is no such position then; ``between`` answers
        there too.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', not {side!r}")
        time = nanoseconds(when, self._source.path)
        found = self._window(time, None) if side == "left" else self._window(None, time)
        if found is not None:
            ordinals = self._ordinals
            assert isinstance(ordinals, range)
            return (found.start if side == "left" else found.stop) - ordinals.start
        if not self._is_sorted():
            raise ValueError(f"{self._source.path}: timestamps go backwards, so there is no position; use between()")
        return self._search(time, side)

    def _window(self, low: int | None, high: int | None) -> range | None:
        """The ordinals of a time window, where the source finds them without a look at each event."""
        ordinals = self._ordinals
        if not isinstance(ordinals, range) or ordinals.step != 1:
            return None
        return self._source.window(low, high, ordinals.start, max(ordinals.start, ordinals.stop))

    def _is_sorted(self) -> bool:
        ordinals = self._ordinals
        if not isinstance(ordinals, range) or ordinals.step < 0:
            return False
        at = self._source.unsorted_at()
        if at < 0 or len(ordinals) == 0 or at > ordinals[-1]:
            return True
        if ordinals.step == 1 and at > ordinals.start:
            return False
        timestamps = self.timestamps
        return bool((timestamps[1:] >= timestamps[:-1]).all())

    def _search(self, when: int, side: Side) -> int:
        ordinals = self._ordinals
        assert isinstance(ordinals, range)
        if self._source.unsorted_at() < 0 and ordinals.step == 1:
            return min(max(self._source.search(when, side) - ordinals.start, 0), len(ordinals))
        return int(np.searchsorted(self.timestamps, when, side))

    def _matching(self, low: int | None, high: int | None) -> Ordinals:
        found: list[Column] = []
        for part in self._candidates(TIME_MIN if low is None else low, TIME_MAX if high is None else high):
            timestamps = part.timestamps
            keep = np.ones(len(timestamps), bool)
            if low is not None:
                keep &= timestamps >= low
            if high is not None:
                keep &= timestamps <= high
            found.append(np.asarray(part._ordinals, np.int64)[keep])
        ordinals = np.concatenate(found) if found else np.empty(0, np.int64)
        if len(ordinals) and int(ordinals[-1] - ordinals[0]) == len(ordinals) - 1:
            return range(int(ordinals[0]), int(ordinals[-1]) + 1)
        return ordinals

    def _candidates(self, low: int, high: int) -> Iterator[Self]:
        """Parts of this slice that together hold every event from ``low`` to ``high``."""
        ordinals = self._ordinals
        spans = [(0, len(self))]
        if isinstance(ordinals, range) and ordinals.step == 1:
            known = self._source.candidates(low, high, ordinals.start, ordinals.stop)
            spans = [(start - ordinals.start, stop - ordinals.start) for start, stop in known]
        for begin, end in spans:
            for start in range(begin, end, _PASS):
                yield self[start : min(start + _PASS, end)]

    # ------------------------------------------------------------------------------------------ rows

    def rows(self, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """Events of one size as one array of ``dtype``, shape (len, *dtype.shape), strided over the mapping: no copy,
        read-only. Without ``dtype`` as the schema of the stream says.

        Raises ValueError when an event is not ``dtype.itemsize`` bytes, CorruptError when a checksum does not match.
        One pass over the events. (A slice that is not a range is copied; the pure core always copies.)
        """
        kind = self._kind(dtype)
        if kind.hasobject:
            raise ValueError(f"{self._source.path}: dtype {kind} holds Python objects, which are not in a file")
        if isinstance(self._ordinals, range) and len(self):
            low, high = self._span()
            whole = self._source.column("sizes", low, high)
            if (whole == kind.itemsize).all():
                return self._pick(self._source.rows(low, high, kind), low)
            sizes = self._pick(whole, low)
        else:
            sizes = self._column("sizes")
        wrong = np.flatnonzero(sizes != kind.itemsize)
        if len(wrong):
            at = int(wrong[0])
            raise ValueError(
                f"{self._source.path}: event {int(self._ordinals[at])} has {int(sizes[at])} bytes, "
                f"but dtype {kind} has {kind.itemsize}"
            )
        if len(self) == 0:
            return np.empty((0, *kind.shape), kind.base)
        _, data = self.gather()  # others may lie between the selected ones, so there is no common stride
        data.flags.writeable = False
        return (
            data.view(kind.base).reshape(len(self), *kind.shape)
            if kind.itemsize
            else np.empty((len(self), *kind.shape), kind.base)
        )

    def _kind(self, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
        if dtype is None:
            raise errors.no_schema(self._source.path)
        return np.dtype(dtype)


class _Scattered(Iterator[E]):
    """The events of ordinals that do not follow each other, a chunk at a time.

    Not a generator, which a CorruptError would end: the next event can be asked for.
    """

    def __init__(self, source: Source, ordinals: Ordinals) -> None:
        self._source = source
        self._ordinals = ordinals
        self._taken = 0
        self._chunk = _CHUNK_FIRST
        self._events: Iterator[E] = iter(())

    def __next__(self) -> E:
        while True:
            try:
                return next(self._events)
            except StopIteration:
                part = self._ordinals[self._taken : self._taken + self._chunk]
            if len(part) == 0:
                raise StopIteration
            self._taken += len(part)
            self._chunk = _CHUNK
            self._events = self._source.events_at(_as_array(part))


def is_array(key: Any) -> TypeGuard[Positions]:
    """Whether a key stands for several positions: an array or a list, and not a number."""
    return isinstance(key, list) or (isinstance(key, np.ndarray) and key.ndim > 0)


def positions_of(key: Positions, length: int, what: str, of: str) -> Column:
    """The positions that ``key`` means in a sequence of ``length`` elements, negative ones from its end."""
    given = np.asarray(key)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        hint = "; for a mask give numpy.flatnonzero(mask)" if given.dtype.kind == "b" else ""
        raise TypeError(
            f"{what} must be an int, a slice or a 1-D array of ints, not {given.ndim}-D {given.dtype}{hint}"
        )
    wrong = np.flatnonzero((given >= length) | (given < -length))
    if len(wrong):
        raise IndexError(f"{what} {given[wrong[0]]} is outside a {of} of {length} events")
    positions = given.astype(np.int64)
    return np.where(positions < 0, positions + length, positions)


def _count(n: int, path: str) -> int:
    if n < 0:
        raise ValueError(f"{path}: n must be 0 or more events, not {n}")
    return n


def _as_array(ordinals: Ordinals) -> Column:
    if isinstance(ordinals, range):
        return np.arange(ordinals.start, ordinals.stop, ordinals.step, dtype=np.int64)
    return np.ascontiguousarray(ordinals)


class Slice(Selection[core.Event], Columns):
    """A lazy, fixed selection of events of one stream, in ordinal order of the slice. Pickles as path and range.

    Made by ``tape[a:b:c]`` and ``tape.between(...)``; has the same queries as the tape itself.
    """

    _source: StreamSource

    def _kind(self, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
        schema = self._source.schema() if dtype is None else None
        return super()._kind(dtype if schema is None else schema.require_usable().dtype)

    def _capsule(self, columns: Iterable[str] | None, misfits: arrow.Misfits, requested: Any) -> Any:
        table = arrow.asked_table(self._source.schema(), self._source.path, misfits, columns, requested)
        return self._source.batches(self, table, misfits)

    def __arrow_c_schema__(self) -> Any:
        """The schema of the Arrow table of the events, as a capsule."""
        return arrow.schema_capsule(self._source.schema(), self._source.path)
