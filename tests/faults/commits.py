"""Group commit: threads append and wait for flushes that take their time, fail, or are interrupted.

A call may return when what it appended was there at the beginning of a flush that succeeded. A flush that fails is
told to each call that waited for it, and every later call is refused. No call waits for ever.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

from . import harness

if TYPE_CHECKING:
    from .harness import Context

THREADS = 6
CALLS = 30
HANG = 30.0  # seconds


class Model:
    """A writer that only counts, and its flush."""

    def __init__(self, module: Any, rng: random.Random) -> None:
        self.rng = rng
        self.appended = self.durable = 0
        self.flushes = 0
        self.fails_at = rng.choice((0, 0, rng.randrange(1, 60)))
        self.failed = False
        self.lock = threading.Lock()
        self.commit = module.GroupCommit("model.tape", self.flush)

    def flush(self, events: int) -> int:
        """As a writer's: all that is appended at its beginning."""
        if self.durable >= events:
            return self.durable
        if self.failed:
            raise RuntimeError("an earlier flush failed")
        self.flushes += 1
        reached, fails = self.appended, self.flushes == self.fails_at
        time.sleep(self.rng.random() * 3e-4)
        if fails:
            self.failed = True
            raise OSError(5, "Input/output error", "model.tape")
        self.durable = reached
        return reached


def run(ctx: Context) -> None:
    """Many short runs with other times, other failures."""
    module = next(iter(harness.both().values())).modules["evtape.stream.commit"]
    for number in ctx.progress(range(ctx.scale(60, 5_000)), "commits"):
        if ctx.expired:
            break
        one(ctx, Model(module, random.Random(ctx.seed * 100_003 + number)))


def one(ctx: Context, model: Model) -> None:
    threads = [threading.Thread(target=calls, args=(ctx, model, i), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        if thread.is_alive():
            ctx.violation("a call waits for ever", f"{len(model.commit._waiting)} wait")
            return
    ctx.count("runs")
    ctx.count("flushes", model.flushes)
    ctx.count("runs with a failed flush", model.failed)


def calls(ctx: Context, model: Model, seed: int) -> None:
    """What one thread does."""
    rng = random.Random(seed)
    for _ in range(CALLS):
        with model.lock:
            model.appended += 1
            mine = model.appended
        try:
            model.commit.wait(mine)
        except (OSError, RuntimeError):
            return
        ctx.count("calls")
        if model.durable < mine:
            kind = "a failed flush was called a success" if model.failed else "returned before it was durable"
            ctx.violation(kind, f"event {mine}, {model.durable} are durable")
            return
        if rng.random() < 0.3:
            time.sleep(rng.random() * 2e-4)
