"""What a recovery makes of an image of power loss, and of being interrupted itself."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import mmap
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import checker, harness
from .record import LIMIT, Point, Recorder, recording
from .reference import Verdict

if TYPE_CHECKING:
    from .harness import Context

REACH = 64 << 20  # bytes of address space for an image: as long as any file of a writer here
VERSIONS = 4  # contents kept per block; the header's has one for each append


@dataclass
class Stream:
    """What the writer was told to append, for comparison."""

    name: str
    data: bytes
    ends: list[int]  #: where the stream ends after i events
    points: list[Point]


@dataclass(frozen=True)
class Case:
    """Where an image comes from."""

    stream: Stream
    point: Point
    size: int
    model: str

    @property
    def durable(self) -> int:
        """Events that must be there."""
        return 0 if self.model == "lost" else self.point.durable

    def __str__(self) -> str:
        return f"{self.stream.name}, {self.point.label}, {self.model}"


class Arena:
    """The memory-backed file in which images are made, and those who judge it."""

    def __init__(self, cores: dict[str, Any]) -> None:
        self.cores = cores
        self.check = checker.Checker()
        self.fd = os.memfd_create("image")
        # Without a header the judges walk to the end of the file, which may be far beyond what is looked at here.
        os.ftruncate(self.fd, REACH)
        self.map = mmap.mmap(self.fd, REACH)
        self.address = checker.address_of(self.map)
        self.walk = functools.partial(harness.walk, next(iter(cores.values())))
        self.seen = 0

    def base(self, image: bytes, size: int) -> None:
        """Begin with this image, cut or extended to `size`."""
        assert size <= REACH
        os.ftruncate(self.fd, size)
        held = min(size, LIMIT)
        self.map[:held] = image[:held].ljust(held, b"\0")

    def copy(self, size: int) -> bytes:
        """The image that stands in the file."""
        return self.map[: min(size, LIMIT)]


def thin(versions: tuple[bytes, ...], model: str, salt: int) -> list[bytes]:
    """The contents a model allows, each once, the oldest first and the newest last; at most VERSIONS and zeros."""
    middle = versions[1:-1] if model != "two" else ()
    if len(middle) > VERSIONS - 2:
        middle = tuple(middle[(salt * 31 + k * 17) % len(middle)] for k in range(VERSIONS - 2))
    zeros = (bytes(len(versions[0])),) if model == "lost" else ()
    newest = versions[-1]
    older = [version for version in (versions[0], *zeros, *middle) if version != newest]
    return [*dict.fromkeys(older), newest]


def tear(image: Any, stream: Stream, end: int) -> str:
    """What the first event that was never appended came from; empty when it is nothing that a lost block explains.

    A payload is checked, a timestamp is not, and an empty payload has the checksum zero. So an entry whose size and
    checksum lie in a lost block reads as an empty event, with as much of its timestamp as was not lost.
    """
    kind = ""
    for start, stop in itertools.pairwise([*stream.ends, LIMIT]):
        if start >= end:
            break
        if stop <= end and image[start:stop] == stream.data[start:stop]:
            continue
        if image[start : start + 16] == bytes(16):
            return "zeros add up"
        if stop <= end and image[start + 8 : stop] == stream.data[start + 8 : stop]:
            kind = "a timestamp torn"
        else:
            return "an empty event torn at its timestamp" if image[start + 8 : start + 16] == bytes(8) else ""
    return kind


def recover_image(ctx: Context, arena: Arena, case: Case) -> None:
    """Recover one image on both cores, interrupt that everywhere, and open the image for append."""
    image = Image(arena.copy(case.size), case.size)
    for core, evtape in arena.cores.items():
        sidecars = case.point.sidecars
        sidecar = sidecars[arena.seen // 7 % len(sidecars)] if ctx.watermark else None
        promised = case.model != "lost" or nothing_durable(sidecar)
        oracle = Oracle(ctx, arena, case.stream, f"{case}, {core}", case.durable, sidecar, promised)
        path = ctx.work / "image.tape"
        with harness.another_boot(evtape):
            recovered(ctx, evtape, path, image, oracle)
            opened(ctx, evtape, path, image, oracle)
        clear(ctx)


def nothing_durable(sidecar: bytes | None) -> bool:
    """Whether the sidecar of a new stream says that a power loss can have taken all of it."""
    return sidecar is not None and int.from_bytes(sidecar[48:56], "little") == 0


@dataclass(frozen=True)
class Image:
    """The bytes of a file without the zeros that end it, and its size."""

    data: bytes
    size: int

    def save(self, path: Path) -> None:
        path.write_bytes(self.data)
        os.truncate(path, self.size)

    @classmethod
    def of(cls, path: Path) -> Image:
        with open(path, "rb") as file:
            return cls(file.read(LIMIT), os.fstat(file.fileno()).st_size)


@dataclass
class Oracle:
    """What any file that comes out of a recovery must hold."""

    ctx: Context
    arena: Arena
    stream: Stream
    label: str
    durable: int
    sidecar: bytes | None
    promised: bool  #: whether what was durable is there in every image, as a file system promises

    def place(self, image: Image, path: Path) -> None:
        """The files as the power loss left them."""
        clear(self.ctx)
        image.save(path)
        if self.sidecar is not None:
            harness.place_sidecar(self.sidecar, path)

    def verdict(self, image: Image) -> tuple[Verdict, bytearray]:
        """The verdict, and the bytes it was made from. With a usable header nothing behind WriteOffset is looked at."""
        buffer = bytearray(image.data.ljust(24, b"\0"))
        if not 24 <= int.from_bytes(buffer[:8], "little", signed=True) <= len(buffer):
            buffer = bytearray(image.data.ljust(image.size, b"\0"))
        return self.arena.check.verdict_at(checker.address_of(buffer), image.size), buffer

    def judge(self, image: Image) -> str:
        """What is wrong with a file as a prefix of what was appended, with all that was durable; or nothing."""
        want, buffer = self.verdict(image)
        address = checker.address_of(buffer)
        known = self.stream.data, self.stream.ends, self.durable
        said = self.arena.check.judge(address, want.end, want.events, *known)
        return (tear(buffer, self.stream, want.end) or checker.JUDGEMENTS[said]) if said else ""

    def holds(self, image: Image, what: str) -> None:
        """Nothing is wrong with it."""
        wrong = self.judge(image)
        if wrong and not self.ctx.watermark and wrong not in checker.JUDGEMENTS:
            self.ctx.count(f"not told without a sidecar: {wrong}")  # as docs/guarantees.md says
        elif wrong:
            said = tuple(self.verdict(image)[0])
            self.ctx.violation(
                f"{what.partition(',')[0]}: {wrong}", f"{self.label}: {what}: {said}, durable {self.durable}"
            )


def recovered(ctx: Context, evtape: Any, path: Path, image: Image, oracle: Oracle) -> None:
    """`recover` keeps a prefix, saves what it cuts first, changes nothing the second time, and may be interrupted."""
    oracle.place(image, path)
    recorder = Recorder(str(path))
    ctx.count("recovered")
    try:
        with recording(evtape, recorder):
            report = evtape.recover(path)
    except evtape.FormatError:
        ctx.count("recover: not a stream")
        if oracle.durable or (oracle.promised and oracle.sidecar is not None):
            ctx.violation("recover refuses as no stream", f"{oracle.label}: {oracle.durable} events were durable")
        return
    data = Image.of(path)
    oracle.holds(data, "recover")
    if report.lost and report.cut and not report.quarantine:
        ctx.violation("cut and not saved", f"{oracle.label}: {report.cut} bytes")
    if report.quarantine and Path(report.quarantine).read_bytes() != image.data[report.end : report.end + report.cut]:
        ctx.violation("the quarantine is not what was cut", oracle.label)
    if report.quarantine and recorder.log:
        saved = [i for i, what in enumerate(recorder.log) if what.startswith(("link", "rename", "replace"))]
        first = next(
            (i for i, what in enumerate(recorder.log) if what == "store header" or what.startswith("ftruncate")), 0
        )
        synced = [i for i, what in enumerate(recorder.log[:first]) if what.startswith("fsync")]
        if (
            not saved
            or saved[0] > first
            or not any(i < saved[0] for i in synced)
            or not any(i > saved[0] for i in synced)
        ):
            ctx.violation("the quarantine was not durable before the cut", f"{oracle.label}: {recorder.log}")
    again = evtape.recover(path)
    if again.state != "clean" or Image.of(path) != data:
        ctx.violation("a second recovery is not idle", f"{oracle.label}: {again.state}")
    for point in recorder.points:
        for copy in second_crash(oracle.arena, point):
            ctx.count("crashes inside recovery")
            if oracle.judge(copy):
                # What the format cannot tell, the sidecar of that moment may: the next recovery has to get it right.
                for sidecar in point.sidecars:
                    dataclasses.replace(oracle, sidecar=sidecar).place(copy, path)
                    evtape.recover(path)
                    oracle.holds(Image.of(path), f"recovery after a crash inside one, {point.label}")


def second_crash(arena: Arena, point: Point) -> Iterator[Image]:
    """The images of a recovery that was interrupted at this moment: few blocks are dirty, so all of them."""
    blocks = [(i * 512, thin(v, "torn", 0)) for i, v in point.blocks[512].items()][:6]
    buffer = bytearray(point.image.ljust(LIMIT, b"\0"))
    made = checker.Images(arena.check, checker.address_of(buffer), blocks, 1)
    made.first()
    while True:
        for size in point.sizes:
            yield Image(bytes(buffer[: min(size, LIMIT)]), size)
        if not made.next():
            return


def opened(ctx: Context, evtape: Any, path: Path, image: Image, oracle: Oracle) -> None:
    """`open("a")` repairs a torn tail or refuses; either way nothing durable is gone."""
    oracle.place(image, path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with evtape.open(path, "a") as tape:
                events = len(tape)
                tape.append(b"after")
        except (evtape.CorruptError, evtape.FormatError) as refusal:
            known = "with" if oracle.sidecar is not None else "without"
            ctx.count(f"open('a') refused, {known} a sidecar: {type(refusal).__name__}")
            if Image.of(path) != image:
                ctx.violation("open('a') refused and changed the file", oracle.label)
            if oracle.sidecar is not None and oracle.promised:
                ctx.violation("open('a') refused a torn tail", f"{oracle.label}: {refusal}")
            return
    ctx.count("open('a') succeeded")
    after = Image.of(path)
    want, data = oracle.verdict(after)
    if want.state != "clean" or want.events != events + 1:
        ctx.violation("not clean after open('a')", f"{oracle.label}: {tuple(want)}, {events} events before")
    state, _ = oracle.verdict(image)
    if state.state == "damaged" and not any(issubclass(w.category, evtape.RecoveryWarning) for w in told):
        ctx.violation("repaired without a warning", f"{oracle.label}: {tuple(state)}")
    cut = bytes(data[: oracle.stream.ends[events] if events < len(oracle.stream.ends) else 24])
    kept = len(cut).to_bytes(8, "little") + events.to_bytes(8, "little") + cut[16:]
    oracle.holds(Image(kept, len(kept)), "open('a')")


def clear(ctx: Context) -> None:
    for file in ctx.work.glob("*image.tape*"):
        file.unlink()
