"""The quick part of the harness in `tests/faults`, so that every run of the tests sees the invariant checked."""

from __future__ import annotations

import shutil
import sys
import warnings

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness uses memfd, ptrace and strace")

faults = pytest.importorskip("tests.faults.harness") if sys.platform == "linux" else None

# What the harness is known to find and the format cannot prevent; docs/format.md says so. Nothing else may be found.
KNOWN: dict[str, str] = {}


@pytest.mark.parametrize(
    "piece",
    [
        "reference",
        "bits",
        "power --only mixed",
        "power --only reopen",
        "fuzz",
        "kill --only owners",
        "kill --only steps-append-native",
        "kill --only kills",
        "syscalls --only limits",
        "syscalls --only calls",
        "truncate --only truncate",
    ],
)
def test_no_violation(piece: str) -> None:
    from tests.faults.__main__ import main

    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("not run: no C compiler")
    if "native" in piece and "native" not in faults.both():
        pytest.skip("not run: the native core is not built")
    with warnings.catch_warnings():
        # Forking with threads of a test runner about is what these parts do on purpose, and what they close they
        # close late.
        warnings.simplefilter("ignore")
        assert main(piece.split()) == 0
