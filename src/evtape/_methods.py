"""The methods of the article "Memory mapped files in Go", written once: for ``evtape bench`` and for ``bench/``.

Run as a program it times one of them, ``python -m evtape._methods METHOD DIRECTORY MESSAGES SIZE``, and prints
nanoseconds from the first message to the last. Each method has a process of its own, and ``EVTAPE_BACKEND`` chooses
the core of the mapped one.
"""

from __future__ import annotations

import io
import os
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence

import evtape
from evtape.core.format import ENTRY, ENTRY_SIZE, HEADER_SIZE

PRODUCERS = 4
BUFFER_BYTES = 1 << 20
CHANNEL_SIZE = 1024

_REPEATS = 7  # of which the median counts

Batches = Iterable[Sequence[bytes]]  #: messages as plain lists, so that the innermost loop is over one


def append_standard(fd: int, batches: Batches) -> None:
    """A write() per message."""
    write, pack, clock, crc32 = os.write, ENTRY.pack, time.time_ns, zlib.crc32
    for payloads in batches:
        for data in payloads:
            write(fd, pack(clock(), len(data), crc32(data)) + data)


def append_buffered(fd: int, batches: Batches) -> None:
    """Messages are gathered in a buffer of 1 MiB."""
    out = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False), BUFFER_BYTES)
    write, pack, clock, crc32 = out.write, ENTRY.pack, time.time_ns, zlib.crc32
    for payloads in batches:
        for data in payloads:
            write(pack(clock(), len(data), crc32(data)))
            write(data)
    out.flush()


def append_channel(fd: int, batches: Batches, producers: int = PRODUCERS) -> None:
    """Threads put messages into a queue; one thread takes them out and writes."""
    channel: queue.Queue[bytes | None] = queue.Queue(CHANNEL_SIZE)
    messages = [data for payloads in batches for data in payloads]
    threads = [threading.Thread(target=_produce, args=(channel, messages[i::producers])) for i in range(producers)]
    for thread in threads:
        thread.start()
    out = io.BufferedWriter(io.FileIO(fd, "wb", closefd=False), BUFFER_BYTES)
    write, pack, clock, crc32 = out.write, ENTRY.pack, time.time_ns, zlib.crc32
    running = producers
    while running:
        data = channel.get()
        if data is None:
            running -= 1
        else:
            write(pack(clock(), len(data), crc32(data)))
            write(data)
    out.flush()
    for thread in threads:
        thread.join()


def _produce(channel: queue.Queue[bytes | None], messages: Sequence[bytes]) -> None:
    for data in messages:
        channel.put(data)
    channel.put(None)


SEQUENTIAL: dict[str, Callable[[int, Batches], None]] = {
    "standard": append_standard,
    "buffered": append_buffered,
    "channel": append_channel,
}


def _time_sequential(method: str, path: str, messages: list[bytes]) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        start = time.perf_counter_ns()
        SEQUENTIAL[method](fd, [messages])
        return time.perf_counter_ns() - start
    finally:
        os.close(fd)


def _time_mapped(path: str, messages: list[bytes]) -> int:
    """evtape; the file is preallocated before the clock starts, as in the article."""
    capacity = HEADER_SIZE + sum(ENTRY_SIZE + len(message) for message in messages)
    with evtape.open(path, "w", capacity=capacity, durability="none") as tape:
        append = tape.append
        start = time.perf_counter_ns()
        for message in messages:
            append(message)
        return time.perf_counter_ns() - start


def main() -> None:
    """Time the method that the command line names; see above."""
    method, directory, messages, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    payloads = [os.urandom(size) for _ in range(messages)]
    path = os.path.join(directory, "bench.tape")
    times = []
    for _ in range(_REPEATS):
        times.append(_time_mapped(path, payloads) if method == "mapped" else _time_sequential(method, path, payloads))
        os.unlink(path)
    print(sorted(times)[_REPEATS // 2])


if __name__ == "__main__":
    main()
