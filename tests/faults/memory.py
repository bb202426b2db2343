"""A stream several times larger than the memory that a process may have, its page cache included: a control group sets
the limit. It is written, verified, read and opened for append within it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from .harness import Context

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
LIMIT = 128 << 20

SCRIPT = """
import os, resource, sys
group, path, events = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(group, "w") as file:
    file.write(str(os.getpid()))
import evtape
data = [bytes([i % 251]) * 65536 for i in range(16)]
with evtape.open(path, "w", durability="close") as tape:
    for i in range(events):
        tape.append(data[i % 16])
report = evtape.verify(path)
assert (report.state, report.events) == ("clean", events), report
with evtape.open(path) as tape:
    assert sum(len(data) for _, data in tape) == events * 65536
    assert len(tape) == events and bytes(tape[events // 2].data) == data[events // 2 % 16]
with evtape.open(path, "a") as tape:
    tape.append(b"one more")
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def run(ctx: Context) -> None:
    """Eight times the limit with the native core, three times with the pure one."""
    for core in harness.both():
        size = LIMIT * ctx.scale(3, 8 if core == "native" else 3)
        directory = Path(tempfile.mkdtemp(prefix="evtape-memory-"))  # not in memory, which would count
        try:
            with limited() as (members, peak):
                done = subprocess.run(
                    [sys.executable, "-c", SCRIPT, members, directory / "large.tape", str(size // 65552)],
                    env=harness.environment(core),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    ctx.violation("not within the limit", f"{core}: exit {done.returncode}: {done.stderr[-300:]}")
                    continue
                ctx.figures[f"MiB of stream within {LIMIT >> 20} MiB, {core}"] = size >> 20
                ctx.figures[f"MiB resident at most, {core}"] = int(re.findall(r"peak (\d+)", done.stdout)[0])
                ctx.figures[f"MiB of the group at most, page cache included, {core}"] = int(peak.read_text()) >> 20
        finally:
            for file in directory.iterdir():
                file.unlink()
            directory.rmdir()


@contextlib.contextmanager
def limited() -> Iterator[tuple[Path, Path]]:
    """A control group with the limit: the file that takes its members, and the one that tells its peak."""
    old = (V1 / "memory.limit_in_bytes").exists()
    group = (V1 if old else V2) / f"evtape-faults-{os.getpid()}"
    limit = group / ("memory.limit_in_bytes" if old else "memory.max")
    try:
        group.mkdir()
        limit.write_text(str(LIMIT))
        if not old:
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise harness.NotRun(f"no control group can be made here: {error}") from None
    try:
        yield group / "cgroup.procs", group / ("memory.max_usage_in_bytes" if old else "memory.peak")
    finally:
        group.rmdir()
