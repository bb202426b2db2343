"""The life of a writer in its process: whatever way a process ends, and whatever interrupts a call, nothing is left."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from tests.helpers import run_python

# ------------------------------------------------------------------------------------- ends of a process

_OPEN = """
import gc, sys, threading, time, evtape
path, durability, how = sys.argv[1:]
tape = evtape.open(path, "w", durability=durability, interval=0.01)
for i in range(100):
    tape.append(b"%d" % i)
if durability == "interval":
    time.sleep(0.05)
"""
_ENDS = {
    "global": ("", 0),
    "exit": ("sys.exit(7)", 7),
    "exception": ("raise LookupError", 1),
    "atexit": ("import atexit; atexit.register(tape.append, b'100')", 0),
    "cycle": (
        """
class Node: pass
node = Node(); node.tape = tape; node.self = node
gc.disable(); del node, tape
""",
        0,
    ),
    "thread": (
        """
def work():
    time.sleep(0.3)
    tape.append(b"100")
threading.Thread(target=work).start()
""",
        0,
    ),
    "daemon": (
        """
def work():
    i = 100
    try:
        while True:
            tape.append(b"%d" % i)
            i += 1
    except evtape.ClosedError:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
        0,
    ),
    "daemon that opens": (
        """
def work():
    try:
        while True:
            other = evtape.open(path + ".other", "w", durability=durability)
            other.append(b"x")
            other.close()
    except evtape.ClosedError:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
        0,
    ),
}


@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
@pytest.mark.parametrize("how", list(_ENDS))
def test_a_writer_that_nobody_closed_is_closed_when_its_process_ends(et, core, tmp_path, durability, how):
    path = tmp_path / "t.tape"
    code, returncode = _ENDS[how]
    done = subprocess.run(
        [sys.executable, "-c", _OPEN + code, path, durability, how],
        env={**os.environ, "EVTAPE_BACKEND": core},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == returncode, done.stderr
    assert ("Traceback" in done.stderr) == (how == "exception"), done.stderr
    report = et.verify(path)
    assert report.state == "clean"
    stored = [int(bytes(data)) for _, data in et.open(path)]
    assert stored == list(range(len(stored)))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    assert len(stored) == {"thread": 101, "atexit": 101}.get(how, 100) or (how == "daemon" and len(stored) > 100)


def test_a_writer_left_open_at_the_end_is_told_and_closed_where_warnings_are_errors(et, core, tmp_path):
    path = tmp_path / "t.tape"
    code = "import sys, evtape; tape = evtape.open(sys.argv[1], 'w'); tape.append(b'x')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, path],
        env={**os.environ, "EVTAPE_BACKEND": core},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "ResourceWarning: unclosed <evtape writer of" in done.stderr
    assert et.verify(path).state == "clean"


def test_the_end_of_a_process_reports_what_a_close_raises(et, core, tmp_path):
    code = """
import os, sys, evtape
a, b = (evtape.open(path, "w") for path in sys.argv[1:])
a.append(b"x"), b.append(b"x")
for path in sys.argv[1:]:
    os.truncate(path, 30)
"""
    paths = [tmp_path / "a.tape", tmp_path / "b.tape"]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths],
        env={**os.environ, "EVTAPE_BACKEND": core},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    for path in paths:
        assert f"TruncatedError: {path}: the file has 30 bytes" in done.stderr


# ------------------------------------------------------------------------------------- interruptions

_INTERRUPTED = """
import gc, os, random, signal, sys, threading, time, warnings, evtape
folder, rounds = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("ignore", evtape.RecoveryWarning)
warnings.simplefilter("ignore", ResourceWarning)
sys.unraisablehook = lambda unraisable: None  # an interruption of a finalizer

def interrupt(*_):
    raise KeyboardInterrupt

def descriptors():
    return len(os.listdir("/proc/self/fd"))

signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(int(sys.argv[3]))
path = os.path.join(folder, "t.tape")
evtape.open(path, "w").close()
evtape.MappedFile(path).close()

def use(mode, durability):
    with evtape.open(path, mode, durability=durability, interval=0.001) as tape:
        for i in range(5):
            tape.append(b"x" * rng.choice([1, 1000, 100_000]))
        tape.append_many([b"y", b"z"])
        tape.sync()
    evtape.open(path).close()
    with evtape.open(path) as tape:
        len(tape)
    evtape.MappedFile(path, "r").close()
    if mode == "w":
        os.unlink(path)
        evtape.MappedFile(path, "x", 100).close()
        os.unlink(path)

began = time.perf_counter()
use("w", "close")
took = time.perf_counter() - began
before, hit = descriptors(), 0
for round in range(rounds):
    mode, durability = rng.choice("aw"), rng.choice(["none", "close", "interval", "full"])
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 1.2 * took))
        use(mode, durability)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hit += 1
    except FileExistsError:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    if os.path.exists(path) and 0 < os.path.getsize(path) < 200 and os.path.getsize(path) == 100:
        os.unlink(path)
    names = [name for name in os.listdir(folder) if name.endswith(".tmp")]
    assert not names, (round, names)
    until = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < until:
        time.sleep(0.001)
    assert threading.active_count() == 1, threading.enumerate()
    evtape.open(path, "a").close()
    assert descriptors() == before, (round, mode, durability, descriptors(), before)
    report = evtape.verify(path)
    assert report.state == "clean", report
