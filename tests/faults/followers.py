"""Eight readers in processes of their own follow one writer; none may see a torn, reordered or missing event.

Every event holds its number and a mix of it. A reader takes what is new at each look: all checksums, the numbers of
all events, and their times. The writer waits for the slowest, so that all of them follow a live stream to its end.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import harness, kill

if TYPE_CHECKING:
    from .harness import Context

READERS = 8
EVENT = np.dtype([("number", "<u8"), ("mix", "<u8")])
ENTRY = 16 + EVENT.itemsize
MIX = np.uint64(0x9E3779B97F4A7C15)
AHEAD = 2_000_000  # events that the writer may be ahead of the slowest reader
TAKEN = 1_000_000  # events that a reader looks at together


def run(ctx: Context) -> None:
    """Writers on both cores; the pure one with a hundredth of the events."""
    for core, evtape in harness.both().items():
        events = ctx.scale(200_000, 100_000_000) // (1 if core == "native" else 100)
        directory = Path(tempfile.mkdtemp(prefix="evtape-followers-"))  # on a disk: it may be larger than a memory is
        try:
            follow(ctx, core, evtape, directory / "followed.tape", events)
        finally:
            for file in directory.iterdir():
                file.unlink()
            directory.rmdir()


def follow(ctx: Context, core: str, evtape: Any, path: Path, events: int) -> None:
    """One writer and its readers."""
    board = kill.Board()  # its words: where the writer is, then where each reader is
    with evtape.open(path, "x", durability="none"):
        pass
    begun = time.monotonic()
    readers = [kill.fork(partial(read, evtape, path, board, 1 + i, events)) for i in range(READERS)]
    writer = kill.fork(partial(write, evtape, path, board, events))
    bar = harness.Bar(f"followers, {core}", events)
    alive = {writer, *readers}
    while alive:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            time.sleep(0.05)
            bar.step(min(board.words[1 : 1 + READERS]) - bar.done)
            continue
        alive.discard(child)
        if status:
            who = "the writer" if child == writer else "a reader"
            ctx.violation(f"{who} saw what was not appended, or died", f"{core}: {harness.tell(status)}")
            board.words[100] = 1  # nobody waits for the dead
    bar.close()
    ctx.count(f"events followed by {READERS} readers, {core}", events)
    ctx.figures[f"looks of all readers, {core}"] = sum(board.words[200 : 200 + READERS + 1])
    ctx.figures[f"seconds, {core}"] = round(time.monotonic() - begun, 1)
    report = evtape.verify(path)
    if (report.state, report.events) != ("clean", events):
        ctx.violation("not what was appended at the end", f"{core}: {report.state}, {report.events}")


def payloads(first: int, count: int) -> np.ndarray[Any, Any]:
    """Events `first` and on."""
    made = np.empty(count, EVENT)
    made["number"] = np.arange(first, first + count, dtype=np.uint64)
    made["mix"] = (made["number"] + np.uint64(1)) * MIX
    return made


def write(evtape: Any, path: Path, board: Any, events: int) -> None:
    """Batches of all kinds and sizes, and single events between them."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(1)
    with evtape.open(path, "a", durability="none") as tape:
        at = 0
        while at < events and not board.words[100]:
            count = min(events - at, int(rng.choice((1, 3, 100, 5_000, 80_000))))
            made = payloads(at, count)
            if count <= 3:
                for event in made:
                    tape.append(event)
            elif count == 100:
                tape.append_many([event.tobytes() for event in made])
            else:
                tape.append_array(made)
            at += count
            board.words[0] = at
            while at - min(board.words[1 : 1 + READERS]) > AHEAD and not board.words[100]:
                time.sleep(0.0005)


def read(evtape: Any, path: Path, board: Any, place: int, events: int) -> None:
    """Look at what is new until all has been seen."""
    warnings.simplefilter("ignore")
    core = evtape.modules["evtape.stream.source"].core
    with evtape.open(path) as tape:
        scanner = core.Scanner(tape._source.region)
        last = 0
        while scanner.ordinal < events and not board.words[100]:
            bound = tape._source.refresh()[0]
            first, start = scanner.ordinal, scanner.offset
            stamps = np.empty(TAKEN, np.int64)
            reason = scanner.run(bound, TAKEN, verify_checksums=True, timestamps=stamps)
            count = scanner.ordinal - first
            assert reason is None, f"{reason} at event {scanner.ordinal}"
            assert scanner.offset - start == count * ENTRY
            if count:
                entries = np.frombuffer(tape._source.region.view(start, scanner.offset), np.uint8).reshape(count, ENTRY)
                held = np.ascontiguousarray(entries[:, 16:]).view(EVENT)[:, 0]
                assert (held == payloads(first, count)).all(), f"events {first} to {first + count}"
                stamps = stamps[:count]
                assert stamps[0] >= last
                assert (np.diff(stamps) >= 0).all()
                last = int(stamps[-1])
                tape._source.region.drop_pages(start, scanner.offset)
            board.words[200 + place] += 1
            board.words[place] = scanner.ordinal
            if not count:
                time.sleep(0.0002)
        assert board.words[100] or len(tape) == events
