"""What runs under ThreadSanitizer: threads that append, read, sync and close one writer.

    python -m tests.faults.racing DIRECTORY SECONDS

Readers go through the writer itself, because a mapping of their own would lie at other addresses, and a race is seen
between accesses to the same one. Every thread numbers its events; at the end each must have all of its own, in order.
"""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import evtape

EVENT = struct.Struct("<qq")
LARGE = 40_000  # events of a batch, more than what is written with the GIL held
KEPT = 2_500_000  # events at which the writers stop: the sanitizer's own memory is many times that of the stream


def numbered(thread: int, first: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Rows (thread, number)."""
    rows = np.empty((count, 4), np.int64)
    rows[:, 0] = thread
    rows[:, 1] = range(first, first + count)
    return rows


def singles(tape: evtape.Writer, thread: int, number: int) -> int:
    """One event at a time."""
    for i in range(200):
        tape.append(EVENT.pack(thread, number + i))
    return 200


def short_batch(tape: evtape.Writer, thread: int, number: int) -> int:
    """A batch that is written with the GIL held."""
    tape.append_many([EVENT.pack(thread, number + i) for i in range(100)])
    return 100


def long_batch(tape: evtape.Writer, thread: int, number: int) -> int:
    """A batch that is written without the GIL."""
    tape.append_many([row.tobytes() for row in numbered(thread, number, LARGE)])
    return LARGE


def array(tape: evtape.Writer, thread: int, number: int) -> int:
    """The rows of an array, without the GIL."""
    tape.append_array(numbered(thread, number, LARGE))
    return LARGE


def scan(tape: evtape.Writer) -> None:
    """All headers, in one pass without the GIL."""
    assert (np.diff(tape.offsets) > 0).all()


def look(tape: evtape.Writer) -> None:
    """The newest events with their payloads."""
    for event in tape[-300:]:
        EVENT.unpack_from(event.data)


def sync(tape: evtape.Writer) -> None:
    """Flush while others append."""
    tape.sync()
    time.sleep(0.01)


WRITERS: tuple[Callable[[evtape.Writer, int, int], int], ...] = (singles, short_batch, long_batch, array)
READERS: tuple[Callable[[evtape.Writer], None], ...] = (scan, look, sync)


def race(path: Path, seconds: float) -> int:
    """All of them at once; returns how many events there are."""
    written = [0] * len(WRITERS)
    failures: list[BaseException] = []
    stop = threading.Event()
    with evtape.open(path, "w", durability="none") as tape:

        def write(thread: int) -> None:
            while not stop.is_set() and sum(written) < KEPT:
                written[thread] += WRITERS[thread](tape, thread, written[thread])

        def read(what: Callable[[evtape.Writer], None]) -> None:
            while not stop.is_set():
                what(tape)

        def guarded(work: Callable[..., None], argument: object) -> None:
            try:
                work(argument)
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                failures.append(error)
                stop.set()

        threads = [threading.Thread(target=guarded, args=(write, i)) for i in range(len(WRITERS))]
        threads += [threading.Thread(target=guarded, args=(read, what)) for what in READERS]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join()
    for failure in failures:
        raise failure
    report = evtape.verify(path)
    assert (report.state, report.events) == ("clean", sum(written)), report
    next_number = [0] * len(WRITERS)
    with evtape.open(path, verify_checksums=False) as reader:
        for event in reader:
            thread, number = EVENT.unpack_from(event.data)
            assert number == next_number[thread], (thread, number, next_number[thread])
            next_number[thread] += 1
    assert next_number == written
    return report.events


def close_under_writers(path: Path) -> int:
    """Threads append until the writer is closed under them; what was acknowledged is there."""
    acknowledged = [0] * 3
    tape = evtape.open(path, "w", durability="none")

    def write(thread: int) -> None:
        try:
            while True:
                tape.append(EVENT.pack(thread, acknowledged[thread]))
                acknowledged[thread] += 1
        except evtape.ClosedError:
            pass

    threads = [threading.Thread(target=write, args=(i,)) for i in range(len(acknowledged))]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    tape.close()
    for thread in threads:
        thread.join()
    report = evtape.verify(path)
    assert (report.state, report.events) == ("clean", sum(acknowledged)), (report, acknowledged)
    return report.events


def main() -> None:
    directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
    events = race(directory / "race.tape", seconds) + close_under_writers(directory / "close.tape")
    print(f"events {events}")


if __name__ == "__main__":
    main()
