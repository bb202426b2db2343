"""evtape as a contender. `EVTAPE_BACKEND` in the environment chooses the core, and the report names it.

prepared         `capacity` allocated and populated before the clock starts, one `append` per event
call             the same loop with a function that does nothing
many, array      as prepared, `append_many` and `append_array` with --batch events
c-many, c-array  not evtape: the C loop, called from here, on the same memory as these two
whole            create, append, close; whole-capacity passes the final size
append           the loop of `whole` alone
latency          the time of every single append to a cold stream; with --gap one begins every so many ns
latency-close, latency-interval: the same with that durability, the interval being 50 ms
feed, tail       one process appends every --gap ns, another one follows
verify, iterate, timestamps: reading
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import time
from typing import Literal

import numpy as np

import evtape
from bench.builder import C_LIBRARY
from bench.workload import (
    Job,
    Run,
    contender_main,
    passes,
    payload_rows,
    percentiles,
    stream_bytes,
    timed,
    timed_appends,
)


def create(job: Job, capacity: bool = False) -> evtape.Writer:
    room = stream_bytes(job.events, job.size) if capacity else 0
    return evtape.open(job.path, "w", capacity=room, durability="none")


def append_each(tape: evtape.Writer, job: Job) -> None:
    append = tape.append
    for payloads in passes(job.payloads, job.events):
        for data in payloads:
            append(data)


def run_prepared(job: Job) -> int:
    with create(job, capacity=True) as tape:
        return timed(lambda: append_each(tape, job))


def run_call(job: Job) -> int:
    """The cost of the loop and of a call into C: `callable` takes one argument and checks its type."""
    nothing = callable

    def action() -> None:
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                nothing(data)

    elapsed = timed(action)
    job.path.touch()
    return elapsed


def run_append(job: Job) -> int:
    with create(job) as tape:
        return timed(lambda: append_each(tape, job))


def run_whole(job: Job) -> int:
    start = time.perf_counter_ns()
    with create(job, capacity=job.mode == "whole-capacity") as tape:
        append_each(tape, job)
    return time.perf_counter_ns() - start


def run_many(job: Job) -> int:
    source = itertools.cycle(job.payloads)
    batches = [list(itertools.islice(source, min(job.batch, job.events - i))) for i in range(0, job.events, job.batch)]
    with create(job, capacity=True) as tape:

        def action() -> None:
            for payloads in batches:
                tape.append_many(payloads)

        return timed(action)


def run_array(job: Job) -> int:
    """Rows of the block of payloads. A batch ends at the end of the block, so that no row is copied beforehand."""
    rows = payload_rows(job.size)
    batches, left = [], job.events
    for start in itertools.cycle(range(0, len(rows), job.batch)):
        batches.append(rows[start : start + min(job.batch, left)])
        left -= len(batches[-1])
        if not left:
            break
    with create(job, capacity=True) as tape:

        def action() -> None:
            for part in batches:
                tape.append_array(part)

        return timed(action)


def run_c_loop(job: Job) -> int:
    """Run the C loop in this process, so that it differs from `many` and `array` in the loop only."""
    rows, payloads = payload_rows(job.size), job.payloads
    first_byte = bytes.__basicsize__ - 1  # of an object; the last byte of the basic size is the zero behind the data
    pointers = (ctypes.c_void_p * len(payloads))(*[id(data) + first_byte for data in payloads])
    loop = ctypes.CDLL(str(C_LIBRARY)).loop_over
    loop.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t] * 2 + [ctypes.c_int64] * 2
    listed = pointers if job.mode == "c-many" else None
    with evtape.MappedFile(job.path, "w", stream_bytes(job.events, job.size)) as file:
        base = np.frombuffer(file.view(writable=True), np.uint8).ctypes.data
        return timed(lambda: loop(base, rows.ctypes.data, listed, len(rows), job.size, job.events, job.batch))


LATENCY_DURABILITY: dict[str, Literal["none", "close", "interval"]] = {
    "latency": "none",
    "latency-close": "close",
    "latency-interval": "interval",
}
INTERVAL_SECONDS = 0.05


def run_latency(job: Job) -> int:
    durability = LATENCY_DURABILITY[job.mode]
    with evtape.open(job.path, "w", durability=durability, interval=INTERVAL_SECONDS) as tape:
        return timed_appends(job, tape.append)


def run_verify(job: Job) -> int:
    start = time.perf_counter_ns()
    report = evtape.verify(job.path)
    elapsed = time.perf_counter_ns() - start
    if (report.state, report.events) != ("clean", job.events):
        raise SystemExit(f"verify says {report.state}, {report.events} events")
    return elapsed


def run_iterate(job: Job) -> int:
    start = time.perf_counter_ns()
    count = 0
    with evtape.open(job.path) as tape:
        for _timestamp, _data in tape:
            count += 1
    elapsed = time.perf_counter_ns() - start
    if count != job.events:
        raise SystemExit(f"iterated over {count} of {job.events} events")
    return elapsed


def run_timestamps(job: Job) -> int:
    start = time.perf_counter_ns()
    with evtape.open(job.path) as tape:
        stamps = tape.timestamps
    elapsed = time.perf_counter_ns() - start
    if len(stamps) != job.events:
        raise SystemExit(f"{len(stamps)} of {job.events} timestamps")
    return elapsed


def run_feed(job: Job) -> int:
    """Append for another process that follows. Both get the name of the stream."""
    clock, gap = time.perf_counter_ns, job.gap
    with evtape.open(job.path, "a", durability="none") as tape:
        append = tape.append
        start = due = clock()
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                due += gap
                while gap and clock() < due:
                    pass
                append(data)
        return clock() - start


def run_tail(job: Job) -> int:
    """Latency from the timestamp of an event to the return of its checked payload."""
    with evtape.open(job.path, "x", durability="none"):
        pass  # The stream must exist before a reader can follow it.
    print("ready", file=sys.stderr, flush=True)
    samples = np.empty(job.events, np.int64)
    clock, first = time.time_ns, 0
    with evtape.open(job.path) as tape:
        for i, (timestamp, _data) in enumerate(tape.follow(spin=float("inf"))):
            samples[i] = clock() - timestamp
            if i == job.skip:
                first = time.perf_counter_ns()
            if i + 1 == job.events:
                break
    last = time.perf_counter_ns()
    job.path.unlink()
    job.extra["latency_ns"] = percentiles(samples[job.skip :].copy())
    # The report divides by all events, but the clock ran only for those after the skipped ones.
    return (last - first) * job.events // max(1, job.events - job.skip - 1)


MODES: dict[str, Run] = {
    "prepared": run_prepared,
    "append": run_append,
    "call": run_call,
    "whole": run_whole,
    "whole-capacity": run_whole,
    "many": run_many,
    "array": run_array,
    "c-many": run_c_loop,
    "c-array": run_c_loop,
    **dict.fromkeys(LATENCY_DURABILITY, run_latency),
    "verify": run_verify,
    "iterate": run_iterate,
    "timestamps": run_timestamps,
    "feed": run_feed,
    "tail": run_tail,
}
READING: dict[str, Run] = dict.fromkeys(("verify", "iterate", "timestamps"), run_whole)

if __name__ == "__main__":
    contender_main("evtape", MODES, READING, core=evtape.backend)
