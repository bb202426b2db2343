"""``evtape journal``: the segments of a journal, what it keeps, and what is deleted next."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from typing import Any

import click

import evtape
from evtape.core.times import iso
from evtape.journal import settings as settings_of
from evtape.journal.directory import Directory
from evtape.journal.retention import Closed, Retention, committed, look_at
from evtape.journal.settings import Settings

from . import DAMAGED, GOOD, _show, need_stdout, open_to_read, visible

_SHOWN = 12  # segments a person sees; --json lists all
_NS = 1_000_000_000


@click.group()
def command() -> None:
    """Look after a journal.

    A journal is a directory of segments, which rolls and deletes what is old.
    """


class _Look:
    """What there is of a journal, found without its lock."""

    def __init__(self, path: str) -> None:
        directory = Directory(path)
        with open_to_read(path) as tape:
            if not isinstance(tape, evtape.JournalReader):
                raise click.UsageError(f"{path}: this is a stream; 'evtape info' describes it")
            self.segments = tape.segments
            self.first, self.end = tape.first_ordinal, tape.next_ordinal
            self.schema = _show.schema_text(tape)
        known = settings_of.load(directory)
        self.settings = Settings() if known is None else known
        self.cursors = committed(directory)
        self.disk = sum(entry.stat().st_size for entry in os.scandir(directory.name) if entry.is_file())
        self.due = Retention(directory, self.settings, _closed(directory)).due()
        gaps = pairwise(self.segments)
        self.missing = [range(one.ordinals.stop, two.ordinals.start) for one, two in gaps]
        self.missing = [gap for gap in self.missing if gap]

    @property
    def damaged(self) -> bool:
        return bool(self.missing) or any(segment.state == "damaged" for segment in self.segments)


def _closed(directory: Directory) -> list[Closed]:
    return [look_at(directory, first, stop) for first, stop in pairwise(directory.segments())]


@command.command()
@click.argument("path", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(path: str, as_json: bool) -> int:
    """Show segments, cursors, and what is deleted next."""
    need_stdout()
    return describe(path, as_json)


def describe(path: str, as_json: bool) -> int:
    """What 'evtape journal info' and 'evtape info' say of a journal."""
    look = _Look(path)
    if as_json:
        print(json.dumps(_as_dict(path, look)), flush=True)
    else:
        _show_journal(path, look)
    return DAMAGED if look.damaged else GOOD


def _as_dict(path: str, look: _Look) -> dict[str, Any]:
    return {
        "path": path,
        "events": look.end - look.first,
        "first_ordinal": look.first,
        "next_ordinal": look.end,
        "disk_bytes": look.disk,
        "schema": look.schema,
        "settings": {name: value for name, value in look.settings.__dict__.items() if name != "schema"},
        "cursors": {name: look.end - ordinal for name, ordinal in look.cursors.items()},
        "missing": [[gap.start, gap.stop] for gap in look.missing],
        "due": [segment.first for segment, _ in look.due],
        "segments": [
            {
                "path": segment.path,
                "first_ordinal": segment.ordinals.start,
                "events": len(segment.ordinals),
                "first_timestamp": segment.start,
                "last_timestamp": segment.end,
                "bytes": segment.bytes,
                "state": segment.state,
            }
            for segment in look.segments
        ],
    }


def _show_journal(path: str, look: _Look) -> None:
    out = _show.console()
    rows: list[tuple[str, _show.Words]] = [("journal", [(visible(path), "bold")])]
    ordinals = f" ({look.first:,} to {look.end - 1:,})" if look.end > look.first else ""
    rows.append(("events", [f"{look.end - look.first:,}{ordinals}"]))
    rows.append(("segments", [f"{len(look.segments):,}, {_show.bytes_text(look.disk)} on disk"]))
    if look.schema is not None:
        rows.append(("schema", [visible(look.schema)]))
    rows.append(("rolls", [_rolls(look.settings)]))
    rows.append(("keeps", [_keeps(look.settings)]))
    rows += [("missing", [(f"the events {gap.start:,} to {gap.stop - 1:,}", "red")]) for gap in look.missing]
    for name, ordinal in look.cursors.items():
        lost = f", {look.first - ordinal:,} of them deleted" if ordinal < look.first else ""
        rows.append(("cursor", [f"{visible(name)}: {_show.counted(look.end - ordinal, 'event')} behind{lost}"]))
    for closed, reason in look.due[:3]:
        rows.append(("due", [f"{closed.first:,} to {closed.stop - 1:,} ({reason})"]))
    if len(look.due) > 3:
        rows.append(("due", [f"and {_show.counted(len(look.due) - 3, 'more segment')}"]))
    _show.pairs(out, rows)
    out.print()
    hidden = len(look.segments) - _SHOWN
    for at, segment in enumerate(look.segments):
        if at == _SHOWN // 2 and hidden > 0:
            _show.say(f"{'...':>16}  {_show.counted(hidden, 'more segment')}")
        if at < _SHOWN // 2 or at >= len(look.segments) - _SHOWN // 2:
            _show_segment(segment)


def _show_segment(segment: evtape.Segment) -> None:
    when = iso(segment.start) if segment.start is not None else "-"
    style = {"damaged": "red", "active": "green"}.get(segment.state, "")
    text = (
        f"  {segment.ordinals.start:>14,} {len(segment.ordinals):>12,} {_show.bytes_text(segment.bytes):>9}  {when}  "
    )
    _show.say(text, (segment.state, style))


def _rolls(settings: Settings) -> str:
    every = "" if settings.roll_every is None else f", and every {_show.duration_text(settings.roll_every)}"
    return f"at {_show.bytes_text(settings.roll_bytes)}{every}"


def _keeps(settings: Settings) -> str:
    limits = []
    if settings.keep_bytes is not None:
        limits.append(_show.bytes_text(settings.keep_bytes))
    if settings.keep_for is not None:
        limits.append(_show.duration_text(settings.keep_for))
    if settings.keep_segments is not None:
        limits.append(_show.counted(settings.keep_segments, "segment"))
    if settings.keep_at_most_bytes is not None:
        limits.append(f"{_show.bytes_text(settings.keep_at_most_bytes)} whatever cursors need")
    text = ", ".join(limits) or "everything"
    return text + ("; a full disk deletes the oldest segment" if settings.on_full == "drop_oldest" else "")


@command.command()
@click.argument("path", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def prune(path: str, dry_run: bool) -> int:
    """Delete what the settings of the journal do not keep.

    A writer does this by itself, so this is for a journal that no writer has open.
    """
    look = _Look(path)
    if not dry_run and look.due:
        with evtape.open_journal(path, "a", durability="close") as journal:
            journal.prune()
    verb = "would delete" if dry_run else "deleted"
    for segment, reason in look.due:
        _show.say(
            f"{verb} the events {segment.first:,} to {segment.stop - 1:,}, {_show.bytes_text(segment.bytes)} ({reason})"
        )
    if not look.due:
        _show.say("nothing to delete")
    return GOOD


@command.command()
@click.argument("path", type=click.Path())
def roll(path: str) -> int:
    """Close the active segment and begin another one.

    A journal that a writer has open is refused: its writer rolls by size and time.
    """
    _Look(path)
    with evtape.open_journal(path, "a") as journal:
        rolled = journal.roll()
    _show.say("the active segment was closed" if rolled else "the active segment has no events and stays")
    return GOOD
