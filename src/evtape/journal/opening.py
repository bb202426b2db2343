"""How a journal is opened: find or make the directory, lock it, agree on its settings, repair its end."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from typing import Any

from ..errors import FormatError
from ..schema import Declared
from ..stream.create import create, open_existing
from ..stream.lifetime import start_writer
from ..stream.opened import OpenedStream
from ..stream.reader import Reader
from ..stream.writer import Options
from ..system.files import WRITE, already_exists, open_descriptor, sync_directory
from ..system.lock import WriterLock
from ..system.settings_file import SETTINGS
from . import settings as settings_of
from .directory import LOCK, Directory
from .follow import FollowedJournal
from .recover import repair_tail
from .retention import look_at
from .tape import JournalReader
from .writer import JournalWriter, OpenedJournal

_BUSY = "another writer has this journal open; close it first"


def open_reader(path: str, verify_checksums: bool, schema: Declared | None = None) -> JournalReader:
    """Open a journal to read. O(names)."""
    _require_directory(path)
    return JournalReader(FollowedJournal.at_path(path, verify_checksums, schema))


def open_path(path: str, verify_checksums: bool, schema: Declared | None = None) -> Reader:
    """Open a stream, or a journal if the path is a directory, to read."""
    if not os.path.isdir(path):
        return Reader(path, verify_checksums=verify_checksums, schema=schema)
    return open_reader(path, verify_checksums, schema)


def open_writer(
    path: str, mode: str, options: Options, given: dict[str, Any], on_closed: Callable[[str], Any] | None
) -> JournalWriter:
    """Open for "a", "x" or "w"; see ``evtape.open_journal``."""
    checked = settings_of.checked(path, given)
    settings_of.settled(path, checked)
    if on_closed is not None and not callable(on_closed):
        raise TypeError(f"{path}: on_closed must be callable, not {type(on_closed).__name__}")
    if os.path.lexists(path):
        _require_directory(path)
        if mode == "x":
            raise already_exists(path)
        _require_usable(Directory(path), mode, checked)

    def make() -> JournalWriter:
        opened = _open(path, mode, options.durability != "none", checked)
        try:
            return JournalWriter(opened, options, on_closed)
        except BaseException:
            opened.close()
            raise

    return start_writer(path, make)


def _require_directory(path: str) -> None:
    if not stat.S_ISDIR(os.stat(path).st_mode):
        raise FormatError(f"{path}: a journal is a directory, and this is a file; open a stream with evtape.open")


def _require_usable(directory: Directory, mode: str, given: dict[str, Any]) -> None:
    """Raise what is wrong with a directory that is there, before anything is written."""
    if directory.is_journal:
        if mode == "a":
            settings_of.agreed(directory, given)
        return
    foreign = directory.foreign()
    if foreign:
        raise FormatError(
            f"{directory.path}: this directory is not a journal and not empty: it has {len(foreign)} other files, such "
            f"as {foreign[0]!r}; give the journal a directory of its own"
        )


def _open(path: str, mode: str, durable: bool, given: dict[str, Any]) -> OpenedJournal:
    directory = _make_directory(path, mode, durable)
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(_lock(directory))
        if mode == "w":
            _clear(directory, durable)
        settings, new = settings_of.agreed(directory, given)
        directory.remove_leftovers()
        if new:
            settings_of.store(directory, settings, durable=durable)
        firsts = repair_tail(directory, directory.segments())
        directory.remove_sidecars(firsts[:-1])
        first, active, since = _open_active(directory, firsts, durable)
        undo.callback(active.close)
        stops = [*firsts[1:], first]
        closed = [look_at(directory, each, stop) for each, stop in zip(firsts[:-1], stops, strict=False)]
        undo.pop_all()
    return OpenedJournal(directory, lock, settings, first, active, since, closed)


def _make_directory(path: str, mode: str, durable: bool) -> Directory:
    try:
        os.mkdir(path)
    except FileExistsError:
        if mode == "x":
            raise already_exists(path) from None
    else:
        if durable:
            sync_directory(os.path.dirname(os.path.abspath(path)))
    return Directory(path)


def _lock(directory: Directory) -> WriterLock:
    path = directory.file(LOCK)
    with contextlib.suppress(FileExistsError):
        os.close(open_descriptor(path, WRITE | os.O_CREAT | os.O_EXCL))
    return WriterLock(path, _BUSY)


def _clear(directory: Directory, durable: bool) -> None:
    """For mode "w": remove every event, the oldest first, then the settings and the cursors."""
    for first in directory.segments():
        directory.remove_segment(first)
        if durable:
            directory.sync()
    for leftover in (SETTINGS, *(os.path.basename(path) for path in directory.cursors().values())):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory.file(leftover))


def _open_active(directory: Directory, firsts: list[int], durable: bool) -> tuple[int, OpenedStream, int]:
    """First ordinal of the active segment, the segment, and when it was last written to."""
    if not firsts:
        return 0, create(directory.segment(0), durable=durable, replace=False), 0
    path = directory.segment(firsts[-1])
    since = os.stat(path).st_mtime_ns
    return firsts[-1], open_existing(path), since
