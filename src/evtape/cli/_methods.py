"""The article's five ways to store messages, for ``evtape bench``; each is timed from the first message to the last.

Run as a program it times one of them, ``python -m evtape.cli._methods METHOD FOLDER MESSAGES SIZE``, and prints
nanoseconds: a method has a process of its own, and ``EVTAPE_BACKEND`` chooses the core of the mapped one.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import BinaryIO

import evtape
from evtape.core.format import ENTRY, ENTRY_SIZE, HEADER_SIZE

_REPEATS = 7  # of which the median counts
_PRODUCERS = 4


def entry_of(message: bytes) -> bytes:
    """A message as it is stored: stamp, size, checksum, payload."""
    return ENTRY.pack(time.time_ns(), len(message), zlib.crc32(message)) + message


def standard(path: str, messages: list[bytes]) -> int:
    """A write() per message."""
    with open(path, "wb", buffering=0) as file:
        start = time.perf_counter_ns()
        file.writelines(entry_of(message) for message in messages)
        return time.perf_counter_ns() - start


def buffered(path: str, messages: list[bytes]) -> int:
    """Messages are gathered in a buffer of 1 MiB."""
    with open(path, "wb", buffering=1 << 20) as file:
        start = time.perf_counter_ns()
        file.writelines(entry_of(message) for message in messages)
        file.flush()
        return time.perf_counter_ns() - start


def channel(path: str, messages: list[bytes]) -> int:
    """Threads put messages into a queue, one thread takes them out and writes."""
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with open(path, "wb", buffering=1 << 20) as file:
        writer = threading.Thread(target=_drain, args=(waiting, file))
        producers = [threading.Thread(target=_feed, args=(waiting, messages[i::_PRODUCERS])) for i in range(_PRODUCERS)]
        start = time.perf_counter_ns()
        for thread in (writer, *producers):
            thread.start()
        for thread in producers:
            thread.join()
        waiting.put(None)
        writer.join()
        return time.perf_counter_ns() - start


def _feed(waiting: queue.SimpleQueue[bytes | None], messages: list[bytes]) -> None:
    for message in messages:
        waiting.put(message)


def _drain(waiting: queue.SimpleQueue[bytes | None], file: BinaryIO) -> None:
    while (message := waiting.get()) is not None:
        file.write(entry_of(message))
    file.flush()


def mapped(path: str, messages: list[bytes]) -> int:
    """evtape; the room is made before, as the article does."""
    room = HEADER_SIZE + sum(ENTRY_SIZE + len(message) for message in messages)
    with evtape.open(path, "w", capacity=room, durability="none") as tape:
        append = tape.append
        start = time.perf_counter_ns()
        for message in messages:
            append(message)
        return time.perf_counter_ns() - start


METHODS: dict[str, Callable[[str, list[bytes]], int]] = {
    "standard": standard,
    "buffered": buffered,
    "channel": channel,
    "mapped": mapped,
}


def main() -> None:
    """Time the method that the command line names; see above."""
    method, folder, messages, size = METHODS[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    payloads = [os.urandom(size) for _ in range(messages)]
    path = os.path.join(folder, "bench.tape")
    times = []
    for _ in range(_REPEATS):
        times.append(method(path, payloads))
        os.unlink(path)
    print(sorted(times)[_REPEATS // 2])


if __name__ == "__main__":
    main()
