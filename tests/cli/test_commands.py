"""The command line, run as people run it: a process of its own, on each core."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from evtape.cli import _framing, _json, _show, _times
from evtape.core import times
from tests.helpers import NS, stream

CORES = ["native", "python"] if find_spec("evtape.core.native") else ["python"]
DATA = Path(__file__).parents[1] / "data"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals, pipes or limits")

DAY = 1_795_381_141_123_456_789  # 2026-11-22T20:59:01.123456789Z


def environment(core: str, **more: str) -> dict[str, str]:
    return os.environ | {"EVTAPE_BACKEND": core, "PYTHONPATH": str(Path(evtape.__file__).parents[1])} | more


# Runs one command after the other in one process, because most of what a run costs is the start of Python.
SERVER = """
import contextlib, io, json, sys
from evtape.cli import run
for line in sys.stdin:
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(json.loads(line))
    out.flush(), err.flush()
    print(json.dumps([code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()]), flush=True)
"""


class Cli:
    """Runs ``evtape`` on one core."""

    def __init__(self, core: str) -> None:
        self.core = core
        self._server: subprocess.Popen[str] | None = None

    def argv(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "evtape", *map(str, arguments)]

    def __call__(self, *arguments: object, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        """A process of its own."""
        argv, env = self.argv(*arguments), environment(self.core)
        return self._checked(
            subprocess.run(argv, input=stdin, capture_output=True, env=env, timeout=60, check=False), code
        )

    def quick(self, *arguments: object, code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        """The same in a process that is there already, for what reads no standard input."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(self.core),
                encoding="utf-8",
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(list(map(str, arguments))) + "\n")
        self._server.stdin.flush()
        number, out, err = json.loads(self._server.stdout.readline())
        return self._checked(subprocess.CompletedProcess([], number, out.encode(), err.encode()), code)

    def _checked(
        self, done: subprocess.CompletedProcess[bytes], code: int | None
    ) -> subprocess.CompletedProcess[bytes]:
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert code is None or done.returncode == code, done.stderr.decode()
        return done

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(self.argv(*arguments), env=environment(self.core), **pipes)

    def close(self) -> None:
        if self._server is not None:
            self._server.communicate()


@pytest.fixture(params=CORES, scope="module")
def cli(request: pytest.FixtureRequest) -> Iterator[Cli]:
    result = Cli(request.param)
    yield result
    result.close()


def payloads(path: Path) -> list[bytes]:
    with evtape.open(path) as tape:
        return [bytes(event.data) for event in tape]


def make(path: Path, *events: bytes, at: int = DAY) -> Path:
    with evtape.open(path, "x") as tape:
        tape.append_many(list(events), [at + number * 10**9 for number in range(len(events))])
    return path


def terminal(*arguments: object, columns: int = 80, **more: str) -> tuple[int, str]:
    """Run the command in a terminal: its exit code, and what it writes there."""
    from tests.cli.terminal import on_terminal  # it needs POSIX

    return on_terminal(Cli(CORES[0]).argv(*arguments), columns, environment(CORES[0], **more))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def one_line(message: bytes, *words: str) -> None:
    """An error is one line on stderr that names what it is about."""
    text = message.decode()
    assert text.startswith("evtape")
    assert text.count("\n") == 1
    assert all(word in text for word in words), text


# -------------------------------------------------------------------------------------------------------------- vectors


@pytest.mark.parametrize("name", EXPECTED)
def test_vector(cli: Cli, tmp_path: Path, name: str) -> None:
    path = shutil.copy(DATA / f"{name}.tape", tmp_path)
    commands = [
        ["verify", "--json"],
        ["info", "--json"],
        ["cat", "--json"],
        ["recover", "--json", "--dry-run"],
        ["recover", "--json"],
        ["verify", "--json"],
        ["recover"],
    ]
    results = [cli.quick(*command, path, code=None) for command in commands]
    for done in results:
        if done.stderr:
            one_line(done.stderr, str(path))
    verify, info, cat, dry, recover, after, again = ((done.returncode, done.stdout) for done in results)
    want = EXPECTED[name]
    state, events = want["state"], want["events"]
    good = state in ("clean", "open")
    report = json.loads(verify[1])
    assert verify[0] == (0 if good else 2 if state == "invalid" else 1)
    assert (report["state"], report["events"], report["end"]) == (state, events, want["end"])
    if state == "invalid":
        assert [info[0], cat[0], dry[0], recover[0]] == [2, 2, 2, 2]
        assert again[0] == 2
        return

    assert info[0] == 0 if good else info[0] in (0, 1)
    lost = not good and want["reason"] != "count"
    assert cat[0] == int(lost)
    if want["reason"] not in ("header", "truncated"):  # whose end is unknown, so it cannot be opened
        first = [json.loads(line) for line in cat[1].splitlines()[:events]]
        assert [event["ordinal"] for event in first] == list(range(events))
    assert dry[0] == recover[0] == int(lost)
    assert json.loads(recover[1])["events"] == events
    assert (after[0], json.loads(after[1])["state"], json.loads(after[1])["events"]) == (0, "clean", events)
    assert again[0] == 0


