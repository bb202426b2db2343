"""``evtape append``: what comes in on standard input becomes events, as it comes."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

import evtape

from . import DAMAGED, GOOD, InputError, _framing, tell
from ._json import event_of
from ._show import progress

_READ = 1 << 20  # bytes asked for at once; a pipe gives what it has


@click.command()
@click.argument("path", type=click.Path())
@click.option(
    "--framing",
    type=click.Choice(_framing.NAMES),
    default="lines",
    show_default=True,
    help="Lines, or records after their length as an unsigned 32-bit number.",
)
@click.option("--json", "as_json", is_flag=True, help="Lines as 'evtape cat --json' prints them; they keep their times.")
def command(path: str, framing: str, as_json: bool) -> int:
    """Append events from standard input; makes the stream if there is none.

    \b
      journalctl -f | evtape append sys.tape

    An event can be read by others as soon as its line is complete: a slow pipe is stored line by line, a fast one in batches. Events are
    made durable once a second and at the end. Input that ends inside a record is damaged (exit code 1); the records before it are stored.
    """
    if as_json and framing != "lines":
        raise click.UsageError("--json reads lines; leave out --framing")
    splitter = _framing.splitter(framing)
    signal.signal(signal.SIGTERM, _terminated)  # so that the stream is closed
    with evtape.open(path, "a", durability="interval") as tape:
        before = tape.appended if hasattr(tape, "appended") else None
        store: Callable[[list[Any]], int] = _JsonStore(tape).store if as_json else lambda items: _store(tape, items)
        stored = 0
        for chunk in _chunks():
            stored += store(splitter.feed(chunk))
        stored += store(splitter.finish())
        repaired = tape.recovered
    if sys.stderr.isatty():
        tell(f"{stored:,} events appended to {path}")
    return DAMAGED if repaired is not None and repaired.lost else GOOD
