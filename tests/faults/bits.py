"""Every single bit of a 64 KB stream flipped, and what each flip does to the verdict, without an index and with one.

Without an index, what nothing can detect is counted by field: the format has no checksum over its header and over an
entry's timestamp, so that table is published and not a list of failures. A flip that is not reported although the
format shows it, or after which the kept prefix holds a changed payload, is a violation. With an index every flip below
WriteOffset has to be reported, and one of a timestamp with its event.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import checker, harness

if TYPE_CHECKING:
    from .harness import Context

SIZE = 65536
STAMP = 1_700_000_000_000_000_000
FIELDS = ("WriteOffset", "EventCount", "StartTimestamp", "Timestamp", "Size", "Checksum", "data", "above")
# What the format can show. The rest has nothing that a flip could contradict.
SHOWN = {"WriteOffset", "EventCount", "Size", "Checksum", "data"}


def build() -> tuple[bytes, list[int]]:
    """A stream of 64 KB that was not closed (its last 256 bytes are room), and where each of its events begins."""
    body, starts, at, i = b"", [], 24, 0
    while at < SIZE - 2000:
        size = (i * 397) % 1500 if i % 7 else 0
        data = bytes((i * 31 + k * 7) & 255 for k in range(size))
        body += struct.pack("<qII", STAMP + i * 1000, size, zlib.crc32(data)) + data
        starts.append(at)
        at += 16 + size
        i += 1
    data = bytes(SIZE - 256 - at - 16)
    body += struct.pack("<qII", STAMP + i * 1000, len(data), zlib.crc32(data)) + data
    starts.append(at)
    return struct.pack("<qqq", SIZE - 256, i + 1, STAMP - 5) + body + bytes(256), starts


def fields(stream: bytes, starts: list[int]) -> tuple[list[str], list[int]]:
    """For each byte its field and the beginning of the event it belongs to."""
    names = ["WriteOffset"] * 8 + ["EventCount"] * 8 + ["StartTimestamp"] * 8
    owners = [-1] * 24
    for start, stop in zip(starts, [*starts[1:], SIZE - 256], strict=True):
        names += ["Timestamp"] * 8 + ["Size"] * 4 + ["Checksum"] * 4 + ["data"] * (stop - start - 16)
        owners += [start] * (stop - start)
    return names + ["above"] * 256, owners + [-1] * 256


def run(ctx: Context) -> None:
    """Flip, look, flip back."""
    stream, starts = build()
    names, owners = fields(stream, starts)
    check = checker.Checker()
    fd = os.memfd_create("bits")
    os.ftruncate(fd, SIZE)
    image = mmap.mmap(fd, SIZE)
    image[:] = stream
    address = checker.address_of(image)
    cores = harness.both()
    flips, missed, disorder, short = Counter[str](), Counter[str](), Counter[str](), 0
    pure_step = ctx.scale(1, 17)  # the pure core is slower; 17 meets every field and every bit of a byte
    bits = [*range(320), *range(320, SIZE * 8, ctx.scale(509, 1))]
    for bit in ctx.progress(bits, "bits"):
        at = bit >> 3
        name = names[at]
        image[at] ^= 1 << (bit & 7)
        want = check.verdict_at(address, SIZE)
        for core, evtape in cores.items():
            if core == "native" or bit % pure_step == 0:
                report = harness.walk(evtape, "bits", fd)
                ctx.count(f"verified, {core}")
                compare(ctx, core, bit, name, want, report)
        if want.reason == "checksum" and owners[at] < starts[-1] and bit % ctx.scale(53, 1009) == 0:
            for core, evtape in cores.items():
                refuses(ctx, core, evtape, image[:], bit)
        image[at] ^= 1 << (bit & 7)
        flips[name] += 1
        if want.state == "open":
            missed[name] += 1
            disorder[name] += report_disorder(cores, fd, image, at, bit) if name == "Timestamp" else 0
            if name in SHOWN:
                ctx.violation("a flip is not reported", f"bit {bit} of {name}")
        elif owners[at] >= 0 and want.end > owners[at]:
            ctx.violation("the prefix kept goes past the flip", f"bit {bit} of {name}, kept up to {want.end}")
        elif name == "WriteOffset" and want.reason == "count":
            short += 1
    ctx.figures |= {"flips": sum(flips.values()), "WriteOffset lowered to an event boundary, reported as count": short}
    table(ctx, flips, missed, disorder)
    with_index(ctx, stream, starts)


def with_index(ctx: Context, stream: bytes, starts: list[int]) -> None:
    """Flip, verify with the index, flip back. What lies above WriteOffset is no part of the stream."""
    names, owners = fields(stream, starts)
    cores = harness.both()
    path = ctx.work / "indexed.tape"
    path.write_bytes(stream)
    next(iter(cores.values())).build_index(path)
    flips, missed = Counter[str](), Counter[str]()
    # A payload is covered by the walk above; here every bit of the headers, and a sample of the rest.
    bits = [bit for bit in range((SIZE - 256) * 8) if names[bit >> 3] != "data" or bit % ctx.scale(4001, 61) == 0]
    with open(path, "r+b", buffering=0) as file:
        for bit in ctx.progress(bits, "bits with an index"):
            at, mask = bit >> 3, 1 << (bit & 7)
            os.pwrite(file.fileno(), bytes([stream[at] ^ mask]), at)
            for core, evtape in cores.items():
                if core == "native" or bit % ctx.scale(97, 17) == 0:
                    judge_indexed(ctx, core, evtape.verify(path), bit, names[at], owners[at], starts, missed)
            os.pwrite(file.fileno(), bytes([stream[at]]), at)
            flips[names[at]] += 1
    ctx.figures["flips with an index"] = sum(flips.values())
    ctx.figures["not detected with an index"] = {name: missed[name] for name in FIELDS if name != "above"}


def judge_indexed(
    ctx: Context, core: str, report: Any, bit: int, name: str, owner: int, starts: list[int], missed: Counter[str]
) -> None:
    """A flip has to be reported, and one of a timestamp has to name its event and nothing else."""
    ctx.count(f"verified with an index, {core}")
    if report.ok:
        missed[name] += 1
        ctx.violation("a flip is not reported although there is an index", f"{core}: bit {bit} of {name}")
    elif name in ("Timestamp", "StartTimestamp"):
        said = [(p.reason, p.ordinal, p.offset) for p in report.problems]
        ordinal = starts.index(owner) if owner >= 0 else -1
        if said != [("timestamp", ordinal, owner)]:
            ctx.violation("the index names another event", f"{core}: bit {bit} of {name}: {said}")
    elif any(p.reason == "timestamp" for p in report.problems):
        ctx.violation("the index finds what is not there", f"{core}: bit {bit} of {name}: {report.problems[:3]}")


def compare(ctx: Context, core: str, bit: int, name: str, want: Any, report: Any) -> None:
    """The verdict of a core must be the reference's."""
    got = (report.state, report.events, report.end, report.reason)
    if got != tuple(want):
        ctx.violation("verdicts differ", f"bit {bit} of {name}: {core} says {got}, the reference {tuple(want)}")


