"""Files: how one is opened, and how a new one gets its name.

A new file is complete and durable before it gets its name, so no reader ever sees a part of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import struct
import sys
from collections.abc import Iterator

from ..errors import FormatError

if sys.platform == "linux":
    import fcntl

BINARY = getattr(os, "O_BINARY", 0)  # a flag of Windows alone
READ = os.O_RDONLY | BINARY
WRITE = os.O_RDWR | BINARY
_COPY = 1 << 20  # bytes copied at a time

# Linux's ioctls (linux/fs.h and linux/btrfs.h), which Python has no names for. A few processors number them otherwise:
# there the first question fails, and nothing is asked for.
_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16
_SET_FLAGS = 0x40006602 | struct.calcsize("l") << 16
_NO_COW = 0x00800000
_BTRFS_INFO = 0x8400941F


_NAME_MAX = 255  # bytes of one name, on the file systems of today
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STANDARD = 3  # descriptors 0, 1 and 2 are where other code reads and prints


def open_descriptor(path: str, flags: int, mode: int = 0o666, *, dir_fd: int | None = None) -> int:
    """``os.open``, with a descriptor above 2 that a child program does not inherit.

    A program that was started with a standard stream closed would get its number here, and the next ``print``
    of any code would go into the file.
    """
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    return fd if fd >= _STANDARD else _moved(fd)


@contextlib.contextmanager
def descriptor(path: str, flags: int) -> Iterator[int]:
    """``open_descriptor``, closed at the end of the block."""
    fd = open_descriptor(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def size_of(fd: int) -> int:
    """Bytes of the file in ``fd``. Moves the position of the descriptor, which no stream uses.

    A file system that keeps exact times of changes has to store one for the first change after each ``fstat``. That
    makes the next flush of the writer a third slower. So the size, which is read often, is read this way.
    """
    return os.lseek(fd, 0, os.SEEK_END)


def sync_data(fd: int) -> None:
    """Make the contents of a file durable whose size has not changed. The time of the change may be lost."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def duplicate(fd: int) -> int:
    """``os.dup``, with a descriptor above 2."""
    copy = os.dup(fd)
    return copy if copy >= _STANDARD else _moved(copy)


def _moved(fd: int) -> int:
    """The same open file under a number above 2."""
    low = [fd]
    try:
        while (fd := os.dup(fd)) < _STANDARD:
            low.append(fd)
        return fd
    finally:
        for number in low:
            os.close(number)


def require_regular(path: str) -> os.stat_result:
    """The status of the file at ``path``; FormatError for a directory, pipe or device, which opening could block on."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path}: not a regular file, so it cannot be a stream")
    return status


def temporary_name() -> str:
    """A name for a file that is being made. Short, so that it fits wherever the final name does."""
    return f".evtape-{secrets.token_hex(6)}.tmp"


def fitting_name(path: str, suffix: str) -> str:
    """``path`` with ``suffix``, the name cut where a file system would not take all of it."""
    directory, name = os.path.split(path)
    encoded = os.fsencode(name)
    fits = _NAME_MAX - len(os.fsencode(suffix))
    if len(encoded) > fits:
        name = encoded[:fits].decode(errors="ignore")
    return os.path.join(directory, name + suffix)


def new_file(path: str) -> int:
    """The descriptor of a new file, which is overwritten in place on any file system."""
    fd = open_descriptor(path, WRITE | os.O_CREAT | os.O_EXCL, 0o666)
    if copies_on_write(fd):
        _overwrite_in_place(fd)
    return fd


class AtomicFile(contextlib.AbstractContextManager[int]):
    """The descriptor of a new file in the directory of ``path``, which gets that name when the block ends without an
    exception.

    ``durable`` flushes the file before and the directory after. ``replace`` takes the name from another file; otherwise
    FileExistsError. The descriptor stays open inside the block only; the file under its temporary name is removed
    when the block fails.
    """

    def __init__(self, path: str, *, durable: bool = True, replace: bool = False) -> None:
        self._path = path
        self._durable = durable
        self._replace = replace
        self._directory = os.path.dirname(os.path.abspath(path))
        self.temporary = os.path.join(self._directory, temporary_name())

    def __enter__(self) -> int:
        self._fd = new_file(self.temporary)
        return self._fd

    def __exit__(self, kind: object, *_: object) -> None:
        named = False
        try:
            try:
                if kind is None and self._durable:
                    os.fsync(self._fd)
            finally:
                os.close(self._fd)
            if kind is None:
                self._give_name()
                named = True
                if self._durable:
                    sync_directory(self._directory)
        finally:
            if not named:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.temporary)

    def _give_name(self) -> None:
        if self._replace:
            os.replace(self.temporary, self._path)
            return
        try:
            os.link(self.temporary, self._path)  # fails where the name exists, which a rename would not
        except FileExistsError:
            raise already_exists(self._path) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(self._path):
                raise already_exists(self._path) from None
            os.rename(self.temporary, self._path)
        else:
            os.unlink(self.temporary)


def is_full(fd: int) -> bool:
    """Whether the disk, or a quota, has no MiB left for a file that is open for writing. May lengthen it by one."""
    if hasattr(os, "statvfs") and os.fstatvfs(fd).f_bavail < 256:
        return True
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, size_of(fd), 1 << 20)
        except OSError as error:
            return error.errno in DISK_FULL
    return False


def copies_on_write(fd: int) -> bool:
    """Whether the file is on a file system that puts what is overwritten elsewhere: btrfs. O(1)."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(fd, _BTRFS_INFO, bytearray(1024))
    except OSError:
        return False
    return True


def _overwrite_in_place(fd: int) -> None:
    """Ask for a new file, still empty, that its bytes are overwritten where they are (FS_NOCOW_FL).

    Otherwise a page that was written back needs a new block before it can be stored to, and on a full disk that
    store is a SIGBUS. The file system then keeps no checksums of the file, which has its own.
    """
    flags = bytearray(struct.calcsize("l"))
    with contextlib.suppress(OSError):  # a disk that is not full can do without
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        wanted = int.from_bytes(flags, sys.byteorder) | _NO_COW
        fcntl.ioctl(fd, _SET_FLAGS, wanted.to_bytes(len(flags), sys.byteorder))


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte. A write that is cut short is tried again, and then says why."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def copy_bytes(source: int, target: int, start: int, stop: int) -> None:
    """Append the bytes [start, stop) of ``source`` to ``target``; OSError if ``source`` has become shorter."""
    os.lseek(source, start, os.SEEK_SET)
    while start < stop:
        part = os.read(source, min(_COPY, stop - start))
        if not part:
            raise OSError(errno.EIO, f"the file ends at byte {start}, {stop - start} bytes short")
        write_all(target, part)
        start += len(part)


def already_exists(path: str) -> FileExistsError:
    text = "the file exists; give another name, or open a stream with mode 'a' or 'w'"
    return FileExistsError(errno.EEXIST, text, path)


def sync_directory(directory: str) -> None:
    """Make names in ``directory`` durable. Windows has no such call and orders a file and its name by its journal."""
    if os.name == "nt":
        return
    fd = open_descriptor(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
