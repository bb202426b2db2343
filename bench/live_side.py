"""Events on their way from one process to another: evtape's followers, and what else Python has for it.

This process consumes. It forks the producer, which appends or sends one event every --gap ns, or without a pause. The
producer stamps each event with a clock reading and a CRC-32; the consumer compares the CRC-32 and, with --gap, reads
the clock. Latency is the time from the stamp to the checked payload in the consumer's hands.

evtape-spin      `follow(spin=inf)`: looks at the stream without a pause
evtape-blocked   `follow(spin=0)`: sleeps until an append wakes it
evtape           `follow()`: looks for a while if events come fast enough, then sleeps
evtape-async     `afollow()` in an event loop
evtape-batch     `follow(batch=True)`: slices, whose payloads are read as one array
c                a follower in C, which looks without a pause and checks each CRC: peers/follow.h
*-of-many        the same, of a producer that appends --batch events at a time
evtape-eight     eight processes follow, each receives all events; the clock ends with the last of them
idle             CPU time of a follower for each ms without an event; events are ms here
pipe             os.pipe with a header before each payload, read through a buffer of 64 KiB
connection       multiprocessing.Pipe, one way
queue            multiprocessing.Queue
zmq              pyzmq, PUSH and PULL over a Unix socket
iceoryx-spin, iceoryx: a subscriber that polls; one that waits for a notification of each event
zenoh            a publisher and a subscriber over TCP on this machine, express, congestion control BLOCK
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import itertools
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import evtape
from bench.builder import C_LIBRARY
from bench.workload import Job, Run, contender_main, passes, percentiles, stream_bytes

LIMIT_SECONDS = 300  # after which the consumer and the producer end, whatever they wait for
FOLLOWERS = 8
OF_MANY = "-of-many"  # the end of a mode whose producer appends batches
PROCESSORS = sorted(os.sched_getaffinity(0))
HEADER = struct.Struct("<qII")  # time, size, CRC, as in a stream

Send = Callable[[bytes], object]
Event = tuple[int, Any]
# A transport is made before the fork. `receive` runs in the consumer and calls `ready` once nothing can get lost.
Sender = Callable[[Job], AbstractContextManager[Send]]
Receiver = Callable[[Job, Callable[[], None]], Iterator[Event]]

fork = multiprocessing.get_context("fork")


# ------------------------------------------------------------------------------------------- processes


def run_on_processor(index: int) -> None:
    """Keep this thread on one processor, the producer's being another than the consumer's.

    Both may be busy all the time, and the system moves them only after milliseconds if they share one. Threads that a
    package has started go where they like.
    """
    os.sched_setaffinity(0, {PROCESSORS[index]})


def produce(job: Job, sender: Sender, started: Connection) -> None:
    signal.alarm(LIMIT_SECONDS)
    clock, pause, gap = time.perf_counter_ns, time.sleep, job.gap
    started.recv_bytes()
    with sender(job) as send:
        run_on_processor(-1)
        due = clock()
        for payloads in passes(job.payloads, job.events):
            for data in payloads:
                due += gap
                while gap and clock() < due:
                    pause(0)  # other threads of a package get the GIL
                send(data)


def produce_many(job: Job, started: Connection) -> None:
    """As many events as go, `job.batch` of them at a time: a producer that no follower in Python has to wait for."""
    signal.alarm(LIMIT_SECONDS)
    started.recv_bytes()
    with evtape.open(job.path, "a", durability="none", capacity=capacity(job)) as tape:
        run_on_processor(-1)
        for payloads in passes(job.payloads, job.events):
            for first in range(0, len(payloads), job.batch):
                tape.append_many(payloads[first : first + job.batch])


@contextmanager
def producer(job: Job, sender: Sender) -> Iterator[Callable[[], None]]:
    """Fork the producer; the function that is returned lets it begin."""
    signal.alarm(LIMIT_SECONDS)
    there, here = fork.Pipe(duplex=False)
    if job.mode.endswith(OF_MANY):
        process = fork.Process(target=produce_many, args=(job, there), daemon=True)
    else:
        process = fork.Process(target=produce, args=(job, sender, there), daemon=True)
    process.start()
    try:
        yield lambda: here.send_bytes(b"")
        process.join()
        if process.exitcode:
            raise SystemExit(f"the producer ended with {process.exitcode}")
    finally:
        process.kill()


def consume(job: Job, events: Iterator[Event]) -> int:
    """The time from the first event to the last one. With --gap also the latencies, after --skip events."""
    clock, wall = time.perf_counter_ns, time.time_ns
    next(events)
    run_on_processor(0)
    first = clock()
    if job.gap:
        samples, skip = np.empty(job.events, np.int64), min(job.skip, job.events // 2)
        i = 0
        for timestamp, _data in events:
            samples[i] = wall() - timestamp
            i += 1
        job.extra["latency_ns"] = percentiles(samples[skip:i].copy())
    else:
        i = 0
        for _event in events:
            i += 1
    elapsed = clock() - first
    if i != job.events - 1:
        raise SystemExit(f"{i + 1} of {job.events} events arrived")
    return elapsed * job.events // i


def transport(sender: Sender, receiver: Receiver) -> Run:
    def run(job: Job) -> int:
        with producer(job, sender) as ready:
            return consume(job, itertools.islice(receiver(job, ready), job.events))

    return run


# ---------------------------------------------------------------------------------------------- evtape


def capacity(job: Job) -> int:
    """Room for a producer without a pause. To make it takes longer than an append, on the producer's processor."""
    return 0 if job.gap else stream_bytes(job.events, job.size)


