"""Chaos: all that can happen to a stream and its followers, at any moment and in any order.

In each round a writer appends events with known contents while followers and a consumer with a cursor take them, each
in a process of its own, on any pairing of the cores. Meanwhile processes are killed, stopped and started again, the
files beside the stream are deleted, cut and overwritten, and the stream is cut and recovered or replaced. In the end
what each process received is compared with what was published: one run of `follow()` delivers a part of the stream
without a gap, up to the end or up to an exception that is true. The runs of a cursor overlap, or join without a gap.

A round is reproduced by its seed: `--seed S --only ROUND`, but not the moments at which its processes run.
"""

from __future__ import annotations

import contextlib
import operator
import os
import random
import shutil
import signal
import struct
import time
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, kill

if TYPE_CHECKING:
    from .harness import Context

MIX = 0x9E3779B97F4A7C15
RECORD = struct.Struct("<qqI")  # ordinal timestamp size, in the log of a consumer; then the payload
ENDED, COMMITTED = -1, -2  # in the place of an ordinal
LOOK = 0.01  # seconds between two looks of a follower at its file, so that rounds are short
PATIENCE = 20.0  # seconds
FINISH, FINAL = 0, 1  # words of the board: the writer is to close; the events of the stream then, and 1

Events = list[tuple[int, bytes]]


def payload(generation: int, ordinal: int) -> bytes:
    """An event of a writer. Its size depends on the ordinal alone, so that a stream regrows to the same offsets."""
    word = generation << 40 | ordinal
    return struct.pack("<QQ", word, (word + 1) * MIX & (1 << 64) - 1) * (1 + ordinal % 5)


# ------------------------------------------------------------------------------------- the processes


def write(evtape: Any, path: str, mode: str, generation: int, seed: int, board: Any) -> None:
    """Append until the board says that it is enough: single events and batches; close and open again."""
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    parent = os.getppid()
    while os.getppid() == parent:  # else the harness was killed
        with evtape.open(path, mode, durability=rng.choice(("none", "close"))) as tape:
            mode, ordinal = "a", len(tape)
            for _ in range(rng.randrange(1, 60)):
                if board.words[FINISH]:
                    break
                count = rng.choice((1, 1, 1, 2, 20, 200))
                if count == 1:
                    tape.append(payload(generation, ordinal))
                else:
                    tape.append_many([payload(generation, ordinal + i) for i in range(count)])
                ordinal += count
                if rng.random() < 0.5:
                    time.sleep(rng.random() * 0.002)
        if board.words[FINISH]:
            break


class ChangedError(Exception):
    """A payload is not what it was when it was handed out."""


class Stop:
    """Set once a consumer has all events, and has looked at the file since."""

    def __init__(self, board: Any) -> None:
        self.board = board
        self.next = -1
        self.parent = os.getppid()
        self.calls, self.since = 0, 0.0

    def is_set(self) -> bool:
        """Whether to end."""
        if os.getppid() != self.parent:  # the harness was killed
            return True
        final = self.board.words[FINAL] - 1
        if final < 0 or self.next < final:
            return False
        now = time.monotonic()
        self.since = self.since or now
        self.calls += now > self.since + 2.5 * LOOK
        return self.calls > 2


def consume(evtape: Any, path: str, kind: str, cursor: str, start: Any, seed: int, log: int, board: Any) -> None:
    """Follow the stream, and write down each event as it is received, each commit, and how it ended."""
    warnings.simplefilter("ignore")
    module = evtape.modules["evtape.stream.wait"]
    module._SLICE = module._LOOK_EVERY = LOOK
    rng = random.Random(seed)
    stop = Stop(board)
    slow = rng.choice((0.0, 0.0, 0.02))
    spin = rng.choice((None, None, 0, 1e-4))

    def note(ordinal: int, timestamp: int, data: bytes) -> None:
        os.write(log, RECORD.pack(ordinal, timestamp, len(data)) + data)

    def take(event: Any) -> None:
        data = bytes(event.data)
        if zlib.crc32(data) != event.checksum:  # cut after it was handed out: the bytes are those of the file
            raise ChangedError(f"the bytes of event {event.ordinal}")
        if rng.random() < slow:
            time.sleep(rng.random() * 0.004)
        note(event.ordinal, event.timestamp, data)
        stop.next = event.ordinal + 1

    how = b"stopped"
    try:
        with evtape.open(path) as tape:
            if kind == "cursor":
                with tape.cursor(cursor) as place:
                    stop.next = place.ordinal
                    note(COMMITTED, place.ordinal, b"")
                    for event in place.follow(stop_event=stop, spin=spin):
                        take(event)
                        if rng.random() < 0.1:
                            place.commit()
                            note(COMMITTED, place.committed, b"")
            else:
                start = len(tape) if start == "end" else start
                stop.next = start
                for part in tape.follow(start, stop_event=stop, spin=spin, batch=kind == "batch"):
                    for event in part if kind == "batch" else (part,):
                        take(event)
    except (evtape.Error, IndexError, ChangedError) as error:
        how = f"{type(error).__name__}: {error}".encode()
    note(ENDED, 0, how)


