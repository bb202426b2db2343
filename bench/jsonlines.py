"""Compares JSON lines with a binary stream, for the same events: trades with five fields each.

The writing modes time the serialisation and the file. The parsing modes produce every field as a Python number, or one
numpy array for `tape-rows`. `file_bytes_per_event` in the report is the size on the disk.
"""

from __future__ import annotations

import json
import random
import struct
import time
from typing import NamedTuple

from bench.workload import Job, Run, contender_main

TRADE = struct.Struct("<Qdd4sf")
SEED = 7


class Trade(NamedTuple):
    identifier: int
    price: float
    quantity: float
    symbol: str
    fee: float


def trades(job: Job) -> list[Trade]:
    generator = random.Random(SEED)
    symbols = ("ABCD", "EFGH", "IJKL")
    return [
        Trade(
            i, round(generator.uniform(1, 999), 2), round(generator.expovariate(1), 4), generator.choice(symbols), 0.25
        )
        for i in range(job.events)
    ]


def note_size(job: Job) -> None:
    job.extra["file_bytes_per_event"] = round(job.path.stat().st_size / job.events, 2)


def write_json(job: Job) -> int:
    events, dumps, clock = trades(job), json.dumps, time.time_ns
    start = time.perf_counter_ns()
    with open(job.path, "w", encoding="utf-8", buffering=1 << 20) as file:
        file.writelines(dumps({"timestamp": clock(), **event._asdict()}) + "\n" for event in events)
    elapsed = time.perf_counter_ns() - start
    note_size(job)
    return elapsed


def write_tape(job: Job) -> int:
    import evtape

    events, pack = trades(job), TRADE.pack
    start = time.perf_counter_ns()
    with evtape.open(job.path, "w", durability="none") as tape:
        append = tape.append
        for number, price, quantity, symbol, fee in events:
            append(pack(number, price, quantity, symbol.encode(), fee))
    elapsed = time.perf_counter_ns() - start
    note_size(job)
    return elapsed


def parse_json(job: Job) -> int:
    note_size(job)
    start, loads = time.perf_counter_ns(), json.loads
    with open(job.path, encoding="utf-8") as file:
        total = sum(loads(line)["quantity"] for line in file)
    elapsed = time.perf_counter_ns() - start
    job.extra["total"] = round(total, 2)
    return elapsed


def parse_tape(job: Job) -> int:
    import evtape

    note_size(job)
    start, unpack = time.perf_counter_ns(), TRADE.unpack
    with evtape.open(job.path) as tape:
        total = sum(unpack(data)[2] for _timestamp, data in tape)
    elapsed = time.perf_counter_ns() - start
    job.extra["total"] = round(total, 2)
    return elapsed


def parse_rows(job: Job) -> int:
    import numpy as np

    import evtape

    note_size(job)
    fields = [("identifier", "<u8"), ("price", "<f8"), ("quantity", "<f8"), ("symbol", "S4"), ("fee", "<f4")]
    start = time.perf_counter_ns()
    with evtape.open(job.path) as tape:
        total = float(tape.rows(np.dtype(fields))["quantity"].sum())
    elapsed = time.perf_counter_ns() - start
    job.extra["total"] = round(total, 2)
    return elapsed


MODES: dict[str, Run] = {
    "json-write": write_json,
    "tape-write": write_tape,
    "json-parse": parse_json,
    "tape-parse": parse_tape,
    "tape-rows": parse_rows,
}
READING: dict[str, Run] = {"json-parse": write_json, "tape-parse": write_tape, "tape-rows": write_tape}

if __name__ == "__main__":
    contender_main("json-lines", MODES, READING)
