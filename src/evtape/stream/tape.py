"""What a reader and a writer have in common: an open stream is a sequence of events."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

from .. import arrow, errors
from ..core import describe
from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..core.times import iso
from ..errors import ReadOnlyError
from .columns import Columns
from .cursor import Cursor
from .flusher import Position
from .follow import Follower, afollow, follow
from .sequence import EventSequence
from .slices import Positions, Slice, is_array, positions_of
from .source import Column, Side, StreamSource
from .wait import StopEvent

_INDEXED_FOR_SHOW = 64 << 20  # bytes up to which a stream is walked so that its repr can say when it ends


class Tape(EventSequence[core.Event], Columns):
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
    @abstractmethod
    def durable(self) -> Position:
        """How far the stream is known to be durable: the events below ``durable.ordinal`` survive power loss. O(1).

        An ``evtape.Position``: the ``ordinal`` of the first event that may be lost, and the ``offset`` of its entry.
        A writer knows of its own flushes. A reader reads what the writer noted in the sidecar after the last flush. A
        stream without a sidecar, such as a small one that was closed, has Position(0, 24) here.
        """

    @property
    def start_timestamp(self) -> int:
        """When the stream was created, ns."""
        return self._source.region.load_header()[2]

    @property
    def first_ordinal(self) -> int:
        """Ordinal of the first event that is left: 0, except in a journal that has deleted events."""
        return self._source.span()[0]

    @property
    def next_ordinal(self) -> int:
        """Ordinal of the next event that is appended. O(new events)."""
        return self._source.span()[1]

    # -------------------------------------------------------------------------------------- sequence

    def __len__(self) -> int:
        return self._source.length()

    @overload
    def __getitem__(self, key: int) -> core.Event: ...
    @overload
    def __getitem__(self, key: slice | Positions) -> Slice: ...
    def __getitem__(self, key: int | slice | Positions) -> core.Event | Slice:
        """Event by ordinal, negative from the end: O(1) with an index file, else after one pass over the headers.

        A slice is lazy and fixed when it is made. A 1-D array or list of ordinals gives a slice of these events, in
        that order.
        """
        if isinstance(key, slice):
            return Slice(self._source, range(len(self))[key])
        if is_array(key):
            return Slice(self._source, positions_of(key, len(self), f"{self.path}: ordinal", "stream"))
        return self._source.at(key)

    def __iter__(self) -> Iterator[core.Event]:
        """All events published at this moment, as ``Event``s; unpack them as ``for timestamp, data in tape``.

        Damage raises CorruptError at its event. After one with reason "checksum" the same iterator can go on with the
        next event.
        """
        return self._source.all_events()

    def __reversed__(self) -> Iterator[core.Event]:
        return reversed(self[:])

    def head(self, n: int) -> Slice:
        return self[:].head(n)

    def tail(self, n: int) -> Slice:
        return self[:].tail(n)

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

    def rows(self, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        return self[:].rows(dtype)

    head.__doc__ = Slice.head.__doc__
    tail.__doc__ = Slice.tail.__doc__
    between.__doc__ = Slice.between.__doc__
    searchsorted.__doc__ = Slice.searchsorted.__doc__
    rows.__doc__ = Slice.rows.__doc__

    # --------------------------------------------------------------------------------------- columns

    @property
    def schema(self) -> np.dtype[Any] | str | None:
        """What the payloads mean: a structured dtype, ``"json"``, ``"text"``, or None for bytes.

        Raises SchemaError if the schema of the stream is damaged; the events are not. O(1).
        """
        schema = self._source.schema()
        return None if schema is None else schema.require_usable().declared

    def _capsule(self, columns: Iterable[str] | None, misfits: arrow.Misfits, requested: Any) -> Any:
        return self[:]._capsule(columns, misfits, requested)

    def __arrow_c_schema__(self) -> Any:
        """The schema of the Arrow table of the events, as a capsule."""
        return arrow.schema_capsule(self._source.schema(), self.path)

    # ---------------------------------------------------------------------------------------- follow

    def follow(
        self,
        start: Any = None,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        spin: float | None = None,
        batch: bool = False,
    ) -> Iterator[Any]:
        """Every event from ``start`` on, exactly once and in order, also those that are published later.

        ``start``: an ordinal, negative from the end; ``"end"``; a time as datetime, datetime64 or ISO 8601 text; or
        None for the first event that is left. ``timeout``: seconds without an event that end the iteration; None waits
        for ever. ``stop_event``: ends the iteration within 50 ms once ``stop_event.is_set()``. ``until``: an ordinal or
        a time, before which the iteration ends, or ``"closed"`` to end with a stream that its writer has closed.
        ``spin``: seconds to look at the stream before each sleep; None looks while events come faster than every 50 us.
        ``batch=True`` yields slices.

        Goes on when a writer closes and opens again, or is killed and recovered. Raises IndexError for a start beyond
        the end, CorruptError at damage, RewoundError if recovery has cut events that were delivered, ReplacedError
        when another file has the name, TruncatedError. O(1) for each event; a writer on the native core wakes a
        follower, any other is looked at every 10 ms.
        """
        follower = self._follower(start, timeout=timeout, stop_event=stop_event, until=until, spin=spin)
        return follow(follower, batch)

    def afollow(
        self,
        start: Any = None,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        spin: float | None = None,
        batch: bool = False,
    ) -> AsyncIterator[Any]:
        """``follow`` for an event loop: ``async for event in tape.afollow(...)``. A thread waits."""
        follower = self._follower(start, timeout=timeout, stop_event=stop_event, until=until, spin=spin)
        return afollow(follower, batch)

    def cursor(self, name: str, *, start: Any = None) -> Cursor:
        """The cursor ``name`` of this stream: a place that a consumer commits, and goes on from when it starts again.

        ``start`` is where a new cursor begins, as in ``follow``. Raises LockedError while another consumer has the
        cursor, CursorError if it is another stream's or stands where recovery has cut, ValueError for a name that
        cannot be one, OSError if the file ``<stream>.cursor-<name>`` cannot be made.
        """
        return self._cursor(name, start)

    def _follower(self, start: Any, **options: Any) -> Follower:
        return Follower(self._source, start, **options)

    def _cursor(self, name: str, start: Any) -> Cursor:
        return Cursor(self._source, name, start)

    # --------------------------------------------------------------------------------------- showing

    def _summary(self) -> dict[str, str]:
        """What the stream is, as text: label to value. O(1) for a large stream without an index."""
        source = self._source
        if source.closed:
            return {"state": "closed"}
        write_offset, events, started = source.region.load_header()
        last = None
        if source.unwalked() <= _INDEXED_FOR_SHOW:
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

        def append_arrow(self, data: Any, *, time: str | None = "time") -> range:
            """Append each row of an Arrow stream as one event; returns their ordinals."""
            raise self._refusal()

        def sync(self) -> None:
            """Make every event appended so far durable."""
            raise self._refusal()

        async def sync_async(self) -> None:
            """``sync`` in a thread."""
            raise self._refusal()
