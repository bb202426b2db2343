"""Full disks: the append that finds no room raises, nothing of it is published, and appending works again once there
is room."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness
from .mounts import mounted
from .reference import entries, verdict

if TYPE_CHECKING:
    from .harness import Context

KINDS = ("tmpfs", "ext4", "xfs", "btrfs", "quota")  # the last is a quota of a btrfs: others need what few kernels have
STEPS = 64
DURABILITY = ("none", "close", "interval", "full")  # in turn: they make room of pages of different sizes
ROOM = 16 << 20  # bytes that are there again without the filler
LIBC = ctypes.CDLL(None)
FULL = (errno.ENOSPC, errno.EDQUOT)


def full_disks(ctx: Context) -> None:
    """On each file system, with room for 1, 2, ... 64 steps of growth."""
    for kind in KINDS if ctx.full or ctx.only.startswith("disks-") else KINDS[:1]:
        if not f"disks-{kind}".startswith(ctx.only):
            continue
        try:
            with mounted(kind) as directory:
                for core, evtape in harness.both().items():
                    for step in ctx.progress(range(1, ctx.scale(4, STEPS) + 1), f"{kind}, {core}"):
                        meet(ctx, evtape, directory, f"{kind}, {core}, step {step}", step)
                        ctx.count(f"full disks met, {kind}")
        except harness.NotRun as why:
            ctx.not_run(f"full disk on {kind}: {why}")


def meet(ctx: Context, evtape: Any, directory: Path, label: str, step: int) -> None:
    """Leave room for `step` steps of growth, append until it is used up, give room back, go on."""
    filler, path = directory / "filler", directory / "full.tape"
    # The native core makes room by the megabyte and falls back to less, so the steps are smaller than what it asks for.
    leave(filler, directory, 160 * 1024 * step)
    try:
        status, told = harness.in_child(lambda: fill(evtape, str(path), filler, DURABILITY[step % 4]), 60.0)
        if told is None:
            ctx.violation("a full disk killed a process", f"{label}: {harness.tell(status)}")
            if status == harness.HANGS:
                raise harness.NotRun("a process hangs in the file system, which cannot be unmounted now")
            return
        if told["writers lost"]:
            ctx.violation("a full disk cost the writer", f"{label}: {told['errors'][-1:]}")
        for lie in told["lies"]:
            ctx.violation(lie, f"{label}: {told['errors'][-1:]}")
        ctx.count("appends refused on a full disk", told["refused"])
        data = path.read_bytes()
        said = verdict(data)
        held = [entry.data[:8] for entry in entries(data, said.end)[0]]
        if said.state != "clean" or held != [number.to_bytes(8, "little") for number in told["acknowledged"]]:
            ctx.violation(
                "not what was acknowledged", f"{label}: {tuple(said)}, {len(told['acknowledged'])} acknowledged"
            )
    finally:
        for file in directory.iterdir():
            if file.is_file():
                file.unlink()


def leave(filler: Path, directory: Path, room: int) -> None:
    """Fill the disk, then give `room` bytes back. What a file system says is free is only a guess on some of them."""
    settle(directory)
    with open(filler, "wb") as file:
        piece = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
        size = 0
        while piece >= 65536:
            try:
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
            except OSError as error:
                if error.errno not in FULL:
                    raise
                piece //= 2
        os.ftruncate(file.fileno(), max(0, size - room))
        LIBC.syncfs(file.fileno())


def fill(evtape: Any, path: str, filler: Path, durability: str) -> dict[str, Any]:
    """In a child: append until nothing goes any more, take the filler away, append again."""
    warnings.simplefilter("ignore")
    told: dict[str, Any] = {"acknowledged": [], "refused": 0, "writers lost": 0, "lies": [], "errors": []}
    number = 0

    def put(tape: Any, size: int) -> None:
        nonlocal number
        number += 1
        tape.append(number.to_bytes(8, "little") * (size // 8))
        told["acknowledged"].append(number)

    try:
        tape = evtape.open(path, "a", durability=durability)
    except OSError as error:
        told["refused"] += 1
        told["errors"].append(str(error))
        remove(filler)
        tape = evtape.open(path, "a", durability=durability)
    while filler.exists():
        try:
            put(tape, (16384, 4000, 104)[told["refused"]])
            if number % 64 == 0:
                tape.sync()
        except (evtape.Error, OSError) as error:
            told["errors"].append(str(error))
            if isinstance(error, OSError) and error.errno not in FULL:
                told["lies"].append(f"a full disk is told as {error.errno}")
            if isinstance(error, evtape.Error) or tape._source.region.faults:
                # A store found no room for a page, and the guard turned that into this: a violation, see `meet`.
                told["writers lost"] += 1
                with contextlib.suppress(evtape.Error, OSError):
                    tape.close()
                remove(filler)
                tape = evtape.open(path, "a", durability=durability)
                continue
            told["refused"] += 1
            if len(tape) != len(told["acknowledged"]):
                told["lies"].append("something of a refused append was published")
            if told["refused"] == 3:
                remove(filler)
    try:
        for _ in range(20):
            put(tape, 16384)
    except (evtape.Error, OSError) as error:
        told["lies"].append("no append although there is room again")
        told["errors"].append(str(error))
    tape.close()
    return told


def remove(filler: Path) -> None:
    """Give the room back."""
    filler.unlink()
    settle(filler.parent)


def settle(directory: Path) -> None:
    """Wait until removed files have given their room back: btrfs does so with a commit, and not all of it at once."""
    here = os.open(directory, os.O_RDONLY)
    for _ in range(50):
        LIBC.syncfs(here)
        status = os.fstatvfs(here)
        if status.f_bavail * status.f_frsize > ROOM:
            break
        time.sleep(0.1)
    os.close(here)
