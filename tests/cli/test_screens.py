"""What the command line shows a person: whole screens of a terminal of 60 and of 100 columns."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")
if os.name != "posix":
    pytest.skip("needs pseudo-terminals", allow_module_level=True)

from evtape.cli import _show
from tests.cli.terminal import on_terminal, screen, width_of
from tests.helpers import NS, stream

CORE = "native" if find_spec("evtape.core.native") else "python"
COLUMNS = [60, 100]
HOUR = 3600 * 10**9


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"EVTAPE_BACKEND": CORE, "PYTHONPATH": str(Path(evtape.__file__).parents[1])} | more


def run(columns: int, *arguments: object, code: int = 0, **more: str) -> str:
    """What the command writes to a terminal, styles included."""
    argv = [sys.executable, "-m", "evtape", *map(str, arguments)]
    number, text = on_terminal(argv, columns, environment(**more))
    assert number == code, text
    return text


@pytest.fixture(autouse=True)
def _in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in the screens have no directory in them."""
    monkeypatch.chdir(tmp_path)


# ----------------------------------------------------------------------------------------------------------------- info

SLOW = stream([(NS + number * 3 * HOUR, b"tick %d" % number) for number in range(40)])
UNSORTED = stream([(NS + number * 7919 % 300 * 10**7, b"x" * (number * 31 % 999)) for number in range(300)])
ONE = stream([(NS, b"x")])
SIZE = bytearray(SLOW)
SIZE[474 + 8 : 474 + 12] = b"\xff\xff\xff\x7f"  # the size of event 20 does not fit into the stream
STREAMS = {"slow": SLOW, "empty": stream([]), "one": ONE, "unsorted": UNSORTED, "damaged": bytes(SIZE)}

SCREENS = {
    ("slow", 60): """\
path      slow.tape
state     clean (closed; payloads not checked)
backend   CORE
events    40
bytes     934
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-05T21:10:23.000000000Z
duration  4 d 21:00:00
rate      8.2 events/day
sizes     min 6, mean 6.8, max 7 bytes
times     sorted
over time █▄▄█▄▄█▄▄█▄▄▄█▄▄█▄▄█▄▄▄█▄▄█▄▄█  peak 12.3/day

4 - 7 B  ████████████████████████████████████  40
""",
    ("slow", 100): """\
path      slow.tape
state     clean (closed; payloads not checked)
backend   CORE
events    40
bytes     934
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-05T21:10:23.000000000Z
duration  4 d 21:00:00
rate      8.2 events/day
sizes     min 6, mean 6.8, max 7 bytes
times     sorted
over time ██ ██ ██ ██ ██ ██ ██ █ ██ ██ ██ ██ ██ ██ █ ██ ██ ██ ██ ██ ██  peak 12.3/day

4 - 7 B  ████████████████████████████████████  40
""",
    ("empty", 60): """\
path     empty.tape
state    clean (closed; payloads not checked)
backend  CORE
events   0
bytes    24
created  2022-01-01T00:10:23.000000000Z
""",
    ("one", 60): """\
path      one.tape
state     clean (closed; payloads not checked)
backend   CORE
events    1
bytes     41
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-01T00:10:23.000000000Z
duration  0 ns
rate      -
sizes     min 1, mean 1.0, max 1 byte
times     sorted

1 B  ████████████████████████████████████  1
""",
    ("unsorted", 60): """\
path      unsorted.tape
state     clean (closed; payloads not checked)
backend   CORE
events    300
bytes     151,419
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-01T00:10:24.810000000Z
earliest  2022-01-01T00:10:23.000000000Z
latest    2022-01-01T00:10:25.990000000Z
duration  2.99 s
rate      100 events/s
sizes     min 0, mean 488.6, max 998 bytes
times     not sorted: some go backwards
over time ██████████████████████████████  peak 100/s

          0 B  ▎                                       1
      2 - 3 B  ▎                                       1
      4 - 7 B  ▎                                       1
     8 - 15 B  ▌                                       2
    16 - 31 B  █▌                                      6
    32 - 63 B  ██▌                                    10
   64 - 127 B  █████▍                                 21
  128 - 255 B  ██████████▍                            41
  256 - 511 B  ███████████████████                    75
512 - 1,023 B  ████████████████████████████████████  142
""",
    ("unsorted", 100): """\
path      unsorted.tape
state     clean (closed; payloads not checked)
backend   CORE
events    300
bytes     151,419
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-01T00:10:24.810000000Z
earliest  2022-01-01T00:10:23.000000000Z
latest    2022-01-01T00:10:25.990000000Z
duration  2.99 s
rate      100 events/s
sizes     min 0, mean 488.6, max 998 bytes
times     not sorted: some go backwards
over time ████████████████████████████████████████████████████████████  peak 100/s

          0 B  ▎                                       1
      2 - 3 B  ▎                                       1
      4 - 7 B  ▎                                       1
     8 - 15 B  ▌                                       2
    16 - 31 B  █▌                                      6
    32 - 63 B  ██▌                                    10
   64 - 127 B  █████▍                                 21
  128 - 255 B  ██████████▍                            41
  256 - 511 B  ███████████████████                    75
512 - 1,023 B  ████████████████████████████████████  142
""",
    ("damaged", 60): """\
path      damaged.tape
state     damaged; see 'evtape verify'
backend   CORE
events    20
bytes     474 of 934 that are published
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-03T09:10:23.000000000Z
duration  2 d 09:00:00
rate      8.4 events/day
sizes     min 6, mean 6.5, max 7 bytes
times     sorted
over time ██ ██ ██ █ ██ ██ ██ █ ██ ██ ██  peak 12.6/day

4 - 7 B  ████████████████████████████████████  20
""",
    ("damaged", 100): """\
path      damaged.tape
state     damaged; see 'evtape verify'
backend   CORE
events    20
bytes     474 of 934 that are published
created   2022-01-01T00:10:23.000000000Z
first     2022-01-01T00:10:23.000000000Z
last      2022-01-03T09:10:23.000000000Z
duration  2 d 09:00:00
rate      8.4 events/day
sizes     min 6, mean 6.5, max 7 bytes
times     sorted
over time █  █  █  █  █  █  █   █  █  █  █  █  █   █  █  █  █  █  █  █  peak 1.1/hour

4 - 7 B  ████████████████████████████████████  20
""",
}
# These have no line that depends on the width.
SCREENS |= {(name, 100): SCREENS[name, 60] for name, columns in list(SCREENS) if (name, 100) not in SCREENS}


