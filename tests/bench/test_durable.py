"""The section `durable` of `python -m bench`. `test_bench.py` checks the streams of its contenders."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if not (Path(__file__).parents[2] / "bench").exists():
    pytest.skip("the tests were installed without the source tree", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the benchmark has been run on Linux alone", allow_module_level=True)

from bench import builder, charts, goals, machine, runner, sections, tables
from bench.experiment import Experiment

PERCENTILES = ["p50", "p90", "p99", "p99.9", "p99.99", "max"]
PACKAGES = {"lmdb", "rocksdict"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every row of the section, with the fewest events that keep its shape. The C program is built beside the tree."""
    directory, build = tmp_path_factory.mktemp("streams"), tmp_path_factory.mktemp("build")
    short = {"durable-append": 8, "durable-threads": 16, "durable-batch": 1000, "durable-sync": 200}
    found = [
        Experiment(item.name, item.section, item.title, item.contenders, short[item.name], 64, inner=1, warmup=0)
        for item in sections.durable(quick=True)
    ]
    assert [item.name for item in found] == list(short)
    about = {**machine.describe(directory), "file_system": "ext4"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "BUILD", build)
        patch.setattr(builder, "C_LIBRARY", build / "limits.so")
        results = runner.measure(runner.Runner(directory), found, 1)
    return {"name": "x", "date": "2026-01-01", "repeats": 1, "quick": True, "machine": about, "experiments": results}


def rows_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for item in data["experiments"].values() for row in item["contenders"].values()]


def test_every_contender_runs_or_says_why_not(measured: dict[str, Any]) -> None:
    has_native = importlib.util.find_spec("evtape.core.native") is not None
    for row in rows_of(measured):
        if row["not_run"]:
            absent = any(row["not_run"] == f"{name} is not installed" for name in PACKAGES)
            assert absent or row["label"].startswith("C:") or not has_native, row
        else:
            assert row["values"][0] > 0
            assert [list(found) for found in row["latency_ns"]] == [PERCENTILES]
            assert list(row["latency_ns"][0].values()) == sorted(row["latency_ns"][0].values())


def test_the_report_of_the_section(measured: dict[str, Any]) -> None:
    assert {goal.text for goal in goals.DURABLE_GOALS} <= {found.text for found in goals.outcomes(measured)}
    text = tables.whole_report(measured)
    assert "| latency in ns, median (min-max) | p50 | p90 | p99 | p99.9 | p99.99 | max |" in text
    assert "which has no disk to flush to" not in text
    drawn = charts.CHARTS["durable"](measured)
    assert drawn is not None
    assert "Python: os.pwrite, os.fdatasync, written room" in drawn


def test_a_file_system_without_a_disk_is_named(measured: dict[str, Any]) -> None:
    data = copy.deepcopy(measured)
    data["machine"]["file_system"] = "tmpfs"
    assert tables.whole_report(data).count("The streams are on tmpfs, which has no disk to flush to") == 4
    data["experiments"] = {"article": data["experiments"]["durable-sync"] | {"section": "article"}}
    assert "tmpfs, which" not in tables.whole_report(data)


def test_a_result_without_the_section_has_no_goals_of_it(measured: dict[str, Any]) -> None:
    texts = {found.text for found in goals.outcomes({**measured, "experiments": {}})}
    assert texts.isdisjoint(goal.text for goal in goals.DURABLE_GOALS)


def test_percentiles_that_an_older_result_lacks_are_left_out(measured: dict[str, Any]) -> None:
    experiment = json.loads(json.dumps(measured["experiments"]["durable-sync"]))
    for row in experiment["contenders"].values():
        for sample in row.get("latency_ns", []):
            del sample["p99.99"]
    assert tables.latency_table(experiment).splitlines()[0].endswith("| p99.9 | max |")


FAILING = """
import contextlib, types
from bench import durable_side as side

def append(data):
    raise OSError("no disk")

job = types.SimpleNamespace(events=16, payloads=[b"x"], extra={})
side.per_thread(lambda job: contextlib.nullcontext(append))(job)
"""


def test_a_thread_that_fails_fails_its_contender() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FAILING], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert runner.last_line(done.stderr) == "OSError: no disk"
