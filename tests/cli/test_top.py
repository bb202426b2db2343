"""``evtape top``: figures of streams that other processes write, on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from evtape.cli import top
from tests.cli.test_commands import CORES, DAY, Cli, environment, make, one_line, posix
from tests.helpers import HEADER

SECONDS = 20


@pytest.fixture(params=CORES, scope="module")
def cli(request: pytest.FixtureRequest) -> Iterator[Cli]:
    result = Cli(request.param)
    yield result
    result.close()


@pytest.fixture(autouse=True)
def _in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in the screens have no directory in them."""
    monkeypatch.chdir(tmp_path)


WRITER = """
import sys, time, evtape
with evtape.open(sys.argv[1], "a") as tape:
    print("ready", flush=True)
    while True:
        tape.append(b"x" * 84)  # an entry has 100 bytes
        time.sleep(0.002)
"""


@pytest.fixture
def start_writer(cli: Cli) -> Iterator[Callable[[str], None]]:
    """Starts a process that appends an event every few milliseconds until the test ends."""
    writers = []

    def start(path: str) -> None:
        argv = [sys.executable, "-c", WRITER, path]
        writers.append(subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(cli.core)))
        assert writers[-1].stdout.readline() == b"ready\n"

    yield start
    for writer in writers:
        writer.kill()
        writer.communicate()


# -------------------------------------------------------------------------------------------------------------- figures


def objects(cli: Cli, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in cli("top", "--json", *arguments).stdout.splitlines()]


def test_a_journal(cli: Cli) -> None:
    with evtape.open_journal("a.journal", "a", roll_bytes=1000, keep_segments=3) as journal:
        with evtape.open("a.journal") as reader, reader.cursor("mail", start="end") as cursor:
            assert cursor.committed == 0
        writing = cli.start("top", "--json", "-n", "2", "--interval", "0.5", "a.journal")
        line = json.loads(writing.stdout.readline())
        assert (line["events"], line["state"], line["cursors"]) == (0, "open", {"mail": 0})
        for _ in range(100):
            journal.append(b"x" * 84)  # an entry has 100 bytes
        out, err = writing.communicate(timeout=SECONDS)
        line = json.loads(out)
        assert (line["events"], line["cursors"]) == (100, {"mail": 100}), err
        assert line["bytes_per_second"] * line["seconds"] > 10_000
    with evtape.open("a.journal") as reader, reader.cursor("mail") as cursor:
        cursor.seek(100)
        cursor.commit()
    with evtape.open_journal("a.journal", "a") as journal:
        journal.prune()
    (line,) = objects(cli, "-n", "1", "--interval", "0.1", "a.journal")
    assert (line["events"], line["state"], line["cursors"]) == (100, "closed", {"mail": 0})
    assert line["bytes"] < 4000  # three segments are left
    assert b"events/s, " in cli("top", "-n", "1", "--interval", "0.1", "a.journal").stdout


def test_json(cli: Cli, start_writer: Callable[[str], None]) -> None:
    start_writer("a.tape")
    with evtape.open("a.tape") as tape, tape.cursor("mail", start=0) as cursor:
        assert cursor.committed == 0
    Path("a.tape.cursor-bad").write_bytes(b"?" * 80)
    make(Path("b.tape"), b"one")
    found = objects(cli, "--interval", "0.5", "-n", "2", "a.tape", "b.tape", "none.tape")
    assert [line["path"] for line in found] == ["a.tape", "b.tape", "none.tape"] * 2
    for live in (found[0], found[3]):
        assert live["state"] == "open"
        assert 0.4 < live["seconds"] < 5
        assert 0 < live["events_per_second"] < 510
        assert live["bytes_per_second"] == pytest.approx(100 * live["events_per_second"])
        assert live["bytes"] == 24 + 100 * live["events"]
        assert 0 <= live["age_ns"] < 10**9
        assert 0 <= live["latency_ns"] < 10**9
        assert live["cursors"] == {"bad": None, "mail": live["events"]}
    events = found[3]["events"] - found[0]["events"]
    assert found[3]["events_per_second"] == pytest.approx(events / found[3]["seconds"])
    closed = found[1]
    assert (closed["state"], closed["events"], closed["events_per_second"]) == ("closed", 1, 0)
    assert (closed["last_timestamp"], closed["latency_ns"]) == (DAY, None)
    missing = found[2]
    assert (missing["state"], missing["events"], missing["events_per_second"]) == ("missing", None, None)


