"""The article's "channel synchronized": threads that produce, and one writer of the stream.

shared-N    N threads call `append` of one evtape writer
queue-N     N threads put into a queue.Queue; one more thread takes the messages out and appends them with evtape
channel-N   the article's method in Python: the same queue, and the thread writes through a buffer of 1 MiB

The clock runs from the start of the threads until the last message is in the file or in its buffer.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence

import evtape
from bench.workload import HEADER_SIZE, Job, Run, contender_main, passes
from evtape._methods import CHANNEL_SIZE, append_channel

PRODUCERS = (1, 2, 4)


def together(
    target: Callable[[Sequence[bytes]], object], payloads: Sequence[bytes], producers: int
) -> list[threading.Thread]:
    """Start threads that share the payloads among them."""
    parts = [payloads[i::producers] for i in range(producers)]
    threads = [threading.Thread(target=target, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    return threads


def all_payloads(job: Job) -> list[bytes]:
    return [data for payloads in passes(job.payloads, job.events) for data in payloads]


def shared(producers: int) -> Run:
    def run(job: Job) -> int:
        payloads = all_payloads(job)
        with evtape.open(job.path, "w", durability="none") as tape:

            def produce(part: Sequence[bytes]) -> None:
                append = tape.append
                for data in part:
                    append(data)

            start = time.perf_counter_ns()
            for thread in together(produce, payloads, producers):
                thread.join()
            elapsed = time.perf_counter_ns() - start
            require_all(job, len(tape))
        return elapsed

    return run


def queued(producers: int) -> Run:
    def run(job: Job) -> int:
        payloads = all_payloads(job)
        channel: queue.Queue[bytes | None] = queue.Queue(CHANNEL_SIZE)

        def produce(part: Sequence[bytes]) -> None:
            put = channel.put
            for data in part:
                put(data)
            put(None)

        with evtape.open(job.path, "w", durability="none") as tape:

            def write() -> None:
                running, append, get = producers, tape.append, channel.get
                while running:
                    data = get()
                    if data is None:
                        running -= 1
                    else:
                        append(data)

            start = time.perf_counter_ns()
            writer = threading.Thread(target=write)
            writer.start()
            for thread in [*together(produce, payloads, producers), writer]:
                thread.join()
            elapsed = time.perf_counter_ns() - start
            require_all(job, len(tape))
        return elapsed

    return run


def channel(producers: int) -> Run:
    def run(job: Job) -> int:
        payloads = all_payloads(job)
        fd = os.open(job.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, bytes(HEADER_SIZE))
            start = time.perf_counter_ns()
            append_channel(fd, [payloads], producers)
            return time.perf_counter_ns() - start
        finally:
            os.close(fd)

    return run


def require_all(job: Job, events: int) -> None:
    if events != job.events:
        raise SystemExit(f"{events} of {job.events} events in the stream")


WAYS = {"shared": shared, "queue": queued, "channel": channel}
MODES: dict[str, Run] = {f"{name}-{producers}": way(producers) for name, way in WAYS.items() for producers in PRODUCERS}

if __name__ == "__main__":
    free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
    version = f"{sys.version_info.major}.{sys.version_info.minor}{'t' if free_threaded else ''}"
    contender_main("threads", MODES, None, core=evtape.backend, version=version)
