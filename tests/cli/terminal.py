"""Running a command in a pseudo-terminal, and the screen that it leaves."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import unicodedata

_STYLES = re.compile(r"\x1b\[[0-9;]*m")


# Gives a command the terminal that is its standard output, so that Ctrl-C reaches it.
CONTROLLING = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


# A shell with job control, of one command, that knows the lines "fg" and "bg". When the command stops, it says so, and
# whether the terminal has its usual modes.
SHELL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(1, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    status = os.waitpid(child, os.WUNTRACED)[1]
    os.tcsetpgrp(1, os.getpgrp())
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    modes = termios.tcgetattr(1)[3]
    usual = bool(modes & termios.ICANON and modes & termios.ECHO)
    print(f"<stopped, usual modes: {usual}>", flush=True)
    if sys.stdin.readline() == "fg\\n":
        os.tcsetpgrp(1, child)
    os.kill(-child, signal.SIGCONT)
"""


class Terminal:
    """A command that runs in a terminal of its own, of so many columns and 40 lines. ``below`` starts it there."""

    def __init__(self, argv: list[str], columns: int, env: dict[str, str], below: str = CONTROLLING) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(columns)
        argv = [sys.executable, "-c", below, *argv]
        end = self.follower
        self.process = subprocess.Popen(argv, stdin=end, stdout=end, stderr=end, env=terminal_environment(env))
        self.written = b""  #: so far

    def resize(self, columns: int) -> None:
        """Another width of the window."""
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def read_until(self, part: bytes, seconds: float = 20) -> None:
        """Read what the command writes, until ``part`` is in it."""
        deadline = time.monotonic() + seconds
        while part not in self.written:
            assert select.select([self.leader], [], [], deadline - time.monotonic())[0], self.written
            self.written += os.read(self.leader, 65536)

    def type(self, keys: bytes) -> None:
        """Keys that a person presses."""
        os.write(self.leader, keys)

    def rest(self) -> str:
        """Everything that the command has written, when it has ended."""
        os.write(self.follower, b"<end>")
        self.read_until(b"<end>")
        return self.written.removesuffix(b"<end>").decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.leader)
        os.close(self.follower)


def terminal_environment(env: dict[str, str]) -> dict[str, str]:
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    return {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | {k: v for k, v in env.items() if k not in unset}


def on_terminal(argv: list[str], columns: int, env: dict[str, str]) -> tuple[int, str]:
    """The exit code of a command, and what it writes to a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = terminal_environment(env)
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    text = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux says EIO where others say end of file
            break
        if not chunk:
            break
        text += chunk
    os.close(leader)
    return process.wait(), text.decode().replace("\r\n", "\n")


def screen(text: str, columns: int) -> str:
    """``text`` without its styles. Fails when a line is wider than the terminal, or when it has other escape codes."""
    plain = _STYLES.sub("", text)
    for line in plain.splitlines():
        assert line.isprintable(), repr(line)
        assert width_of(line) <= columns, f"{width_of(line)} columns: {line!r}"
        assert not line.endswith(" ") or "█" in text, repr(line)
    return plain


def width_of(line: str) -> int:
    """Columns of a line; those of East Asia's scripts take two for a character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


class Emulator:
    """A terminal that draws: rows of characters, an alternate screen, and whether the cursor is shown.

    It knows the escape codes that a live display uses, and fails at any other.
    """

    _CODE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|\x1b|[\r\n]|[^\x1b\r\n]+")

    def __init__(self, columns: int, lines: int = 40) -> None:
        self.columns, self.lines = columns, lines
        self.is_alternate, self.has_cursor = False, True
        self.drawn: list[str] = []  #: what was on the alternate screen, at each time it was drawn anew or left
        self._screens = {False: [""], True: [""]}
        self._at = {False: (0, 0), True: (0, 0)}

    def feed(self, text: str) -> None:
        """Draw ``text``."""
        for match in self._CODE.finditer(text):
            if match[3]:
                self._obey(match[1] + match[3], match[2])
            elif match[0] == "\r":
                self._move(self._row, 0)
            elif match[0] == "\n":
                self._move(self._row + 1, 0)
            else:
                assert match[0].isprintable(), repr(match[0])
                self._draw(match[0])

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screens[self.is_alternate]).rstrip() + "\n"

    @property
    def _row(self) -> int:
        return self._at[self.is_alternate][0]

    def _move(self, row: int, column: int) -> None:
        rows = self._screens[self.is_alternate]
        rows += [""] * (row + 1 - len(rows))
        assert not self.is_alternate or row < self.lines, "the screen scrolls"
        self._at[self.is_alternate] = row, column

    def _draw(self, text: str) -> None:
        row, column = self._at[self.is_alternate]
        rows = self._screens[self.is_alternate]
        rows[row] = rows[row].ljust(column)[:column] + text + rows[row][column + len(text) :]
        assert width_of(rows[row]) <= self.columns, f"{width_of(rows[row])} columns: {rows[row]!r}"
        self._at[self.is_alternate] = row, column + len(text)

    def _obey(self, code: str, value: str) -> None:
        if code in ("?h", "?l") and value == "1049":
            self._keep()
            self.is_alternate = code == "?h"
        elif code in ("?h", "?l") and value == "25":
            self.has_cursor = code == "?h"
        elif code == "H" and value in ("", "1;1"):
            self._keep()
            self._move(0, 0)
        else:
            assert code == "m", f"unknown escape code {code} {value}"

    def _keep(self) -> None:
        if self.is_alternate and self.text.strip():
            self.drawn.append(self.text)
