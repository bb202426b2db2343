"""Partitions: streams that grow, are cut, regrown, replaced or removed between making a partition and reading it.

*changes*: after each change every partition ever made is opened. It gives the events that it was made of, or the error
that says what happened to them. *races*: the same changes are made by another process while partitions are made and
read; no process dies, and no event is one that its stream never had at this ordinal.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers import HEADER

from . import harness
from .streams import STAMP, entry

if TYPE_CHECKING:
    from .harness import Context

Event = tuple[int, bytes]
KINDS = ("grow", "grow", "grow", "cut", "regrow", "replace", "restore", "remove", "shorten", "index")


def run(ctx: Context) -> None:
    """Both pieces on both cores."""
    for core, evtape in harness.both().items():
        for name, piece in (("changes", changes), ("races", races)):
            if ctx.only in name:
                piece(ctx, core, evtape)


class Model:
    """A stream as its writers left it, written as another program would: without a file next to it."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path, self.rng = path, rng
        self.started = STAMP
        self.events: list[Event] = []
        self.missing = self.short = False
        self.replace()

    def more(self, count: int) -> list[Event]:
        """New events, with their ordinal first in the payload. None is like another."""
        found = []
        now = self.events[-1][0] if self.events else self.started
        for ordinal in range(len(self.events), len(self.events) + count):
            now += self.rng.randrange(4) - (self.rng.random() < 0.01)
            found.append((now, ordinal.to_bytes(8, "little") + self.rng.randbytes(8 + self.rng.randrange(60))))
        return found

    def write(self, *, in_place: bool) -> None:
        body = b"".join(entry(*event) for event in self.events)
        header = HEADER.pack(24 + len(body), len(self.events), self.started)
        if in_place and self.path.exists():
            with open(self.path, "r+b") as file:
                file.seek(24)
                file.write(body)
                file.seek(0)
                file.write(header)
                file.truncate(24 + len(body))
        else:
            new = self.path.with_suffix(".new")
            new.write_bytes(header + body)
            new.rename(self.path)
        self.missing = self.short = False

    def grow(self) -> None:
        self.events = self.events + self.more(self.rng.randrange(1, 200))
        self.write(in_place=True)

    def cut(self) -> None:
        self.events = self.events[: self.rng.randrange(len(self.events) + 1)]
        self.write(in_place=True)

    def regrow(self) -> None:
        before = len(self.events)
        self.events = self.events[: self.rng.randrange(before + 1)]
        self.events += self.more(before - len(self.events) + self.rng.randrange(50))
        self.write(in_place=True)

    def replace(self) -> None:
        self.started += 1_000_000
        self.events = []
        self.events = self.more(self.rng.randrange(300))
        self.write(in_place=False)

    def restore(self) -> None:
        """A copy of before, of the same stream, took the name; then other events came."""
        self.events = self.events[: self.rng.randrange(len(self.events) + 1)]
        self.events += self.more(self.rng.randrange(100))
        self.write(in_place=False)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.missing, self.short = True, False

    def shorten(self) -> None:
        """The file is cut and its header stays."""
        if self.events and not self.missing:
            os.truncate(self.path, os.path.getsize(self.path) - self.rng.randrange(1, 16))
            self.short = True


# ------------------------------------------------------------------------------------------- changes


def changes(ctx: Context, core: str, evtape: Any) -> None:
    """Every partition after every change, against the model."""
    for number in ctx.progress(range(ctx.scale(12, 500)), f"partitions, {core}"):
        path = ctx.work / f"changes-{core}.tape"
        seed = ctx.seed * 100_003 + number
        status, found = harness.in_child(lambda: lived(evtape, path, seed), 120.0)  # noqa: B023
        if found is None:
            ctx.violation("a process that reads partitions died", f"{core}, seed {seed}: {harness.tell(status)}")
            continue
        opened, problems = found
        for kind, detail in problems:
            ctx.violation(kind, f"{core}, seed {seed}: {detail}")
        for outcome, count in opened.items():
            ctx.count(f"partitions opened: {outcome}", count)


