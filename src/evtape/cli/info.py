"""``evtape info``: what is in a stream, at a glance."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import evtape
from evtape.core.format import ENTRY_SIZE, FIRST_OFFSET, HEADER, HEADER_SIZE
from evtape.core.times import iso
from evtape.stream.cursor import cursors_of

from . import DAMAGED, GOOD, _show, code_of, is_pure, journal, need_stdout, open_to_read, tell, told, visible

if TYPE_CHECKING:
    from rich.console import Console

_PASS = 1 << 20  # events per step, so that memory does not grow with the stream
_NAMES = 10  # columns of the name of a fact
_BINS = 60  # intervals in the picture of the rate, where there is room for them
_PEAK = 20  # columns kept for its peak


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per stream.")
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Show what is in streams, at a glance.

    One pass over the headers of the events; payloads are not read, so damage in them is not seen: 'evtape verify' reads
    everything. On a terminal there is a picture of the rate over time and of the sizes.

    Of several streams the highest exit code counts. A stream that cannot be opened does not keep the others from being
    shown.
    """
    need_stdout()
    code, shown = GOOD, False
    out = None if as_json else _show.console()
    for path in paths:
        try:
            if os.path.isdir(path):
                if shown and out is not None:
                    out.print()
                code, shown = max(code, journal.describe(path, as_json)), True
                continue
            with open_to_read(path) as tape:
                facts = _Facts(tape)
                pictures = _Pictures(tape, facts, out) if out is not None and _show.has_pictures(out) else None
        except (evtape.Error, OSError) as error:
            tell(told(error))
            code = max(code, code_of(error))
            continue
        except click.ClickException as error:
            tell(error.format_message())
            code = max(code, error.exit_code)
            continue
        if out is None:
            print(json.dumps(facts.as_dict()), flush=True)
        else:
            if shown:
                out.print()
            _show.pairs(out, facts.rows())
            if pictures is not None:
                pictures.show(out)
        shown = True
        code = max(code, DAMAGED if facts.state == "damaged" else GOOD)
    return code


class _Facts:
    """What one pass over the headers tells."""

    def __init__(self, tape: evtape.Reader) -> None:
        self.path = tape.path
        write_offset, count, self.created = _header(tape.path)
        self.published = write_offset
        self.events = len(tape)
        self.first = self.last = 0
        self.low, self.high = 0, 0  # lowest and highest time, which in an unsorted stream are not those of the ends
        self.payload, self.size_min, self.size_max = 0, 0, 0
        self.sorted = True
        for start in range(0, self.events, _PASS):
            self._add(tape[start : min(start + _PASS, self.events)], start == 0)
        self.bytes = FIRST_OFFSET + ENTRY_SIZE * self.events + self.payload
        self.file_size = os.stat(tape.path).st_size
        self.schema = _show.schema_text(tape)
        self.cursors = {
            name: None if ordinal is None else self.events - ordinal for name, ordinal in cursors_of(tape.path).items()
        }
        # A live stream grows during the walk, so only events below its first WriteOffset can be missing.
        closed = self.file_size == write_offset
        damaged = self.bytes < write_offset or (closed and self.events != count)
        self.state = "damaged" if damaged else "clean" if closed else "open"

    def _add(self, part: evtape.Slice, is_first: bool) -> None:
        times, sizes = part.timestamps, part.sizes
        low, high = int(times.min()), int(times.max())
        if is_first:
            self.first, self.low, self.high = int(times[0]), low, high
            self.size_min = int(sizes.min())
        elif times[0] < self.last:
            self.sorted = False
        self.sorted = self.sorted and bool((times[1:] >= times[:-1]).all())
        self.low, self.high, self.last = min(self.low, low), max(self.high, high), int(times[-1])
        self.size_min, self.size_max = min(self.size_min, int(sizes.min())), max(self.size_max, int(sizes.max()))
        self.payload += int(sizes.sum())

    @property
    def duration(self) -> int:
        return self.high - self.low

    @property
    def rate(self) -> float | None:
        """Events per second over the whole; None where all have one time."""
        return self.events / self.duration * 1e9 if self.duration else None

    def as_dict(self) -> dict[str, Any]:
        some = self.events > 0
        return {
            "path": self.path,
            "state": self.state,
            "backend": evtape.backend,
            "events": self.events,
            "bytes": self.bytes,
            "payload_bytes": self.payload,
            "file_size": self.file_size,
            "created": iso(self.created),
            "first": iso(self.first) if some else None,
            "last": iso(self.last) if some else None,
            "first_timestamp": self.first if some else None,
            "last_timestamp": self.last if some else None,
            "duration_ns": self.duration,
            "events_per_second": self.rate,
            "size_min": self.size_min if some else None,
            "size_mean": self.payload / self.events if some else None,
            "size_max": self.size_max if some else None,
            "sorted": self.sorted,
            "earliest_timestamp": self.low if some else None,
            "latest_timestamp": self.high if some else None,
            "schema": self.schema,
            "cursors": self.cursors,
        }

    def rows(self) -> list[tuple[str, _show.Words]]:
        meaning = {
            "clean": " (closed; payloads not checked)",
            "open": " (in use, or not closed)",
            "damaged": "; see 'evtape verify'",
        }
        free = self.file_size - self.bytes if self.state == "open" else 0
        more = f" (and {free:,} preallocated)" if free > 0 else ""
        if self.bytes < self.published:
            more = f" of {self.published:,} that are published"
        rows: list[tuple[str, _show.Words]] = [
            ("path", visible(self.path)),
            ("state", [(self.state, _show.STATES[self.state]), meaning[self.state]]),
            ("backend", evtape.backend + (" (the native core is not installed)" if is_pure else "")),
            ("events", f"{self.events:,}"),
            ("bytes", f"{self.bytes:,}{more}"),
            ("created", _time(self.created)),
            *([("schema", visible(self.schema))] if self.schema is not None else []),
            *((f"cursor {name}", _lag(lag)) for name, lag in self.cursors.items()),
        ]
        if not self.events:
            return rows
        rows += [("first", _time(self.first)), ("last", _time(self.last))]
        if not self.sorted:
            rows += [("earliest", _time(self.low)), ("latest", _time(self.high))]
        mean = self.payload / self.events
        largest = _show.counted(self.size_max, "byte")
        return [
            *rows,
            ("duration", _show.duration_text(self.duration)),
            ("rate", _show.rate_text(self.rate, "events") if self.rate is not None else "-"),
            ("sizes", f"min {self.size_min:,}, mean {mean:,.1f}, max {largest}"),
            ("times", "sorted" if self.sorted else [("not sorted", "yellow"), ": some go backwards"]),
        ]