@pytest.mark.parametrize(("name", "columns"), SCREENS)
def test_info(name: str, columns: int) -> None:
    Path(f"{name}.tape").write_bytes(STREAMS[name])
    text = run(columns, "info", f"{name}.tape", code=1 if name == "damaged" else 0)
    assert screen(text, columns) == SCREENS[name, columns].replace("CORE", CORE)
    colour = "1;31" if name == "damaged" else "32"
    state = "damaged" if name == "damaged" else "clean"
    assert f"\x1b[{colour}m{state}\x1b[0m" in text
    assert "\x1b[2m2022-01-01T00:10:23.000000000Z\x1b[0m" in text
    assert ("\x1b[33mnot sorted\x1b[0m" in text) == (name == "unsorted")


@pytest.mark.parametrize("columns", COLUMNS)
def test_info_of_several(columns: int) -> None:
    for name, raw in STREAMS.items():
        Path(f"{name}.tape").write_bytes(raw)
    text = run(columns, "info", *[f"{name}.tape" for name in STREAMS], code=1)
    assert screen(text, columns) == "\n".join(SCREENS[name, columns] for name in STREAMS).replace("CORE", CORE)


def test_info_of_an_open_stream() -> None:
    with evtape.open("open.tape", "x") as tape:
        tape.append(b"x", NS)
        text = run(60, "info", "open.tape")
    assert "\x1b[33mopen\x1b[0m (in use, or not closed)" in text
    assert re.search(r"^bytes     41 \(and [0-9,]+ preallocated\)$", screen(text, 60), re.MULTILINE)


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_long_path_is_not_cut(columns: int) -> None:
    name = "long name " * 4 + "\u65e5\u672c" * 30 + ".tape"
    Path(name).write_bytes(ONE)
    lines = screen(run(columns, "info", name), columns).splitlines()
    path = lines[: next(number for number, line in enumerate(lines) if line.startswith("state"))]
    assert "".join(line[10:] for line in path).replace(" ", "") == name.replace(" ", "")
    assert all(line.startswith(" " * 10) for line in path[1:])


