"""How the index file of a stream comes to be while the stream is written."""

from __future__ import annotations

from typing import Final

from ..core.backend import core
from ..core.format import FIRST_OFFSET
from ..recovery import index_file
from ..recovery.index_file import IndexFile, make_records, position_of

# A writer indexes at most so many bytes that were appended before it: no close should take as long as a walk of a large
# stream. `evtape.build_index` has no such limit.
CATCH_UP_MAX: Final = 256 << 20

_EXTENDED_FROM = 64 << 10  # bytes that are indexed together where no thread does it


class Indexing:
    """Extends the index file of one stream. No failure here reaches the stream: the index stays shorter then.

    The thread of the preallocator makes the records after the writer. Where there is none, they are made when the file
    is extended and at the end. A stream of less than 16 MiB gets an index only if its preallocator has started a
    thread, or if one is there already; ``wanted=True`` makes one for any stream, and ``wanted=False`` none.
    """

    def __init__(self, region: core.Region, file: IndexFile, wanted: bool | None) -> None:
        self._region = region
        self._file = file
        self._wanted = wanted
        self._indexer: core.Indexer | None = None
        self._ended = wanted is False

    def take_over(self, end: int) -> None:
        """Adopt the index of a stream that ends at ``end``, while it has its generation still."""
        try:
            indexer = self._file.adopt(self._region, end)
        except OSError:
            indexer = None
        missing = end - (FIRST_OFFSET if indexer is None else indexer.offset)
        self._ended = self._ended or (missing > CATCH_UP_MAX and not self._wanted)
        if indexer is None:
            self._file.discard()  # nothing in it matches
            self._file.release()
        elif not self._ended:
            self._follow(indexer)

    def restamp(self) -> None:
        """Bind the index to the generation that the stream has now."""
        if self._file.held:
            try:
                self._file.restamp(self._region.load_header()[2])
            except OSError:
                self._give_up()

    def grown(self) -> None:
        """To be called in the slow path of an append: the file was extended."""
        if self._ended or not core.INDEXES:
            return
        region = self._region
        if self._indexer is None and (region.threaded or region.size >= index_file.FROM_SIZE):
            self._create()
        if self._indexer is not None and not region.threaded:
            end = region.load_header()[0]
            if end - self._indexer.offset >= _EXTENDED_FROM:
                self._extend(self._indexer, end, partial=False)

    def finish(self, end: int, durable: bool) -> None:
        """Complete the index of a stream that ends at ``end``, once no thread works on it any more."""
        large = core.INDEXES and end >= index_file.FROM_SIZE
        if self._indexer is None and not self._ended and end > FIRST_OFFSET and (large or self._wanted):
            self._create()
        if self._indexer is not None:
            self._extend(self._indexer, end, partial=True)
        if self._indexer is not None and durable:
            try:
                self._file.flush()
            except OSError:
                pass

    def close(self) -> None:
        """Close the file. It stays."""
        self._indexer = None
        self._ended = True
        self._file.close()

    # ------------------------------------------------------------------------------------------ parts

    def _create(self) -> None:
        try:
            if self._file.create(self._region.load_header()[2]):
                self._follow(core.Indexer(self._region))
                return
        except OSError:
            pass
        self._give_up()

    def _follow(self, indexer: core.Indexer) -> None:
        self._indexer = indexer
        indexer.store_to(self._file.fd, position_of(indexer.block))
        self._region.trail(indexer)

    def _extend(self, indexer: core.Indexer, end: int, *, partial: bool) -> None:
        try:
            indexer.store()
            if indexer.error == 0 and make_records(indexer, end, self._file, partial=partial) >= 0:
                indexer.store_to(self._file.fd, position_of(indexer.block))
                return
        except OSError:
            pass
        self._give_up()

    def _give_up(self) -> None:
        """The file stays as it is, and gets no more records."""
        self._indexer = None
        self._ended = True
