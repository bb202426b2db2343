"""What surrounds the cores: objects nobody was meant to make, and payloads of every kind."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import pairs, run_python, sample, stream

# Every type of the core, made in every way that skips or repeats its constructor, and then everything it has.
MADE = """
import copy, pickle, sys, tempfile
import evtape
from evtape.core.backend import core
path = sys.argv[1]
tape = evtape.open(path, "w")
tape.append_many([b"x", b"y"], [1, 2])
event, region = tape[0], tape._region
kinds = [core.Region, core.Appender, core.Scanner, core.Events, core.Event, type(iter(event)), type(iter(tape))]
kinds += [type(region), type(region.view(0, 24).obj)] if core.NAME == "native" else []
arguments = [(), (0,), (1, b"x"), (None,), (None, 0, None), (None, 24, 0, 24), (region, 0, None),
             (-1, 24, "s"), (-1, 24, None), (tape.__class__, 1, 2, 3, 4, 5, 6, 7)]

def use(value):
    for name in dir(value):
        if name in ("__class__", "__init_subclass__", "__subclasshook__"):
            continue
        for given in arguments:
            try:
                part = getattr(value, name)
                if callable(part):
                    part(*given)
            except Exception:
                pass
    for call in (list, len, repr, hash, bytes, memoryview, copy.copy, copy.deepcopy, pickle.dumps, next, str):
        try:
            call(value)
        except Exception:
            pass

made = []
for kind in kinds:
    for call in (kind.__new__, object.__new__):
        try:
            value = call(kind)
        except TypeError:
            continue
        use(value)
        if call is kind.__new__:
            made.append(value)
    for given in arguments:
        for call in (lambda: kind(*given), lambda: kind.__new__(kind, *given)):
            try:
                value = call()
            except Exception:
                continue
            use(value)
    try:
        type("Derived", (kind,), {})
    except TypeError as error:
        assert str(error) == f"type '{kind.__module__}.{kind.__qualname__}' is not an acceptable base type" or (
            kind.__module__ == "builtins"), error
    else:
        assert kind.__module__ == "builtins", kind
assert {type(value) for value in made} == {core.Event}, made
events = core.Events(region, 24, 0, 24, verify_checksums=True, report_problem=None)
for value in [*made, core.Scanner(region), events, event, iter(event)]:
    use(value)
for kind in (type(iter(event)), core.Region, core.Appender, core.Scanner, core.Events):
    try:
        kind()
    except TypeError:
        pass
    else:
        raise AssertionError(kind)
new = core.Event.__new__(core.Event)
assert (new.timestamp, new.data, new.ordinal, new.offset, new.checksum) == (0, None, 0, 0, 0)
closed = core.Region(tape._fd, 24, "s")
closed.close()
for call in (lambda: core.Appender(closed, 0, None),
             lambda: core.Events(closed, 24, 0, 24, verify_checksums=True, report_problem=None),
             lambda: core.Scanner(closed).run(24), core.Scanner(closed).skip):
    try:
        call()
    except evtape.ClosedError:
        pass
    else:
        raise AssertionError
tape.close()
print("alive")
"""


def test_a_type_made_by_a_user_is_no_crash(core, tmp_path):
    assert run_python(core, MADE, tmp_path / "s.tape").strip() == "alive"


def test_structured_arrays_with_times_are_stored(et, tmp_path):
    array = np.zeros(3, dtype=[("at", "datetime64[ns]"), ("value", "<f8")])
    array["at"] = np.arange(3)
    with et.open(tmp_path / "s.tape", "a") as tape:
        tape.append(array)
        tape.append(array[0:0], timestamp=None)
    with et.open(tmp_path / "s.tape") as tape:
        assert [bytes(data) for _, data in tape] == [array.tobytes(), b""]


# What a signal handler or a finalizer calls while this thread is inside the same call: it is done or refused, and the
# alarm of the last line but one ends the process where it hangs.
REENTERED = """
import signal, sys, time
import evtape
path, call = sys.argv[1:]
tape = evtape.open(path, "w", durability="none")
if call == "next":
    tape.append_many([b"%d" % i for i in range(200_000)])
    events = iter(tape)
