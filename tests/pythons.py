"""`python -m tests.pythons [INTERPRETER ...]`: the tests and the short harness on every interpreter, a line for each.

Without arguments, all interpreters are tried that are found as python3.11 to python3.15, their free-threaded builds,
and those of pyenv. Each gets a copy of the tree and an environment of its own, in which the native core is built.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ABOUT = """
import os, sys
free = "t" if "t" in getattr(sys, "abiflags", "") else ""
print(os.path.realpath(sys.executable), ".".join(map(str, sys.version_info[:3])) + free)
"""


def main() -> int:
    """Returns 0 when everything passed on every interpreter."""
    parser = argparse.ArgumentParser(prog="python -m tests.pythons", description=__doc__)
    parser.add_argument("interpreters", nargs="*", metavar="INTERPRETER")
    parser.add_argument("--no-faults", action="store_true", help="the tests alone")
    options = parser.parse_args()
    failed = 0
    print(f"{'Python':<10} {'tests':<44} {'harness':<28} seconds", flush=True)
    for version, path in found(options.interpreters).items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="evtape-python-") as work:
            tests, harness, good = one(version, path, Path(work), faults=not options.no_faults)
        failed += not good
        print(f"{version:<10} {tests:<44} {harness:<28} {time.monotonic() - began:.0f}", flush=True)
    return 1 if failed else 0


def found(named: list[str]) -> dict[str, str]:
    """Interpreters by their version; those that do not start are left out, or named when they were asked for."""
    names = named or [
        *(f"python3.{minor}{free}" for minor in range(11, 16) for free in ("", "t")),
        *map(
            str,
            sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.1[1-9]*/bin/python3")),
        ),
    ]
    interpreters: dict[str, str] = {}
    for name in names:
        path = shutil.which(name)
        if path is None:
            if named:
                sys.exit(f"{name}: not found")
            continue
        about = subprocess.run([path, "-c", ABOUT], capture_output=True, text=True, check=False)
        if about.returncode == 0:
            real, version = about.stdout.split()
            interpreters.setdefault(version, real)
        elif named:
            sys.exit(f"{name}: {about.stderr.strip()}")
    return interpreters


def one(version: str, path: str, work: Path, *, faults: bool) -> tuple[str, str, bool]:
    """What the tests and the harness say, and whether all is good."""
    tree, python = work / "tree", str(work / "venv" / "bin" / "python")
    ignored = shutil.ignore_patterns(".git", "build", "dist", "__pycache__", "*.so", ".venv*", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=ignored)
    environment = os.environ | {"EVTAPE_REQUIRE_NATIVE": "1"}
    # The last release without compiled code, which does not build on a free-threaded 3.13.
    older = ["hypothesis<6.153"] if version.endswith("t") and version.startswith("3.13") else []
    for command in (
        [path, "-m", "venv", str(work / "venv")],
        [python, "-m", "pip", "install", "-q", "-e", ".[test,faults]", *older],
    ):
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"not installed: {done.stderr.strip()[-60:]}", "", False
    tests = subprocess.run([python, "-m", "pytest", "-q"], cwd=tree, capture_output=True, text=True, check=False)
    said = tests.stdout.strip().rpartition("\n")[2]
    if not faults:
        return said, "", tests.returncode == 0
    harness = subprocess.run([python, "-m", "tests.faults"], cwd=tree, capture_output=True, text=True, check=False)
    violations = sum(map(int, re.findall(r"^  violations: (\d+)", harness.stdout, re.MULTILINE)))
    missing = harness.stdout.count("not run: ")
    return said, f"{violations} violations, {missing} not run", tests.returncode == 0 and harness.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
