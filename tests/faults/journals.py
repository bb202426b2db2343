"""Journals: death at any moment of a roll, a deletion and an opening; power loss at the same; full disks; harm.

*kill*: a writer runs bytecode by bytecode, or line by line, and dies at the k-th, for every k. What its threads do is
done in its own thread, so that a run can be repeated.
*rounds*: a writer with all of its threads is killed at random moments, while a reader and a follower go on.
*calls*: see `journal_calls.py`.
*power*: see `journal_power.py`.
*full*: each call that may need space fails.
*harm*: a segment is deleted, renamed, replaced or damaged.

The invariant is that of a stream, with the ordinals of the journal: what is there is what was appended, in order, from
the first ordinal that retention has left to at least the last event that was acknowledged.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness

if TYPE_CHECKING:
    from .harness import Context

ROLL = 16 << 10
KEPT = {"journal.json", "journal.lock"}


def run(ctx: Context) -> None:
    """Every piece, on both cores."""
    for core, evtape in harness.both().items():
        for piece, work in PIECES.items():
            if piece.startswith(ctx.only) or ctx.only.startswith(piece):
                work(ctx, core, evtape)


def payload(ordinal: int) -> bytes:
    """What event `ordinal` must hold; its size differs from event to event."""
    return struct.pack("<q", ordinal) * (1 + ordinal * 7 % 61)


class Board:
    """Numbers shared with a child: what it has begun to append, what was acknowledged, and what it counted."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 4096)).cast("q")

    begun, acknowledged, durable, steps, stop, seen = (
        property(lambda s, i=i: s.words[i], lambda s, value, i=i: s.words.__setitem__(i, value)) for i in range(6)
    )

    def reset(self) -> None:
        for i in range(6):
            self.words[i] = 0


@contextlib.contextmanager
def in_one_thread(evtape: Any) -> Iterator[None]:
    """No thread of a journal runs: the next segment is made where it is ordered, the rest by `_keep_house`."""
    threads = evtape.modules["evtape.journal.threads"]
    before = threads.Maker.order, threads.Housekeeper.call

    def order(maker: Any) -> None:
        if not maker._ordered and not maker._stopped:
            maker._ordered = True
            maker._spare = maker._make()()

    threads.Maker.order, threads.Housekeeper.call = order, lambda housekeeper: None
    try:
        yield
    finally:
        threads.Maker.order, threads.Housekeeper.call = before


def append(journal: Any, board: Board, events: int) -> None:
    """So many events; the board knows before and after each."""
    for _ in range(events):
        board.begun = board.acknowledged + 1
        journal.append(payload(board.acknowledged))
        board.acknowledged += 1


# ------------------------------------------------------------------------------------------- scripts


def rolling(evtape: Any, path: str, board: Board) -> None:
    """Create, roll three times, close what was rolled, sync, close."""
    with evtape.open_journal(path, "a", roll_bytes=ROLL, index=True) as journal:
        for _ in range(3):
            append(journal, board, 70)
            journal._keep_house()
        append(journal, board, 70)
        journal.sync()
        board.durable = board.acknowledged
        append(journal, board, 90)


def deleting(evtape: Any, path: str, board: Board) -> None:
    """Roll in a journal that keeps two segments."""
    with evtape.open_journal(path, "a", roll_bytes=ROLL, keep_segments=2, index=True) as journal:
        for _ in range(4):
            append(journal, board, 75)
            journal._keep_house()


def reopening(evtape: Any, path: str, board: Board) -> None:
    """Open what a killed writer left (`left_behind`), append, close."""
    with evtape.open_journal(path, "a", index=True) as journal:
        append(journal, board, 3)


def left_behind(evtape: Any, path: str, board: Board) -> None:
    """Three segments that were not closed, a spare, and a sidecar without a segment; the writer dies."""
    journal = evtape.open_journal(path, "a", roll_bytes=ROLL, index=True)
    append(journal, board, 260)
    if journal._maker._spare is None:
        journal._maker.order()
    Path(path, f"{999999:020d}.tape.side").write_bytes(b"evtape\0s" + bytes(80))
    os.kill(os.getpid(), signal.SIGKILL)