# ---------------------------------------------------------------------------------------------- verify, recover, others


VERIFY = {
    60: """\
slow.tape: clean, 40 events, 934 bytes, every checksum
  matches; no index to compare timestamps with
one.tape: clean, 1 event, 41 bytes, every checksum
  matches; no index to compare timestamps with
unsorted.tape: clean, 300 events, 151,419 bytes, every
  checksum matches; no index to compare timestamps with;
  times go backwards first at event 3
damaged.tape: damaged; the valid prefix is 20 events,
  474 bytes
  event 20 at offset 474 is damaged (size): it does not
    fit below WriteOffset
junk.tape: not a stream: no usable header and no valid
  first event
""",
    100: """\
slow.tape: clean, 40 events, 934 bytes, every checksum matches; no index to compare timestamps
  with
one.tape: clean, 1 event, 41 bytes, every checksum matches; no index to compare timestamps with
unsorted.tape: clean, 300 events, 151,419 bytes, every checksum matches; no index to compare
  timestamps with; times go backwards first at event 3
damaged.tape: damaged; the valid prefix is 20 events, 474 bytes
  event 20 at offset 474 is damaged (size): it does not fit below WriteOffset
junk.tape: not a stream: no usable header and no valid first event
""",
}


@pytest.mark.parametrize("columns", COLUMNS)
def test_verify(columns: int) -> None:
    Path("junk.tape").write_bytes(b"no stream at all, and long enough for a header")
    names = ["slow", "one", "unsorted", "damaged"]
    for name in names:
        Path(f"{name}.tape").write_bytes(STREAMS[name])
    text = run(columns, "verify", *[f"{name}.tape" for name in [*names, "junk"]], code=2)
    assert screen(text, columns) == VERIFY[columns]
    assert "\x1b[32mclean\x1b[0m" in text
    assert "\x1b[1;31mdamaged\x1b[0m" in text
    assert "\x1b[1;31mnot a stream" in text


@pytest.mark.parametrize("columns", COLUMNS)
def test_recover(columns: int) -> None:
    Path("damaged.tape").write_bytes(STREAMS["damaged"])
    said = [
        "damaged.tape: would keep 20 events, 474 bytes; would cut 460 bytes",
        "event 20 at offset 474 is damaged (size): it does not fit below WriteOffset",
    ]
    text = screen(run(columns, "recover", "--dry-run", "damaged.tape", code=1), columns)
    assert text.split() == " ".join(said).split()
    assert len(text.splitlines()) == {60: 4, 100: 2}[columns]
    text = screen(run(columns, "recover", "--salvage", "-o", "out.tape", "damaged.tape", code=1), columns)
    assert "damaged.tape: kept 20 events, 474 bytes; 460 bytes are" in text
    assert "and 19 events from after the damage, in 1 run, doubtful:" in text
    text = screen(run(columns, "recover", "damaged.tape", code=1), columns)
    assert "saved in damaged.tape.quarantine-474" in " ".join(text.split())
    assert screen(run(columns, "recover", "damaged.tape"), columns) == (
        "damaged.tape: clean; nothing is lost: 20 events, 474 bytes\n"
    )


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize(
    "name",
    ["", "append", "bench", "cat", "demo", "follow", "index", "info", "record", "recover", "top", "verify"],
    ids=lambda name: name or "-",
)
def test_help(name: str, columns: int) -> None:
    text = screen(run(columns, *filter(None, [name]), "--help"), columns)
    assert text.startswith("Usage: evtape")
    assert "..." not in text.partition("\n")[2], "a text was cut"


