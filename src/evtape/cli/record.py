"""``evtape record``: run a command and keep each line it prints, with the time it appeared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import IO, Any

import click

import evtape

from . import GOOD, _framing, _journals, code_of, damage_told, tell, told
from ._streams import code_after, store

_READ = 1 << 16
_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGBREAK")
_FROM_TERMINAL = ("SIGINT", "SIGQUIT")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("path", type=click.Path())
@click.argument("argv", metavar="-- CMD [ARGS]...", nargs=-1, required=True, type=click.UNPROCESSED)
@_journals.options
def command(path: str, argv: tuple[str, ...], roll: tuple[Any, ...], keep: tuple[Any, ...]) -> int:
    """Run a command and append each line it prints.

    \b
      evtape record build.tape -- make -j4
      evtape record --keep 1GB app.journal -- ./app

    Lines are stamped as they appear. Both standard output and standard error are recorded, and passed through to
    where they would have gone. Signals are forwarded. The exit code is that of CMD: 128+N when signal N ended it, 127
    when it is not found; 1 when CMD was good but lines could not be stored.
    """
    if shutil.which(argv[0]) is None:
        tell(f"{argv[0]}: command not found; nothing was recorded")
        return 127
    signals = _Signals()
    with damage_told(path):
        tape = _journals.open_to_append(path, roll, keep)
    with tape:
        try:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
        except OSError as error:
            tell(f"{argv[0]}: {error.strerror}; nothing was recorded")
            return 126
        signals.started(process)
        recorder = _Recorder(tape)
        code = recorder.run(process)
    code = code if code >= 0 else 128 - code
    return code or recorder.code or code_after(tape)


class _Recorder:
    """Two threads, one per stream of the command, because a thread per pipe works on every platform."""

    def __init__(self, tape: evtape.Writer) -> None:
        self._tape = tape
        self._lock = threading.Lock()
        self.code = GOOD  #: what went wrong with storing

    def run(self, process: subprocess.Popen[bytes]) -> int:
        """Until the command and both its streams have ended; returns its code as ``subprocess`` has it."""
        sys.stdout.flush()
        assert process.stdout is not None
        assert process.stderr is not None
        threads = [
            threading.Thread(target=self._copy, args=(process.stdout, 1), daemon=True),
            threading.Thread(target=self._copy, args=(process.stderr, 2), daemon=True),
        ]
        for thread in threads:
            thread.start()
        code = process.wait()
        for thread in threads:
            thread.join()
        return code

    def _copy(self, source: IO[bytes], target: int) -> None:
        lines = _framing.Lines()
        with source:
            while chunk := os.read(source.fileno(), _READ):
                self._keep(lines, chunk)
                if not _write(target, chunk):
                    break  # its reader is gone: closing the pipe tells the command so
        self._keep(lines, b"")

    def _keep(self, lines: _framing.Lines, chunk: bytes) -> None:
        """Store the lines that are complete now. A failure is told once; the command goes on and its output too."""
        try:
            with self._lock:
                if self.code == GOOD:
                    store(self._tape, lines.feed(chunk) if chunk else lines.finish())
        except (evtape.Error, OSError, click.ClickException) as error:
            self.code = max(code_of(error), 1)
            tell(f"{told(error)}; what follows is not recorded")


def _write(target: int, chunk: bytes) -> bool:
    """All of it, at once and unbuffered. False when the reader is gone."""
    view = memoryview(chunk)
    try:
        while view:
            try:
                view = view[os.write(target, view) :]
            except BlockingIOError:  # a process that shares it made it non-blocking
                time.sleep(0.001)
    except OSError:
        return False
    return True


class _Signals:
    """Hands signals on to the command, from before it starts; what arrives too early is kept for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        for name in _FORWARDED:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)

    def started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        for number in self._early:
            process.send_signal(number)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self._process is None:
            self._early.append(number)
        elif self._process.poll() is not None:
            sys.exit(128 + number)  # the command is gone and something it started still holds its output
        elif signal.Signals(number).name not in _FROM_TERMINAL or not _in_foreground():
            self._process.send_signal(number)


def _in_foreground() -> bool:
    """Whether the terminal sends its signals to our process group, and so to the command without our help."""
    if sys.platform == "win32":  # Ctrl-C reaches every process of the console. Not yet run.
        return True
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)
