"""``evtape merge``: the events of several streams as one sequence, ordered by time."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator

import click

import evtape
from evtape.stream.merge_follow import LATENESS

from . import GOOD, _forms, _json, damage_told, need_stdout, tell
from ._times import TIME
from .cat import Damage
from .follow import start_time


@click.command()
@click.argument("paths", metavar="PATH...", type=click.Path(), nargs=-1, required=True)
@_forms.options
@click.option("--from", "--since", "start", type=TIME, help="Events at this time or later.")
@click.option("--to", "--until", "end", type=TIME, help="Events before this time.")
@click.option("-n", "count", type=int, help="The first N events; -N the last ones.")
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they are published, until Ctrl-C.")
@click.option(
    "--lateness",
    type=click.FloatRange(min=0),
    help=f"With --follow, seconds that an event waits for streams without events.  [default: {LATENESS}]",
)
def command(
    paths: tuple[str, ...],
    as_json: bool,
    kind: str | None,
    framing: str | None,
    start: int | None,
    end: int | None,
    count: int | None,
    follow: bool,
    lateness: float | None,
) -> int:
    """Print several streams as one, in time order.

    Events are printed as by 'evtape cat', with the name of the stream after the time. With --json the key "stream"
    has the path, and "late" says whether an event of a later time was printed before this one, which happens only with
    --follow. Events of one stream never change their order.

    With --follow an event is printed when every other stream has a later one or was closed by its writer, at the latest
    when it is as old as --lateness. A larger value keeps the order where writers are slow to append what they have
    timestamped.

    Damaged events are left out, named on stderr, and make the exit code 1.
    """
    form = _forms.merged_form_of(paths, as_json, kind, framing)
    if lateness is not None and not follow:
        raise click.UsageError("--lateness is for --follow; give both")
    if follow and count is not None and count >= 0:
        raise click.UsageError("with --follow, give -N for the last N events; -n N would end there")
    need_stdout()
    with _opened(paths) as merged:
        if follow:
            return _print_new(form, _parts(merged, start, end, count, lateness))
        damage = Damage(goes_on=True)
        write = sys.stdout.buffer.write
        try:
            for event in damage.others(_selected(merged, start, end, count)):
                write(form(event))
        except _json.KindError:
            sys.stdout.flush()  # what is good comes before the message
            raise
    return damage.report()


@contextlib.contextmanager
def _opened(paths: tuple[str, ...]) -> Iterator[evtape.Merged]:
    with contextlib.ExitStack() as stack:
        tapes = []
        for path in paths:
            with damage_told(path):
                tapes.append(stack.enter_context(evtape.open(path)))
        try:
            merged = evtape.merge(tapes)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        yield stack.enter_context(merged)


def _selected(
    merged: evtape.Merged, start: int | None, end: int | None, count: int | None
) -> Iterable[evtape.MergedEvent]:
    """The events asked for. Without a reason to know more than the beginning, nothing but the events is read."""
    if start is None and end is None:
        if count is None or count >= 0:
            return merged if count is None else itertools.islice(merged, count)
        return merged[count:]
    selection = merged.between(starting_at=start, ending_before=end)
    if count is not None and count >= 0:
        return itertools.islice(selection, count)
    return selection if count is None else selection[count:]


def _parts(
    merged: evtape.Merged, start: int | None, end: int | None, count: int | None, lateness: float | None
) -> Iterable[list[evtape.MergedEvent]]:
    """The events to print with --follow, in lists of those that are ready."""
    first: object = 0 if start is None else start_time(start)
    if count is not None:
        later = len(merged) if start is None else len(merged.between(starting_at=start))
        first = first if -count >= later else count or "end"
    until = None if end is None else start_time(end)
    return merged.follow(first, until=until, batch=True, lateness=LATENESS if lateness is None else lateness)


def _print_new(form: _forms.MergedForm, parts: Iterable[list[evtape.MergedEvent]]) -> int:
    """Print events as they come. Each one is visible before the next wait."""
    write, flush = sys.stdout.buffer.write, sys.stdout.buffer.flush
    late = 0
    try:
        for part in parts:
            for event in part:
                late += event.late
                write(form(event))
            flush()
    finally:
        if late:
            what = "event was" if late == 1 else "events were"
            tell(f"{late:,} {what} late and printed after events of later times; give a larger --lateness")
    return GOOD
