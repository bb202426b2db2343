"""The life of a writer in its process: whatever way a process ends, and whatever interrupts a call, nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
