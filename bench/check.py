"""Checks one stream of every program that writes the format, with a walker that is independent of evtape.

The walker also compares the payloads with the workload, so that every contender writes the same data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from bench.builder import Program
from bench.experiment import Contender, Experiment
from bench.runner import NotRunError, Runner
from bench.workload import ENTRY_SIZE, HEADER_SIZE, payload_list

EVENTS, SIZE = 12_345, 100

WRITERS = [
    *(
        Contender(f"c-{mode}", "", "c", mode)
        for mode in ("prepared", "batch", "array", "cold", "whole", "buffer", "latency")
    ),
    Contender("c-zlib", "", "c", "prepared", ("--crc", "zlib")),
    *(
        Contender(f"go-{m}", "", "go", m)
        for m in ("prepared", "cold", "whole", "standard", "buffered", "channel-whole")
    ),
    *(Contender(f"zig-{mode}", "", "zig", mode) for mode in ("prepared", "cold", "whole")),
    *(Contender(f"python-{m}", "", "sequential", m) for m in ("prepared", "whole", "standard", "buffered", "channel")),
    *(
        Contender(f"evtape-{core}-{mode}", "", "evtape", mode, core=core)
        for core in ("native", "python")
        for mode in ("prepared", "whole", "many", "array", "latency")
    ),
    *(Contender(f"evtape-{mode}", "", "evtape", mode, core="native") for mode in ("c-many", "c-array")),
]
# Few events, because each of them waits for the disk.
DURABLE_EVENTS = 200
DURABLE_BATCH = ("--batch", "50")
DURABLE_WRITERS = [
    *(
        Contender(f"c-durable-{mode}", "", "c", f"durable-{mode}", DURABLE_BATCH)
        for mode in ("grow", "fallocate", "written", "header", "ordered", "batch", "batch-written", "sync")
    ),
    *(
        Contender(f"python-durable-{mode}", "", "durable", f"python-{mode}", DURABLE_BATCH)
        for mode in ("append", "grow-append", "batch", "grow-batch", "sync")
    ),
    *(
        Contender(f"evtape-{core}-durable-{mode}", "", "durable", f"evtape-{mode}", DURABLE_BATCH, core=core)
        for core in ("native", "python")
        for mode in ("append", "sized-append", "threads", "batch", "sized-batch", "sync", "sized-sync")
    ),
]
DISORDERED = ("channel", "threads")


def walk(path: Path, in_order: bool, events: int) -> int:
    """Return the number of events, or raise ValueError with the first problem."""
    content = path.read_bytes()
    end, count, start = struct.unpack_from("<qqq", content)
    if end != len(content):
        raise ValueError(f"WriteOffset {end}, but the file has {len(content)} bytes")
    payloads = payload_list(SIZE)
    known = set(payloads)
    at, seen, last = HEADER_SIZE, 0, start
    while at < end:
        stamp, size, crc = struct.unpack_from("<qII", content, at)
        data = content[at + ENTRY_SIZE : at + ENTRY_SIZE + size]
        if zlib.crc32(data) != crc:
            raise ValueError(f"checksum of event {seen}")
        if data not in known or (in_order and data != payloads[seen % len(payloads)]):
            raise ValueError(f"payload of event {seen}")
        if stamp < last:
            raise ValueError(f"timestamp of event {seen}")
        at, seen, last = at + ENTRY_SIZE + size, seen + 1, stamp
    if seen != count or seen != events:
        raise ValueError(f"EventCount {count}, walked {seen}, wanted {events}")
    return seen


class KeepingRunner(Runner):
    """Starts the contenders with --keep and checks the stream before it is deleted."""

    problem = ""
    events = EVENTS

    def program(self, contender: Contender) -> Program:
        found = super().program(contender)
        return found if found.why else Program([*found.command, "--keep"], version=found.version)

    def clean(self) -> None:
        streams = list(self.directory.glob("*.tape"))
        try:
            self.problem = "" if len(streams) == 1 else f"{len(streams)} streams"
            for stream in streams:
                walk(stream, not any(name in stream.name for name in DISORDERED), self.events)
        except (ValueError, struct.error) as error:
            self.problem = str(error)
        super().clean()


def check(directory: Path) -> Iterator[tuple[str, str]]:
    """Return the name of each writer with "good", "not run: ..." or "BAD: ..."."""
    runner = KeepingRunner(directory)
    for writers, events, warmup in ((WRITERS, EVENTS, 1), (DURABLE_WRITERS, DURABLE_EVENTS, 0)):
        runner.events = events
        experiment = Experiment("check", "", "", tuple(writers), events, SIZE, inner=1, warmup=warmup)
        for contender in writers:
            try:
                runner.once(experiment, contender)
            except NotRunError as reason:
                yield contender.key, f"not run: {reason}"
            else:
                yield contender.key, f"BAD: {runner.problem}" if runner.problem else "good"
