"""The next segment: made ahead under a temporary name, so that a roll only gives it its name."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import guard
from ..core.backend import core
from ..core.format import FIRST_OFFSET, HEADER
from ..stream.create import start_stream
from ..stream.opened import OpenedStream
from ..system.files import DISK_FULL, new_file
from ..system.live import LiveFile
from .directory import Directory, next_name

_POPULATED: int = 1 << 20  # bytes of a segment that are prepared before it is used, where no preallocator does more


@dataclass
class Spare:
    """A segment without events and without a name."""

    directory: Directory
    temporary: str  #: its path
    opened: OpenedStream
    live: LiveFile
    page: core.LivePage | None  #: for its followers

    def give_name(self, first: int) -> None:
        """Make it the segment whose first ordinal is ``first``. Raises OSError, and it can be tried again."""
        path = self.directory.segment(first)
        if os.path.lexists(path):
            raise FileExistsError(17, "a file has the name of the next segment; move it away", path)
        self.opened.watermark_file.move(path)  # before the segment itself has its name, as docs/format.md says
        self.live.move(path)  # so that a follower that goes on there is woken from the first event on
        os.rename(self.temporary, path)
        self.opened.lock.path = path

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary)
        self.opened.watermark_file.discard()
        self.live.remove()
        self.live.close()
        self.opened.close()


def make_spare(directory: Directory, durable: bool, prepare: Callable[[core.Region], None]) -> Spare:
    """Make, lock and map the next segment. ``prepare`` preallocates its space; a full disk there is no failure yet."""
    guard.ensure()
    temporary = directory.file(next_name())
    header = HEADER.pack(FIRST_OFFSET, 0, time.time_ns())
    with contextlib.ExitStack() as undo:
        fd = new_file(temporary)
        undo.callback(_unlink, temporary)
        try:
            opened = start_stream(temporary, temporary, fd, header, durable, directory.path)
            undo.callback(opened.close)
            undo.callback(opened.watermark_file.discard)
            if durable:
                os.fsync(fd)  # while it is small
        finally:
            os.close(fd)
        try:
            prepare(opened.region)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
        live = opened.watermark_file.live_file(opened.region.load_header()[2])
        page = live.offer()
        undo.pop_all()
    return Spare(directory, temporary, opened, live, page)


def prepare_some(region: core.Region) -> None:
    """Preallocate the beginning of a segment."""
    wanted = min(_POPULATED, region.bound)
    if wanted > region.size:
        region.grow(wanted)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
