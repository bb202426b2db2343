"""Events that are durable when the call returns: evtape, Python by hand, and the packages that offer the same.

The clock covers the appends alone, and each append (each batch, each sync) is timed for the percentiles. Files and
databases are created before the clock, durably. Every event has a timestamp and a CRC-32, as in `bench.pypeers`. The
first word of a mode names the contender, the second one what it does:

append      one event for each flush              batch       --batch events for each flush
threads     as append, THREADS threads together   sync        --batch appends, then a flush; the percentiles are those
                                                              of the flush alone

evtape, evtape-sized  `durability="full"`, or "close" for `sync`; evtape-sized passes the final size as `capacity`
python, python-grow   pwrite() and fdatasync(), in written room as the reference of the C program, and in a growing file
sqlite, lmdb, rocksdict: see their functions
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any

import numpy as np

import evtape
from bench.workload import HEADER_SIZE, Job, Run, contender_main, percentiles, stream_bytes

THREADS = 8
SQLITE_SETTLING_ROWS = 1500
HEADER = struct.Struct("<qqq")
ENTRY = struct.Struct("<qII")
KEY = struct.Struct(">QQI")  # ordinal, time, CRC: big-endian, so that keys are in order and no payload is copied
INSERT = "INSERT INTO events (timestamp, checksum, data) VALUES (?, ?, ?)"
FLUSH = getattr(os, "fdatasync", os.fsync)

# Takes a payload, or a list of them for a batch. All of it is durable when it returns.
Append = Callable[[Any], object]
Opener = Callable[[Job], AbstractContextManager[Append]]


# ---------------------------------------------------------------------------------------------- clocks


def items_of(job: Job) -> Iterator[bytes]:
    return itertools.islice(itertools.cycle(job.payloads), job.events)


def batches_of(job: Job) -> list[list[bytes]]:
    items = items_of(job)
    return list(iter(lambda: list(itertools.islice(items, job.batch)), []))


def run_each(append: Append, items: Iterable[Any], samples: list[int]) -> int:
    """One clock reading between two appends, as in the latency of `bench.evtape_side`."""
    clock, add = time.perf_counter_ns, samples.append
    first = before = clock()
    for item in items:
        append(item)
        after = clock()
        add(after - before)
        before = after
    return before - first


def report_percentiles(job: Job, samples: list[int]) -> None:
    job.extra["latency_ns"] = percentiles(np.array(samples, np.int64))


def per_event(opener: Opener) -> Run:
    def run(job: Job) -> int:
        samples: list[int] = []
        with opener(job) as append:
            elapsed = run_each(append, list(items_of(job)), samples)
        report_percentiles(job, samples)
        return elapsed

    return run


def per_batch(opener: Opener) -> Run:
    def run(job: Job) -> int:
        samples: list[int] = []
        with opener(job) as append:
            elapsed = run_each(append, batches_of(job), samples)
        report_percentiles(job, samples)
        return elapsed

    return run


def per_thread(opener: Opener) -> Run:
    """All threads share what the opener gave. The clock runs from the barrier to the end of the last thread."""

    def run(job: Job) -> int:
        items = list(items_of(job))
        samples: list[list[int]] = [[] for _ in range(THREADS)]
        barrier = threading.Barrier(THREADS + 1)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            barrier.wait()
            try:
                run_each(append, items[number::THREADS], samples[number])
            except BaseException as error:  # noqa: BLE001 - it is raised again below
                failures.append(error)

        with opener(job) as append:
            threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
            for thread in threads:
                thread.start()
            barrier.wait()
            start = time.perf_counter_ns()
            for thread in threads:
                thread.join()
            elapsed = time.perf_counter_ns() - start
        if failures:
            raise failures[0]
        report_percentiles(job, [sample for part in samples for sample in part])
        return elapsed

    return run


# ---------------------------------------------------------------------------------------------- evtape


def create(job: Job, durability: Any) -> evtape.Writer:
    room = stream_bytes(job.events, job.size) if job.mode.startswith("evtape-sized") else 0
    return evtape.open(job.path, "w", capacity=room, durability=durability)


@contextmanager
def evtape_append(job: Job) -> Iterator[Append]:
    with create(job, "full") as tape:
        yield tape.append


@contextmanager
def evtape_batch(job: Job) -> Iterator[Append]:
    with create(job, "full") as tape:
        yield tape.append_many


def evtape_sync(job: Job) -> int:
    samples: list[int] = []
    clock = time.perf_counter_ns
    batches = batches_of(job)
    with create(job, "close") as tape:
        append, sync = tape.append, tape.sync
        first = clock()
        for payloads in batches:
            for data in payloads:
                append(data)
            before = clock()
            sync()
            samples.append(clock() - before)
        elapsed = clock() - first
    report_percentiles(job, samples)
    return elapsed


# ---------------------------------------------------------------------------------------------- by hand


class ByHand:
    """Entries in the order of the format. The header is stored at the end, outside the clock, as in the C program."""

    def __init__(self, job: Job, room: bool) -> None:
        self.fd = os.open(job.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.started_at, self.at, self.events = time.time_ns(), HEADER_SIZE, 0
        os.pwrite(self.fd, bytes(stream_bytes(job.events, job.size) if room else HEADER_SIZE), 0)
        os.fsync(self.fd)

    def append(self, data: bytes) -> None:
        self.write(ENTRY.pack(time.time_ns(), len(data), zlib.crc32(data)) + data, 1)
        FLUSH(self.fd)

    def append_many(self, payloads: list[bytes]) -> None:
        self.write_many(payloads)
        FLUSH(self.fd)

    def write_many(self, payloads: list[bytes]) -> None:
        now, crc32, pack = time.time_ns(), zlib.crc32, ENTRY.pack
        parts: list[bytes] = []
        for data in payloads:
            parts += (pack(now, len(data), crc32(data)), data)
        self.write(b"".join(parts), len(payloads))

    def write(self, entries: bytes, count: int) -> None:
        if os.pwrite(self.fd, entries, self.at) != len(entries):
            raise SystemExit("a short write")
        self.at += len(entries)
        self.events += count

    def close(self) -> None:
        os.pwrite(self.fd, HEADER.pack(self.at, self.events, self.started_at), 0)
        os.close(self.fd)


def by_hand(job: Job) -> ByHand:
    return ByHand(job, room=not job.mode.startswith("python-grow"))


@contextmanager
def python_append(job: Job) -> Iterator[Append]:
    with closing(by_hand(job)) as log:
        yield log.append


@contextmanager
def python_batch(job: Job) -> Iterator[Append]:
    with closing(by_hand(job)) as log:
        yield log.append_many


def python_sync(job: Job) -> int:
    samples: list[int] = []
    clock = time.perf_counter_ns
    batches = batches_of(job)
    with closing(by_hand(job)) as log:
        first = clock()
        for payloads in batches:
            log.write_many(payloads)
            before = clock()
            FLUSH(log.fd)
            samples.append(clock() - before)
        elapsed = clock() - first
    report_percentiles(job, samples)
    return elapsed


# ---------------------------------------------------------------------------------------------- SQLite


def sqlite_connect(job: Job) -> sqlite3.Connection:
    base = sqlite3.connect(job.path, isolation_level=None, timeout=60, check_same_thread=False)
    base.execute("PRAGMA synchronous=FULL")
    return base


@contextmanager
def sqlite_base(job: Job) -> Iterator[sqlite3.Connection]:
    """WAL, `synchronous=FULL`, checkpoints at the default 1,000 pages.

    The log of a new database grows with each commit, and a flush of a growing file is slower. "settled" inserts rows
    before the clock until the log has its final size and has been checkpointed, as in a database that is in use. SQLite
    removes the log when the last connection closes.
    """
    with closing(sqlite_connect(job)) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=OFF")
        base.execute(
            "CREATE TABLE events (ordinal INTEGER PRIMARY KEY, timestamp INTEGER, checksum INTEGER, data BLOB)"
        )
        for _ in range(SQLITE_SETTLING_ROWS if "settled" in job.mode else 0):
            base.execute(INSERT, (0, 0, bytes(job.size)))
        base.execute("PRAGMA synchronous=FULL")
        for path in (job.path, f"{job.path}-wal"):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        yield base


@contextmanager
def sqlite_append(job: Job) -> Iterator[Append]:
    """One insert for each transaction, by autocommit. The module keeps the prepared statement."""
    clock, crc32 = time.time_ns, zlib.crc32
    with sqlite_base(job) as base:
        execute = base.execute
        yield lambda data: execute(INSERT, (clock(), crc32(data), data))


@contextmanager
def sqlite_threads(job: Job) -> Iterator[Append]:
    """A connection for each thread, opened before the clock.

    A lock of Python admits one thread at a time. Without it a thread waits by sleeping for up to 100 ms, and the eight
    together are slower.
    """
    clock, crc32, lock, local = time.time_ns, zlib.crc32, threading.Lock(), threading.local()
    with sqlite_base(job), ExitStack() as stack:
        connections = [stack.enter_context(closing(sqlite_connect(job))) for _ in range(THREADS)]

        def append(data: bytes) -> None:
            execute = getattr(local, "execute", None)
            if execute is None:
                execute = local.execute = connections.pop().execute
            row = (clock(), crc32(data), data)
            with lock:
                execute(INSERT, row)

        yield append


@contextmanager
def sqlite_batch(job: Job) -> Iterator[Append]:
    """One transaction for each batch, one prepared statement over a generator."""
    clock, crc32 = time.time_ns, zlib.crc32
    with sqlite_base(job) as base:

        def append(payloads: list[bytes]) -> None:
            now = clock()
            base.execute("BEGIN")
            base.executemany(INSERT, ((now, crc32(data), data) for data in payloads))
            base.execute("COMMIT")

        yield append


# ------------------------------------------------------------------------------------- lmdb, rocksdict


def keys(job: Job) -> Callable[[bytes], bytes]:
    """The key of the next event. Threads may call it: `next` on a counter is one step."""
    clock, crc32, pack, ordinals = time.time_ns, zlib.crc32, KEY.pack, itertools.count()
    return lambda data: pack(next(ordinals), clock(), crc32(data))


@contextmanager
def lmdb_base(job: Job) -> Iterator[Any]:
    """A flush of the pages and of the meta page for each commit. No writable map, so LMDB writes with pwrite()."""
    import lmdb

    room = 3 * job.events * max(job.size + 64, 256) + (64 << 20)
    with closing(lmdb.open(str(job.path), subdir=False, map_size=room, lock=False)) as env:
        yield env


@contextmanager
def lmdb_append(job: Job) -> Iterator[Append]:
    """One put for each transaction, appended in the order of the keys."""
    key = keys(job)
    with lmdb_base(job) as env:

        def append(data: bytes) -> None:
            with env.begin(write=True) as txn:
                txn.put(key(data), data, append=True)

        yield append


@contextmanager
def lmdb_batch(job: Job) -> Iterator[Append]:
    """`putmulti` in one transaction for each batch."""
    key = keys(job)
    with lmdb_base(job) as env:

        def append(payloads: list[bytes]) -> None:
            with env.begin(write=True) as txn, txn.cursor() as cursor:
                cursor.putmulti([(key(data), data) for data in payloads], append=True)

        yield append


@contextmanager
def rocksdict_base(job: Job) -> Iterator[Any]:
    """Bytes without a type tag, and a sync of the write-ahead log for each write; all else as RocksDB has it.

    RocksDB joins the writes of several threads into one sync, but `put` keeps the GIL, so only one thread is inside.
    """
    import rocksdict

    with closing(rocksdict.Rdict(str(job.path), rocksdict.Options(raw_mode=True))) as base:
        options = rocksdict.WriteOptions()
        options.sync = True
        base.set_write_options(options)
        yield base


@contextmanager
def rocksdict_append(job: Job) -> Iterator[Append]:
    key = keys(job)
    with rocksdict_base(job) as base:
        put = base.put
        yield lambda data: put(key(data), data)


@contextmanager
def rocksdict_batch(job: Job) -> Iterator[Append]:
    """A `WriteBatch` for each batch."""
    import rocksdict

    key = keys(job)
    with rocksdict_base(job) as base:

        def append(payloads: list[bytes]) -> None:
            batch = rocksdict.WriteBatch(raw_mode=True)
            for data in payloads:
                batch.put(key(data), data)
            base.write(batch)

        yield append


MODES: dict[str, Run] = {
    **{f"{name}-append": per_event(evtape_append) for name in ("evtape", "evtape-sized")},
    **{f"{name}-batch": per_batch(evtape_batch) for name in ("evtape", "evtape-sized")},
    **{f"{name}-sync": evtape_sync for name in ("evtape", "evtape-sized")},
    "evtape-threads": per_thread(evtape_append),
    **{f"{name}-append": per_event(python_append) for name in ("python", "python-grow")},
    **{f"{name}-batch": per_batch(python_batch) for name in ("python", "python-grow")},
    "python-sync": python_sync,
    **{f"{name}-append": per_event(sqlite_append) for name in ("sqlite", "sqlite-settled")},
    "sqlite-threads": per_thread(sqlite_threads),
    "sqlite-batch": per_batch(sqlite_batch),
    "lmdb-append": per_event(lmdb_append),
    "lmdb-batch": per_batch(lmdb_batch),
    "rocksdict-append": per_event(rocksdict_append),
    "rocksdict-threads": per_thread(rocksdict_append),
    "rocksdict-batch": per_batch(rocksdict_batch),
}


def about(mode: str) -> dict[str, str]:
    from importlib.metadata import version

    name = mode.partition("-")[0]
    if name == "evtape":
        return {"core": evtape.backend}
    if name == "python":
        return {"crc": "zlib"}
    return {"version": sqlite3.sqlite_version if name == "sqlite" else version(name)}


if __name__ == "__main__":
    chosen = sys.argv[sys.argv.index("--mode") + 1] if "--mode" in sys.argv else ""
    contender_main("durable", MODES, None, **(about(chosen) if chosen in MODES else {}))
