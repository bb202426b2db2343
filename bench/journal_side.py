"""A journal against a stream: what rolling costs a writer.

stream, journal      create, append, close; the segments of the journal have 64 MiB, and each gets its index
latency              the time of every single append to a stream; with --gap one begins every so many ns
latency-journal      the same to a journal
latency-small        the same to a journal with segments of 256 KiB
latency-retention    the same to one with such segments that keeps two of them
"""

from __future__ import annotations

import shutil
import time
from array import array

import numpy as np

import evtape
from bench.workload import Job, Run, contender_main, passes, percentiles, timed

SETTINGS: dict[str, dict[str, int]] = {
    "journal": {},
    "latency-journal": {},
    "latency-small": {"roll_bytes": 256 << 10},
    "latency-retention": {"roll_bytes": 256 << 10, "keep_segments": 2},
}


def opened(job: Job) -> evtape.Writer:
    if job.path.is_dir():  # of the repetition before; "w" would empty it within the clock
        shutil.rmtree(job.path)
    durability = "close" if job.mode.startswith("latency") else "none"
    if job.mode not in SETTINGS:
        return evtape.open(job.path, "w", durability=durability)  # type: ignore[call-overload, no-any-return]
    return evtape.open_journal(job.path, "x", durability=durability, **SETTINGS[job.mode])  # type: ignore[call-overload, no-any-return]


def run_whole(job: Job) -> int:
    def action() -> None:
        with opened(job) as tape:
            append = tape.append
            for payloads in passes(job.payloads, job.events):
                for data in payloads:
                    append(data)

    return timed(action)


def run_latency(job: Job) -> int:
    """One clock reading between two appends. Every sample includes the reading and the loop."""
    samples = array("q", bytes(8 * job.events))
    clock, gap = time.perf_counter_ns, job.gap
    with opened(job) as tape:
        append, i = tape.append, 0
        first = before = due = clock()
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                if gap:
                    due += gap
                    while before < due:
                        before = clock()
                append(data)
                after = clock()
                samples[i] = after - before
                before = after
                i += 1
    job.extra["latency_ns"] = percentiles(np.frombuffer(samples, np.int64))
    return before - first


MODES: dict[str, Run] = {
    "stream": run_whole,
    "journal": run_whole,
    "latency": run_latency,
    "latency-journal": run_latency,
    "latency-small": run_latency,
    "latency-retention": run_latency,
}

if __name__ == "__main__":
    contender_main("journal", MODES, core=evtape.backend)
