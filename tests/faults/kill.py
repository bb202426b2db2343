"""Death at any instruction, and at any moment.

*Steps*: a writer is run instruction by instruction (`stepper.c`) through each of its paths, and after every
instruction its file must show a valid prefix of what is appended: a process killed there would leave exactly that.
*Kills*: real SIGKILLs at random moments, with four readers following; every event whose append had returned must be
there, and no reader may ever have seen anything else.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import harness, streams
from .reference import verdict

if TYPE_CHECKING:
    from .harness import Context

READERS = 4
QUICK = (("native", "append"), ("native", "batch"), ("native", "recover"))


def run(ctx: Context) -> None:
    """Both halves, and who may write at all."""
    if ctx.only.startswith("steps") or not ctx.only:
        step(ctx)
    if ctx.only in "owners":
        for core, evtape in harness.both().items():
            owners(ctx, core, evtape)
    if ctx.only in "kills":
        for core, evtape in harness.both().items():
            kills(ctx, core, evtape, ctx.scale(25, 5000))


# -------------------------------------------------------------------------------------------- steps


def region(work: Callable[[], Any]) -> Any:
    """Have `work` stepped by the tracer."""
    signal.raise_signal(signal.SIGUSR1)
    try:
        return work()
    finally:
        signal.raise_signal(signal.SIGUSR2)


def payloads(kind: str) -> list[bytes]:
    """What the stepped writer appends."""
    rng = random.Random(kind)
    sizes = {"append": (0, 1, 7, 48, 100, 1024, 0, 5000), "rows": (24,) * 40, "growth": (3 << 20, 100, 3 << 20)}
    return [rng.randbytes(size) for size in sizes.get(kind, (0, 5, 48, 200, 1024, 31))]


def appending(evtape: Any, path: str, kind: str) -> None:
    """Single events; one path of growth (the first append makes room, and a large one more of it)."""
    with evtape.open(path, "a") as tape:
        for data in payloads(kind):
            region(lambda data=data: tape.append(data))


def batches(evtape: Any, path: str, kind: str) -> None:
    """Batches, short and with the GIL released."""
    items = payloads(kind)
    with evtape.open(path, "a") as tape:
        region(lambda: tape.append_many(items[:3]))
        region(lambda: tape.append_many(items[3:]))


def rows(evtape: Any, path: str, kind: str) -> None:
    """The rows of an array."""
    array = np.frombuffer(b"".join(payloads(kind)), np.uint8).reshape(-1, 24)
    with evtape.open(path, "a") as tape:
        region(lambda: tape.append_array(array))


def lifetime(evtape: Any, path: str, kind: str) -> None:
    """Create, append, sync, close and open again, all of it."""
    tape = region(lambda: evtape.open(path, "w" if kind == "replace" else "a"))
    for data in payloads(kind)[:3]:
        tape.append(data)
    region(tape.sync)
    for data in payloads(kind)[3:]:
        tape.append(data)
    region(tape.close)


def repairing(evtape: Any, path: str, kind: str) -> None:
    """Recovery of a file with a torn tail, by `recover` and by opening it for append."""
    warnings.simplefilter("ignore")
    repair = sys.modules["evtape.recovery.repair"]
    real = repair._repair
    repair._repair = lambda *given: region(lambda: real(*given))  # what comes before only reads
    if kind == "recover":
        evtape.recover(path)
    else:
        region(evtape.open(path, "a").close)


PATHS: dict[str, Callable[[Any, str, str], None]] = {
    "append": appending,
    "growth": appending,
    "batch": batches,
    "rows": rows,
    "create": lifetime,
    "replace": lifetime,
    "recover": repairing,
    "repair": repairing,
}


def step(ctx: Context) -> None:
    """Every path on both cores; a quick run steps through two of them."""
    try:
        stepper = harness.compiled("stepper.c", shared=False)
    except subprocess.CalledProcessError as error:
        raise harness.NotRun(f"the stepper does not compile here: {error}") from None
    for core in harness.both():
        for kind in PATHS:
            named = f"steps-{kind}-{core}" == ctx.only
            if named or (ctx.only in "steps" and (ctx.full or (core, kind) in QUICK)):
                step_path(ctx, stepper, core, kind, 1_000_000 if ctx.full or named else 20_000)


def step_path(ctx: Context, stepper: Path, core: str, kind: str, limit: int) -> None:
    """One path."""
    directory = ctx.work / f"{kind}-{core}"
    directory.mkdir()
    path, wanted = directory / "step.tape", directory / "wanted"
    environment = harness.environment(core)
    ends = streams.ends(payloads(kind))
    if kind in ("batch", "rows"):
        ends = [ends[0], ends[3] if kind == "batch" else ends[0], ends[-1]]
    (directory / "wanted.ends").write_bytes(struct.pack(f"<{len(ends)}q", *ends))
    wanted.write_bytes(streams.stream(payloads(kind)))
    if kind in ("recover", "repair"):
        environment["STEPPER_RECOVERING"] = "1"
        good = wanted.read_bytes()
        torn = streams.entry(streams.STAMP, b"x" * 300)[:-1] + b"y"
        path.write_bytes(struct.pack("<q", len(good) + len(torn)) + good[8:] + torn + bytes(512))
    elif kind == "replace":
        path.write_bytes(streams.stream(payloads(kind)[:2]))
    command = [stepper, path, wanted, str(limit), "--"]
    command += [sys.executable, "-m", __name__, kind, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("violation:"):
            ctx.violation("at an instruction", f"{kind}, {core}: {line}")
    figures = dict(re.findall(r"^(steps|judged|headers|regions|exit) (-?\d+)$", done.stdout, re.MULTILINE))
    if figures.get("exit") != "0":
        ctx.violation("a stepped writer failed", f"{kind}, {core}: {done.stdout[-200:]} {done.stderr[-500:]}")
        return
    ctx.count("instructions stepped", int(figures["steps"]))
    ctx.count("files judged in full", int(figures["judged"]))
    ctx.count("changes of header or tail", int(figures["headers"]))
    after = verdict(path.read_bytes())
    good = verdict(wanted.read_bytes())
    if (after.state, after.events, after.end) != ("clean", good.events, good.end):
        ctx.violation("not what was appended at the end", f"{kind}, {core}: {after}")
    shutil.rmtree(directory)


# ------------------------------------------------------------------------------------------- owners


def owners(ctx: Context, core: str, evtape: Any) -> None:
    """A stream has one writer: not a second one, and not the child of a fork."""
    path = str(ctx.work / "owned.tape")
    tape = evtape.open(path, "w")
    tape.append(b"mine")
    for where in ("the same process", "another process"):
        work = lambda: refused(lambda: evtape.open(path, "a"), evtape.LockedError)  # noqa: E731
        if not (work() if where == "the same process" else harness.in_child(work)[1]):
            ctx.violation("a second writer", f"{core}: in {where}")
    for what in (lambda: tape.append(b"child"), lambda: tape.append_many([b"child"]), tape.sync):
        if not harness.in_child(lambda what=what: refused(what, evtape.ReadOnlyError))[1]:
            ctx.violation("a forked child may write", core)
    tape.append(b"mine again")
    tape.close()
    with evtape.open(path) as tape:
        if [bytes(data) for _, data in tape] != [b"mine", b"mine again"]:
            ctx.violation("a forked child wrote", core)
    ctx.count("refusals of a second owner", 5)


def refused(work: Callable[[], Any], error: type[Exception]) -> bool:
    try:
        work()
    except error:
        return True
    return False


# -------------------------------------------------------------------------------------------- kills


class Board:
    """Numbers shared with the children: which file, how much was acknowledged, what the readers did."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 4096)).cast("q")
        self.total = 0  #: events acknowledged in files that are done with

    file, acknowledged, begun, reads, stop = (property(lambda s, i=i: s.words[i]) for i in range(5))

    def put(self, name: str, value: int) -> None:
        """Set one of the numbers."""
        self.words[("file", "acknowledged", "begun", "reads", "stop").index(name)] = value


