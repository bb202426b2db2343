"""A sidecar file: how it is found, recognised, made and removed.

A stream can have several names, and its name can be given to another stream. So the path is resolved once, when the
stream is opened, and the directory is held by a descriptor from then on. The sidecar file is bound to the
stream's inode: an extended attribute of the stream holds a random *generation*, which the file repeats. A writer that
takes over a stream gives it a new generation before it appends. The files of earlier writers, next to any name of the
stream, no longer match then.

A file system without extended attributes has no generations. A sidecar file is trusted there during the boot
that wrote it, and not afterwards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from typing import Final

from .. import errors
from ..errors import SidecarWarning
from .files import READ, WRITE, open_descriptor, sync_data, temporary_name, write_all
from .signals import SignalsDeferred

GENERATION_SIZE: Final = 16
NO_GENERATION: Final = bytes(GENERATION_SIZE)
ATTRIBUTE: Final = "user.evtape.generation"

# A symbolic link is not followed, and a pipe does not block.
PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_LOOK_EVERY = 1.0  # seconds
_HAS_DIR_FD = os.open in os.supports_dir_fd and os.unlink in os.supports_dir_fd


# ---------------------------------------------------------------------------------------- generation


def generation_of(stream: int) -> bytes:
    """The generation of the stream in the descriptor ``stream``; zeros where it has none."""
    if not hasattr(os, "getxattr"):
        return NO_GENERATION
    try:
        value = os.getxattr(stream, ATTRIBUTE)
    except OSError:
        return NO_GENERATION
    return value if len(value) == GENERATION_SIZE else NO_GENERATION


def renew_generation(stream: int) -> bytes:
    """Give the stream a new generation; zeros where the file system has none. Durable once the stream is flushed.

    Raises OSError where the stream keeps the old generation, because the files of earlier writers match it.
    """
    if not hasattr(os, "setxattr"):
        return NO_GENERATION
    generation = secrets.token_bytes(GENERATION_SIZE)
    try:
        os.setxattr(stream, ATTRIBUTE, generation)
    except OSError:
        if generation_of(stream) != NO_GENERATION:
            raise
        return NO_GENERATION
    return generation


# ---------------------------------------------------------------------------------------------- file


def resolved(path: str) -> str:
    """The path of the file that ``path`` leads to."""
    return os.path.realpath(path)


def resolved_new(path: str) -> str:
    """The path of a file that is about to be made: a symbolic link of its name is not followed."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


