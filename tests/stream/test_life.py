"""The life of a writer in its process: whatever way a process ends, and whatever interrupts a call, nothing is left."""

from __future__ import annotations

import datetime as dt
import gc
import os
import subprocess
import sys
import threading

import pytest

from tests.helpers import HEADER, NS, entry, open_descriptors, prefix, run_python, sample, stream

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
directory, rounds = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("ignore", evtape.RecoveryWarning)
warnings.simplefilter("ignore", ResourceWarning)
sys.unraisablehook = lambda unraisable: None  # an interruption of a finalizer

def interrupt(*_):
    raise KeyboardInterrupt

def descriptors():
    return len(os.listdir("/proc/self/fd"))

signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(int(sys.argv[3]))
path = os.path.join(directory, "t.tape")
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

took = 1.0
for _ in range(5):  # the first one also imports
    began = time.perf_counter()
    use("w", "close")
    took = min(took, time.perf_counter() - began)
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
    names = [name for name in os.listdir(directory) if name.endswith(".tmp")]
    assert not names, (round, names)
    until = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < until:
        time.sleep(0.001)
        gc.collect()  # a writer that its thread was syncing at that moment was not let go
    assert threading.active_count() == 1, threading.enumerate()
    evtape.open(path, "a").close()
    assert descriptors() == before, (round, mode, durability, descriptors(), before)
    report = evtape.verify(path)
    assert report.state == "clean", report
print(hit)
"""


def test_an_interruption_at_any_moment_leaves_nothing_behind(core, tmp_path):
    hit = run_python(core, _INTERRUPTED, tmp_path, 300, 1)
    assert int(hit) > 50


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
    before = open_descriptors(), threading.active_count()
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

    def fail(*_, **__):
        raise MemoryError

    before = open_descriptors()
    module = sys.modules["evtape.stream.writer"]
    with monkeypatch.context() as patch:
        core = type("Core", (), {key: getattr(module.core, key) for key in dir(module.core) if key[0] != "_"})
        setattr(core, name, staticmethod(fail))
        for place in ("stream.writer", "stream.create", "stream.reader", "recovery.examined"):
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
    before = open_descriptors()
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


# --------------------------------------------------------------------------- re-entered, and after a fork

_REENTERED = """
import signal, sys, evtape
path = sys.argv[1]
with evtape.open(path, "w", durability="none") as tape:
    tape.append_many([b"x"] * 300_000, range(300_000))
outcomes = set()

calls = [lambda: len(tape), lambda: tape[-1], lambda: tape[5], lambda: tape.timestamps, lambda: next(iter(tape))]
busy = f"{path}: the stream is busy in this thread; a signal handler or finalizer cannot use it now"

def use(*_):
    for call in calls:
        try:
            call()
            outcomes.add("answered")
        except RuntimeError as error:
            assert str(error) == busy
            outcomes.add("busy")

signal.signal(signal.SIGALRM, use)
for round in range(3000):
    with evtape.open(path) as tape:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + round % 50 * 5e-5)
        assert len(tape) == 300_000
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert tape[-1].timestamp == 299_999
    if round >= 50 and "busy" in outcomes:
        break
assert outcomes == {"answered", "busy"}, outcomes
"""


def test_a_signal_handler_that_asks_a_tape_in_the_middle_of_a_question_is_told(core, tmp_path):
    run_python(core, _REENTERED, tmp_path / "t.tape")


def test_an_interrupted_question_is_answered_when_it_is_asked_again(core, tmp_path):
    code = """
import signal, sys, evtape
path = sys.argv[1]
with evtape.open(path, "w", durability="none", index=False) as tape:
    tape.append_many([b"x"] * 200_000, range(200_000))

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
hit = 0
for round in range(60):
    with evtape.open(path) as tape:
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + round * 5e-5)
            len(tape)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hit += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(tape) == 200_000
        assert [tape[i].timestamp for i in (0, 70_001, 199_999)] == [0, 70_001, 199_999]
assert hit > 5, hit
"""
    run_python(core, code, tmp_path / "t.tape")


def test_a_writer_used_from_inside_itself_stays_right(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w", durability="close")
    flush, met = tape._flusher._flush_pages, []

    def inside(start, stop):
        """A flush in which a finalizer runs that uses the writer."""
        for call in (tape.sync, tape.close):
            with pytest.raises(RuntimeError, match="busy in this thread") as caught:
                call()
            assert str(path) in str(caught.value)
            met.append(call)
        flush(start, stop)

    tape._flusher._flush_pages = inside
    tape.append(b"x")
    tape.sync()
    assert len(met) == 2
    assert not tape.closed
    tape.append(b"y")
    tape.close()
    assert len(met) == 4
    assert (et.verify(path).state, et.verify(path).events) == ("clean", 2)
    et.open(path, "a").close()


@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
def test_a_signal_handler_may_sync_and_close(core, tmp_path, durability):
    code = """
