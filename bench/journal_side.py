"""A journal against a stream: what rolling costs a writer.

stream, journal      create, append, close; the segments of the journal have 64 MiB, and each gets its index
latency              the time of every single append to a stream; with --gap one begins every so many ns
latency-journal      the same to a journal
latency-small        the same to a journal with segments of 256 KiB
latency-retention    the same to one with such segments that keeps two of them
"""

from __future__ import annotations

import shutil

import evtape
from bench.workload import Job, Run, contender_main, passes, timed, timed_appends

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
    with opened(job) as tape:
        return timed_appends(job, tape.append)


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
