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


def walk(path: Path, in_order: bool) -> int:
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
    if seen != count or seen != EVENTS:
        raise ValueError(f"EventCount {count}, walked {seen}, wanted {EVENTS}")
    return seen


class KeepingRunner(Runner):
    """Starts the contenders with --keep and checks the stream before it is deleted."""

    problem = ""

    def program(self, contender: Contender) -> Program:
        found = super().program(contender)
        return found if found.why else Program([*found.command, "--keep"], version=found.version)

    def clean(self) -> None:
        streams = list(self.directory.glob("*.tape"))
        try:
            self.problem = "" if len(streams) == 1 else f"{len(streams)} streams"
            for stream in streams:
                walk(stream, in_order="channel" not in stream.name)
        except (ValueError, struct.error) as error:
            self.problem = str(error)
        super().clean()


def check(directory: Path) -> Iterator[tuple[str, str]]:
    """Return the name of each writer with "good", "not run: ..." or "BAD: ..."."""
    runner = KeepingRunner(directory)
    experiment = Experiment("check", "", "", tuple(WRITERS), EVENTS, SIZE, inner=1, warmup=1)
    for contender in WRITERS:
        try:
            runner.once(experiment, contender)
        except NotRunError as reason:
            yield contender.key, f"not run: {reason}"
        else:
            yield contender.key, f"BAD: {runner.problem}" if runner.problem else "good"
