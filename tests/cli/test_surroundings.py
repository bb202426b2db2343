"""The command line in surroundings that are not as usual: standard descriptors closed, names that are no text."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import NS, pairs

pytest.importorskip("click")
pytest.importorskip("rich")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"]
EVENTS = [(NS, b"one"), (NS + 1, b"two")]


def shell(
    core: str, arguments: list[object], redirections: str, stdin: bytes = b"new\n"
) -> subprocess.CompletedProcess[bytes]:
    argv = shlex.join([sys.executable, "-m", "evtape", *map(str, arguments)])
    return subprocess.run(
        ["sh", "-c", f"exec {argv} {redirections}"],
        input=stdin,
        capture_output=True,
        env={**os.environ, "EVTAPE_BACKEND": core},
        timeout=60,
        check=False,
    )


def make(et: ModuleType, path: Path) -> None:
    with et.open(path, "w") as tape:
        tape.append_many([data for _, data in EVENTS], [timestamp for timestamp, _ in EVENTS])


def payloads(et: ModuleType, path: Path) -> list[bytes]:
    assert et.verify(path).state == "clean"
    with et.open(path) as tape:
        return [data for _, data in pairs(tape)]


@pytest.mark.parametrize("redirections", CLOSED)
@pytest.mark.parametrize("name", ["info", "cat", "verify", "recover"])
def test_closed_descriptors_of_commands_that_print(
    et: ModuleType, core: str, tmp_path: Path, name: str, redirections: str
) -> None:
    path = tmp_path / "x.tape"
    make(et, path)
    before = path.read_bytes()
    done = shell(core, [name, path], redirections)
    assert b"Traceback" not in done.stdout + done.stderr
    assert path.read_bytes() == before
    refused = ">&-" in redirections.split() and name in ("info", "cat")
    assert done.returncode == (2 if refused else 0)
    if refused and "2>&-" not in redirections:
        assert done.stderr == b"evtape: standard output is closed\n"
        assert done.stdout == b""
    elif ">&-" not in redirections.split():
        assert done.stdout


@pytest.mark.parametrize("redirections", CLOSED)
def test_closed_descriptors_append(et: ModuleType, core: str, tmp_path: Path, redirections: str) -> None:
    path, fresh = tmp_path / "x.tape", tmp_path / "fresh.tape"
    make(et, path)
    before = path.read_bytes()
    for target in (path, fresh):
        done = shell(core, ["append", target], redirections)
        assert b"Traceback" not in done.stdout + done.stderr
        assert done.stdout == b""
        if "<&-" in redirections.split():
            assert done.returncode == 2
            if "2>&-" not in redirections:
                assert done.stderr == b"evtape: standard input is closed; nothing to append\n"
        else:
            assert (done.returncode, done.stderr) == (0, b"")
    if "<&-" in redirections.split():
        assert path.read_bytes() == before
        assert not fresh.exists()
    else:
        assert payloads(et, path) == [b"one", b"two", b"new"]
        assert payloads(et, fresh) == [b"new"]


@pytest.mark.parametrize("redirections", CLOSED)
def test_closed_descriptors_record(et: ModuleType, core: str, tmp_path: Path, redirections: str) -> None:
    path = tmp_path / "x.tape"
    make(et, path)
    done = shell(core, ["record", path, "--", "sh", "-c", "echo out; echo err >&2; exit 3"], redirections)
    assert done.returncode == 3
    assert done.stdout == (b"" if ">&-" in redirections.split() else b"out\n")
    assert done.stderr == (b"" if "2>&-" in redirections else b"err\n")
    kept = payloads(et, path)
    assert kept[:2] == [b"one", b"two"]
    assert sorted(kept[2:]) == [b"err", b"out"]


@pytest.mark.parametrize("redirections", CLOSED)
def test_closed_descriptors_an_error_stays_off_stdout(core: str, tmp_path: Path, redirections: str) -> None:
    done = shell(core, ["verify", tmp_path / "none.tape"], redirections)
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


# ---------------------------------------------------------------------------------------------------- what is printable

NASTY = "\x1b]0;x\x07\x7f\x80\x9b31m\u200e\u200f\u202a\u202e\u2066\u2069"


def raw(output: bytes) -> list[str]:
    """What is not printable in the lines of an output."""
    return [character for line in output.decode().split("\n") for character in line if not character.isprintable()]


def test_names_are_escaped_wherever_they_are_printed(et: ModuleType, core: str, tmp_path: Path) -> None:
    path, other, none = (tmp_path / f"{name}{NASTY}ä日本.tape" for name in ("a", "b", "none"))
    make(et, path)
    make(et, other)
    with open(other, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    junk = tmp_path / f"junk{NASTY}"
    junk.write_bytes(b"no stream at all, and long enough for a header")
    commands: list[list[object]] = [
        ["info", path],
        ["verify", path, other, none, junk],
        ["cat", other],
        ["cat", junk],
        ["append", junk],
        ["record", junk, "--", "true"],
        ["record", tmp_path / "r.tape", "--", f"nothing{NASTY}"],
        ["recover", path],
        ["recover", other, "--dry-run"],
        ["recover", other, "--salvage", "-o", tmp_path / f"out{NASTY}"],
        ["recover", other],
        ["bench", "--dir", none],
        ["demo", path],
        ["demo", tmp_path / f"demo{NASTY}", "--files", 1],
        [f"wrong{NASTY}"],
    ]
    for command in commands:
        done = shell(core, command, "", stdin=b"")
        assert b"Traceback" not in done.stderr
        assert raw(done.stdout) + raw(done.stderr) == [], command
        assert (
            b"\\x1b]0;x\\x07\\x7f\\x80\\x9b31m\\u200e\\u200f\\u202a\\u202e\\u2066\\u2069" in done.stdout + done.stderr
        )
    assert "ä日本".encode() in shell(core, ["info", path], "").stdout


def test_json_escapes_what_is_not_printable_and_comes_back(et: ModuleType, core: str, tmp_path: Path) -> None:
    path, copy = tmp_path / "x.tape", tmp_path / "copy.tape"
    texts = [f"ä日本 😀 {NASTY}", 'a "quote" \\ \t\n\0', "\U000e0001\u2028\ufeff", "plain"]
    with et.open(path, "w") as tape:
        tape.append_many([text.encode() for text in texts] + [b"\xff\x1b"])
    done = shell(core, ["cat", "--json", path], "")
    assert shell(core, ["append", "--json", tmp_path / "bytes.tape"], "", stdin=done.stdout).returncode == 0
    with et.open(path) as one, et.open(tmp_path / "bytes.tape") as other:
        assert pairs(one) == pairs(other)
    done = shell(core, ["cat", "--json", "--data", "text", "-n", len(texts), path], "")
    assert raw(done.stdout) == []
    assert "ä日本 😀 \\u001b]0;x\\u0007\\u007f\\u0080\\u009b31m\\u200e".encode() in done.stdout
    assert shell(core, ["append", "--json", copy], "", stdin=done.stdout).returncode == 0
    with et.open(path) as one, et.open(copy) as other:
        assert pairs(one)[: len(texts)] == pairs(other)


# ---------------------------------------------------------------------------------------------------- whose error it is


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["info"], ["info", "--json"], ["cat"], ["verify"], ["recover"]])
def test_errors_of_standard_output_say_so(
    et: ModuleType, core: str, tmp_path: Path, command: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    path = tmp_path / "x.tape"
    make(et, path)
    done = shell(core, [*command, path], ">/dev/full")
    assert (done.returncode, done.stderr) == (1, b"evtape: standard output: No space left on device\n")


def test_errors_of_standard_input_say_so(et: ModuleType, core: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tape"
    make(et, path)
    done = shell(core, ["append", path], "0>/dev/null")  # open, but not to be read
    assert (done.returncode, done.stderr) == (1, b"evtape: standard input: Bad file descriptor\n")
    assert payloads(et, path) == [b"one", b"two"]


def test_errors_without_a_name_are_not_said_to_be_of_standard_streams(et: ModuleType) -> None:
    cli = importlib.import_module("evtape.cli")
    assert cli.told(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert cli.told(OSError(errno.ENOSPC, "No space left on device", "a.tape")) == "a.tape: No space left on device"
