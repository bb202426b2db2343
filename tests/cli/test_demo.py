"""``evtape demo``: what it records can be read from the file alone, and what it shows is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from click.exceptions import Exit

from evtape.cli import _findings, _recording, _tracer
from evtape.cli._tracer import CALL, HEAD, NAME, RECORD, RETURN, Tracer

CORES = ["native", "python"] if find_spec("evtape.core.native") else ["python"]


def demo(core: str, *arguments: object, cwd: Path, code: int = 0) -> str:
    env = os.environ | {"EVTAPE_BACKEND": core, "PYTHONPATH": str(Path(evtape.__file__).parents[1])}
    argv = [sys.executable, "-m", "evtape", "demo", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, env=env, cwd=cwd, timeout=60, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("core", CORES)
def test_demo(core: str, tmp_path: Path) -> None:
    path = tmp_path / "d.tape"
    text = demo(core, path, "--files", 1, cwd=tmp_path)
    report = evtape.verify(path)
    assert (report.state, report.unsorted_at) == ("clean", -1)
    assert report.events > 5_000
    assert f"{report.events:,}" in text
    assert f"backend  {core}" in text
    killed = re.search(r"killed   the writer, after ([\d,]+) events; the next one recovered ([\d,]+) and went on", text)
    assert killed is not None
    assert killed[1] == killed[2]
    assert f"live     {report.events:,} of {report.events:,} events, counted by another process" in text
    assert "every checksum matches" in text
    assert "busiest functions" in text
    assert "slowest calls" in text
    assert f"evtape info {path}" in text
    assert "\x1b" not in text
    assert "█" not in text
    assert "exists" in demo(core, path, "--files", 1, cwd=tmp_path, code=2)

    names: dict[int, str] = {}
    stack: list[tuple[int, int]] = []
    kills = 0
    with evtape.open(path) as tape:
        for timestamp, data in tape:
            kind, depth, function = HEAD.unpack_from(data)
            if kind == NAME:
                names[function] = str(data[HEAD.size :], "utf-8")
                continue
            assert function in names
            duration = RECORD.unpack(data)[3]
            if kind == CALL:
                if depth == 0 and stack:  # the calls of the writer that was killed
                    kills += 1
                    stack.clear()
                assert depth == len(stack)
                stack.append((function, timestamp))
            else:
                assert kind == RETURN
                called, start = stack.pop()
                assert (depth, function, duration) == (len(stack), called, timestamp - start)
    assert stack == []
    assert kills <= 1
    assert sorted(names) == list(range(len(names)))
    assert any(name.startswith("tokenize.py:") for name in names.values())


def test_demo_that_cannot_record(tmp_path: Path) -> None:
    """A writer that fails says why, and the demo ends with its exit code."""
    with evtape.open(tmp_path / "d.tape", "x") as tape:
        tape.append(b"x")
        with pytest.raises(Exit) as raised:
            _recording.record(str(tmp_path / "d.tape"), 1, None, None, None)
    assert raised.value.exit_code == 2


def test_demo_without_a_name_can_be_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        demo(CORES[0], "--seconds", 0.01, cwd=tmp_path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix == ".tape"] == ["evtape-demo.tape"]


def traced(function: object, *arguments: object) -> list[str]:
    """What the tracer says about a call, as words."""
    names: dict[int, str] = {}
    words: list[str] = []

    def append(payload: bytes, timestamp: int) -> int:
        kind, depth, number = HEAD.unpack_from(payload)
        if kind == NAME:
            names[number] = payload[HEAD.size :].decode().rpartition(".")[2]
        else:
            words.append(f"{'>' if kind == CALL else '<'}{names[number]} {depth}")
        return 0

    tracer = Tracer(append)
    tracer.run(function, *arguments)  # type: ignore[arg-type]
    assert tracer.events == len(words) + len(names)
    return words


def test_tracer_follows_calls() -> None:
    def inner(depth: int) -> int:
        return inner(depth - 1) if depth else 0

    assert traced(inner, 1) == [">inner 0", ">inner 1", "<inner 1", "<inner 0"]


def test_tracer_knows_the_names_that_a_stream_has() -> None:
    payloads: list[bytes] = []

    def append(payload: bytes, timestamp: int) -> int:
        payloads.append(payload)
        return 0

    def f() -> None:
        pass

    Tracer(append).run(f)
    introduced, call, back = payloads
    assert len(introduced) > RECORD.size
    Tracer(append, [introduced[HEAD.size :].decode()]).run(f)
    assert [payload[:8] for payload in payloads[3:]] == [call[:8], back[:8]]
    Tracer(append, ["x.py:1 other"]).run(f)
    assert HEAD.unpack_from(payloads[5])[2] == HEAD.unpack_from(payloads[6])[2] == 1


def test_tracer_follows_exceptions() -> None:
    def broken() -> None:
        raise KeyError

    def outer() -> None:
        try:
            broken()
        except KeyError:
            pass

    assert traced(outer) == [">outer 0", ">broken 1", "<broken 1", "<outer 0"]


def test_tracer_follows_generators() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    def outer() -> None:
        for _ in numbers():
            pass

    assert traced(outer) == [">outer 0", *[">numbers 1", "<numbers 1"] * 2, "<outer 0"]


def test_tracer_lets_an_exception_through() -> None:
    with pytest.raises(ZeroDivisionError):
        traced(lambda: 1 / 0)
    assert sys.getprofile() is None


def test_own_time() -> None:
    def name(number: int, text: str) -> tuple[int, bytes]:
        return 1, HEAD.pack(NAME, 0, number) + text.encode()

    def record(kind: int, depth: int, function: int, duration: int = 0) -> tuple[int, bytes]:
        return 1, RECORD.pack(kind, depth, function, duration)

    events = [
        name(0, "m.py:1 outer"),
        record(CALL, 0, 0),
        name(1, "m.py:2 inner"),
        *[record(CALL, 1, 1), record(RETURN, 1, 1, 10)] * 2,
        record(RETURN, 0, 0, 25),
        record(CALL, 0, 0),
        record(RETURN, 0, 0, 4),
    ]
    outer, inner = _findings.functions_of(events)  # type: ignore[arg-type]
    assert (outer.label, outer.calls, outer.own) == ("m.outer", 2, 5 + 4)
    assert (inner.label, inner.calls, inner.own) == ("m.inner", 2, 20)
    assert _findings.busiest([outer, inner], 1) == [inner]


def test_the_library_is_there() -> None:
    names = [os.path.basename(name) for name in _tracer.library()]
    assert "ast.py" in names
    assert names == sorted(names)
