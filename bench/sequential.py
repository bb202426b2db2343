"""The article's methods written by hand in Python, without evtape.

  standard   one write() per event                       prepared   struct + mmap + zlib, pages touched before the clock
  buffered   BufferedWriter with 1 MiB                   cold       the same, pages not touched
  channel    producer threads, a queue, one writer       whole      the same: create, append, cut, close

The three sequential methods also have a "-whole" mode, which times creation and closing. They store the header once, at
the close, because another write per event would make them slower than the method in the article.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import zlib

from bench.workload import ENTRY_SIZE, HEADER_SIZE, Job, Run, contender_main, passes, stream_bytes
from evtape._methods import SEQUENTIAL

HEADER = struct.Struct("<qqq")
ENTRY = struct.Struct("<qII")
END = struct.Struct("<qq")


def open_new(job: Job) -> int:
    return os.open(job.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def finish(fd: int, job: Job, started_at: int) -> None:
    os.pwrite(fd, HEADER.pack(stream_bytes(job.events, job.size), job.events, started_at), 0)
    os.close(fd)


def run_sequential(job: Job) -> int:
    method, _, whole = job.mode.partition("-")
    append = SEQUENTIAL[method]
    created = time.perf_counter_ns()
    fd, started_at = open_new(job), time.time_ns()
    os.write(fd, bytes(HEADER_SIZE))
    start = time.perf_counter_ns()
    append(fd, passes(job.payloads, job.events))
    end = time.perf_counter_ns()
    finish(fd, job, started_at)
    return time.perf_counter_ns() - created if whole else end - start


def append_mapped(region: mmap.mmap, job: Job) -> None:
    """The article's loop in Python: pack_into for the header and the entry, and a slice for the payload."""
    put_entry, put_end = ENTRY.pack_into, END.pack_into
    clock, crc32, size = time.time_ns, zlib.crc32, job.size
    at, count = HEADER_SIZE, 0
    for payloads in passes(job.payloads, job.events):
        for data in payloads:
            put_entry(region, at, clock(), size, crc32(data))
            end = at + ENTRY_SIZE + size
            region[at + ENTRY_SIZE : end] = data
            at = end
            count += 1
            put_end(region, 0, at, count)


class Mapped:
    """The same loop as a method that a program can use and threads may call."""

    def __init__(self, region: mmap.mmap) -> None:
        self.region, self.at, self.count, self.lock = region, HEADER_SIZE, 0, threading.Lock()

    def append(self, data: bytes) -> int:
        size = len(data)
        with self.lock:
            at, start = self.at, self.at + ENTRY_SIZE
            ENTRY.pack_into(self.region, at, time.time_ns(), size, zlib.crc32(data))
            self.region[start : start + size] = data
            self.at = start + size
            self.count += 1
            END.pack_into(self.region, 0, self.at, self.count)
            return self.count


def append_method(region: mmap.mmap, job: Job) -> None:
    append = Mapped(region).append
    for payloads in passes(job.payloads, job.events):
        for data in payloads:
            append(data)


def run_mapped(job: Job) -> int:
    created = time.perf_counter_ns()
    fd, size = open_new(job), stream_bytes(job.events, job.size)
    os.ftruncate(fd, size)
    region = mmap.mmap(fd, size)
    HEADER.pack_into(region, 0, HEADER_SIZE, 0, time.time_ns())
    if job.mode in ("prepared", "method"):
        for at in range(mmap.PAGESIZE, size, mmap.PAGESIZE):
            region[at] = 0
    start = time.perf_counter_ns()
    (append_method if job.mode == "method" else append_mapped)(region, job)
    end = time.perf_counter_ns()
    region.close()
    os.ftruncate(fd, size)
    os.close(fd)
    return time.perf_counter_ns() - created if job.mode == "whole" else end - start


MODES: dict[str, Run] = {
    **{
        f"{method}{suffix}": run_sequential
        for method in ("standard", "buffered", "channel")
        for suffix in ("", "-whole")
    },
    **dict.fromkeys(("prepared", "method", "cold", "whole"), run_mapped),
}

if __name__ == "__main__":
    contender_main("python", MODES, crc="zlib")
