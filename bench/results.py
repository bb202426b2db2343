"""The JSON files in bench/results, and the numbers derived from them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.builder import BENCH
from bench.workload import median

RESULTS = BENCH / "results"


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float
    count: int


def spread(values: list[float]) -> Spread | None:
    return Spread(median(values), min(values), max(values), len(values)) if values else None


def ratio(ours: list[float], theirs: list[float]) -> Spread | None:
    """How many times faster `ours` is, per repetition: value i of `ours` against value i of `theirs`."""
    return spread([their / our for our, their in zip(ours, theirs, strict=False)])


def row_of(data: dict[str, Any], experiment: str, key: str) -> dict[str, Any]:
    found = data["experiments"].get(experiment, {}).get("contenders", {}).get(key)
    return found or {"label": key, "values": [], "not_run": "not measured in this run"}


def values_of(row: dict[str, Any], metric: str = "ns") -> list[float]:
    """Nanoseconds per event, or a percentile of the latency."""
    if metric == "ns":
        return list(row["values"])
    return [float(sample[metric]) for sample in row.get("latency_ns", [])]


def path_of(name: str) -> Path:
    return RESULTS / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    path = path_of(name)
    if not path.exists():
        raise SystemExit(f"there is no bench/results/{name}.json: run `python -m bench --name {name}` first")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def save(name: str, data: dict[str, Any]) -> Path:
    """Write a temporary file and rename it, so that an interrupted run leaves the result of the previous repetition."""
    path = path_of(name)
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return path
