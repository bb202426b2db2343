"""The section `live` of `python -m bench`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evtape

if not (Path(__file__).parents[2] / "bench").exists():
    pytest.skip("the tests were installed without the source tree", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the benchmark has been run on Linux alone", allow_module_level=True)

from bench import builder, goals, machine, runner, sections, tables
from bench.experiment import Contender, Experiment
from bench.workload import payload_list, stream_bytes

PACKAGES = {"zmq", "iceoryx2", "zenoh"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every row of the section, with few events."""
    directory = tmp_path_factory.mktemp("streams")
    builder.build("c")
    found = [
        Experiment(item.name, item.section, item.title, item.contenders, 300, item.size, inner=1, warmup=0)
        for item in sections.live(quick=True)
    ]
    assert {item.section for item in found} == {"live"}
    results = runner.measure(runner.Runner(directory), found, 1)
    assert list(directory.iterdir()) == []
    about = machine.describe(directory)
    return {"name": "x", "date": "2026-01-01", "repeats": 1, "quick": True, "machine": about, "experiments": results}


def test_every_contender_runs_or_says_why_not(measured: dict[str, Any]) -> None:
    has_native = importlib.util.find_spec("evtape.core.native") is not None
    for name, item in measured["experiments"].items():
        for key, row in item["contenders"].items():
            if row["not_run"]:
                if key.endswith("-free") and builder.FREE_THREADED not in os.environ:
                    assert row["not_run"] == "EVTAPE_FREE_THREADED names no interpreter"
                    continue
                absent = any(row["not_run"] == f"{name} is not installed" for name in PACKAGES)
                assert absent or (not has_native and key.startswith(("evtape", "idle", "shared", "queue"))), (
                    name,
                    key,
                    row,
                )
                continue
            assert row["values"][0] > 0
            if name in ("live-spin", "live-10k", "live-1k"):
                assert 0 < row["latency_ns"][0]["p50"] <= row["latency_ns"][0]["max"]


def test_the_goals_of_the_section(measured: dict[str, Any]) -> None:
    texts = {goal.text for goal in (*goals.LIVE_BOUNDS, *goals.LIVE_GOALS)}
    assert texts <= {found.text for found in goals.outcomes(measured)}
    assert texts.isdisjoint(found.text for found in goals.outcomes({**measured, "experiments": {}}))
    assert "| evtape `afollow()` |" in tables.whole_report(measured)


@pytest.mark.parametrize("mode", ["evtape", "evtape-spin", "evtape-blocked", "evtape-async", "evtape-batch", "idle"])
def test_each_core(mode: str, tmp_path: Path, core: str) -> None:
    contender = Contender("x", "", "live", mode, ("--gap", "100000"), core)
    report = runner.Runner(tmp_path).once(Experiment("x", "", "", (contender,), 200, 64, inner=1, warmup=0), contender)
    assert (report["mode"], report["core"]) == (mode, core)


def test_eight_followers_complete(tmp_path: Path, core: str) -> None:
    contender = Contender("x", "", "live", "evtape-eight", core=core)
    report = runner.Runner(tmp_path).once(Experiment("x", "", "", (contender,), 2000, 64, inner=1, warmup=0), contender)
    assert len(report["ns_per_event"]) == 1


@pytest.mark.parametrize("way", ["shared", "queue", "channel"])
@pytest.mark.parametrize("producers", [1, 2, 4])
def test_threads_that_share_a_writer(way: str, producers: int, tmp_path: Path, core: str) -> None:
    contender = Contender("x", "", "threads", f"{way}-{producers}", ("--keep",), core)
    experiment = Experiment("x", "", "", (contender,), 500, 64, inner=1, warmup=0)
    held = runner.Runner(tmp_path)
    report = held.finished(held.start(held.command(experiment, contender), contender))
    assert (report["mode"], report["core"]) == (contender.mode, core)
    (path,) = tmp_path.iterdir()
    if way == "channel":  # its header is stored when it is closed, which is not part of the method
        assert path.stat().st_size == stream_bytes(500, 64)
        return
    with evtape.open(path) as tape:
        assert sorted(event.bytes for event in tape) == sorted(payload_list(64)[:500])


@pytest.mark.parametrize("mode", ["evtape-of-many", "evtape-batch-of-many"])
def test_followers_of_batches(mode: str, tmp_path: Path, core: str) -> None:
    contender = Contender("x", "", "live", mode, ("--batch", "7"), core)
    report = runner.Runner(tmp_path).once(Experiment("x", "", "", (contender,), 200, 64, inner=1, warmup=0), contender)
    assert (report["mode"], report["core"]) == (mode, core)


def test_the_c_follower_checks_what_it_reads(tmp_path: Path) -> None:
    if builder.build("c").why:
        pytest.skip("no C compiler")
    follow = ctypes.CDLL(str(builder.C_LIBRARY)).follow_stream
    follow.argtypes, follow.restype = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p], ctypes.c_int64
    path = tmp_path / "a.tape"
    with evtape.open(path, "w") as tape:
        tape.append_many(payload_list(64)[:50])
    samples = (ctypes.c_int64 * 50)()
    assert follow(bytes(path), 50, stream_bytes(50, 64), samples) > 0
    assert all(sample > 0 for sample in samples)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert follow(bytes(path), 50, stream_bytes(50, 64), None) == -1
    assert follow(bytes(path), 49, stream_bytes(50, 64), None) == -1, "it checks all that is published"


def test_a_free_threaded_interpreter_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(builder.FREE_THREADED, raising=False)
    assert builder.free_threaded("threads").why == "EVTAPE_FREE_THREADED names no interpreter"
    monkeypatch.setenv(builder.FREE_THREADED, sys.executable)
    program = builder.free_threaded("threads")
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert program.why == "the interpreter of EVTAPE_FREE_THREADED has a GIL"
    else:
        assert program.command == [sys.executable, "-m", "bench.threads"]
    monkeypatch.setenv(builder.FREE_THREADED, "/no/such/python")
    assert builder.free_threaded("threads").why == "EVTAPE_FREE_THREADED: no /no/such/python"


@pytest.mark.parametrize("program", ["chronicle", "aeron"])
def test_java_peers_that_were_built(program: str, tmp_path: Path) -> None:
    """They are downloaded when they are built, which no test does."""
    if builder.build(program, quick=True).why:
        pytest.skip("not built")
    (contender,) = [row for row in sections.tails().contenders if row.program == program]
    contender = replace(contender, extra=("--skip", "100"), events=2000)
    experiment = replace(sections.tails(), contenders=(contender,))
    report = runner.Runner(tmp_path).once(experiment, contender)
    assert 0 < report["latency_ns"]["p50"] <= report["latency_ns"]["max"]
    assert list(tmp_path.iterdir()) == []
