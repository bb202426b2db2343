"""Compares handlers of the standard library's `logging`, for the same records.

Each handler formats every record as its own. The clock covers what the program waits for: a QueueListener may finish
after it, and its thread runs at the same time.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.workload import Job, Run, contender_main

LAYOUT = "%(asctime)s %(levelname)s %(name)s %(message)s"
MESSAGE = "served %s in %d ms"
Opened = Callable[[Job], AbstractContextManager[logging.Handler]]

# The arguments of this module alone are taken out before the common ones are parsed.
HAS_LAYOUT, IS_CALL = "--layout" in sys.argv, "--call" in sys.argv
sys.argv = [word for word in sys.argv if word not in ("--layout", "--call")]


def with_formatter(handler: logging.Handler) -> logging.Handler:
    handler.setFormatter(logging.Formatter(LAYOUT if HAS_LAYOUT else "%(message)s"))
    return handler


@contextmanager
def file(job: Job) -> Iterator[logging.Handler]:
    handler = with_formatter(logging.FileHandler(job.path, "w", encoding="utf-8"))
    yield handler
    handler.close()


@contextmanager
def queued(job: Job) -> Iterator[logging.Handler]:
    with file(job) as target:
        waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        listener = logging.handlers.QueueListener(waiting, target)
        listener.start()
        yield logging.handlers.QueueHandler(waiting)
        listener.stop()


@contextmanager
def evtape(job: Job, json: bool = False) -> Iterator[logging.Handler]:
    from evtape.integrations.logging import Handler

    handler = with_formatter(Handler(job.path, json=json))
    yield handler
    handler.close()


def record(number: int) -> logging.LogRecord:
    arguments = (f"/items/{number}", number % 100)
    return logging.LogRecord("shop.orders", logging.INFO, __file__, 60, MESSAGE, arguments, None, "serve")


def timed(opened: Opened) -> Run:
    def run(job: Job) -> int:
        with opened(job) as handler:
            return call(job, handler) if IS_CALL else handle(job, handler)

    return run


def handle(job: Job, handler: logging.Handler) -> int:
    """Ten records at a time: a program's record is still in the cache when its handler gets it."""
    handle, elapsed = handler.handle, 0
    for first in range(0, job.events, 10):
        records = [record(number) for number in range(first, first + 10)]
        start = time.perf_counter_ns()
        for one in records:
            handle(one)
        elapsed += time.perf_counter_ns() - start
    return elapsed


def call(job: Job, handler: logging.Handler) -> int:
    logger = logging.Logger("shop.orders", logging.INFO)
    logger.addHandler(handler)
    info = logger.info
    start = time.perf_counter_ns()
    for number in range(job.events):
        info(MESSAGE, "/items/7", number)
    return time.perf_counter_ns() - start


MODES: dict[str, Run] = {
    "file": timed(file),
    "queue": timed(queued),
    "evtape": timed(evtape),
    "evtape-json": timed(lambda job: evtape(job, json=True)),
}

if __name__ == "__main__":
    contender_main("logging", MODES)
