"""Instructions of one append, function by function: `python -m bench.instructions`. Needs valgrind, cc and Cython.

Instruction counts do not depend on the load of the machine, so use them to compare two versions of the hot path. The
core is built without the reserve of address space, because valgrind cannot reserve so much. valgrind does not support
AVX-512, so the checksum uses the next narrower implementation. The cost of one append is the difference between a long
and a short run.
"""

from __future__ import annotations

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
SHORT, LONG = 2_000, 12_000
CHILD = """
import itertools, sys, evtape
def write(path, events, data):
    with evtape.open(path, "w", capacity=events * (16 + len(data)) + 24, durability="none") as tape:
        append = tape.append
        for data in itertools.repeat(data, events):
            append(data)
write(sys.argv[1], int(sys.argv[2]), b"x" * int(sys.argv[3]))
"""
LINE = re.compile(r"^\s*([\d,]+) \([^)]*\)\s+\S*?:(\S+)")


def build(folder: Path) -> None:
    """Build the package with its native core, for valgrind."""
    shutil.copytree(ROOT / "src" / "evtape", folder / "evtape", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    source, suffix = folder / "native.c", sysconfig.get_config_var("EXT_SUFFIX")
    subprocess.run([sys.executable, "-m", "cython", "-3", ROOT / "ext" / "native.pyx", "-o", source], check=True)
    flags = ["-O3", "-g", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-DEVTAPE_RESERVE=0"]
    places = [f"-I{ROOT / 'ext'}", f"-I{sysconfig.get_path('include')}"]
    parts = [path for path in sorted((ROOT / "ext").glob("*.c")) if path.name != "native.c"]
    target = folder / "evtape" / "core" / f"native{suffix}"
    subprocess.run(["cc", *flags, *places, source, *parts, "-o", target, "-lpthread"], check=True)


def count(folder: Path, events: int, size: int) -> Counter[str]:
    """Count the instructions of a whole run, per function."""
    out = folder / "callgrind.out"
    child = [sys.executable, "-c", CHILD, folder / "counted.tape", str(events), str(size)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "EVTAPE_BACKEND": "native", "PYTHONHASHSEED": "0"}
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    subprocess.run([*tool, *child], env=environment, check=True, capture_output=True)
    told = subprocess.run(["callgrind_annotate", "--threshold=100", out], capture_output=True, text=True, check=True)
    found: Counter[str] = Counter()
    for line in told.stdout.splitlines():
        match = LINE.match(line)
        if match:
            found[match[2].split("'")[0]] += int(match[1].replace(",", ""))
    return found


def main() -> None:
    """Print the table for events of 64 bytes and of 1 KB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        for size in (64, 1024):
            spent = count(folder, LONG, size)
            spent.subtract(count(folder, SHORT, size))
            rows = [[f"`{what}`", f"{n / (LONG - SHORT):.1f}"] for what, n in spent.most_common(12) if n > LONG - SHORT]
            rows.append(["**all**", f"{sum(spent.values()) / (LONG - SHORT):.1f}"])
            print(f"\n{table([f'one append of {size} bytes', 'instructions'], rows)}")


if __name__ == "__main__":
    main()
