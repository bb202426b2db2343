"""``evtape verify``: read everything, compare every checksum, change nothing."""

from __future__ import annotations

import json
import sys

import click

import evtape

from . import DAMAGED, GOOD, WRONG, _show, code_of, tell, told, visible
from ._show import counted, progress

_SHOWN = 10  # problems a person reads; --json lists more


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per stream.")
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Read streams and compare every checksum.

    Every timestamp is compared with the index of the stream, if it has one ('evtape index' makes one).

    A stream is clean; open (larger than what is published: in use, or its writer was killed; otherwise good); damaged
    (exit code 1); or not a stream (exit code 2). Of several streams the highest code counts.
    """
    code = GOOD
    for path in paths:
        try:
            with progress("verify") as advance:
                report = evtape.verify(path, advance)
        except (evtape.Error, OSError) as error:
            tell(told(error))
            code = max(code, code_of(error))
            continue
        if as_json:
            print(json.dumps(report.as_dict()))
        else:
            show(report)
        sys.stdout.flush()
        code = max(code, code_of_report(report))
    return code


def code_of_report(report: evtape.Report) -> int:
    """Exit code for what was found."""
    return GOOD if report.ok else WRONG if report.state == "invalid" else DAMAGED


def show(report: evtape.Report) -> None:
    """What was found, for a person: one paragraph, and one for each problem."""
    style = _show.STATES[report.state]
    if report.state == "invalid":
        message = report.problems[0].message.removeprefix(f"{report.path}: ")
        _show.say(f"{visible(report.path)}: ", (visible(message), style))
        return
    path, events = f"{visible(report.path)}: ", sizes_of(report)
    if report.ok:
        unsorted = f"; times go backwards first at event {report.unsorted_at:,}" if report.unsorted_at >= 0 else ""
        note = "" if report.state == "clean" else " (in use, or not closed)"
        _show.say(path, (report.state, style), f"{note}, {events}, every checksum matches{indexed(report)}{unsorted}")
        return
    found = f"; the valid prefix is {events}" if report.lost else f", but no event is lost: {events}"
    _show.say(path, (report.state, style), found)
    for problem in report.problems[:_SHOWN]:
        _show.say(problem_text(report, problem), indent=2)
    if report.problem_count > _SHOWN:
        _show.say(f"and {counted(report.problem_count - _SHOWN, 'more problem')}", indent=2)


def indexed(report: evtape.Report) -> str:
    """What was compared with the index."""
    if report.index == "missing":
        return "; no index to compare timestamps with"
    if report.index == "foreign":
        return "; the index belongs to another stream or an earlier writer: no timestamp was compared"
    if report.index == "damaged":
        return f"; the index is damaged: {counted(report.compared, 'timestamp')} compared"
    if report.compared == report.events:
        return "; every timestamp matches the index"
    return f"; {counted(report.compared, 'timestamp')} of {report.events:,} compared with the index"


def sizes_of(report: evtape.Report) -> str:
    """How many events the valid prefix has, and where it ends."""
    return f"{counted(report.events, 'event')}, {counted(report.end, 'byte')}"


def problem_text(report: evtape.Report, problem: evtape.Problem) -> str:
    """What is wrong, without the name of the stream, which was said before."""
    return visible(problem.message.removeprefix(f"{report.path}: ").removesuffix("; see 'evtape recover'"))
