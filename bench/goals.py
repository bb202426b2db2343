"""The table of goals: each goal as a ratio within one run, and the measured ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.results import Spread, ratio, row_of, spread, values_of


@dataclass(frozen=True)
class Goal:
    """`ours` should be at least `target` times as fast as `theirs` by `metric`."""

    text: str
    experiment: str
    ours: str
    theirs: str
    target: float
    metric: str = "ns"


@dataclass(frozen=True)
class Outcome:
    text: str
    target: str
    measured: Spread | None
    reached: bool
    why: str = ""
    crc: str = ""


GOALS = (
    Goal("per-call append, prepared, 10,000: against Zig", "prepared", "evtape", "zig-mapped", 1.0),
    Goal("per-call append, prepared, 10,000: against Go", "prepared", "evtape", "go-mapped", 1.25),
    Goal("append_many, prepared: against a C batch loop, same CRC", "prepared", "evtape-many", "c-batch", 0.85),
    Goal(
        "append_many: against that loop over the same objects",
        "prepared",
        "evtape-many",
        "c-batch-here",
        0.85,
    ),
    Goal("append_array, prepared: against a C batch loop, same CRC", "prepared", "evtape-array", "c-array", 0.95),
    Goal("append_array: against that loop over the same rows", "prepared", "evtape-array", "c-array-here", 0.95),
    Goal("CRC-32 of 1 KB: against ISA-L", "checksum", "crc-best", "crc-isal", 0.9),
    Goal("CRC-32 of 1 KB: against stock zlib", "checksum", "crc-best", "crc-zlib", 5),
    Goal("whole job, 10,000: against naive Go mapping", "whole", "evtape", "go-mapped", 3.5),
    Goal("whole job, 10,000: against naive Zig mapping", "whole", "evtape", "zig-mapped", 3.5),
    Goal("whole job, 10,000: against C, 1 MiB buffer and write()", "whole", "evtape", "c-buffer", 1.1),
    Goal("whole job, 1,000,000: against naive Zig mapping", "whole-million", "evtape", "zig-mapped", 1.5),
    Goal("whole job, 1,000,000: against C, 1 MiB buffer and write()", "whole-million", "evtape", "c-buffer", 1.1),
    Goal("64-byte events, prepared, per call: against the C loop", "small", "evtape", "c", 0.4),
    Goal("64-byte events, prepared, append_many: against the C loop", "small", "evtape-many", "c-batch", 0.8),
    Goal(
        "64-byte events, append_many: against that loop over the same objects",
        "small",
        "evtape-many",
        "c-batch-here",
        0.8,
    ),
    Goal("64-byte events, prepared, append_array: against the C loop", "small", "evtape-array", "c-array", 0.8),
    Goal(
        "64-byte events, append_array: against that loop over the same rows",
        "small",
        "evtape-array",
        "c-array-here",
        0.8,
    ),
    Goal("whole job: against pyarrow IPC, batches of 1,000", "peers", "evtape", "pyarrow", 2),
    Goal("whole job: against pyarrow IPC that makes no CRC", "peers", "evtape", "pyarrow-no-crc", 2),
    Goal("whole job: against py-lmdb, append, one txn, no sync", "peers", "evtape", "lmdb", 5),
    Goal("whole job: against py-lmdb that makes no CRC", "peers", "evtape", "lmdb-no-crc", 5),
    Goal("whole job: against mcap", "peers", "evtape", "mcap", 15),
    Goal("whole job: against sqlite WAL", "peers", "evtape", "sqlite", 20),
    Goal("whole job: against sqlite WAL that makes no CRC", "peers", "evtape", "sqlite-no-crc", 20),
    Goal("whole job: against h5py", "peers", "evtape", "h5py", 3),
    Goal("whole job: against h5py that makes no CRC", "peers", "evtape", "h5py-no-crc", 3),
    Goal("verify, in the page cache: against a C scan, same CRC", "read", "evtape-verify", "c-scan", 0.9),
    Goal("iterate, CRC checked: against py-lmdb's cursor", "iterate", "evtape-iterate", "lmdb-iterate", 3),
    Goal("read all timestamps: against a C walk", "read", "evtape-timestamps", "c-walk", 0.8),
    Goal("latency of a cold append, p99.9: against naive mapping", "latency", "evtape", "c-naive", 5, "p99.9"),
    Goal("pure core, append: against a loop by hand", "prepared", "evtape-pure", "python-mapped", 1.0),
    Goal("pure core, append: against a method by hand", "prepared", "evtape-pure", "python-method", 1.0),
    Goal("pure core, append_many: against a loop by hand", "prepared", "evtape-pure-many", "python-mapped", 1.0),
)
FLATNESS_TARGET = 1.15


def outcome(goal: Goal, data: dict[str, Any]) -> Outcome:
    ours, theirs = (row_of(data, goal.experiment, key) for key in (goal.ours, goal.theirs))
    why = "; ".join(f"{row['label']}: {row['not_run']}" for row in (ours, theirs) if row["not_run"])
    measured = ratio(values_of(ours, goal.metric), values_of(theirs, goal.metric))
    crc = str(theirs.get("crc", ""))
    reached = measured is not None and measured.median >= goal.target
    return Outcome(goal.text, f">= {goal.target:g}x", measured, reached, why, crc)


def flatness(data: dict[str, Any], mode: str, size: int) -> Outcome:
    """Per repetition, the highest cost per event of the four lengths over the lowest; 1 is flat."""
    rows = [row_of(data, f"growth-{size}", f"{mode}-{power}") for power in (4, 5, 6, 7)]
    why = "; ".join(sorted({row["not_run"] for row in rows if row["not_run"]}))
    turns = list(zip(*(row["values"] for row in rows), strict=False))
    measured = spread([max(turn) / min(turn) for turn in turns])
    name = {"append": "append alone", "whole": "whole job", "c-buffer": "what C with a 1 MiB buffer shows here"}[mode]
    text = f"cost per event from 10^4 to 10^7 events, {size}-byte events, {name}"
    reached = measured is not None and measured.median <= FLATNESS_TARGET
    return Outcome(text, f"<= {FLATNESS_TARGET:g}x", measured, reached, why)


def outcomes(data: dict[str, Any]) -> list[Outcome]:
    found = [outcome(goal, data) for goal in GOALS]
    # The C program is a control: no contender can avoid what the disk does to it.
    return found + [flatness(data, mode, size) for size in (64, 1024) for mode in ("append", "whole", "c-buffer")]
