"""Runs experiments: every repetition starts each contender once, in turn, in a fresh process.

A process for each value is fair to all contenders: none inherits a warm allocator, a grown heap or a compiled method
from an earlier value. The clock runs inside the process, so none pays for its start. The order rotates from one
repetition to the next, so that no contender always follows the same one. Ratios are computed per repetition, from
values that are seconds apart, so the drift of the machine cancels out.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import builder
from bench.experiment import Contender, Experiment
from bench.workload import median

TIMEOUT_SECONDS = 600
READY_TIMEOUT_SECONDS = 30
FREE_BYTES_KEPT = 2 << 30
MODULES = {
    "evtape": "evtape_side",
    "sequential": "sequential",
    "pypeers": "pypeers",
    "jsonlines": "jsonlines",
    "durable": "durable_side",
    "logs": "logs",
    "live": "live_side",
    "threads": "threads",
    "index": "index_side",
    "journal": "journal_side",
    "columns": "columns_side",
}

Result = dict[str, Any]


class NotRunError(Exception):
    """A contender gave no value. The table shows the text."""


class Runner:
    def __init__(self, directory: Path, quick: bool = False) -> None:
        self.directory = directory
        self.quick = quick
        self.programs: dict[str, builder.Program] = {}

    def program(self, contender: Contender) -> builder.Program:
        name = contender.program
        if name == "threads-free":
            return builder.free_threaded(MODULES["threads"])
        if name in MODULES:
            return builder.python_module(MODULES[name], contender.needs)
        if name not in self.programs:
            self.programs[name] = builder.build(name, self.quick)
        return self.programs[name]

    def command(self, experiment: Experiment, contender: Contender) -> list[str]:
        program = self.program(contender)
        if program.why:
            raise NotRunError(program.why)
        values = {
            "mode": contender.mode,
            "events": contender.events or experiment.events,
            "size": contender.size or experiment.size,
            "repeat": contender.inner or experiment.inner,
            "warmup": experiment.warmup if contender.warmup < 0 else contender.warmup,
            "dir": self.directory,
        }
        arguments = [part for name, value in values.items() for part in (f"--{name}", str(value))]
        return [*program.command, *arguments, *contender.extra]

    def environment(self, contender: Contender) -> dict[str, str]:
        search = [str(builder.BENCH.parent), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in search if part)}
        if contender.core:
            environment["EVTAPE_BACKEND"] = contender.core
        return environment

    def once(self, experiment: Experiment, contender: Contender) -> Result:
        """Measure one value of one contender and return the report that it printed."""
        command = self.command(experiment, contender)
        need = experiment.bytes_needed(contender)
        if shutil.disk_usage(self.directory).free < need + FREE_BYTES_KEPT:
            raise NotRunError(f"needs {need / (1 << 30):.0f} GiB of free disk")
        try:
            if experiment.live:
                return self.live(experiment, contender, command)
            return self.finished(self.start(command, contender))
        finally:
            self.clean()

    def start(self, command: list[str], contender: Contender) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=self.environment(contender), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finished(self, process: subprocess.Popen[str]) -> Result:
        try:
            out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise NotRunError(f"took more than {TIMEOUT_SECONDS} s") from None
        if process.returncode:
            raise NotRunError(last_line(err) or f"exit code {process.returncode}")
        report: Result = json.loads(out.splitlines()[-1])
        return report

    def live(self, experiment: Experiment, contender: Contender, command: list[str]) -> Result:
        """Start the tailer, wait until it is ready, then start the feeder. The tailer's report counts."""
        command = [*command, "--name", f"live-{contender.key}"]
        feeding = replace(contender, mode="feed", extra=experiment.extra)
        feed_command = [*self.command(experiment, feeding), "--name", f"live-{contender.key}"]
        tailer = self.start(command, contender)
        try:
            wait_until_ready(tailer)
            self.finished(self.start(feed_command, contender))
            return self.finished(tailer)
        finally:
            if tailer.poll() is None:
                tailer.kill()
                tailer.communicate()

    def clean(self) -> None:
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Read the descriptor itself, because a read of the text file around it would block."""
    assert process.stderr is not None
    descriptor, seen, deadline = process.stderr.fileno(), "", time.monotonic() + READY_TIMEOUT_SECONDS
    while "ready" not in seen:
        if time.monotonic() > deadline:
            raise NotRunError("the tailer was not ready in time")
        if select.select([descriptor], [], [], 0.1)[0]:
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise NotRunError(last_line(seen) or "the tailer ended")
            seen += part.decode(errors="replace")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].replace(str(builder.BENCH.parent), "")[:200] if lines else ""


def empty_result(experiment: Experiment) -> Result:
    rows = {
        contender.key: {
            "label": contender.label,
            "events": contender.events or experiment.events,
            "size": contender.size or experiment.size,
            "values": [],
            "raw": [],
            "not_run": "",
        }
        for contender in experiment.contenders
    }
    return {
        "section": experiment.section,
        "title": experiment.title,
        "events": experiment.events,
        "size": experiment.size,
        "contenders": rows,
    }


def record(row: Result, report: Result) -> None:
    """Keep every value, and the last report of every other fact about a program."""
    row["raw"].append(report["ns_per_event"])
    row["values"].append(round(median(report["ns_per_event"]), 3))
    if "latency_ns" in report:
        row.setdefault("latency_ns", []).append(report["latency_ns"])
    for name in ("crc", "core", "version", "file_bytes_per_event"):
        if name in report:
            row[name] = report[name]


def measure(
    runner: Runner,
    experiments: list[Experiment],
    repeats: int,
    budget_seconds: float = float("inf"),
    step: Callable[[str], None] = lambda _text: None,
    save: Callable[[dict[str, Result]], None] = lambda _results: None,
) -> dict[str, Result]:
    """Run all experiments `repeats` times. With a budget, run as many repetitions as fit, and at least one.

    A contender that fails does not run again, and its values are dropped, because a ratio needs all repetitions.
    """
    results = {experiment.name: empty_result(experiment) for experiment in experiments}
    started, slowest = time.monotonic(), 0.0
    for repetition in range(repeats):
        before = time.monotonic()
        if repetition and before - started + slowest > budget_seconds:
            break
        for experiment in experiments:
            turn = repetition % len(experiment.contenders)
            for contender in experiment.contenders[turn:] + experiment.contenders[:turn]:
                step(f"{experiment.name}: {contender.label}")
                row = results[experiment.name]["contenders"][contender.key]
                if row["not_run"]:
                    continue
                try:
                    record(row, runner.once(experiment, contender))
                except (NotRunError, json.JSONDecodeError, OSError) as reason:
                    row.update(not_run=str(reason) or type(reason).__name__, values=[], raw=[])
        slowest = max(slowest, time.monotonic() - before)
        save(results)
    return results


def is_terminal() -> bool:
    return sys.stderr.isatty()
