"""Hostile files against everything that reads one, on both cores and the reference parser: identical answers, no crash.

The bulk goes through the native scanner, in a file in memory; each 10th mutant through the walk that `verify`,
`recover` and `open("a")` rest on; and every so many of those through all of the API. Each batch runs in a child. What
kills a child is found again, saved in `corpus/`, and a violation. Mutants that show a verdict, or an answer of the
API, that was not seen before are bred from.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import random
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checker, harness
from .reference import DATA, verdict

if TYPE_CHECKING:
    from .harness import Context

CORPUS = harness.HERE / "corpus"
LIMIT = 4096  # bytes of a file
CORPUS_MAX = 250
BULK = 9  # mutants for the scanner alone, for each that is walked
INTERESTING = (0, 1, 15, 16, 23, 24, 25, 40, 255, 512, 4080, 4095, 4096, 4097, 2**31 - 1, 2**31, 2**32 - 17, 2**32 - 1)
INTERESTING += (2**32, 2**47, 2**62, 2**63 - 1, 2**63, 2**64 - 24, 2**64 - 1)


def run(ctx: Context) -> None:
    """Batches in child processes until the number of executions is reached."""
    wanted = ctx.scale(200_000, 10_000_000)
    batch = ctx.scale(5_000, 10_000)
    bar = harness.Bar("fuzz", wanted)
    number = 0
    harness.both()  # loaded before the children are forked
    while ctx.figures.get("executions", 0) < wanted and not ctx.expired:
        seed = ctx.seed * 1_000_003 + number
        status, found = harness.in_child(lambda seed=seed: breed(seed, batch, ctx.scale(50, 10)))
        if found is None and not os.WIFSIGNALED(status):
            raise RuntimeError(f"batch {seed} ended with {harness.tell(status)}")
        if found is None:
            ctx.violation("a process was killed", f"{harness.tell(status)}, batch {seed}")
            locate(ctx, seed, batch)
            ctx.count("executions", batch * (1 + BULK))
        else:
            merge(ctx, found)
        bar.step(batch * (1 + BULK))
        number += 1
    bar.close()
    ctx.figures["corpus"] = len(list(CORPUS.glob("*.tape")))


def merge(ctx: Context, found: dict[str, Any]) -> None:
    """Take over what a batch found."""
    for name, count in found["figures"].items():
        ctx.count(name, count)
    for kind, detail in found["violations"]:
        ctx.violation(kind, detail)
    if not ctx.full:
        return  # a quick run leaves the tree as it is
    kept = {path.read_bytes() for path in CORPUS.glob("*.tape")}
    for data in found["new"]:
        if len(kept) < CORPUS_MAX and data not in kept:
            kept.add(data)
            keep(f"{zlib.crc32(data):08x}.tape", data)


def keep(name: str, data: bytes) -> None:
    """Add a file to the corpus, which an sdist does not have."""
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / name).write_bytes(data)


def locate(ctx: Context, seed: int, batch: int) -> None:
    """Find the file that killed a process, by halves: the mutants of a seed are always the same."""
    low, high = 0, batch
    while high - low > 1:
        middle = (low + high) // 2
        status, _ = harness.in_child(lambda middle=middle: breed(seed, middle, 0))
        low, high = (low, middle) if os.WIFSIGNALED(status) else (middle, high)
    _, data = harness.in_child(lambda: breed(seed, low, 0, last=True))
    if data:
        keep(f"killed-{zlib.crc32(data):08x}.tape", data)
        ctx.violation("kept as a case", f"killed-{zlib.crc32(data):08x}.tape")


# ---------------------------------------------------------------------------------------- one batch


def parents() -> list[bytes]:
    """What mutants are made from: the examples and the corpus, sorted so that a seed always means the same."""
    found = [path.read_bytes()[:LIMIT] for path in sorted(DATA.glob("*.tape"))]
    return found + [path.read_bytes() for path in sorted(CORPUS.glob("*.tape"))]


def breed(seed: int, batch: int, api_every: int, last: bool = False) -> Any:
    """`batch` mutants, judged. With `last`, only the one after them is made and returned."""
    rng = random.Random(seed)
    pool = parents()
    seen: set[Any] = set()
    found: dict[str, Any] = {"figures": {}, "violations": [], "new": []}
    judges = None if last else Judges(found)
    for i in range(batch + last):
        data = mutant(rng, pool)
        if judges is None:
            if i == batch:
                return data
            continue
        judges.bulk(data, seed * 1_000_000_007 + i)
        shape: Any = judges.quick(data)
        if api_every and (i % api_every == 0 or shape not in seen):
            seen.add(shape)
            shape = (shape, judges.everything(data))
        if shape not in seen:
            seen.add(shape)
            if len(pool) < 2000:
                pool.append(data)
                found["new"].append(data)
    if judges is not None:
        shutil.rmtree(judges.directory, ignore_errors=True)
    return found


def mutant(rng: random.Random, pool: list[bytes]) -> bytes:
    """A file made from another by a few changes; often its checksums and its header are made right again."""
    data = bytearray(pool[rng.randrange(len(pool))])
    for _ in range(1 + (rng.random() < 0.5) + 3 * (rng.random() < 0.2)):
        change(rng, data, pool)
    if rng.random() < 0.4:
        mend(rng, data)
    return bytes(data[:LIMIT])


def change(rng: random.Random, data: bytearray, pool: list[bytes]) -> None:
    """One change in place."""
    kind = rng.randrange(9)
    size = len(data)
    at = rng.randrange(size) if size else 0
    if kind == 0 and size:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at : at + rng.choice((1, 8, 16, 24, 100))]
    elif kind == 2:
        data[at:at] = bytes(rng.choice((1, 8, 16, 16, 24, 512)))
    elif kind == 3 and size:
        block = at // 64 * 64
        data[block : block + 64] = bytes(len(data[block : block + 64]))
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        other = pool[rng.randrange(len(pool))]
        start = rng.randrange(len(other) + 1)
        data[at : at + 200] = other[start : start + 200]
    elif kind == 6 and size >= 24:
        value = rng.choice((*INTERESTING, size, size - 1, size + 1, at, size - 16)) % 2**64
        struct.pack_into("<Q", data, rng.choice((0, 8, 16)), value)
    elif kind == 7 and size >= 40:
        offsets = entries(data) or [24]
        struct.pack_into("<I", data, rng.choice(offsets) + 8, rng.choice((*INTERESTING, size, size - at)) % 2**32)
    elif kind == 8 and size >= 40:
        at = rng.choice(entries(data) or [24])
        struct.pack_into("<Q", data, at, rng.choice((*INTERESTING, at)) % 2**64)


def entries(data: bytearray) -> list[int]:
    """Where entries begin, as far as they can be walked."""
    found, at = [], 24
    while at + 16 <= len(data) and len(found) < 256:
        found.append(at)
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    return found


def mend(rng: random.Random, data: bytearray) -> None:
    """Make checksums and header right, so that what lies behind them is reached."""
    at = 24
    for at in entries(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        if at + 16 + size <= len(data) and rng.random() < 0.9:
            struct.pack_into("<I", data, at + 12, zlib.crc32(data[at + 16 : at + 16 + size]))
    if len(data) >= 24:
        known = entries(data)
        stop = rng.randrange(len(known) + 1)
        struct.pack_into("<qq", data, 0, known[stop] if stop < len(known) else len(data), stop)


# --------------------------------------------------------------------------------------- the judges


class Judges:
    """Both cores, the reference in C and the reference in Python."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found
        self.cores = harness.both()
        self.walks = [functools.partial(harness.walk, evtape) for evtape in self.cores.values()]
        self.check = checker.Checker()
        self.fd = os.memfd_create("fuzz")
        os.ftruncate(self.fd, LIMIT)
        self.map = mmap.mmap(self.fd, LIMIT)
        self.address = checker.address_of(self.map)
        self.directory = Path(harness.tempfile.mkdtemp(prefix="evtape-fuzz-", dir=harness._memory()))
        self.done = 0
        first = next(iter(self.cores.values()))
        self.bulk_fd = os.memfd_create("bulk")
        os.ftruncate(self.bulk_fd, LIMIT)
        self.bulk_map = mmap.mmap(self.bulk_fd, LIMIT)
        self.bulk_address = checker.address_of(self.bulk_map)
        self.bulk_pointer = ctypes.c_void_p(self.bulk_address)
        self.scanner = first.modules["evtape.core.backend"].core.Scanner
        self.region = first.modules["evtape.core.backend"].core.Region(self.bulk_fd, LIMIT, "bulk")
        self.scan = checker.Scan()
        self.poison = Poison(self.region) if "EVTAPE_POISON" in os.environ else None

    def count(self, name: str) -> None:
        self.found["figures"][name] = self.found["figures"].get(name, 0) + 1

    def violation(self, kind: str, detail: str, data: bytes) -> None:
        name = f"case-{zlib.crc32(data):08x}.tape"
        if len(self.found["violations"]) < 20:
            (Path(harness.tempfile.gettempdir()) / name).write_bytes(data)
        self.found["violations"].append((kind, f"{detail}; {name} in the temporary directory"))

    def bulk(self, data: bytes, seed: int) -> None:
        """Mutants of a mutant through the native scanner alone, without a mapping made anew for each."""
        lib, run, scanner, ref = self.check.lib, self.scan, self.scanner, ctypes.byref(self.scan)
        state = ctypes.c_uint64(seed & (2**64 - 1))
        length = ctypes.c_int64(len(data))
        ctypes.memmove(self.bulk_address, data, len(data))
        for _ in range(BULK):
            size = lib.mutate(self.bulk_pointer, length, ctypes.c_int64(LIMIT), ctypes.byref(state))
            length = ctypes.c_int64(size)
            lib.scan(self.bulk_pointer, length, ref)
            if size >= 24:
                found = scanner(self.region)
                if self.poison is not None:
                    self.poison.above(run.bound)
                reason = found.run(run.bound, verify_checksums=True)
                if (found.ordinal, found.offset, found.zero_ordinal, checker.REASONS.index(reason)) != (
                    run.ordinal, run.offset, run.zero, run.reason
                ):  # fmt: skip
                    self.violation(
                        "the scanner differs", f"{found.ordinal, found.offset, reason}", bytes(self.bulk_map)
                    )
            if size < 60:  # worn out: begin again
                ctypes.memmove(self.bulk_address, data, len(data))
                length = ctypes.c_int64(len(data))
        self.found["figures"]["executions"] = self.found["figures"].get("executions", 0) + BULK

    def quick(self, data: bytes) -> Any:
        """The walk of the native core against the reference in C; each 16th on the pure core and the slow reference."""
        size = len(data)
        os.ftruncate(self.fd, size)
        ctypes.memmove(self.address, data, size)
        want = self.check.verdict_at(self.address, size)
        self.count("executions")
        self.count("executions of the walk")
        self.done += 1
        for walk in self.walks if self.done % 16 == 0 else self.walks[:1]:
            report = walk("fuzz", self.fd)
            got = (report.state, report.events, report.end, report.reason)
            if got != want:
                self.violation("verdicts differ", f"a core says {got}, the reference {tuple(want)}", data)
        if self.done % 16 == 0 and verdict(data) != want:
            self.violation("the references differ", f"{verdict(data)} and {want}", data)
        return want.state, want.reason, min(want.events, 9), report.problem_count, report.unsorted_at >= 0

    def everything(self, data: bytes) -> Any:
        """All that takes a file, on both cores; the answers, which must be the same."""
        answers = []
        for evtape in self.cores.values():
            path = self.directory / "file.tape"
            answers.append(ask(evtape, path, data))
        self.count("executions of the whole API, both cores")
        if answers[0] != answers[-1]:
            different = [(a, b) for a, b in zip(answers[0], answers[-1], strict=False) if a != b]
            self.violation("the cores differ", str(different[0])[:500], data)
        if difference := differs_in_memory(answers[0]):
            self.violation("a buffer differs from its file", difference[:500], data)
        if any(what == "bug" for answer in answers for what, *_ in answer):
            self.violation(
                "an unexpected exception", str([a for answer in answers for a in answer if a[0] == "bug"]), data
            )
        return tuple(answer[0] if answer[0] == "ok" else answer[1] for answer in answers[0])


