"""``evtape cat``: events as text, as JSON lines, or their payloads alone."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator

import click

import evtape
from evtape.core.times import iso

from . import DAMAGED, GOOD, _framing, _json, _show, need_stdout, open_to_read, tell
from ._times import TIME


@click.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line; 'evtape append --json' reads it back.")
@click.option(
    "--data",
    "kind",
    type=click.Choice(_json.KINDS),
    help=f"With --json, what payloads are: text, a JSON value, or bytes in hex or base64.  [default: {_json.DEFAULT}]",
)
@click.option("--framing", type=click.Choice(_framing.NAMES), help="Payloads alone, as 'evtape append' reads them.")
@click.option("--from", "--since", "start", type=TIME, help="Events at this time or later.")
@click.option("--to", "--until", "end", type=TIME, help="Events before this time.")
@click.option("-n", "count", type=int, help="The first N events; -N the last ones.")
def command(
    path: str,
    as_json: bool,
    kind: str | None,
    framing: str | None,
    start: int | None,
    end: int | None,
    count: int | None,
) -> int:
    """Print the events of a stream.

    One line per event: its time, then its payload as text, in which anything that is not printable is escaped; on a
    terminal a payload that is not text is cut at the edge. With --json or --framing the payload is exact; only on a
    terminal --framing lines escapes what is not printable, and the binary framings are refused there.

    With --json every line has the same keys: ordinal, timestamp (nanoseconds), time (ISO 8601, UTC) and one for the
    payload. --data chooses it, never the contents: data_base64 (the default), data_hex, data (--data text) or data_json
    (--data json, the payload as the JSON value it is). A payload that is not of the chosen kind ends the command with
    exit code 2 and is named.

    A TIME is nanoseconds since 1970, ISO 8601 (local time when it has no zone), or a distance from now:

    \b
      -1h   '10 min ago'   today   'yesterday 14:00'

    Ends at what is published when it begins. Damaged events are left out, named on stderr, and make the exit code 1.
    """
    if as_json and framing:
        raise click.UsageError("give --json or --framing, not both")
    if kind and not as_json:
        raise click.UsageError("--data is for --json; give both")
    need_stdout()
    form = _json.liner(path, kind or _json.DEFAULT) if as_json else _framed(framing) if framing else _text_form()
    damage = _Damage()
    write = sys.stdout.buffer.write
    with open_to_read(path) as tape:
        try:
            for event in damage.others(_selected(tape, start, end, count)):
                write(form(event))
        except _json.KindError:
            sys.stdout.flush()  # what is good comes before the message
            raise
    return damage.report()


def _framed(name: str) -> Callable[[evtape.Event], bytes]:
    """What makes the bytes of a framing of an event. No payload commands a terminal."""
    frame = _framing.framed(name)
    if not sys.stdout.isatty():
        return lambda event: frame(event.data)
    if name != "lines":
        raise click.UsageError(f"--framing {name} is binary and standard output is a terminal; send it to a file")
    return lambda event: "".join([*map(_visible, str(event.data, "utf-8", "backslashreplace")), "\n"]).encode()


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


class _Damage:
    """Leaves out events that are damaged and remembers them."""

    def __init__(self) -> None:
        self._count = 0
        self._first: evtape.CorruptError | None = None

    def others(self, events: Iterable[evtape.Event]) -> Iterator[evtape.Event]:
        iterator = iter(events)
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return
            except evtape.CorruptError as error:
                self._count += 1
                self._first = self._first or error
                if error.reason != "checksum":  # where the next event begins is not known
                    return

    def report(self) -> int:
        if self._first is None:
            return GOOD
        sys.stdout.flush()
        tell(str(self._first) + (f" ({self._count - 1} more are left out)" if self._count > 1 else ""))
        return DAMAGED


# ----------------------------------------------------------------------------------------------------------------- text


def _text_form() -> Callable[[evtape.Event], bytes]:
    """What makes a line of an event. An escape sequence in a payload never reaches the terminal."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    # The console of Windows obeys escape codes only when it is asked to, which rich does and this does not.
    has_colours = _show.has_colours(sys.stdout) and sys.platform != "win32"
    dim, normal = ("\x1b[2m", "\x1b[0m") if has_colours else ("", "")

    def form(event: evtape.Event) -> bytes:
        data = event.data
        text = str(data, "utf-8", "backslashreplace")
        if not text.isprintable():
            text = _escaped(data, text, width)
        return f"{dim}{iso(event.timestamp)}{normal} {text}\n".encode()

    return form


def _escaped(data: memoryview, text: str, width: int | None) -> str:
    room = 0 if width is None else max(width - 32, 24)  # beside the time
    if width is None or b"\0" not in bytes(data[:64]):
        return "".join(map(_visible, text))
    escaped = "".join(map(_visible, text[:room]))
    if len(escaped) <= room and len(text) <= room:
        return escaped
    size = f"… ({len(data):,} bytes)"
    return escaped[: room - len(size)] + size


def _visible(character: str) -> str:
    if character.isprintable() or character == "\t":
        return character
    return character.encode("unicode_escape").decode()
