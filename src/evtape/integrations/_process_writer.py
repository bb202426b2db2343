"""A writer for code that every process of a program runs: each process gets a stream of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import evtape
from evtape import errors
from evtape.journal.settings import Limits, from_limits
from evtape.stream.writer import Durability

_PID: Final = "{pid}"
_NAMES_MAX = 100  # streams of one process that may have the same path
_RETRY_SECONDS = 1.0  # opening may read a whole stream, so one that failed is not repeated for every event

_Call = tuple[str, tuple[Any, ...]]  # a method of the writer and its arguments


class ProcessWriter:
    """Appends to the stream at ``path``, or to another one if this process may not have that.

    - ``{pid}`` in the path stands for the process id.
    - Where another writer has the stream open, ``app.tape`` becomes ``app.<pid>.tape``.
    - A forked child never touches the stream of its parent: at its first event it opens ``app.<pid>.tape``.
    - A writer that failed for good is closed and the stream is opened again, at most once a second.

    ``append(data, timestamp)`` is the method of the core, which costs nothing more; see ``append_again``.

    With ``roll`` or ``keep`` the stream is a journal: texts as "64MiB", "1h" or "20 segments", or several of them.

    Threads may share it. Exceptions are those of ``evtape.open`` and of ``Writer.append``. ``delay`` opens the stream
    at the first event.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        durability: Durability = "close",
        interval: float = 1.0,
        delay: bool = False,
        roll: Limits = (),
        keep: Limits = (),
    ) -> None:
        self._template = os.fsdecode(path)
        self._settings = from_limits(self._template, roll, keep)
        errors.require_durability(self._template, durability, interval)
        self._durability: Durability = durability
        self._interval = interval
        self._closed = False
        self._is_forked = False
        self._start()
        if not delay:
            self._append_pending()
        _writers.add(self)

    def _start(self) -> None:
        """The state of a process that has opened nothing yet."""
        self._lock = threading.RLock()
        self._path: str | None = None
        self._writer: evtape.Writer | None = None
        self.append: Callable[[Any, Any], object] = self._append_slowly
        self._is_inside = False  # whether the thread that holds the lock is in the slow path
        self._pending: list[_Call] = []  # what it is to append there; else what came while the writer was busy
        self._failure: Exception | None = None
        self._retry_at = 0.0

    @property
    def path(self) -> str:
        """The stream of this process, or before it is opened the one that will be tried first."""
        return next(self._names()) if self._path is None else self._path

    def append_again(self, refusal: Exception, data: Any, timestamp: Any = None) -> None:
        """Append one event after ``append`` raised ``refusal``, one of ``REFUSALS``; raises it again if that is final.

        The writer may be closed, have failed for good, or be busy. On a sound one the exception is that of a full disk,
        or of a signal handler.
        """
        writer = self._writer
        is_sound = writer is not None and writer._failure is None
        is_other = isinstance(refusal, RuntimeError) and type(refusal) is not RuntimeError
        if is_other or (is_sound and isinstance(refusal, OSError)):
            raise refusal
        self._append_slowly(data, timestamp)

    def _append_slowly(self, data: Any, timestamp: Any) -> None:
        self._append_pending(("append", (data, timestamp)))

    def append_many(self, payloads: Sequence[Any], timestamps: Sequence[int]) -> None:
        """Append a batch, whole or not at all."""
        self._append_pending(("append_many", (payloads, timestamps)))

    def sync(self) -> None:
        """Make the events that this process appended durable. A writer that cannot do so is closed."""
        if self._pending:
            self._append_pending()
        writer = self._writer
        if writer is None:
            return
        try:
            writer.sync()
        except (errors.Error, OSError):
            with self._lock, contextlib.suppress(errors.Error, OSError):
                if self._writer is writer:
                    self._release()
            raise

    def close(self) -> None:
        """Close the stream of this process. Closing twice is fine; appending raises ClosedError from then on.

        An event that comes while the process ends is appended even so: `logging` closes its handlers before the last
        callbacks and finalizers run.
        """
        with self._lock:
            if not self._closed:
                try:
                    self._finish()
                finally:
                    self._closed = True

    def _finish(self) -> None:
        try:
            if self._pending:
                self._append_pending()
        finally:
            self._release()

    # ------------------------------------------------------------------------------------------------------- slow path

    def _append_pending(self, call: _Call | None = None) -> None:
        """Append what waits, and then the event of ``call``; raises for that one alone.

        An event of a signal handler, a finalizer or a warning that comes in here, or while the writer is busy, in the
        same thread, waits until that is over. Until then ``append`` leads here.
        """
        with self._lock:
            if self._closed and not _ending:
                raise errors.closed(self.path)
            if _ending and threading.current_thread() is not threading.main_thread():
                raise EndingError(f"{self.path}: the process is ending, so other threads cannot append any more")
            if call is not None:
                self._pending.append(call)
            if self._is_inside:
                return
            try:
                self._is_inside = True
                writer = self._opened()
                while self._pending and self._append_first(writer, call):
                    pass
            finally:
                self._is_inside = False
                if _ending:  # nothing closes a writer any more
                    self._release()
            if not self._pending and self._writer is not None:
                self.append = writer.append

    def _append_first(self, writer: evtape.Writer, call: _Call | None) -> bool:
        """False if the writer is busy."""
        first = self._pending.pop(0)
        method, arguments = first
        try:
            getattr(writer, method)(*arguments)
        except RuntimeError as error:
            if type(error) is not RuntimeError:
                raise
            self.append = self._append_slowly
            self._pending.insert(0, first)
            return False
        except Exception:
            if first is call:
                raise
        return True

    def _opened(self) -> evtape.Writer:
        """The writer of this process; opened if it is not, or if it failed for good."""
        writer = self._writer
        if writer is not None and writer._failure is None:
            return writer
        try:
            if self._failure is not None and time.monotonic() < self._retry_at:
                raise self._failure.with_traceback(None)
            with contextlib.suppress(errors.Error, OSError):
                self._release()
            writer = self._open_first_free()
        except Exception as error:
            if error is not self._failure:
                self._failure, self._retry_at = error, time.monotonic() + _RETRY_SECONDS
            self._pending.clear()
            raise
        self._failure = None
        self._path, self._writer = writer.path, writer
        return writer

    def _open_first_free(self) -> evtape.Writer:
        """Open the stream that this process had, or else the first of its names that no other writer has."""
        for name in self._names():
            try:
                return self._open(name)
            except errors.LockedError as error:
                failure = error
        raise failure

    def _open(self, name: str) -> evtape.Writer:
        """The stream; a journal if one has the name, or if it is to roll or to forget."""
        durability, interval = self._durability, self._interval
        writer: evtape.Writer
        if self._settings or os.path.isdir(name):
            writer = evtape.open_journal(name, "a", durability=durability, interval=interval, **self._settings)
        else:
            writer = evtape.open(name, "a", durability=durability, interval=interval)
        return writer

    def _names(self) -> Iterator[str]:
        if self._path is not None:
            yield self._path
        process = str(os.getpid())
        name = self._template.replace(_PID, process)
        stem, suffix = os.path.splitext(name)
        if name == self._template:
            if not self._is_forked:
                yield name
            stem = f"{stem}.{process}"
        yield stem + suffix
        for number in range(2, _NAMES_MAX):  # a second writer in this process, or a process id of another machine
            yield f"{stem}-{number}{suffix}"

    def _release(self) -> None:
        writer, self._writer, self.append = self._writer, None, self._append_slowly
        if writer is not None:
            writer.close()

    def _forked(self) -> None:
        """In the child after a fork: forget the parent's stream, and what another thread was doing with it."""
        inherited = self._writer
        self._is_forked = True
        self._start()
        if inherited is not None:
            with contextlib.suppress(Exception):
                inherited.close()


# What `append` may raise that `append_again` may help with. A busy writer raises RuntimeError.
REFUSALS: Final = (errors.Error, OSError, RuntimeError)


class EndingError(errors.ClosedError):
    """An event came in a thread while the process ended."""


# ------------------------------------------------------------------------------------------------------- fork, and end

_writers: weakref.WeakSet[ProcessWriter] = weakref.WeakSet()
_ending = False  # whether the callbacks of `atexit` run


def _living() -> list[ProcessWriter]:
    while True:
        try:
            return list(_writers)
        except RuntimeError:  # another thread has made one
            continue


def _after_fork_in_child() -> None:
    for writer in _living():
        writer._forked()


def _at_exit() -> None:
    """Close the streams before the package does: it warns of those that were left open."""
    global _ending  # noqa: PLW0603 - a process ends once
    _ending = True
    failure: Exception | None = None
    for writer in _living():
        try:
            with writer._lock:
                writer._finish()
        except Exception as error:  # noqa: BLE001 - the others are to be closed
            failure = error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)  # runs before the one of the package, which was registered earlier
