"""The quick part of the harness in `tests/faults`, so that every run of the tests sees the invariant checked."""

from __future__ import annotations

import json
import shutil
import sys
import warnings

import pytest

if sys.platform != "linux":
    pytest.skip("the harness uses memfd, ptrace and the like", allow_module_level=True)
if shutil.which("gcc") is None and shutil.which("cc") is None:
    pytest.skip("not run: no C compiler", allow_module_level=True)

from tests.faults import cases, harness, report
from tests.faults.__main__ import main

PIECES = (
    "reference",
    "bits",
    "power --only new",
    "power --only empty",
    "power --only kilobyte",
    "power --only mixed",
    "power --only reopen",
    "fuzz",
    "kill --only owners",
    "kill --only steps-append-native",
    "kill --only kills",
    "syscalls --only limits",
    "syscalls --only calls",
    "truncate",
    "followers",
    "wakeup",
    "stress --only sound",
    "stress --only races",
    "chaos",
    "index",
    "columns --only declared",
    "columns --only garbage",
    "partitions",
    "journals --only kill",
    "journals --only calls",
    "journals --only rounds",
    "journals --only power",
    "journals --only full",
    "journals --only harm",
    "names",
    "boots",
    "descriptors",
    "ends",
    "reenter",
)

# Found and not repaired yet. A line goes when its bug goes: an unexpected success is a failure here.
FOUND: dict[str, str] = {}


def marked(name: str) -> object:
    """The name as a parameter, expected to fail where that is known."""
    return pytest.param(name, marks=pytest.mark.xfail(reason=FOUND[name])) if name in FOUND else name


@pytest.fixture(autouse=True)
def _quiet() -> object:
    with warnings.catch_warnings():
        # The parts fork with threads about, and leave streams open where processes die: that is what they are for.
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("piece", [marked(piece) for piece in PIECES])
def test_no_violation(piece: str) -> None:
    if "native" in piece and "native" not in harness.both():
        pytest.skip("not run: the native core is not built")
    assert main(piece.split()) == 0


@pytest.mark.parametrize("case", [marked(case) for case in cases.CASES])
def test_stays_found(case: str) -> None:
    assert main(["cases", "--only", case]) == 0


def test_report_counts_each_thing_once() -> None:
    def line(part: str, piece: str, mode: str, seconds: float) -> str:
        return json.dumps({"part": part, "piece": piece, "mode": mode, "seconds": seconds})

    lines = [
        line("realpower", "xfs", "full", 1.0),
        line("realpower", "ext4", "full", 2.0),
        line("syscalls", "disks-btrfs", "full", 3.0),
        line("syscalls", "disks", "full", 4.0),
        line("syscalls", "calls", "full", 5.0),
        line("kill", "kills", "full", 6.0),
        line("kill", "", "full", 7.0),
        line("kill", "", "quick", 8.0),
        line("kill", "owners", "quick", 9.0),
    ]
    seconds = {name: record["seconds"] for name, record in report.latest(lines).items()}
    expected = {"realpower ext4": 2.0, "realpower xfs": 1.0, "kill": 7.0, "syscalls calls": 5.0, "syscalls disks": 4.0}
    assert seconds == expected
