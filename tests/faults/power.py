"""Power loss, simulated: every state that the disk may hold after it, at every moment of a writer and of a recovery.

A block (a 512-byte sector, or a page of 4 KB) that was stored to since its last completed flush may hold any content
it has had since then. In the model *lost* such a block may also read as zeros although a part of it was durable
before; then nothing can promise the durable part, but what is kept must still be a prefix and damage be told. Every
image is judged by the walk of the native core and by the reference parser; a sample of them is recovered and opened
for append on both cores, and the recovery is itself interrupted at each of its stores and flushes.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checker, harness, streams
from .record import Point, Recorder, recording
from .repair import VERSIONS, Arena, Case, Image, Stream, recover_image, tear, thin

if TYPE_CHECKING:
    from .harness import Context

EXHAUSTIVE = 12  # dirty blocks up to which all combinations are made
EVERY = 7  # of so many moments a short run takes one in each round


def run(ctx: Context) -> None:
    """Record every stream on every core, then replay until the number of images is reached."""
    cores = harness.both()
    recorded = [
        record(ctx, evtape, core, kind) for core, evtape in cores.items() for kind in streams.KINDS if ctx.only in kind
    ]
    arena = Arena(cores)
    wanted = ctx.scale(8_000, 10_000_000)
    bar = harness.Bar("power", wanted)
    rounds = 0
    while ctx.figures.get("images", 0) < wanted and not ctx.expired:
        for stream, point in moments(ctx, recorded, rounds):
            if ctx.expired:
                break
            bar.step(replay(ctx, arena, stream, point, rounds))
        rounds += 1
    bar.close()
    ctx.figures["streams"] = len(recorded)
    ctx.figures["moments"] = sum(len(stream.points) for stream in recorded)


def moments(ctx: Context, recorded: list[Stream], rounds: int) -> list[tuple[Stream, Point]]:
    """The moments of one round, in any order: a run that ends before they are through has seen some of every stream."""
    every = ctx.scale(EVERY, 1)
    found = [(stream, point) for stream in recorded for point in stream.points[rounds % every :: every]]
    ctx.random.shuffle(found)
    return found


def record(ctx: Context, evtape: Any, core: str, kind: str) -> Stream:
    """Let a writer append one kind of stream and note every moment."""
    path = str(ctx.work / f"{kind}-{core}.tape")
    streams.prepare(kind, path)
    recorder = Recorder(path)
    appended = streams.prior(kind)
    with warnings.catch_warnings(), recording(evtape, recorder):
        warnings.simplefilter("ignore")
        recorder.durable = len(appended)
        if kind == "reopen":
            # A writer that promised nothing was there before; what its successor calls durable includes its events.
            with evtape.open(path, "a", durability="none") as tape:
                appended += [b"%03d" % i * 60 for i in range(100)]
                tape.append_many(appended)
        with evtape.open(path, "a") as tape:
            for step in streams.steps(kind):
                if step is None:
                    tape.sync()
                    recorder.durable = len(appended)
                    recorder.see("after sync")
                elif isinstance(step, tuple):
                    appended.append(step[0])
                    tape.append(*step)
                    recorder.see("after append")
                elif isinstance(step, list):
                    appended += step
                    tape.append_many(step)
                    recorder.see("after batch")
                else:
                    appended.append(step)
                    tape.append(step)
                    recorder.see("after append")
            tape.close()
            recorder.durable = len(appended)
            recorder.see("after close")
    return Stream(f"{kind}, {core}", Path(path).read_bytes(), streams.ends(appended), recorder.points)


# ------------------------------------------------------------------------------------------- images


# What a dirty block may hold. "two": what was flushed last, or the newest. "torn": anything it has held since.
# "lost": zeros as well.
MODELS = ("two", "torn", "lost")


def replay(ctx: Context, arena: Arena, stream: Stream, point: Point, rounds: int) -> int:
    """All images of one moment, or a sample of them; returns how many."""
    made = 0
    for size in point.sizes:
        for grain in point.blocks:
            for model in MODELS:
                made += images(ctx, arena, Case(stream, point, size, model), grain, rounds)
    return made


def images(ctx: Context, arena: Arena, case: Case, grain: int, rounds: int) -> int:
    """The images of one moment, one file size, one grain and one model."""
    dirty = {i: v for i, v in case.point.blocks[grain].items() if i * grain < case.size}
    blocks = [(i * grain, thin(v, case.model, i + rounds)) for i, v in dirty.items()]
    blocks = [(at, [v[: case.size - at] for v in versions]) for at, versions in blocks]
    made = checker.Images(arena.check, arena.address, blocks, ctx.seed + rounds * 7919 + ctx.figures.get("images", 0))
    exhaustive = made.combinations <= ctx.scale(16, 2 * 2**EXHAUSTIVE)
    seen = rounds >= ctx.scale(EVERY, 1) and exhaustive
    if seen and (case.model == "two" or all(len(v) <= VERSIONS for v in dirty.values())):
        return 0  # the rounds before made them all
    ctx.count("sets exhausted" if exhaustive else "sets sampled")
    wanted = made.combinations if exhaustive else ctx.scale(6, 250)
    arena.base(case.point.image, case.size)
    made.first()
    for i in range(wanted):
        if not exhaustive:
            made.sample((0, 128, 200, 240)[i & 3])
        elif i:
            made.next()
        judge(ctx, arena, case)
    ctx.count("images", wanted)
    ctx.count(f"images of {grain} bytes", wanted)
    return wanted


def judge(ctx: Context, arena: Arena, case: Case) -> None:
    """One image: the verdicts agree, the prefix is one, and holds what was durable."""
    want = arena.check.verdict_at(arena.address, case.size)
    report = arena.walk("image", arena.fd)
    if (report.state, report.events, report.end, report.reason) != want:
        got = report.state, report.events, report.end, report.reason
        ctx.violation("verdicts differ", f"{case}: {got}, the reference {tuple(want)}; {keep(ctx, arena, case.size)}")
    said = arena.check.judge(arena.address, want.end, want.events, case.stream.data, case.stream.ends, case.durable)
    ctx.count(f"verdict {want.state}{' ' + want.reason if want.reason else ''}")
    arena.seen += 1
    if said and case.model == "lost" and header_lost(arena):
        # Without a header the walk goes to the end of the file, into what was never published. The format wants it so.
        ctx.count("images without a header")
        return
    torn = said and tear(arena.map, case.stream, want.end)
    if torn:
        # The format cannot tell this image from a good one. A recovery that knows what was durable can.
        ctx.count(f"not told by the format: {torn}")
    elif said:
        ctx.violation(checker.JUDGEMENTS[said], f"{case}: kept {tuple(want)}; {keep(ctx, arena, case.size)}")
    elif report.ok and report.end != report.write_offset:
        ctx.violation("good, but less than published", f"{case}: {tuple(want)}")
    if arena.seen % ctx.scale(97, 1999) == 1:
        recover_image(ctx, arena, case)


def header_lost(arena: Arena) -> bool:
    return int.from_bytes(arena.map[:8], "little", signed=True) < 24


def keep(ctx: Context, arena: Arena, size: int) -> str:
    """Save the image for a reproduction; the first few only."""
    number = ctx.violation_count
    if number >= 5:
        return "not saved"
    target = Path(harness.tempfile.gettempdir()) / f"evtape-power-{os.getpid()}-{number}.tape"
    Image(arena.copy(size), size).save(target)
    return f"saved as {target}"