import signal, sys, evtape
path, durability = sys.argv[1:]

def handler(*_):
    if tape is not None and not tape.closed:  # the timer may run out after the stream was closed
        tape.sync()
        if round % 2:
            tape.close()

tape = None
signal.signal(signal.SIGALRM, handler)
rounds, appends, step = (12, 10, 3e-3) if durability == "full" else (30, 100, 3e-5)
for round in range(rounds):
    signal.setitimer(signal.ITIMER_REAL, 1e-4 + round * step)
    try:
        with evtape.open(path, "w", durability=durability, interval=0.001) as tape:
            count = 0
            for count in range(1, appends):
                tape.append(b"x" * 3000)
            tape.sync()
    except evtape.ClosedError:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert tape.closed
    report = evtape.verify(path)
    assert report.state == "clean" and report.events in (count - 1, count), (report, count)
    tape = None
"""
    run_python(core, code, tmp_path / "t.tape", durability)


def test_a_forked_child_may_ask_a_tape_that_another_thread_was_asking(core, tmp_path):
    code = """
import os, sys, threading, time, warnings, evtape
warnings.simplefilter("ignore", DeprecationWarning)
path = sys.argv[1]
with evtape.open(path, "w", durability="none") as tape:
    tape.append_many([b"x"] * 200_000, range(200_000))
stop = False

def ask():
    while not stop:
        shared[0] = tape = evtape.open(path)
        assert len(tape) == 200_000

shared = [evtape.open(path)]
thread = threading.Thread(target=ask)
thread.start()
for _ in range(40):
    time.sleep(0.003)
    pid = os.fork()
    if pid == 0:
        right = len(shared[0]) == 200_000 and shared[0][199_999].timestamp == 199_999
        os._exit(0 if right else 1)
    until = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(pid, 9)
        time.sleep(0.001)
    assert done[1] == 0, done
stop = True
thread.join()
"""
    run_python(core, code, tmp_path / "t.tape")


def test_handlers_are_back_in_a_child_that_another_thread_forked(core, tmp_path):
    code = """
import os, signal, sys, threading, warnings
from evtape.system import signals
warnings.simplefilter("ignore", DeprecationWarning)
before = signal.getsignal(signal.SIGINT)

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if signal.getsignal(signal.SIGINT) is before and not signals._holds else 1)
    statuses.append(os.waitpid(pid, 0)[1])

