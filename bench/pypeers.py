"""The Python packages that do a similar job, each in its fastest suitable mode. The clock covers the whole job.

Every event has a timestamp and, with `--crc zlib` (the default), a CRC-32 that is stored with the payload. This is the
same work as evtape's. `--crc none` omits the checksum if the package has none of its own, which is the usual choice.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from bench.workload import Job, Run, contender_main, passes, timed

BATCH = 1000
ROOM_FACTOR = 3


def checksum_of(job: Job) -> Any:
    """A CRC for every event, or none for `--crc none`."""
    return zlib.crc32 if job.crc == "zlib" else None


def batches(job: Job) -> Iterator[list[bytes]]:
    for payloads in passes(job.payloads, job.events):
        for start in range(0, len(payloads), BATCH):
            yield payloads[start : start + BATCH]


def write_arrow(job: Job) -> int:
    """An IPC stream in batches of 1,000. Lists of columns form a row group."""
    import pyarrow as pa

    crc32, clock = checksum_of(job), time.time_ns
    fields = [("timestamp", pa.int64()), ("data", pa.binary())] + ([("checksum", pa.uint32())] if crc32 else [])
    schema = pa.schema(fields)

    def action() -> None:
        with pa.OSFile(str(job.path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for payloads in batches(job):
                stamps = pa.array([clock() for _ in payloads], pa.int64())
                columns = [stamps, pa.array(payloads, pa.binary())]
                if crc32:
                    columns.append(pa.array([crc32(data) for data in payloads], pa.uint32()))
                writer.write_batch(pa.record_batch(columns, schema=schema))

    return timed(action)


def open_lmdb(job: Job, writing: bool) -> Any:
    import lmdb

    room = ROOM_FACTOR * job.events * max(job.size + 64, 256) + (16 << 20)
    # With a writable map LMDB need not copy every page. This is its fastest mode without sync.
    return lmdb.open(
        str(job.path),
        subdir=False,
        map_size=room,
        sync=False,
        metasync=False,
        lock=False,
        writemap=writing,
        readonly=not writing,
    )


def write_lmdb(job: Job) -> int:
    """One transaction; keys are appended in order. The key holds time, ordinal and CRC, so no payload is copied."""
    crc32, clock, pack = checksum_of(job), time.time_ns, struct.Struct(">QQI").pack

    def action() -> None:
        env = open_lmdb(job, writing=True)
        with env.begin(write=True, buffers=True) as txn:
            put, ordinal = txn.put, 0
            for payloads in passes(job.payloads, job.events):
                for data in payloads:
                    put(pack(clock(), ordinal, crc32(data) if crc32 else 0), data, append=True)
                    ordinal += 1
        env.close()

    return timed(action)


def iterate_lmdb(job: Job) -> int:
    """A cursor with buffers, the fastest way in py-lmdb: no copy, no decoding of the key, no CRC."""

    def action() -> None:
        env = open_lmdb(job, writing=False)
        count = 0
        with env.begin(buffers=True) as txn:
            for _key, _data in txn.cursor():
                count += 1
        env.close()
        if count != job.events:
            raise SystemExit(f"read {count} of {job.events} events")

    return timed(action)


def write_mcap(job: Job) -> int:
    """Chunks without compression. mcap has its own CRC per chunk, so `--crc` changes nothing."""
    from mcap.writer import CompressionType, Writer

    clock = time.time_ns

    def action() -> None:
        with open(job.path, "wb") as stream:
            writer = Writer(stream, compression=CompressionType.NONE)
            writer.start()
            schema = writer.register_schema(name="event", encoding="", data=b"")
            channel = writer.register_channel(topic="events", message_encoding="", schema_id=schema)
            add = writer.add_message
            for payloads in passes(job.payloads, job.events):
                for data in payloads:
                    stamp = clock()
                    add(channel_id=channel, log_time=stamp, data=data, publish_time=stamp)
            writer.finish()  # type: ignore[no-untyped-call]

    return timed(action)


def write_sqlite(job: Job) -> int:
    """WAL, no sync, one transaction, one prepared statement over a generator."""
    crc32, clock = checksum_of(job), time.time_ns

    def action() -> None:
        base = sqlite3.connect(job.path, isolation_level=None)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=OFF")
        base.execute(
            "CREATE TABLE events (ordinal INTEGER PRIMARY KEY, timestamp INTEGER, checksum INTEGER, data BLOB)"
        )
        base.execute("BEGIN")
        payloads = chain.from_iterable(passes(job.payloads, job.events))
        rows = ((clock(), crc32(data) if crc32 else None, data) for data in payloads)
        base.executemany("INSERT INTO events (timestamp, checksum, data) VALUES (?, ?, ?)", rows)
        base.execute("COMMIT")
        base.close()

    return timed(action)


def write_h5py(job: Job) -> int:
    """Chunked, resizable data sets of fixed rows, grown by 1,000 rows at a time."""
    import h5py
    import numpy as np

    crc32, clock, size = checksum_of(job), time.time_ns, job.size

    def action() -> None:
        with h5py.File(job.path, "w", libver="latest") as file:
            stamps = file.create_dataset("timestamp", (0,), "i8", maxshape=(None,), chunks=(BATCH,))
            data = file.create_dataset("data", (0, size), "u1", maxshape=(None, size), chunks=(BATCH, size))
            sums = file.create_dataset("checksum", (0,), "u4", maxshape=(None,), chunks=(BATCH,)) if crc32 else None
            end = 0
            for payloads in batches(job):
                start, end = end, end + len(payloads)
                stamps.resize((end,))
                stamps[start:end] = np.array([clock() for _ in payloads], "i8")
                data.resize((end, size))
                data[start:end] = np.frombuffer(b"".join(payloads), "u1").reshape(len(payloads), size)
                if sums is not None and crc32:
                    sums.resize((end,))
                    sums[start:end] = np.array([crc32(part) for part in payloads], "u4")

    return timed(action)


MODES: dict[str, Run] = {
    "pyarrow": write_arrow,
    "lmdb": write_lmdb,
    "lmdb-iterate": iterate_lmdb,
    "mcap": write_mcap,
    "sqlite": write_sqlite,
    "h5py": write_h5py,
}
MODULES = {"pyarrow": "pyarrow", "lmdb": "lmdb", "lmdb-iterate": "lmdb", "mcap": "mcap", "h5py": "h5py"}


def version_of(mode: str) -> str:
    from importlib.metadata import version

    return sqlite3.sqlite_version if mode == "sqlite" else version(MODULES[mode])


if __name__ == "__main__":
    chosen = sys.argv[sys.argv.index("--mode") + 1] if "--mode" in sys.argv else "sqlite"
    about = {"version": version_of(chosen)} if chosen in MODES else {}
    contender_main("peer", MODES, {"lmdb-iterate": write_lmdb}, **about)
