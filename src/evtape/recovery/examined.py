"""The file of a stream that is verified or recovered: mapped once, its watermark read once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Self

from .. import guard
from ..core.backend import core
from ..core.format import HEADER_SIZE, INT64_MAX
from ..system.files import copies_on_write
from ..system.sidecar import resolved
from .watermark import Watermark, WatermarkFile, matching, torn_from


class Examined:
    """The stream in the descriptor ``fd``, which has to outlive this object.

    ``region`` is for reading. The pure core reads it without a mapping, so a file that is truncated during the walk
    cannot kill the process. Without ``watermark_file`` nothing is taken for torn by a power loss.
    """

    def __init__(self, path: str, fd: int, watermark_file: WatermarkFile | None = None) -> None:
        guard.ensure()
        self.path = path
        self.fd = fd
        self.watermark_file = watermark_file
        self.region = core.Region(fd, os.fstat(fd).st_size, path)
        #: The record in the sidecar, or None. It may not match the stream.
        self.stored: Watermark | None = None
        if watermark_file is not None and self.has_header:
            self.stored = watermark_file.load()
        self._writable: core.Region | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.region.close()
        if self._writable is not None:
            self._writable.close()

    @property
    def has_header(self) -> bool:
        """Whether the file is long enough to be a stream."""
        return self.region.size >= HEADER_SIZE

    @cached_property
    def mark(self) -> Watermark | None:
        """The watermark of the stream, or None when there is none that belongs to it."""
        return matching(self.stored, self.region) if self.has_header else None

    @cached_property
    def torn_from(self) -> int:
        """Where the bytes begin that a power loss may have torn."""
        return torn_from(self.stored, self.region) if self.has_header else INT64_MAX

    def refresh_size(self) -> int:
        """The size of the file now; a live stream may have grown since."""
        self.region.extend(os.fstat(self.fd).st_size)
        return self.region.size

    def writable(self) -> core.Region:
        """A region for repair, made at the first call."""
        if self._writable is None:
            size = os.fstat(self.fd).st_size
            self._writable = core.Region(
                self.fd, size, self.path, writable=True, split_at_pages=copies_on_write(self.fd)
            )
        return self._writable

    def take_writable(self) -> core.Region:
        """The same region for a writer, which closes it. It covers what the file has now."""
        region = self.writable()
        region.extend(os.fstat(self.fd).st_size)
        self._writable = None
        return region


@contextlib.contextmanager
def examining(path: str, fd: int) -> Iterator[Examined]:
    """The stream in ``fd`` with its watermark, for the length of the block."""
    with WatermarkFile(resolved(path), fd) as watermark_file, Examined(path, fd, watermark_file) as file:
        yield file
