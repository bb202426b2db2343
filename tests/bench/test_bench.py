"""`python -m bench`: each command, and each program that it starts, runs in a copy of the tree."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "bench").exists():
    pytest.skip("the tests were installed without the source tree", allow_module_level=True)
if sys.platform != "linux":
    pytest.skip("the benchmark has been run on Linux alone", allow_module_level=True)

from bench import check, instructions, runner
from bench.experiment import Contender, Experiment

ROOT = Path(__file__).parents[2]
HAS_NATIVE = importlib.util.find_spec("evtape.core.native") is not None
# Programs for which a test machine may have no compiler.
OPTIONAL = ("go", "zig")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because the benchmark writes into bench/build, bench/results, docs/charts and README.md."""
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "build", "local*", "*.raw.json")
    shutil.copytree(ROOT / "bench", copy / "bench", ignore=ignored)
    shutil.copytree(ROOT / "ext", copy / "ext")
    shutil.copytree(ROOT / "docs" / "charts", copy / "docs" / "charts")
    shutil.copy(ROOT / "README.md", copy)
    return copy


def run(tree: Path, *words: str, code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_list(tree: Path) -> None:
    names = [line.split()[1] for line in run(tree, "bench", "list").splitlines()]
    assert len(names) == len(set(names)) > 20
    assert {"article", "article-whole", "prepared", "live", "growth-64"} <= set(names)


def test_build(tree: Path) -> None:
    # Go, Zig and Java may fetch packages: only their absence is looked at here.
    (tree / "path").mkdir()
    for name in ("cc", "as", "ld"):
        if found := shutil.which(name):
            (tree / "path" / name).symlink_to(found)
    lines = dict(line.split(": ", 1) for line in run(tree, "bench", "build", PATH=str(tree / "path")).splitlines())
    assert set(lines) == {"c", "go", "zig", "chronicle", "aeron"}
    assert lines["go"] == "not run: no go on this machine"
    if lines["c"].startswith("not run"):  # it needs the headers of zlib
        assert "no cc on this machine" in lines["c"] or "zlib" in lines["c"]
    else:
        assert (tree / "bench" / "build" / "limits").exists()


def test_run_show_and_report(tree: Path) -> None:
    words = ["bench", "--quick", "--repeats", "1"]
    shown = run(tree, *words, "--only", "article", "json")
    assert "| memory mapped | **evtape** |" in shown
    data = json.loads((tree / "bench/results/local-quick.json").read_text())
    assert set(data["experiments"]) == {"article", "article-whole", "json"}
    missing = {
        key: row["not_run"]
        for experiment in data["experiments"].values()
        for key, row in experiment["contenders"].items()
        if row["not_run"] and not key.startswith(OPTIONAL)
    }
    assert HAS_NATIVE or missing
    assert not HAS_NATIVE or missing == {}
    raw = json.loads((tree / "bench/results/local-quick.raw.json").read_text())
    assert len(raw["article"]["python-standard"][0]) > 1

    # Another run keeps the experiments that it does not measure.
    run(tree, *words, "--only", "whole")
    assert set(json.loads((tree / "bench/results/local-quick.json").read_text())["experiments"]) >= {"article", "whole"}
    assert set(json.loads((tree / "bench/results/local-quick.raw.json").read_text())) >= {"article", "whole"}

    assert run(tree, "bench", "show", "--quick").startswith(shown.partition("\n")[0].partition(", medians")[0])
    readme = (tree / "README.md").read_text()
    written = run(tree, "bench", "report", "--quick")
    assert "wrote bench/results/local-quick-charts/throughput.svg" in written
    assert "wrote bench/results/local-quick.md" in written
    assert (tree / "README.md").read_text() == readme


def test_what_is_published_follows_from_the_tracked_result(tree: Path) -> None:
    """The charts, the report and the table of the README are made from bench/results/reference.json alone."""
    if not (ROOT / "bench/results/reference.json").exists():
        pytest.skip("an sdist has no results")
    assert (ROOT / "bench/results/reference.json").stat().st_size < 130_000  # 2 KB for each experiment
    for path in [*(tree / "docs/charts").iterdir(), tree / "bench/results/reference.md"]:
        path.unlink()
    run(tree, "bench", "report", "--name", "reference")
    for path in [*(ROOT / "docs/charts").iterdir(), ROOT / "bench/results/reference.md", ROOT / "README.md"]:
        assert (tree / path.relative_to(ROOT)).read_text() == path.read_text(), path


def test_an_unknown_name_is_refused(tree: Path) -> None:
    run(tree, "bench", "run", "--only", "nonsense", code=1)
    run(tree, "bench", "show", "--name", "nonsense", code=1)


def test_check(tree: Path) -> None:
    verdicts = dict(line.split(": ", 1) for line in run(tree, "bench", "check", "--dir", "check").splitlines())
    assert set(verdicts) == {writer.key for writer in (*check.WRITERS, *check.DURABLE_WRITERS)}
    assert {key: said for key, said in verdicts.items() if said.startswith("BAD")} == {}
    needed = ("python-", "evtape-python-", *(("evtape-native-",) if HAS_NATIVE else ()))
    assert {key: said for key, said in verdicts.items() if key.startswith(needed) and said != "good"} == {}


def test_check_reports_a_wrong_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "WRITERS", [Contender("python-whole", "", "sequential", "whole")])
    monkeypatch.setattr(check, "DURABLE_WRITERS", [])
    assert list(check.check(tmp_path)) == [("python-whole", "good")]
    monkeypatch.setattr(check, "payload_list", lambda size: [bytes(size)])
    assert list(check.check(tmp_path)) == [("python-whole", "BAD: payload of event 0")]


