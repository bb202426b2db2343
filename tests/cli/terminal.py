"""Running a command in a pseudo-terminal, and the screen that it leaves."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata

_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(argv: list[str], columns: int, env: dict[str, str]) -> tuple[int, str]:
    """The exit code of a command, and what it writes to a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    env = {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | {k: v for k, v in env.items() if k not in unset}
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