class Poison:
    """Under AddressSanitizer (`sanitize.py`): what lies above the bound in a mapped file may not even be read."""

    def __init__(self, region: Any) -> None:
        self.start = np.frombuffer(region.view(0, LIMIT), np.uint8).ctypes.data
        library = ctypes.CDLL(None)
        self.put, self.take = library["__asan_poison_memory_region"], library["__asan_unpoison_memory_region"]

    def above(self, bound: int) -> None:
        """Poison what lies above, and nothing else."""
        self.take(ctypes.c_void_p(self.start), ctypes.c_size_t(LIMIT))
        self.put(ctypes.c_void_p(self.start + bound), ctypes.c_size_t(LIMIT - bound))


def ask(evtape: Any, path: Path, data: bytes) -> list[tuple[Any, ...]]:
    """What each entry point says about the file: ("ok", answer), ("raised", class, message) or ("bug", ...)."""
    answers: list[tuple[Any, ...]] = []

    def note(question: Callable[[], Any]) -> None:
        for old in path.parent.iterdir():
            old.unlink()
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answers.append(("ok", question()))
            except (evtape.Error, OSError, ValueError) as error:
                answers.append(("raised", type(error).__name__, str(error)))
            except Exception as error:  # noqa: BLE001 - anything else is what is looked for
                answers.append(("bug", type(error).__name__, str(error)))

    note(lambda: summary(evtape.verify(path)))
    for what in IN_MEMORY:
        note(lambda what=what: what(evtape, path))
    note(lambda: (summary(evtape.recover(path)), contents(path)))
    note(lambda: (summary(evtape.recover(path, dry_run=True)), contents(path)))
    note(lambda: (summary(evtape.recover(path, output=path.with_name("out.tape"))), contents(path)))
    note(lambda: appended(evtape, path))
    memory = InMemory(evtape, path)
    for what in IN_MEMORY:
        note(lambda what=what: what(memory, data))
    return answers


