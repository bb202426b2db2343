"""``evtape recover``: keep the valid prefix of a stream, and say what was lost."""

from __future__ import annotations

import json

import click

import evtape
from evtape.recovery.report import Salvaged
from evtape.recovery.salvage import marks_of

from . import DAMAGED, GOOD, _show, visible
from ._show import counted, progress
from .verify import problem_text, sizes_of

_RUNS_SHOWN = 10  # the rest is in the marks


@click.command()
@click.argument("path", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write the recovered stream there; PATH stays as it is.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--salvage", is_flag=True, help="Write intact events from after the damage too, marked as doubtful.")
@click.option("--json", "as_json", is_flag=True, help="The report as a JSON object.")
def command(path: str, output: str | None, dry_run: bool, salvage: bool, as_json: bool) -> int:
    """Keep the valid prefix of a damaged stream.

    A stream that was not closed loses only its preallocated bytes. The bytes that are cut are saved first, in
    PATH.quarantine-OFFSET. No file is ever overwritten.

    With --salvage, intact events from after the damage are kept too, even if the first bytes of PATH are lost. The
    number of events missing between them is unknown, so OUTPUT.salvage.json lists the doubtful ones.

    Exit code 0: no event was lost; 1: published bytes were cut (with --dry-run: would be), or events are doubtful;
    2: not a stream, or in use.
    """
    if dry_run and output is not None:
        raise click.UsageError("give --output or --dry-run, not both")
    if salvage and output is None:
        raise click.UsageError("--salvage writes another stream; give --output")
    with progress("recover") as advance:
        report = evtape.recover(path, output=output, dry_run=dry_run, progress=advance, salvage=salvage)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        show(report, dry_run)
    return DAMAGED if report.lost or report.salvaged else GOOD


def show(report: evtape.Report, dry_run: bool = False) -> None:
    """What was done, or would be, for a person."""
    path, events = f"{visible(report.path)}: ", sizes_of(report)
    where = f"; written to {visible(report.output)}" if report.output is not None else ""
    if report.lost:
        lost = (_cut(report, dry_run), _show.STATES["damaged"])
        _show.say(path, f"{'would keep' if dry_run else 'kept'} {events}; ", lost, _saved(report), where)
        _show.say(problem_text(report, report.problems[0]), indent=2)
    elif report.state == "damaged":
        verb = "is" if report.output is not None else "would be" if dry_run else "is now"
        count = f"EventCount {verb} {report.events} instead of {report.event_count}"
        saved = f"; events above WriteOffset are saved in {visible(report.quarantine)}" if report.quarantine else ""
        _show.say(path, f"{count}; no event is lost: {events}{saved}{where}")
    elif report.state == "open" and report.output is None:
        verb = "would be cut" if dry_run else "were cut"
        _show.say(path, f"was not closed; preallocated bytes {verb}; no event is lost: {events}")
    else:
        _show.say(path, (report.state, _show.STATES[report.state]), f"; nothing is lost: {events}{where}")
    _show_salvaged(report)


def _show_salvaged(report: evtape.Report) -> None:
    if not report.salvaged:
        return
    events = counted(sum(run.events for run in report.salvaged), "event")
    runs, marks = counted(len(report.salvaged), "run"), visible(marks_of(report.output or ""))
    _show.say(f"and {events} from after the damage, in {runs}, doubtful: see {marks}", indent=2)
    for run in report.salvaged[:_RUNS_SHOWN]:
        _show.say(f"bytes {run.offset:,} to {run.end:,}: {_taken(run)}", indent=4)
    if len(report.salvaged) > _RUNS_SHOWN:
        _show.say(f"and {counted(len(report.salvaged) - _RUNS_SHOWN, 'more run')}", indent=4)


def _taken(run: Salvaged) -> str:
    return f"from event {run.ordinal:,} on, {counted(run.events, 'event')}, {run.doubt}" if run.events else run.doubt


def _cut(report: evtape.Report, dry_run: bool) -> str:
    cut = counted(report.cut, "byte")
    if not report.cut:
        return "the rest is not in the file"
    if report.output is not None:
        return f"{cut} {'is' if report.cut == 1 else 'are'} left out"
    return f"{'would cut' if dry_run else 'cut'} {cut}"


def _saved(report: evtape.Report) -> str:
    return f", saved in {visible(report.quarantine)}" if report.cut and report.quarantine else ""
