"""What a person does to a program that draws on a whole terminal: `q`, Ctrl-Z and `fg`, another size of the window."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console

if sys.platform != "win32":
    import termios

_NAMES = ("SIGTSTP", "SIGCONT", "SIGWINCH")
_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class WholeScreen:
    """A context in which `out` is on its alternate screen; ``draw()`` draws it anew.

    It is a ``stop_event``: a wait asks every 50 ms whether it is over, and everything happens then. A handler of a
    signal could come in the middle of a drawing.
    """

    def __init__(self, out: Console, draw: Callable[[], None]) -> None:
        self._out = out
        self._draw = draw
        self._seen: set[int] = set()  # signals that have come
        self._handlers: dict[int, Any] = {}  # those that were there before
        self._modes: list[Any] | None = None  # of the terminal before
        self._quit = False
        #: Whether keys are read: standard input is a terminal.
        self.has_keys = sys.platform != "win32" and sys.stdin is not None and sys.stdin.isatty()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._handlers[number] = signal.signal(number, self._note)
        if self.has_keys:
            self._modes = termios.tcgetattr(sys.stdin)
            self._take_keys()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._give_keys_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Whether the person has asked to end."""
        seen, self._seen = self._seen, set()
        if seen:
            if signal.SIGTSTP in seen:
                self._stop()
            if seen != {signal.SIGWINCH}:
                self._go_on()
            self._draw()
        if self.has_keys and not self._quit and select.select([sys.stdin], [], [], 0)[0]:
            keys = os.read(sys.stdin.fileno(), 1024)
            self.has_keys = bool(keys)  # empty: the terminal is gone
            self._quit = b"q" in keys.lower()
        return self._quit

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._seen.add(number)

    def _stop(self) -> None:
        """Stop as Ctrl-Z does, on the normal screen. Returns when the program goes on."""
        self._out.set_alt_screen(False)
        self._out.show_cursor(True)
        self._give_keys_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)

    def _go_on(self) -> None:
        """In the background this stops the program until it is in the foreground again."""
        if self._modes is not None:
            self._take_keys()
        self._out.set_alt_screen(True)
        self._out.show_cursor(False)

    def _take_keys(self) -> None:
        """A key is read when it is pressed, and not shown. Ctrl-C and Ctrl-Z are signals still."""
        assert self._modes is not None
        modes = [*self._modes]
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        modes[6] = [*modes[6]]
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        self._set(modes)

    def _give_keys_back(self) -> None:
        if self._modes is not None:
            self._set(self._modes)

    def _set(self, modes: list[Any]) -> None:
        while True:
            try:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, modes)
                return
            except termios.error as error:
                if error.args[0] == errno.EIO:  # the terminal is gone
                    return
                if error.args[0] != errno.EINTR:
                    raise