def refuses(ctx: Context, core: str, evtape: Any, data: bytes, bit: int) -> None:
    """Opening for append may not cut intact events off behind a damaged one, nor change anything."""
    path = ctx.work / "middle.tape"
    path.write_bytes(data)
    ctx.count("open('a') with damage in the middle")
    try:
        evtape.open(path, "a").close()
    except evtape.CorruptError:
        if path.read_bytes() == data:
            return
    ctx.violation("damage in the middle is cut, or changed", f"{core}: bit {bit}")


def report_disorder(cores: dict[str, Any], fd: int, image: mmap.mmap, at: int, bit: int) -> int:
    """Whether a flipped timestamp at least shows as disorder in the report."""
    image[at] ^= 1 << (bit & 7)
    evtape = next(iter(cores.values()))
    noticed = harness.walk(evtape, "bits", fd).unsorted_at >= 0
    image[at] ^= 1 << (bit & 7)
    return int(noticed)


def table(ctx: Context, flips: Counter[str], missed: Counter[str], disorder: Counter[str]) -> None:
    """Print what is not detected, by field."""
    print(f"  {'field':<16}{'bits':>10}{'detected':>10}{'not':>10}{'of these shown as disorder':>30}")
    for name in FIELDS:
        print(
            f"  {name:<16}{flips[name]:>10,}{flips[name] - missed[name]:>10,}{missed[name]:>10,}{disorder[name]:>30,}"
        )
    ctx.figures["not detected"] = {name: missed[name] for name in FIELDS}
    ctx.figures["of these shown as disorder"] = disorder["Timestamp"]