class SidecarFile:
    """The file named after a stream with ``suffix``, in the stream's directory.

    ``path`` is the resolved path of the stream, ``stream`` its descriptor, which has to outlive this object. The file
    begins with ``magic``. A file of that name that does not (a stream, a note, a link, a pipe) is never read, changed
    or removed. Without access to the directory there is no file.

    ``beside`` is another sidecar file of the stream. The two share its descriptor of the directory, so it has to
    outlive this object.
    """

    def __init__(self, path: str, suffix: str, magic: bytes, stream: int, beside: SidecarFile | None = None) -> None:
        self.path = path + suffix
        self._stream_path = path
        self._magic = magic
        self._stream = stream
        self._fd = -1  # of the file that this object made or took over
        self._looked_at = 0.0  # when it was last seen that the file still has its name
        self._reported = False
        self._owns_directory = beside is None
        self._directory: int | None = None
        if beside is not None:
            self._directory = beside._directory
        elif _HAS_DIR_FD:
            self._directory = _open_directory(os.path.dirname(path))

    def close(self) -> None:
        """Close the descriptors. The file stays."""
        self.release()
        directory, self._directory = self._directory, -1
        if self._owns_directory and directory is not None and directory >= 0:
            os.close(directory)

    def release(self) -> None:
        """Close the file that is held. It stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def held(self) -> bool:
        """Whether this object has made or taken over the file."""
        return self._fd >= 0

    def read(self, size: int) -> bytes | None:
        """The first ``size`` bytes of the file; None when there is none, or another file has its name."""
        try:
            fd = self._open(READ)
        except OSError:
            return None
        try:
            data = os.read(fd, size) if self._is_trusted(os.fstat(fd)) else b""
        except OSError:
            data = b""
        finally:
            os.close(fd)
        return data if data.startswith(self._magic) else None

    @property
    def exists(self) -> bool:
        """Whether any file has the name."""
        try:
            self._stat(self.path)
        except OSError:
            return False
        return True

    def open(self) -> int:
        """A descriptor of the file for reading, which the caller closes. -1 when there is none, or another file has
        its name.
        """
        try:
            fd = self._open(READ)
        except OSError:
            return -1
        try:
            if self._is_trusted(os.fstat(fd)) and os.read(fd, len(self._magic)) == self._magic:
                return fd
        except OSError:
            pass
        os.close(fd)
        return -1

    def overwrite(self, data: bytes) -> None:
        """Replace the beginning of the file that is held, not durably: a power loss leaves the old bytes or the new.

        ``data`` has to fit into one sector. A file that was deleted is made again, within a second.
        """
        if not self._still_named():
            self.write(data)
        elif hasattr(os, "pwrite"):
            os.pwrite(self._fd, data, 0)
        else:
            self._overwrite(data)

    def _still_named(self) -> bool:
        """Whether the file is held. One that was deleted, or whose name another stream took, is given up."""
        now = time.monotonic()
        if self._fd >= 0 and now - self._looked_at > _LOOK_EVERY:  # a look makes the next write dear
            self._looked_at = now
            if os.fstat(self._fd).st_nlink == 0:
                self.release()
        return self._fd >= 0

    def _overwrite(self, data: bytes) -> None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, data)

    @property
    def fd(self) -> int:
        """The descriptor of the file that is held."""
        return self._fd

    def adopt(self, head: bytes, size: int | None = None) -> bool:
        """Hold the file that is there, if it begins with ``head``, has ``size`` bytes and can be written to."""
        try:
            fd = self._open(WRITE)
        except OSError:
            return False
        status = os.fstat(fd)
        if self._is_trusted(status) and size in (None, status.st_size) and os.read(fd, len(head)) == head:
            self._fd = fd
            return True
        os.close(fd)
        return False

    def create(self, data: bytes) -> bool:
        """Hold a new file that contains ``data``, not durably. False if the name is taken."""
        status = os.fstat(self._stream)
        try:
            fd = self._open(WRITE | os.O_CREAT | os.O_EXCL, stat.S_IMODE(status.st_mode) & 0o666)
        except FileExistsError:
            return False
        self._fd = fd
        if os.name != "nt" and status.st_uid != os.geteuid():
            self._copy_owner(fd)
        write_all(fd, data)
        return True

    def write(self, data: bytes, *, named: bool = True) -> bool:
        """Make ``data`` the beginning of the file, durably. False where another file has its name.

        A file that is held is overwritten in place, so ``data`` has to fit into one sector. Otherwise a new file takes
        the name. ``named`` is False while the stream itself has no name yet.
        """
        self._looked_at = 0.0
        if self._still_named():
            self._overwrite(data)
            sync_data(self._fd)
            return True
        if named and not self._is_beside():
            return False
        if self.is_foreign():
            self._report_foreign()
            return False
        with SignalsDeferred():
            self._make(data, durable_name=named)
        return True

    def move(self, stream_path: str, suffix: str) -> None:
        """Take the name that belongs to ``stream_path``, which the stream is about to get."""
        path = stream_path + suffix
        if self._fd >= 0:
            os.rename(self._at(self.path), self._at(path), src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        self.path, self._stream_path = path, stream_path

    def remove(self) -> None:
        """Remove the file if it is this stream's: the one that is held, or one next to the stream's own name."""
        with contextlib.suppress(OSError):
            if self._fd >= 0:
                mine = os.path.samestat(self._stat(self.path), os.fstat(self._fd))
            else:
                mine = self._is_beside() and not self.is_foreign()
            if mine:
                os.unlink(self._at(self.path), dir_fd=self._dir_fd)

    def remove_lost(self) -> None:
        """Remove a file of this name of which a power loss took the contents: it is empty, or its magic is zeros.

        A file that is not flushed before it has its name can be left like that.
        """
        with contextlib.suppress(OSError):
            fd = self._open(READ)
            try:
                status = os.fstat(fd)
                lost = self._is_trusted(status) and not any(os.read(fd, len(self._magic))) and self._is_beside()
            finally:
                os.close(fd)
            if lost and os.path.samestat(self._stat(self.path), status):
                os.unlink(self._at(self.path), dir_fd=self._dir_fd)

    # ------------------------------------------------------------------------------------- the directory

    @property
    def _dir_fd(self) -> int | None:
        return self._directory

    def _at(self, path: str) -> str:
        return path if self._directory is None else os.path.basename(path)

    def _open(self, flags: int, mode: int = 0o600, path: str = "") -> int:
        return open_descriptor(self._at(path or self.path), flags | PLAIN, mode, dir_fd=self._dir_fd)

    def _stat(self, path: str) -> os.stat_result:
        return os.stat(self._at(path), dir_fd=self._dir_fd, follow_symlinks=False)

    def _is_beside(self) -> bool:
        """Whether the name of the stream still leads to this stream."""
        try:
            return os.path.samestat(self._stat(self._stream_path), os.fstat(self._stream))
        except OSError:
            return False

    def _is_trusted(self, status: os.stat_result) -> bool:
        """Whether the file is a regular one of the stream's owner or of this user.

        In a directory that other users can write to, one of them could have made it.
        """
        if not stat.S_ISREG(status.st_mode):
            return False
        return os.name == "nt" or status.st_uid in (os.geteuid(), os.fstat(self._stream).st_uid)

    def is_foreign(self) -> bool:
        """Whether a file that is not evtape's has the name."""
        try:
            self._stat(self.path)
        except FileNotFoundError:
            return False
        return self.read(len(self._magic)) is None

    def _report_foreign(self) -> None:
        if not self._reported:
            self._reported = True
            text = (
                f"{self.path}: this file is not a sidecar of evtape, or is another user's, and stays as it is. "
                f"Rename it: without a sidecar, opening {self._stream_path} after a crash reads the whole stream"
            )
            errors.warn(SidecarWarning(text))

    # ------------------------------------------------------------------------------------------ making

    def _make(self, data: bytes, *, durable_name: bool) -> None:
        """Put a new file with ``data`` in the place of an older one, with the permissions of the stream."""
        temporary = os.path.join(os.path.dirname(self.path), temporary_name())
        fd = self._open(WRITE | os.O_CREAT | os.O_EXCL, 0o600, temporary)
        try:
            self._copy_owner(fd)
            write_all(fd, data)
            os.fsync(fd)
            os.replace(self._at(temporary), self._at(self.path), src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(self._at(temporary), dir_fd=self._dir_fd)
            raise
        self._fd = fd
        if durable_name and self._directory is not None:
            os.fsync(self._directory)

    def _copy_owner(self, fd: int) -> None:
        """The file has the owner of the stream, and no more permissions than the stream."""
        if os.name == "nt":
            return
        status = os.fstat(self._stream)
        with contextlib.suppress(PermissionError):  # only root can give a file away
            os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, stat.S_IMODE(status.st_mode) & 0o666)


def _open_directory(path: str) -> int:
    """A descriptor of the directory; -1 where it cannot be opened."""
    try:
        return open_descriptor(path or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return -1