def payload(file: int, ordinal: int) -> bytes:
    """What event `ordinal` of a file must hold; its size differs from event to event."""
    return struct.pack("<qq", file, ordinal) * ((ordinal * 7 + file) % 23)


def name(ctx: Context, file: int) -> str:
    return str(ctx.work / f"kill-{file}.tape")


def kills(ctx: Context, core: str, evtape: Any, cycles: int) -> None:
    """Fork a writer from this warm process, kill it, judge the file; the readers live on."""
    board = Board()
    board.put("file", 1)
    readers = [fork(lambda i=i: follow(ctx, evtape, board, i)) for i in range(READERS)]
    rng = random.Random(ctx.seed)
    try:
        for _ in ctx.progress(range(cycles), f"kills, {core}"):
            board.put("begun", 0)
            writer = fork(lambda: write(ctx, evtape, board))
            # One in four is killed while it opens or creates the stream, the others while they append.
            patience = time.monotonic() + 2 * (rng.random() < 0.75)
            while not board.begun and time.monotonic() < patience:
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.008)
            os.kill(writer, signal.SIGKILL)
            _, status = os.waitpid(writer, 0)
            if os.WIFEXITED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                ctx.violation("a writer ended by itself", f"{core}: {harness.tell(status)}")
                return
            after_kill(ctx, core, evtape, board)
        ctx.count(f"SIGKILLs, {core}", cycles)
    finally:
        board.put("stop", 1)
        for reader in readers:
            _, status = os.waitpid(reader, 0)
            if status:
                ctx.violation("a reader died or saw what was not appended", f"{core}: {harness.tell(status)}")
    if board.words[5]:
        ctx.violation("a live reader is told of damage that was none", f"{core}: {board.words[5]} times")
    ctx.count(f"passes of live readers, {core}", board.reads)
    ctx.count(f"events acknowledged, {core}", board.total + board.acknowledged)


