"""The native core under ThreadSanitizer, with threads that append and read (`racing.py`).

The interpreter is not instrumented: its lock is a mutex and a condition, which the sanitizer knows. So a report counts
when one of the two accesses is ours. The same race is planted in a copy, to show that it would be seen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness, planted

if TYPE_CHECKING:
    from .harness import Context

# The reserve is mapped at once, and the sanitizer keeps a shadow of it.
FLAGS = ("-fsanitize=thread", "-g", "-DEVTAPE_RESERVE=(1<<30)")
# A thread that leaves while another one is inside: the gate is what this plants a hole into.
HOLE = ("return atomic_exchange_explicit(&lock->closed, 1, memory_order_acquire) == 0;", "return 1;")
FREE_THREADED = "EVTAPE_FREE_THREADED"


def run(ctx: Context) -> None:
    """The interpreter that runs this, and a free-threaded one where the environment names it."""
    library = harness.sanitizer("libtsan.so")
    pythons = {"with the GIL": Path(sys.executable)}
    if FREE_THREADED in os.environ:
        pythons["free-threaded"] = Path(os.environ[FREE_THREADED])
    else:
        ctx.not_run(f"free-threaded: {FREE_THREADED} does not name an interpreter (with numpy and Cython)")
    for label, python in pythons.items():
        tree = ctx.work / label.replace(" ", "-")
        planted.copy(tree)
        planted.native(tree, FLAGS, python)
        seen = reports(ctx, tree, library, python, label, ctx.scale(4.0, 90.0))
        for text in seen:
            ctx.violation("a data race", f"{label}: {text}")
        gate = tree / "ext" / "spinlock.h"
        gate.write_text(gate.read_text().replace(*HOLE))
        planted.native(tree, FLAGS, python)
        found = len(reports(ctx, tree, library, python, f"{label}, gate left open", 4.0, planted=True))
        ctx.figures[f"races seen with the gate left open, {label}"] = found
        if not found:
            ctx.violation("a planted race is not seen", label)
        shutil.rmtree(tree)


def reports(
    ctx: Context, tree: Path, library: str, python: Path, label: str, seconds: float, planted: bool = False
) -> list[str]:
    """Run the threads and return the reports that name our core."""
    directory = tree / "run"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    environment = os.environ | {
        "LD_PRELOAD": library,
        "TSAN_OPTIONS": f"log_path={directory}/log exitcode=0 report_signal_unsafe=0 history_size=4",
        "EVTAPE_BACKEND": "native",
        "PYTHONPATH": os.pathsep.join([str(tree / "src"), str(harness.HERE.parent.parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # Without a fixed layout the kernel may put the program where the sanitizer wants its shadow.
    command = ["setarch", "-R", python, "-m", "tests.faults.racing", directory, str(seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    if not planted:
        if done.returncode:
            ctx.violation("threads saw what was not appended, or died", f"{label}: {done.stderr[-600:]}")
        ctx.count(f"events by threads, {label}", int((re.findall(r"events (\d+)", done.stdout) or ["0"])[0]))
    text = "".join(path.read_text(errors="replace") for path in directory.glob("log*"))
    found = [part for part in text.split("==================") if "WARNING: ThreadSanitizer" in part]
    if not planted:
        ctx.count(f"reports of the interpreter alone, {label}", sum("native." not in part for part in found))
    return [summary(part) for part in found if "native." in part]


def summary(report: str) -> str:
    """The kind of a report and the first frames of its two accesses."""
    frames = re.findall(r"#[01] (\S+)", report)
    return " / ".join([*re.findall(r"ThreadSanitizer: ([\w ]+)", report)[:1], *frames[:4]])
