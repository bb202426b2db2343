"""The choice of a core is loud. Each case is a process of its own, because a package is imported once."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import stream

SHOW = "import evtape; print(evtape.backend, evtape.Event.__module__)"


def _python(code: str, backend: str | None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("EVTAPE_BACKEND", "PYTHONPATH")}
    if backend is not None:
        env["EVTAPE_BACKEND"] = backend
    if path is not None:
        env["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=60
    )


def _copy(tmp_path: Path) -> Path:
    """The package without its compiled core, as an install without a compiler leaves it."""
    source = Path(importlib.util.find_spec("evtape").origin).parent
    shutil.copytree(source, tmp_path / "evtape", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    return tmp_path


def test_each_core_can_be_asked_for(et, core):
    done = _python(SHOW, core)
    assert (done.returncode, done.stdout.split()) == (0, [core, done.stdout.split()[1]])
    assert done.stdout.split()[1].rpartition(".")[2] == {"native": "native", "python": "pure"}[core]


def test_auto_takes_the_fastest_there_is(packages):
    fastest = "native" if importlib.util.find_spec("evtape.core.native") else "python"
    for backend in (None, "auto"):
        assert _python(SHOW, backend).stdout.split()[0] == fastest


@pytest.mark.parametrize("value", ["", "c", "Native", "pure"])
def test_an_unknown_value_raises(value):
    done = _python(SHOW, value)
    assert done.returncode == 1
    assert f"ImportError: EVTAPE_BACKEND={value!r} is unknown; use auto, native or python" in done.stderr


def test_without_the_compiled_core_auto_falls_back_and_native_raises(tmp_path):
    path = _copy(tmp_path)
    assert _python("import evtape; print(evtape.backend, evtape.__path__[0])", None, path).stdout.split() == [
        "python",
        str(path / "evtape"),
    ]
    done = _python(SHOW, "native", path)
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert _python(SHOW, "python", path).returncode == 0


def test_a_compiled_core_that_fails_to_import_is_not_hidden(tmp_path):
    path = _copy(tmp_path)
    (path / "evtape" / "core" / "native.py").write_text("raise ImportError('broken installation')\n")
    for backend in (None, "auto", "native"):
        done = _python(SHOW, backend, path)
        assert done.returncode == 1
        assert "broken installation" in done.stderr
    assert _python(SHOW, "python", path).returncode == 0


def test_an_import_leaves_the_process_alone(et, core):
    code = """
import signal, sys, sysconfig, threading
before = {s: signal.getsignal(s) for s in signal.valid_signals()}
import evtape
assert {s: signal.getsignal(s) for s in signal.valid_signals()} == before
assert threading.active_count() == 1
assert "click" not in sys.modules and "rich" not in sys.modules
assert not sysconfig.get_config_var("Py_GIL_DISABLED") or not sys._is_gil_enabled()
print(evtape.backend)
"""
    done = _python(code, core)
    assert (done.returncode, done.stdout.strip()) == (0, core), done.stderr


def _stub() -> dict[str, set[str]]:
    """The public names of native.pyi: under "" those of the module, then those of each class."""
    path = Path(importlib.util.find_spec("evtape").origin).parent / "core" / "native.pyi"
    names: dict[str, set[str]] = {"": set()}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            members = {m.target.id if isinstance(m, ast.AnnAssign) else m.name for m in node.body}
            names[node.name] = {name for name in members if not name.startswith("_")}
        elif isinstance(node, ast.AnnAssign):
            names[""].add(node.target.id)
        elif isinstance(node, ast.FunctionDef):
            names[""].add(node.name)
    return names


def test_both_cores_have_the_surface_of_the_stub(both, tmp_path):
    (tmp_path / "t.tape").write_bytes(stream([(1, b"x")]))
    stub = _stub()
    assert set(stub) == {"", "Region", "LivePage", "Bell", "Appender", "Scanner", "Indexer", "Event", "Events"}
    for package in both:
        core = package.core.backend.core
        assert {name for name in stub[""] if not hasattr(core, name)} == set()
        (tmp_path / "t.tape.live").write_bytes(bytes(4096))
        with open(tmp_path / "t.tape", "r+b") as file, open(tmp_path / "t.tape.live", "r+b") as page:
            region = core.Region(file.fileno(), 41, "name", writable=True)
            things = [
                region,
                core.Appender(region, 1, print),
                core.Scanner(region),
                core.Indexer(region),
                core.Event(1, b"x"),
                core.Events(region, 24, 0, 41, verify_checksums=True, report_problem=print),
                core.LivePage(page.fileno(), "name"),
            ]
            found = {type(thing).__name__: {n for n in dir(thing) if not n.startswith("_")} for thing in things}
            del things
            region.close()
        # The pure core may have more (a read); the compiled one has exactly what the stub says.
        assert {name: stub[name] - found[name] for name in found} == {name: set() for name in found}
        if core.NAME == "native":
            assert {name: found[name] - stub[name] for name in found} == {name: set() for name in found}


def test_crc32_is_zlibs_on_every_rung(et):
    """Every length up to 4,200 at every alignment within a cache line, and as a continuation; some long ones."""
    import random
    import zlib

    core = et.core.backend.core
    data = memoryview(random.Random(1).randbytes(1 << 17))
    places = [(start, size) for size in range(4201) for start in range(64)]
    places += [(start, size) for size in (65535, 65536, 100_000) for start in (0, 1, 7)]
    parts = [data[start : start + size] for start, size in places]
    wanted = [zlib.crc32(part) for part in parts]
    try:
        for implementation in core.crc32_implementations():
            core.crc32_use(implementation)
            assert list(map(core.crc32, parts)) == wanted
            for part, before in zip(parts[::61], wanted[7::61], strict=False):
                assert core.crc32(part, before) == zlib.crc32(part, before)
    finally:
        core.crc32_use("auto")
    with pytest.raises(ValueError, match="cannot run here"):
        core.crc32_use("abacus")
