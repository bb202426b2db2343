"""Power loss in a journal, simulated: what the disk may hold after it, at every moment of rolls and deletions.

*Contents*: each 512-byte sector, or each page, of a file may be as it was when the file was last flushed or as it is
now; sizes likewise. *Names*: the directory may be as it was after any change since it was last flushed, because a file
system keeps the order of the changes of one directory. The sidecar and the settings are written as one sector.

An image is opened for append during another boot. The journal must be a prefix of what was appended that holds
everything that `sync` has acknowledged, without a gap, and appending must go on.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness
from .journals import ROLL, Board, append, in_one_thread, judge

if TYPE_CHECKING:
    from .harness import Context

ATTRIBUTE = "user.evtape.generation"
CHANGES = ("open", "rename", "replace", "link", "unlink", "setxattr", "write", "pwrite", "ftruncate")
EVERY = 4  # of so many moments a short run takes one


@dataclass
class Inode:
    """One file: what is durable of it. Its descriptor stays open, so that it can be read when it has no name."""

    fd: int
    durable: bytes = b""
    attribute: bytes | None = None
    flushed: bool = False

    def now(self) -> bytes:
        """What processes see. Space that was never stored to is left out."""
        return os.pread(self.fd, 1 << 20, 0)


@dataclass(frozen=True)
class Moment:
    """A moment at which the power may go."""

    label: str
    names: tuple[dict[str, int], ...]  #: the directory after each change since it was flushed
    files: dict[int, tuple[bytes, bytes, bytes | None, bytes | None]]  #: contents and attribute: durable, now
    durable: int
    begun: int


@dataclass
class Disk:
    """Follows one directory."""

    path: str
    board: Board
    names: list[dict[str, int]] = field(default_factory=lambda: [{}])
    inodes: dict[int, Inode] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    busy: bool = False

    def look(self) -> dict[str, int]:
        """The names that are there now."""
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                number = entry.inode()
                found[entry.name] = number
                if number not in self.inodes:
                    self.inodes[number] = Inode(REAL["open"](entry.path, os.O_RDONLY))
        return found

    def see(self, label: str) -> None:
        """Note a moment."""
        if self.busy or not os.path.isdir(self.path):
            return
        self.busy = True
        try:
            names = self.look()
            if names != self.names[-1]:
                self.names.append(names)
            used = {number for known in self.names for number in known.values()}
            files = {}
            for number in used:
                inode = self.inodes[number]
                files[number] = inode.durable, inode.now(), inode.attribute, attribute_of(inode.fd)
            self.moments.append(Moment(label, tuple(self.names), files, self.board.durable, self.board.begun))
        finally:
            self.busy = False

    def flushed(self, fd: int) -> None:
        """The file or the directory in `fd` was flushed."""
        if self.busy or not os.path.isdir(self.path):
            return
        self.busy = True
        try:
            names = self.look()
            number = os.fstat(fd).st_ino
            if number == os.stat(self.path).st_ino:
                self.names = [names]
            elif number in self.inodes:
                inode = self.inodes[number]
                inode.durable, inode.attribute, inode.flushed = inode.now(), attribute_of(fd), True
        finally:
            self.busy = False
        self.see("after a flush")

    def close(self) -> None:
        for inode in self.inodes.values():
            os.close(inode.fd)


REAL: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in (*CHANGES, "fsync", "fdatasync")}


def attribute_of(fd: int) -> bytes | None:
    try:
        return os.getxattr(fd, ATTRIBUTE)
    except OSError:
        return None


@contextlib.contextmanager
def recording(evtape: Any, disk: Disk) -> Iterator[None]:
    """Everything that changes the directory inside the block is noted."""
    flusher = evtape.modules["evtape.stream.flusher"].Flusher
    real_flush = flusher.flush

    def changing(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            result = REAL[name](*given, **named)
            disk.see(f"after {name}")
            return result

        return call

    def flushing(name: str) -> Callable[..., Any]:
        def call(fd: int) -> None:
            disk.see(f"before {name}")
            REAL[name](fd)
            disk.flushed(fd)

        return call

    def flush(self: Any) -> Any:
        disk.see("before a flush")
        done = real_flush(self)
        if done:
            disk.flushed(self._watermark_file._stream)
        return done

    for name in CHANGES:
        setattr(os, name, changing(name))
    for name in ("fsync", "fdatasync"):
        setattr(os, name, flushing(name))
    flusher.flush = flush
    try:
        yield
    finally:
        flusher.flush = real_flush
        for name, call in REAL.items():
            setattr(os, name, call)


def record(evtape: Any, path: str) -> list[Moment]:
    """A writer that rolls, syncs now and then, and deletes; every moment of it."""
    board = Board()
    disk = Disk(path, board)
    with in_one_thread(evtape), recording(evtape, disk):
        with evtape.open_journal(path, "a", roll_bytes=ROLL, keep_segments=4, index=True) as journal:
            for turn in range(7):
                for _ in range(11):
                    append(journal, board, 6)
                    disk.see("after an append")
                if turn % 3 == 1:
                    journal.sync()
                    board.durable = board.acknowledged
                    disk.see("after a sync")
                if turn % 2:
                    journal._keep_house()
        board.durable = board.acknowledged
        disk.see("after the close")
    disk.close()
    return disk.moments


def power_losses(ctx: Context, core: str, evtape: Any) -> None:
    """Images of every moment, or of some of them."""
    path = ctx.work / f"power-{core}"
    moments = record(evtape, str(path))
    shutil.rmtree(path)
    ctx.count(f"moments, {core}", len(moments))
    chosen = moments[ctx.seed % EVERY :: EVERY] if not ctx.full else moments
    for moment in ctx.progress(chosen, f"power, {core}"):
        for i in range(ctx.scale(5, 60)):
            rng = random.Random(f"{ctx.seed} {moment.label} {i}")
            make_image(moment, path, rng, i)
            board = Board()
            board.begun = moment.begun
            where = f"power, {core}, {moment.label}, {moment.durable} durable of {moment.begun}, image {i}"
            with warnings.catch_warnings(), harness.another_boot(evtape):
                warnings.simplefilter("ignore")
                before = ctx.violation_count
                judge(ctx, evtape, path, board, where, lossy=moment.durable)
                if ctx.violation_count > before and ctx.violation_count <= 3:
                    kept = Path(harness.tempfile.gettempdir()) / f"evtape-journal-{os.getpid()}-{ctx.violation_count}"
                    make_image(moment, kept, random.Random(f"{ctx.seed} {moment.label} {i}"), i)
                    print(f"    image kept as {kept}")
            shutil.rmtree(path)
            ctx.count(f"images of power loss, {core}")
        if ctx.expired:
            return


def make_image(moment: Moment, path: Path, rng: random.Random, number: int) -> None:
    """The directory as a power loss may leave it. The first images are the extremes."""
    path.mkdir()
    names = moment.names[-1 if number == 0 else 0 if number == 1 else rng.randrange(len(moment.names))]
    for name, inode in names.items():
        durable, now, old_attribute, attribute = moment.files[inode]
        content = now if number == 0 else durable if number == 1 else mixed(durable, now, name, rng)
        (path / name).write_bytes(content)
        kept = attribute if number == 0 or rng.random() < 0.5 else old_attribute
        if kept is not None:
            os.setxattr(path / name, ATTRIBUTE, kept)


def mixed(durable: bytes, now: bytes, name: str, rng: random.Random) -> bytes:
    """Each block is the old or the new one."""
    size = len(rng.choice((durable, now)))
    if name.endswith(".side") or not (name.endswith(".tape") or ".next-" in name):
        return rng.choice((durable, now))
    grain = rng.choice((512, 4096))
    share = rng.choice((0.02, 0.5, 0.98))
    old, new = durable.ljust(size, b"\0"), now.ljust(size, b"\0")
    blocks = [(new if rng.random() < share else old)[at : at + grain] for at in range(0, size, grain)]
    return b"".join(blocks)[:size]
