"""The events that every contender writes, and the arguments and the report of every program.

The payloads are `distinct` slices of one block of SplitMix64 output (seed 0, little-endian words), used in turn. The
programs in other languages generate the same bytes, so that a stream can be checked without knowledge of its writer.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HEADER_SIZE = 24
ENTRY_SIZE = 16
DISTINCT_MAX = 10_000
SOURCE_BYTES_MAX = 10_000 * 1024


def distinct_count(size: int) -> int:
    """10,000 payloads, or as many as fit into about 10 MB: more than an inner cache, and no payload twice in a row."""
    return min(DISTINCT_MAX, max(1, SOURCE_BYTES_MAX // size))


@functools.cache
def payload_rows(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """All payloads as the rows of one array."""
    count = distinct_count(size)
    with np.errstate(over="ignore"):
        z = np.arange(1, (count * size + 7) // 8 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    block = (z ^ (z >> np.uint64(31))).astype("<u8").view(np.uint8)
    return block[: count * size].reshape(count, size)


def payload_list(size: int) -> list[bytes]:
    return [row.tobytes() for row in payload_rows(size)]


def passes(payloads: list[bytes], events: int) -> Iterator[list[bytes]]:
    """Lists with `events` payloads together, so that the innermost loop of a contender runs over a plain list."""
    while events > len(payloads):
        yield payloads
        events -= len(payloads)
    yield payloads[:events]


def stream_bytes(events: int, size: int) -> int:
    return HEADER_SIZE + events * (ENTRY_SIZE + size)


def percentiles(samples: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, int]:
    """The percentiles that every latency mode reports, by the same rule as the programs in C and Java."""
    samples.sort()
    last = len(samples) - 1
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999, "max": 1.0}
    return {name: int(samples[int(last * share)]) for name, share in shares.items()}


class Job:
    """The arguments of one run of a contender. `extra` goes into its report."""

    def __init__(self, args: argparse.Namespace, path: Path) -> None:
        self.mode: str = args.mode
        self.events: int = args.events
        self.size: int = args.size
        self.batch: int = args.batch
        self.crc: str = args.crc
        self.gap: int = args.gap
        self.skip: int = args.skip
        self.path = path
        self.payloads: list[bytes] = []
        self.extra: dict[str, Any] = {}

    def make_payloads(self) -> None:
        self.payloads = payload_list(self.size)


# A run returns the nanoseconds for all its events.
Run = Callable[[Job], int]


def parse_args(modes: dict[str, Run], argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One contender: prints one JSON object.")
    parser.add_argument("--mode", required=True, choices=sorted(modes))
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--crc", choices=["zlib", "none"], default="zlib")
    parser.add_argument("--gap", type=int, default=0, help="ns between two events of a feed, or of a latency mode")
    parser.add_argument("--skip", type=int, default=0, help="events of a tail that are not counted")
    parser.add_argument("--name", default="", help="file name of a stream that two contenders share")
    parser.add_argument("--dir", type=Path, default=Path())
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args(argv)


def remove(path: Path) -> None:
    """Remove the output of a contender: a file, a directory, or several files that begin with its name."""
    for found in path.parent.glob(path.name + "*"):
        if found.is_dir():
            for child in found.iterdir():
                child.unlink()
            found.rmdir()
        else:
            found.unlink()


def contender_main(peer: str, modes: dict[str, Run], reading: dict[str, Run] | None = None, **about: str) -> None:
    """Run one contender. `reading` maps a mode to the function that writes its file once, before the repetitions."""
    args = parse_args(modes)
    path = args.dir / (args.name or f"{peer}-{args.mode}-{os.getpid()}.tape")
    job = Job(args, path)
    job.make_payloads()
    prepare = (reading or {}).get(args.mode)
    if prepare is not None:
        prepare(job)
    results: list[float] = []
    for index in range(args.warmup + args.repeat):
        elapsed = modes[args.mode](job)
        if index >= args.warmup:
            results.append(round(elapsed / args.events, 3))
        last = index + 1 == args.warmup + args.repeat
        # Two processes share a named stream. The one that reads it to the end deletes it.
        if prepare is None and not args.name and not (args.keep and last):
            remove(path)
    if prepare is not None and not args.keep:
        remove(path)
    report = {"peer": peer, "mode": args.mode, "events": args.events, "size": args.size, "ns_per_event": results}
    print(json.dumps({**report, **about, **job.extra}), flush=True)


def timed(action: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def timed_appends(job: Job, append: Callable[[bytes], object]) -> int:
    """Time every single append; with a gap one begins every so many ns. Returns the time of all, in ns.

    One clock reading between two appends. Every sample includes the reading and the loop.
    """
    samples, i = array("q", bytes(8 * job.events)), 0
    clock, gap = time.perf_counter_ns, job.gap
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


def median(values: list[float]) -> float:
    return float(statistics.median(values))