# --------------------------------------------------------------------------------------- the records


@dataclass
class Consumer:
    """A process that follows, and what is known about it."""

    pid: int
    log: Path
    kind: str
    cursor: str
    began: float
    alive: bool = True
    killed: bool = False
    got: Events = field(default_factory=list)
    first: int = -1
    commits: list[int] = field(default_factory=list)
    ended: str = ""

    def read(self) -> str:
        """Read the log; returns what is wrong with the order."""
        data, at = self.log.read_bytes(), 0
        while at + RECORD.size <= len(data):
            ordinal, timestamp, size = RECORD.unpack_from(data, at)
            body = data[at + RECORD.size : at + RECORD.size + size]
            at += RECORD.size + size
            if len(body) < size:
                break
            if ordinal == ENDED:
                self.ended = body.decode()
            elif ordinal == COMMITTED:
                self.commits.append(timestamp)
            else:
                if self.first < 0:
                    self.first = ordinal
                if ordinal != self.first + len(self.got):
                    return f"event {ordinal} after {self.first + len(self.got) - 1}"
                self.got.append((timestamp, body))
        return ""


@dataclass
class Version:
    """What a file held before it was cut, replaced or left."""

    inode: int
    events: Events
    until: float


def parsed(path: str | int) -> Events:
    """The events of a stream, by its format alone."""
    with open(path, "rb", closefd=isinstance(path, str)) as file:
        file.seek(0)
        data = file.read()
    end, at, events = struct.unpack_from("<q", data)[0], 24, []
    while at < end:
        timestamp, size = struct.unpack_from("<qI", data, at)
        events.append((timestamp, data[at + 16 : at + 16 + size]))
        at += 16 + size
    return events


# --------------------------------------------------------------------------------------------- round