@contextmanager
def evtape_sender(job: Job) -> Iterator[Send]:
    with evtape.open(job.path, "a", durability="none", capacity=capacity(job)) as tape:
        yield tape.append


@contextmanager
def followed(job: Job, ready: Callable[[], None]) -> Iterator[evtape.Reader]:
    """A stream that is there, with a writer that is about to begin."""
    with evtape.open(job.path, "w", durability="none"):
        pass
    with evtape.open(job.path) as tape:
        ready()
        yield tape


def run_evtape(spin: float | None) -> Run:
    """As `transport`, without a generator around what `follow` returns."""

    def run(job: Job) -> int:
        with producer(job, evtape_sender) as ready, followed(job, ready) as tape:
            return consume(job, tape.follow(until=job.events, spin=spin))

    return run


def run_evtape_async(job: Job) -> int:
    samples, wall = np.empty(job.events, np.int64), time.time_ns

    async def take(events: AsyncIterator[Any]) -> None:
        i = 0
        run_on_processor(0)
        async for timestamp, _data in events:
            samples[i] = wall() - timestamp
            i += 1

    with producer(job, evtape_sender) as ready, followed(job, ready) as tape:
        start = time.perf_counter_ns()
        asyncio.run(take(tape.afollow(until=job.events)))
        elapsed = time.perf_counter_ns() - start
    job.extra["latency_ns"] = percentiles(samples[min(job.skip, job.events // 2) :].copy())
    return elapsed


def run_evtape_batch(job: Job) -> int:
    count, first = 0, 0
    with producer(job, evtape_sender) as ready, followed(job, ready) as tape:
        run_on_processor(0)
        for events in tape.follow(until=job.events, batch=True):
            first = first or time.perf_counter_ns()
            count += len(events.rows(f"V{job.size}"))
        elapsed = time.perf_counter_ns() - first
    if count != job.events:
        raise SystemExit(f"{count} of {job.events} events arrived")
    return elapsed


def run_c(job: Job) -> int:
    if not C_LIBRARY.exists():
        raise SystemExit("the programs in C are not built: run `python -m bench build`")
    follow = ctypes.CDLL(str(C_LIBRARY)).follow_stream
    follow.argtypes, follow.restype = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p], ctypes.c_int64
    samples = np.zeros(job.events, np.int64)
    with producer(job, evtape_sender) as ready:
        with evtape.open(job.path, "w", durability="none"):
            pass
        ready()
        run_on_processor(0)
        limit = stream_bytes(job.events, job.size)
        elapsed = int(follow(os.fsencode(job.path), job.events, limit, samples.ctypes.data if job.gap else None))
    if elapsed < 0:
        raise SystemExit("an event arrived damaged")
    if job.gap:
        job.extra["latency_ns"] = percentiles(samples[min(job.skip, job.events // 2) :].copy())
    return elapsed


def follow_all(job: Job, started: Connection) -> None:
    with evtape.open(job.path) as tape:
        events = tape.follow(until=job.events)
        started.send_bytes(b"")
        seen = [event.ordinal for event in events]
    if seen != list(range(job.events)):
        raise SystemExit("not every event once and in order")


def run_evtape_eight(job: Job) -> int:
    there, here = fork.Pipe(duplex=False)
    with producer(job, evtape_sender) as ready:
        with evtape.open(job.path, "w", durability="none"):
            pass
        followers = [fork.Process(target=follow_all, args=(job, here), daemon=True) for _ in range(FOLLOWERS)]
        for process in followers:
            process.start()
        for _ in followers:
            there.recv_bytes()
        start = time.perf_counter_ns()
        ready()
        for process in followers:
            process.join()
        elapsed = time.perf_counter_ns() - start
        if any(process.exitcode for process in followers):
            raise SystemExit(f"followers ended with {[process.exitcode for process in followers]}")
    return elapsed


@contextmanager
def quiet_sender(job: Job) -> Iterator[Send]:
    """One event, then `job.events` ms without any, with the stream open."""
    with evtape.open(job.path, "a", durability="none") as tape:
        tape.append(job.payloads[0])
        time.sleep(job.events / 1000 + 0.2)
        yield lambda data: None


def run_idle(job: Job) -> int:
    with producer(job, quiet_sender) as ready, followed(job, ready) as tape:
        events = tape.follow(timeout=job.events / 1000)
        next(events)
        start = time.process_time_ns()
        if next(events, None) is not None:
            raise SystemExit("an event arrived, so the follower was not idle")
        return time.process_time_ns() - start


# ------------------------------------------------------------------------------------ the standard library


def packed(data: bytes) -> bytes:
    return HEADER.pack(time.time_ns(), len(data), zlib.crc32(data)) + data


def unpacked(frame: bytes) -> Event:
    timestamp, size, crc = HEADER.unpack_from(frame)
    return checked(timestamp, size, crc, frame[HEADER.size :])


def checked(timestamp: int, size: int, crc: int, data: bytes) -> Event:
    if len(data) != size or zlib.crc32(data) != crc:
        raise SystemExit("an event arrived damaged")
    return timestamp, data


def reader_of_fifo(job: Job, ready: Callable[[], None]) -> int:
    os.mkfifo(job.path)
    ready()
    return os.open(job.path, os.O_RDONLY)


@contextmanager
def pipe_sender(job: Job) -> Iterator[Send]:
    fd = os.open(job.path, os.O_WRONLY)
    write = os.write
    yield lambda data: write(fd, packed(data))
    os.close(fd)


def pipe_receiver(job: Job, ready: Callable[[], None]) -> Iterator[Event]:
    with open(reader_of_fifo(job, ready), "rb", buffering=1 << 16) as file:
        read = file.read
        while header := read(HEADER.size):
            timestamp, size, crc = HEADER.unpack(header)
            yield checked(timestamp, size, crc, read(size))


@contextmanager
def connection_sender(job: Job) -> Iterator[Send]:
    with Connection(os.open(job.path, os.O_WRONLY), readable=False) as connection:
        send = connection.send_bytes
        yield lambda data: send(packed(data))


def connection_receiver(job: Job, ready: Callable[[], None]) -> Iterator[Event]:
    with Connection(reader_of_fifo(job, ready), writable=False) as connection:
        while True:
            yield unpacked(connection.recv_bytes())


def run_queue(job: Job) -> int:
    queue = fork.Queue()

    @contextmanager
    def sender(_job: Job) -> Iterator[Send]:
        yield lambda data: queue.put(packed(data))
        queue.close()
        queue.join_thread()

    def receiver(_job: Job, ready: Callable[[], None]) -> Iterator[Event]:
        ready()
        while True:
            yield unpacked(queue.get())

    return transport(sender, receiver)(job)


# ------------------------------------------------------------------------------------------- packages


@contextmanager
def zmq_sender(job: Job) -> Iterator[Send]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUSH) as pushing:
        pushing.connect(f"ipc://{job.path}")
        yield lambda data: pushing.send(packed(data))


def zmq_receiver(job: Job, ready: Callable[[], None]) -> Iterator[Event]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PULL) as pulling:
        pulling.bind(f"ipc://{job.path}")
        ready()
        while True:
            yield unpacked(pulling.recv())


@functools.cache
def iceoryx_frame(size: int) -> type[ctypes.Structure]:
    class Frame(ctypes.Structure):
        _fields_ = (("frame", ctypes.c_uint8 * (HEADER.size + size)),)

    return Frame


def iceoryx_services(job: Job) -> tuple[Any, Any, Any]:
    """A node, a service that blocks a publisher when the subscriber's 1,024 places are taken, and one of events."""
    import iceoryx2

    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    name = f"evtape-bench-{job.path.name}"
    builder = node.service_builder(iceoryx2.ServiceName.new(name))
    builder = builder.publish_subscribe(iceoryx_frame(job.size)).subscriber_max_buffer_size(1024)
    service = builder.enable_safe_overflow(False).open_or_create()
    return node, service, node.service_builder(iceoryx2.ServiceName.new(f"{name}-wake")).event().open_or_create()


@contextmanager
def iceoryx_sender(job: Job) -> Iterator[Send]:
    import iceoryx2

    _node, service, wakes = iceoryx_services(job)
    strategy = iceoryx2.BackpressureStrategy.RetryUntilDelivered
    publisher = service.publisher_builder().backpressure_strategy(strategy).create()
    notifier = wakes.notifier_builder().create() if job.mode == "iceoryx" else None
    move, size = ctypes.memmove, HEADER.size + job.size

    def send(data: bytes) -> None:
        sample = publisher.loan_uninit()
        move(sample.payload_ptr, packed(data), size)
        sample.assume_init().send()
        if notifier is not None:
            notifier.notify()

    yield send
    time.sleep(1)  # what is lent to the subscriber ends with the publisher


def iceoryx_receiver(job: Job, ready: Callable[[], None]) -> Iterator[Event]:
    _node, service, wakes = iceoryx_services(job)
    subscriber = service.subscriber_builder().create()
    listener = wakes.listener_builder().create()
    blocks, size, receive, copy = job.mode == "iceoryx", HEADER.size + job.size, subscriber.receive, ctypes.string_at
    ready()
    while True:
        sample = receive()
        if sample is not None:
            yield unpacked(copy(sample.payload_ptr, size))
        elif blocks:
            listener.blocking_wait()


def zenoh_session(endpoints: str, port: int) -> Any:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", "[]")
    config.insert_json5(endpoints, f'["tcp/127.0.0.1:{port}"]')
    return zenoh.open(config)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_zenoh(job: Job) -> int:
    port = free_port()

    @contextmanager
    def sender(_job: Job) -> Iterator[Send]:
        import zenoh

        with zenoh_session("connect/endpoints", port) as session:
            block = zenoh.CongestionControl.BLOCK
            publisher = session.declare_publisher("evtape/bench", congestion_control=block, express=bool(job.gap))
            while not publisher.matching_status.matching:
                time.sleep(0.01)
            yield lambda data: publisher.put(packed(data))

    def receiver(_job: Job, ready: Callable[[], None]) -> Iterator[Event]:
        import zenoh

        with zenoh_session("listen/endpoints", port) as session:
            subscriber = session.declare_subscriber("evtape/bench", zenoh.handlers.FifoChannel(4096))
            ready()
            while True:
                yield unpacked(subscriber.recv().payload.to_bytes())

    return transport(sender, receiver)(job)


MODES: dict[str, Run] = {
    "evtape": run_evtape(None),
    "evtape-spin": run_evtape(float("inf")),
    "evtape-blocked": run_evtape(0.0),
    "evtape-async": run_evtape_async,
    "evtape-batch": run_evtape_batch,
    "evtape-eight": run_evtape_eight,
    "c": run_c,
    "idle": run_idle,
    "pipe": transport(pipe_sender, pipe_receiver),
    "connection": transport(connection_sender, connection_receiver),
    "queue": run_queue,
    "zmq": transport(zmq_sender, zmq_receiver),
    "iceoryx": transport(iceoryx_sender, iceoryx_receiver),
    "iceoryx-spin": transport(iceoryx_sender, iceoryx_receiver),
    "zenoh": run_zenoh,
}
MODES |= {f"{mode}{OF_MANY}": MODES[mode] for mode in ("evtape", "evtape-batch", "c")}
PACKAGES = {"zmq": "pyzmq", "iceoryx": "iceoryx2", "zenoh": "eclipse-zenoh"}


def about(mode: str) -> dict[str, str]:
    from importlib.metadata import version

    name = mode.partition("-")[0]
    if name in ("evtape", "idle"):
        return {"core": evtape.backend}
    if name == "c":
        return {"crc": "evtape"}
    return {"crc": "zlib", **({"version": version(PACKAGES[name])} if name in PACKAGES else {})}


if __name__ == "__main__":
    chosen = sys.argv[sys.argv.index("--mode") + 1] if "--mode" in sys.argv else ""
    contender_main("live", MODES, None, **(about(chosen) if chosen in MODES else {}))