class InMemory:
    """Takes the place of the package: what it opens is not the file but its bytes."""

    def __init__(self, evtape: Any, path: Path) -> None:
        self._from, self._name = evtape.frombuffer, str(path)
        self.CorruptError = evtape.CorruptError

    def open(self, data: bytes, **options: Any) -> Any:
        return self._from(data, name=self._name, **options)


def differs_in_memory(answers: list[tuple[Any, ...]]) -> str:
    """Where a buffer is said to be something else than the file with its bytes, as text; empty if nowhere."""
    of_file, of_buffer = answers[1 : 1 + len(IN_MEMORY)], answers[-len(IN_MEMORY) :]
    for what, file, buffer in zip(IN_MEMORY, of_file, of_buffer, strict=True):
        same = 2 if file[0] == "raised" else None  # the message may speak of a file
        if file[:same] != buffer[:same]:
            return f"{what}: {file} and in memory {buffer}"
    return ""


def summary(report: Any) -> Any:
    known = report.as_dict()
    return sorted((k, v if k != "quarantine" else bool(v)) for k, v in known.items())


def contents(path: Path) -> list[tuple[str, bytes]]:
    """All files beside the stream but its sidecar, which holds the time."""
    return [(p.name, p.read_bytes()) for p in sorted(path.parent.iterdir()) if p.suffix != ".idx"]