class Round:
    """One stream, its processes and what happens to them."""

    def __init__(self, ctx: Context, number: int, writing: Any, following: Any, label: str) -> None:
        self.ctx, self.label = ctx, f"round {number}, {label}"
        self.rng = random.Random(f"{ctx.seed}-{number}")
        self.writing, self.following = writing, following
        self.directory = ctx.work / f"round-{number}"
        self.directory.mkdir()
        self.path = str(self.directory / "chaos.tape")
        self.board = kill.Board()
        self.generation = 0
        self.versions: list[Version] = []
        self.consumers: list[Consumer] = []
        self.cuts: list[float] = []  # when each was over
        self.replaced = 0.0
        self.cursors = 0
        self.writer = 0
        self.story: list[str] = []

    def violation(self, kind: str, detail: str) -> None:
        self.ctx.violation(kind, f"{self.label}: {detail}; {', '.join(self.story)}")

    def seed(self) -> int:
        return self.rng.randrange(1 << 30)

    # -------------------------------------------------------------------------------- starting, ending

    def start_writer(self, mode: str = "a") -> None:
        seed = self.seed()
        generation, self.generation = self.generation, self.generation + 1
        self.writer = kill.fork(lambda: write(self.writing, self.path, mode, generation, seed, self.board))

    def end_writer(self) -> None:
        os.kill(self.writer, signal.SIGKILL)
        _, status = os.waitpid(self.writer, 0)
        self.ctx.count("writers killed")
        if not os.WIFSIGNALED(status):
            self.violation("a writer ended by itself", harness.tell(status))

    def start_consumer(self, kind: str, cursor: str = "", start: Any = 0) -> None:
        log = self.directory / f"log-{len(self.consumers)}"
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        seed = self.seed()
        began = time.monotonic()
        pid = kill.fork(lambda: consume(self.following, self.path, kind, cursor, start, seed, fd, self.board))
        os.close(fd)
        self.consumers.append(Consumer(pid, log, kind, cursor, began))

    def kill_consumer(self, consumer: Consumer) -> None:
        if self.reaped(consumer, os.WNOHANG):
            return
        os.kill(consumer.pid, signal.SIGKILL)
        consumer.killed = True
        os.waitpid(consumer.pid, 0)
        consumer.alive = False
        self.ctx.count("consumers killed")

    def reaped(self, consumer: Consumer, how: int) -> bool:
        if consumer.alive:
            pid, status = os.waitpid(consumer.pid, how)
            if pid:
                consumer.alive = False
                if status:
                    self.violation("a consumer died", f"{consumer.kind}: {harness.tell(status)}")
        return not consumer.alive

    def living(self, *kinds: str) -> list[Consumer]:
        return [each for each in self.consumers if each.kind in kinds and not self.reaped(each, os.WNOHANG)]

    def keep(self) -> Version:
        """Remember what the stream holds now that its writer is dead."""
        version = Version(os.stat(self.path).st_ino, parsed(self.path), time.monotonic())
        self.versions.append(version)
        return version

    # ------------------------------------------------------------------------------- what can happen

    def writer_killed(self) -> None:
        self.end_writer()
        self.start_writer()

    def writer_stopped(self) -> None:
        os.kill(self.writer, signal.SIGSTOP)
        time.sleep(self.rng.random() * 0.01)
        os.kill(self.writer, signal.SIGCONT)
        self.ctx.count("stops")

    def consumer_stopped(self) -> None:
        """While something else happens."""
        living = self.living("follow", "batch", "cursor")
        if living:
            chosen = self.rng.choice(living)
            os.kill(chosen.pid, signal.SIGSTOP)
            steps = Round.writer_killed, Round.writer_stopped, Round.cut, Round.cut, Round.replace
            self.happen(self.rng.choice(steps))
            time.sleep(self.rng.random() * 0.008)
            os.kill(chosen.pid, signal.SIGCONT)
            self.ctx.count("stops")

    def follower_killed(self) -> None:
        living = self.living("follow", "batch")
        if living:
            self.kill_consumer(self.rng.choice(living))
        self.start_consumer(self.rng.choice(("follow", "batch")), start=self.rng.choice((0, 0, "end")))

    def consumer_restarts(self) -> None:
        """The consumer with the cursor is killed, and goes on."""
        for consumer in self.living("cursor"):
            self.kill_consumer(consumer)
        self.start_consumer("cursor", self.cursor_name())

    def cursor_name(self) -> str:
        """The cursor, or a new one where the last one was refused."""
        of_cursor = [each for each in self.consumers if each.cursor == f"c{self.cursors}"]
        if of_cursor and not of_cursor[-1].alive and not of_cursor[-1].killed:
            of_cursor[-1].read()
            if of_cursor[-1].ended.startswith("CursorError"):
                self.cursors += 1
            of_cursor[-1].got, of_cursor[-1].first, of_cursor[-1].commits = [], -1, []
        return f"c{self.cursors}"

    def cursor_flipped(self) -> None:
        """A bit of the cursor's file flips while no consumer has it."""
        for consumer in self.living("cursor"):
            self.kill_consumer(consumer)
        name = self.cursor_name()
        file = Path(f"{self.path}.cursor-{name}")
        good = file.read_bytes() if file.exists() else b""
        if good:
            bit = self.rng.randrange(8 * len(good))
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bad)
            try:
                with self.following.open(self.path) as tape, tape.cursor(name) as cursor:
                    self.violation("a flipped bit of a cursor is not noticed", f"bit {bit}: {cursor.ordinal}")
            except self.following.CursorError:
                self.ctx.count("flipped bits of cursors refused")
            file.write_bytes(good)
        self.start_consumer("cursor", name)

    def beside_harmed(self) -> None:
        """A file beside the stream is deleted, cut or overwritten."""
        file = self.path + self.rng.choice((".live", ".live", ".side"))
        how = self.rng.randrange(4)
        with contextlib.suppress(FileNotFoundError):
            if how == 0:
                os.unlink(file)
            elif how == 1:
                os.truncate(file, self.rng.choice((0, 10, 100, 5000)))
            else:
                with open(file, "r+b") as out:
                    out.seek(self.rng.choice((0, 0, 64, 72)))
                    out.write(self.rng.randbytes(self.rng.choice((1, 8, 64, 4000))))
            self.ctx.count("files beside the stream harmed")

    def replace(self) -> None:
        """Another stream gets the name."""
        self.end_writer()
        inode = self.keep().inode
        self.held = getattr(self, "held", [])
        self.held.append(os.open(self.path, os.O_RDONLY))  # so that the inode is not given to another file
        self.start_writer("w")
        until = time.monotonic() + PATIENCE
        while os.stat(self.path).st_ino == inode:
            if time.monotonic() > until:
                self.violation("a stream is not replaced", "")
                return
            time.sleep(0.0005)
        self.replaced = time.monotonic()
        self.ctx.count("replacements")

    def cut(self) -> None:
        """The stream loses its last events: in the file or in its header. Recovery, and another writer goes on."""
        self.end_writer()
        events = self.keep().events
        kept = self.rng.randrange(max(1, len(events) - 300), max(1, len(events)) + 1)
        end = 24 + sum(16 + len(data) for _, data in events[:kept])
        if kept >= len(events):
            self.start_writer()
            return
        if self.rng.random() < 0.5:
            os.truncate(self.path, end + self.rng.randrange(16))
        else:
            with open(self.path, "r+b") as file:
                file.write(struct.pack("<qq", end, kept))
        if self.rng.random() < 0.5:
            time.sleep(self.rng.random() * 0.02)
        self.writing.recover(self.path)
        self.start_writer()
        self.cuts.append(time.monotonic())
        self.ctx.count("cuts")

    def happen(self, step: Callable[[Round], None]) -> None:
        self.story.append(step.__name__)
        step(self)

    # --------------------------------------------------------------------------------------- the whole

    def run(self) -> None:
        try:
            self.start_writer("w")
            until = time.monotonic() + PATIENCE
            while not os.path.exists(self.path) and time.monotonic() < until:
                time.sleep(0.0005)
            self.start_consumer(self.rng.choice(("follow", "batch")))
            self.start_consumer("cursor", "c0")
            for _ in range(self.rng.randrange(2, 6)):
                time.sleep(self.rng.random() * 0.008)
                self.happen(self.rng.choices([step for step, _ in STEPS], [weight for _, weight in STEPS])[0])
            self.finish()
            self.judge()
        except Exception as error:  # noqa: BLE001 - a round that cannot go on is a finding
            traceback.print_exc()
            self.violation("a round failed", f"{type(error).__name__}: {error}")
        finally:
            self.clean()

    def finish(self) -> None:
        """The writer closes, and the consumers receive the rest."""
        time.sleep(self.rng.random() * 0.004)
        self.board.words[FINISH] = 1
        _, status = os.waitpid(self.writer, 0)
        self.writer = 0
        if status:
            self.violation("a writer ended by itself", harness.tell(status))
        final = self.keep()
        self.board.words[FINAL] = len(final.events) + 1
        until = time.monotonic() + PATIENCE
        while any(not self.reaped(each, os.WNOHANG) for each in self.consumers):
            if time.monotonic() > until:
                for consumer in self.consumers:
                    if consumer.alive:
                        self.kill_consumer(consumer)
                        consumer.read()
                        self.violation(
                            "a consumer does not come to the end",
                            f"{consumer.kind}: {consumer.first} and {len(consumer.got)} of {len(final.events)}",
                        )
                return
            time.sleep(0.001)

    def clean(self) -> None:
        for consumer in self.consumers:
            if consumer.alive:
                self.kill_consumer(consumer)
        if self.writer:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.writer, signal.SIGKILL)
                os.waitpid(self.writer, 0)
        for fd in getattr(self, "held", []):
            os.close(fd)
        shutil.rmtree(self.directory)

    # --------------------------------------------------------------------------------------- judgement

    def judge(self) -> None:
        report = self.writing.verify(self.path)
        if report.state != "clean":
            self.violation("not clean at the end", f"{report.state} {report.reason}")
        ends: dict[str, int] = {}  # of each cursor: the event after the last one that a run has received
        commits: dict[str, int] = {}
        for consumer in self.consumers:
            consumer.got, consumer.first, consumer.commits = [], -1, []
            wrong = consumer.read() or self.judge_events(consumer)
            if not wrong and consumer.kind == "cursor":
                wrong = self.judge_cursor(consumer, ends, commits)
            if wrong:
                self.violation("a consumer got something else than what was published", f"{consumer.kind}: {wrong}")
            self.ctx.count("events compared", len(consumer.got))
            self.ctx.count(f"ended, {'killed' if consumer.killed else consumer.ended.partition(':')[0]}")

    def judge_events(self, consumer: Consumer) -> str:
        """One run is a part of one version, up to its end or to an exception that is true."""
        got, first, ended = consumer.got, consumer.first, consumer.ended
        last = {version.inode: version for version in self.versions}
        current = self.versions[-1]
        matching = [v for v in self.versions if v.events[first : first + len(got)] == got] if got else self.versions
        if not matching:
            same = [sum(map(operator.eq, version.events[first:], got)) for version in self.versions]
            sizes = [len(version.events) for version in self.versions]
            return (
                f"events {first} to {first + len(got)} are in no version of the stream: {same} agree, of {sizes}, "
                f"the last is {got[-1]} ({ended or 'killed'})"
            )
        name = ended.partition(":")[0]
        if consumer.killed:
            return ""
        if name == "stopped":
            if got and (current not in matching or first + len(got) != len(current.events)):
                return f"it stopped at {first + len(got)} of {len(current.events)}"
            return ""
        if name == "ReplacedError":
            whole = not got or any(
                v.inode != current.inode and last[v.inode] is v and first + len(got) == len(v.events) for v in matching
            )
            return "" if self.replaced and whole else f"{ended}, after {first + len(got)}"
        if name in (
            "RewoundError",
            "TruncatedError",
            "FormatError",
            "CorruptError",
            "CursorError",
            "IndexError",
            "ChangedError",
        ):
            cut = any(when >= consumer.began for when in self.cuts)
            before = name == "CursorError" and (bool(self.cuts) or bool(self.replaced))
            return "" if cut or before else f"{ended}, but nothing was cut"
        return f"it ended with {ended!r}"

    def judge_cursor(self, consumer: Consumer, ends: dict[str, int], commits: dict[str, int]) -> str:
        """A run goes on where the last commit was, or later, but not after the last event that was received."""
        name = consumer.cursor
        if consumer.commits:
            began, low, high = consumer.commits[0], commits.get(name, 0), ends.get(name, 0)
            if not low <= began <= high:
                return f"it went on at {began}; committed was {low}, and received up to {high}"
            if consumer.got and consumer.first != began:
                return f"its first event is {consumer.first}, and its place was {began}"
            for commit in consumer.commits[1:]:
                if not began <= commit <= began + len(consumer.got):
                    return f"it committed {commit} and had received {began} to {began + len(consumer.got)}"
            commits[name] = consumer.commits[-1]
        if consumer.got:
            ends[name] = max(ends.get(name, 0), consumer.first + len(consumer.got))
        return ""


STEPS: tuple[tuple[Callable[[Round], None], int], ...] = (
    (Round.writer_killed, 3),
    (Round.writer_stopped, 1),
    (Round.consumer_stopped, 3),
    (Round.follower_killed, 2),
    (Round.consumer_restarts, 4),
    (Round.cursor_flipped, 1),
    (Round.beside_harmed, 4),
    (Round.replace, 1),
    (Round.cut, 2),
)


def run(ctx: Context) -> None:
    """Rounds on all pairings of the cores."""
    warnings.simplefilter("ignore")
    cores = harness.both()
    pairings = [(writing, following) for writing in cores for following in cores]
    chosen = range(ctx.scale(16, 10_000))
    if ctx.only:  # one round, or FIRST-LAST
        first, _, last = ctx.only.partition("-")
        chosen = range(int(first), int(last or first) + 1)
    for number in ctx.progress(chosen, "chaos"):
        if ctx.expired:
            break
        writing, following = pairings[number % len(pairings)]
        Round(ctx, number, cores[writing], cores[following], f"{writing} to {following}").run()
        ctx.count(f"rounds, {writing} to {following}")
