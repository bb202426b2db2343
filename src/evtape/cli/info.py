"""``evtape info``: what is in a stream, at a glance."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

import evtape
from evtape.core.format import ENTRY_SIZE, FIRST_OFFSET, HEADER, HEADER_SIZE

from . import DAMAGED, GOOD, _show, need_stdout, open_to_read, visible
from ._times import iso

if TYPE_CHECKING:
    from rich.console import Console

_PASS = 1 << 20  # events per step, so that memory does not grow with the stream
_BINS = 50  # with its name and the peak beside it, a line of 80


@click.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def command(path: str, as_json: bool) -> int:
    """Show what is in a stream, at a glance.

    One pass over the headers of the events; payloads are not read, so damage in them is not seen: 'evtape verify' reads
    everything. On a terminal there is a picture of the rate over time and of the sizes.
    """
    need_stdout()
    with open_to_read(path) as tape:
        facts = _Facts(tape)
        if as_json:
            print(json.dumps(facts.as_dict()))
        else:
            out = _show.console()
            _show.pairs(out, facts.rows())
            if facts.events and _show.has_pictures(out):
                _pictures(out, tape, facts)
    return DAMAGED if facts.state == "damaged" else GOOD


class _Facts:
    """What one pass over the headers tells."""

    def __init__(self, tape: evtape.Reader) -> None:
        self.path = tape.path
        write_offset, count, self.created = _header(tape.path)
        self.events = len(tape)
        self.first = self.last = 0
        self.low, self.high = 0, 0  # lowest and highest time, which in an unsorted stream are not those of the ends
        self.payload, self.size_min, self.size_max = 0, 0, 0
        self.sorted = True
        for start in range(0, self.events, _PASS):
            self._add(tape[start : min(start + _PASS, self.events)], start == 0)
        self.bytes = FIRST_OFFSET + ENTRY_SIZE * self.events + self.payload
        self.file_size = os.stat(tape.path).st_size
        # A live stream goes on meanwhile, so only what it falls behind its own header of before is damage.
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
        }

    def rows(self) -> list[tuple[str, str]]:
        meaning = {
            "clean": "clean (closed; payloads not checked)",
            "open": "open (in use, or not closed)",
            "damaged": "damaged; see 'evtape verify'",
        }
        room = self.file_size - self.bytes
        rows = [
            ("path", visible(self.path)),
            ("state", meaning[self.state]),
            ("backend", evtape.backend),
            ("events", f"{self.events:,}"),
            ("bytes", f"{self.bytes:,}" + (f" (and {room:,} of room)" if room > 0 and self.state == "open" else "")),
            ("created", iso(self.created)),
        ]
        if not self.events:
            return rows
        rate = f"{self.rate:,.{1 if self.rate < 100 else 0}f} events/s" if self.rate is not None else "-"
        mean = self.payload / self.events
        return [
            *rows,
            ("first", iso(self.first)),
            ("last", iso(self.last)),
            ("duration", _show.duration_text(self.duration)),
            ("rate", rate),
            ("sizes", f"min {self.size_min:,}, mean {mean:,.1f}, max {self.size_max:,} bytes"),
            ("times", "sorted" if self.sorted else "not sorted: some go backwards"),
        ]


def _header(path: str) -> tuple[int, int, int]:
    with open(path, "rb") as file:
        write_offset, count, created = HEADER.unpack(file.read(HEADER_SIZE))
    return write_offset, count, created


# ------------------------------------------------------------------------------------------------------------- pictures


def _pictures(out: Console, tape: evtape.Reader, facts: _Facts) -> None:
    from rich.text import Text

    rate, sizes = _histograms(tape, facts)
    if facts.duration:
        seconds = facts.duration / 1e9 / _BINS
        peak = f"peak {rate.max() / seconds:,.{0 if rate.max() >= 100 * seconds else 1}f}/s"
        out.print(Text.assemble(("rate      ", "cyan"), (_show.sparkline(rate.tolist()), "green"), f"  {peak}"))
    out.print()
    top = int(sizes.max())
    for power in np.flatnonzero(sizes):
        low, high = (1 << int(power)) >> 1, (1 << int(power)) - 1
        label = f"{low:,}" if low >= high else f"{low:,} - {high:,}"
        share = int(sizes[power])
        out.print(
            Text.assemble((f"{label:>21} B  ", "cyan"), (f"{_show.bar(share / top, 36):<36}", "green"), f"  {share:,}")
        )


def _histograms(tape: evtape.Reader, facts: _Facts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Events per interval of time, and per power of two of the payload size."""
    rate, sizes = np.zeros(_BINS, np.int64), np.zeros(34, np.int64)
    width = -(-(facts.duration + 1) // _BINS)
    for start in range(0, facts.events, _PASS):
        part = tape[start : min(start + _PASS, facts.events)]
        # Unsigned, because a span may be wider than int64.
        since = part.timestamps.astype(np.uint64) - np.uint64(facts.low % 2**64)
        rate += np.bincount((since // np.uint64(width)).astype(np.int64), minlength=_BINS)[:_BINS]
        sizes += np.bincount(np.frexp(part.sizes)[1], minlength=34)
    return rate, sizes
