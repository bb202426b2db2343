"""``evtape follow``, ``evtape cat -f`` and the cursors of ``evtape info``: commands that wait for another process."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.cli.test_commands import CORES, DAY, Cli, environment, make, one_line, posix, wait_until
from tests.helpers import HEADER

SECONDS = 20  # that a test waits for what has to happen


@pytest.fixture(params=CORES, scope="module")
def cli(request: pytest.FixtureRequest) -> Iterator[Cli]:
    result = Cli(request.param)
    yield result
    result.close()


class Running:
    """A command that runs; its lines are read as they come."""

    def __init__(self, cli: Cli, *arguments: object, read: bool = True) -> None:
        self.process = cli.start(*arguments, stdin=subprocess.DEVNULL, bufsize=0)
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        if read:
            self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def line(self) -> str:
        """The next line, without its end; empty at the end of the output."""
        return self._lines.get(timeout=SECONDS).decode().removesuffix("\n")

    def payload(self) -> str:
        return self.line().partition(" ")[2]

    def end(self, number: int | None = None, *, code: int = 0) -> tuple[list[str], bytes]:
        """Send a signal, and wait for the end; the remaining lines, and what is on stderr."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        message = self.process.stderr.read()
        assert self.process.wait(SECONDS) == code, message.decode()
        assert b"Traceback" not in message
        self._thread.join()
        lines = [self._lines.get().decode().removesuffix("\n") for _ in range(self._lines.qsize())]
        assert lines.pop() == ""
        return lines, message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if self._thread.is_alive():
            self._thread.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def append(cli: Cli, path: Path, *lines: bytes) -> None:
    """Append lines in a process of its own."""
    cli("append", path, stdin=b"".join(line + b"\n" for line in lines))


