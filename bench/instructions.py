"""Instructions of one append, function by function: `python -m bench.instructions`. Needs valgrind, a compiler, Cython.

Counts do not depend on what else the machine does, so this is how two versions of the hot path are compared. What one
append costs is the difference between a long and a short run. The last rows are sums:

- "all": the loop of the program and the call.
- "inside append": the call alone, with the functions of the interpreter and the C library that it uses.
- "the core": the functions of the native core alone. This sum is exact; the others depend on the interpreter's build.

The core is built by setup.py, with two differences: it has symbols, and it does not reserve address space, which
valgrind does not have. Valgrind does not know AVX-512 either, so the checksum is the implementation below it.

`--check` compares the sums with those in bench/instructions.json. A difference of more than 3% is an error, or of more
than 10% with another compiler or another Python than those named in the file. `--record` writes that file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

from bench.builder import BENCH
from bench.tables import table

ROOT = BENCH.parent
RECORD = BENCH / "instructions.json"
TOLERANCE, TOLERANCE_ELSEWHERE = 0.03, 0.10
GATED = ("inside append", "the core")
SIZES = (64, 1024)
SHORT, LONG = 2_000, 12_000
# One process for all runs, because importing takes longer than they do. At each mark callgrind writes a part.
MARK = "evtape_guard_enabled"
CHILD = f"""
import itertools, sys, evtape
def write(path, events, data):
    with evtape.open(path, "w", capacity=events * (16 + len(data)) + 24, durability="none") as tape:
        append = tape.append
        for data in itertools.repeat(data, events):
            append(data)
for size in {SIZES}:
    for events in {SHORT, LONG}:
        evtape.guard.enabled()
        write(sys.argv[1], events, b"x" * size)
evtape.guard.enabled()
"""
LINE = re.compile(r"^\s*([\d,]+) \([^)]*\)\s+\S*?:(\S+)(?: \[(.*)\])?$")
APPEND = re.compile(r"^__pyx_pw_\w*Appender_\d+append$")


def missing() -> str:
    """What this machine lacks for a count, or nothing."""
    if shutil.which("valgrind") is None or shutil.which("callgrind_annotate") is None:
        return "no valgrind"
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "no C compiler"
    if importlib.util.find_spec("Cython") is None or importlib.util.find_spec("setuptools") is None:
        return "no Cython or no setuptools"
    return "" if (ROOT / "setup.py").exists() else "no setup.py: this is not a source tree"


def build(directory: Path) -> None:
    """Build the package with its native core, for valgrind."""
    shutil.copytree(ROOT / "src" / "evtape", directory / "evtape", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    flags = f"{sysconfig.get_config_var('CFLAGS') or ''} -DEVTAPE_RESERVE=0"
    environment = {**os.environ, "EVTAPE_REQUIRE_NATIVE": "1", "EVTAPE_DEBUG": "1", "CFLAGS": flags}
    for name in ("EVTAPE_PURE", "EVTAPE_SANITIZE"):
        environment.pop(name, None)
    places = ["--build-lib", str(directory), "--build-temp", str(directory / "temp")]
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *places],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the core was not built:\n{done.stderr}")


def annotated(part: Path, option: str) -> tuple[Counter[str], set[str]]:
    """Instructions per function of a recorded run, and which functions are those of the native core."""
    command = ["callgrind_annotate", "--threshold=100", option, str(part)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: Counter[str] = Counter()
    core = set()
    for line in printed.splitlines():
        match = LINE.match(line)
        if match:
            name = match[2].split("'")[0]
            found[name] += int(match[1].replace(",", ""))
            if Path(match[3] or "").name.startswith("native."):
                core.add(name)
    return found, core


def run(directory: Path) -> list[Path]:
    """A part for each run: of each size the short one and the long one."""
    out = directory / "callgrind.out"
    child = [sys.executable, "-c", CHILD, str(directory / "counted.tape")]
    environment = {**os.environ, "PYTHONPATH": str(directory), "EVTAPE_BACKEND": "native", "PYTHONHASHSEED": "0"}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # threads that wait in a loop are counted as well
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
    done = subprocess.run([*tool, *child], env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"valgrind failed:\n{done.stderr[-2000:]}")
    # The first part is the import; what follows the last mark is the end of the interpreter.
    return [Path(f"{out}.{number}") for number in range(2, 2 + 2 * len(SIZES))]


def total_of(part: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", part.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"{part.name}: callgrind wrote no total")
    return int(found[1])


def measure(short: Path, long: Path) -> tuple[dict[str, float], Counter[str]]:
    """Instructions of one append: the sums, and those of each function times LONG - SHORT."""
    spent, core = annotated(long, "--inclusive=no")
    spent.subtract(annotated(short, "--inclusive=no")[0])
    called, _ = annotated(long, "--inclusive=yes")
    called.subtract(annotated(short, "--inclusive=yes")[0])
    total = total_of(long) - total_of(short)
    sums = {
        "all": total,
        "inside append": sum(n for name, n in called.items() if APPEND.match(name)),
        "the core": sum(n for name, n in spent.items() if name in core),
    }
    # What is on the stack at a mark has the whole part as its own.
    own = Counter({name: n for name, n in spent.items() if n < total})
    return {name: round(value / (LONG - SHORT), 1) for name, value in sums.items()}, own


def made_with() -> dict[str, str]:
    """What decides the exact counts."""
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False).stdout.splitlines()
    return {"python": ".".join(map(str, sys.version_info[:2])), "compiler": next(iter(compiler), "unknown")}


def problems(counted: dict[str, dict[str, float]]) -> list[str]:
    """Which sums are further from the recorded ones than the tolerance."""
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    tolerance = TOLERANCE if recorded["made_with"] == made_with() else TOLERANCE_ELSEWHERE
    found = []
    for size, sums in recorded["instructions"].items():
        for name in GATED:
            expected, got = sums[name], counted[size][name]
            if abs(got - expected) > tolerance * expected:
                found.append(
                    f"one append of {size} bytes, {name}: {got} instructions; recorded are {expected}, and "
                    f"{tolerance:.0%} is the tolerance. To accept it: python -m bench.instructions --record"
                )
    return found


def main() -> int:
    """Print the table for events of 64 bytes and of 1 KB; returns 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="compare with bench/instructions.json")
    action.add_argument("--record", action="store_true", help="write bench/instructions.json")
    options = parser.parse_args()
    lacks = missing()
    if lacks:
        print(f"not run: {lacks}")
        return 0 if options.check else 2
    counted: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        build(directory)
        parts = run(directory)
        for size, short, long in zip(SIZES, parts[::2], parts[1::2], strict=True):
            sums, spent = measure(short, long)
            rows = [[f"`{what}`", f"{n / (LONG - SHORT):.1f}"] for what, n in spent.most_common(12) if n > LONG - SHORT]
            rows += [[f"**{what}**", f"{value:.1f}"] for what, value in sums.items()]
            print(f"\n{table([f'one append of {size} bytes', 'instructions'], rows)}", flush=True)
            counted[str(size)] = sums
    if options.record:
        content = json.dumps({"made_with": made_with(), "instructions": counted}, indent=1)
        RECORD.write_text(content + "\n", encoding="utf-8")
    found = problems(counted) if options.check else []
    for text in found:
        print(text, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
