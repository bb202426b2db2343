"""`evtape merge`: several streams in the order of their times, as text, JSON and payloads, and followed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.helpers import NS, stream

SECOND = 10**9


@pytest.fixture(params=["native", "python"] if find_spec("evtape.core.native") else ["python"])
def env(request):
    return os.environ | {"EVTAPE_BACKEND": request.param, "PYTHONWARNINGS": "error"}


@pytest.fixture
def paths(tmp_path):
    """Three streams, the second of which has no events."""
    events = {
        "a.tape": [(NS, b"a0"), (NS + 2 * SECOND, b"a1"), (NS + 2 * SECOND, b"a2")],
        "b.tape": [],
        "long.tape": [(NS + SECOND, b"l0"), (NS + 2 * SECOND, b"l1"), (NS + 3 * SECOND, b"\x1b[2J")],
    }
    for name, pairs in events.items():
        (tmp_path / name).write_bytes(stream(pairs))
    return [tmp_path / name for name in events]


def argv(*words):
    return [sys.executable, "-m", "evtape", "merge", *map(str, words)]


def run(env, *words, code=0):
    done = subprocess.run(argv(*words), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_text(env, paths):
    assert run(env, *paths).stdout.splitlines() == [
        "2022-01-01T00:10:23.000000000Z a.tape    a0",
        "2022-01-01T00:10:24.000000000Z long.tape l0",
        "2022-01-01T00:10:25.000000000Z a.tape    a1",
        "2022-01-01T00:10:25.000000000Z a.tape    a2",
        "2022-01-01T00:10:25.000000000Z long.tape l1",
        "2022-01-01T00:10:26.000000000Z long.tape \\x1b[2J",
    ]


def test_files_of_one_name_are_shown_with_their_paths(env, tmp_path):
    paths = [tmp_path / name / "x.tape" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(stream([(NS, b"x")]))
    assert [line.split()[1] for line in run(env, *paths).stdout.splitlines()] == list(map(str, paths))


def test_json(env, paths, tmp_path):
    done = run(env, "--json", *paths)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["stream"], line["ordinal"], line["late"]) for line in lines] == [
        (str(paths[number]), ordinal, False) for number, ordinal in ((0, 0), (2, 0), (0, 1), (0, 2), (2, 1), (2, 2))
    ]
    assert list(lines[0]) == ["stream", "late", "ordinal", "timestamp", "time", "data_base64"]
    append = [sys.executable, "-m", "evtape", "append", "--json", str(tmp_path / "new.tape")]
    subprocess.run(append, input=done.stdout, env=env, text=True, check=True, timeout=60)
    with evtape.open(tmp_path / "new.tape") as tape, evtape.merge(paths) as merged:
        assert list(tape) == list(merged)
    done = run(env, "--json", "--data", "json", *paths, code=2)
    assert f"{paths[0]}: event 0 is not JSON" in done.stderr


def test_framing(env, paths):
    assert run(env, "--framing", "lines", *paths).stdout == "a0\nl0\na1\na2\nl1\n\x1b[2J\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", 2], "a0 l0"),
        (["-n", 0], ""),
        (["-n", -2], "l1 \\x1b[2J"),
        (["--from", "2022-01-01T00:10:25Z"], "a1 a2 l1 \\x1b[2J"),
        (["--to", "2022-01-01T00:10:25Z"], "a0 l0"),
        (["--from", "2022-01-01T00:10:24Z", "--to", "2022-01-01T00:10:26Z", "-n", "-3"], "a1 a2 l1"),
        (["--from", "2022-01-01T00:10:24Z", "-n", "2"], "l0 a1"),
    ],
)
def test_what_is_selected(env, paths, options, expected):
    assert [line.split(maxsplit=2)[2] for line in run(env, *options, *paths).stdout.splitlines()] == expected.split()


def test_damage_is_left_out(env, paths):
    with open(paths[0], "r+b") as file:
        file.seek(24 + 18 + 16)
        file.write(b"X")
    paths[2].write_bytes(stream([(NS + SECOND, b"l0")], offset=24 + 18 + 20) + bytes(range(1, 21)))
    done = run(env, *paths, code=1)
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["a0", "l0", "a2"]
    assert "a.tape: event 1 at offset 42 is damaged (checksum)" in done.stderr
    assert "(1 more are left out)" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "Missing argument 'PATH...'"),
        (["a.tape", "a.tape"], "a.tape: the stream is in the list twice"),
        (["a.tape", "missing.tape"], "missing.tape: No such file or directory"),
        (["--lateness", "1", "a.tape"], "--lateness is for --follow"),
        (["-f", "-n", "3", "a.tape"], "with --follow, give -N"),
        (["--json", "--framing", "lines", "a.tape"], "give --json or --framing, not both"),
    ],
)
def test_wrong_use(env, paths, words, text):
    cwd = paths[0].parent
    done = subprocess.run(argv(*words), env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())


def read_lines(process, count):
    """Lines as they come."""
    lines, end = b"", time.monotonic() + 30
    while lines.count(b"\n") < count:
        ready, _, _ = select.select([process.stdout], [], [], max(0, end - time.monotonic()))
        assert ready, lines
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        assert chunk, lines
        lines += chunk
    return [line.split(maxsplit=2)[2] for line in lines.decode().splitlines()]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")
def test_follow(env, paths):
    command = argv("-f", "-n", "-2", "--lateness", "0.05", *paths)
    pipe = subprocess.PIPE
    with (
        evtape.open(paths[1], "a") as tape,
        subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert read_lines(process, 2) == ["l1", "\\x1b[2J"]
        tape.append(b"new")
        assert read_lines(process, 1) == ["new"]
        tape.append(b"newer")
        assert read_lines(process, 1) == ["newer"]
        with evtape.open(paths[0], "a") as other:
            other.append(b"late", NS + 5 * SECOND)
            assert read_lines(process, 1) == ["late"]
        for _ in range(20):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
                break
        assert process.returncode == 130
        assert b"1 event was late" in b" ".join(process.stderr.read().split())


def test_follow_to_a_time(env, paths):
    done = run(env, "-f", "--to", "2022-01-01T00:10:25Z", *paths)
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["a0", "l0"]
    done = run(env, "-f", "--from", "2022-01-01T00:10:25Z", "-n", "-9", "--to", "2022-01-01T00:10:26Z", *paths)
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["a1", "a2", "l1"]
