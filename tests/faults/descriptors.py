"""Descriptors: every call of the library and every command with each set of standard descriptors closed.

A program can be started with its standard streams closed. Then a file that is opened gets the number of one, and what
any code prints goes into the file. After each call the harness looks at every descriptor of the process: none that
belongs to a stream is below 3, and none is inherited by a child program.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from .harness import Context

CLOSED = [which for size in range(4) for which in itertools.combinations((0, 1, 2), size)]
CODE = """
import os, sys, warnings
import evtape
import numpy as np
warnings.simplefilter("ignore")
found = []

def look(call):
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(os.getcwd()):
            if int(name) < 3:
                found.append(f"{call}: descriptor {name} is {os.path.basename(target)}")
            if os.get_inheritable(int(name)):
                found.append(f"{call}: {os.path.basename(target)} is inherited by child programs")
    print("printed by the program")
    print("printed by the program", file=sys.stderr)
    for number in (1, 2):
        try:
            os.write(number, b"written by the program")
        except OSError:
            pass

def calls():
    for durability in ("none", "close", "interval", "full"):
        with evtape.open("x.tape", "w", durability=durability) as tape:
            look(f"open w {durability}")
            tape.append(b"one")
            tape.append_many([bytes(100_000)] * 200)
            tape.append_array(np.zeros((4, 4)))
            look("append")
            tape.sync()
            look("sync")
        look("close")
        with evtape.open("x.tape", "a", durability=durability) as tape:
            look(f"open a {durability}")
            tape.append(b"two")
    with evtape.open("x.tape") as tape:
        look("open r")
        events = list(tape)
        look("iterate")
    evtape.verify("x.tape", lambda done, total: look("verify"))
    evtape.recover("x.tape", output="y.tape", progress=lambda done, total: look("recover to"))
    with open("x.tape", "r+b") as file:
        file.truncate(os.path.getsize("x.tape") - 1)
    evtape.recover("x.tape", progress=lambda done, total: look("recover"))
    with evtape.MappedFile("m", "x", 10_000) as mapped:
        look("MappedFile")
        mapped.grow(20_000_000)
        mapped.sync()
    look("end")

try:
    calls()
except BaseException as error:
    found.append(f"{type(error).__name__}: {error}")
for path in ("x.tape", "y.tape"):
    if not evtape.verify(path).ok:
        found.append(f"{path} is damaged")
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(fd, chr(10).join(found + ["done"]).encode())
"""
COMMANDS = (
    "info s.tape",
    "cat s.tape",
    "cat --json s.tape",
    "verify s.tape",
    "recover s.tape",
    "recover -o copy.tape s.tape",
    "append s.tape",
    "record s.tape -- sh -c 'echo out; echo err >&2'",
)


def run(ctx: Context) -> None:
    """Every set of closed descriptors, the library and the commands, on both cores."""
    for core, evtape in harness.both().items():
        chosen = CLOSED if ctx.full else [(0, 1, 2), *ctx.random.sample(CLOSED, 2)]
        for closed in ctx.progress(chosen, f"descriptors, {core}"):
            library(ctx, core, closed)
            for command in COMMANDS if ctx.full else ctx.random.sample(COMMANDS, 2):
                one_command(ctx, evtape, core, closed, command)


def _directory(ctx: Context) -> Path:
    directory = ctx.work / f"run-{ctx.figures.get('programs', 0)}"
    directory.mkdir()
    ctx.count("programs")
    return directory


def _shell(
    core: str, directory: Path, closed: tuple[int, ...], command: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    redirections = " ".join(f"{number}<&-" if number == 0 else f"{number}>&-" for number in closed)
    return subprocess.run(
        ["sh", "-c", f"exec {command} {redirections}", "sh", *arguments],
        cwd=directory,
        env=os.environ | {"EVTAPE_BACKEND": core},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )


def library(ctx: Context, core: str, closed: tuple[int, ...]) -> None:
    """All calls in one program."""
    directory, result = _directory(ctx), ctx.work / "result"
    result.unlink(missing_ok=True)
    done = _shell(core, directory, closed, f'{sys.executable} -c "$1" "$2"', CODE, str(result))
    found = result.read_text().split("\n") if result.exists() else [f"exit code {done.returncode}"]
    for wrong in found:
        if wrong != "done":
            ctx.violation("a descriptor of a standard stream", f"{core}, closed {closed}: {wrong}")


def one_command(ctx: Context, evtape: object, core: str, closed: tuple[int, ...], command: str) -> None:
    """One command on a good stream, which has to be good afterwards and hold what it held."""
    directory = _directory(ctx)
    package: object = evtape
    path = directory / "s.tape"
    with package.open(path, "w") as tape:  # type: ignore[attr-defined]
        tape.append_many([b"event %d" % i for i in range(100)])
    done = _shell(core, directory, closed, f"{sys.executable} -m evtape {command}")
    label = f"{core}, closed {closed}: {command}"
    if done.returncode not in (0, 2):
        ctx.violation("a descriptor of a standard stream", f"{label}: exit code {done.returncode}")
    if b"Traceback" in done.stdout + done.stderr:
        ctx.violation("a descriptor of a standard stream", f"{label}: {(done.stdout + done.stderr)[-200:]!r}")
    if b"evtape: " in done.stdout:
        ctx.violation("a descriptor of a standard stream", f"{label}: a message on standard output")
    report = package.verify(path)  # type: ignore[attr-defined]
    wanted = 102 if command.startswith("record") else 100
    if report.state != "clean" or report.events != wanted:
        ctx.violation("a descriptor of a standard stream", f"{label}: {report.state}, {report.events} events")