SCRIPTS: dict[str, Callable[[Any, str, Board], None]] = {
    "roll": rolling,
    "delete": deleting,
    "open": reopening,
}


# --------------------------------------------------------------------------------------------- kills


def dies_at(step: int, board: Board, opcodes: bool) -> None:
    """From here on this process counts the lines or bytecodes of the package, and dies at number `step`."""
    count = 0
    event = "opcode" if opcodes else "line"

    def local(frame: Any, what: str, argument: Any) -> Any:
        nonlocal count
        if what == event:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            board.steps = count
        return local

    def called(frame: Any, what: str, argument: Any) -> Any:
        if not str(frame.f_globals.get("__name__", "")).startswith("evtape."):
            return None
        frame.f_trace_opcodes = opcodes
        return local

    sys.settrace(called)


def kill(ctx: Context, core: str, evtape: Any) -> None:
    """Each script dies at each of its steps; a short run takes some of them."""
    for name, script in SCRIPTS.items():
        if ctx.only not in ("", "kill", f"kill-{name}"):
            continue
        start = ctx.work / f"{name}-{core}-start"
        board = Board()
        prior = 0
        if script is reopening:
            status = child(partial(left_behind, evtape, str(start), board), evtape)
            if status != signal.SIGKILL:
                ctx.violation("a writer ended by itself", f"left_behind, {core}: {harness.tell(status)}")
            prior = board.acknowledged
        total = stepped(ctx, evtape, script, start, board, prior, 0)
        steps = range(1, total + 1)
        wanted = ctx.scale(60, 100_000)
        if len(steps) > wanted:
            steps = range(1 + ctx.seed % 7, total + 1, -(-len(steps) // wanted))
        for step in ctx.progress(steps, f"{name}, {core}", len(steps)):
            stepped(ctx, evtape, script, start, board, prior, step)
            ctx.count(f"deaths in {name}, {core}")
            if ctx.expired:
                return


def stepped(
    ctx: Context, evtape: Any, script: Callable[..., None], start: Path, board: Board, prior: int, step: int
) -> int:
    """Run a script that dies at a step, and judge what is left; returns how many steps there were."""
    path = ctx.work / "stepped"
    shutil.rmtree(path, ignore_errors=True)
    if start.exists():
        copy(start, path)
    board.reset()
    board.begun = board.acknowledged = prior

    def work() -> None:
        dies_at(step, board, ctx.full)
        script(evtape, str(path), board)
        sys.settrace(None)

    status = child(work, evtape)
    if status != signal.SIGKILL and not (step == 0 and status == 0):
        ctx.violation("a writer ended by itself", f"{script.__name__}, step {step}: {harness.tell(status)}")
    if step == 0 and script is not reopening:
        bare = [name for name in os.listdir(path) if name.endswith(".tape") and not (path / f"{name}.index").exists()]
        if bare:
            ctx.violation("a closed segment has no index", f"{script.__name__}, {evtape.backend}: {bare}")
    judge(ctx, evtape, path, board, f"{script.__name__}, {evtape.backend}, step {step}")
    return board.steps


def child(work: Callable[[], None], evtape: Any) -> int:
    """The wait status of a forked child that does the work in one thread."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            warnings.simplefilter("ignore")
            with in_one_thread(evtape):
                work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent is told by the status
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def copy(source: Path, target: Path) -> None:
    """A copy of a directory with the extended attributes of its files."""
    shutil.copytree(source, target)  # copies them too


def judge(ctx: Context, evtape: Any, path: Path, board: Board, where: str, *, lossy: int = -1) -> None:
    """What is there is right for a reader, and for the next writer, which leaves the directory tidy.

    With `lossy` it is enough if the events below it are there.
    """
    least = board.acknowledged if lossy < 0 else lossy
    if not path.is_dir() or not os.listdir(path):
        if least:
            ctx.violation("the journal is gone", where)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            if lossy < 0 and evtape.modules["evtape.journal.directory"].Directory(str(path)).is_journal:
                with evtape.open(path) as reader:
                    compare(ctx, reader, least, board.begun, f"{where}, read as it is")
            with in_one_thread(evtape), evtape.open_journal(path, "a", index=True) as journal:
                end = compare(ctx, journal, least, board.begun, f"{where}, opened for append")
                if journal.append(payload(end)) != end:
                    ctx.violation("an ordinal was used twice, or left out", where)
            with evtape.open(path) as reader:
                compare(ctx, reader, end + 1, end + 1, f"{where}, after it")
            report = evtape.verify(path)
        except (evtape.Error, OSError) as error:
            ctx.violation("the journal cannot be opened", f"{where}: {type(error).__name__}: {error}")
            return
    if report.state != "clean":
        ctx.violation("not clean after an opening", f"{where}: {report}")
    lost = [warning for warning in told if "lost" in str(warning.message) or "missing" in str(warning.message)]
    if lossy < 0 and [warning for warning in lost if "no event was lost" not in str(warning.message)]:
        ctx.violation("a kill lost events", f"{where}: {lost[0].message}")
    names = {name for name in os.listdir(path) if ".quarantine" not in name}
    segments = {name for name in names if name.endswith(".tape")}
    left = names - segments - KEPT - {f"{name}.index" for name in segments}
    if left:
        ctx.violation("files without a meaning are left", f"{where}: {sorted(left)}")
    ctx.count("directories judged")


def compare(ctx: Context, journal: Any, least: int, most: int, where: str) -> int:
    """The events are what was appended; returns the ordinal after the last."""
    first, end = journal.first_ordinal, journal.next_ordinal
    if not first <= least <= end <= max(most, least):
        ctx.violation("events are gone, or come from nowhere", f"{where}: {first} to {end}, of {least} to {most}")
    at = first
    for event in journal:
        if event.ordinal != at or bytes(event.data) != payload(at):
            ctx.violation("an event is not what was appended", f"{where}: event {at}")
            break
        at += 1
    if at != end:
        ctx.violation("iteration ends elsewhere", f"{where}: {at}, and not {end}")
    return int(end)


# -------------------------------------------------------------------------------------------- rounds


def rounds(ctx: Context, core: str, evtape: Any) -> None:
    """Writers with all of their threads, killed at random, and a reader and a follower across rolls and deletions."""
    path, board = ctx.work / f"rounds-{core}", Board()
    rng = random.Random(ctx.seed)
    evtape.open_journal(path, "a", roll_bytes=ROLL, keep_segments=20).close()
    others = [fork(lambda: reads(evtape, path, board))]
    others.append(fork(lambda: follows(evtape, path, board)))
    try:
        for _ in ctx.progress(range(ctx.scale(15, 10_000)), f"rounds, {core}"):
            writer = fork(lambda: writes(evtape, path, board))
            time.sleep(0.01 + rng.random() * 0.06)
            os.kill(writer, signal.SIGKILL)
            status = os.waitpid(writer, 0)[1]
            if status != signal.SIGKILL:
                ctx.violation("a writer ended by itself", f"{core}: {harness.tell(status)}")
                break
            judge(ctx, evtape, path, board, f"rounds, {core}")
            with evtape.open(path) as reader:
                board.begun = board.acknowledged = reader.next_ordinal
            ctx.count(f"rounds, {core}")
            if ctx.expired:
                break
    finally:
        board.stop = 1
        for other in others:
            status = os.waitpid(other, 0)[1]
            if status:
                ctx.violation("a reader died or saw what was not appended", f"{core}: {harness.tell(status)}")
    ctx.count(f"events acknowledged, {core}", board.acknowledged)
    ctx.count(f"passes of a reader, {core}", board.seen)
    ctx.count(f"events followed, {core}", board.words[6])
    if not board.words[6]:
        ctx.violation("nothing was followed", core)


def fork(work: Callable[[], Any]) -> int:
    """A child that does `work` and ends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            warnings.simplefilter("ignore")
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent is told by the status
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def writes(evtape: Any, path: Path, board: Board) -> None:
    """Append for as long as it lives."""
    rng = random.Random()
    durability = rng.choice(("none", "close", "interval"))
    with evtape.open_journal(
        path, "a", roll_bytes=ROLL, keep_segments=20, durability=durability, interval=0.01, index=True
    ) as journal:
        while True:
            append(journal, board, rng.randrange(1, 200))
            if rng.random() < 0.1:
                journal.sync()
            if rng.random() < 0.05:
                journal.roll()
            time.sleep(rng.random() * 0.001)


def reads(evtape: Any, path: Path, board: Board) -> None:
    """Open, read everything, stay for a while, again. A wrong event ends it by an exception."""
    while not board.stop:
        try:
            with evtape.open(path) as reader:
                for _ in range(5):
                    try:
                        at = None
                        for event in reader:
                            if bytes(event.data) != payload(event.ordinal) or at not in (None, event.ordinal - 1):
                                raise AssertionError(f"event {event.ordinal} after {at}")
                            at = event.ordinal
                        board.seen += 1
                    except evtape.ExpiredError:
                        pass
        except (FileNotFoundError, evtape.FormatError):
            time.sleep(0.001)


def follows(evtape: Any, path: Path, board: Board) -> None:
    """Follow over rolls and deletions: every event once and in order, except for those that were deleted before."""
    with evtape.open(path) as reader:
        at = reader.first_ordinal
        while not board.stop:
            try:
                for event in reader.follow(at, timeout=0.2):
                    if event.ordinal != at or bytes(event.data) != payload(at):
                        raise AssertionError(f"event {event.ordinal} in the place of event {at}")
                    at += 1
                    board.words[6] += 1
            except evtape.ExpiredError as error:
                if error.ordinal != at or not error.first_ordinal > at:
                    raise
                at = error.first_ordinal


# ---------------------------------------------------------------------------------------- full disks

NEEDS_SPACE = ("open", "rename", "write", "link", "mkdir", "setxattr", "fsync", "ftruncate")


def full(ctx: Context, core: str, evtape: Any) -> None:
    """The k-th call that may need space fails once: the append raises, nothing is lost, and appending works again."""
    k = 1
    while one_full(ctx, core, evtape, k):
        ctx.count(f"full disks met, {core}")
        k += ctx.scale(3, 1)


def one_full(ctx: Context, core: str, evtape: Any, k: int) -> bool:
    """One failing call; returns whether the script came to it."""
    path, board = ctx.work / "full", Board()
    shutil.rmtree(path, ignore_errors=True)
    with in_one_thread(evtape), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        journal = evtape.open_journal(path, "a", roll_bytes=ROLL, index=True)
        with failing(k) as met:
            while board.acknowledged < 260 and not (met.fired and board.acknowledged > 200):
                fired = met.fired
                try:
                    append(journal, board, 1)
                    if board.acknowledged % 70 == 0:
                        journal._keep_house()
                except OSError as error:
                    if met.fired == fired or error.errno != errno.ENOSPC:
                        ctx.violation("another error than that of the disk", f"{core}, call {k}: {error}")
                except evtape.Error:  # a flush has failed, and the writer says so from here on
                    break
            poisoned = journal._failure is not None
        with contextlib.suppress(OSError, evtape.Error):
            journal.close()
    if met.fired and poisoned != (met.name in ("fsync", "ftruncate")) and not poisoned and met.name == "fsync":
        ctx.count("failed flushes without an effect")
    judge(ctx, evtape, path, board, f"full, {core}, call {k} ({met.name})")
    return bool(met.fired)


class Met:
    """Whether the call was made, and which it was."""

    fired = 0
    name = ""


@contextlib.contextmanager
def failing(k: int) -> Iterator[Met]:
    """The k-th of the calls in `NEEDS_SPACE` fails for want of space."""
    met, count, thread = Met(), 0, threading.get_ident()
    real = {name: getattr(os, name) for name in NEEDS_SPACE}

    def watched(name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            makes = name != "open" or given[1] & os.O_CREAT
            if makes and threading.get_ident() == thread:
                count += 1
                if count == k:
                    met.fired, met.name = 1, name
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real[name](*given, **named)

        return call

    for name in NEEDS_SPACE:
        setattr(os, name, watched(name))
    try:
        yield met
    finally:
        for name, call in real.items():
            setattr(os, name, call)


# ---------------------------------------------------------------------------------------------- harm


def harm(ctx: Context, core: str, evtape: Any) -> None:
    """Each segment is harmed in each way: the ordinals that are gone are told, and all others can be read."""
    whole, board = ctx.work / f"whole-{core}", Board()
    with in_one_thread(evtape), evtape.open_journal(whole, "a", roll_bytes=ROLL) as journal:
        append(journal, board, 400)
    firsts = [*(int(name[:20]) for name in sorted(os.listdir(whole)) if name.endswith(".tape")), 400]
    for at in range(len(firsts) - 1):
        for way, hurt in HARMS.items():
            path = ctx.work / "harmed"
            shutil.rmtree(path, ignore_errors=True)
            copy(whole, path)
            hurt(path / f"{firsts[at]:020d}.tape", path / f"{firsts[max(at - 1, 0)]:020d}.tape")
            judge_harm(ctx, evtape, path, range(firsts[at], firsts[at + 1]), at == 0, f"{way}, {core}, segment {at}")
            ctx.count(f"harmed segments, {core}")


def judge_harm(ctx: Context, evtape: Any, path: Path, gone: range, is_first: bool, where: str) -> None:
    """Every event outside of the segment can be read, and no event of it is a wrong one."""
    with evtape.open(path) as reader:
        found, problems = set(), []
        iterator = iter(reader)
        while True:
            try:
                event = next(iterator, None)
            except evtape.Error as error:
                problems.append(error)
                continue
            if event is None:
                break
            if bytes(event.data) != payload(event.ordinal):
                ctx.violation("an event is not what was appended", f"{where}: event {event.ordinal}")
            found.add(event.ordinal)
        expected = set(range(400)) - set(gone)
        if expected - found:
            ctx.violation("events outside of the harmed segment are gone", f"{where}: {sorted(expected - found)[:5]}")
        missing = set(gone) - found
        if missing and not problems and not (is_first or gone.stop == 400):
            ctx.violation("missing events were not told", f"{where}: {sorted(missing)[:5]}")
    if missing and not is_first and gone.stop != 400 and evtape.verify(path).state != "damaged":
        ctx.violation("verify does not tell", where)


def _renamed(path: Path, before: Path) -> None:
    os.rename(path, path.with_name("elsewhere.tape"))


def _shortened(path: Path, before: Path) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def _another(path: Path, before: Path) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<qqq", 24, 0, 1))


def _flipped(path: Path, before: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(24 + 16)
        file.write(b"\xff\xff")


HARMS: dict[str, Callable[[Path, Path], None]] = {
    "deleted": lambda path, before: os.unlink(path),
    "renamed": _renamed,
    "emptied": lambda path, before: os.truncate(path, 0),
    "shortened": _shortened,
    "foreign": lambda path, before: path.write_text("not a stream\n" * 40),  # type: ignore[arg-type, return-value]
    "another stream": _another,
    "a bit flipped": _flipped,
}


def power(ctx: Context, core: str, evtape: Any) -> None:
    """See `journal_power.py`."""
    from .journal_power import power_losses

    power_losses(ctx, core, evtape)


def calls(ctx: Context, core: str, evtape: Any) -> None:
    """See `journal_calls.py`."""
    from .journal_calls import calls as at_calls

    at_calls(ctx, core, evtape)


PIECES: dict[str, Callable[[Context, str, Any], None]] = {
    "kill": kill,
    "calls": calls,
    "rounds": rounds,
    "power": power,
    "full": full,
    "harm": harm,
}
