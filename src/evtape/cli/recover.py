"""``evtape recover``: keep the intact beginning of a stream, and say what was lost."""

from __future__ import annotations

import json

import click

import evtape
from evtape.recovery.report import Salvaged
from evtape.recovery.salvage import marks_of

from . import DAMAGED, GOOD, visible
from ._show import progress
from .verify import problem_text

_RUNS_SHOWN = 10  # the rest is in the marks


@click.command()
@click.argument("path", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write the recovered stream there; PATH stays as it is.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--salvage", is_flag=True, help="Into --output also what is intact behind damage, marked as doubtful.")
@click.option("--json", "as_json", is_flag=True, help="The report as a JSON object.")
def command(path: str, output: str | None, dry_run: bool, salvage: bool, as_json: bool) -> int:
    """Keep the intact beginning of a damaged stream.

    A stream that was not closed loses its room without events only. The bytes that are cut are saved beside the
    stream first, in PATH.quarantine-OFFSET. Nothing is ever overwritten.

    With --salvage, intact events behind damage are taken over too, also where the beginning of PATH is lost. How many
    are missing between them nothing can tell: OUTPUT.salvage.json says which ones they are.

    Exit code 0: nothing was lost; 1: published bytes were cut (with --dry-run: would be), or events are doubtful;
    2: not a stream, or in use.
    """
    if dry_run and output is not None:
        raise click.UsageError("give --output or --dry-run, not both")
    if salvage and output is None:
        raise click.UsageError("--salvage writes another stream; give --output")
    with progress("recover") as advance:
        report = evtape.recover(path, output=output, dry_run=dry_run, progress=advance, salvage=salvage)
    print(json.dumps(report.as_dict()) if as_json else text_of(report, dry_run))
    return DAMAGED if report.lost or report.salvaged else GOOD


def text_of(report: evtape.Report, dry_run: bool = False) -> str:
    """What was done, or would be, for a person."""
    path, events = visible(report.path), f"{report.events:,} events, {report.end:,} bytes"
    where = f"; written to {visible(report.output)}" if report.output is not None else ""
    if report.lost:
        kept = f"{path}: {'would keep' if dry_run else 'kept'} {events}; {_cut(report, dry_run)}{where}"
        return f"{kept}\n  {problem_text(report, report.problems[0])}{_salvaged(report)}"
    if report.state == "damaged":
        verb = "is" if report.output is not None else "would be" if dry_run else "is now"
        count = f"EventCount {verb} {report.events} instead of {report.event_count}"
        saved = (
            f"; events behind WriteOffset are saved in {visible(report.quarantine or '')}" if report.quarantine else ""
        )
        return f"{path}: {count}; no event is lost: {events}{saved}{where}{_salvaged(report)}"
    if report.state == "open" and report.output is None:
        verb = "would be cut" if dry_run else "is cut"
        return f"{path}: was not closed; room without events {verb}; no event is lost: {events}"
    return f"{path}: {report.state}; nothing is lost: {events}{where}"


def _salvaged(report: evtape.Report) -> str:
    if not report.salvaged:
        return ""
    events = sum(run.events for run in report.salvaged)
    runs = f"{len(report.salvaged):,} run{'s' if len(report.salvaged) > 1 else ''}"
    taken = f"and {events:,} from behind that, in {runs}, doubtful: see {visible(marks_of(report.output or ''))}"
    lines = [f"bytes {run.offset:,} to {run.end:,}: {_taken(run)}" for run in report.salvaged[:_RUNS_SHOWN]]
    more = len(report.salvaged) - _RUNS_SHOWN
    return "\n    ".join([f"\n  {taken}", *lines, *([f"and {more:,} more"] if more > 0 else [])])


def _taken(run: Salvaged) -> str:
    return f"event {run.ordinal} and on, {run.events:,} in all, {run.doubt}" if run.events else run.doubt


def _cut(report: evtape.Report, dry_run: bool) -> str:
    cut = f"{report.cut:,} bytes"
    if not report.cut:
        return "what followed is not in the file"
    if report.output is not None:
        return f"{cut} are left out"
    if dry_run:
        return f"would cut {cut}"
    return f"cut {cut}, saved in {visible(report.quarantine or '')}"
