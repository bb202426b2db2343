"""``evtape demo``: record a real program call by call, and look at what was recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import numpy as np

import evtape
from evtape.core.times import iso

from . import DAMAGED, _recording, _show, visible
from ._streams import close_on_sigterm
from .verify import code_of_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from ._findings import Function, Returned

_DEFAULT = "evtape-demo.tape"
_EVENTS = {"native": 1_000_000, "python": 250_000}  # recorded unless told otherwise; a few seconds on either core
_FIGURES = 29  # columns that calls, own time and share take behind a name
_BAR = 12
_WITH_BARS = 78  # columns from which on there is room for bars
_SHARE = 10  # the window is this part of the whole


@click.command()
@click.argument("path", type=click.Path(), default=_DEFAULT)
@click.option("--files", type=click.IntRange(min=1), help="Trace the work on this many source files.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Trace for this long.")
def command(path: str, files: int | None, seconds: float | None) -> int:
    """Record a real program call by call.

    Traces the standard library while it takes its own sources apart (tokens, syntax tree, source again, code,
    disassembled): each call and each return of a Python function is an event with a time in nanoseconds. Another
    process follows the recording live. The recording process is killed in the middle, and a new one recovers the stream
    and continues. The demo then compares the counts, verifies the stream, reads it back, and takes a time window out of
    its middle.

    PATH must be new. Without PATH the stream is evtape-demo.tape, which the next demo replaces.
    """
    out = _show.console()
    heading(out, "recording every call of the standard library taking its own sources apart")
    close_on_sigterm()
    goal = _EVENTS[evtape.backend] if files is None and seconds is None else None
    with evtape.open(path, "w") if path == _DEFAULT else evtape.open(path, "x"):
        pass  # the stream is there, and empty
    with _show.progress("record", "events") as advance:
        recorded = _recording.record(path, files, goal, seconds, advance)
    with evtape.open(path) as tape:
        begin = time.perf_counter()
        report = evtape.verify(path)
        _summary(out, tape, report, recorded, time.perf_counter() - begin)
        _look(out, tape)
    heading(out, "next")
    for line in (f"evtape info {path}", f"evtape cat -n 3 {path}"):
        _show.paragraph(out, visible(line), 2)
    complete = recorded.published == recorded.kept and recorded.seen == report.events
    return max(code_of_report(report), 0 if complete else DAMAGED)


def heading(out: Console, text: str) -> None:
    """A line over what follows."""
    out.print()
    _show.paragraph(out, [(text, "bold")])


# --------------------------------------------------------------------------------------------------------------- output


def _summary(
    out: Console, tape: evtape.Reader, report: evtape.Report, recorded: _recording.Recorded, verify_seconds: float
) -> None:
    sizes, kept = tape.sizes, recorded.kept
    pause = tape[kept].timestamp - tape[kept - 1].timestamp  # from the kill to the first event of the next writer
    nanoseconds = tape[-1].timestamp - tape[0].timestamp - pause
    rate = len(tape) / nanoseconds * 1e9
    went_on = f"the next one recovered {kept:,} and went on after {_show.duration_text(pause)}"
    took = _show.duration_text(verify_seconds * 1e9)
    per_second = _show.count_text(report.events / verify_seconds), _show.bytes_text(report.end / verify_seconds)
    found = ", every checksum matches" if report.ok else f": {visible(report.problems[0].message)}"
    verified = f"{found}; {took}, {per_second[0]} events/s, {per_second[1]}/s"
    _show.pairs(
        out,
        [
            ("stream", visible(tape.path)),
            ("backend", evtape.backend),
            ("traced", f"work on {_show.counted(recorded.sources, 'source file')}, {nanoseconds / 1e9:.2f} s"),
            ("killed", f"the writer, after {recorded.published:,} events; {went_on}"),
            ("live", f"{recorded.seen:,} of {len(tape):,} events, counted by another process as they were written"),
            ("events", f"{len(tape):,}"),
            ("rate", f"{rate:,.0f} events/s, the traced program and its tracer included"),
            ("bytes", f"{report.end:,}"),
            ("sizes", f"min {sizes.min():,}, mean {sizes.mean():,.1f}, max {sizes.max():,} bytes"),
            ("first", [(iso(tape[0].timestamp), _show.TIME)]),
            ("last", [(iso(tape[-1].timestamp), _show.TIME)]),
            ("verify", [(report.state, _show.STATES[report.state]), verified]),
        ],
    )


def _look(out: Console, tape: evtape.Reader) -> None:
    """Read the stream back: the chart, the functions, the window."""
    from ._findings import busiest, functions_of, slowest

    times = tape.timestamps
    first, span = int(times[0]), int(times[-1] - times[0]) + 1
    if _show.has_pictures(out):
        _chart(out, times - first, span)
    functions = functions_of(tape)
    _functions(out, busiest(functions, 10), sum(function.own for function in functions))
    start, width = int(times[len(times) // 2]) - span // (2 * _SHARE), span // _SHARE  # around the middle event
    begin = time.perf_counter_ns()
    window = tape.between(starting_at=start, ending_before=start + width)
    found = time.perf_counter_ns() - begin
    heading(out, f"a window out of the middle: {iso(start)} and {_show.duration_text(width)} on")
    events = _show.counted(len(window), "event")
    _show.paragraph(out, f"{events}, found in {_show.duration_text(found)}; the slowest calls in it, by own time", 2)
    _slowest(out, slowest(window, start, 5), functions)


def _chart(out: Console, since: np.ndarray[tuple[int], np.dtype[np.int64]], span: int) -> None:
    from rich.text import Text

    bins = max(min(out.width - 10, 64), 16)
    rates = np.bincount(since * bins // span, minlength=bins)[:bins] / (span / bins / 1e9)
    heading(out, "events per second")
    rows = _show.chart(rates.tolist(), 4)
    labels = [_show.count_text(float(rates.max()))] + [""] * (len(rows) - 1)
    for label, row in zip(labels, rows, strict=True):
        out.print(Text.assemble((f"{label:>8} ", "cyan"), (row, "green")))
    out.print(Text(f"{'':>8} 0 s{_show.duration_text(span):>{bins - 3}}", style="cyan"))


def _functions(out: Console, functions: Sequence[Function], total: int) -> None:
    from rich.text import Text

    heading(out, "busiest functions")
    pictures = _show.has_pictures(out) and out.width >= _WITH_BARS
    width = max(min(out.width, 100) - _FIGURES - (_BAR + 2 if pictures else 0), 16)
    labels = [visible(function.label) for function in functions]
    width = min(max([35, *map(len, labels)]), width)
    out.print(Text(f"  {'function':<{width}} {'calls':>9}  {'own time':>8}  {'share':>5}", style="cyan"))
    top = max((function.own for function in functions), default=0) or 1
    for function, label in zip(functions, labels, strict=True):
        if len(label) > width:  # it is not cut: it has a line of its own
            _show.paragraph(out, label, 2)
            label = ""
        share = f"{function.own / (total or 1):5.1%}"
        row = f"  {label:<{width}} {function.calls:>9,}  {_show.duration_text(function.own):>8}  {share:>5}"
        out.print(Text.assemble(row, (f"  {_show.bar(function.own / top, _BAR)}" if pictures else "", "green")))


def _slowest(out: Console, calls: Sequence[Returned], functions: Sequence[Function]) -> None:
    rows = [(call, visible(functions[call.function].label), visible(functions[call.function].place)) for call in calls]
    width = max([36, *(len(label) for _, label, _ in rows)])
    fits = all(24 + width + len(place) <= out.width for _, _, place in rows)
    for call, label, place in rows:
        took, depth = (f"{_show.duration_text(call.own):>10}", "cyan"), f"depth {call.depth:>2}"
        if fits:
            _show.paragraph(out, [took, f"  {label:<{width}}  {depth}  {place}"])
        else:
            _show.pairs(out, [(took[0], label), ("", f"{depth}  {place}")])