done, refused, wanted, got = [0], [0], {}, []

def use():
    global events
    if call == "append":
        data = b"x" * (done[0] % 3000)
        wanted[tape.append(data)] = len(data)
    elif call == "append_many":
        for ordinal in tape.append_many([b"many" * 300] * 100):
            wanted[ordinal] = 1200
    else:
        event = next(events, None)
        if event is None:
            events = iter(tape)
        else:
            assert bytes(event.data) == b"%d" % event.ordinal
    done[0] += 1

def handler(number, frame):
    try:
        use()
    except RuntimeError as error:
        text = "the stream is busy in this thread; a signal handler or finalizer cannot use it now"
        assert str(error) == f"{path}: {text}"
        refused[0] += 1

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_VIRTUAL, 60)
end = time.monotonic() + 2
while time.monotonic() < end:
    use()
signal.setitimer(signal.ITIMER_REAL, 0)
tape.close()
report = evtape.verify(path)
assert report.state == "clean", report
if call != "next":
    with evtape.open(path) as tape:
        assert len(tape) == report.events == len(wanted), (len(tape), len(wanted))
        assert all(len(tape[ordinal].data) == size for ordinal, size in list(wanted.items())[:: len(wanted) // 500 + 1])
print("done", refused[0])
"""


@pytest.mark.parametrize("call", ["append", "append_many", "next"])
def test_a_signal_handler_inside_the_same_call_is_done_or_refused(core, tmp_path, call):
    assert run_python(core, REENTERED, tmp_path / "s.tape", call).startswith("done")


def test_an_iterator_is_busy_in_its_own_callback(packages, tmp_path):
    package = packages.get("python")
    if package is None:
        pytest.skip("the native core has no lock there")
    core = package.core.backend.core
    path = tmp_path / "s.tape"
    path.write_bytes(stream([(1, b"a")]).replace(b"a", b"b"))
    with open(path, "rb") as file:
        region = core.Region(file.fileno(), path.stat().st_size, "s")
        events = core.Events(
            region, 24, 0, path.stat().st_size, verify_checksums=True, report_problem=lambda *_: next(events)
        )
        with pytest.raises(RuntimeError, match=r"^s: the stream is busy in this thread"):
            next(events)
        assert list(events) == []


FINALIZED = """
import gc, signal, sys
import evtape
path = sys.argv[1]
tape = evtape.open(path, "w", durability="none")
acknowledged = []

class Cycle:
    def __init__(self):
        self.cycle = self

    def __del__(self):
        try:
            acknowledged.append(tape.append(b"finalized"))
            tape.append_many([b"a", b"b"])
        except RuntimeError:
            pass
        try:
            tape._appender.position()
        except RuntimeError:
            pass

signal.alarm(60)
gc.set_threshold(3, 2, 2)
for i in range(30_000):
    Cycle()
    tape.append(b"x")
    tape.append_many([b"y", bytearray(b"z")])
    tape._appender.position()
gc.disable()
tape.close()
assert acknowledged
with evtape.open(path) as tape:
    for ordinal in acknowledged:
        assert bytes(tape[ordinal].data) == b"finalized"
assert evtape.verify(path).state == "clean"
print("done")
"""


def test_a_finalizer_may_append(core, tmp_path):
    assert run_python(core, FINALIZED, tmp_path / "s.tape") == "done\n"


# The handler closes the stream, at any moment of a call: closed or refused, and never a write afterwards.
CLOSED_BY_HANDLER = """
import signal, sys, time
import evtape
path = sys.argv[1]
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_VIRTUAL, 80)
refused = 0

def handler(number, frame):
    global refused
    try:
        tape.close()
    except RuntimeError:
        refused += 1

signal.signal(signal.SIGALRM, handler)
for i in range(150):
    tape = evtape.open(path, "w", durability="none")
    events = 0
    signal.setitimer(signal.ITIMER_REAL, 0.0003 + i % 50 * 0.00005)
    try:
        while not tape.closed:
            data = b"x" * (events * 10 % 4000)
            tape.append(data)
            events += 1
            if events % 50 == 0:
                events = tape.append_many([data] * 50).stop
            if events > 3000:
                signal.setitimer(signal.ITIMER_REAL, 0)
                tape.close()
    except (evtape.ClosedError, OSError):  # OSError: closed while the writer looked at its file
        assert tape.closed
    signal.setitimer(signal.ITIMER_REAL, 0)
    report = evtape.verify(path)
    assert report.state == "clean" and report.events >= events, (report, events)
print("done")
"""


def test_a_signal_handler_may_close(core, tmp_path):
    assert run_python(core, CLOSED_BY_HANDLER, tmp_path / "s.tape") == "done\n"


def test_a_halted_appender_is_given_no_limit(et, tmp_path):
    with et.open(tmp_path / "s.tape", "w") as tape:
        tape.append(b"x")
        tape._appender.halt()
        tape._appender.limit = 1 << 20
        assert tape._appender.limit == 0


# faulthandler restores the handler it found before it sends the signal again; it must be found that this is a fault.
FAULTHANDLER = """
import faulthandler, os, signal, sys
import evtape
path, order = sys.argv[1:]
if order == "before":
    faulthandler.enable()
tape = evtape.open(path)
if order in ("after", "twice", "again"):
    faulthandler.enable()
if order == "twice":
    other = evtape.open(path)
    faulthandler.enable()
if order == "again":
    faulthandler.disable()
    other = evtape.open(path)
    faulthandler.enable()
for _ in range(2):
    raw = open(path, "rb").read()
    events = iter(tape)
    next(events)
    os.truncate(path, 4096)
    try:
        for event in events:
            pass
    except evtape.TruncatedError:
        print("truncated", flush=True)
    tape.close()
    with open(path, "r+b") as file:
        file.write(raw)
    tape = evtape.open(path)
print("alive", flush=True)
if os.environ["RAISE"] == "kill":
    os.kill(os.getpid(), signal.SIGBUS)
elif os.environ["RAISE"] == "raise":
    signal.raise_signal(signal.SIGBUS)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs what Linux puts into the context of a signal")
@pytest.mark.parametrize("order", ["none", "before", "after", "twice", "again", "-X"])
@pytest.mark.parametrize("end", ["", "kill", "raise"])
def test_a_truncated_file_under_faulthandler(core, tmp_path, order, end):
    path = tmp_path / "s.tape"
    path.write_bytes(stream(sample(500)))
    options = ["-X", "faulthandler"] if order == "-X" else []
    done = subprocess.run(
        [sys.executable, *options, "-W", "error", "-c", FAULTHANDLER, path, order],
        env={**os.environ, "EVTAPE_BACKEND": core, "RAISE": end},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "truncated\ntruncated\nalive\n", done.stderr
    assert done.returncode == (-signal.SIGBUS if end else 0)


# The descriptors of a stream after each step, and where 0 to 2 are closed; all that a core keeps are above 2.
DESCRIPTORS = """
import fcntl, os, sys
import evtape
from evtape.core.backend import core
path = sys.argv[1]
fd = os.open(path, os.O_RDWR)
high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50)
os.close(fd)
out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 60)
for number in range(3):
    os.close(number)

def kept():
    return {n for n in map(int, os.listdir("/proc/self/fd")) if n != high and is_stream(n)}

def is_stream(number):
    try:
        return os.path.samestat(os.fstat(number), os.fstat(high))
    except OSError:
        return False

for writable in (False, True):
    region = core.Region(high, os.fstat(high).st_size, path, writable=writable)
    if writable:
        region.grow(1 << 16)
        region.start_preallocator(False)
        region.grow(3 << 20)
    for number in kept():
        assert number > 2 and fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC, number
    events = core.Events(region, 24, 0, 24, verify_checksums=True, report_problem=None)
    region.close()
    del events, region
    assert kept() == set(), kept()
for number in range(3):
    try:
        os.fstat(number)
    except OSError:
        continue
    raise AssertionError(number)
os.write(out, b"done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_descriptors_of_a_core(core, tmp_path):
    path = tmp_path / "s.tape"
    path.write_bytes(stream(sample(10)))
    assert run_python(core, DESCRIPTORS, path) == "done"


@pytest.mark.parametrize("mode", ["r", "a"])
def test_an_iterator_goes_on_after_close(et, tmp_path, mode):
    path, events = tmp_path / "s.tape", sample(3000)
    path.write_bytes(stream(events))
    other = tmp_path / "other"
    other.write_bytes(stream([(1, b"wrong")] * 30_000))
    tape = et.open(path, mode)
    iterator = iter(tape)
    got = pairs([next(iterator)])
    tape.close()
    descriptors = [os.open(other, os.O_RDONLY) for _ in range(20)]
    try:
        assert got + pairs(iterator) == events
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with pytest.raises(et.ClosedError):
        iter(tape)


def test_a_read_of_more_than_one_call_gives(tmp_path, packages, monkeypatch):
    """The pure core reads a payload that one system call does not give, and one of more than 2 GiB, without a copy."""
    package = packages.get("python")
    if package is None:
        pytest.skip("the native core maps")
    module = package.core.backend.core
    monkeypatch.setattr(module, "_ONE_READ", 1000)
    calls = []

    def reads_little(fd, buffers, at):
        calls.append(at)
        return os.preadv(fd, [memoryview(buffers[0])[:7000]], at)

    monkeypatch.setattr(module, "_PREADV", reads_little)
    path, payload = tmp_path / "s.tape", os.urandom(50_000)
    path.write_bytes(stream([(1, payload)]))
    with package.open(path) as tape:
        assert bytes(tape[0].data) == payload
        assert hash(tape[0]) == hash((1, payload))
        assert len(calls) > 14
        os.truncate(path, 30_000)
        with pytest.raises(package.TruncatedError):
            tape[0]


def test_a_large_append_lets_other_threads_run(et, tmp_path):
    payload, turns, stop = bytes(64 << 20), [0], threading.Event()

    def count():
        while not stop.is_set():
            turns[0] += 1
            time.sleep(0.0001)

    with et.open(tmp_path / "s.tape", "w", durability="none", capacity=70 << 20) as tape:
        thread = threading.Thread(target=count)
        thread.start()
        try:
            while turns[0] == 0:
                time.sleep(0.001)
            before = turns[0]
            assert tape.append(payload, 7) == 0
            assert turns[0] > before + 3
        finally:
            stop.set()
            thread.join()


def test_payloads_about_the_size_from_which_the_gil_is_released(et, tmp_path):
    limit, events = 1 << 20, []
    with et.open(tmp_path / "s.tape", "w", durability="none") as tape:
        for size in (limit - 1, limit, limit + 1, 3 * limit + 5):
            payload = os.urandom(size)
            for data in (payload, bytearray(payload), memoryview(payload)):
                assert tape.append(data, len(events)) == len(events)
                events.append((len(events), payload))
        before = time.time_ns()
        ordinal = tape.append(payload)
        assert before <= tape[ordinal].timestamp <= time.time_ns()
        with pytest.raises(OverflowError):
            tape.append(payload, 1 << 63)
        assert pairs(tape)[:-1] == events
    with pytest.raises(et.ClosedError):
        tape.append(payload)
    report = et.verify(tmp_path / "s.tape")
    assert (report.state, report.events) == ("clean", len(events) + 1)


FORKED = """
import os, sys, threading, time, warnings
import evtape
warnings.simplefilter("ignore", DeprecationWarning)
path, forks, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
failures, appended = [], 0
tape = evtape.open(path, "w", durability="close")
payload = bytes(size)
ended = threading.Event()

def fork():
    try:
        for _ in range(forks):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
    except BaseException as error:
        failures.append(error)

def append():
    global appended
    try:
        while not ended.is_set():
            tape.append(payload)
            appended += 1
            if appended % 300 == 0:  # the disk is not without end
                tape.close()
                assert evtape.verify(path).events == 300
                reopen()
    except BaseException as error:
        failures.append(error)

def reopen():
    global tape
    tape = evtape.open(path, "w", durability="close")

forkers = [threading.Thread(target=fork) for _ in range(2)]
appender = threading.Thread(target=append)
for thread in [appender, *forkers]:
    thread.start()
for thread in forkers:
    thread.join()
ended.set()
appender.join()
tape.close()
assert not failures, failures
report = evtape.verify(path)
assert (report.state, report.events) == ("clean", appended % 300), report
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_that_fork_while_another_appends(core, tmp_path):
    assert run_python(core, FORKED, tmp_path / "s.tape", 100, 3_000_000) == "done\n"


# Many streams in one process, and what else it does beside them.
MANY = """
import os, resource, sys, threading
import numpy as np
import evtape
directory, mode, wanted, kept = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
count = wanted if hard == resource.RLIM_INFINITY else min(wanted, (hard - 200) // kept)
raw = open(os.path.join(directory, "0"), "rb").read()
names = ["0"] * count
if mode == "a":
    names = [str(i) for i in range(count)]
    for name in names:
        with open(os.path.join(directory, name), "wb") as file:
            file.write(raw)
options = {"durability": "none"} if mode == "a" else {}
tapes = [evtape.open(os.path.join(directory, name), mode, **options) for name in names]
threads = [threading.Thread(target=lambda: tapes[7][0]) for _ in range(50)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
np.empty(1 << 30, np.uint8)
for tape in tapes[::97]:
    if mode == "a":
        tape.append(b"more")
    assert [event.ordinal for event in tape] == list(range(10 + (mode == "a")))
with evtape.open(os.path.join(directory, "new"), "w") as writer:
    writer.append(bytes(5 << 20))
for tape in tapes:
    tape.close()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="knows how many descriptors there may be")
@pytest.mark.parametrize("mode", ["r", "a"])
def test_thousands_of_streams_in_one_process(core, tmp_path, mode):
    (tmp_path / "0").write_bytes(stream(sample(10)))
    wanted, kept = (10_000, 2) if mode == "r" else (3000, 3)
    if mode == "r" and core == "native":
        kept = 1
    assert run_python(core, MANY, tmp_path, mode, wanted, kept) == "done\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_reader_reserves_no_address_space_before_the_stream_grows(packages, tmp_path):
    package = packages.get("native")
    if package is None:
        pytest.skip("the pure core maps nothing to read")

    def mapped():
        with open("/proc/self/maps") as lines:
            spans = [line.split()[0].split("-") for line in lines if line.rstrip().endswith("/s.tape")]
        return sum(int(stop, 16) - int(start, 16) for start, stop in spans)

    path = tmp_path / "s.tape"
    path.write_bytes(stream(sample(100)))
    size = path.stat().st_size
    with package.open(path) as tape:
        assert len(tape) == 100
        assert size <= mapped() < size + mmap.PAGESIZE
        before = iter(tape)
        with package.open(path, "a") as writer:
            reserved = mapped()
            for i in range(40):
                writer.append(bytes([i]) * 1_000_000)
                assert bytes(tape[-1].data[:2]) == bytes([i, i])
            assert mapped() - reserved <= 1 << 30  # mapped anew once
        assert pairs(before) == sample(100)
        assert [len(event.data) for event in tape][100:] == [1_000_000] * 40
