"""What people look at: text that fits the terminal, numbers, pictures of block characters, progress bars.

Pictures, colours, wrapped lines and progress bars are for terminals only. A pipe gets plain text, one line per fact.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

import evtape

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

Part = str | tuple[str, str]  # a piece of text, or one with its style
Words = str | Sequence[Part]

TIME = "dim"  # the style of times
_UNBROKEN = re.compile(r"(?<=[0-9]) (?=(?:bytes?|events?)\b)|(?<=\bevent) (?=[0-9])")  # a number and its noun
_JOINT = "\ue000"  # stands for a space at which a line is not broken; it is not printable, so no text has it
STATES = {"clean": "green", "open": "yellow", "damaged": "bold red", "invalid": "bold red"}

_BLOCKS = " ▁▂▃▄▅▆▇█"
_BARS = " ▏▎▍▌▋▊▉█"
_BAR_AFTER = 0.4  # seconds; a shorter job needs no bar
_BAR_EVERY = 0.1


def console(error: bool = False) -> Console:
    """Standard output, or standard error. In a pipe no escape codes are written and nothing is cut or wrapped."""
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    result = Console(
        stderr=error,
        force_terminal=stream.isatty(),
        color_system="auto" if has_colours(stream) else None,
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
    )
    if not result.is_terminal:
        result.width = 100
    return result


def has_colours(stream: IO[str]) -> bool:
    """Whether escape codes for colours make sense there: a terminal, and NO_COLOR is not set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def has_pictures(out: Console) -> bool:
    """Whether block characters make sense there."""
    return out.is_terminal and not out.options.ascii_only


def say(*parts: Part, indent: int = 0, error: bool = False) -> None:
    """Print a paragraph. In a pipe it is one line; on a terminal it is wrapped between words, with a hanging indent."""
    stream = sys.stderr if error else sys.stdout
    if not stream.isatty():
        print(" " * indent + plain(parts), file=stream, flush=error)
        return
    paragraph(console(error), parts, indent)


def paragraph(out: Console, words: Words, indent: int = 0) -> None:
    """The same on a console that is there already."""
    _hang(out, " " * indent, words, indent + 2)


def plain(words: Words) -> str:
    """``words`` without their styles."""
    return words if isinstance(words, str) else "".join(part if isinstance(part, str) else part[0] for part in words)


def pairs(out: Console, rows: Sequence[tuple[str, Words]]) -> None:
    """Names and values, one a line, values aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        _hang(out, (f"{name:<{width}}  ", "cyan"), value, width + 2)


def _hang(out: Console, head: Part, words: Words, indent: int) -> None:
    """``words`` behind ``head``; lines after the first begin at column ``indent``. Nothing is cut."""
    from rich.text import Text

    text = Text.assemble(*([words] if isinstance(words, str) else words))
    lines = [text]
    if out.is_terminal:
        text.plain = _UNBROKEN.sub(_JOINT, text.plain)
        lines = list(text.wrap(out, max(out.width - indent, 16), overflow="fold")) or lines
    for number, line in enumerate(lines):
        line.plain = line.plain.replace(_JOINT, " ")
        line.rstrip()
        out.print(Text.assemble(" " * indent if number else head, line))


# -------------------------------------------------------------------------------------------------------------- numbers


def bytes_text(size: float) -> str:
    """A size with its unit, decimal, for instance ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def count_text(count: float) -> str:
    """A number in round figures, for instance ``1.23 M``."""
    for unit in ("", " k", " M"):
        if count < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:,.3g} G"


def counted(count: int, noun: str) -> str:
    """A number and its noun, for instance ``1 event`` or ``5,684 events``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


_RATES = (("s", 1, 0.1), ("hour", 3600, 1), ("day", 86400, 0.1))  # a unit, its seconds, the least that it is used for


def rate_text(per_second: float, noun: str = "") -> str:
    """A rate in the unit in which it is not near zero, for instance ``534 events/s`` or ``8.2 events/day``."""
    for unit, seconds, least in _RATES:
        rate = per_second * seconds
        if rate >= least:
            return f"{rate:,.{1 if rate < 100 else 0}f}{noun and ' '}{noun}/{unit}"
    return f"{per_second * 86400 * 365.2425:.3g}{noun and ' '}{noun}/year"


def duration_text(nanoseconds: float) -> str:
    """A duration with its unit, for instance ``3.21 ms``; long ones as days and clock time."""
    for limit, unit, scale in ((1e3, "ns", 1), (1e6, "µs", 1e3), (1e9, "ms", 1e6), (60e9, "s", 1e9)):
        if nanoseconds < limit:
            return f"{nanoseconds / scale:.3g} {unit}"
    minutes, seconds = divmod(int(nanoseconds // 10**9), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days:,} d " if days else "") + f"{hours:02d}:{minutes:02d}:{seconds:02d}"


# ------------------------------------------------------------------------------------------------------------- pictures


def sparkline(values: Sequence[float]) -> str:
    """One line of blocks, as high as the values; what is above zero is always seen."""
    top = max(values, default=0) or 1
    return "".join(_BLOCKS[max(round(value / top * 8), 1 if value > 0 else 0)] for value in values)


def chart(values: Sequence[float], height: int) -> list[str]:
    """``height`` lines of blocks, the top one first."""
    top = max(values, default=0) or 1
    eighths = [max(round(value / top * height * 8), 1 if value > 0 else 0) for value in values]
    return ["".join(_BLOCKS[min(max(high - row * 8, 0), 8)] for high in eighths) for row in reversed(range(height))]


def bar(share: float, width: int) -> str:
    """A bar of ``share`` (0 to 1) of ``width`` characters, to an eighth of one."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return ("█" * (eighths // 8) + _BARS[eighths % 8].strip())[:width]


# ------------------------------------------------------------------------------------------------------------- progress


@contextlib.contextmanager
def progress(what: str, unit: str = "bytes") -> Iterator[Callable[[int, int], None] | None]:
    """A function to call with (done, in all), or None without a terminal. Shows a bar when the job takes longer.

    There is no thread behind it: the bar moves when the function is called, so that a tracer sees nothing of it.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bars = _Bar(what, unit)
    try:
        yield bars.update
    finally:
        bars.stop()


class _Bar:
    def __init__(self, what: str, unit: str) -> None:
        self._what = what
        self._unit = unit
        self._next = time.monotonic() + _BAR_AFTER
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _BAR_EVERY
        if self._bar is None:
            self._start()
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=max(total, done), refresh=True)

    def _start(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        # The bar leaves the end of the line free: the echo of Ctrl-C must not begin another one.
        out = console(error=True)
        width = min(max(out.width - 42, 8), 28)
        counted = (TextColumn(f"{{task.completed:,.0f}} of {{task.total:,.0f}} {self._unit}"),)
        sized = (DownloadColumn(), TransferSpeedColumn())
        columns = (TextColumn("{task.description}"), BarColumn(width), *(sized if self._unit == "bytes" else counted))
        self._bar = Progress(*columns, console=out, transient=True, auto_refresh=False)
        self._task = self._bar.add_task(self._what)
        self._bar.start()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def schema_text(tape: evtape.Reader) -> str | None:
    """The schema in words, or what is wrong with it."""
    try:
        declared = tape.schema
    except evtape.SchemaError as error:
        return str(error)
    if isinstance(declared, np.dtype):
        return ", ".join(f"{name} {_dtype_text(declared[name])}" for name in declared.names or ())
    return declared


def _dtype_text(field: np.dtype[Any]) -> str:
    return f"{field.base}{list(field.shape)}" if field.shape else str(field)
