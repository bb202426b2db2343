"""What mypy and pyright say of a user's file: nothing, and no ignore in it is without need."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

CHECKERS = {
    "mypy": ["--strict", "--warn-unused-ignores", "--config-file", "", "--no-incremental"],
    "pyright": ["--project", str(HERE), "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_users_file(checker, tmp_path):
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed; it is in the extra 'lint'")
    command = [sys.executable, "-m", checker, *CHECKERS[checker]]
    command += [str(HERE / "user.py")] if checker == "mypy" else []
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