print(hit)
"""


def test_an_interruption_at_any_moment_leaves_nothing_behind(core, tmp_path):
    hit = run_python(core, _INTERRUPTED, tmp_path, 400, 1)
    assert int(hit) > 100


_FINALIZER_WARNS = """
import gc, os, sys, evtape
path = sys.argv[1]
before = len(os.listdir("/proc/self/fd"))
for durability in ("none", "close", "interval", "full"):
    tape = evtape.open(path, "a", durability=durability)
    tape.append(b"x")
    del tape
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
evtape.open(path, "a").close()
"""


def test_an_unclosed_writer_is_closed_where_its_warning_is_an_error(et, core, tmp_path):
    path = tmp_path / "t.tape"
    run_python(core, _FINALIZER_WARNS, path)
    report = et.verify(path)
    assert (report.state, report.events) == ("clean", 4)


def _refuse(*_args, **_kwargs):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("mode", ["a", "w", "x"])
def test_a_thread_that_cannot_start_leaves_nothing_behind(et, tmp_path, monkeypatch, mode):
    path = tmp_path / "t.tape"
    if mode != "x":
        with et.open(path, "w") as tape:
            tape.append(b"x")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for name in ("_start_new_thread", "_start_joinable_thread"):
        monkeypatch.setattr(threading, name, _refuse, raising=False)
    with pytest.raises(RuntimeError, match="can't start new thread") as caught:
        et.open(path, mode, durability="interval", capacity=1 << 20)
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before  # while the exception is alive
    assert et.verify(path).state == "clean"
    with et.open(path, "a", durability="interval") as tape:
        assert len(tape) == (1 if mode == "a" else 0)


@pytest.mark.parametrize("name", ["Appender", "Region"])
def test_what_fails_while_a_writer_is_made_leaves_nothing_behind(et, tmp_path, monkeypatch, name):
    path = tmp_path / "t.tape"
    et.open(path, "w").close()

    def fail(*_):
        raise MemoryError

    before = len(os.listdir("/proc/self/fd"))
    module = sys.modules["evtape.writer"]
    with monkeypatch.context() as patch:
        core = type("Core", (), {key: getattr(module.core, key) for key in dir(module.core) if key[0] != "_"})
        setattr(core, name, staticmethod(fail))
        for place in ("writer", "opening", "reader"):
            patch.setattr(sys.modules[f"evtape.{place}"], "core", core)
        with pytest.raises(MemoryError):
            et.open(path, "a")
        if name == "Region":
            with pytest.raises(MemoryError):
                et.open(path)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
    et.open(path, "a").close()


def _mapped(path):
    with open("/proc/self/maps") as maps:
        return [line for line in maps if str(path) in line]


def test_an_open_that_fails_maps_nothing_while_its_exception_lives(et, tmp_path):
    path = tmp_path / "t.tape"
    before = len(os.listdir("/proc/self/fd"))
    path.write_bytes(b"\xff" * 5000)
    caught = []
    for call in (et.open, lambda name: et.open(name, "a")):
        try:
            call(path)
        except et.FormatError as error:
            caught.append(error)
    assert len(caught) == 2
    assert _mapped(path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_objects_that_were_never_opened_can_be_closed_and_collected(et, tmp_path):
    for kind in (et.Reader, et.Writer, et.MappedFile):
        made = kind.__new__(kind)
        made.close()
        assert kind is et.MappedFile or made.closed
        del made
        gc.collect()
    for kind in (et.Reader, et.MappedFile):
        with pytest.raises(TypeError):
            kind(3.5)
        with pytest.raises(FileNotFoundError):
            kind(tmp_path / "missing")
    gc.collect()
