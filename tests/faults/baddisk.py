"""A disk that fails under a mapping: EIO for reads and for write-back, in live readers and writers.

The disk is a file system of its own (`baddisk.c`), so a page that cannot be had is a real SIGBUS and a flush that
fails is a real error of `msync`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, streams

if TYPE_CHECKING:
    from .harness import Context

EVENTS = 120
BATCH = 25  # rounds in one child process


class Disk:
    """The mounted file, what is behind it, and the switch."""

    def __init__(self, directory: Path) -> None:
        self.backing, self.control, self.mount = directory / "backing", directory / "control", directory / "mount"
        self.path = self.mount / "stream"

    def fail(self, mode: str, first: int = 0, last: int = 1 << 62) -> None:
        """Have reads ("r") or writes ("w") of these bytes fail, or nothing ("-")."""
        beside = self.control.with_suffix(".new")
        beside.write_text(f"{mode} {first} {last}\n")
        beside.rename(self.control)


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[Disk]:
    """The disk, for as long as the block lasts."""
    if not os.access("/dev/fuse", os.W_OK) or shutil.which("fusermount3") is None:
        raise harness.NotRun("an error of a disk needs /dev/fuse and fusermount3")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False)
    if flags.returncode:
        raise harness.NotRun("an error of a disk needs libfuse3 with its headers, and pkg-config")
    program = harness.compiled("baddisk.c", shared=False, libraries=tuple(flags.stdout.split()))
    disk = Disk(directory)
    disk.mount.mkdir()
    disk.fail("-")
    server = subprocess.Popen([program, disk.backing, disk.control, disk.mount])
    try:
        patience = time.monotonic() + 10
        while not os.path.ismount(disk.mount):
            if server.poll() is not None or time.monotonic() > patience:
                raise harness.NotRun("the file system could not be mounted")
            time.sleep(0.01)
        yield disk
    finally:
        disk.fail("-")
        subprocess.run(["fusermount3", "-u", "-z", disk.mount], check=False)
        server.wait(10)


def run(ctx: Context) -> None:
    """Both cores: readers over a disk that stops to read, writers over one that stops to write."""
    for core, evtape in harness.both().items():
        directory = ctx.work / core
        directory.mkdir()
        with mounted(directory) as disk:
            for part, wanted in ((readers, ctx.scale(50, 5000)), (writers, ctx.scale(25, 1000))):
                name = part.__name__
                for start in ctx.progress(range(0, wanted, BATCH), f"{name} on a bad disk, {core}"):
                    status, told = harness.in_child(partial(part, evtape, disk, ctx.seed + start))
                    disk.fail("-")
                    if told is None:
                        ctx.violation(
                            "an error of the disk killed a process", f"{name}, {core}: {harness.tell(status)}"
                        )
                        continue
                    for lie in told.pop("lies"):
                        ctx.violation(lie, f"{name}, {core}, batch {start}")
                    for what, count in told.items():
                        ctx.count(f"{name}: {what}, {core}", count)


def begin() -> dict[str, Any]:
    warnings.simplefilter("ignore")
    return {"rounds": 0, "lies": []}


def note(told: dict[str, Any], what: str) -> None:
    told[what] = told.get(what, 0) + 1


# ------------------------------------------------------------------------------------------ readers


def readers(evtape: Any, disk: Disk, seed: int) -> dict[str, Any]:
    """In a child: three threads read a stream whose disk begins to fail somewhere."""
    told, rng = begin(), random.Random(seed)
    payloads = [bytes([i & 255]) * rng.choice((0, 40, 900, 9000)) for i in range(EVENTS)]
    raw = streams.stream(payloads)
    for _ in range(BATCH):
        disk.fail("-")
        disk.backing.write_bytes(raw)
        first = rng.randrange(len(raw)) // 4096 * 4096
        failing = threading.Timer(rng.random() * 0.003, disk.fail, ("r", first, first + rng.choice((4096, 1 << 20))))
        failing.start()
        threads = [threading.Thread(target=read, args=(evtape, disk, payloads, told, how)) for how in WAYS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failing.join()
        note(told, "rounds")
    return told


def read(evtape: Any, disk: Disk, payloads: list[bytes], told: dict[str, Any], how: Callable[..., None]) -> None:
    """One pass; anything but the package's own exceptions and OSError is a lie."""
    try:
        how(evtape, disk, payloads, told)
        note(told, "whole passes")
    except evtape.TruncatedError:
        note(told, "TruncatedError")
    except OSError:
        note(told, "OSError")
    except evtape.Error as error:
        note(told, type(error).__name__)
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        told["lies"].append(f"an unexpected {type(error).__name__}: {error}")


def iterate(evtape: Any, disk: Disk, payloads: list[bytes], told: dict[str, Any]) -> None:
    """What is handed out is what was stored."""
    with evtape.open(disk.path) as tape:
        for i, event in enumerate(tape):
            held = bytes(event.data)
            if held != payloads[i]:
                if len(held) == len(payloads[i]) and not tape._source.region.faults:
                    told["lies"].append("a wrong payload, and the stream does not say so")
                return


def index(evtape: Any, disk: Disk, payloads: list[bytes], told: dict[str, Any]) -> None:
    """By ordinal, backwards, and all columns."""
    with evtape.open(disk.path) as tape:
        for i in range(len(tape) - 1, -1, -7):
            if bytes(tape[i].data) != payloads[i] and not tape._source.region.faults:
                told["lies"].append("a wrong payload by ordinal")
        if tape.sizes.sum() != sum(map(len, payloads)):
            told["lies"].append("wrong sizes")


def verify(evtape: Any, disk: Disk, payloads: list[bytes], told: dict[str, Any]) -> None:
    """A report that claims all is well is right."""
    report = evtape.verify(disk.path)
    if report.state == "clean" and report.events != len(payloads):
        told["lies"].append("verify calls a part clean")


WAYS = (iterate, index, verify)


# ------------------------------------------------------------------------------------------ writers


def writers(evtape: Any, disk: Disk, seed: int) -> dict[str, Any]:
    """In a child: a sync that fails poisons the writer, and what was durable before is still there."""
    told, rng = begin(), random.Random(seed)
    for _ in range(BATCH):
        disk.fail("-")
        disk.backing.write_bytes(streams.stream([]))
        write(evtape, disk, rng, told)
        note(told, "rounds")
    return told


def write(evtape: Any, disk: Disk, rng: random.Random, told: dict[str, Any]) -> None:
    """One life of a writer."""
    tape = evtape.open(disk.path, "a")
    kept = rng.randrange(1, 60)
    for i in range(kept):
        tape.append(i.to_bytes(4, "little") * 50)
    tape.sync()
    disk.fail("w")
    try:
        for _ in range(rng.randrange(1, 60)):
            tape.append(b"not durable" * 20)
        tape.sync()
        told["lies"].append("a flush that failed is told as a success")
    except OSError:
        note(told, "OSError from sync")
        disk.fail("-")
        for again in (tape.sync, lambda: tape.append(b"more")):
            try:
                again()
                told["lies"].append("a poisoned writer goes on")
            except evtape.Error:
                note(told, "refused afterwards")
    finally:
        disk.fail("-")
        with contextlib.suppress(evtape.Error, OSError):
            tape.close()
    with evtape.open(disk.path) as again:
        held = [bytes(data) for _, data in again[:kept]]
    if held != [i.to_bytes(4, "little") * 50 for i in range(kept)]:
        told["lies"].append("a durable event is gone")
