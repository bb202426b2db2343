"""Re-entry: every public call inside every other, from a signal handler, a finalizer and a trace function.

Each of them runs in the middle of a call, in the same thread. The inner call is done, or refused with the RuntimeError
that says that the stream is busy; it never hangs, and the outer call goes on as if nothing had been. In the end the
stream holds exactly the events that were acknowledged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from . import harness

if TYPE_CHECKING:
    from .harness import Context

CODE = """
import faulthandler, gc, json, os, signal, sys, time
import evtape
how, directory, seconds, outers = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
faulthandler.dump_traceback_later(90, exit=True)
stamp = 1 << 40

class World:
    def __init__(self, path):
        self.path = path
        self.tape = evtape.open(path, "w", durability="none")
        self.tape.append_many([b"x" * 40] * 500, [stamp] * 500)
        self.reader = evtape.open(path)
        self.iterator = iter(self.reader)
        self.acknowledged = 500
        self.others = 0

    def append(self):
        self.tape.append(b"y" * 50)
        self.acknowledged += 1

    def append_many(self):
        self.tape.append_many([b"z"] * 20)
        self.acknowledged += 20

    def append_long(self):
        self.tape.append(bytes(1 << 21))
        self.acknowledged += 1

    def sync(self):
        self.tape.sync()

    def length(self):
        assert len(self.tape) >= 500
        assert len(self.reader) >= 500

    def item(self):
        assert self.tape[-1].timestamp >= stamp
        assert bytes(self.reader[7].data) == b"x" * 40

    def next(self):
        if next(self.iterator, None) is None:
            self.iterator = iter(self.reader)

    def columns(self):
        assert len(self.reader[:300].timestamps) == 300
        assert len(self.tape.between(starting_at=stamp, ending_at=stamp)) >= 500

    def verify(self):
        report = evtape.verify(self.path)
        assert report.ok or report.reason == "count", report  # the pure core stores EventCount before WriteOffset

    def open(self):
        evtape.open(self.path).close()

    def other_writer(self):
        self.others += 1
        path = f"{self.path}.{self.others}"
        with evtape.open(path, "x", durability="none") as tape:
            tape.append(b"x")
        os.unlink(path)

CALLS = [name for name in vars(World) if not name.startswith("_")]
outers = outers or CALLS
counts = {"done": 0, "refused": 0, "wrong": []}
world = inner = label = None
running = False

def call_inner(*_):
    global running
    if running or inner is None:
        return
    running = True
    before = world.acknowledged
    try:
        getattr(world, inner)()
        counts["done"] += 1
    except RuntimeError as error:
        if "busy in this thread" not in str(error):
            counts["wrong"].append(f"{label}: {type(error).__name__}: {error}")
        counts["refused"] += 1
    except BaseException as error:
        counts["wrong"].append(f"{label}: {type(error).__name__}: {error}")
    finally:
        running = False

class Last:
    def __init__(self):
        self.me = self
    __del__ = call_inner

def trace(frame, event, argument):
    global events
    if not running and "evtape" in frame.f_code.co_filename:
        events += 1
        if events % 7 == 0 and time.monotonic() < end:
            call_inner()
    return trace

number = events = end = 0
for outer in outers:
    for inner_name in CALLS:
        label = f"{inner_name} inside {outer}"
        world = World(os.path.join(directory, f"{how}-{number}.tape"))
        number += 1
        inner = inner_name
        if how == "signal":
            signal.signal(signal.SIGALRM, call_inner)
            signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.00037)
        elif how == "finalizer":
            gc.set_threshold(3, 2, 2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if how == "finalizer":
                Last()
            if how == "trace":
                sys.settrace(trace)
            try:
                getattr(world, outer)()
            except RuntimeError as error:
                # A finalizer or a handler may have been inside a call when the next one began; nothing else is refused.
                counts["wrong"].append(f"{label}: the outer call: {error}")
                break
            finally:
                sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.set_threshold(700, 10, 10)
        inner = None
        try:
            world.reader.close()
            world.tape.close()
            report = evtape.verify(world.path)
            if report.state != "clean" or report.events != world.acknowledged:
                counts["wrong"].append(f"{label}: {report.state}, {report.events} of {world.acknowledged} events")
            os.unlink(world.path)
        except BaseException as error:
            counts["wrong"].append(f"{label}: at the end: {type(error).__name__}: {error}")
counts["pairs"] = number
print(json.dumps(counts))
"""

OUTERS = (
    "append",
    "append_many",
    "append_long",
    "sync",
    "length",
    "item",
    "next",
    "columns",
    "verify",
    "open",
    "other_writer",
)


def run(ctx: Context) -> None:
    """Every pair on both cores, a process for each way in; a short run takes a few of the outer calls."""
    for core in harness.both():
        for how in ctx.progress(("signal", "finalizer", "trace"), f"reenter, {core}"):
            seconds, outers = (0.15, []) if ctx.full else (0.01, ctx.random.sample(OUTERS, 3))
            if ctx.only:
                outers = [name for name in OUTERS if ctx.only in name]
            command = [sys.executable, "-W", "ignore", "-c", CODE, how, str(ctx.work), str(seconds), *outers]
            done = subprocess.run(
                command, env=os.environ | {"EVTAPE_BACKEND": core}, capture_output=True, text=True, check=False
            )
            if done.returncode or not done.stdout:
                ctx.violation(
                    "a call inside another one", f"{core}, {how}: exit {done.returncode}: {done.stderr[-1500:]}"
                )
                continue
            found = json.loads(done.stdout)
            ctx.count(f"pairs of calls, {core}", found["pairs"])
            ctx.count(f"inner calls done, {core}", found["done"])
            ctx.count(f"inner calls refused, {core}", found["refused"])
            for wrong in found["wrong"]:
                ctx.violation("a call inside another one", f"{core}, {how}: {wrong}")