def test_one_line_per_interval(cli: Cli, start_writer: Callable[[str], None]) -> None:
    start_writer("a.tape")
    make(Path("b\x1b[31m.tape"), b"one", at=10**18)
    done = cli("top", "--interval", "0.2", "-n", "3", "a.tape", "b\x1b[31m.tape", "none.tape")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 9
    time_of = r"20\S+Z "
    for live, closed, missing in (lines[:3], lines[3:6], lines[6:]):
        assert re.fullmatch(
            time_of + r"a.tape: [\d,]+ events/s, \S+ k?B/s, [\d,]+ events, \S+ k?B, last \S+ .?s ago, latency \S+ .?s",
            live,
        )
        assert re.fullmatch(
            time_of
            + r"b\\x1b\[31m.tape: 0 events/s, 0 B/s, 1 event, 43 B, last [\d,]+ d \S+ ago, closed by its writer",
            closed,
        )
        assert re.fullmatch(time_of + "none.tape: no such stream now", missing)


def test_usage(cli: Cli) -> None:
    one_line(cli.quick("top", code=2).stderr, "PATH")
    one_line(cli.quick("top", "--interval", "0", "x", code=2).stderr, "--interval")


def test_a_stream_that_comes_goes_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    stream = top._Watched(str(path))

    def look() -> tuple[str, int | None, bool]:
        stream.measure()
        rate = stream.now.events_per_second
        return stream.state, stream.now.events, bool(rate)

    try:
        assert look() == ("missing", None, False)
        make(path, b"one", b"two")
        assert look() == ("closed", 2, True), "what has come since is new"
        assert look() == ("closed", 2, False)
        path.unlink()
        assert look() == ("missing", None, False)
        assert look() == ("missing", None, False)
        make(path, b"another")
        assert look() == ("closed", 1, True)
        os.rename(make(tmp_path / "b.tape", b"1", b"2", b"3"), path)
        assert look() == ("replaced", 3, True)
        assert look() == ("closed", 3, False)
        with path.open("r+b") as file:  # recovery has cut two events
            created = HEADER.unpack(file.read(HEADER.size))[2]
            file.seek(0)
            file.write(HEADER.pack(24 + 17, 1, created))
        state, events, _ = look()
        assert (state, events) == ("unreadable", None)
        assert stream.reason
        assert look() == ("open", 1, False), "the same stream, so its events are not new"
        path.write_bytes(b"not a stream" * 9)
        assert look()[0] == "unreadable"
        assert look()[0] == "unreadable"
        path.unlink()
        path.mkdir()
        assert look()[0] == "unreadable"
        assert "not a stream" not in stream.reason
    finally:
        stream.close()


def test_latency_is_of_an_event_that_comes(tmp_path: Path) -> None:
    with evtape.open(tmp_path / "a.tape", "x") as tape:
        tape.append(b"one")
        stream = top._Watched(str(tmp_path / "a.tape"))
        try:
            stream.measure()
            begin = time.monotonic()
            stream.wait(0.1, None)
            assert time.monotonic() - begin >= 0.1
            assert stream.latency is None
        finally:
            stream.close()


# -------------------------------------------------------------------------------------------------------- on a terminal

if os.name == "posix":
    from tests.cli.terminal import SHELL, Emulator, Terminal, on_terminal


def plain(text: str) -> str:
    """A screen without its figures, and with one space where there are more."""
    text = re.sub(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"(?<![\w])[\d,.]+ (?:[nµm]?s|d)(?= |$)", "DURATION", text, flags=re.MULTILINE)
    text = re.sub(r"[▁▂▃▄▅▆▇█]+(?: *[▁▂▃▄▅▆▇█]+)*", "PICTURE", text)
    return re.sub(r" {2,}", "  ", text)