def test_a_follower_and_its_feeder(tmp_path: Path, core: str) -> None:
    followed = Contender("evtape", "", "evtape", "tail", core=core)
    experiment = Experiment("live", "", "", (followed,), 500, 64, inner=1, warmup=0, live=True)
    report = runner.Runner(tmp_path).once(experiment, followed)
    assert (report["events"], report["core"]) == (500, core)
    assert 0 < report["latency_ns"]["p50"] <= report["latency_ns"]["max"]


@pytest.mark.parametrize("mode", ["verify", "timestamps", "iterate", "append", "whole-capacity", "call"])
def test_modes_of_evtape_that_no_quick_run_starts(mode: str, tmp_path: Path, core: str) -> None:
    contender = Contender("evtape", "", "evtape", mode, core=core)
    report = runner.Runner(tmp_path).once(Experiment("x", "", "", (contender,), 200, 64, inner=2, warmup=1), contender)
    assert (report["mode"], len(report["ns_per_event"])) == (mode, 2)
    assert min(report["ns_per_event"]) > 0


@pytest.mark.parametrize("mode", ["file", "queue", "evtape", "evtape-json"])
@pytest.mark.parametrize("extra", [(), ("--layout", "--call")])
def test_handlers_of_logging(mode: str, extra: tuple[str, ...], tmp_path: Path, core: str) -> None:
    contender = Contender("x", "", "logs", mode, extra, core)
    report = runner.Runner(tmp_path).once(Experiment("x", "", "", (contender,), 200, 64, inner=2, warmup=1), contender)
    assert (report["mode"], len(report["ns_per_event"])) == (mode, 2)
    assert min(report["ns_per_event"]) > 0


def test_packages_that_are_not_installed_are_named() -> None:
    for module in ("pyarrow", "lmdb", "mcap", "h5py"):
        if importlib.util.find_spec(module) is None:
            program = runner.Runner(Path()).program(Contender("x", "", "pypeers", module, needs=module))
            assert program.why == f"{module} is not installed"


# ------------------------------------------------------------------------------- bench.instructions


def test_instructions_say_what_is_missing(tree: Path) -> None:
    (tree / "empty").mkdir()
    assert run(tree, "bench.instructions", "--check", PATH=str(tree / "empty")) == "not run: no valgrind\n"
    assert run(tree, "bench.instructions", PATH=str(tree / "empty"), code=2) == "not run: no valgrind\n"


def test_instructions_above_and_below_the_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads(instructions.RECORD.read_text())
    monkeypatch.setattr(instructions, "made_with", lambda: recorded["made_with"])

    def times(factor: float) -> list[str]:
        counted = {
            size: {name: round(value * factor, 1) for name, value in sums.items()}
            for size, sums in recorded["instructions"].items()
        }
        return instructions.problems(counted)

    assert times(1) == times(1.02) == times(0.98) == []
    assert len(times(1.04)) == len(times(0.96)) == 4
    assert "one append of 64 bytes, the core: " in times(1.04)[1]
    monkeypatch.setattr(instructions, "made_with", lambda: {"python": "3.0", "compiler": "another"})
    assert times(1.04) == []
    assert len(times(1.11)) == 4
