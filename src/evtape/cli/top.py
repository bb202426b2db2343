"""``evtape top``: the rates of streams while they are written."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

import evtape
from evtape.core.format import ENTRY_SIZE, FIRST_OFFSET
from evtape.core.times import iso
from evtape.journal.directory import Directory, bytes_of, closed_cleanly
from evtape.journal.retention import committed
from evtape.stream.cursor import cursors_of
from evtape.stream.wait import StopEvent

from . import GOOD, _show, need_stdout, told, visible
from ._streams import close_on_sigterm
from ._whole_screen import WholeScreen
from .follow import OutputClosed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_HISTORY = 14  # intervals in the picture of the rate
_GAP = 2  # columns between two figures
_STATES = {"closed": "yellow", "missing": "bold red", "replaced": "yellow", "unreadable": "bold red"}
_NOTES = {
    "closed": "closed by its writer",
    "missing": "no such stream now",
    "replaced": "replaced by another stream",
}


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds to measure.")
@click.option("-n", "count", type=click.IntRange(min=1), help="End after N intervals.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per interval and stream.")
def command(paths: tuple[str, ...], interval: float, count: int | None, as_json: bool) -> int:
    """Show the rates of streams, live.

    Shows events and bytes per second, the number of events, the size, the age of the last event, the latency, and how
    far each cursor is behind. Runs until the key q or Ctrl-C. In a pipe there is one line per interval and stream.

    The latency is the time from the timestamp of an event to the moment at which this command saw the event. It is
    measured for one event of an interval, so it costs the writer one wake-up. It means little if the timestamps are not
    those of the clock. The first look at a large stream takes one pass over the headers of its events.

    Of a journal, the number of events has those that were deleted in it, and the size has not.

    A stream that does not exist, disappears or is replaced is shown as such, and the command continues.
    """
    need_stdout()
    close_on_sigterm()
    watched = [_Watched(path) for path in dict.fromkeys(paths)]
    ended = OutputClosed()
    with contextlib.ExitStack() as stack:
        for stream in watched:
            stack.callback(stream.close)
            stream.measure()
        out = None if as_json else _show.console()
        if out is not None and out.is_terminal and not out.is_dumb_terminal:
            _on_screen(out, watched, interval, count)
        else:
            for _ in _intervals(watched, interval, count, ended):
                for stream in watched:
                    line = json.dumps(stream.as_dict()) if as_json else visible(stream.line())
                    print(line, flush=True)
    return GOOD


def _intervals(
    watched: list[_Watched], interval: float, count: int | None, ended: StopEvent | None = None
) -> Iterator[None]:
    """Measure again and again; one iteration is one interval that has passed."""
    due = time.monotonic()
    while count is None or count > 0:
        due = max(due + interval, time.monotonic())
        for left, stream in zip(range(len(watched), 0, -1), watched, strict=True):
            now = time.monotonic()
            stream.wait(max(0.0, due - now) / left, ended)
        if ended is not None and ended.is_set():
            return
        for stream in watched:
            stream.measure()
        yield
        count = None if count is None else count - 1


# ------------------------------------------------------------------------------------------------------------ measuring


@dataclass
class _Cursor:
    """Where a cursor stands, and how fast it moves."""

    ordinal: int | None  #: None: its file is damaged
    lag: int | None = None
    rate: float | None = None


@dataclass
class _Figures:
    """What was measured in one interval. None: not known."""

    seconds: float = 0.0  #: that the rates are about
    events: int | None = None  #: of a journal those that were deleted, too
    size: int | None = None  #: bytes of events; of a journal those of the segments that are left
    written: int = FIRST_OFFSET  #: the same, with those of segments that were deleted while this command ran
    events_per_second: float | None = None
    bytes_per_second: float | None = None
    last: int | None = None  #: timestamp of the last event
    cursors: dict[str, _Cursor] = field(default_factory=dict)

    def compare(self, before: _Figures, seconds: float) -> None:
        """Compute the rates since ``before``."""
        assert self.events is not None
        assert before.events is not None
        self.seconds = seconds
        self.events_per_second = max(0, self.events - before.events) / seconds
        self.bytes_per_second = max(0, self.written - before.written) / seconds
        for name, cursor in self.cursors.items():
            known = before.cursors.get(name)
            if known is not None and known.ordinal is not None and cursor.ordinal is not None:
                cursor.rate = max(0, cursor.ordinal - known.ordinal) / seconds


def _cursors(places: Mapping[str, int | None], events: int) -> dict[str, _Cursor]:
    return {name: _Cursor(place, None if place is None else events - place) for name, place in places.items()}


class _Watched:
    """One stream, by its name."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.state = "missing"
        self.reason = ""  #: why it is unreadable
        self.now = _Figures()
        self.measured = time.time_ns()
        self.latency: int | None = None  #: ns
        self.rates: deque[float] = deque(maxlen=_HISTORY)
        self._tape: evtape.Reader | None = None
        self._identity: tuple[int, int, int] | None = None  # of the stream that had the name last
        self._segments: dict[int, int] = {}  # of a journal: first ordinal to bytes of events
        self._looked: float | None = None
        self._known: _Figures | None = None  # the last figures of this stream, and their time
        self._known_at = 0.0

    def close(self) -> None:
        """Close the stream."""
        tape, self._tape = self._tape, None
        if tape is not None:
            tape.close()

    def wait(self, seconds: float, ended: StopEvent | None) -> None:
        """Wait, and measure the latency of the first event that is published in the meantime."""
        until = time.monotonic() + seconds
        if self._tape is not None:
            with contextlib.suppress(evtape.Error, OSError):  # the next look at the stream says what is wrong
                new = self._tape.follow("end", timeout=seconds, batch=True, stop_event=ended, spin=0)
                with contextlib.closing(new):  # type: ignore[type-var] # it is a generator
                    for part in new:
                        self.latency = time.time_ns() - int(part[-1:].timestamps[0])
                        break
        while (left := until - time.monotonic()) > 0 and not (ended is not None and ended.is_set()):
            time.sleep(min(left, 0.05))

    def measure(self) -> None:
        """Take the figures of the interval that ends now."""
        last_look, self._looked = self._looked, time.monotonic()
        self.reason = ""
        try:
            self._open(last_look)
            self.now = self._figures()
            self.measured = time.time_ns()  # after the last event was read, which is older then
        except (evtape.Error, OSError) as error:
            self.close()
            self.measured = time.time_ns()
            self.state = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            self.reason = "" if self.state == "missing" else told(error).removeprefix(f"{self.path}: ")
            self.now, self.latency = _Figures(0 if last_look is None else self._looked - last_look), None
            self.rates.append(0.0)
            return
        if self._known is not None:
            self.now.compare(self._known, self._looked - self._known_at)
            self.rates.append(self.now.events_per_second or 0.0)
        self._known, self._known_at = self.now, self._looked

    def _open(self, last_look: float | None) -> None:
        """Open the stream that has the name now."""
        replaced = self._tape is not None and self._tape.replaced
        self.state = "replaced" if replaced else "open"
        if self._tape is not None and not replaced:
            return
        self.close()
        self._tape = evtape.open(self.path)
        status = os.stat(self.path)
        identity = status.st_dev, status.st_ino, self._tape.start_timestamp
        if identity == self._identity:  # it could not be read for a while
            return
        self._identity, self.latency = identity, None
        if last_look is not None:  # it has come since: all its events are new
            self._known, self._known_at = _Figures(events=0, size=FIRST_OFFSET), last_look

    def _figures(self) -> _Figures:
        assert self._tape is not None
        if isinstance(self._tape, evtape.JournalReader):
            return self._figures_of_journal(self._tape)
        events, file_size = len(self._tape), os.stat(self.path).st_size
        figures = _Figures(events=events, size=FIRST_OFFSET)
        if events:
            last = self._tape[events - 1 : events]
            figures.size = figures.written = int(last.offsets[0]) + ENTRY_SIZE + int(last.sizes[0])
            figures.last = int(last.timestamps[0])
        if self.state == "open" and file_size == figures.size:
            self.state = "closed"
        figures.cursors = _cursors(cursors_of(self.path), events)
        return figures

    def _figures_of_journal(self, journal: evtape.JournalReader) -> _Figures:
        known, directory = self._segments, Directory(self.path)
        firsts = directory.segments()
        for first in firsts:
            if first not in known or first >= firsts[-1] or first == max(known):  # the others do not change any more
                with contextlib.suppress(FileNotFoundError):  # deleted in this moment
                    known[first] = bytes_of(directory.segment(first))
        events = journal.next_ordinal
        size = sum(known.get(first, 0) for first in firsts)
        figures = _Figures(events=events, size=size, written=sum(known.values()))
        if events > journal.first_ordinal:
            figures.last = int(journal[-1].timestamp)
        if self.state == "open" and firsts and closed_cleanly(directory.segment(firsts[-1])):
            self.state = "closed"
        figures.cursors = _cursors(dict(committed(directory)), events)
        return figures

    @property
    def age(self) -> int | None:
        """Nanoseconds from the last event to the measurement. None if the event lies in the future."""
        if self.now.last is None or self.now.last > self.measured:
            return None
        return self.measured - self.now.last

    @property
    def note(self) -> str:
        """What is special about the stream; empty if it is open and readable."""
        return self.reason or _NOTES.get(self.state, "")

    # --------------------------------------------------------------------------------------------------------- showing

    def as_dict(self) -> dict[str, Any]:
        now = self.now
        return {
            "time": iso(self.measured),
            "path": self.path,
            "state": self.state,
            "seconds": now.seconds,
            "events": now.events,
            "bytes": now.size,
            "events_per_second": now.events_per_second,
            "bytes_per_second": now.bytes_per_second,
            "last_timestamp": now.last,
            "age_ns": self.age,
            "latency_ns": self.latency,
            "cursors": {name: cursor.lag for name, cursor in now.cursors.items()},
        }

    def line(self) -> str:
        """All of it as one line."""
        now = self.now
        facts = []
        if now.events is not None and now.size is not None:
            if now.events_per_second is not None and now.bytes_per_second is not None:
                facts += [f"{now.events_per_second:,.0f} events/s", f"{_show.bytes_text(now.bytes_per_second)}/s"]
            facts += [_show.counted(now.events, "event"), _show.bytes_text(now.size)]
            if self.age is not None:
                facts.append(f"last {_show.duration_text(self.age)} ago")
            if self.latency is not None and self.latency >= 0:
                facts.append(f"latency {_show.duration_text(self.latency)}")
            facts += [f"cursor {name} {_lag(cursor)}" for name, cursor in now.cursors.items()]
        return f"{iso(self.measured)} {self.path}: {', '.join(facts + ([self.note] if self.note else []))}"


