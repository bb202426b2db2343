"""What a writer holds of a stream, and how it is given up."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

from .. import errors
from ..core.backend import core
from ..recovery.report import Report
from ..recovery.watermark import WatermarkFile
from ..system.live import LiveFile
from ..system.lock import WriterLock


@dataclass(frozen=True)
class OpenedStream:
    """A stream that is locked and mapped, ready for a writer."""

    lock: WriterLock
    fd: int
    region: core.Region
    watermark_file: WatermarkFile
    recovered: Report | None = None  #: what opening found and repaired; None for a stream that was just made

    def close(self) -> None:
        """Close everything and release the lock, even if a step fails."""
        with contextlib.ExitStack() as steps:
            steps.callback(self.lock.release)
            steps.callback(os.close, self.fd)
            steps.callback(self.watermark_file.close)
            steps.callback(self.region.close)

    def finish(self, path: str, live: LiveFile, end: int | None, durable: bool) -> None:
        """The same at the end of a writer: cut the file to ``end`` bytes before; None leaves it as it is."""
        with contextlib.ExitStack() as steps:
            steps.callback(self.close)
            live.remove()
            live.close()
            self.region.close()
            if end is not None:
                cut(path, self.fd, end, durable=durable)


def cut(path: str, fd: int, end: int, durable: bool) -> None:
    """Shorten the file to its events, which marks it as closed cleanly."""
    try:
        os.ftruncate(fd, end)
        if durable:
            os.fsync(fd)
    except OSError as error:
        # Windows refuses while a view is alive; the next open for append cuts. Not yet run.
        if os.name == "nt" and isinstance(error, PermissionError):
            return
        raise errors.with_path(error, path, f"cutting the file to its {end} bytes") from None
