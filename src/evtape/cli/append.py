"""``evtape append``: what comes in on standard input becomes events, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import evtape

from . import InputError, _framing, _journals, damage_told, need_stdin, tell
from ._json import event_of
from ._show import counted
from ._streams import chunks, close_on_sigterm, code_after, store

Payloads = list[bytes | memoryview]


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--framing",
    type=click.Choice(_framing.NAMES),
    default="lines",
    show_default=True,
    help="Lines, or records after their length as an unsigned 32-bit number.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Lines as 'evtape cat --json' prints them, of any --data; they keep their times.",
)
@_journals.options
def command(path: str, framing: str, as_json: bool, roll: tuple[Any, ...], keep: tuple[Any, ...]) -> int:
    """Append events from standard input.

    \b
      journalctl -f | evtape append sys.tape
      journalctl -f | evtape append --keep 7d sys.journal

    Makes the stream if there is none. An event can be read by others as soon as its line is complete: a slow pipe is
    stored line by line, a fast one in batches. Events are made durable once a second and at the end. Input that ends
    inside a record is damaged (exit code 1); the records before it are stored.
    """
    if as_json and framing != "lines":
        raise click.UsageError("--json reads lines; leave out --framing")
    need_stdin()
    splitter = _framing.splitter(framing)
    close_on_sigterm()
    stored = 0
    with damage_told(path):
        tape = _journals.open_to_append(path, roll, keep)
    with tape:
        kept: Callable[[Payloads], int] = _JsonLines(tape).store if as_json else lambda payloads: store(tape, payloads)
        try:
            for chunk in chunks(0):
                stored += kept(splitter.feed(chunk))
            stored += kept(splitter.finish())
        finally:
            if sys.stderr.isatty():
                tell(f"{path}: {counted(stored, 'event')} appended, {len(tape):,} in the stream")
    return code_after(tape)


class _JsonLines:
    """Stores events that are written as JSON. Those before a line that is wrong are kept."""

    def __init__(self, tape: evtape.Writer) -> None:
        self._tape = tape
        self._line = 0

    def store(self, lines: Payloads) -> int:
        events: list[tuple[bytes, int | None]] = []
        try:
            for line in lines:
                self._line += 1
                if not bytes(line).isspace() and len(line):
                    events.append(event_of(bytes(line)))
        except ValueError as error:
            self._append(events)
            raise InputError(f"line {self._line} of the input: {error}; the lines before it are stored") from None
        self._append(events)
        return len(events)

    def _append(self, events: Sequence[tuple[bytes, int | None]]) -> None:
        if all(timestamp is not None for _, timestamp in events):
            self._tape.append_many([payload for payload, _ in events], [timestamp for _, timestamp in events])
        else:
            for payload, timestamp in events:
                self._tape.append(payload, timestamp)
