"""One writer per stream, by a lock that dies with its process. Forks happen in processes of their own."""

from __future__ import annotations

import os
import sys
import time

import pytest

from tests.helpers import NS, pairs, run_python, start_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not yet run on Windows")

TRY = """
import evtape, sys
try:
    evtape.open(sys.argv[1], sys.argv[2]).close()
    print("opened")
except evtape.LockedError as error:
    print("locked", sys.argv[1] in str(error))
"""


def test_a_second_writer_is_refused_at_once(et, core, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append(b"x", timestamp=NS)
        for mode in ("a", "w"):
            began = time.monotonic()
            with pytest.raises(et.LockedError, match="another writer has this stream open") as caught:
                et.open(path, mode)
            assert time.monotonic() - began < 1
            assert str(path) in str(caught.value)
            assert run_python(core, TRY, path, mode) == "locked True\n"
        with pytest.raises(et.LockedError):
            et.recover(path)
        with pytest.raises(FileExistsError):
            et.open(path, "x")
        assert tape.append(b"y", timestamp=NS) == 1
        assert et.verify(path).state == "open"  # reading needs no lock
    assert pairs(et.open(path)) == [(NS, b"x"), (NS, b"y")]
    assert os.listdir(tmp_path) == ["t.tape"]
    assert run_python(core, TRY, path, "a") == "opened\n"


def test_both_cores_respect_each_others_lock(pair, tmp_path):
    one, other = pair
    with one.open(tmp_path / "t.tape", "w"), pytest.raises(other.LockedError):
        other.open(tmp_path / "t.tape", "a")
    other.open(tmp_path / "t.tape", "a").close()


def test_close_and_failure_to_open_release_the_lock(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(b"no stream at all, but long enough to have a header")
    with pytest.raises(et.FormatError):
        et.open(path, "a")
    path.unlink()
    for _ in range(3):
        et.open(path, "a").close()


def test_a_view_that_is_alive_does_not_hold_the_lock(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append(b"x")
        event = tape[0]
    et.open(path, "a").close()
    assert bytes(event.data) == b"x"


def test_a_killed_writer_gives_the_lock_back(et, core, tmp_path):
    path = tmp_path / "t.tape"
    process = start_python(
        core,
        "import evtape, sys\nt = evtape.open(sys.argv[1], 'w')\nprint('ready', flush=True)\nsys.stdin.read()",
        path,
    )
    assert process.stdout.readline() == "ready\n"
    with pytest.raises(et.LockedError):
        et.open(path, "a")
    process.kill()
    process.communicate()
    et.open(path, "a").close()


FORK = f"""
import evtape, os, sys
path = sys.argv[1]
tape = evtape.open(path, "w", durability=sys.argv[2])
append = tape.append
tape.append(b"parent", timestamp={NS})
child = os.fork()
if child == 0:
    calls = [lambda: tape.append(b"no"), lambda: append(b"no"), lambda: tape.append_many([b"no"]),
             lambda: tape.append_array([1]), lambda: tape.sync()]
    for call in calls:
        try:
            call()
            os._exit(10)
        except evtape.ReadOnlyError as error:
            if path not in str(error) or "fork" not in str(error):
                os._exit(11)
    if [bytes(data) for _, data in tape] != [b"parent"]:
        os._exit(12)
    tape.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "child"
assert os.path.getsize(path) > tape[-1].offset + 16 + 6, "the child cut the file"
tape.append(b"after", timestamp={NS})
try:
    evtape.open(path, "a")
    sys.exit("the lock is gone")
except evtape.LockedError:
    pass
tape.close()
evtape.open(path, "a").close()
"""


@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
def test_a_forked_child_may_not_write_and_the_parent_goes_on(et, core, tmp_path, durability):
    path = tmp_path / "t.tape"
    run_python(core, FORK, path, durability)
    assert pairs(et.open(path)) == [(NS, b"parent"), (NS, b"after")]
    assert et.verify(path).state == "clean"


def test_the_lock_dies_with_the_parent_although_a_child_lives(et, core, tmp_path):
    path = tmp_path / "t.tape"
    code = """
import evtape, os, sys, time
tape = evtape.open(sys.argv[1], "w")
tape.append(b"x")
ready, tell = os.pipe()
if os.fork() == 0:
    os.write(tell, b"!")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
os.write(1, b"ready\\n")
time.sleep(60)
"""
    process = start_python(core, code, path)
    try:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
        with et.open(path, "a") as tape:
            assert len(tape) == 1
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def test_a_child_can_open_the_stream_itself_after_the_parent_closed(et, core, tmp_path):
    path = tmp_path / "t.tape"
    code = f"""
import evtape, os, sys
tape = evtape.open(sys.argv[1], "w")
tape.append(b"parent", timestamp={NS})
ready, tell = os.pipe()
child = os.fork()
if child == 0:
    os.read(ready, 1)
    with evtape.open(sys.argv[1], "a") as own:
        own.append(b"child", timestamp={NS})
    os._exit(0)
tape.close()
os.write(tell, b"!")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run_python(core, code, path)
    assert pairs(et.open(path)) == [(NS, b"parent"), (NS, b"child")]


def test_a_fork_in_the_middle_of_another_threads_append(et, core, tmp_path):
    """What holds the appender in the parent does not exist in the child, which is refused and does not wait for it."""
    code = """
import evtape, os, signal, sys, threading
tape = evtape.open(sys.argv[1], "w", durability="none")
batch, stop = [bytes(1000)] * 2000, threading.Event()

def write():
    while not stop.is_set():
        tape.append_many(batch)
        for data in batch[:50]:
            tape.append(data)

thread = threading.Thread(target=write)
thread.start()
sys.setswitchinterval(1e-5)
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        status = 1
        try:
            tape.append(b"child")
        except evtape.ReadOnlyError:
            status = 0
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
thread.join()
tape.close()
"""
    path = tmp_path / "t.tape"
    run_python(core, code, path)
    assert et.verify(path).state == "clean"