def fork(work: Callable[[], Any]) -> int:
    """A child that does `work` and ends."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def write(ctx: Context, evtape: Any, board: Board) -> None:
    """Append for as long as it lives, telling the board after each event that is acknowledged."""
    warnings.simplefilter("ignore")
    file = board.file
    rng = random.Random()
    with evtape.open(name(ctx, file), "a") as tape:
        ordinal = len(tape)
        while True:
            if rng.random() < 0.1:
                count = rng.choice((1, 5, 40))
                tape.append_many([payload(file, ordinal + i) for i in range(count)])
                ordinal += count
            else:
                tape.append(payload(file, ordinal))
                ordinal += 1
            board.words[1] = ordinal
            board.words[2] = 1
            if rng.random() < 0.01:
                tape.sync()
            if rng.random() < 0.002:
                tape.close()
                tape = evtape.open(name(ctx, file), "a")


def follow(ctx: Context, evtape: Any, board: Board, seed: int) -> None:
    """A reader: opens, reads what is there, follows for a while, and again. A wrong event ends it by an exception."""
    rng = random.Random(seed)
    while not board.stop:
        file = board.file
        try:
            with evtape.open(name(ctx, file)) as tape:
                at = max(0, len(tape) - 2000)
                for _ in range(rng.randrange(1, 20)):
                    for event in tape[at:]:
                        if event.ordinal != at or bytes(event.data) != payload(file, at):
                            raise AssertionError(f"event {at} of file {file} is {bytes(event.data)[:40]!r}")
                        at += 1
                    board.words[3] += 1
                    time.sleep(rng.random() * 0.004)
        except FileNotFoundError:
            time.sleep(0.001)
        except (evtape.TruncatedError, evtape.FormatError):
            board.words[5] += 1  # nothing is ever truncated below WriteOffset here, and every file is a stream


def after_kill(ctx: Context, core: str, evtape: Any, board: Board) -> None:
    """The file as the dead writer left it holds everything it was told was appended."""
    file, acknowledged = board.file, board.acknowledged
    path = name(ctx, file)
    if not os.path.exists(path):
        if acknowledged:
            ctx.violation("the file is gone", f"{core}: {acknowledged} events were acknowledged")
        return
    report = evtape.verify(path)
    ctx.count(f"left {report.state}{' ' + report.reason if report.reason else ''}, {core}")
    if report.events < acknowledged or report.lost:
        ctx.violation("a kill lost events", f"{core}: {report.events} of {acknowledged}: {report.problems[:2]}")
    with evtape.open(path) as tape:
        for event in tape[max(0, acknowledged - 50) :]:
            if bytes(event.data) != payload(file, event.ordinal):
                ctx.violation("a kill left a wrong event", f"{core}: event {event.ordinal}")
    if report.events > 20_000:
        board.total += acknowledged
        board.put("acknowledged", 0)
        board.put("file", file + 1)
        os.unlink(path)


if __name__ == "__main__":
    import evtape as under_test

    PATHS[sys.argv[1]](under_test, sys.argv[2], sys.argv[1])
