"""Questions about many events at once: slices, columns, time queries, rows. A slice holds ordinals, never events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ..core import describe
from ..core.backend import core
from ..core.format import TIME_MAX, TIME_MIN
from ..core.times import iso, nanoseconds
from .source import Column, ColumnName, Side, Source

Ordinals = range | npt.NDArray[np.int64]

_PASS = 1 << 20  # events per step of a search through an unsorted stream


class Slice(Sequence[core.Event]):
    """A lazy, fixed selection of events of one stream, in ordinal order of the slice. Pickles as path and range.

    Made by ``tape[a:b:c]`` and ``tape.between(...)``; has the same queries as the tape itself.
    """

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
    def __getitem__(self, key: int) -> core.Event: ...
    @overload
    def __getitem__(self, key: slice) -> Slice: ...
    def __getitem__(self, key: int | slice) -> core.Event | Slice:
        if isinstance(key, slice):
            return Slice(self._source, self._ordinals[key])
        try:
            ordinal = int(self._ordinals[key])
        except IndexError:
            raise IndexError(f"{self._source.path}: index {key} is outside a slice of {len(self)} events") from None
        return self._source.event(ordinal)

    def __iter__(self) -> Iterator[core.Event]:
        ordinals = self._ordinals
        if isinstance(ordinals, range) and ordinals.step == 1:
            return self._source.events(ordinals.start, ordinals.stop)
        # Not a generator, which a CorruptError would end: the next event can be asked for.
        return map(self._source.event, map(int, ordinals))

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
        return self._pick(self._source.column(name, low, high), low)

    def _span(self) -> tuple[int, int]:
        """The smallest [low, high) of ordinals that holds them all."""
        ordinals = self._ordinals
        if len(ordinals) == 0:
            return 0, 0
        first, last = int(ordinals[0]), int(ordinals[-1])
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
    ) -> Slice:
        """The events of a time window, as a slice. Times are int ns, datetime or datetime64.

        ``starting_at`` and ``ending_at`` include their time, ``starting_after`` and ``ending_before`` do not. O(log
        n) on a sorted stream; on one whose timestamps go backwards one pass over the headers, and the events keep
        their order in the stream.
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
            return Slice(self._source, range(0))
        if self._is_sorted():
            start = 0 if low is None else self._search(low, "left")
            stop = len(self) if high is None else self._search(high, "right")
            return Slice(self._source, self._ordinals[start : max(start, stop)])
        return Slice(self._source, self._matching(low, high))

    def searchsorted(self, when: Any, side: Side = "left") -> int:
        """Position in this sequence where an event at ``when`` belongs, as ``numpy.searchsorted``. O(log n).

        Raises ValueError when timestamps go backwards, because there is no such position then; ``between`` answers
        there too.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', not {side!r}")
        if not self._is_sorted():
            raise ValueError(f"{self._source.path}: timestamps go backwards, so there is no position; use between()")
        return self._search(nanoseconds(when, self._source.path), side)

    def _is_sorted(self) -> bool:
        ordinals = self._ordinals
        if not isinstance(ordinals, range) or ordinals.step < 0:
            return False
        at = self._source.unsorted_at()
        if at < 0 or len(ordinals) == 0 or at > ordinals[-1]:
            return True
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
        for start in range(0, len(self), _PASS):
            part = self[start : start + _PASS]
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

    # ------------------------------------------------------------------------------------------ rows

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Events of one size as one array of ``dtype``, shape (len, *dtype.shape), strided over the mapping: no copy,
        read-only.

        Raises ValueError when an event is not ``dtype.itemsize`` bytes, CorruptError when a checksum does not match.
        One pass over the events. (A slice that is not a range is copied; the pure core always copies.)
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ValueError(f"{self._source.path}: dtype {kind} holds Python objects, which are not in a file")
        low, high = self._span()
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
        whole = self._source.column("sizes", low, high)
        if (whole != kind.itemsize).any():  # others lie between the selected ones, so there is no common stride
            gathered = b"".join(event.data for event in self)
            return np.frombuffer(gathered, kind.base).reshape(len(self), *kind.shape)
        return self._pick(self._source.rows(low, high, kind), low)
