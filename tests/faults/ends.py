"""Ends: every way a process can end, times every durability, times what its threads do, on every Python found.

A writer is open and not closed. Its process prints the number of each event that `append` has acknowledged, and ends.
However it ends, it ends in time and with its own exit code; every event that was acknowledged is there, the stream is
good, its lock is free and no temporary file stays. Where the interpreter ends by itself, the stream is closed as well.

Other interpreters run the pure core from the sources. They need numpy; EVTAPE_FAULTS_PYTHONS names further ones,
separated like a PATH.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import harness

if TYPE_CHECKING:
    from .harness import Context

SECONDS = 30
CODE = """
import os, signal, sys, threading, time
import evtape
path, durability, threads, end = sys.argv[1:]
tape = evtape.open(path, "w", durability=durability, interval=0.005)
lock, number = threading.Lock(), 0

def append():
    global number
    with lock:
        tape.append(b"%d" % number)
        os.write(1, b"%d\\n" % number)
        number += 1

def go_on():
    try:
        while True:
            append()
    except evtape.ClosedError:
        pass

def last_words():
    time.sleep(0.1)
    append()

for _ in range(50):
    append()
if threads == "daemon":
    threading.Thread(target=go_on, daemon=True).start()
elif threads == "two daemons":
    threading.Thread(target=go_on, daemon=True).start()
    threading.Thread(target=go_on, daemon=True).start()
elif threads == "last words":
    threading.Thread(target=last_words).start()
elif threads == "syncing":
    def sync():
        try:
            while True:
                tape.sync()
        except evtape.ClosedError:
            pass
    threading.Thread(target=sync, daemon=True).start()
time.sleep(0.02)
if end == "exit":
    sys.exit(3)
elif end == "exception":
    raise LookupError("the end")
elif end == "interrupt":
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
elif end == "terminate":
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
elif end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif end == "_exit":
    os._exit(4)
elif end == "exec":
    os.execv("/bin/true", ["true"])
"""
DURABILITIES = ("none", "close", "interval", "full")
THREADS = ("alone", "daemon", "two daemons", "last words", "syncing")
ENDS = {
    "return": 0,
    "exit": 3,
    "exception": 1,
    "interrupt": -signal.SIGINT,
    "terminate": -signal.SIGTERM,
    "kill": -signal.SIGKILL,
    "_exit": 4,
    "exec": 0,
}
ABRUPT = ("terminate", "kill", "_exit", "exec")  # the interpreter has no say in these


class Python(NamedTuple):
    """An interpreter, the core it runs, and the environment for it."""

    name: str
    path: str
    environment: dict[str, str]


def pythons(ctx: Context) -> list[Python]:
    """This interpreter with each core, and the others that are found, with the pure one."""
    found = [Python(f"this Python, {core}", sys.executable, {"EVTAPE_BACKEND": core}) for core in harness.both()]
    named = os.environ.get("EVTAPE_FAULTS_PYTHONS", "").split(os.pathsep)
    names = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]
    for path in [*filter(None, named), *filter(None, map(shutil.which, names))]:
        version = subprocess.run(
            [path, "-c", "import sys, numpy; print(sys.version.split()[0], 't' if sys.abiflags == 't' else '')"],
            capture_output=True,
            text=True,
            check=False,
        )
        if version.returncode == 0:
            where = {
                "EVTAPE_BACKEND": "python",
                "PYTHONPATH": harness.source_directory(),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            found.append(Python(f"{''.join(version.stdout.split())}, python", path, where))
        elif path in named:
            ctx.not_run(f"{path}: no numpy")
    return found


def run(ctx: Context) -> None:
    """Every end of every state; a short run takes a sample."""
    cases = list(itertools.product(pythons(ctx), DURABILITIES, THREADS, ENDS))
    chosen = cases if ctx.full else ctx.random.sample(cases, 24)
    for python, durability, threads, end in ctx.progress(chosen, "ends"):
        if ctx.expired:
            break
        wrong = one(ctx, python, durability, threads, end)
        ctx.count(f"ends, {python.name}")
        if wrong:
            ctx.violation(
                "an end costs events, or does not come", f"{python.name}, {durability}, {threads}, {end}: {wrong}"
            )


def one(ctx: Context, python: Python, durability: str, threads: str, end: str) -> str:
    """One process; what is wrong after it."""
    directory = ctx.work / "end"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    path = directory / "s.tape"
    process = subprocess.Popen(
        [python.path, "-c", CODE, str(path), durability, threads, end],
        env=os.environ | python.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"it does not end within {SECONDS} s"
    if process.returncode != ENDS[end]:
        return f"exit code {process.returncode}: {err.decode()[-300:]}"
    return judge(path, [int(line) for line in out.split(b"\n")[:-1]], closed=end not in ABRUPT)


def judge(path: Path, acknowledged: list[int], *, closed: bool) -> str:
    """What is wrong with the stream that a process left."""
    evtape = next(iter(harness.both().values()))
    report = evtape.verify(path)
    if not report.ok or (closed and report.state != "clean"):
        return f"{report.state} {report.reason}"
    with evtape.open(path) as tape:
        stored = [int(bytes(data)) for _, data in tape]
    if stored != list(range(len(stored))) or len(stored) < len(acknowledged):
        return f"{len(stored)} events, {len(acknowledged)} were acknowledged"
    evtape.open(path, "a").close()
    return f"left behind: {left}" if (left := [name for name in os.listdir(path.parent) if name != path.name]) else ""
