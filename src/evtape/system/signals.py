"""Signal handlers wait while a descriptor, a lock or a temporary file has no owner yet.

A handler that is written in Python runs between any two instructions of the main thread, and it may raise: Ctrl-C is a
KeyboardInterrupt. Between the call that opens a descriptor and the store of its number the descriptor would be lost.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the functions of `signal` make an enum of each answer: ten times the cost
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

# A walk may take minutes, and its objects release what they own, so a handler need not wait for it.
_ROOT = __name__.partition(".")[0]
_WALKS = frozenset(f"{_ROOT}.{name}" for name in ("recovery.walk", "recovery.search", "stream.index"))
_NUMBERS = sorted(map(int, signal.valid_signals()))

_holds = False  # whether the main thread holds handlers back now; no other thread changes this
_holder: tuple[int, SignalsDeferred] | None = None  # that thread, and its block


class _DueError(Exception):
    """Ends a wait inside the block."""


class SignalsDeferred:
    """``with SignalsDeferred():`` handlers of Python that become due inside the block run at its end. O(signals).

    Only the main thread runs handlers, so the block does nothing in another one, nor inside another block.
    """

    __slots__ = ("_due", "_ends_wait", "_failure", "_replaced")

    def __init__(self) -> None:
        self._replaced: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._due: dict[int, FrameType | None] = {}
        self._failure: BaseException | None = None  # what a handler raised while the others were put back
        self._ends_wait = False  # whether a handler that becomes due ends a wait

    def __enter__(self) -> Self:
        global _holder, _holds  # noqa: PLW0603 - handlers belong to the process
        if _holds or threading.current_thread() is not threading.main_thread():
            return self
        try:
            for number in _NUMBERS:
                handler = _signal.getsignal(number)
                if callable(handler):
                    self._replaced[number] = handler  # first, so that it is put back if a handler raises now
                    _signal.signal(number, self._met)
        except ValueError:  # the main thread of a subinterpreter, which runs no handlers
            self._replaced.clear()
            return self
        except BaseException:
            self._restore()
            raise
        _holder = threading.get_ident(), self
        _holds = bool(self._replaced)
        return self

    def __exit__(self, *exc_info: object) -> None:
        global _holds  # noqa: PLW0603
        if not self._replaced:
            return
        try:
            self._restore()
        finally:  # a handler that is back may raise already
            _holds = False
            self._run_due()

    def _restore(self) -> None:
        for number, handler in self._replaced.items():
            restored = False
            while not restored:
                try:
                    if _signal.getsignal(number) == self._met:  # else other code has installed another one
                        _signal.signal(number, handler)
                    restored = True
                except BaseException as error:  # noqa: BLE001 - raised when all are back
                    self._failure = error

    def _run_due(self) -> None:
        while self._due:
            number, frame = self._due.popitem()
            try:
                self._replaced[number](number, frame)
            except BaseException as error:  # noqa: BLE001 - raised when the others have run
                self._failure = error
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self, acquire: Callable[[], bool]) -> bool:
        """``acquire()``, which blocks. False if a handler became due, which runs at the end of the block."""
        try:
            self._ends_wait = True
            return not self._due and acquire()
        except _DueError:
            return False
        finally:
            self._ends_wait = False

    def abandon(self) -> None:
        """Put the handlers back, and forget what became due."""
        self._due.clear()
        self.__exit__()

    def _met(self, number: int, frame: FrameType | None) -> None:
        if _holds and not _is_in_walk(frame):
            self._due[number] = frame
            if self._ends_wait:
                self._ends_wait = False
                raise _DueError
        else:
            self._replaced[number](number, frame)


def _is_in_walk(frame: FrameType | None) -> bool:
    """Whether the innermost function of this package is one that walks a stream."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith(f"{_ROOT}."):
            return name in _WALKS
        frame = frame.f_back
    return False


def _after_fork_in_child() -> None:
    """Another thread has forked inside the block of the main thread, which is not there to end it."""
    if _holds and _holder is not None and _holder[0] != threading.get_ident():
        _holder[1].abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