@pytest.mark.parametrize("columns", COLUMNS)
def test_bench(columns: int) -> None:
    text = screen(run(columns, "bench", "-n", 50, "-s", 1), columns)
    assert text.startswith("50 messages of 1 byte, one writer\n\nstandard sequential  ")
    rows = text.splitlines()[2:]
    assert [" ".join(row.split()[:2]) for row in rows] == [
        "standard sequential",
        "channel synchronized",
        "buffered sequential",
        "memory mapped,",
        "memory mapped,",
    ]
    assert all(re.search(r" [0-9.]+x", row) or row.endswith("not installed") for row in rows)
    assert any("\u2588" in row or "\u258f" in row for row in rows) == (columns == 100)


@pytest.mark.parametrize("columns", COLUMNS)
def test_demo(columns: int) -> None:
    text = run(columns, "demo", "--files", 1)
    text = screen(text[text.index("\x1b[36mstream ") :], columns)  # after the progress bar
    words = " ".join(text.split())
    assert "work on 1 source file, " in words
    assert "every checksum matches" in words
    assert "\u2026" not in text, "a name was cut"
    found = re.search(r"busiest functions\n(.*?)\n\n", text, re.DOTALL)
    assert found is not None
    head, *rows = found[1].splitlines()
    figures = [row for row in rows if row.rstrip("\u2588\u258f\u258e\u258d\u258c\u258b\u258a\u2589 ").endswith("%")]
    assert len(figures) == 10
    share = head.index("share") + len("share")
    assert {row.index("%") + 1 for row in figures} == {share}


@pytest.mark.parametrize("columns", COLUMNS)
def test_a_message_is_wrapped(columns: int) -> None:
    text = screen(run(columns, "cat", "slow.tape", "--from", "soon", code=2), columns)
    assert text.startswith("evtape cat: Invalid value")
    assert len(text.splitlines()) > 1
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


# -------------------------------------------------------------------------------------------------- colours, progress


@pytest.mark.parametrize("arguments", [["info"], ["verify"], ["cat"], ["recover", "--dry-run"]])
def test_no_color(arguments: list[str]) -> None:
    Path("slow.tape").write_bytes(SLOW)
    argv = [sys.executable, "-m", "evtape", *arguments, "slow.tape"]
    code, text = on_terminal(["env", "NO_COLOR=1", *argv], 60, environment())
    assert (code, "\x1b" in text) == (0, False)
    code, text = on_terminal(["env", "TERM=dumb", *argv], 60, environment())
    assert (code, "\x1b" in text) == (0, False)
    assert "\x1b[" in on_terminal(argv, 60, environment())[1]


