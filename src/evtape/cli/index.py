"""``evtape index``: make the index files of streams."""

from __future__ import annotations

import itertools
import json
import os
import sys

import click

import evtape

from . import GOOD, _show, code_of, tell, told, visible
from ._show import counted, progress


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object per stream.")
def command(paths: tuple[str, ...], as_json: bool) -> int:
    """Make the index of streams, in one pass.

    The file PATH.index is made, or made anew. With an index, questions about ordinals and times take no walk, and
    'evtape verify' detects changed timestamps. A writer keeps the index of a large stream by itself; this is for
    streams that have none.

    Of a journal, each segment gets one, except for the one that is being written. The index ends before damage, which
    is named (exit code 1). Of several streams the highest code counts.
    """
    code = GOOD
    for path, is_active in itertools.chain.from_iterable(map(_streams, paths)):
        try:
            with progress("index") as advance:
                events = evtape.build_index(path, advance)
        except (evtape.Error, OSError) as error:
            if is_active and isinstance(error, evtape.LockedError):
                continue
            tell(told(error))
            code = max(code, code_of(error))
            continue
        if as_json:
            print(json.dumps({"path": path, "events": events}))
        else:
            _show.say(f"{visible(path)}: ", f"{counted(events, 'event')} indexed")
        sys.stdout.flush()
    return code


def _streams(path: str) -> list[tuple[str, bool]]:
    """The stream, or the segments of the journal, and whether its writer may be at work there."""
    if not os.path.isdir(path):
        return [(path, False)]
    with evtape.open_journal(path) as journal:
        return [(segment.path, segment.state == "active") for segment in journal.segments]
