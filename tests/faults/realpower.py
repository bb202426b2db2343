"""Real power loss: a file system on a loop device is shut down without flushing its journal, unmounted, and mounted
again.

Before it is shut down, some pages of what was not synced are written out on their own, so that header and events
reach the disk in any order. What comes back is judged as in `power.py`, and recovered as after another boot.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import checker, harness, mounts, repair, streams
from .reference import verdict

if TYPE_CHECKING:
    from .harness import Context

SHUTDOWN = 0x8004587D  # _IOR('X', 125, u32), of ext4 and xfs alike
NO_LOG_FLUSH = struct.pack("I", 2)
WRITE_OUT = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE, _WAIT_AFTER
FILES = 2


def run(ctx: Context) -> None:
    """Cycles on each file system."""
    for kind in ("ext4", "xfs"):
        if ctx.only in kind:
            try:
                with Disk(kind) as disk:
                    cycles(ctx, kind, disk, ctx.scale(5, 1000))
            except harness.NotRun as why:
                ctx.not_run(f"real power loss on {kind}: {why}")


class Disk:
    """A file system that can lose its power."""

    def __init__(self, kind: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"evtape-{kind}-", dir=harness._memory()))
        self.mount = self.directory / "mount"
        self.mount.mkdir()
        mounts.make(kind, self.directory / "image")
        done = subprocess.run(
            ["losetup", "-f", "--show", self.directory / "image"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise harness.NotRun(done.stderr.strip())
        self.device = done.stdout.strip()

    def __enter__(self) -> Self:
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()
        mounts.command("losetup", "-d", self.device)
        shutil.rmtree(self.directory, ignore_errors=True)

    def on(self) -> None:
        mounts.command("mount", self.device, self.mount)

    def off(self) -> None:
        mounts.command("umount", self.mount)

    def fail(self) -> None:
        """Power off: nothing that is not on the disk gets there any more."""
        directory = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(directory, SHUTDOWN, NO_LOG_FLUSH)
        except OSError as error:
            raise harness.NotRun(f"the file system cannot be shut down: {error}") from None
        finally:
            os.close(directory)


def cycles(ctx: Context, kind: str, disk: Disk, wanted: int) -> None:
    """Write, lose power, look; the files of one cycle are removed in the next."""
    check = checker.Checker()
    cores = list(harness.both().items())
    for number in ctx.progress(range(wanted), f"real power loss, {kind}"):
        core, evtape = cores[number % len(cores)]
        status, told = harness.in_child(partial(write, evtape, disk, ctx.seed * 100_003 + number))
        if told is None:
            ctx.violation("a writer was killed", f"{kind}, {core}, cycle {number}: {harness.tell(status)}")
            disk.fail()
        disk.off()
        disk.on()
        for one in told or []:
            with harness.another_boot(evtape):
                look(ctx, evtape, check, f"{kind}, {core}, cycle {number}, {one['path'].name}", one)
        for file in disk.mount.iterdir():
            if file.is_file():
                file.unlink()
        ctx.count(f"power losses, {kind}")


def write(evtape: Any, disk: Disk, seed: int) -> list[dict[str, Any]]:
    """In a child: write some streams, write some of their pages out, and pull the plug."""
    rng = random.Random(seed)
    told, tapes = [], []
    for i in range(FILES):
        path = disk.mount / f"power-{i}.tape"
        full = rng.random() < 0.4
        tape = evtape.open(path, "w", durability="full" if full else "close")
        size = rng.choice((0, 1, 48, 100, 1024, 3000))
        payloads = [
            rng.randbytes(size if rng.random() < 0.8 else rng.randrange(200)) for _ in range(rng.randrange(10, 120))
        ]
        stop = rng.randrange(len(payloads))
        for data in payloads[:stop]:
            tape.append(data, stamp(rng, data))
        durable = stop if full else 0
        if not full and rng.random() < 0.8:
            tape.sync()
            durable = stop
        tape._make_durable = lambda events: None  # what follows is not flushed
        for data in payloads[stop:]:
            tape.append(data)
        tapes.append(tape)
        told.append({"path": path, "durable": durable, "ends": streams.ends(payloads), "bytes": b""})
    sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
    for one in told:
        one["bytes"] = one["path"].read_bytes()[: one["ends"][-1]]
        with open(one["path"], "r+b") as file:
            for page in range(-(-one["ends"][-1] // 4096)):
                if rng.random() < (0.5 if page else 0.8):
                    sync_file_range(file.fileno(), ctypes.c_int64(page * 4096), ctypes.c_int64(4096), WRITE_OUT)
    disk.fail()
    for tape in tapes:
        tape._lock.release()
        tape.__dict__.clear()
        tape._fd = -1
    return told


def stamp(rng: random.Random, data: bytes) -> int | None:
    """The clock, or a time that looks like a lost sector where the header crosses the end of one."""
    return rng.choice((None, 1 << 32, 1 << 48, 255)) if data else None


def look(ctx: Context, evtape: Any, check: checker.Checker, label: str, one: dict[str, Any]) -> None:
    """Judge what came back, then recover it and judge again."""
    path: Path = one["path"]
    if not path.exists():
        ctx.violation("a durable file is gone", label)
        return
    judge(ctx, check, label, path, one)
    copy = path.with_suffix(".copy.tape")
    shutil.copy(path, copy)
    if Path(f"{path}.side").exists():
        harness.place_sidecar(
            Path(f"{path}.side").read_bytes(), copy
        )  # the attribute of the stream came with the copy or not
    try:
        report = evtape.recover(path)
    except evtape.FormatError as refusal:
        # The new header reached the disk, the new size of the file did not, and no event was durable.
        ctx.count("recover: not a stream")
        if one["durable"]:
            ctx.violation("recover refuses as no stream", f"{label}: {refusal}, {one['durable']} events were durable")
        return
    judge(ctx, check, f"{label}, recovered", path, one)
    if report.cut and Path(report.quarantine).stat().st_size != report.cut:
        ctx.violation("the quarantine is not what was cut", label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with evtape.open(copy, "a") as tape:
                ctx.count("open('a') succeeded")
                if len(tape) < one["durable"]:
                    ctx.violation("open('a') lost durable events", f"{label}: {len(tape)} of {one['durable']}")
        except evtape.Error as refusal:
            known = Path(f"{copy}.side").exists()
            ctx.count(f"open('a') refused, {'with' if known else 'without'} a sidecar: {type(refusal).__name__}")
            if known:
                ctx.violation("open('a') refused a torn tail", f"{label}: {refusal}")


def judge(ctx: Context, check: checker.Checker, label: str, path: Path, one: dict[str, Any]) -> None:
    """A prefix of what was appended that has all that was durable."""
    data = bytearray(path.read_bytes())
    said = verdict(bytes(data))
    answer = check.judge(checker.address_of(data), said.end, said.events, one["bytes"], one["ends"], one["durable"])
    ctx.count(f"came back {said.state}{' ' + said.reason if said.reason else ''}")
    if answer:
        kind = repair.tear(data, repair.Stream("", one["bytes"], one["ends"], []), said.end)
        if kind and not label.endswith("recovered"):
            ctx.count(f"not told by the format: {kind}")
            return
        kind = kind or checker.JUDGEMENTS[answer]
        ctx.violation(kind, f"{label}: {tuple(said)}, durable {one['durable']}")