@pytest.mark.parametrize("arguments", [["info"], ["verify"], ["cat"], ["recover", "--dry-run"], ["bench", "-n1"]])
def test_a_pipe_is_plain(arguments: list[str]) -> None:
    name = "long name " * 12 + ".tape"
    Path(name).write_bytes(SLOW)
    names = [] if arguments[0] == "bench" else [name]
    done = subprocess.run(
        [sys.executable, "-m", "evtape", *arguments, *names],
        env=environment(FORCE_COLOR="1", COLUMNS="40"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert (done.stderr, b"\x1b" in done.stdout) == (b"", False)
    if arguments != ["cat"] and names:
        assert any(name in line for line in done.stdout.decode().splitlines()), "it was wrapped"


SLOW_VERIFY = """
import sys, time
import evtape
from evtape.cli import run

def verify(path, progress=None):
    for done in range(0, 101, 10):
        time.sleep(0.1)
        progress and progress(done * 10**6, 100 * 10**6)
    return real(path)

real, evtape.verify = evtape.verify, verify
sys.exit(run(["verify", "slow.tape"]))
"""


@pytest.mark.parametrize("columns", COLUMNS)
def test_progress(columns: int) -> None:
    Path("slow.tape").write_bytes(SLOW)
    argv = [sys.executable, "-c", SLOW_VERIFY]
    code, text = on_terminal(argv, columns, environment())
    assert code == 0
    bars = [part for part in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if "MB" in part]
    assert bars, text
    assert max(map(width_of, bars)) < columns
    assert "\u2026" not in text
    done = subprocess.run(argv, env=environment(), capture_output=True, check=True)
    matches = "every checksum matches; no index to compare timestamps with"
    assert done.stdout.decode() == f"slow.tape: clean, 40 events, 934 bytes, {matches}\n"
    assert done.stderr == b""


# ---------------------------------------------------------------------------------------------------- pure installation

PURE = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "evtape.core.native" else real(name, *more)
"""


def test_a_pure_installation_says_so() -> None:
    Path("sitecustomize.py").write_text(PURE)
    Path("slow.tape").write_bytes(SLOW)
    env = environment(EVTAPE_BACKEND="auto")
    env["PYTHONPATH"] = os.pathsep.join([os.getcwd(), env["PYTHONPATH"]])
    program = [
        sys.executable,
        "-c",
        "import sys; from evtape.cli import run; run(['verify', 'slow.tape']); run(sys.argv[1:])",
    ]
    text = " ".join(screen(on_terminal([*program, "info", "slow.tape"], 100, env)[1], 100).split())
    assert text.count("the pure Python core runs") == 1
    assert "backend python (the native core is not installed)" in text
    argv = [sys.executable, "-m", "evtape"]
    done = subprocess.run([*argv, "verify", "slow.tape"], env=env, capture_output=True, check=True)
    assert done.stderr == b""
    done = subprocess.run([*argv, "--version"], env=env, capture_output=True, check=True)
    assert b"python core\nthe native core is not installed" in done.stdout
    env = environment(EVTAPE_BACKEND="python")
    assert "not installed" not in on_terminal([*argv, "info", "slow.tape"], 100, env)[1], "it was asked for"


# ------------------------------------------------------------------------------------------------------------- numbers


def test_rates() -> None:
    rates = [1e6, 99.95, 1, 0.1, 0.099, 1 / 3600, 0.99 / 3600, 0.1 / 86400, 0.05 / 86400, 1e-10]
    assert [_show.rate_text(rate, "events") for rate in rates] == [
        "1,000,000 events/s",
        "100.0 events/s",
        "1.0 events/s",
        "0.1 events/s",
        "356 events/hour",
        "1.0 events/hour",
        "23.8 events/day",
        "0.1 events/day",
        "18.3 events/year",
        "0.00316 events/year",
    ]
    assert _show.rate_text(20) == "20.0/s"


def test_counted() -> None:
    assert [_show.counted(count, "event") for count in (0, 1, 2, 5684)] == [
        "0 events",
        "1 event",
        "2 events",
        "5,684 events",
    ]


# ----------------------------------------------------------------------------------------------------------- completion

BASH = """
eval "$(_EVTAPE_COMPLETE=bash_source evtape)"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _evtape_completion evtape; echo "${COMPREPLY[@]}"; }
ask evtape rec
ask evtape cat --fr
ask evtape cat --data ''
"""
ZSH = """
autoload -U compinit; compinit -D
eval "$(_EVTAPE_COMPLETE=zsh_source evtape)"
print -r -- $_comps[evtape]
_describe() { local -a found; found=("${(@P)3}"); print -r -- ${found%%:*}; }
compadd() { print -r -- ${(P)@[-1]}; }
ask() { words=("$@"); CURRENT=$#; _evtape_completion; }
ask evtape rec
ask evtape cat --fr
ask evtape cat --data ''
"""
FISH = """
_EVTAPE_COMPLETE=fish_source evtape | source
complete -C "evtape rec"
complete -C "evtape cat --fr"
complete -C "evtape cat --data "
"""


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
def test_completion(shell: str, script: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not here")
    Path("evtape").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m evtape "$@"\n')
    Path("evtape").chmod(0o755)
    env = environment(PATH=f"{os.getcwd()}{os.pathsep}{os.environ['PATH']}", HOME=os.getcwd())
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    words = [word for line in done.stdout.splitlines() for word in line.partition("\t")[0].split()]
    for found in ("record", "recover", "--framing", "--from", "text", "json", "hex", "base64"):
        assert found in words, done
    for wrong in ("append", "--json"):
        assert wrong not in words, done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_asked_for_as_documented(shell: str) -> None:
    line = f"_EVTAPE_COMPLETE={shell}_source evtape"
    assert line in " ".join(run(100, "--help").split())
    argv, env = [sys.executable, "-m", "evtape"], environment(_EVTAPE_COMPLETE=f"{shell}_source")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert f"_EVTAPE_COMPLETE={shell}_complete" in done.stdout, done
