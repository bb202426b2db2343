"""What a reader and a writer have in common: an open stream is a sequence of events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy.typing as npt

from .. import errors
from ..core import describe
from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..core.times import iso
from ..errors import ReadOnlyError
from .slices import Slice
from .source import Column, Side, StreamSource

_INDEXED_FOR_SHOW = 64 << 20  # bytes up to which a stream is walked so that its repr can say when it ends


class Tape(Sequence[core.Event]):
    """A stream that is open.

    A question is answered for what is published at that moment. ``len``, indexing and time queries rest on an index
    that is built in one pass at the first of them and extended by what is new afterwards.
    """

    _source: StreamSource = None  # type: ignore[assignment] # until there is one

    @property
    def path(self) -> str:
        """The stream's file name."""
        return self._source.path

    @property
    def verify_checksums(self) -> bool:
        """Whether a checksum is compared when a payload is handed out."""
        return self._source.verify_checksums

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        source: StreamSource | None = self._source
        return source is None or source.closed

    @abstractmethod
    def close(self) -> None:
        """Close the stream. Events and arrays that are still alive stay readable. Closing twice is fine."""

    @property
    def start_timestamp(self) -> int:
        """When the stream was created, ns."""
        return self._source.region.load_header()[2]

    # -------------------------------------------------------------------------------------- sequence

    def __len__(self) -> int:
        return self._source.length()

    @overload
    def __getitem__(self, key: int) -> core.Event: ...
    @overload
    def __getitem__(self, key: slice) -> Slice: ...
    def __getitem__(self, key: int | slice) -> core.Event | Slice:
        """Event by ordinal, negative from the end: O(1) after the first.

        A slice is lazy and fixed when it is made.
        """
        if isinstance(key, slice):
            return Slice(self._source, range(len(self))[key])
        return self._source.at(key)

    def __iter__(self) -> Iterator[core.Event]:
        """All events published at this moment, as ``Event``s; unpack them as ``for timestamp, data in tape``.

        Damage raises CorruptError at its event. After one with reason "checksum" the same iterator can go on with the
        next event.
        """
        return self._source.all_events()

    @property
    def timestamps(self) -> Column:
        """Timestamps, int64 ns, shape (len,), read-only. One pass over the headers."""
        return self[:].timestamps

    @property
    def sizes(self) -> Column:
        """Payload sizes in bytes, int64, shape (len,), read-only. One pass over the headers."""
        return self[:].sizes

    @property
    def offsets(self) -> Column:
        """Byte positions of the entries, int64, shape (len,), read-only. One pass over the headers."""
        return self[:].offsets

    def between(
        self, *, starting_at: Any = None, starting_after: Any = None, ending_before: Any = None, ending_at: Any = None
    ) -> Slice:
        return self[:].between(
            starting_at=starting_at, starting_after=starting_after, ending_before=ending_before, ending_at=ending_at
        )

    def searchsorted(self, when: Any, side: Side = "left") -> int:
        return self[:].searchsorted(when, side)

    def rows(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return self[:].rows(dtype)

    between.__doc__ = Slice.between.__doc__
    searchsorted.__doc__ = Slice.searchsorted.__doc__
    rows.__doc__ = Slice.rows.__doc__

    # --------------------------------------------------------------------------------------- showing

    def _summary(self) -> dict[str, str]:
        """What the stream is, as text: label to value. O(1) for a large stream that was not indexed yet."""
        source = self._source
        if source.closed:
            return {"state": "closed"}
        write_offset, events, started = source.region.load_header()
        last = None
        if write_offset <= _INDEXED_FOR_SHOW or source.index.length == events:
            events = source.length()
            last = source.index.last_timestamp if events else None
        rows = {"events": f"{events:,}", "bytes": f"{write_offset:,}", "created": iso(started)}
        if write_offset > FIRST_OFFSET and events:
            rows["first event"] = iso(next(source.all_events()).timestamp)
        if last is not None:
            rows["last event"] = iso(last)
        return rows

    def __repr__(self) -> str:
        kind = type(self).__name__.lower()
        if self.closed:
            return f"<evtape {kind} of {self.path!r}, closed>"
        try:
            return describe.line(kind, self.path, self._summary())
        except Exception as error:  # noqa: BLE001 - a repr shows what it can
            return f"<evtape {kind} of {self.path!r}: {type(error).__name__}>"

    def _repr_html_(self) -> str:
        return describe.table(type(self).__name__.lower(), self.path, self._summary())

    # --------------------------------------------------------------------------------------- writing

    def _refusal(self) -> Exception:
        """Why this tape cannot be written."""
        if self.closed:
            return errors.closed(self.path)
        return ReadOnlyError(f"{self.path}: the stream is open for reading; open it with mode 'a' to append")

    if not TYPE_CHECKING:  # a type checker reports the call, and a running program says why it fails

        def append(self, data: Any, timestamp: Any = None) -> int:
            """Append one event; returns its ordinal."""
            raise self._refusal()

        def append_many(self, payloads: Any, timestamps: Any = None) -> range:
            """Append a batch; returns its ordinals."""
            raise self._refusal()

        def append_array(self, array: Any, timestamps: Any = None) -> range:
            """Append a batch, one event per row; returns its ordinals."""
            raise self._refusal()

        def sync(self) -> None:
            """Make every event appended so far durable."""
            raise self._refusal()