def _lag(lag: int | None) -> str:
    """How far a cursor is behind the end."""
    if lag is None:
        return "damaged"
    return f"{lag:,} behind" if lag >= 0 else f"{-lag:,} ahead of the end"


def _time(nanoseconds: int) -> _show.Words:
    return [(iso(nanoseconds), _show.TIME)]


def _header(path: str) -> tuple[int, int, int]:
    with open(path, "rb") as file:
        write_offset, count, created = HEADER.unpack(file.read(HEADER_SIZE))
    return write_offset, count, created


# ------------------------------------------------------------------------------------------------------------- pictures


class _Pictures:
    """How the events are spread over time, and their payloads over sizes."""

    def __init__(self, tape: evtape.Reader, facts: _Facts, out: Console) -> None:
        self._facts = facts
        self._bins = max(min(out.width - _NAMES - _PEAK, _BINS), 16)
        self._rate = np.zeros(self._bins, np.int64)  # events per interval of time
        self._sizes = np.zeros(34, np.int64)  # events per power of two of the payload size
        width = -(-(facts.duration + 1) // self._bins)
        for start in range(0, facts.events, _PASS):
            part = tape[start : min(start + _PASS, facts.events)]
            # Unsigned, because a span may be wider than int64.
            since = part.timestamps.astype(np.uint64) - np.uint64(facts.low % 2**64)
            bins = (since // np.uint64(width)).astype(np.int64)
            self._rate += np.bincount(bins, minlength=self._bins)[: self._bins]
            self._sizes += np.bincount(np.frexp(part.sizes)[1], minlength=34)

    def show(self, out: Console) -> None:
        from rich.text import Text

        if not self._facts.events:
            return
        if self._facts.duration:
            seconds = self._facts.duration / 1e9 / self._bins
            name, line = ("over time ", "cyan"), _show.sparkline(self._rate.tolist())
            out.print(Text.assemble(name, (line, "green"), f"  peak {_show.rate_text(self._rate.max() / seconds)}"))
        out.print()
        powers = np.flatnonzero(self._sizes)
        labels = [_range((1 << int(power)) >> 1, (1 << int(power)) - 1) for power in powers]
        shares = [int(self._sizes[power]) for power in powers]
        wide, count = max(map(len, labels)), max(len(f"{share:,}") for share in shares)
        width = max(min(out.width - wide - count - 4, 36), 4)
        for label, share in zip(labels, shares, strict=True):
            bar = f"{_show.bar(share / max(shares), width):<{width}}"
            out.print(Text.assemble((f"{label:>{wide}}  ", "cyan"), (bar, "green"), f"  {share:>{count},}"))


def _range(low: int, high: int) -> str:
    return f"{low:,} B" if low >= high else f"{low:,} - {high:,} B"