@posix
@pytest.mark.parametrize("columns", [60, 100])
def test_screen(cli: Cli, start_writer: Callable[[str], None], columns: int) -> None:
    start_writer("live.tape")
    with evtape.open("live.tape") as tape, tape.cursor("mail") as cursor:
        assert cursor.lag >= 0
    long = "a-name-that-is-too-long-for-its-column-in-any-terminal.tape"
    for name in ("closed.tape", long):
        make(Path(name), b"one", b"two", at=10**18)
    Path("other").write_bytes(b"not a stream" * 9)
    names = ["live.tape", "closed.tape", "none.tape", "other", long]
    argv = cli.argv("top", "--interval", "0.3", "-n", "3", *names)
    code, text = on_terminal(argv, columns, environment(cli.core))
    assert code == 0, text
    emulator = Emulator(columns)
    emulator.feed(text)
    assert (emulator.is_alternate, emulator.has_cursor) == (False, True)
    drawn = emulator.drawn[-1]
    head, _, rest = drawn.partition("\n\n")
    assert emulator.text == rest, "the last figures stay on the normal screen"
    assert re.match(r"TIME  5 streams  [\d.]+ events/s  [\d.]+ k?B/s", plain(head))
    assert head.endswith("every 0.3 s, Ctrl-C ends") == (columns == 100)
    wide = columns == 100
    rows = rest.splitlines()
    assert rows[0].split() == [
        "stream",
        "events/s",
        "bytes/s",
        "events",
        *(["size"] if wide else []),
        "last",
        *(["latency"] if wide else []),
    ]
    ends = {match[0]: match.end() for match in re.finditer(r"\S+", rows[0])}
    live = rows[1]
    assert live.startswith("live.tape ")
    assert all(live[end - 1] != " " and live[end : end + 1] in ("", " ") for end in list(ends.values())[1:]), rest
    assert re.fullmatch(r"  mail +0 +[\d,]+ behind", rows[2])
    assert len(rows[2]) == ends["events"]
    assert plain(rows[3]).split()[:5] == ["closed.tape", "0", "0", "B", "2"]
    assert rows[4] == "  closed by its writer"
    assert re.fullmatch(r"none\.tape +missing", rows[5])
    assert re.fullmatch(r"other +unreadable", rows[6])
    reason = rows[7 : 8 if wide else 9]
    assert (
        " ".join(" ".join(reason).split())
        == "not a stream (its first 8 bytes would be WriteOffset 8391086132249784174)"
    )
    assert rows[7 + len(reason)] == long
    assert len(drawn.splitlines()) == 12 + len(reason)
    assert ("PICTURE" in plain(live)) == wide


@posix
@pytest.mark.parametrize(("key", "number", "code"), [(b"\x03", None, 130), (b"", signal.SIGTERM, 143)])
def test_the_terminal_is_restored(cli: Cli, key: bytes, number: int | None, code: int) -> None:
    import termios

    make(Path("a.tape"), b"one")
    terminal = Terminal(cli.argv("top", "a.tape"), 80, environment(cli.core))
    try:
        modes = termios.tcgetattr(terminal.follower)
        terminal.read_until(b"closed by its writer")
        if number is None:
            terminal.type(key)
        else:
            terminal.process.send_signal(number)
        assert terminal.process.wait(SECONDS) == code
        assert termios.tcgetattr(terminal.follower) == modes
        text = terminal.rest().replace("^C", "")  # the echo, where the cursor is
        assert "Traceback" not in text
        emulator = Emulator(80)
        emulator.feed(text)
        assert (emulator.is_alternate, emulator.has_cursor) == (False, True)
        assert emulator.text.startswith("stream ")
        assert text.rindex("\x1b[0m") > max(match.start() for match in re.finditer(r"\x1b\[[1-9][0-9;]*m", text))
    finally:
        terminal.close()


