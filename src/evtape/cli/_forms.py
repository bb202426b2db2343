"""How an event is printed: as text, as JSON, or its payload alone in a framing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence

import click

import evtape
from evtape.core.times import iso

from . import _framing, _json, _show, visible

Form = Callable[[evtape.Event], bytes]
MergedForm = Callable[[evtape.MergedEvent], bytes]


def options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that choose a form."""
    data = (
        "With --json, what payloads are: text, a JSON value, or bytes in hex or base64.  "
        f"[default: as the schema says, else {_json.DEFAULT}]"
    )
    for option in (
        click.option(
            "--framing", type=click.Choice(_framing.NAMES), help="Payloads alone, as 'evtape append' reads them."
        ),
        click.option("--data", "kind", type=click.Choice(_json.KINDS), help=data),
        click.option(
            "--json", "as_json", is_flag=True, help="One JSON object per line; 'evtape append --json' reads it back."
        ),
    ):
        command = option(command)
    return command


def form_of(path: str, as_json: bool, kind: str | None, framing: str | None) -> Form:
    """The function that makes the bytes to print. Raises UsageError for options that do not go together."""
    if as_json and framing:
        raise click.UsageError("give --json or --framing, not both")
    if kind and not as_json:
        raise click.UsageError("--data is for --json; give both")
    if as_json:
        return _json.liner(path, kind)
    return _framed(framing) if framing else _text_form()


def merged_form_of(paths: Sequence[str], as_json: bool, kind: str | None, framing: str | None) -> MergedForm:
    """The same for the events of a merge, each of which says where it is from."""
    forms = [form_of(path, as_json, kind, framing) for path in paths]
    if as_json:
        starts = [f'{{"stream":{json.dumps(path)},"late":'.encode() for path in paths]
        return lambda event: (
            b"%s%s,%s"
            % (
                starts[event.stream_number],
                b"true" if event.late else b"false",
                forms[event.stream_number](event.event)[1:],
            )
        )
    if framing:
        return lambda event: forms[0](event.event)
    names = _short(paths)
    width = max(map(len, names))
    named = [_text_form(f"{name:{width}} ") for name in names]
    return lambda event: named[event.stream_number](event.event)


def _short(paths: Sequence[str]) -> list[str]:
    """The names of the files, or the paths where two have the same name."""
    names = [os.path.basename(path) for path in paths]
    return [visible(name) for name in (names if len(set(names)) == len(names) else paths)]


def _framed(name: str) -> Callable[[evtape.Event], bytes]:
    """What makes the bytes of a framing of an event. No payload commands a terminal."""
    frame = _framing.framed(name)
    if not sys.stdout.isatty():
        return lambda event: frame(event.data)
    if name != "lines":
        raise click.UsageError(f"--framing {name} is binary and standard output is a terminal; send it to a file")
    return lambda event: "".join([*map(_visible, str(event.data, "utf-8", "backslashreplace")), "\n"]).encode()


def _text_form(name: str = "") -> Callable[[evtape.Event], bytes]:
    """What makes a line of an event: its time, the name and the payload.

    An escape sequence in a payload never reaches the terminal.
    """
    width = shutil.get_terminal_size().columns - len(name) if sys.stdout.isatty() else None
    # The console of Windows obeys escape codes only when it is asked to, which rich does and this does not.
    has_colours = _show.has_colours(sys.stdout) and sys.platform != "win32"
    dim, normal = ("\x1b[2m", "\x1b[0m") if has_colours else ("", "")

    def form(event: evtape.Event) -> bytes:
        data = event.data
        text = _row_text(event) or str(data, "utf-8", "backslashreplace")
        if not text.isprintable():
            text = _escaped(data, text, width)
        return f"{dim}{iso(event.timestamp)}{normal} {name}{text}\n".encode()

    return form


def _row_text(event: evtape.Event) -> str | None:
    """The fields of a payload by their names, where the stream has a schema of fields that fits."""
    schema = event._schema
    return schema.show(event) if schema is not None and schema.dtype is not None else None


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
