"""The native core under AddressSanitizer and UndefinedBehaviorSanitizer.

The core is built in a copy with both; hostile files, files cut under readers, kills, power loss, failing system calls
and the package's own tests run on it. What lies behind the end of a mapped file is poisoned (`poison.h`) for the
hostile files, so that one byte too many is seen. A load out of bounds and an undefined one are planted to show that.

    python -m tests.faults.sanitize EXECUTIONS SEED

is the part of it that tries hostile files, in this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import fuzz, harness, planted, streams

if TYPE_CHECKING:
    from .harness import Context

FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-w")
FLAGS += ("-include", str(harness.HERE / "poison.h"))
ROOT = harness.HERE.parent.parent
BATCH = 250  # files of one seed, each with fuzz.BULK mutants more
PARTS = (
    "truncate",
    "power --only new",
    "kill --only kills",
    "syscalls --only calls",
    "syscalls --only limits",
    "cases",
)
TOLD = ("truncations", "moments", "SIGKILLs", "failing calls", "limits", "cases")  # figures of theirs that are told
TESTS = ("append", "batch", "read", "rows", "slices", "recovery", "salvage", "vectors", "mapped", "live", "threads")

# In a copy: what the sanitizers have to report.
HOLES = {
    "a load behind the end of a file": (
        "ext/native.pyx",
        "entry.size > bound - at - EVTAPE_ENTRY_SIZE:",
        "entry.size > bound - at - EVTAPE_ENTRY_SIZE + 1:",
        "AddressSanitizer",
    ),
    "a load that is not aligned": (
        "ext/layout.h",
        "memcpy(words, at, EVTAPE_ENTRY_SIZE);",
        "words[0] = *(const uint64_t *)at, words[1] = *(const uint64_t *)(at + 8);",
        "runtime error",
    ),
}


def run(ctx: Context) -> None:
    """Everything on the sound core, then the holes."""
    libraries = ":".join(harness.sanitizer(name) for name in ("libasan.so", "libubsan.so"))
    tree = ctx.work / "tree"
    planted.copy(tree)
    planted.native(tree, FLAGS)
    under = Under(ctx, tree, libraries)
    if ctx.only in "fuzz":
        under.hostile("hostile files", ctx.scale(20_000, 500_000))
    for part in PARTS if ctx.full else PARTS[:2]:
        if ctx.only in part:
            under.part(part)
    if ctx.only in "tests":
        under.tests(TESTS if ctx.full else TESTS[:2])
    for name, (file, old, new, told) in HOLES.items() if ctx.only in "holes" else ():
        source = tree / file
        sound = source.read_text()
        if sound.count(old) != 1:
            ctx.violation("cannot be planted", f"{name}: its line stands {sound.count(old)} times in {file}")
            continue
        source.write_text(sound.replace(old, new))
        planted.native(tree, FLAGS)
        seen = [report for report in under.reports(["-m", "tests.faults.sanitize", "4000", "1"])[1] if told in report]
        ctx.figures[f"planted, {name}"] = f"{len(seen)} reports"
        if not seen:
            ctx.violation("a planted hole is not seen", name)
        source.write_text(sound)


class Under:
    """Runs things on the core of a tree, and takes the sanitizers' reports."""

    def __init__(self, ctx: Context, tree: Path, libraries: str) -> None:
        self.ctx, self.tree, self.libraries = ctx, tree, libraries
        self.logs = tree / "logs"

    def reports(self, words: list[str], poison: bool = True) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """Run the interpreter with these words; what it said, and the reports."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()
        common = f"log_path={self.logs}/log:abort_on_error=1:handle_abort=0:print_stacktrace=1"
        environment = os.environ | {
            "LD_PRELOAD": self.libraries,
            # The interpreter's own leaks are not ours; SIGBUS is the guard's.
            "ASAN_OPTIONS": f"{common}:detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": common,
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([str(self.tree / "src"), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            harness.CORES_WANTED: "native",
        }
        if poison:
            environment["EVTAPE_POISON"] = "1"
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        # UndefinedBehaviorSanitizer writes to stderr whatever it is told, when the other one is there.
        texts = [*(path.read_text(errors="replace") for path in sorted(self.logs.glob("log*"))), done.stderr]
        return done, [text for text in texts if re.search(r"ERROR: AddressSanitizer|runtime error:", text)]

    def ran(self, label: str, words: list[str], poison: bool = False) -> str:
        """As `reports`, on the sound core: each report is a violation, and so is a failure without one."""
        done, found = self.reports(words, poison)
        for report in found:
            self.ctx.violation("a report of a sanitizer", f"{label}: {summary(report)}")
        if done.returncode and not found:
            self.ctx.violation("failed under the sanitizers", f"{label}: {(done.stdout + done.stderr)[-600:]}")
        return done.stdout

    def hostile(self, label: str, executions: int) -> None:
        """Files made to be misread, in a process of their own."""
        told = self.ran(label, ["-m", "tests.faults.sanitize", str(executions), str(self.ctx.seed)], poison=True)
        for name, value in json.loads(told.splitlines()[-1] if told else "{}").items():
            self.ctx.count(name, value)

    def part(self, part: str) -> None:
        """A short run of another part."""
        results = self.tree / "results.json"
        results.unlink(missing_ok=True)
        self.ran(part, ["-m", "tests.faults", *part.split(), "--results", str(results)])
        for line in results.read_text().splitlines() if results.exists() else ():
            for name, value in json.loads(line)["figures"].items():
                if name.startswith(TOLD):
                    self.ctx.count(name, value)

    def tests(self, names: tuple[str, ...]) -> None:
        """The package's own tests of the native core."""
        files = [str(next(ROOT.glob(f"tests/*/test_{name}.py")).relative_to(ROOT)) for name in names]
        told = self.ran("tests", ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "native", *files])
        self.ctx.count("tests passed", int((re.findall(r"(\d+) passed", told) or ["0"])[0]))


def summary(report: str) -> str:
    """The first line that says what it is, and the frames of our core."""
    what = re.findall(r"(?:ERROR: AddressSanitizer: .*|.*runtime error: .*)", report)[:1]
    return " / ".join([*(what or [report[:200]]), *re.findall(r"in (\S+) \S*native\.", report)[:4]])


def edges() -> Iterator[bytes]:
    """Streams whose last entry claims a few bytes more or less than there are."""
    for size in (0, 1, 15, 48, 1000):
        good = streams.stream([b"before", b"x" * size])
        at = len(good) - size - 8
        for more in range(-min(size, 20), 20):
            yield good[:at] + (size + more).to_bytes(4, "little") + good[at + 4 :]


def main(executions: int, seed: int) -> None:
    """Try hostile files; the figures as one line of JSON. A violation is an exit status."""
    total: dict[str, int] = {}
    wrong: list[str] = []
    judges = fuzz.Judges(found := {"figures": total, "violations": []})
    for data in edges():
        judges.quick(data)
    shutil.rmtree(judges.directory)
    wrong += [f"{kind}: {detail}" for kind, detail in found["violations"]]
    number = 0
    while total.get("executions", 0) < executions:
        found = fuzz.breed(seed * 1_000_003 + number, BATCH, 25)
        for name, count in found["figures"].items():
            total[name] = total.get(name, 0) + count
        wrong += [f"{kind}: {detail}" for kind, detail in found["violations"]]
        number += 1
    print(*wrong[:5], json.dumps(total), sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