# --------------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize("command", [["follow"], ["cat", "-f"]], ids=" ".join)
def test_lines_of_another_process(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    path = make(tmp_path / "a.tape", b"one", b"two")
    with Running(cli, *command, path) as running:
        assert running.line() == "2026-11-22T20:59:01.123456789Z one"
        assert running.payload() == "two"
        for number in range(3):  # each is visible before the command waits for the next one
            append(cli, path, b"line %d" % number)
            assert running.payload() == f"line {number}"
        assert running.end(signal.SIGINT, code=130) == ([], b"")


def test_a_writer_that_stays_open(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one")
    with Running(cli, "follow", path) as running, cli.start("append", path) as writer:
        assert writer.stdin is not None
        assert running.payload() == "one"
        for number in range(20):
            writer.stdin.write(b"line %d\n" % number)
            writer.stdin.flush()
            assert running.payload() == f"line {number}"
        writer.communicate()


@pytest.mark.parametrize(
    ("arguments", "ordinals"),
    [
        (["follow"], range(2, 12)),
        (["follow", "-n", "3"], range(9, 12)),
        (["follow", "-n", "0"], []),
        (["follow", "-n", "99"], range(12)),
        (["follow", "--from", "2026-11-22T20:59:11Z"], [10, 11]),
        (["follow", "--from", "2100-01-01"], []),
        (["follow", "-F", "-n", "2"], [10, 11]),
        (["follow", "-F", "-n", "0"], []),
        (["follow", "-F", "--from", str(DAY + 10 * 10**9)], [10, 11]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and isinstance(value[0], str) else "",
)
def test_where_it_begins(cli: Cli, tmp_path: Path, arguments: list[str], ordinals: list[int]) -> None:
    path = make(tmp_path / "a.tape", *[b"%d" % number for number in range(12)])
    done = cli.quick(*arguments, "--json", "--data", "text", "--timeout", "0", path)
    assert [json.loads(line)["ordinal"] for line in done.stdout.splitlines()] == list(ordinals)


def test_cat_begins_and_ends(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", *[b"%d" % number for number in range(6)])
    done = cli.quick("cat", "-f", "-n", "-3", "--to", str(DAY + 5 * 10**9), "--framing", "lines", path)
    assert done.stdout == b"3\n4\n"
    done = cli.quick("cat", "-f", "--from", str(DAY + 10**9), "--to", str(DAY + 3 * 10**9), "--framing", "lines", path)
    assert done.stdout == b"1\n2\n"
    one_line(cli.quick("cat", "-f", "-n", "3", path, code=2).stderr, "-N")


def test_forms(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b'{"a": 1}', b"two")
    done = cli.quick("follow", "--timeout", "0", "--framing", "u32be", path)
    assert done.stdout == b'\0\0\0\x08{"a": 1}\0\0\0\3two'
    done = cli.quick("follow", "--timeout", "0", "--json", "--data", "json", path, code=2)
    assert json.loads(done.stdout)["data_json"] == {"a": 1}, "what is good comes before the message"
    one_line(done.stderr, str(path), "event 1 ", "JSON")
    for arguments in (["--json", "--framing", "lines"], ["--data", "text"], ["-n", "1", "--from", "0"], ["-n", "-1"]):
        one_line(cli.quick("follow", *arguments, path, code=2).stderr, "evtape follow --help")


def test_timeout(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one")
    begin = time.monotonic()
    assert cli.quick("follow", "--timeout", "0.5", path).stdout.endswith(b" one\n")
    assert time.monotonic() - begin > 0.5
    cli.quick("follow", "-F", "--timeout", "0.1", tmp_path / "none.tape")


def test_no_stream(cli: Cli, tmp_path: Path) -> None:
    for command in (["follow"], ["cat", "-f"], ["follow", "--cursor", "mail"]):
        one_line(cli.quick(*command, tmp_path / "none.tape", code=2).stderr, "none.tape", "check the name")
    (tmp_path / "x").write_bytes(b"\x89PNG" * 99)
    for command in (["follow"], ["follow", "-F"], ["cat", "-f"]):
        one_line(cli.quick(*command, tmp_path / "x", code=2).stderr, str(tmp_path / "x"), "not a stream")


# -------------------------------------------------------------------------------------------------------------- cursors


def test_cursor(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one", b"two")

    def news() -> list[bytes]:
        done = cli.quick("follow", "--cursor", "mail", "--timeout", "0", "--framing", "lines", path)
        return done.stdout.splitlines()

    def info() -> dict[str, Any]:
        cursors = json.loads(cli.quick("info", "--json", path).stdout)["cursors"]
        assert isinstance(cursors, dict)
        return cursors

    assert info() == {}
    assert [news(), news()] == [[b"one", b"two"], []]
    append(cli, path, b"three")
    assert info() == {"mail": 1}
    assert "cursor mail  1 behind\n" in re.sub(" {2,}", "  ", cli.quick("info", path).stdout.decode())
    assert news() == [b"three"]
    assert info() == {"mail": 0}
    (tmp_path / "a.tape.cursor-bad").write_bytes(b"?" * 80)
    assert info() == {"bad": None, "mail": 0}
    assert "cursor bad   damaged" in cli.quick("info", path).stdout.decode()


def test_cursor_moves_past_what_was_printed(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one", b"two", b"three")
    arguments = ["follow", "--cursor", "mail", path]
    with Running(cli, *arguments) as running:
        assert [running.payload() for _ in range(3)] == ["one", "two", "three"]
        append(cli, path, b"four")
        assert running.payload() == "four"
        one_line(cli.quick(*arguments, code=2).stderr, "a.tape.cursor-mail", "another consumer")
        wait_until(lambda: json.loads(cli.quick("info", "--json", path).stdout)["cursors"] == {"mail": 0})
        running.process.kill()
    append(cli, path, b"five")
    with Running(cli, *arguments) as running:  # the cursor of a process that was killed is free
        assert running.payload() == "five"
        running.end(signal.SIGTERM, code=143)


def test_cursor_stops_before_a_payload_of_another_kind(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"1", b"2", b"?", b"3")
    done = cli.quick("follow", "--cursor", "mail", "--json", "--data", "json", path, code=2)
    assert [json.loads(line)["data_json"] for line in done.stdout.splitlines()] == [1, 2]
    with evtape.open(path) as tape, tape.cursor("mail") as cursor:
        assert cursor.committed == 2


def test_cursor_of_another_stream(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one")
    cli.quick("follow", "--cursor", "mail", "--timeout", "0", path)
    path.unlink()
    make(path, b"another")
    one_line(cli.quick("follow", "--cursor", "mail", path, code=2).stderr, "a.tape.cursor-mail", "another stream")
    one_line(cli.quick("follow", "--cursor", "a/b", path, code=2).stderr, "a/b")
    one_line(cli.quick("follow", "--cursor", "mail", "-F", path, code=2).stderr, "--retry")


# ------------------------------------------------------------------------------------- streams that come, go and change


def test_retry(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    with Running(cli, "follow", "-F", path) as running:
        time.sleep(0.3)
        append(cli, path, b"one")
        assert running.payload() == "one"
        path.unlink()
        append(cli, path, b"two", b"three")
        assert [running.payload(), running.payload()] == ["two", "three"]
        with evtape.open(path, "w") as tape:  # replaces the file under its name
            tape.append(b"four")
            assert running.payload() == "four"
            tape.append(b"five")
            assert running.payload() == "five"
        running.end(signal.SIGINT, code=130)


def test_replaced_stream_without_retry(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one")
    with Running(cli, "follow", path) as running:
        assert running.payload() == "one"
        path.unlink()
        make(path, b"two")
        lines, message = running.end(code=2)
        assert lines == []
        one_line(message, str(path), "another file")


@pytest.mark.parametrize("command", [["follow"], ["cat", "-f"]], ids=" ".join)
def test_damage(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    path = make(tmp_path / "a.tape", b"zero", b"one", b"two")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"one")] ^= 1
    path.write_bytes(raw)
    done = cli.quick(*command, path, code=1)
    assert done.stdout.endswith(b" zero\n")
    one_line(done.stderr, str(path), "event 1 ", "checksum")


def test_events_that_recovery_has_cut(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one", b"two")
    with Running(cli, "follow", path) as running:
        assert [running.payload(), running.payload()] == ["one", "two"]
        with path.open("r+b") as file:
            file.write(HEADER.pack(24 + 16 + 3, 1, DAY))
        lines, message = running.end(code=1)
        assert lines == []
        one_line(message, str(path))


def test_damage_under_a_cursor(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"zero", b"one", b"two")
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"one")] ^= 1
    path.write_bytes(raw)
    for text in (b" zero\n", b""):  # the second run is there already
        done = cli.quick("follow", "--cursor", "mail", path, code=1)
        assert done.stdout.endswith(text)
        one_line(done.stderr, str(path), "event 1 ", "checksum")


# ------------------------------------------------------------------------------------------------ signals and terminals


@posix
@pytest.mark.parametrize("command", [["follow"], ["follow", "-F"], ["cat", "-f"]], ids=" ".join)
def test_sigterm(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    path = make(tmp_path / "a.tape", b"one")
    with Running(cli, *command, path) as running:
        assert running.payload() == "one"
        assert running.end(signal.SIGTERM, code=143) == ([], b"")


@posix
@pytest.mark.parametrize("command", ["follow -n 99999", "cat -f"])
def test_a_reader_that_ends(cli: Cli, tmp_path: Path, command: str) -> None:
    """The command ends at once, and not at the next event, which may never come."""
    for events in (2, 50_000):
        path = make(tmp_path / f"{events}.tape", *[b"line %d" % number for number in range(events)])
        script = f"{sys.executable} -m evtape {command} {path} | head -n 1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", script], env=environment(cli.core), capture_output=True, timeout=SECONDS, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.endswith(b" line 0\n")


@posix
def test_a_reader_that_ends_under_a_cursor(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", *[b"line %d" % number for number in range(50_000)])
    with Running(cli, "follow", "--cursor", "mail", path, read=False) as running:
        assert running.process.stdout is not None
        assert running.process.stdout.readline().endswith(b" line 0\n")
        running.process.stdout.close()
        assert running.process.wait(SECONDS) == 0
    with evtape.open(path) as tape, tape.cursor("mail") as cursor:
        assert cursor.committed < 10_000, "a pipe does not hold more: the others were not printed"


@pytest.fixture
def terminals() -> Iterator[list[Any]]:
    opened: list[Any] = []
    yield opened
    for terminal in opened:
        terminal.close()


@posix
@pytest.mark.parametrize("command", [["follow"], ["cat", "-f"]], ids=" ".join)
def test_ctrl_c_on_a_terminal(cli: Cli, tmp_path: Path, terminals: list[Any], command: list[str]) -> None:
    import termios

    from tests.cli.terminal import Terminal  # it needs POSIX

    path = make(tmp_path / "a.tape", b"one", b"\x1b[?1049h\x1b[31m\x07red\n\x9b5A", b"ready")
    terminal = Terminal(cli.argv(*command, path), 80, environment(cli.core))
    terminals.append(terminal)
    modes = termios.tcgetattr(terminal.follower)
    terminal.read_until(b"ready\r\n")
    terminal.type(b"\x03")
    assert terminal.process.wait(SECONDS) == 130
    assert termios.tcgetattr(terminal.follower) == modes
    text = terminal.rest()
    plain = text.replace("\x1b[2m", "").replace("\x1b[0m", "").replace("\r\n", "\n")
    assert "\x1b" not in plain
    assert r"\x1b[?1049h\x1b[31m\x07red\n\x9b5A" in plain, "a payload commands no terminal"
    assert plain.splitlines()[-1] == "^C"
    assert text.rindex("\x1b[0m") > text.rindex("\x1b[2m"), "the style is switched off again"
