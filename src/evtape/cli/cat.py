"""``evtape cat``: events as text, as JSON lines, or their payloads alone."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click

import evtape

from . import DAMAGED, GOOD, _forms, _json, need_stdout, open_to_read, tell
from ._streams import close_on_sigterm
from ._times import TIME
from .follow import OutputClosed, print_new, start_time

_Event = TypeVar("_Event", bound=evtape.Event | evtape.MergedEvent)


@click.command()
@click.argument("path", type=click.Path())
@_forms.options
@click.option("--from", "--since", "start", type=TIME, help="Events at this time or later.")
@click.option("--to", "--until", "end", type=TIME, help="Events before this time.")
@click.option("-n", "count", type=int, help="The first N events; -N the last ones.")
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they are published; see 'evtape follow'.")
def command(
    path: str,
    as_json: bool,
    kind: str | None,
    framing: str | None,
    start: int | None,
    end: int | None,
    count: int | None,
    follow: bool,
) -> int:
    """Print the events of a stream.

    One line per event: its time, then its payload as text, in which anything that is not printable is escaped; on a
    terminal a payload that is not text is cut at the edge. Where the stream has a schema of fields, these
    are printed by name. With --json or --framing the payload is exact; only on a
    terminal --framing lines escapes what is not printable, and the binary framings are refused there.

    With --json every line has the same keys: ordinal, timestamp (nanoseconds), time (ISO 8601, UTC) and one for the
    payload. --data or the schema of the stream chooses it, never the contents: data_base64 (the default), data_hex,
    data (--data text) or data_json (--data json, the payload as the JSON value it is). A payload that is not of the
    chosen kind ends the command with exit code 2 and is named. Where the stream has a schema of fields, there is also
    value, an object of them.

    A TIME is nanoseconds since 1970, ISO 8601 (local time when it has no zone), or a distance from now:

    \b
      -1h   '10 min ago'   today   'yesterday 14:00'

    Ends at what is published when it begins. Damaged events are left out, named on stderr, and make the exit code 1.
    With --follow the command continues with later events, and ends at damage.
    """
    form = _forms.form_of(path, as_json, kind, framing)
    need_stdout()
    damage = Damage()
    write = sys.stdout.buffer.write
    with open_to_read(path) as tape:
        if follow:
            close_on_sigterm()
            until = None if end is None else start_time(end)
            first = _first(tape, start, count)
            return print_new(form, tape.follow(first, until=until, stop_event=OutputClosed(), batch=True))
        try:
            for event in damage.others(_selected(tape, start, end, count)):
                write(form(event))
        except _json.KindError:
            sys.stdout.flush()  # what is good comes before the message
            raise
    return damage.report()


def _first(tape: evtape.Reader, start: int | None, count: int | None) -> int:
    """The ordinal of the first event to print with --follow."""
    if count is not None and count >= 0:
        raise click.UsageError("with --follow, give -N for the last N events; -n N would end there")
    first, end = tape.first_ordinal, tape.next_ordinal
    if start is not None:
        later = tape.between(starting_at=start)
        first = int(later.ordinals[0]) if len(later) else end
    return first if count is None else max(first, end + count)


def _selected(tape: evtape.Reader, start: int | None, end: int | None, count: int | None) -> Iterable[evtape.Event]:
    """The events asked for. Without a reason to know more than the beginning, nothing but the events is read."""
    if start is None and end is None and (count is None or count >= 0):
        return tape if count is None else itertools.islice(tape, count)
    selection = tape.between(starting_at=start, ending_before=end)
    if count is not None:
        selection = selection[:count] if count >= 0 else selection[count:]
    if isinstance(selection.ordinals, range):
        return selection
    return map(selection.__getitem__, range(len(selection)))  # unlike a generator it goes on after an exception


class Damage:
    """Leaves out events that are damaged and remembers them.

    ``goes_on``: the iterator can go on where the place of the next event of a stream is unknown.
    """

    def __init__(self, goes_on: bool = False) -> None:
        self._goes_on = goes_on
        self._count = 0
        self._first: evtape.CorruptError | None = None

    def others(self, events: Iterable[_Event]) -> Iterator[_Event]:
        iterator = iter(events)
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return
            except evtape.CorruptError as error:
                self._count += 1
                self._first = self._first or error
                skips = error.reason == "checksum" or isinstance(error, evtape.MissingError)
                if not skips and not self._goes_on:  # where the next event begins is not known
                    return

    def report(self) -> int:
        if self._first is None:
            return GOOD
        sys.stdout.flush()
        tell(str(self._first) + (f" ({self._count - 1} more are left out)" if self._count > 1 else ""))
        return DAMAGED
