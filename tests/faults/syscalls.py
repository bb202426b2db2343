"""Each system call of each path failing at its k-th call, limits on the size of a file, and a full disk at each step
of growth.

A path may succeed or raise a Python exception; it may not end by a signal, and whatever it says, the file must agree:
an append that returned is there, an exception leaves a stream with all that was acknowledged, and nothing is cut that
was not saved. `strace` makes calls fail; short writes come from RLIMIT_FSIZE, which makes real ones; the steps of
growth meet full disks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import resource
import select
import shutil
import signal
import struct
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, streams
from .reference import entries, verdict

if TYPE_CHECKING:
    from .harness import Context

ERRORS = {
    "fallocate": ("ENOSPC", "EINTR", "EIO"),
    "ftruncate": ("EIO", "ENOSPC", "EINTR"),
    "write": ("ENOSPC", "EIO", "EINTR"),
    "pwrite64": ("ENOSPC", "EIO", "EINTR"),
    "fsync": ("EIO", "ENOSPC", "EINTR"),
    "msync": ("EIO", "ENOSPC"),
    "openat": ("EIO", "ENOSPC", "EINTR", "EMFILE"),
    "mmap": ("ENOMEM",),
    "madvise": ("EFAULT", "ENOMEM"),
    "flock": ("EINTR", "EIO"),
    "pread64": ("EIO", "EINTR"),
    "newfstatat": ("EIO",),
    "fstat": ("EIO",),
    "link": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "unlink": ("EIO",),
    "close": ("EIO",),
}
PATHS = ("create", "replace", "append", "sync", "full", "close", "repair", "recover", "output", "read")
QUICK = {
    ("append", "fallocate"),
    ("sync", "msync"),
    ("full", "msync"),
    ("full", "pwrite64"),
    ("recover", "ftruncate"),
    ("create", "fsync"),
    ("close", "fsync"),
}
LIMITS = (0, 5, 23, 24, 100, 316, 1000, 4096, 8192, 65536, 131072, 1 << 20)
KEPT = [b"kept %d" % i * i for i in range(10)]
NEW = [b"new %d " % i * 20 for i in range(12)]
TORN = streams.entry(streams.STAMP, b"x" * 300)[:-1] + b"y"


def run(ctx: Context) -> None:
    """Failing calls, short writes, full disks."""
    if ctx.only in "calls":
        calls(ctx)
    if ctx.only in "limits":
        for core, evtape in harness.both().items():
            for path in PATHS:
                for limit in LIMITS:
                    child = Child(ctx, core, evtape, path, limit)
                    child.go()
                    child.judge(f"{path}, {core}, files limited to {limit} bytes")
                    ctx.count("limits on the size of a file")
    if ctx.only in "disks" or ctx.only.startswith("disks-"):
        from .disks import full_disks

        full_disks(ctx)


# ------------------------------------------------------------------------------------ failing calls


def calls(ctx: Context) -> None:
    """For each core, path, call and error the k-th call fails, for k = 1, 2, ... until a run does not come to it."""
    if shutil.which("strace") is None:
        ctx.not_run("failing system calls: no strace")
        return
    for core, evtape in harness.both().items():
        for path in PATHS:
            for call, errors in ERRORS.items():
                if not ctx.full and (path, call) not in QUICK:
                    continue
                for error in errors[: ctx.scale(1, 9)]:
                    k = 1
                    while k <= ctx.scale(4, 40) and one(ctx, core, evtape, (path, call, error, k)):
                        k += 1


def one(ctx: Context, core: str, evtape: Any, case: tuple[str, str, str, int]) -> bool:
    """One failing call; returns whether the path came to it."""
    path, call, error, k = case
    child = Child(ctx, core, evtape, path)
    trace = child.directory / "trace"
    inject = f"inject={call}:error={error}:when={k}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={call}", "-e", inject, "-p", str(child.pid)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if not child.traced(tracer):
        child.kill()
        raise harness.NotRun(f"strace cannot attach: {tracer.stderr.read().strip() if tracer.stderr else ''}")
    child.go()
    tracer.wait()
    if tracer.stderr:
        tracer.stderr.close()
    reached = "(INJECTED)" in trace.read_text()
    trace.unlink()
    if reached:
        ctx.count("failing calls")
        child.judge(f"{path}, {core}, {call} {k} fails with {error}")
    else:
        shutil.rmtree(child.directory)
    return reached


class Child:
    """A forked process that does one path when it is told to, and writes what became of it into shared memory."""

    number = 0

    def __init__(self, ctx: Context, core: str, evtape: Any, path: str, limit: int | None = None) -> None:
        Child.number += 1
        self.ctx, self.core, self.path = ctx, core, path
        self.directory = ctx.work / f"call-{Child.number}"
        self.directory.mkdir()
        self.file = self.directory / "s.tape"
        prepare(self.file, path)
        self.board = mmap.mmap(-1, 65536)
        read, self._start = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._start)
            os.read(read, 1)
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            self._work(evtape)
        os.close(read)

    def _work(self, evtape: Any) -> None:
        """In the child."""
        told: dict[str, Any] = {"acknowledged": [], "error": None, "lie": None}
        warnings.simplefilter("ignore")
        try:
            DOES[self.path](evtape, str(self.file), told)
        except (evtape.Error, OSError, MemoryError) as error:
            told["error"] = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
            told["error"] = told["bug"] = f"{type(error).__name__}: {error}"
        data = pickle.dumps(told)
        self.board[:8] = len(data).to_bytes(8, "little")
        self.board[8 : 8 + len(data)] = data
        os.kill(os.getpid(), signal.SIGKILL)  # no destructor may put anything right

    def traced(self, tracer: subprocess.Popen[str]) -> bool:
        """Wait until strace has attached."""
        for _ in range(2000):
            status = Path(f"/proc/{self.pid}/status").read_text()
            if f"TracerPid:\t{tracer.pid}\n" in status:
                return True
            if tracer.poll() is not None:
                return False
            time.sleep(0.001)
        return False

    def go(self) -> None:
        """Let it run to its end; a minute is taken for a hang."""
        os.write(self._start, b"g")
        os.close(self._start)
        watch = os.pidfd_open(self.pid)
        if not select.select([watch], [], [], 60)[0]:
            self.ctx.violation("a path hangs", f"{self.path}, {self.core}")
            os.kill(self.pid, signal.SIGKILL)
        os.close(watch)
        _, self.status = os.waitpid(self.pid, 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def judge(self, label: str) -> None:
        """What the child said and what the file holds must agree."""
        size = int.from_bytes(self.board[:8], "little")
        if size == 0:
            self.ctx.violation("a process was killed", f"{label}: {harness.tell(self.status)}")
        else:
            told = pickle.loads(self.board[8 : 8 + size])
            self.ctx.count("raised" if told["error"] else "succeeded")
            if "bug" in told:
                self.ctx.violation("an unexpected exception", f"{label}: {told['bug']}")
            if told["lie"]:
                self.ctx.violation(told["lie"], f"{label}: {told['error']}")
            compare(self.ctx, label, self.file, self.path, told)
            left = [p.name for p in self.directory.iterdir() if p.name.endswith(".tmp")]
            if left:
                self.ctx.count("temporary files left behind", len(left))
        shutil.rmtree(self.directory)
        self.board.close()


def prepare(file: Path, path: str) -> None:
    """The file a path begins with."""
    good = streams.stream(KEPT)
    if path in ("repair", "recover", "output"):
        file.write_bytes(struct.pack("<q", len(good) + len(TORN)) + good[8:] + TORN + bytes(512))
    elif path != "create":
        file.write_bytes(good)


def compare(ctx: Context, label: str, file: Path, path: str, told: dict[str, Any]) -> None:
    """The file against what was told."""
    if not file.exists():
        if path != "create" or told["acknowledged"] or not told["error"]:
            ctx.violation("the file is gone", f"{label}: {told}")
        return
    data = file.read_bytes()
    said = verdict(data)
    held = [entry.data for entry in entries(data, said.end)[0]]
    # What was acknowledged must be there, and nothing that was not to be appended.
    before = {"create": [], "replace": []}.get(path, KEPT)
    possible = [before + NEW, KEPT] if path == "replace" and not told["acknowledged"] else [before + NEW]
    if not any(held == wanted[: len(held)] for wanted in possible) or (
        len(held) < len(before) + len(told["acknowledged"])
    ):
        ctx.violation("the file does not hold what was told", f"{label}: {len(held)} events, told {told}")
    repairs = path in ("repair", "recover", "output")
    if said.state == "invalid" or (said.state == "damaged" and said.reason != "count" and not repairs):
        ctx.violation("the file is damaged", f"{label}: {tuple(said)}, told {told['error']}")
    if not told["error"] and path not in ("output", "read") and said.state != "clean":
        ctx.violation("success, but not closed cleanly", f"{label}: {tuple(said)}")
    if repairs and said.state != "damaged":
        saved = [
            p.read_bytes() for p in file.parent.iterdir() if "quarantine" in p.name and not p.name.endswith(".tmp")
        ]
        if TORN not in saved:
            ctx.violation("cut, and not saved", f"{label}: {[p.name for p in file.parent.iterdir()]}")


# ---------------------------------------------------------------------------------------- the paths


def put(tape: Any, told: dict[str, Any], items: list[bytes]) -> None:
    for data in items:
        told["acknowledged"].append(tape.append(data))


def create(evtape: Any, path: str, told: dict[str, Any], mode: str = "x") -> None:
    tape = evtape.open(path, mode)
    put(tape, told, NEW)
    tape.close()


def append(evtape: Any, path: str, told: dict[str, Any]) -> None:
    """An append that fails must leave the writer usable."""
    tape = evtape.open(path, "a")
    for i, data in enumerate(NEW):
        try:
            put(tape, told, [data])
        except OSError:
            if i == len(NEW) - 1:
                raise
            put(tape, told, [data])
    tape.close()


def sync(evtape: Any, path: str, told: dict[str, Any]) -> None:
    """A flush that failed may not be called a success by trying again."""
    tape = evtape.open(path, "a")
    put(tape, told, NEW[:6])
    try:
        tape.sync()
    except OSError as first:
        for again in (tape.sync, lambda: tape.append(b"no")):
            with contextlib.suppress(evtape.Error, OSError):
                again()
                told["lie"] = "a failed flush was retried into a success"
        tape.close()
        raise first
    put(tape, told, NEW[6:])
    tape.sync()
    tape.close()


def full(evtape: Any, path: str, told: dict[str, Any]) -> None:
    """Each append that returned is durable, and none returns after a flush that failed."""
    tape = evtape.open(path, "a", durability="full")
    for i, data in enumerate(NEW):
        try:
            put(tape, told, [data])
        except OSError as first:
            if "flushing" in str(first):  # else there was no room for the event, and a later one may fit
                with contextlib.suppress(evtape.Error, OSError):
                    tape.append(b"no")
                    told["lie"] = "an append returned after a flush had failed"
            tape.close()
            raise first
        if tape.durable.ordinal != len(KEPT) + i + 1:
            told["lie"] = "an append returned before it was durable"
    tape.close()


def close(evtape: Any, path: str, told: dict[str, Any]) -> None:
    tape = evtape.open(path, "a")
    put(tape, told, NEW)
    try:
        tape.close()
    finally:
        if not tape.closed:
            told["lie"] = "not closed after close"
        tape.close()


def repair(evtape: Any, path: str, told: dict[str, Any]) -> None:
    evtape.open(path, "a").close()


def recover(evtape: Any, path: str, told: dict[str, Any]) -> None:
    evtape.recover(path)


def output(evtape: Any, path: str, told: dict[str, Any]) -> None:
    """The source stays as it is, and the output has all of the prefix or is not there."""
    out = os.path.join(os.path.dirname(path), "out.tape")
    try:
        evtape.recover(path, output=out)
    finally:
        if os.path.exists(out):
            with open(out, "rb") as file:
                said = verdict(file.read())
            if (said.state, said.events) != ("clean", len(KEPT)):
                told["lie"] = "an output that is not whole"


def read(evtape: Any, path: str, told: dict[str, Any]) -> None:
    with evtape.open(path) as tape:
        if [bytes(data) for _, data in tape] != KEPT or len(tape) != len(KEPT):
            told["lie"] = "events were missing and nothing was raised"
    if evtape.verify(path).state != "clean":
        told["lie"] = "verify calls a good file bad and raises nothing"


DOES: dict[str, Callable[[Any, str, dict[str, Any]], None]] = {
    "create": create,
    "replace": lambda evtape, path, told: create(evtape, path, told, "w"),
    "append": append,
    "sync": sync,
    "full": full,
    "close": close,
    "repair": repair,
    "recover": recover,
    "output": output,
    "read": read,
}
