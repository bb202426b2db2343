"""A stream many times larger than what the process may hold: written, verified, read."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

LIMIT_MB = 160  # for a stream of 400 MB, interpreter and numpy included

SCRIPT = """
import sys, evtape

def peak(what):
    value = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
    print(what, value)
    open("/proc/self/clear_refs", "w").write("5")

data = [bytes([i % 251]) * 65536 for i in range(100)]
with evtape.open(sys.argv[1], "w", durability="none") as tape:
    for _ in range(64):
        for payload in data:
            tape.append(payload)
peak("write")
assert evtape.verify(sys.argv[1]).events == 6400
peak("verify")
with evtape.open(sys.argv[1]) as tape:
    assert sum(len(data) for _, data in tape) == 6400 * 65536
    peak("iterate")
    assert len(tape) == 6400
    peak("index")
"""


def test_peak_memory_is_bounded(core, tmp_path):
    environment = os.environ | {"EVTAPE_BACKEND": core, "PYTHONWARNINGS": "error"}
    call = [sys.executable, "-c", SCRIPT, str(tmp_path / "t.tape")]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    peaks = {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}
    assert peaks.keys() == {"write", "verify", "iterate", "index"}
    assert max(peaks.values()) < LIMIT_MB, peaks
