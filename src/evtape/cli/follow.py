"""``evtape follow``: events as they are published."""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterable
from typing import Any

import click

import evtape

from . import GOOD, STDOUT, _forms, named, need_stdout, open_to_read
from ._streams import close_on_sigterm
from ._times import TIME

_LAST = 10  # events that are shown first


@click.command()
@click.argument("path", type=click.Path())
@_forms.options
@click.option("-n", "count", type=click.IntRange(min=0), help=f"Begin with the last N events.  [default: {_LAST}]")
@click.option("--from", "--since", "start", type=TIME, help="Begin with the first event at this time or later.")
@click.option("--cursor", "name", metavar="NAME", help="Begin where this cursor stands, and move it.")
@click.option("--timeout", type=click.FloatRange(min=0), help="End after this many seconds without an event.")
@click.option(
    "-F", "--retry", is_flag=True, help="Wait for the stream if there is none, and go on with one that replaces it."
)
def command(
    path: str,
    as_json: bool,
    kind: str | None,
    framing: str | None,
    count: int | None,
    start: int | None,
    name: str | None,
    timeout: float | None,
    retry: bool,
) -> int:
    """Print events as they are published.

    Runs until Ctrl-C and prints events as 'evtape cat' does. A writer in another process wakes this command, which
    sleeps between the events. The command also ends when the program that reads its output ends, and at damage.

    A cursor is a named place in the stream. It moves past the events that were printed, so the next run continues
    there. A new cursor begins at the first event. One command at a time can have a cursor; 'evtape info' lists them.
    """
    form = _forms.form_of(path, as_json, kind, framing)
    if sum(given is not None for given in (count, start, name)) > 1:
        raise click.UsageError("give one of -n, --from and --cursor")
    if retry and name is not None:
        raise click.UsageError("--cursor is for one stream, and --retry goes on with others")
    need_stdout()
    close_on_sigterm()
    ends: dict[str, Any] = {"timeout": timeout, "stop_event": OutputClosed(), "batch": True}
    if retry:
        first: object = -(_LAST if count is None else count) if start is None else start_time(start)
        first = "end" if first == 0 else first
        parts = evtape.follow(path, first, wait=True, on_replace="follow", **ends)
        return print_new(form, parts)
    with open_to_read(path) as tape:
        if name is not None:
            with _cursor(tape, name) as cursor:
                return print_new(form, tape.follow(cursor.ordinal, **ends), cursor)
        last = tape.next_ordinal - (_LAST if count is None else count)
        first = max(tape.first_ordinal, last) if start is None else start_time(start)
        return print_new(form, tape.follow(first, **ends))


def _cursor(tape: evtape.Reader, name: str) -> evtape.Cursor:
    try:
        return tape.cursor(name)
    except ValueError as error:  # of the name
        raise click.UsageError(str(error)) from None


def start_time(nanoseconds: int) -> object:
    """A time as `follow` takes it; a number would be an ordinal."""
    import numpy as np

    return np.datetime64(nanoseconds, "ns")


class OutputClosed:
    """Set when standard output is a pipe or a socket whose reader has ended, as in "evtape follow x.tape | head"."""

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        try:
            fd = sys.stdout.fileno()
            mode = os.fstat(fd).st_mode
        except OSError:  # it is not a file
            return
        if not hasattr(select, "poll"):  # Windows. There the next write fails.
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._poll = select.poll()
            self._poll.register(fd, 0)  # errors are always reported

    def is_set(self) -> bool:
        """Whether the reader has ended."""
        return self._poll is not None and bool(self._poll.poll(0))


def print_new(form: _forms.Form, parts: Iterable[evtape.Slice], cursor: evtape.Cursor | None = None) -> int:
    """Print slices as they arrive. Printed events are visible, and before the cursor, when the next wait begins.

    An exception or a signal in the middle of a slice does not take back the events that were printed.
    """
    write, flush = sys.stdout.buffer.write, sys.stdout.buffer.flush
    for part in parts:
        printed = -1
        try:
            for event in part:
                write(form(event))
                printed = event.ordinal
        finally:
            with named(STDOUT):
                flush()
            if cursor is not None and printed >= 0:
                cursor.seek(printed + 1)
                cursor.commit()
    return GOOD
