"""The index: what it costs a writer, and what it saves a reader.

whole, whole-off     create, append, close; with the index that a large stream gets by default, and without one
rebuild              `evtape.build_index`
opening              open, length, last event, and the events of a time window of 100 events
scan-opening         the same without an index
window, scan-window  a time window of 100 events, its payloads read: with the index, and by a pass over all timestamps
random, random-events     100,000 ordinals in random order: gathered into one array; as a list of events
lmdb-random, array-record-random: the same payloads out of these packages, in their fastest suitable way

An elapsed time is divided by the events of the stream, whatever was asked.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import evtape
from bench.workload import Job, Run, contender_main, passes, timed

ASKED = 100_000
WINDOW = 100
BATCH = 1000


def write(job: Job, index: bool | None) -> None:
    with evtape.open(job.path, "w", durability="none", index=index) as tape:
        append = tape.append
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                append(data)


def run_whole(job: Job) -> int:
    return timed(lambda: write(job, None if job.mode == "whole" else False))


def run_rebuild(job: Job) -> int:
    return timed(lambda: evtape.build_index(job.path))


def write_stream(job: Job) -> None:
    """Times of one microsecond from event to event, so that a window is known by its time."""
    with evtape.open(job.path, "w", durability="none", index=not job.mode.startswith("scan")) as tape:
        first = 0
        for payloads in passes(job.payloads, job.events):
            for start in range(0, len(payloads), BATCH):
                batch = payloads[start : start + BATCH]
                stamps = np.arange(first, first + len(batch), dtype=np.int64) * 1000 + 1
                tape.append_many(batch, stamps)
                first += len(batch)


def window_of(job: Job) -> tuple[int, int]:
    start = job.events // 2 * 1000
    return start, start + WINDOW * 1000


def run_opening(job: Job) -> int:
    low, high = window_of(job)

    def action() -> None:
        with evtape.open(job.path) as tape:
            if len(tape) != job.events or tape[-1].ordinal != job.events - 1:
                raise SystemExit("the stream has other events")
            if len(list(tape.between(starting_at=low, ending_before=high))) != WINDOW:
                raise SystemExit("the window has other events")

    return timed(action)


def run_window(job: Job) -> int:
    low, high = window_of(job)
    with evtape.open(job.path) as tape:

        def action() -> None:
            if job.mode == "window":
                found = list(tape.between(starting_at=low, ending_before=high))
            else:  # every event is looked at
                found = [event for event in tape if low <= event.timestamp < high]
            if len(found) != WINDOW:
                raise SystemExit(f"the window has {len(found)} events")

        return timed(action)


def asked(job: Job) -> Any:
    return np.random.default_rng(1).integers(0, job.events, min(ASKED, job.events))


def run_random(job: Job) -> int:
    ordinals = asked(job)
    with evtape.open(job.path) as tape:
        if job.mode == "random":
            part = tape[ordinals]
            return timed(part.gather)
        return timed(lambda: list(tape[ordinals]))


def write_lmdb(job: Job) -> None:
    from bench.pypeers import open_lmdb

    env = open_lmdb(job, writing=True)
    with env.begin(write=True) as txn:
        ordinal = 0
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                txn.put(ordinal.to_bytes(8, "big"), data, append=True)
                ordinal += 1
    env.close()


def run_lmdb(job: Job) -> int:
    from bench.pypeers import open_lmdb

    keys = [ordinal.to_bytes(8, "big") for ordinal in asked(job).tolist()]
    env = open_lmdb(job, writing=False)
    with env.begin() as txn:
        start = time.perf_counter_ns()
        found = list(map(txn.get, keys))
        elapsed = time.perf_counter_ns() - start
    env.close()
    if None in found:
        raise SystemExit("lmdb did not find an event")
    return elapsed


def write_array_record(job: Job) -> None:
    from array_record.python import array_record_module

    # One record a group is what its documentation asks for where reads are random.
    writer = array_record_module.ArrayRecordWriter(str(job.path), "group_size:1,uncompressed")
    for payloads in passes(job.payloads, job.events):
        for data in payloads:
            writer.write(data)
    writer.close()


def run_array_record(job: Job) -> int:
    from array_record.python import array_record_module

    ordinals = asked(job).tolist()
    reader = array_record_module.ArrayRecordReader(str(job.path))
    start = time.perf_counter_ns()
    found = reader.read(ordinals)
    elapsed = time.perf_counter_ns() - start
    reader.close()
    if len(found) != len(ordinals):
        raise SystemExit("array_record did not find an event")
    return elapsed


MODES: dict[str, Run] = {
    "whole": run_whole,
    "whole-off": run_whole,
    "rebuild": run_rebuild,
    "opening": run_opening,
    "scan-opening": run_opening,
    "window": run_window,
    "scan-window": run_window,
    "random": run_random,
    "random-events": run_random,
    "lmdb-random": run_lmdb,
    "array-record-random": run_array_record,
}
READING: dict[str, Any] = {
    **dict.fromkeys(
        ("rebuild", "opening", "scan-opening", "window", "scan-window", "random", "random-events"), write_stream
    ),
    "lmdb-random": write_lmdb,
    "array-record-random": write_array_record,
}

if __name__ == "__main__":
    contender_main("index", MODES, READING, core=evtape.backend)
