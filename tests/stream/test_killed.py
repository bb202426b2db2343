"""A writer that dies: what it appended is there, the file says it was not closed, and the next one continues."""

from __future__ import annotations

import sys

import pytest

from tests.helpers import NS, pairs, run_python, start_python, stream

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX semantics")


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
@posix
def test_a_writer_that_dies_leaves_everything_it_appended(et, core, tmp_path, how):
    path = tmp_path / "t.tape"
    code = f"""
import evtape, os, sys
tape = evtape.open(sys.argv[1], "w")
for i in range(1000):
    tape.append(b"x" * i, timestamp={NS} + i)
tape.append_many([b"a", b"b"], [{NS} + 1000, {NS} + 1001])
{how}
"""
    run_python(core, code, path, returncode=-9 if "kill" in how else 0)
    expected = [*((NS + i, b"x" * i) for i in range(1000)), (NS + 1000, b"a"), (NS + 1001, b"b")]
    report = et.verify(path)
    assert (report.state, report.events, report.problems) == ("open", 1002, ())
    assert pairs(et.open(path)) == expected
    with et.open(path, "a") as tape:  # no warning: nothing was lost
        assert tape.recovered.state == "open"
        assert tape.append(b"more", timestamp=NS + 2000) == 1002
    assert path.read_bytes() == stream([*expected, (NS + 2000, b"more")], start=report.start_timestamp)


@posix
def test_no_event_is_lost_to_a_kill_at_any_moment(et, core, tmp_path):
    path = tmp_path / "t.tape"
    code = """
import evtape, sys
tape = evtape.open(sys.argv[1], "w")
while True:
    ordinal = tape.append(b"%d" % len(sys.argv), timestamp=0)
    sys.stdout.write(f"{ordinal}\\n")
    sys.stdout.flush()
"""
    process = start_python(core, code, path)
    acknowledged = [int(process.stdout.readline()) for _ in range(200)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    process.communicate()
    assert acknowledged == list(range(len(acknowledged)))
    report = et.verify(path)
    assert report.ok
    assert len(acknowledged) <= report.events <= len(acknowledged) + 1