def lived(evtape: Any, path: Path, seed: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """One stream and its changes; what became of the partitions, and what went wrong."""
    rng = random.Random(seed)
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    model = Model(path, rng)
    known: list[tuple[Any, int, list[Event]]] = []  # a partition, StartTimestamp, and the events up to its end
    opened: dict[str, int] = {}
    problems: list[tuple[str, str]] = []
    for _ in range(15):
        if not model.missing and not model.short:
            known += made(evtape, model, problems)
        kind = rng.choice(KINDS)
        if kind != "index":
            getattr(model, kind)()
        elif not model.missing and not model.short:
            evtape.build_index(path)
        for part, started, before in known:
            wanted = expected(model, part, started, before)
            got = read(evtape, part)
            outcome = got if isinstance(got, str) else "its events"
            opened[outcome] = opened.get(outcome, 0) + 1
            if got != wanted:
                told = [what if isinstance(what, str) else f"{len(what)} events" for what in (got, wanted)]
                kind_of = "a partition ends with another error" if isinstance(got, str) else "wrong events"
                problems.append((f"{kind_of}, after a change", f"{kind}: {part}: {told[0]}, not {told[1]}"))
    return opened, problems


def made(evtape: Any, model: Model, problems: list[tuple[str, str]]) -> list[tuple[Any, int, list[Event]]]:
    """Partitions of now, which together are the stream, or its time window."""
    rng, low, high = model.rng, None, None
    if rng.random() < 0.5:
        low = model.started + rng.randrange(300)
        high = low + rng.randrange(300)
    parts = evtape.partitions(model.path, events=rng.choice((7, 50, 10**6)), starting_at=low, ending_before=high)
    found = [event for part in parts for event in read(evtape, part)]
    if found != [event for event in model.events if low is None or low <= event[0] < high]:
        problems.append(("partitions are not the stream", f"{len(parts)} of {model.path.name}, from {low} to {high}"))
    return [(part, model.started, model.events[: part.stop]) for part in rng.sample(parts, min(3, len(parts)))]


def expected(model: Model, part: Any, started: int, before: list[Event]) -> str | list[Event]:
    if model.missing:
        return "FileNotFoundError"
    if model.short:
        return "TruncatedError"
    if model.started != started:
        return "ReplacedError"
    if model.events[: part.stop] != before:
        return "RewoundError"
    of = before[part.start :]
    return of if part.starting_at is None else [e for e in of if part.starting_at <= e[0] < part.ending_before]


def read(evtape: Any, part: Any) -> str | list[Event]:
    """The events, or the name of the error."""
    try:
        with part.open() as events:
            return [(event.timestamp, event.bytes) for event in events]
    except (evtape.Error, OSError) as error:
        return type(error).__name__


# --------------------------------------------------------------------------------------------- races


def races(ctx: Context, core: str, evtape: Any) -> None:
    """A process makes and reads partitions while another one changes the stream."""
    for number in ctx.progress(range(ctx.scale(3, 100)), f"partitions in a race, {core}"):
        path = ctx.work / f"races-{core}.tape"
        seed = ctx.seed * 100_003 + number
        status, found = harness.in_child(lambda: raced(evtape, path, seed), 60.0)  # noqa: B023
        if found is None:
            ctx.violation("a process that reads partitions died", f"{core}, seed {seed}: {harness.tell(status)}")
            continue
        for outcome, count in found.items():
            if outcome.startswith("!"):
                ctx.violation("partitions in a race", f"{core}, seed {seed}: {outcome}")
            ctx.count(f"in a race: {outcome}", count)


def raced(evtape: Any, path: Path, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    model = Model(path, rng)
    changer = os.fork()
    if changer == 0:
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            getattr(model, rng.choice(KINDS[:-1]))()
        os._exit(0)
    outcomes: dict[str, int] = {}
    try:
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            for outcome in looks(evtape, path):
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
    finally:
        os.kill(changer, signal.SIGKILL)
        os.waitpid(changer, 0)
    return outcomes


def looks(evtape: Any, path: Path) -> list[str]:
    """Partitions of now, each read after all were made; what became of them."""
    outcomes = []
    try:
        parts = evtape.partitions(path, events=20)
    except (evtape.Error, OSError) as error:
        return [f"{type(error).__name__} when made"]
    for part in parts[-5:]:
        found = read(evtape, part)
        if isinstance(found, str):
            outcomes.append(found)
        else:
            ordinals = [int.from_bytes(data[:8], "little") for _, data in found]
            right = ordinals == list(range(part.start, part.stop))
            outcomes.append("events" if right else f"! the events {part.start} to {part.stop - 1} are {ordinals}")
    return outcomes