@posix
def test_q_ends(cli: Cli) -> None:
    import termios

    make(Path("a.tape"), b"one")
    terminal = Terminal(cli.argv("top", "--interval", "600", "a.tape"), 80, environment(cli.core))
    try:
        modes = termios.tcgetattr(terminal.follower)
        terminal.read_until(b"closed by its writer")
        terminal.type(b"~\x1b[A~")
        time.sleep(0.2)
        assert terminal.process.poll() is None, "other keys do nothing"
        terminal.type(b"q")
        assert terminal.process.wait(SECONDS) == 0
        assert termios.tcgetattr(terminal.follower) == modes
        text = terminal.rest()
        assert "q ends" in text
        assert "~" not in text, "keys are not shown"
        emulator = Emulator(80)
        emulator.feed(text)
        assert (emulator.is_alternate, emulator.has_cursor) == (False, True)
    finally:
        terminal.close()


@posix
def test_keys_are_read_from_a_terminal_alone(cli: Cli) -> None:
    make(Path("a.tape"), b"one")
    argv = cli.argv("top", "--interval", "0.1", "-n", "2", "a.tape")
    code, text = on_terminal(argv, 80, environment(cli.core))  # its standard input is no terminal
    assert code == 0
    assert "Ctrl-C ends" in text


@posix
def test_another_size_of_the_window(cli: Cli) -> None:
    make(Path("a.tape"), b"one")
    terminal = Terminal(cli.argv("top", "--interval", "600", "a.tape"), 100, environment(cli.core))
    try:
        terminal.read_until(b"closed by its writer")
        assert b"latency" in terminal.written
        for columns in (60, 100):
            terminal.written = b""
            terminal.resize(columns)
            terminal.read_until(b"closed by its writer")
            emulator = Emulator(columns)
            emulator.feed("\x1b[?1049h" + terminal.written.decode().rpartition("\x1b[H")[2])
            assert ("latency" in emulator.text) == (columns == 100)
    finally:
        terminal.close()


@posix
def test_ctrl_z_and_fg(cli: Cli) -> None:
    make(Path("a.tape"), b"one")
    argv = cli.argv("top", "--interval", "600", "a.tape")
    terminal = Terminal(argv, 80, environment(cli.core), below=SHELL)
    try:
        terminal.read_until(b"closed by its writer")
        for _ in range(2):
            terminal.type(b"\x1a")
            terminal.read_until(b"<stopped, usual modes: True>")
            emulator = Emulator(80)
            emulator.feed(terminal.written.decode())
            assert (emulator.is_alternate, emulator.has_cursor) == (False, True)
            terminal.written = b""
            terminal.type(b"bg\n")  # it needs the terminal, so it stops again, and draws nothing
            terminal.read_until(b"<stopped, usual modes: True>")
            assert b"\x1b[" not in terminal.written
            terminal.written = b""
            terminal.type(b"fg\n")
            terminal.read_until(b"closed by its writer")
            emulator.feed(terminal.written.decode())
            assert (emulator.is_alternate, emulator.has_cursor) == (True, False)
            terminal.written = b"\x1b[?1049h\x1b[?25l"
        terminal.type(b"q")
        assert terminal.process.wait(SECONDS) == 0
    finally:
        terminal.close()


@posix
def test_a_stream_that_goes_on_a_terminal(cli: Cli) -> None:
    path = make(Path("a.tape"), b"one")
    terminal = Terminal(cli.argv("top", "--interval", "0.1", "a.tape"), 80, environment(cli.core))
    try:
        terminal.read_until(b"closed by its writer")
        path.unlink()
        terminal.read_until(b"missing")
        make(path, b"two", b"three")
        terminal.written = b""
        terminal.read_until(b"closed by its writer")
        os.rename(make(Path("b.tape"), b"four"), path)
        terminal.read_until(b"replaced by another stream")
        terminal.written = b""
        terminal.read_until(b"closed by its writer")
    finally:
        terminal.close()


@posix
def test_signals_and_readers_of_a_pipe(cli: Cli) -> None:
    make(Path("a.tape"), b"one")
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with cli.start("top", "--interval", "0.1", "a.tape") as process:
            assert b"a.tape" in process.stdout.readline()
            process.send_signal(number)
            assert process.wait(SECONDS) == code
            assert process.stderr.read() == b""
    with cli.start("top", "--interval", "600", "a.tape") as process:
        process.stdout.close()
        assert process.wait(SECONDS) == 0, "it ends with its reader, and not an interval later"
        assert process.stderr.read() == b""