def walked(evtape: Any, path: Path, verify: bool = True) -> Any:
    with evtape.open(path, verify_checksums=verify) as tape:
        seen: list[Any] = []
        events = iter(tape)
        while True:
            try:
                event = next(events)
                seen.append((event.timestamp, bytes(event.data), event.ordinal, event.offset, event.checksum))
            except StopIteration:
                return seen
            except evtape.CorruptError as error:
                seen.append((error.ordinal, error.offset, error.reason, str(error)))
                if len(seen) > 10_000:
                    return seen


def unverified(evtape: Any, path: Path) -> Any:
    return walked(evtape, path, False)


def indexed(evtape: Any, path: Path) -> Any:
    with evtape.open(path) as tape:
        seen: list[Any] = [len(tape)]
        for i in (0, 1, -1, len(tape) // 2, len(tape), 2**40):
            with contextlib.suppress(IndexError):
                try:
                    seen.append((tape[i].timestamp, bytes(tape[i].data)))
                except evtape.CorruptError as error:
                    seen.append(str(error))
        return seen


def sliced(evtape: Any, path: Path) -> Any:
    with evtape.open(path, verify_checksums=False) as tape:
        return [[(t, bytes(d)) for t, d in tape[key]] for key in (slice(1, 5), slice(None, None, -2), slice(-3, None))]


def columns(evtape: Any, path: Path) -> Any:
    with evtape.open(path) as tape:
        return tape.timestamps.tolist(), tape.sizes.tolist(), tape.offsets.tolist()


def rows(evtape: Any, path: Path) -> Any:
    with evtape.open(path) as tape:
        return tape.rows("u1").tolist()[:4], tape.rows("<i8").shape


def searched(evtape: Any, path: Path) -> Any:
    with evtape.open(path) as tape:
        middle = tape.start_timestamp
        return (
            tape.searchsorted(middle),
            len(tape.between(starting_at=0, ending_before=middle)),
            tape.searchsorted(-1, "right"),
        )


def appended(evtape: Any, path: Path) -> Any:
    with evtape.open(path, "a") as tape:
        tape.append(b"more", timestamp=5)
    return contents(path)


#: What is asked of a file and of its bytes in memory, in the order of `ask`, after `verify`.
IN_MEMORY = (walked, unverified, indexed, sliced, columns, rows, searched)
