"""``evtape verify``: read everything, compare every checksum, change nothing."""

from __future__ import annotations

import json

import click

import evtape

from . import DAMAGED, GOOD, WRONG, code_of, tell, told, visible
from ._show import progress

_SHOWN = 10  # problems a person reads; --json lists more


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per stream.")
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Read streams and compare every checksum.

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
        print(json.dumps(report.as_dict()) if as_json else text_of(report), flush=True)
        code = max(code, code_of_report(report))
    return code


def code_of_report(report: evtape.Report) -> int:
    """Exit code for what was found."""
    return GOOD if report.ok else WRONG if report.state == "invalid" else DAMAGED


def text_of(report: evtape.Report) -> str:
    """What was found, for a person: one line, and one for each problem."""
    if report.state == "invalid":
        return visible(report.problems[0].message)
    path, events = visible(report.path), f"{report.events:,} events, {report.end:,} bytes"
    if report.ok:
        unsorted = f"; times go backwards first at event {report.unsorted_at}" if report.unsorted_at >= 0 else ""
        state = "clean" if report.state == "clean" else "open (in use, or not closed)"
        return f"{path}: {state}, {events}, every checksum matches{unsorted}"
    first = f"{path}: damaged; the intact beginning is {events}"
    lines = [first if report.lost else f"{path}: damaged, but all of its {events} are intact"]
    lines += [f"  {problem_text(report, problem)}" for problem in report.problems[:_SHOWN]]
    if report.problem_count > _SHOWN:
        lines.append(f"  and {report.problem_count - _SHOWN:,} more")
    return "\n".join(lines)


def problem_text(report: evtape.Report, problem: evtape.Problem) -> str:
    """What is wrong, without the name of the stream, which was said before."""
    return visible(problem.message.removeprefix(f"{report.path}: ").removesuffix("; see 'evtape recover'"))
