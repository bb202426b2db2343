"""Boots: what the next boot of the machine makes of a stream, with the kernel's own boot id.

Each process of a scenario runs where another file is mounted over the kernel's boot id, so the package reads it as
always and nothing of it is replaced.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import Context

MOUNT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
# One process: the steps are run in order, and what `open` or `recover` says is printed.
CODE = """
import evtape, json, os, sys, warnings
warnings.simplefilter("ignore")
tape = None
for step, *arguments in json.loads(sys.argv[1]):
    if step == "open":
        try:
            tape = evtape.open(*arguments, index=True)
        except evtape.Error as error:
            print(type(error).__name__)
            os._exit(0)
    elif step == "append":
        first, events, size = arguments
        # Timestamps with zero bytes look as if a sector had been lost.
        data = [b"%08d" % (first + i) + bytes([65]) * (i % size) for i in range(events)]
        tape.append_many(data, [1 << 48] * events)
    elif step == "chdir":
        os.chdir(*arguments)
    elif step == "tear":
        path, at = arguments
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes(512))
    elif step == "sync":
        tape.sync()
    elif step == "close":
        tape.close()
    elif step == "kill":
        os._exit(0)
    elif step == "events":
        numbers = [int(bytes(tape[i].data)[:8]) for i in range(0, len(tape), 64)]
        indexed = numbers == list(range(0, len(tape), 64))
        numbers = [int(bytes(data)[:8]) for _, data in tape]
        print(len(numbers) if indexed and numbers == list(range(len(numbers))) else "wrong")
"""


class Machine:
    """Boots one after another; each call of `run` is a process of the present one."""

    def __init__(self, core: str, directory: Path) -> None:
        self._core = core
        self.directory = directory
        self._boots = itertools.count()
        self.boot()

    def boot(self) -> None:
        self._id = self.directory / f"boot-{next(self._boots)}"
        self._id.write_text(f"{uuid.uuid4()}\n")

    def run(self, *steps: tuple[object, ...]) -> str:
        command = ["unshare", "-m", "sh", "-c", MOUNT, str(self._id), sys.executable, "-c", CODE, json.dumps(steps)]
        environment = os.environ | {"EVTAPE_BACKEND": self._core}
        done = subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-300:]}"

    def opened(self, path: str) -> str:
        """What opening for append makes of the stream."""
        return self.run(("open", path, "a"), ("events",), ("close",))


def other_name(machine: Machine, link: Callable[[Path, Path], object]) -> str:
    """Closed in boot 1, appended to by another name in boot 2, opened by its first name in boot 3."""
    machine.run(("open", "x.tape", "w"), ("append", 0, 20_000, 2000), ("close",))
    link(machine.directory / "x.tape", machine.directory / "y.tape")
    machine.boot()
    machine.run(("open", "y.tape", "a"), ("append", 20_000, 3000, 50), ("close",))
    machine.boot()
    kept = machine.opened("x.tape")
    return "" if kept == "23000" else f"{kept} of 23000 events"


def changed_directory(machine: Machine) -> str:
    """A relative path, another working directory, a sync, a power loss, the next boot."""
    machine.run(
        ("open", "x.tape", "a"), ("append", 0, 10, 50), ("sync",), ("chdir", "/"), ("append", 10, 5000, 50), ("sync",),
        ("kill",),
    )  # fmt: skip
    machine.boot()
    kept = machine.opened("x.tape")
    return "" if kept == "5010" else f"{kept} of 5010 events"


def torn(machine: Machine, *, boot: bool) -> str:
    """A sector in what was not synced is lost: the next boot cuts there, the same boot takes it for damage."""
    path = machine.directory / "x.tape"
    machine.run(("open", "x.tape", "w"), ("append", 0, 100, 50), ("sync",), ("append", 100, 900, 50), ("kill",))
    machine.run(("tear", str(path), 24 << 10))
    if boot:
        machine.boot()
    kept = machine.opened("x.tape")
    if not boot:
        return "" if kept == "CorruptError" else f"{kept}, not CorruptError"
    return "" if kept.isdigit() and 100 <= int(kept) < 1000 else f"{kept} events, 100 were synced"


SCENARIOS: dict[str, Callable[[Machine], str]] = {
    "another hard link": lambda machine: other_name(machine, lambda old, new: os.link(old, new)),
    "a symbolic link": lambda machine: other_name(machine, lambda old, new: os.symlink(old, new)),
    "another working directory": changed_directory,
    "a torn sector at the next boot": lambda machine: torn(machine, boot=True),
    "a torn sector on the same boot": lambda machine: torn(machine, boot=False),
}


def run(ctx: Context) -> None:
    """Each scenario on both cores."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        raise harness.NotRun("mounting a boot id needs root and unshare")
    for core in harness.both():
        for name, scenario in ctx.progress(list(SCENARIOS.items()), f"boots, {core}"):
            if ctx.only in name:
                directory = ctx.work / f"{core}-{name}".replace(" ", "-")
                directory.mkdir()
                wrong = scenario(Machine(core, directory))
                ctx.count(f"scenarios, {core}")
                if wrong:
                    ctx.violation("a boot costs events, or goes unnoticed", f"{core}: {name}: {wrong}")
