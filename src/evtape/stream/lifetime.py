"""The writers of this process: how they are opened, and what a fork and the end of the process mean to them."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ..core.paging import HUGE_PAGE, SMALL_PAGE
from ..errors import ClosedError
from ..schema import Schema
from .create import open_for_writing
from .writer import Options, Writer, warn_unclosed, writers

_LAST_ROUND = 10.0  # seconds to wait for a thread that is opening a writer


W = TypeVar("W", bound=Writer)


def open_writer(path: str, mode: str, options: Options) -> Writer:
    """Open for "a", "x" or "w"; see ``evtape.open``."""

    def make() -> Writer:
        opened = open_for_writing(
            path,
            mode,
            durable=options.durability != "none",
            capacity=options.capacity,
            page_size=SMALL_PAGE if options.durability == "full" else HUGE_PAGE,
        )
        try:
            return Writer(path, options, opened)
        except BaseException:
            opened.close()
            raise

    return start_writer(path, make, options.schema)


def start_writer(path: str, make: Callable[[], W], declared: Schema | None = None) -> W:
    """The writer that ``make`` returns, ready for the first append."""
    thread = threading.get_ident()
    _opening.add(thread)
    try:
        _require_time_left(path)
        writer = make()
        try:
            writer._take_over()
            writer._declare(declared)
            if writer._ticker is not None:
                writer._ticker.begin()
            _require_time_left(path)  # the end may have come during the opening
        except BaseException:
            writer.close()
            raise
        return writer
    finally:
        _opening.discard(thread)


# ------------------------------------------------------------------------------------- fork, and end


def _living() -> list[Writer]:
    while True:
        try:
            return list(writers)
        except RuntimeError:  # another thread has opened one
            continue


def _before_fork() -> None:
    # A process with a second thread should not fork; the preallocator starts again when space is needed.
    for writer in _living():
        writer._before_fork()


def _after_fork_in_child() -> None:
    for writer in _living():
        writer._forked()
    writers.clear()
    _opening.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


_opening: set[int] = set()  # the threads that are inside `open_writer`
_ended = False  # whether the writers of this process were closed because it ends


def _require_time_left(path: str) -> None:
    """A daemon thread is taken away with whatever it holds; the main thread still runs other callbacks to their end."""
    if _ended and threading.current_thread() is not threading.main_thread():
        raise ClosedError(f"{path}: the interpreter is ending, so no writer can be opened in a thread any more")


class _Unraisable:
    """Has the interpreter report an exception that no caller can catch."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __del__(self) -> None:
        raise self._error


def _close_all() -> None:
    """Close the writers that are still open.

    It is registered with `atexit`: that is after the threads which the interpreter waits for have ended, since they
    may append to the last, and before daemon threads are taken away. These get ClosedError from here on.
    """
    global _ended  # noqa: PLW0603 - a process ends once
    _ended = True
    until = time.monotonic() + _LAST_ROUND
    while _opening and time.monotonic() < until:  # a thread that has a temporary file now and gets an error at its end
        time.sleep(0.001)
    for writer in _living():
        for step in (warn_unclosed, Writer.close):
            try:
                if not writer.closed:
                    step(writer)
            except BaseException as error:  # noqa: BLE001 - the others are to be closed, and the exit code stays
                _Unraisable(error)


atexit.register(_close_all)