# ------------------------------------------------------------------------------------------------------------ info, cat


def test_info(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one", b"", b"three")
    facts = json.loads(cli.quick("info", "--json", path).stdout)
    assert facts["path"] == str(path)
    assert facts["backend"] == cli.core
    assert (facts["state"], facts["events"], facts["bytes"]) == ("clean", 3, path.stat().st_size)
    assert (facts["first_timestamp"], facts["last_timestamp"]) == (DAY, DAY + 2 * 10**9)
    assert facts["first"] == "2026-11-22T20:59:01.123456789Z"
    assert (facts["duration_ns"], facts["events_per_second"]) == (2 * 10**9, 1.5)
    assert (facts["size_min"], facts["size_max"], facts["sorted"]) == (0, 5, True)
    text = cli.quick("info", path).stdout.decode()
    assert cli.core in text
    assert "3" in text
    assert "\x1b" not in text
    assert "█" not in text


def test_info_of_several(cli: Cli, tmp_path: Path) -> None:
    one, two = make(tmp_path / "a.tape", b"one"), make(tmp_path / "b.tape", b"1", b"2")
    damaged = tmp_path / "damaged.tape"
    damaged.write_bytes((DATA / "offset-negative.tape").read_bytes())  # events under a header that cannot be used
    names = [one, DATA / "png.tape", damaged, tmp_path / "none.tape", two]
    done = cli.quick("info", "--json", *names, code=2)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [str(one), str(two)]
    messages = done.stderr.decode().splitlines()
    assert [str(name) in message for name, message in zip(names[1:4], messages, strict=True)] == [True] * 3
    text = cli.quick("info", *names, code=2).stdout.decode()
    blocks = [dict(line.split(maxsplit=1) for line in block.splitlines()) for block in text.split("\n\n")]
    assert [(block["path"], block["events"]) for block in blocks] == [(str(one), "1"), (str(two), "2")]
    assert cli.quick("info", one, two).stderr == b""
    cli.quick("info", one, damaged, code=1)
    cli.quick("info", one, DATA / "size-overflow.tape", two, code=1)


def test_info_of_an_open_unsorted_stream(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    with evtape.open(path, "x") as tape:
        tape.append_many([b"a", b"b", b"c"], [30, 10, 20])
        facts = json.loads(cli.quick("info", "--json", path).stdout)
    assert (facts["state"], facts["sorted"], facts["duration_ns"]) == ("open", False, 20)


@posix
@pytest.mark.parametrize("span", [0, 1, 10**12, 2**64 - 1])
def test_pictures_on_a_terminal(tmp_path: Path, span: int) -> None:
    path = tmp_path / "a.tape"
    with evtape.open(path, "x") as tape:
        tape.append_many([b"x" * 10] * 100, [-(2**63)] * 50 + [span - 2**63] * 50)
    code, text = terminal("info", path)
    assert code == 0
    assert "█" in text
    assert "8 - 15 B" in text
    assert ("peak" in text) == (span > 0)


def test_cat(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one", "zw\u00f6lf\t12".encode(), b"a\nb\x1b[31m", b"\xff\x00", b"")
    lines = cli.quick("cat", path).stdout.decode().splitlines()
    assert lines[0] == "2026-11-22T20:59:01.123456789Z one"
    assert [line.partition(" ")[2] for line in lines] == ["one", "zw\u00f6lf\t12", "a\\nb\\x1b[31m", "\\xff\\x00", ""]
    assert cli.quick("cat", path, "--framing", "u32be", "-n", "1").stdout == b"\0\0\0\3one"


@posix
def test_framing_on_a_terminal(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"a\x1b[31mb\x07\tc\nd", "\u00e4\u202e\u65e5".encode(), b"\x9b\xff")
    code, text = terminal("cat", "--framing", "lines", path)
    assert (code, text.splitlines()) == (
        0,
        [r"a\x1b[31mb\x07" + "\tc" + r"\nd", "\u00e4" + r"\u202e" + "\u65e5", r"\x9b\xff"],
    )
    assert Cli(CORES[0])("cat", "--framing", "lines", path).stdout == b"".join(data + b"\n" for data in payloads(path))
    for framing in ("u32le", "u32be"):
        code, text = terminal("cat", "--framing", framing, path, columns=200)
        assert code == 2
        one_line(text.encode(), framing, "binary")


@posix
def test_cat_on_a_terminal_cuts_what_is_not_text(tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", bytes(1000), b"text " * 50)
    _, text = terminal("cat", path)
    binary, plain = text.splitlines()
    assert len(binary.replace("\x1b[2m", "").replace("\x1b[0m", "")) <= 80
    assert "(1,000 bytes)" in binary
    assert plain.endswith("text " * 50)


@pytest.mark.parametrize(
    ("arguments", "ordinals"),
    [
        (["-n", "2"], [0, 1]),
        (["-n", "-2"], [3, 4]),
        (["-n", "0"], []),
        (["--from", str(DAY + 10**9)], [1, 2, 3, 4]),
        (["--to", "2026-11-22T20:59:02.123456790Z"], [0, 1]),
        (["--from", "2026-11-22T21:59:02.123456789+01:00", "--to", str(DAY + 3 * 10**9)], [1, 2]),
        (["--from", "2026-11-22T20:59:03Z", "-n", "1"], [2]),
    ],
)
def test_cat_selects(cli: Cli, tmp_path: Path, arguments: list[str], ordinals: list[int]) -> None:
    path = make(tmp_path / "a.tape", b"0", b"1", b"2", b"3", b"4")
    lines = cli.quick("cat", "--json", path, *arguments).stdout.splitlines()
    assert [json.loads(line)["ordinal"] for line in lines] == ordinals


def test_cat_goes_on_after_damage(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    with evtape.open(path, "x") as tape:
        # Unsorted, so that a query gives single ordinals.
        tape.append_many([b"zero", b"one", b"two", b"three"], [40, 10, 30, 20])
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"one")] ^= 1
    path.write_bytes(raw)
    whole = cli.quick("cat", "--json", path, code=1)
    assert [json.loads(line)["ordinal"] for line in whole.stdout.splitlines()] == [0, 2, 3]
    one_line(whole.stderr, str(path), "event 1 ", "checksum")
    part = cli.quick("cat", "--json", path, "--to", "40", code=1)
    assert [json.loads(line)["ordinal"] for line in part.stdout.splitlines()] == [2, 3]


@posix
def test_a_reader_that_goes_away_is_no_error(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", *[b"line %d" % number for number in range(50_000)])
    with cli.start("cat", path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith(b"line 0\n")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


# --------------------------------------------------------------------------------------------------------------- append


def test_append_lines(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    assert cli("append", path, stdin=b"one\n\n\xff\x00\r\nlast").stdout == b""
    cli("append", path, stdin=b"more\n")
    assert payloads(path) == [b"one", b"", b"\xff\x00\r", b"last", b"more"]
    assert evtape.verify(path).state == "clean"


def test_append_many_lines_at_once(cli: Cli, tmp_path: Path) -> None:
    text = b"".join(b"%d\n" % number for number in range(100_000))
    cli("append", tmp_path / "a.tape", stdin=text)
    assert cli.quick("cat", tmp_path / "a.tape", "--framing", "lines").stdout == text


@pytest.mark.parametrize("framing", ["u32le", "u32be"])
def test_append_records(cli: Cli, tmp_path: Path, framing: str) -> None:
    records = [b"", b"a\nb", bytes(range(256)), b"x" * 3_000_000]
    order = "little" if framing == "u32le" else "big"
    stdin = b"".join(len(record).to_bytes(4, order) + record for record in records)  # type: ignore[arg-type]
    cli("append", tmp_path / "a.tape", "--framing", framing, stdin=stdin)
    assert payloads(tmp_path / "a.tape") == records
    cut = cli("append", tmp_path / "b.tape", "--framing", framing, stdin=stdin[:-1], code=1)
    one_line(cut.stderr, "record 3", "3000003 of 3000004 bytes")
    assert payloads(tmp_path / "b.tape") == records[:-1]
    cut = cli("append", tmp_path / "c.tape", "--framing", framing, stdin=stdin[:-3_000_001], code=1)
    one_line(cut.stderr, "record 3", "3 of 4 bytes")


JSON_PAYLOADS = [
    b"1",
    b"null",
    b'"text"',
    b'{"b": 1.50, "a": [1e400, -0], "b": 2}',  # its digits, order and double keys come back
    b"12345678901234567890" * 300,  # more digits than int() takes
    '"\u00e4\u65e5 \U0001f4fc \\ud800 \\" ]}"'.encode(),
    b'{"data_json": {"data_json": "}"}}',
]
KINDS = {
    "text": ("data", [b"text", "\u2028\ud7ff\U0001f4fc".encode(), b'"\\\n\0', b"1", b""]),
    "hex": ("data_hex", [b"text", bytes(range(256)), b""]),
    "base64": ("data_base64", [b"text", bytes(range(256)), b""]),
    "json": ("data_json", JSON_PAYLOADS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_comes_back(cli: Cli, tmp_path: Path, kind: str) -> None:
    key, events = KINDS[kind]
    path, copy = make(tmp_path / "a.tape", *events), tmp_path / "b.tape"
    lines = cli.quick("cat", "--json", "--data", kind, path).stdout
    assert lines.count(b"\n") == len(events)
    for line in lines.splitlines():
        shape = [*re.findall(r'"(\w+)":', line.decode().partition(f'"{key}":')[0]), key]
        assert shape == ["ordinal", "timestamp", "time", key]
    cli("append", "--json", copy, stdin=lines)
    assert copy.read_bytes()[24:] == path.read_bytes()[24:]


def test_json_values_are_embedded(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b' {\r\n\t"price": 101.25,\n"name": "\xe2\x80\xa8"}\n')
    (line,) = cli.quick("cat", "--json", "--data", "json", path).stdout.decode().splitlines()
    assert line.isprintable()
    assert json.loads(line)["data_json"] == {"price": 101.25, "name": "\u2028"}
    cli("append", "--json", tmp_path / "b.tape", stdin=line.encode())
    assert json.loads(payloads(tmp_path / "b.tape")[0]) == {"price": 101.25, "name": "\u2028"}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("text", b"\xff"),
        ("json", b"{"),
        ("json", b""),
        ("json", b"\xff"),
        ("json", b"NaN"),
        ("json", b"[-Infinity]"),
        ("json", b'"\n"'),
        ("json", b"1 2"),
        ("json", b"[" * 100_000 + b"]" * 100_000),
    ],
)
def test_data_of_another_kind_is_named(cli: Cli, tmp_path: Path, kind: str, payload: bytes) -> None:
    path = make(tmp_path / "a.tape", b"1", payload, b"3")
    done = cli.quick("cat", "--json", "--data", kind, path, code=2)
    assert [json.loads(line)["ordinal"] for line in done.stdout.splitlines()] == [0]
    one_line(done.stderr, str(path), "event 1 is not", "--data")
    one_line(cli.quick("cat", "--data", kind, path, code=2).stderr, "--json")


def test_json_of_a_stream_with_a_schema(cli: Cli, tmp_path: Path) -> None:
    fields = np.dtype([("price", "<f8"), ("name", "S4"), ("at", "<M8[s]"), ("pair", "<i2", (2,)), ("raw", "V2")])
    rows = np.array([(1.5, b"ab", "2026-01-02", (1, -2), b"\x01\xff"), (np.nan, b"\x1b", "NaT", (0, 0), b"")], fields)
    path, back = tmp_path / "t.tape", tmp_path / "back.tape"
    with evtape.open(path, "w", schema=fields) as tape:
        tape.append_array(rows)
    out = cli("cat", "--json", path).stdout
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["value"] for line in lines] == [
        {"price": 1.5, "name": "ab", "at": "2026-01-02T00:00:00", "pair": [1, -2], "raw": "01ff"},
        {"price": None, "name": "\x1b", "at": None, "pair": [0, 0], "raw": "0000"},
    ]
    assert b"\x1b" not in out
    cli("append", "--json", back, stdin=out)
    assert payloads(back) == payloads(path)
    for schema, value, key in (("json", {"a": [1, None]}, "data_json"), ("text", "gruß", "data")):
        path = tmp_path / f"{schema}.tape"
        with evtape.open(path, "w", schema=schema) as tape:
            tape.append(value)
        (line,) = cli("cat", "--json", path).stdout.splitlines()
        assert json.loads(line)[key] == value
        (line,) = cli("cat", "--json", "--data", "hex", path).stdout.splitlines()
        assert bytes.fromhex(json.loads(line)["data_hex"]) == payloads(path)[0]


def test_the_shape_of_json_does_not_depend_on_payloads(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"text", b"\xff", b"text")
    shapes = {tuple(json.loads(line)) for line in cli.quick("cat", "--json", path).stdout.splitlines()}
    assert shapes == {("ordinal", "timestamp", "time", "data_base64")}


def test_json_there_and_back(cli: Cli, tmp_path: Path) -> None:
    path, copy = tmp_path / "a.tape", tmp_path / "b.tape"
    with evtape.open(path, "x") as tape:
        events = [b"text", "\u2028\ud7ff\U0001f4fc".encode(), b"\xff\xfe", b"\xed\xa0\x80", b'"\\\n\0', b""]
        tape.append_many(events, [5, -(2**63), 2**63 - 1, 0, DAY, 1])
    lines = cli.quick("cat", "--json", path).stdout
    cli("append", "--json", copy, stdin=lines)
    assert copy.read_bytes()[24:] == path.read_bytes()[24:]
    third = json.loads(lines.splitlines()[2])
    assert third == {
        "ordinal": 2,
        "timestamp": 2**63 - 1,
        "time": "2262-04-11T23:47:16.854775807Z",
        "data_base64": "//4=",
    }


def test_append_json(tmp_path: Path) -> None:
    lines = b'{"data":"now"}\n\n{"data":"iso","time":"2026-11-22T20:59:01.123456789Z"}\n{"data":"x"}'
    before = time.time_ns()
    Cli(CORES[0])("append", "--json", tmp_path / "a.tape", stdin=lines)
    with evtape.open(tmp_path / "a.tape") as tape:
        assert [bytes(event.data) for event in tape] == [b"now", b"iso", b"x"]
        assert before <= tape[0].timestamp <= time.time_ns()
        assert tape[1].timestamp == DAY


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("{", "not JSON"),
        ("[1]", "list"),
        ('{"time":5}', "no payload"),
        ('{"data":"a","data_base64":"YQ=="}', "no payload"),
        ('{"data_base64":"?"}', "base64"),
        ('{"data_hex":"6"}', "hex"),
        ('{"data":1}', "no payload"),
        ('{"data":"a","data_json":null}', "no payload"),
        ('{"data":"a","time":"2026-11-22T20:59:01"}', "no zone"),
        ('{"data_json":NaN}', "NaN"),
        ('{"data":"a","timestamp":1.5}', "1.5"),
        ('{"data":"a","timestamp":9223372036854775808}', "9223372036854775808"),
        ('{"data":"a","time":"yesterday"}', "yesterday"),
        ('{"data":"","timestamp":0}', "timestamp 0"),
        ('{"data":"\\ud800"}', "surrogates"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_json(line: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        _json.event_of(line.encode())


def test_append_keeps_what_is_before_a_wrong_line(cli: Cli, tmp_path: Path) -> None:
    done = cli("append", "--json", tmp_path / "a.tape", stdin=b'{"data":"good","timestamp":7}\nbad\n', code=1)
    one_line(done.stderr, "line 2", "not JSON")
    assert payloads(tmp_path / "a.tape") == [b"good"]


def test_a_slow_pipe_is_seen_at_once(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    with cli.start("append", path) as process:
        assert process.stdin is not None
        process.stdin.write(b"first\nsec")
        process.stdin.flush()
        wait_until(lambda: path.exists() and payloads(path) == [b"first"])
        process.stdin.write(b"ond\n")
        process.stdin.flush()
        wait_until(lambda: payloads(path) == [b"first", b"second"])
        assert process.poll() is None
        process.stdin.close()
        assert process.wait() == 0


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_the_stream(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "a.tape"
    with cli.start("append", path) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"first\n")
        process.stdin.flush()
        wait_until(lambda: path.exists() and payloads(path) == [b"first"])
        # Python runs a handler before or after a read; a signal that comes just as one begins waits for its end.
        for _ in range(20):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(1) == 128 + number
                break
        assert process.returncode == 128 + number
        assert process.stderr.read() == b""
    assert evtape.verify(path).state == "clean"


@posix
def test_no_room(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *cli.argv("append", path)]
    lines = b"".join(b"%06d" % number + b"." * 93 + b"\n" for number in range(10_000))
    done = subprocess.run(limited, input=lines, capture_output=True, env=environment(cli.core), check=False)
    one_line(done.stderr, "large")
    assert done.returncode == 1
    assert evtape.verify(path).state == "clean"
    assert 0 < len(payloads(path)) < 4_000  # a pipe holds less than the limit, so some batches were stored


def test_append_after_an_interrupted_writer(cli: Cli, tmp_path: Path) -> None:
    torn = shutil.copy(DATA / "truncated.tape", tmp_path / "torn.tape")
    done = cli("append", torn, stdin=b"new\n", code=1)
    one_line(done.stderr, str(torn), "kept 6 events")
    assert payloads(Path(torn))[6:] == [b"new"]
    cli("append", torn, stdin=b"newer\n")
    damaged = shutil.copy(DATA / "bitflip-middle.tape", tmp_path / "damaged.tape")
    before = Path(damaged).read_bytes()
    one_line(cli("append", damaged, stdin=b"new\n", code=1).stderr, "nothing was changed")
    assert Path(damaged).read_bytes() == before


# --------------------------------------------------------------------------------------------------------------- record

TALK = """
import sys
for number in range(3):
    print("out", number, flush=True)
    print("err", number, file=sys.stderr, flush=True)
sys.stdout.buffer.write(b"part\\xff")
sys.stdout.flush()
sys.exit(3)
"""


def test_record(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    done = cli("record", path, "--", sys.executable, "-c", TALK, code=3)
    end = os.linesep.encode()
    assert done.stdout == end.join([b"out 0", b"out 1", b"out 2", b"part\xff"])
    assert done.stderr == end.join([b"err 0", b"err 1", b"err 2", b""])
    lines = [payload.rstrip(b"\r") for payload in payloads(path)]
    assert [line for line in lines if not line.startswith(b"err")] == [b"out 0", b"out 1", b"out 2", b"part\xff"]
    assert [line for line in lines if line.startswith(b"err")] == [b"err 0", b"err 1", b"err 2"]


@posix
def test_record_by_signal(cli: Cli, tmp_path: Path) -> None:
    cli("record", tmp_path / "a.tape", "--", "sh", "-c", "echo before; kill -9 $$", code=128 + 9)
    assert payloads(tmp_path / "a.tape") == [b"before"]


@posix
def test_record_forwards_signals(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    script = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.02; done"
    with cli.start("record", path, "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert payloads(path) == [b"ready"]  # kept before it is passed through
        process.terminate()
        assert process.stdout.read() == b"got it\n"
        assert process.wait(20) == 7
    assert payloads(path) == [b"ready", b"got it"]


@posix
def test_record_when_nobody_reads(cli: Cli, tmp_path: Path) -> None:
    with cli.start("record", tmp_path / "a.tape", "--", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 128 + signal.SIGPIPE
    assert evtape.verify(tmp_path / "a.tape").state == "clean"


def test_record_without_a_command(tmp_path: Path) -> None:
    cli = Cli(CORES[0])
    one_line(cli("record", tmp_path / "a.tape", "--", "no-such-command", code=127).stderr, "no-such-command")
    one_line(cli("record", tmp_path / "a.tape", code=2).stderr, "CMD")
    assert not (tmp_path / "a.tape").exists()


# ------------------------------------------------------------------------------------------------------ verify, recover


def test_verify_several(cli: Cli, tmp_path: Path) -> None:
    names = [DATA / "three.tape", DATA / "bitflip-middle.tape", DATA / "unclosed.tape"]
    done = cli.quick("verify", *names, code=1)
    text = done.stdout.decode()
    assert "clean, 3 events" in text
    assert "the valid prefix is 5 events" in text
    assert "open (in use, or not closed), 10 events" in text
    assert done.stderr == b""
    done = cli.quick("verify", *names, DATA / "png.tape", tmp_path, tmp_path / "none", code=2)
    assert len(done.stderr.splitlines()) == 2


def test_recover_salvages_only_into_another_stream(cli: Cli, tmp_path: Path) -> None:
    path, out = tmp_path / "t.tape", tmp_path / "o.tape"
    path.write_bytes((DATA / "bitflip-middle.tape").read_bytes())
    one_line(cli.quick("recover", path, "--salvage", code=2).stderr, "--salvage", "--output")
    done = cli.quick("recover", path, "--salvage", "--output", out, code=1)
    assert b"from after the damage, in 1 run, doubtful: see" in done.stdout
    assert b"o.tape.salvage.json" in done.stdout
    assert b"after a damaged event whose size led here" in done.stdout
    said = json.loads(cli.quick("recover", path, "--salvage", "--json", "-o", tmp_path / "p.tape", code=1).stdout)
    assert said["salvaged"] == json.loads((tmp_path / "p.tape.salvage.json").read_text())["salvaged"] != []
    assert cli.quick("verify", out).returncode == 0


def test_recover_tells_what_it_saved_from_behind_write_offset(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "t.tape"
    whole = stream([(NS + i, b"payload") for i in range(20)])
    path.write_bytes((24 + 15 * 23).to_bytes(8, "little") + whole[8:])
    done = cli.quick("recover", path)
    assert b"EventCount is now 15 instead of 20" in done.stdout
    assert b"events above WriteOffset are saved in" in done.stdout
    assert (tmp_path / "t.tape.quarantine-369").read_bytes() == whole[369:]
    path.write_bytes((24 + 15 * 23).to_bytes(8, "little") + whole[8:])
    done = cli.quick("recover", path, "--salvage", "-o", tmp_path / "o.tape", code=1)
    assert b"EventCount contradicts" in done.stdout


def test_recover_never_overwrites(cli: Cli, tmp_path: Path) -> None:
    path = Path(shutil.copy(DATA / "bitflip-middle.tape", tmp_path / "a.tape"))
    before = path.read_bytes()
    (tmp_path / "taken").write_bytes(b"precious")
    one_line(cli.quick("recover", path, "--output", tmp_path / "taken", code=2).stderr, "taken", "exists")
    one_line(cli.quick("recover", path, "--output", path, code=2).stderr, "a.tape", "exists")
    assert (tmp_path / "taken").read_bytes() == b"precious"
    cli.quick("recover", path, "--output", tmp_path / "new", code=1)
    cli.quick("recover", path, "--dry-run", code=1)
    assert path.read_bytes() == before
    assert len(payloads(tmp_path / "new")) == 5
    text = cli.quick("recover", path, code=1).stdout.decode()
    saved = path.with_name("a.tape.quarantine-667")
    assert str(saved) in text
    assert saved.read_bytes() == before[667:]
    assert "clean" in cli.quick("recover", path).stdout.decode()


# ------------------------------------------------------------------------------------------------------------ wrong use


def test_wrong_use(cli: Cli, tmp_path: Path) -> None:
    path = make(tmp_path / "a.tape", b"one")
    one_line(cli.quick("cat", tmp_path / "none.tape", code=2).stderr, "none.tape", "No such file", "check the name")
    one_line(cli.quick("cat", tmp_path, code=2).stderr, str(tmp_path), "not a regular file")
    one_line(cli.quick("cat", path, "--from", "soon", code=2).stderr, "soon", "ISO 8601", "10 min ago")
    one_line(cli.quick("cat", path, "--json", "--framing", "lines", code=2).stderr, "not both")
    one_line(cli.quick("append", tmp_path / "none" / "a.tape", code=2).stderr, "none", "No such file")
    one_line(cli.quick("no-such", code=2).stderr, "no-such", "--help")
    assert b"append" in cli.quick(code=2).stdout
    assert b"record" in cli.quick("--help").stdout
    assert evtape.__version__.encode() in cli.quick("--version").stdout
    with evtape.open(path, "a"):
        one_line(cli.quick("append", path, code=2).stderr, "another writer")
        one_line(cli.quick("recover", path, code=2).stderr, "another writer")


@posix
def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    path = make(tmp_path / "a.tape", b"one")
    with open("/dev/full", "wb") as full, Cli(CORES[0]).start("cat", path, stdout=full) as process:
        assert process.stderr is not None
        one_line(process.stderr.read(), "output", "No space")
        assert process.wait() == 1


@posix
def test_bench_that_cannot_write(tmp_path: Path) -> None:
    argv = Cli(CORES[0]).argv("bench", "--dir", tmp_path, "--json")
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *argv]
    done = subprocess.run(limited, capture_output=True, env=environment(CORES[0]), check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    one_line(done.stderr, "standard", str(tmp_path), "large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(tmp_path: Path, missing: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{missing!r}] = None")
    env = environment(CORES[0])
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    argv = [sys.executable, "-m", "evtape", "info", "x"]
    done = subprocess.run(argv, capture_output=True, env=env, check=False)
    assert done.returncode == 2
    one_line(done.stderr, missing, "pip install 'evtape[cli]'", "pip install '.[cli]'")


# ---------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("value", [0, -1, 1, DAY, -(2**63), 2**63 - 1, 10**9 - 1, -(10**9) - 1])
def test_times_come_back(value: int) -> None:
    assert _times.parse(times.iso(value)) == value
    assert _times.parse(str(value)) == value


def test_times() -> None:
    assert times.iso(DAY) == "2026-11-22T20:59:01.123456789Z"
    assert _times.parse("2026-11-22T20:59:01.5Z") == DAY // 10**9 * 10**9 + 500_000_000
    assert _times.parse("2026-11-22 21:59:01,123456789+01:00") == DAY
    assert _times.parse("1970-01-02T00:00Z") == 86400 * 10**9
    for wrong in ("", "soon", "2026-11-22T20:59:01.1234567890Z", "2026-13-01", "9999-01-01T00:00Z", str(2**63)):
        for read in (_times.parse, _times.understand):
            with pytest.raises(ValueError, match=r"not a time|int64"):
                read(wrong)


def pieces(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


@pytest.mark.parametrize("framing", _framing.NAMES)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 1000])
def test_framing_does_not_depend_on_the_pieces(framing: str, step: int) -> None:
    records = [b"", b"a", b"bcd" * 9, b"", bytes(9)]
    frame = _framing.framed(framing)
    splitter = _framing.splitter(framing)
    whole = b"".join(frame(memoryview(record)) for record in records)
    found = [bytes(item) for piece in pieces(whole, step) for item in splitter.feed(piece)]
    assert found + splitter.finish() == records


def test_pictures() -> None:
    assert _show.sparkline([0, 0.001, 4, 8]) == " ▁▄█"
    assert _show.chart([0, 1, 2], 2) == ["  █", " ██"]
    assert (_show.bar(1, 3), _show.bar(0.5, 3), _show.bar(0, 3)) == ("███", "█▌", "")
    assert [_show.bytes_text(size) for size in (0, 999, 1500, 2.5e12)] == ["0 B", "999 B", "1.5 kB", "2.5 TB"]
    durations = [_show.duration_text(ns) for ns in (5, 1500, 61e9, 90061e9)]
    assert durations == ["5 ns", "1.5 µs", "00:01:01", "1 d 01:01:01"]
    assert [_show.count_text(count) for count in (5, 1500, 2e9)] == ["5", "1.5 k", "2 G"]


def test_a_damaged_header_over_valid_events_is_damage(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "t.tape"
    path.write_bytes((DATA / "offset-negative.tape").read_bytes())
    one_line(cli("append", path, stdin=b"more\n", code=1).stderr, "WriteOffset", "evtape recover")
    one_line(cli("record", path, "--", "true", code=1).stderr, "WriteOffset", "evtape recover")


def test_index_makes_what_verify_compares_with(cli: Cli, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tape", tmp_path / "bad.tape"
    for path in (good, bad):
        make(path, *[b"x" * 10] * 1000)
    raw = bytearray(bad.read_bytes())
    raw[24 + 26 * 500 + 11] = 255
    bad.write_bytes(raw)
    assert b"no index to compare" in cli.quick("verify", good).stdout
    said = cli.quick("index", good, bad, code=1)
    assert said.stdout.decode() == f"{good}: 1,000 events indexed\n"
    assert b"event 500" in said.stderr
    assert json.loads(cli.quick("index", "--json", good).stdout) == {"path": str(good), "events": 1000}
    assert b"every timestamp matches the index" in cli.quick("verify", good).stdout
    told = json.loads(cli.quick("verify", "--json", good).stdout)
    assert (told["index"], told["compared"]) == ("compared", 1000)
    raw = bytearray(good.read_bytes())
    raw[24 + 26 * 700 + 1] ^= 1
    good.write_bytes(raw)
    damaged = cli.quick("verify", good, code=1).stdout.decode()
    assert "event 700 at offset 18224 has timestamp" in damaged
    assert "no event is lost" in damaged
    assert cli.quick("index", tmp_path / "missing.tape", code=2).stderr.count(b"\n") == 1
