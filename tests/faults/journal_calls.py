"""Real SIGKILLs at every system call of a roll, a deletion and an opening after a crash.

`strace` kills the writer as it enters the k-th call of each kind, so the call is not made. Between two system calls a
writer changes nothing outside of its memory but the mapped segment, whose stores `kill.py` steps through. So these
deaths leave every directory that a death at an instruction can leave.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness
from .journals import SCRIPTS, Board, child, copy, in_one_thread, judge, left_behind, reopening

if TYPE_CHECKING:
    from .harness import Context

# Those that the scripts make, except for the ones that only read or change nothing but the process.
CALLS = (
    "openat", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "ftruncate",
    "fallocate", "write", "pwrite64", "fsync", "fdatasync", "msync", "setxattr", "fsetxattr", "fchmod", "fchown",
    "flock", "mmap", "munmap", "mremap", "close",
)  # fmt: skip
QUICK = ("rename", "unlink", "ftruncate", "fsetxattr")
MOST = 400  # calls of one kind, far beyond what a script makes


def calls(ctx: Context, core: str, evtape: Any) -> None:
    """For each script and kind of call the writer dies at the k-th, for k = 1, 2, ... until it does not come to it."""
    if shutil.which("strace") is None:
        ctx.not_run("SIGKILLs at system calls: no strace")
        return
    for name, script in SCRIPTS.items():
        start, board, prior = ctx.work / f"calls-{name}-{core}", Board(), 0
        if script is reopening:
            child(partial(left_behind, evtape, str(start), board), evtape)
            prior = board.acknowledged
        for call in ctx.progress(CALLS if ctx.full else QUICK, f"calls of {name}, {core}"):
            k = 1
            while k < MOST and dies(ctx, evtape, script, start, prior, call, k):
                ctx.count(f"deaths at system calls of {name}, {core}")
                k += ctx.scale(5, 1)
                if ctx.expired:
                    return


def dies(ctx: Context, evtape: Any, script: Callable[..., None], start: Path, prior: int, call: str, k: int) -> bool:
    """One death; returns whether the writer came to the call."""
    path, board, trace = ctx.work / "called", Board(), ctx.work / "trace"
    shutil.rmtree(path, ignore_errors=True)
    if start.exists():
        copy(start, path)
    board.begun = board.acknowledged = prior
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        _work(evtape, script, str(path), board, read)
    os.close(read)
    command = ["strace", "-qq", "-o", str(trace), "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:signal=SIGKILL:when={k}", "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    attached = _attached(pid, tracer)
    if attached:
        os.write(write, b"g")
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(write)
    status = _ended(ctx, pid, f"{script.__name__}, {evtape.backend}, {call} {k}")
    told = tracer.communicate()[1]
    if not attached:
        if "Invalid" in told or "invalid" in told:
            return False  # this processor has no such call
        raise harness.NotRun(f"strace cannot attach: {told.strip()}")
    if status not in (0, signal.SIGKILL):
        ctx.violation("a writer ended by itself", f"{script.__name__}, {call} {k}: {harness.tell(status)}")
    judge(ctx, evtape, path, board, f"{script.__name__}, {evtape.backend}, {call} {k}")
    return status == signal.SIGKILL


def _work(evtape: Any, script: Callable[..., None], path: str, board: Board, read: int) -> None:
    """In the child."""
    status = 1
    try:
        warnings.simplefilter("ignore")
        with in_one_thread(evtape):
            if os.read(read, 1) == b"g":
                script(evtape, path, board)
        status = 0
    except BaseException as error:  # noqa: BLE001 - the parent is told by the status
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(status)


def _attached(pid: int, tracer: subprocess.Popen[str]) -> bool:
    for _ in range(5000):
        if f"TracerPid:\t{tracer.pid}\n" in Path(f"/proc/{pid}/status").read_text():
            return True
        if tracer.poll() is not None:
            return False
        time.sleep(0.001)
    return False


def _ended(ctx: Context, pid: int, where: str) -> int:
    """The wait status of the writer; a minute is taken for a hang."""
    watch = os.pidfd_open(pid)
    if not select.select([watch], [], [], 60)[0]:
        ctx.violation("a writer hangs", where)
        os.kill(pid, signal.SIGKILL)
    os.close(watch)
    return os.waitpid(pid, 0)[1]
