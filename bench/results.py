"""The JSON files in bench/results, and the numbers that are taken out of them.

NAME.json has one value per repetition: everything that the tables and the charts are made from. The values inside a
repetition, of which that value is the median, go into NAME.raw.json, which git ignores.
"""

from __future__ import annotations

import json
import os
import re
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
    return [float(sample[metric]) for sample in row.get("latency_ns", []) if metric in sample]


LATENCY_METRICS = ("p50", "p90", "p99", "p99.9", "p99.99", "max")


def latency_metrics(rows: list[dict[str, Any]]) -> list[str]:
    """The metrics that these rows have; older results lack some."""
    return [name for name in LATENCY_METRICS if any(values_of(row, name) for row in rows)]


def path_of(name: str) -> Path:
    return RESULTS / f"{name}.json"


def load(name: str) -> dict[str, Any]:
    path = path_of(name)
    if not path.exists():
        raise SystemExit(f"there is no bench/results/{name}.json: run `python -m bench --name {name}` first")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def raw_path_of(name: str) -> Path:
    return RESULTS / f"{name}.raw.json"


def save(name: str, data: dict[str, Any]) -> Path:
    """Write the summary, and the raw values of the experiments that have some; those of others are kept."""
    raw_path = raw_path_of(name)
    raw = json.loads(raw_path.read_text(encoding="utf-8")) if raw_path.exists() else {}
    summary = {**data, "experiments": {}}
    for title, experiment in data["experiments"].items():
        rows = experiment["contenders"]
        if any("raw" in row for row in rows.values()):
            raw[title] = {key: row["raw"] for key, row in rows.items() if "raw" in row}
        without = {key: {name: row[name] for name in row if name != "raw"} for key, row in rows.items()}
        summary["experiments"][title] = {**experiment, "contenders": without}
    replace(raw_path, json.dumps({title: raw[title] for title in raw if title in summary["experiments"]}) + "\n")
    return replace(path_of(name), text_of(summary))


def text_of(summary: dict[str, Any]) -> str:
    """JSON with a line for each contender, so that a difference between two results can be read."""
    lines: list[str] = []

    def line(row: dict[str, Any]) -> str:
        lines.append(json.dumps(row))
        return f"@{len(lines) - 1}@"

    experiments = {
        title: {**experiment, "contenders": {key: line(row) for key, row in experiment["contenders"].items()}}
        for title, experiment in summary["experiments"].items()
    }
    text = json.dumps({**summary, "experiments": experiments}, indent=1) + "\n"
    return re.sub(r'"@(\d+)@"', lambda found: lines[int(found[1])], text)


def replace(path: Path, text: str) -> Path:
    """Write a new file and rename it, so that an interrupted run leaves the result of the repetition before."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".tmp")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
    return path
