"""The page that the followers of a stream share with its writer, so that an append wakes those that sleep.

It lies in the file ``<name>.live``, next to the stream, while a writer has the stream open. Nothing in it is needed for
correctness. Without it a follower looks at the stream now and then.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from ..core.backend import core
from .sidecar import SidecarFile

SUFFIX: Final = ".live"
MAGIC: Final = b"evtape\0l"
VERSION: Final = 1
_IDENTITY = struct.Struct("<8sIIQQq16x")  # magic version checksum device inode start_timestamp
_SIZE: Final = 4096

assert _IDENTITY.size <= 64


class LiveFile:
    """The file of one stream that is open.

    ``path`` is the resolved path of the stream and ``stream`` its descriptor, which has to outlive this object.
    ``beside`` is as in `SidecarFile`.
    """

    def __init__(self, path: str, stream: int, start_timestamp: int, beside: SidecarFile | None = None) -> None:
        self._file = SidecarFile(path, SUFFIX, MAGIC, stream, beside)
        status = os.fstat(stream)
        fields = status.st_dev, status.st_ino, start_timestamp
        checksum = core.crc32(_IDENTITY.pack(MAGIC, VERSION, 0, *fields))
        self._identity = _IDENTITY.pack(MAGIC, VERSION, checksum, *fields)
        self._path = path
        self._stream = stream

    def offer(self) -> core.LivePage | None:
        """For a writer: the page, made if there is none. None if it cannot be made; then no follower is woken."""
        if not core.SLEEPS:
            if self._adopt():  # the page of a writer that was killed says that followers are woken
                self.remove()
            return None
        try:
            if self._create() or self._adopt() or self._replace():
                return core.LivePage(self._file.fd, self._path)
        except OSError:
            pass
        return None

    def _adopt(self) -> bool:
        return self._file.adopt(self._identity, _SIZE)

    def _create(self) -> bool:
        return self._file.create(self._identity.ljust(_SIZE, b"\0"))

    def _replace(self) -> bool:
        """Put the page in the place of another stream's."""
        self._file.remove()
        return self._create()

    def join(self) -> core.LivePage | None:
        """For a follower: the page of the writer. None if there is none, or it may not be written to."""
        self.leave()
        if not core.SLEEPS or not self._adopt():
            return None
        return core.LivePage(self._file.fd, self._path)

    def bell(self) -> core.Bell | None:
        """For an event loop, after `join`: what rings when there are events. None if this system has no such thread."""
        try:
            return core.Bell(self._stream, self._file.fd, self._path)
        except OSError:
            return None

    def move(self, stream_path: str) -> None:
        """For a writer: take the name that belongs to ``stream_path``, which the stream is about to get."""
        self._file.move(stream_path, SUFFIX)
        self._path = stream_path

    @property
    def is_current(self) -> bool:
        """Whether the page that was joined still has its name."""
        return self._file.held and os.fstat(self._file.fd).st_nlink > 0

    def leave(self) -> None:
        """Give the page up."""
        self._file.release()

    def remove(self) -> None:
        """For a writer that ends: remove the file."""
        if self._file.held:
            self._file.remove()

    def close(self) -> None:
        """Close the descriptors. The file stays."""
        self._file.close()