statuses = []
with signals.SignalsDeferred():
    assert signal.getsignal(signal.SIGINT) is not before
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
assert statuses == [0]
assert signal.getsignal(signal.SIGINT) is before
"""
    run_python(core, code)


# ------------------------------------------------------------------------------------------ rewound


def _grow_again(path, cut_to, pairs_after):
    """What recovery and a new writer do, byte for byte: the header first, then the file, then new events."""
    raw = path.read_bytes()
    kept = 24 + sum(16 + len(data) for _, data in prefix(raw, len(raw))[:cut_to])
    with open(path, "r+b") as file:
        file.write(HEADER.pack(kept, cut_to, NS))
        file.truncate(kept)
        file.seek(0, 2)
        file.writelines(entry(timestamp, data) for timestamp, data in pairs_after)
        end = file.tell()
        file.seek(0)
        file.write(HEADER.pack(end, cut_to + len(pairs_after), NS))


@pytest.mark.parametrize("payload", [b"", b"x" * 10, bytes(500)], ids=len)
@pytest.mark.parametrize("after", [0, 3, 30, 100], ids="plus {}".format)
def test_a_reader_of_a_stream_that_was_cut_and_grew_again_is_told(et, tmp_path, payload, after):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, payload) for i in range(50)]))
    with et.open(path) as tape, et.open(path) as other:
        part, iterator = tape[10:48], iter(other)
        assert len(tape) == 50
        assert next(iterator).timestamp == NS
        if after == 30:
            assert et.open(path)[49].timestamp == NS + 49
        _grow_again(path, 40, [(NS + 1000 + i, payload) for i in range(after)])
        size = path.stat().st_size
        for ask in (lambda: len(tape), lambda: tape[45], lambda: list(part), lambda: tape[:], lambda: iter(tape)):
            with pytest.raises(et.RewoundError) as caught:
                ask()
            for word in (str(path), "open it again", str(24 + 50 * (16 + len(payload))), f" {size} "):
                assert word in str(caught.value)
        if after < 10:
            with pytest.raises(et.RewoundError):
                other[3]
    with et.open(path) as tape:
        assert len(tape) == 40 + after
    assert issubclass(et.RewoundError, et.FormatError)


def test_an_iterator_that_meets_what_was_rewritten_says_that_it_was(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, bytes([i + 1]) * 300_000) for i in range(50)]))
    with et.open(path) as tape:
        iterator = iter(tape)
        for _ in range(42):
            next(iterator)
        _grow_again(path, 40, [(NS + 1000 + i, bytes([i + 1]) * 777_777) for i in range(30)])
        with pytest.raises(et.RewoundError, match="open it again"):
            list(iterator)


def test_a_reader_of_a_stream_that_only_grows_is_never_told_so(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as writer, et.open(path) as tape:
        for i in range(300):
            writer.append(bytes(i % 7 * 10), timestamp=NS + i)
            if i % 3 == 0:
                assert len(tape) == i + 1
            if i % 5 == 0:
                assert next(iter(tape)).timestamp == NS
        assert tape[299].timestamp == NS + 299


def test_a_reader_that_stays_open_through_a_recovery_is_told(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(100)))
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        assert len(tape) == 100
        raw[-3] ^= 1
        path.write_bytes(raw)
        et.recover(path)
        with et.open(path, "a") as writer:
            writer.append_many([b"new" * 100] * 20)
        with pytest.raises(et.RewoundError):
            len(tape)


# ------------------------------------------------------------------------- the same answer on both cores


@pytest.mark.parametrize("mode", ["a", "w", "x"])
@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 2**63},
        {"capacity": -1},
        {"capacity": float("nan")},
        *({"durability": "interval", "interval": value} for value in (0, float("inf"), float("nan"), 1e10)),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_anything_is_written(et, tmp_path, mode, options):
    path = tmp_path / "t.tape"
    with pytest.raises(ValueError, match=r"must be") as caught:
        et.open(path, mode, **options)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_longest_interval_works(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="interval", interval=threading.TIMEOUT_MAX) as tape:
        tape.append(b"x")
    assert et.verify(tmp_path / "t.tape").events == 1


def test_a_mapped_file_of_no_possible_size_is_refused(et, tmp_path):
    for size in (2**63, -1):
        with pytest.raises(ValueError, match="size must be") as caught:
            et.MappedFile(tmp_path / "f", "x", size)
        assert str(tmp_path / "f") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_paths_may_be_bytes(et, tmp_path):
    path = tmp_path / "t.tape"
    name = os.fsencode(path)
    with et.open(name, "w") as tape:
        tape.append(b"x")
    assert et.verify(name).path == str(path)
    with et.MappedFile(name) as mapped:
        assert mapped.path == str(path)
    with et.Reader(name) as tape:
        assert (tape.path, len(tape)) == (str(path), 1)


@pytest.mark.parametrize(
    "when",
    [
        dt.datetime.max.replace(tzinfo=dt.timezone(dt.timedelta(hours=-12))),
        dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=14))),
        dt.datetime.max.replace(tzinfo=dt.UTC),
    ],
    ids=str,
)
def test_a_datetime_at_the_ends_of_time_is_refused_with_the_name(et, tmp_path, when):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        calls = [
            lambda: tape.append(b"x", when),
            lambda: tape.append_many([b"x"], [when]),
            lambda: tape.append_array([1], [when]),
            lambda: tape.between(starting_at=when),
            lambda: tape.searchsorted(when),
        ]
        for call in calls:
            with pytest.raises(OverflowError) as caught:
                call()
            assert str(path) in str(caught.value)
        assert len(tape) == 0


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled"), reason="no such file here")
def test_a_file_whose_size_lies_is_no_stream(et):
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    before = open_descriptors()
    for call in (et.open, et.verify, et.MappedFile):
        with pytest.raises(et.FormatError, match="fewer bytes") as caught:
            call(path)
        assert path in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stream_that_was_cut_and_ends_where_it_did_is_rewound(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append_many([b"%04d" % i for i in range(100)])
    reader = et.open(path)
    assert len(reader) == 100
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)
    with pytest.warns(et.RecoveryWarning):
        tape = et.open(path, "a")
    with tape:
        tape.append(b"new!")
    for _ in range(2):
        with pytest.raises(et.RewoundError):
            len(reader)
    reader.close()


def test_a_child_forked_in_the_middle_of_an_iterator_does_not_wait_for_it(et, core, tmp_path):
    code = """
import evtape, os, signal, sys, threading, warnings
warnings.simplefilter("ignore")
with evtape.open(sys.argv[1], "w") as tape:
    tape.append_many([b"x"] * 20_000)
reader = evtape.open(sys.argv[1])
iterator, stop = iter(reader), threading.Event()
def work():
    global iterator
    while not stop.is_set():
        if next(iterator, None) is None:
            iterator = iter(reader)
thread = threading.Thread(target=work)
thread.start()
sys.setswitchinterval(1e-5)
for _ in range(60):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            event = next(iterator, None)
            good = event is None or bytes(event.data) == b"x"
        except RuntimeError as error:
            good = "make a new one" in str(error)
        os._exit(0 if good and len(list(reader)) == 20_000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
thread.join()
"""
    run_python(core, code, tmp_path / "t.tape")


def test_a_closed_writer_has_no_mapping_of_its_files(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    tape.append(b"x")
    tape.close()
    with open("/proc/self/maps") as maps:
        assert str(tmp_path) not in maps.read()
    assert tape.closed
