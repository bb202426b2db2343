"""Cursors: a named place in a stream, from which a consumer goes on when it starts again.

A cursor is the file ``<name>.cursor-<id>`` next to the stream, one record of 64 bytes. It states the identity of the
stream, the place, and what lies directly before the place. So a cursor that does not fit its stream is noticed.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Self

from .. import errors
from ..core.backend import core
from ..core.format import ENTRY, FIRST_OFFSET
from ..errors import CursorError
from ..recovery.watermark import anchor
from ..system.files import WRITE, open_descriptor, sync_directory, write_all
from ..system.lock import WriterLock
from ..system.sidecar import resolved
from .follow import Follower, first_ordinal, follow
from .source import StreamSource
from .wait import StopEvent

MAGIC: Final = b"evtape\0c"
VERSION: Final = 1
# magic version checksum start_timestamp ordinal offset header anchor
_RECORD = struct.Struct("<8sIIqqq16sI4x")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUSY = "another consumer has this cursor open; close it, or give this one another name"


class _Place(NamedTuple):
    """What a record says."""

    start_timestamp: int
    ordinal: int  # of the next event
    offset: int  # where its entry begins
    header: bytes  # of the event before it
    anchor: int  # of the bytes before it, as a watermark's


class Cursor:
    """A named place in a stream; one consumer at a time has it. Made by ``tape.cursor(name)``.

    ``commit()`` notes that the events handed out so far are processed. A consumer that starts again gets the events
    after the last commit: each event at least once. ``cursor.name`` is its name, ``cursor.path`` its file.
    """

    def __init__(self, source: StreamSource, name: str, start: Any) -> None:
        if not _NAME.fullmatch(str(name)):
            raise ValueError(
                f"{source.path}: a cursor's name has 1 to 64 letters, digits, '.', '_' or '-', and begins with a "
                f"letter or digit; not {name!r}"
            )
        if not source.has_file:
            raise errors.in_memory(source.path)
        self.name = name
        self._source = source
        self.path = self._path_of(name)
        self._fd = -1
        with contextlib.suppress(FileExistsError):
            os.close(open_descriptor(self.path, WRITE | os.O_CREAT | os.O_EXCL))
        self._lock = WriterLock(self.path, _BUSY)
        try:
            self._fd = open_descriptor(self.path, WRITE)
            data = os.read(self._fd, _RECORD.size + 1)
            self._committed = self._parsed(data) if data else self._at(first_ordinal(self._source, start))
            if not data:
                self._store(self._committed)
        except BaseException:
            self.close()
            raise
        self._place = self._committed

    def _path_of(self, name: str) -> str:
        return path_of(self._source.name, name)

    def _follower(self, **options: Any) -> Follower:
        return Follower(self._source, self._place.ordinal, **options)

    def _end(self) -> int:
        """Ordinal of the next event that will be published."""
        return self._source.span()[1]

    def _write_offset(self) -> int:
        return self._source.region.load_header()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the cursor for another consumer, which gets the events that were not committed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        self._lock.release()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._fd < 0

    # ---------------------------------------------------------------------------------------- events

    @property
    def ordinal(self) -> int:
        """Ordinal of the next event that is handed out."""
        return self._place.ordinal

    @property
    def committed(self) -> int:
        """Ordinal of the first event that is not committed."""
        return self._committed.ordinal

    @property
    def lag(self) -> int:
        """How many published events are not committed."""
        return self._end() - self._committed.ordinal

    def __iter__(self) -> Iterator[core.Event]:
        """The events from the place on that are published now."""
        return self.follow(until=self._end())

    def follow(
        self,
        *,
        timeout: float | None = None,
        stop_event: StopEvent | None = None,
        until: Any = None,
        spin: float | None = None,
    ) -> Iterator[core.Event]:
        """The events from the place on, also those that are published later; see ``Tape.follow``."""
        self._require_open()
        follower = self._follower(timeout=timeout, stop_event=stop_event, until=until, spin=spin)
        return self._handed_out(follow(follower, batch=False))

    def _handed_out(self, events: Iterator[core.Event]) -> Iterator[core.Event]:
        for event in events:
            self._require_open()
            header = ENTRY.pack(event.timestamp, len(event.data), event.checksum)
            self._place = self._place._replace(ordinal=event.ordinal + 1, header=header)
            yield event

    # ---------------------------------------------------------------------------------------- commit

    def commit(self, *, durable: bool = False) -> None:
        """Note that every event that was handed out is processed. It survives the death of the process. O(1).

        ``durable``: power loss too; the stream is flushed up to here first. Raises OSError if the record cannot be
        stored, RewoundError if the stream was cut and other events are there; the last commit still counts then.
        """
        self._require_open()
        place = self._at(self._place.ordinal)
        if place.header != self._place.header:  # another event is there than the one that was handed out
            raise errors.rewound(self._source.path, place.offset, self._write_offset())
        if durable:
            self._flush(place)
        self._store(place)
        if durable:
            os.fsync(self._fd)
            sync_directory(os.path.dirname(self.path))  # the file may be new
        self._committed = place

    def _flush(self, place: _Place) -> None:
        """Make the events before the place durable."""
        self._source.flush_to_disk()

    def seek(self, start: Any) -> None:
        """Go to ``start`` (as in ``Tape.follow``) without a commit."""
        self._require_open()
        self._place = self._at(first_ordinal(self._source, start))

    def _at(self, ordinal: int) -> _Place:
        """The place before event ``ordinal``."""
        source = self._source
        offset, (_, header) = source.before(ordinal)
        return _Place(source.region.load_header()[2], ordinal, offset, header, anchor(source.region, offset))

    def _store(self, place: _Place) -> None:
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            write_all(self._fd, _packed(place))
        except OSError as error:
            raise errors.with_path(error, self.path, "storing the place of the cursor") from None

    def _parsed(self, data: bytes) -> _Place:
        place = parsed(data)
        if place is None:
            raise CursorError(
                f"{self.path}: this file is not a cursor, or is damaged; delete it to begin again at the start, "
                "or rename it"
            )
        reason = self._misfit(place)
        if reason:
            raise CursorError(
                f"{self.path}: the cursor stands before event {place.ordinal}, and {reason}. Decide where to go on: "
                "delete this file, and open the cursor with start=ORDINAL"
            )
        return place

    def _misfit(self, place: _Place) -> str:
        """Why the place is not one of the stream; empty if it is."""
        source = self._source
        if place.start_timestamp != source.region.load_header()[2]:
            return f"{source.path} is another stream now"
        events = source.length()
        if place.ordinal > events:
            return f"the stream has {events} events now, because recovery has cut it"
        if self._at(place.ordinal) != place:
            return "the events before it are not the ones that were delivered, because recovery has cut the stream"
        return ""

    def _require_open(self) -> None:
        if self.closed:
            raise errors.closed(self.path)


def path_of(stream: str, name: str) -> str:
    """The file of the cursor ``name``."""
    return f"{resolved(stream)}.cursor-{name}"


def _packed(place: _Place) -> bytes:
    record = _RECORD.pack(MAGIC, VERSION, 0, *place)
    return _RECORD.pack(MAGIC, VERSION, core.crc32(record), *place)


def parsed(data: bytes) -> _Place | None:
    """The place in the record ``data``, or None for anything else."""
    if len(data) != _RECORD.size or not data.startswith(MAGIC):
        return None
    place = _Place(*_RECORD.unpack(data)[3:])
    if place.offset < FIRST_OFFSET or place.ordinal < 0 or _packed(place) != data:
        return None
    return place if place.ordinal else place._replace(header=b"")


def cursors_of(stream: str) -> dict[str, int | None]:
    """The cursors next to a stream: name to the ordinal of the next event, None for one that is damaged. O(files)."""
    directory, base = os.path.split(resolved(stream))
    prefix = f"{base}.cursor-"
    found: dict[str, int | None] = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith(prefix) and _NAME.fullmatch(name[len(prefix) :]):
            with contextlib.suppress(OSError), open(os.path.join(directory, name), "rb") as file:
                place = parsed(file.read(_RECORD.size + 1))
                found[name[len(prefix) :]] = None if place is None else place.ordinal
    return found
