"""The quick part of the harness in `tests/faults`, so that every run of the tests sees the invariant checked."""

from __future__ import annotations

import shutil
import sys
import warnings

import pytest

if sys.platform != "linux":
    pytest.skip("the harness uses memfd, ptrace and the like", allow_module_level=True)
if shutil.which("gcc") is None and shutil.which("cc") is None:
    pytest.skip("not run: no C compiler", allow_module_level=True)

from tests.faults import cases, harness
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
