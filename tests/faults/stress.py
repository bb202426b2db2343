"""The wake-ups of `ext/live.c` in real processes, and under ThreadSanitizer (`tests/native/live_check.c`).

A writer publishes whenever all followers have seen the last publish, at about the moment at which they go to sleep. A
wake-up that is lost shows as a sleep to the end of its timeout. The same is run with each step of the protocol left
out, to show that it would be seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from .harness import Context

HELD_UP = 500  # ms of a sleep; a busy machine holds a follower up for tens of them
DRIVER = harness.HERE.parent / "native" / "live_check.c"
RING = "evtape_full_fence();\n    if (__builtin_expect", '__asm__ volatile("" ::: "memory");\n    if (__builtin_expect'
COMPARE = "FUTEX_WAIT, (uint32_t)offset,", "FUTEX_WAIT, (usleep(1), (uint32_t)write_offset(base)),"
LOWER = "&armed, offset);\n}\n\nstatic void arm", "&armed, offset - 16);\n}\n\nstatic void arm"
FENCE = "the writer's fence"
# A hole that `wakeup` finds harmless is not among them: the follower's fence, its re-check.
# What is left out: the file, the text and what it becomes, the options of the driver.
HOLES: dict[str, tuple[str, tuple[str, str], tuple[str, ...]]] = {
    FENCE: ("live.h", RING, ()),
    "the compare in the kernel": ("live.c", COMPARE, ()),
    "arming": ("live.c", ("    arm(live, offset);\n", ""), ()),
    "the bound on what a stale value is lowered to": ("live.c", LOWER, ("stale",)),
}


def run(ctx: Context) -> None:
    """The sources as they are, with one to three followers; then with each hole."""
    ext = ctx.work / "ext"
    beside = Path(harness.source_directory()).parent / "ext"
    shutil.copytree(beside if beside.exists() else harness.HERE.parent.parent / "ext", ext)
    driver = compiled(ext, ctx.work / "driver")
    if ctx.only in "sound":
        for followers in (1, 2, 3):
            for options in ((), ("stale",)):
                sound(ctx, driver, followers, ctx.scale(10_000, 5_000_000), options)
    if ctx.only == "long":  # as many publishes as it takes to see that the writer's fence is missing
        for _ in range(20):
            sound(ctx, driver, 1, 50_000, (), HELD_UP)
    if ctx.only in "holes":
        for name, (file, (old, new), options) in HOLES.items():
            holed(ctx, ext, name, file, old, new, options)
    if ctx.only in "races":
        try:
            races(ctx, ext, ctx.scale(5_000, 500_000))
        except harness.NotRun as why:
            ctx.not_run(f"ThreadSanitizer: {why}")


def sound(
    ctx: Context, driver: Path, followers: int, rounds: int, options: tuple[str, ...], timeout: int = 2000
) -> None:
    """A run in which no wake-up may be lost."""
    slept, lost = drive(ctx, driver, followers, rounds, timeout, options)
    ctx.count("publishes", rounds)
    ctx.count("sleeps", slept)
    ctx.count("wake-ups lost", lost)
    if lost:
        stale = ", a stale page" if options else ""
        ctx.violation("a wake-up is lost", f"{followers} followers{stale}: {lost} of {slept}")


def holed(ctx: Context, ext: Path, name: str, file: str, old: str, new: str, options: tuple[str, ...]) -> None:
    """The driver with a hole, until it has seen it. A store is seldom late enough for a short run to see it."""
    source = ext / file
    text = source.read_text()
    if text.count(old) != 1:
        ctx.violation("cannot be left out", f"{name}: it stands {text.count(old)} times in {file}")
        return
    source.write_text(text.replace(old, new))
    driver = compiled(ext, ctx.work / "holed")
    source.write_text(text)
    tried = 0
    for rounds in (20, 1_000, *[10_000] * ctx.scale(2, 500)):
        tried += rounds
        lost = drive(ctx, driver, 1, rounds, HELD_UP, options)[1]
        if lost:
            ctx.figures[f"left out, {name}"] = f"{lost} lost in {tried:,} publishes"
            return
    ctx.figures[f"left out, {name}"] = f"not seen in {tried:,} publishes"
    if name != FENCE:  # only the model is sure to see it
        ctx.violation("a hole is not seen", f"{name}: {tried:,} publishes")


def races(ctx: Context, ext: Path, rounds: int) -> None:
    """Threads under ThreadSanitizer: every access to what is shared is atomic. A plain one is planted, and seen."""
    harness.sanitizer("libtsan.so")
    flags = ("-fsanitize=thread", "-g", "-Wno-tsan", "-O1")
    header = ext / "live.h"
    text = header.read_text()
    atomic = "atomic_load_explicit(&live->armed, memory_order_relaxed) >= old"
    for planted in (False, True):
        header.write_text(text.replace(atomic, "*(int64_t *)&live->armed >= old") if planted else text)
        driver = compiled(ext, ctx.work / "tsan", flags)
        command = ["setarch", "-R", str(driver), str(ctx.work), "2", str(rounds), "1000", "threads"]
        environment = os.environ | {"TSAN_OPTIONS": "exitcode=0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        found = done.stderr.count("WARNING: ThreadSanitizer")
        ctx.figures[f"reports of ThreadSanitizer{', with a plain load planted' if planted else ''}"] = found
        if done.returncode or (found and not planted):
            ctx.violation("a data race", done.stderr[:600])
        if planted and not found:
            ctx.violation("a planted race is not seen")
    header.write_text(text)


def compiled(ext: Path, target: Path, flags: tuple[str, ...] = ("-O2",)) -> Path:
    """The driver with the sources in `ext`."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise harness.NotRun("no C compiler")
    command = [compiler, "-std=gnu11", "-pthread", *flags, f"-I{ext}", DRIVER, ext / "live.c", "-o", target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def drive(
    ctx: Context, driver: Path, followers: int, rounds: int, timeout: int, options: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Run the driver; returns how many sleeps there were and how many wake-ups were lost."""
    command = [str(driver), str(ctx.work), str(followers), str(rounds), str(timeout), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
    told = re.search(r"slept (\d+) lost (\d+)", done.stdout)
    assert told is not None, done.stdout
    return int(told[1]), int(told[2])
