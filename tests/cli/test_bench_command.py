"""`evtape bench`: every row is run, or says that it was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

HAS_NATIVE = find_spec("evtape.core.native") is not None


def _bench(tmp_path, *words):
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    call = [sys.executable, "-m", "evtape", "bench", "-n", "300", "-s", "100", "--dir", str(tmp_path), *words]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_five_methods(tmp_path):
    done = _bench(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({row["method"] for row in rows}) == 5
    for row in rows:
        if row["method"] == "memory mapped, native core" and not HAS_NATIVE:
            assert row["messages_per_s"] is None
        else:
            assert row["bytes_per_s"] == row["messages_per_s"] * 100 > 0
    assert os.listdir(tmp_path) == []


def test_the_table_is_plain_in_a_pipe(tmp_path):
    done = _bench(tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("300 messages of 100 bytes, one writer\n")
    assert "\x1b" not in done.stdout
    assert " 1.0x" in done.stdout
    assert ("not run" in done.stdout) is not HAS_NATIVE
