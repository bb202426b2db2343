"""The programs of tests/native: the C of the native core without Python. Each is compiled and has to exit with 0."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
EXT = HERE.parent / "ext"

SOURCES = {
    "preallocator": ["preallocate", "preallocator"],
    "arrow": [
        "arrow",
        "arrow_ahead",
        "arrow_columns",
        "mapping",
        "region_posix",
        "fault_guard",
        "crc32",
        "preallocate",
        "preallocator",
    ],
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs need POSIX")


@pytest.mark.parametrize("name", ["arrow", "crc32", "fault_guard", "preallocator"])
def test_the_program_passes(name, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not (EXT / f"{name}.c").exists():
        pytest.skip("needs a C compiler and the sources in ext/")
    program = tmp_path / name
    sources = [HERE / "native" / f"{name}_check.c", *(EXT / f"{source}.c" for source in SOURCES.get(name, [name]))]
    flags = ["-O2", "-std=gnu11", "-D_GNU_SOURCE", "-pthread", f"-I{EXT}"]
    zlib = ["-DWITH_ZLIB", "-lz"] if name == "crc32" else []
    built = subprocess.run(
        [compiler, *flags, *sources, "-o", program, *zlib], capture_output=True, text=True, check=False
    )
    if built.returncode and zlib:  # without zlib's headers the program compares with its own reference
        built = subprocess.run([compiler, *flags, *sources, "-o", program], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    if name == "arrow":  # with sanitizers where there are any; the guard has to see SIGBUS first
        sanitized = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
        subprocess.run([compiler, *flags, *sanitized, *sources, "-o", program], capture_output=True, check=False)
    env = {**os.environ, "ASAN_OPTIONS": "handle_sigbus=0"}
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
