"""A file truncated under live readers: TruncatedError in Python and zeros in the views, never a signal.

Readers in threads iterate, index and hold views while the file is shortened, lengthened again and rewritten.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, streams

if TYPE_CHECKING:
    from .harness import Context

EVENTS = 200


def run(ctx: Context) -> None:
    """Both cores, in batches of child processes."""
    for core, evtape in harness.both().items():
        wanted = ctx.scale(60, 5000)
        for start in ctx.progress(range(0, wanted, 20), f"truncate, {core}"):
            status, told = harness.in_child(partial(batch, evtape, ctx.work, ctx.seed + start, 20))
            if told is None:
                ctx.violation("a reader was killed", f"{core}, batch {start}: {harness.tell(status)}")
                continue
            for lie in told.pop("lies"):
                ctx.violation(lie, f"{core}, batch {start}")
            for name, count in told.items():
                ctx.count(f"{name}, {core}", count)


def batch(evtape: Any, directory: Path, seed: int, rounds: int) -> dict[str, Any]:
    """In a child: truncations under readers in threads of it."""
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    told: dict[str, Any] = {"truncations": 0, "TruncatedError": 0, "other exceptions": 0, "whole passes": 0, "lies": []}
    for number in range(rounds):
        path = directory / f"cut-{os.getpid()}-{number}.tape"
        payloads = [bytes([i & 255]) * rng.choice((0, 40, 900, 5000)) for i in range(EVENTS)]
        path.write_bytes(streams.stream(payloads))
        stop = threading.Event()
        threads = [threading.Thread(target=READERS[i % 3], args=(evtape, path, payloads, told, stop)) for i in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(rng.random() * 0.004)
        size = path.stat().st_size
        for _ in range(3):
            os.truncate(path, rng.choice((0, 10, 24, 4096, rng.randrange(size))))
            told["truncations"] += 1
            time.sleep(rng.random() * 0.002)
            if rng.random() < 0.5:
                os.truncate(path, size)
        stop.set()
        for thread in threads:
            thread.join()
        path.unlink()
    return told


def seen(evtape: Any, told: dict[str, Any], work: Callable[[], None]) -> None:
    """What came of one pass of a reader."""
    try:
        work()
        told["whole passes"] += 1
    except evtape.TruncatedError:
        told["TruncatedError"] += 1
    except (evtape.Error, OSError, ValueError, IndexError):
        told["other exceptions"] += 1  # a header that reads as zeros is no stream, a payload of zeros is corrupt
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        told["lies"].append(f"an unexpected {type(error).__name__}: {error}")


def iterating(evtape: Any, path: Path, payloads: list[bytes], told: dict[str, Any], stop: threading.Event) -> None:
    """Opens anew and iterates; what is handed out with a good checksum must be right.

    The file may be cut between the checksum and this look, and even while the bytes are copied here: then some of them
    are zeros. Each payload is one byte repeated, so that whatever else is in it would be seen. What the format cannot
    tell from empty events, sixteen zeros each, is behind the cut of a file that was lengthened again.
    """

    def work() -> None:
        with evtape.open(path) as tape:
            for i, event in enumerate(tape):
                data = bytes(event.data)
                if event.checksum and (len(data) != len(payloads[i]) or set(data) - {0, *payloads[i][:1]}):
                    told["lies"].append("a wrong payload")

    while not stop.is_set():
        seen(evtape, told, work)


def indexing(evtape: Any, path: Path, payloads: list[bytes], told: dict[str, Any], stop: threading.Event) -> None:
    """One reader kept open and asked again and again."""
    with contextlib.suppress(evtape.Error), evtape.open(path) as tape:

        def work() -> None:
            if len(tape) and tape[-1].data and tape.timestamps.sum() is None:
                raise AssertionError
            tape[:].between(starting_at=streams.STAMP + 5)

        while not stop.is_set():
            seen(evtape, told, work)


def holding(evtape: Any, path: Path, payloads: list[bytes], told: dict[str, Any], stop: threading.Event) -> None:
    """Views that were handed out are read on; they may become zeros, then the stream must say so."""
    try:
        tape = evtape.open(path, verify_checksums=False)
        views = [event.data for event in tape]
    except (evtape.Error, OSError):
        told["other exceptions"] += 1
        return
    while not stop.is_set():
        zeros = sum(bytes(view) != data for view, data in zip(views, payloads, strict=False))
    zeros = sum(bytes(view) != data for view, data in zip(views, payloads, strict=False))
    if zeros:
        try:
            len(tape)
            list(tape)
            told["lies"].append("views became zeros and the stream does not say so")
        except (evtape.Error, OSError):
            told["TruncatedError"] += 1
    tape.close()


READERS = (iterating, indexing, holding)
