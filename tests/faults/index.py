"""The index file: whatever lies next to a stream in its place, no answer is wrong and no process dies.

*states*: every mixture of what the index file has held while its stream was written, next to every state of the stream,
as a power loss or a restored copy could leave them. *cut*: a stream that recovery cuts and that grows again, next to an
index of before. *kills*: writers that are killed while their thread makes the index. *fuzz*: hostile records. *zeros*:
blocks that never reached the disk. Every answer is compared with that of a reader without the index, and what the next
writer leaves with the records that docs/format.md asks for.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers import HEADER, RECORD, index_records, seal

from . import harness
from .streams import entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import Context

STAMP = 1_700_000_000_000_000_000
INDEX_HEADER = 64
PAGE = 64  # records that a reader checks together
Answers = list[Any]


def run(ctx: Context) -> None:
    """Every piece on both cores."""
    pieces: tuple[Callable[[Context, str, Any], None], ...] = (states, cut, kills, fuzz, zeros)
    for core, evtape in harness.both().items():
        for piece in pieces:
            if ctx.only in piece.__name__:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    piece(ctx, core, evtape)


# -------------------------------------------------------------------------------------------- judges


def answers(evtape: Any, path: Path) -> Answers:
    """What a reader says of a stream."""
    told: Answers = []

    def note(question: Callable[[], Any]) -> None:
        try:
            told.append(question())
        except (evtape.Error, ValueError, IndexError) as error:
            told.append(type(error).__name__)

    with evtape.open(path) as tape:
        note(lambda: len(tape))
        events = len(tape)
        places = [*range(0, events, max(1, events // 40)), events - 1]
        note(lambda: [(tape[i].timestamp, tape[i].bytes) for i in places if i >= 0])
        note(lambda: tape._source.unsorted_at())
        note(lambda: [bytes(data) for _, data in tape[[i for i in places[::-1] if i >= 0]]])
        for low in (STAMP, STAMP + 500, STAMP + 1000, STAMP + 5000):
            note(lambda low=low: list(tape.between(starting_at=low, ending_before=low + 100).ordinals))
            note(lambda low=low: tape.searchsorted(low))
    return told


def compare(
    ctx: Context, core: str, evtape: Any, path: Path, label: str, *, grow: bool = True, rewritten: bool = False
) -> None:
    """The stream with the index next to it gives the answers of the stream alone, and the next writer repairs it.

    Of a stream that was `rewritten`, verify may say that the index does not match.
    """
    index = Path(f"{path}.index")
    held = index.read_bytes() if index.exists() else None
    got = answers(evtape, path)
    report = evtape.verify(path)
    if not rewritten and any(problem.reason == "timestamp" for problem in report.problems):
        ctx.violation("verify believes an index that does not match", f"{core}: {label}: {report.problems[:2]}")
    if held is not None:
        index.unlink()
    wanted = answers(evtape, path)
    if held is not None:
        index.write_bytes(held)
    if got != wanted:
        different = [(a, b) for a, b in zip(got, wanted, strict=False) if a != b]
        ctx.violation("an index gives a wrong answer", f"{core}: {label}: {str(different)[:300]}")
    if grow:
        with evtape.open(path, "a", index=True) as tape:
            tape.append_many([b"%d" % i for i in range(70)], [STAMP + 10**6 + i for i in range(70)])
        if index.read_bytes()[INDEX_HEADER:] != index_records(path.read_bytes()):
            ctx.violation("a writer leaves a wrong index", f"{core}: {label}")
        if not evtape.verify(path).ok:
            ctx.violation("a stream is damaged after it grew", f"{core}: {label}")


def copy_generation(source: Path, target: Path) -> None:
    """Bind the files next to `target` as they were bound next to `source`."""
    try:
        os.setxattr(target, "user.evtape.generation", os.getxattr(source, "user.evtape.generation"))
    except OSError:
        pass  # a file system without them


# -------------------------------------------------------------------------------------------- states


def states(ctx: Context, core: str, evtape: Any) -> None:
    """Record a stream and its index at each close, and put each state of one next to each state of the other."""
    for kind in ("sorted", "disorder", "equal"):
        rng = random.Random(f"{kind} {ctx.seed}")
        path = ctx.work / f"states-{core}-{kind}.tape"
        streams, indexes = [], [b""]
        for step in range(ctx.scale(6, 12)):
            with evtape.open(path, "a", index=True) as tape:
                first = len(tape)
                count = rng.choice((1, 63, 64, 65, 200, 500, 3000)) if step else 3 * PAGE * 64
                stamps = [STAMP + (first + i) * 2 - (kind == "disorder") * rng.randrange(40) for i in range(count)]
                sizes = [24 if kind == "equal" else rng.randrange(60) for _ in range(count)]
                tape.append_many([rng.randbytes(size) for size in sizes], stamps)
            data = path.read_bytes()
            streams.append(data)
            indexes.append(Path(f"{path}.index").read_bytes())
            if indexes[-1][INDEX_HEADER:] != index_records(data):
                ctx.violation("a writer leaves a wrong index", f"{core}: {kind}, step {step}")
        for number in ctx.progress(range(ctx.scale(60, 3000)), f"index states, {core}, {kind}"):
            image = ctx.work / f"image-{core}.tape"
            whole = number % 6 == 0  # all of the last state, but for a hole in its index
            image.write_bytes(streams[-1] if whole else rng.choice(streams))
            copy_generation(path, image)
            Path(f"{image}.index").write_bytes(holed(rng, indexes[-1]) if whole else mixture(rng, indexes))
            compare(ctx, core, evtape, image, f"{kind}, image {number}", grow=number % 3 == 0)
            ctx.count(f"states of the index, {core}")


def holed(rng: random.Random, index: bytes) -> bytes:
    """An index that has lost a sector of its first records. A reader that looks at the last ones does not see that."""
    hole = rng.randrange(INDEX_HEADER, INDEX_HEADER + PAGE * 48)
    return index[:hole] + bytes(512) + index[hole + 512 :]


def mixture(rng: random.Random, versions: list[bytes]) -> bytes:
    """What a disk may hold of a file after a power loss: each block as one of the versions had it, or zeros."""
    newest = max(range(len(versions)), key=lambda i: (rng.random() < 0.7, i))
    grain = rng.choice((512, 4096))
    size = rng.choice([len(versions[newest]), *map(len, versions), rng.randrange(len(versions[newest]) + 1)])
    out = bytearray()
    for at in range(0, size, grain):
        version = versions[newest] if rng.random() < 0.6 else rng.choice(versions)
        block = bytes(grain) if rng.random() < 0.15 else version[at : at + grain].ljust(grain, b"\0")
        out += block
    if rng.random() < 0.8 and len(versions[newest]) >= INDEX_HEADER:
        out[:INDEX_HEADER] = versions[newest][:INDEX_HEADER]
    return bytes(out[:size])


# ----------------------------------------------------------------------------------------------- cut


def cut(ctx: Context, core: str, evtape: Any) -> None:
    """A stream is cut in block 1 and grows again. Block 2 is the same as before, so only the identity tells."""
    first, second = ctx.work / f"cut-{core}.tape", ctx.work / f"cut-{core}-other.tape"
    rng = random.Random(ctx.seed)

    def batch(start: int, stop: int, shift: int) -> tuple[list[bytes], list[int]]:
        return [b"%020d" % i for i in range(start, stop)], [STAMP + i * 2 + shift for i in range(start, stop)]

    for round_ in range(ctx.scale(3, 50)):
        at = 64 + rng.randrange(1, 40)
        with evtape.open(first, "w", index=True) as tape:
            tape.append_many(*batch(0, 192, 0))
        second.unlink(missing_ok=True)
        os.link(first, second)
        Path(f"{second}.index").write_bytes(Path(f"{first}.index").read_bytes())
        with open(first, "r+b") as file:  # zeros to the end: a torn tail
            file.seek(24 + at * 36)
            file.write(bytes((192 - at) * 36))
        evtape.recover(second)
        with evtape.open(second) as tape:
            if tape._source.length() // 64 * 64 != tape._source.index.from_file:
                ctx.violation("the index is not kept by recovery", f"{core}: cut at {at}: it is not believed")
        with evtape.open(second, "a", index=True) as tape:
            tape.append_many(*batch(len(tape), 128, 1))  # other times
            tape.append_many(*batch(128, 192, 0))  # the same as before
        compare(ctx, core, evtape, first, f"cut at {at}, the first name", grow=False)
        compare(ctx, core, evtape, second, f"cut at {at}, the second name", grow=False)
        report = evtape.verify(second)
        if (report.index, report.compared) != ("compared", 192):
            ctx.violation("the index is not kept by recovery", f"{core}: cut at {at}: {report.index} {report.compared}")
        ctx.count(f"cuts, {core}")
        if round_ % 2:
            grown(ctx, core, evtape, first, rng)
        rewritten(ctx, core, evtape, first, rng)


def rewritten(ctx: Context, core: str, evtape: Any, path: Path, rng: random.Random) -> None:
    """Another program cuts the stream and appends other events. It knows of no index and of no generation."""
    with evtape.open(path, "w", index=True) as tape:
        tape.append_many([b"%020d" % i for i in range(640)], [STAMP + i for i in range(640)])
    keep = rng.randrange(640)
    added = [entry(STAMP + i, b"y" * rng.randrange(50)) for i in range(keep, 700)]
    body = path.read_bytes()[24 : 24 + keep * 36] + b"".join(added)
    start = HEADER.unpack_from(path.read_bytes())[2]
    with open(path, "r+b") as file:
        file.write(HEADER.pack(24 + len(body), 700, start) + body)
        file.truncate(24 + len(body))
    compare(ctx, core, evtape, path, f"rewritten from {keep} on", rewritten=True)


def grown(ctx: Context, core: str, evtape: Any, path: Path, rng: random.Random) -> None:
    """A writer takes over a stream that is shorter than its index, and is killed before it has caught up."""
    with evtape.open(path, "w", index=True) as tape:
        tape.append_many([b"%020d" % i for i in range(640)], [STAMP + i for i in range(640)])
    data = bytearray(path.read_bytes())
    keep = rng.randrange(1, 600)
    struct.pack_into("<qq", data, 0, 24 + keep * 36, keep)
    with open(path, "r+b") as file:
        file.write(data[:24])
        file.truncate(24 + keep * 36)

    def work() -> None:
        tape = evtape.open(path, "a", index=True)
        tape.append_many([b"other"] * 100)
        os._exit(0)

    harness.in_child(work)
    file = Path(f"{path}.index")
    index = file.read_bytes()[INDEX_HEADER:] if file.exists() else b""  # there is none if no record of it was left
    if not index_records(path.read_bytes()).startswith(index[: len(index) // 48 * 48]):
        whole = index_records(path.read_bytes(), partial=False)
        if not whole.startswith(index[: (keep // 64) * 48]) or len(index) > (keep // 64 + 1) * 48:
            ctx.violation("records of before stay after a takeover", f"{core}: kept {keep} events")
    compare(ctx, core, evtape, path, f"taken over at {keep}")


# --------------------------------------------------------------------------------------------- kills


def kills(ctx: Context, core: str, evtape: Any) -> None:
    """Kill a writer of a large stream at a random moment. Its thread may be at work on the index."""
    if core != "native":
        return  # there is no thread: what a killed writer leaves is in `cut`
    rng = random.Random(ctx.seed)
    for number in ctx.progress(range(ctx.scale(6, 200)), f"index kills, {core}"):
        path = ctx.work / f"kill-{core}.tape"
        for old in (path, Path(f"{path}.index"), Path(f"{path}.side")):
            old.unlink(missing_ok=True)
        size = rng.choice((0, 8, 64, 1000))
        child = os.fork()
        if child == 0:
            try:
                with evtape.open(path, "w", durability="none") as tape:
                    payload = b"p" * size
                    while True:
                        tape.append(payload)
            finally:
                os._exit(1)
        until = time.monotonic() + 30
        while not path.exists() and time.monotonic() < until:  # it takes long to begin on a busy machine
            time.sleep(0.001)
        time.sleep(0.05 + rng.random() * 0.25)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        index = Path(f"{path}.index")
        if index.exists():
            held = index.read_bytes()[INDEX_HEADER:]
            held = held[: len(held) // 48 * 48]
            if not index_records(head_of(path, len(held) // 48 * 64), partial=False).startswith(held):
                ctx.violation("a killed writer leaves a wrong index", f"{core}: kill {number}, {size} bytes")
            ctx.count("killed with an index")
            ctx.count("records left by killed writers", len(held) // 48)
        with evtape.open(path) as tape:
            events = len(tape)
            if events and (tape[-1].ordinal, len(tape[events // 2].data)) != (events - 1, size):
                ctx.violation("an index gives a wrong answer", f"{core}: kill {number}")
        evtape.open(path, "a").close()
        if index.exists() and evtape.verify(path).compared != events:
            ctx.violation("a writer leaves a wrong index", f"{core}: kill {number}: not complete after the next close")
        ctx.count(f"SIGKILLs, {core}")


def head_of(path: Path, events: int) -> bytes:
    """The stream as if it had so many events only: a walk over all of them would take minutes."""
    data = path.read_bytes()
    at = 24
    for _ in range(events):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    end, _, start = HEADER.unpack_from(data)
    return HEADER.pack(min(at, end), events, start) + data[24 : min(at, end)]


# ---------------------------------------------------------------------------------------------- fuzz


def fuzz(ctx: Context, core: str, evtape: Any) -> None:
    """Mutants of an index, in a child: without good checksums no answer may change, with them no process may die."""
    path = ctx.work / f"fuzz-{core}.tape"
    rng = random.Random(ctx.seed)
    stamps = [STAMP + i * 2 - rng.randrange(40) for i in range(2000)]
    with evtape.open(path, "w", index=True) as tape:
        tape.append_many([rng.randbytes(rng.randrange(60)) for _ in range(2000)], stamps)
    good = Path(f"{path}.index").read_bytes()
    for seed in ctx.progress(range(ctx.scale(8, 400)), f"index fuzz, {core}"):
        status, found = harness.in_child(lambda seed=seed: hostile(evtape, path, good, seed), 120.0)
        if found is None:
            ctx.violation("a hostile index kills a process", f"{core}: seed {seed}: {harness.tell(status)}")
            continue
        for kind, detail in found:
            ctx.violation(kind, f"{core}: seed {seed}: {detail}")
        ctx.count(f"hostile indexes, {core}", 10)


ODD = (0, 1, 2**16 - 1, 2**31, 2**32 - 1, 2**47, 2**62, 2**63 - 1, 2**63, 2**64 - 24, 2**64 - 1, 23, 24, 25)


def hostile(evtape: Any, path: Path, good: bytes, seed: int) -> list[tuple[str, str]]:
    """Ten mutants; what went wrong with them."""
    rng, found = random.Random(seed), []
    index = Path(f"{path}.index")
    start = HEADER.unpack_from(path.read_bytes())[2]
    index.unlink(missing_ok=True)
    wanted = answers(evtape, path)
    for _ in range(10):
        data = bytearray(good)
        mended = rng.random() < 0.6
        for _ in range(rng.randrange(1, 5)):
            number = rng.randrange((len(good) - INDEX_HEADER) // 48)
            at = INDEX_HEADER + 48 * number
            if mended:
                raw = bytearray(data[at : at + 48])
                place, width = rng.choice(((0, 8), (8, 8), (16, 8), (24, 8), (32, 4), (36, 4), (40, 2), (42, 2)))
                raw[place : place + width] = (rng.choice(ODD) % 256**width).to_bytes(width, "little")
                data[at : at + 48] = seal(bytes(raw), start, number)
            else:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            data += os.urandom(rng.choice((1, 47, 48, 4800)))
        index.write_bytes(data)
        try:
            got = answers(evtape, path)
            evtape.verify(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            found.append(("a hostile index raises what it may not", f"{type(error).__name__}: {error}"))
            continue
        if not mended and got != wanted:
            found.append(("a broken index gives a wrong answer", str(got)[:200]))
    index.write_bytes(good)
    return found


# --------------------------------------------------------------------------------------------- zeros


def zeros(ctx: Context, core: str, evtape: Any) -> None:
    """A block of entries reads as zeros. In an indexed block that is damage; an index never covers zeros."""
    path = ctx.work / f"zeros-{core}.tape"
    body = b"".join(entry(STAMP + i, b"") for i in range(600))
    whole = HEADER.pack(24 + len(body), 600, STAMP) + body
    holes = whole[: 24 + 16 * 300] + bytes(16 * 8) + whole[24 + 16 * 308 :]
    path.write_bytes(whole)
    evtape.build_index(path)
    index = Path(f"{path}.index").read_bytes()
    path.write_bytes(holes)
    with evtape.open(path) as tape:
        tape._source.length()
        try:
            seen = [event.ordinal for event in tape]
            ctx.violation("zeros in an indexed block are events", f"{core}: {len(seen)} events")
        except evtape.CorruptError as error:
            if error.ordinal != 300:
                ctx.violation("zeros in an indexed block are events", f"{core}: damage at {error.ordinal}, not at 300")
    Path(f"{path}.index").unlink()
    path.write_bytes(holes[:8] + (599).to_bytes(8, "little") + holes[16:])  # the count does not add up
    try:
        evtape.build_index(path)
        ctx.violation("an index covers zeros", f"{core}: no error")
    except evtape.CorruptError:
        pass
    held = Path(f"{path}.index").read_bytes()
    if held[INDEX_HEADER:] != index[INDEX_HEADER : INDEX_HEADER + 48 * 4]:
        ctx.violation("an index covers zeros", f"{core}: {(len(held) - INDEX_HEADER) // 48} records")
    ctx.count(f"lost blocks, {core}", 2)


assert RECORD.size == 48