def _lag(cursor: _Cursor) -> str:
    if cursor.lag is None:
        return "damaged"
    return f"{cursor.lag:,} behind" if cursor.lag >= 0 else f"{-cursor.lag:,} ahead of the end"


# --------------------------------------------------------------------------------------------------------------- screen


def _on_screen(out: Console, watched: list[_Watched], interval: float, count: int | None) -> None:
    """Draw on the alternate screen, and leave the last figures on the normal one."""
    from rich.live import Live

    def draw() -> None:
        live.update(_screen(out, watched, interval, person.has_keys), refresh=True)

    person = WholeScreen(out, draw)
    with Live(console=out, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            with person:
                draw()
                for _ in _intervals(watched, interval, count, person):
                    draw()
        finally:
            live.stop()
            out.print(_table(out, watched))


def _screen(out: Console, watched: list[_Watched], interval: float, has_keys: bool) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    total = sum(stream.now.events_per_second or 0 for stream in watched)
    size = sum(stream.now.bytes_per_second or 0 for stream in watched)
    head = f"{iso(watched[0].measured)[:19]}Z  {_show.counted(len(watched), 'stream')}"
    rates = f"  {_show.count_text(total)} events/s  {_show.bytes_text(size)}/s"
    every = f"every {interval:g} s, {'q' if has_keys else 'Ctrl-C'} ends"
    line = Text.assemble((head, "bold"), rates, no_wrap=True, overflow="ellipsis")
    if line.cell_len + _GAP + len(every) <= out.width:
        line.append(f"{every:>{out.width - line.cell_len}}", _show.TIME)
    return Group(line, Text(), _table(out, watched))


_COLUMNS = (("events/s", 8), ("bytes/s", 8), ("events", 12), ("size", 8), ("last", 8), ("latency", 8))
_NARROW = ("events/s", "bytes/s", "events", "last")  # the columns of a narrow terminal


def _table(out: Console, watched: list[_Watched]) -> RenderableType:
    """One row per stream, its cursors under it. Names that are too long have a line of their own."""
    from rich.text import Text

    columns = [column for column in _COLUMNS if out.width >= 84 or column[0] in _NARROW]
    figures = sum(width + _GAP for _, width in columns)
    pictures = _show.has_pictures(out) and out.width >= 84 + _GAP + _HISTORY
    room = out.width - figures - (_GAP + _HISTORY if pictures else 0)
    names = [visible(stream.path) for stream in watched]
    labels = [*names, *(f"  {visible(name)}" for stream in watched for name in stream.now.cursors)]
    width = min(max([len("stream"), *(len(label) for label in labels if len(label) <= room)]), room)
    text = Text(f"{'stream':<{width}}", "cyan")
    text.append("".join(f"{name:>{size + _GAP}}" for name, size in columns))
    lines = [text]
    for stream, name in zip(watched, names, strict=True):
        values = _values(stream)
        row = Text()
        if len(name) > width:
            lines += _wrapped(out, name)
            name = ""
        row.append(f"{name:<{width}}")
        if stream.now.events is None:
            row.append(f"{'':{_GAP}}{stream.state}", _STATES[stream.state])
            lines.append(row)
            if stream.reason:
                lines += _wrapped(out, visible(stream.reason), 2, _show.TIME)
            continue
        for column, size in columns:
            row.append(f"{values[column]:>{size + _GAP}}")
        if pictures:
            row.append(f"{'':{_GAP}}{_show.sparkline(list(stream.rates))}", "green")
        row.rstrip()
        lines.append(row)
        if stream.note:
            lines.append(Text(f"  {stream.note}", style=_STATES[stream.state]))
        for cursor_name, cursor in stream.now.cursors.items():
            lines += _cursor_lines(out, visible(cursor_name), cursor, width, columns)
    return Text("\n").join(lines)


def _wrapped(out: Console, text: str, indent: int = 0, style: str = "") -> list[Text]:
    """Lines that fit; nothing is cut."""
    from rich.text import Text

    lines = Text(text, style).wrap(out, max(out.width - indent, 16), overflow="fold")
    for line in lines:
        line.rstrip()
        line.pad_left(indent)
    return list(lines)


def _cursor_lines(out: Console, name: str, cursor: _Cursor, width: int, columns: list[tuple[str, int]]) -> list[Text]:
    from rich.text import Text

    label, lines = f"  {name}", []
    if len(label) > width:
        lines += _wrapped(out, name, 2)
        label = ""
    rate = "" if cursor.rate is None else _show.count_text(cursor.rate)
    before = sum(size + _GAP for _, size in columns[1 : [column for column, _ in columns].index("events") + 1])
    row = Text(f"{label:<{width}}{rate:>{columns[0][1] + _GAP}}")
    lag = _lag(cursor)
    row.append(f"{lag:>{before}}", "bold red" if cursor.lag is None else "yellow" if cursor.lag else "green")
    lines.append(row)
    return lines


def _values(stream: _Watched) -> dict[str, str]:
    now = stream.now
    if now.events is None or now.size is None:
        return {}
    return {
        "events/s": "-" if now.events_per_second is None else _show.count_text(now.events_per_second),
        "bytes/s": "-" if now.bytes_per_second is None else _show.bytes_text(now.bytes_per_second),
        "events": f"{now.events:,}" if now.events < 10**9 else _show.count_text(now.events),
        "size": _show.bytes_text(now.size),
        "last": "-" if stream.age is None else _short(stream.age),
        "latency": "-" if stream.latency is None or stream.latency < 0 else _short(stream.latency),
    }


def _short(nanoseconds: int) -> str:
    """A duration in at most 8 columns."""
    days = nanoseconds // 86_400_000_000_000
    return f"{days:,} d" if days else _show.duration_text(nanoseconds)
