"""What a writer leaves that died, and what the next one makes of it. Segments that are gone, renamed or foreign."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest

from tests.helpers import pairs, run_python, sample, start_python, stream
from tests.journal.reading import read_on

ROLL = 64 << 10

KILLED = """
import evtape, os, signal, sys
journal = evtape.open_journal(sys.argv[1], "a", roll_bytes=64 << 10, durability=sys.argv[2])
for i in range(500):
    journal.append(b"%d " % i * 100)
print(len(journal), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


HOLDS = """
import evtape, sys, time
journal = evtape.open_journal(sys.argv[1], "a")
journal.append(b"x")
print(1, flush=True)
time.sleep(60)
"""


def write(et, path, events, **settings):
    with et.open_journal(path, "a", **{"roll_bytes": ROLL, **settings}) as journal:
        for timestamp, data in events:
            journal.append(data, timestamp)
    return path


def segments(path):
    return sorted(name for name in os.listdir(path) if name.endswith(".tape"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("durability", ["none", "close", "full"])
def test_a_kill_loses_nothing(et, core, tmp_path, durability):
    path = tmp_path / "j"
    assert run_python(core, KILLED, path, durability, returncode=-signal.SIGKILL) == "500\n"
    with et.open(path) as reader:
        assert [bytes(event.data) for event in reader] == [b"%d " % i * 100 for i in range(500)]
    with et.open_journal(path, "a") as journal:
        assert journal.append(b"on") == 500
    assert et.verify(path).state == "clean"
    assert not [name for name in os.listdir(path) if name.startswith(".")]
    assert set(os.listdir(path)) == {*segments(path), "journal.json", "journal.lock"}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_second_writer_is_refused_and_the_lock_dies_with_its_process(et, core, tmp_path):
    path = tmp_path / "j"
    process = start_python(core, HOLDS, path)
    try:
        assert process.stdout.readline() == "1\n"
        before = segments(path)
        for mode in ("a", "w"):
            with pytest.raises(et.LockedError, match="another writer has this journal open"):
                et.open_journal(path, mode)
        with pytest.raises(et.LockedError):
            et.recover(path)
        with pytest.raises(et.LockedError):
            et.open(path / segments(path)[-1], "a")
        assert segments(path) == before
    finally:
        process.kill()
        process.communicate()
    with et.open_journal(path, "a") as journal:
        assert journal.append(b"y") == 1


def as_after_a_power_loss(et, path, tmp_path, torn):
    """A journal whose writer had three segments unclosed when the power failed. `torn` of them has lost a page."""
    live = tmp_path / "live"
    journal = et.open_journal(live, "a", roll_bytes=ROLL)
    journal._housekeeper.call = lambda: None  # nothing is closed
    for i in range(100):
        journal.append(b"%d " % i * 100)
    journal.sync()
    for i in range(100, 500):
        journal.append(b"%4d " % i * 100)
    assert len(journal._rolled) >= 3
    rolled = [segment.first for segment in journal._rolled]
    with journal._maker._lock:  # no segment is half made
        shutil.copytree(live, path)
    for name in os.listdir(live):
        attribute = "user.evtape.generation"
        if name.endswith(".tape"):
            os.setxattr(path / name, attribute, os.getxattr(live / name, attribute))
    journal.close()
    victim = path / f"{rolled[torn]:020d}.tape"
    with open(victim, "r+b") as file:
        file.seek(40960)
        file.write(bytes(4096))
    return rolled


@pytest.fixture
def another_boot(et, monkeypatch):
    watermark = sys.modules["evtape.recovery.watermark"]
    monkeypatch.setattr(watermark, "boot_id", lambda: b"another boot 123")


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
@pytest.mark.parametrize("torn", [0, 1, 2])
def test_after_a_power_loss_no_hole_is_left(et, tmp_path, request, torn):
    path = tmp_path / "j"
    rolled = as_after_a_power_loss(et, path, tmp_path, torn)
    request.getfixturevalue("another_boot")
    later = [name for name in segments(path) if int(name[:20]) > rolled[torn]]
    with pytest.warns(et.RecoveryWarning) as told:
        journal = et.open_journal(path, "a")
    with journal:
        events = [bytes(event.data) for event in journal]
        assert 100 <= rolled[torn] <= len(events) < 500 if torn else len(events) < 500
        assert events == [b"%d " % i * 100 if i < 100 else b"%4d " % i * 100 for i in range(len(events))]
        assert journal.append(b"new") == len(events)
    assert any("saved as" in str(warning.message) for warning in told)
    for name in later:  # nothing of them is thrown away
        assert et.verify(path / f"{name}.quarantine").events > 0
    assert et.verify(path).state == "clean"


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_readers_of_a_segment_that_recovery_sets_aside(et, tmp_path, request):
    path = tmp_path / "j"
    rolled = as_after_a_power_loss(et, path, tmp_path, 1)
    with et.open(path) as reader:
        events = reader.follow(rolled[2], timeout=2)
        assert next(events).ordinal == rolled[2]
        assert len(reader) == 500
        request.getfixturevalue("another_boot")
        with pytest.warns(et.RecoveryWarning):
            journal = et.open_journal(path, "a")
        with journal:
            end = journal.next_ordinal
            assert end < rolled[2]
            assert len(reader) == end
            with pytest.raises(et.RewoundError):
                list(events)
            journal.append(b"new")
            assert bytes(reader[end].data) == b"new"


def test_a_missing_segment_is_told_with_its_ordinals(et, tmp_path):
    events = sample(3000)
    path = write(et, tmp_path / "j", events)
    names = segments(path)
    first, stop = int(names[3][:20]), int(names[4][:20])
    os.rename(path / names[3], tmp_path / "elsewhere")
    report = et.verify(path)
    assert (report.state, report.missing, report.reason) == ("damaged", (range(first, stop),), "missing")
    assert report.events == 3000 - (stop - first)
    with et.open(path) as reader:
        assert len(reader) == 3000
        ordinals, (error,) = read_on(reader, et.MissingError)
        assert ordinals == [*range(first), *range(stop, 3000)]
        assert (error.ordinal, error.stop) == (first, stop)
        assert f"{first} to {stop - 1} are missing" in str(error)
        with pytest.raises(et.MissingError):
            reader[first]
        with pytest.raises(et.MissingError):
            _ = reader.timestamps
        assert pairs(reader[stop:]) == events[stop:]
        assert pairs(reader[:first]) == events[:first]
    with et.open_journal(path, "a") as journal:
        assert journal.append(b"goes on") == 3000
    os.rename(tmp_path / "elsewhere", path / names[3])
    assert et.verify(path).state == "clean"


def test_the_last_segments_are_missing(et, tmp_path):
    events = sample(3000)
    path = write(et, tmp_path / "j", events)
    names = segments(path)
    os.unlink(path / names[-2])
    with pytest.warns(et.RecoveryWarning, match="are missing between two segments"):
        et.open_journal(path, "a").close()


@pytest.mark.parametrize("content", [b"", b"not a stream" * 100, bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_foreign_file_has_the_name_of_a_segment(et, tmp_path, content):
    events = sample(3000)
    path = write(et, tmp_path / "j", events)
    names = segments(path)
    first, stop = int(names[2][:20]), int(names[3][:20])
    (path / names[2]).write_bytes(content)
    assert et.verify(path).state == "damaged"
    with et.open(path) as reader:
        assert pairs(reader[:first]) == events[:first]
        assert pairs(reader[stop:]) == events[stop:]
        with pytest.raises(et.CorruptError):
            reader[first]
        assert "damaged" in [segment.state for segment in reader.segments]


def test_a_stream_of_other_ordinals_is_between_two_segments(et, tmp_path):
    events = sample(3000)
    path = write(et, tmp_path / "j", events)
    names = segments(path)
    first = int(names[2][:20])
    (path / names[2]).write_bytes(stream(events[:5]))
    with et.open(path) as reader:
        assert reader[first + 4].ordinal == first + 4
        with pytest.raises(et.MissingError) as caught:
            list(reader[first:])
        assert (caught.value.ordinal, caught.value.stop) == (first + 5, int(names[3][:20]))


def test_leftovers_are_removed(et, tmp_path):
    path = write(et, tmp_path / "j", sample(10))
    left = [".next-0123456789ab.tmp", ".next-0123456789ab.tmp.side", f"{77:020d}.tape.side", f"{77:020d}.tape.done"]
    kept = ["notes.txt", ".hidden", f"{77:020d}.tape.quarantine", "00000.tape.side"]
    for name in left + kept:
        (path / name).write_bytes(b"x")
    et.open_journal(path, "a").close()
    assert not set(left) & set(os.listdir(path))
    assert set(kept) <= set(os.listdir(path))


def test_settings_are_made_again(et, tmp_path):
    path = write(et, tmp_path / "j", sample(10), keep_segments=7)
    good = (path / "journal.json").read_bytes()
    for bad in (None, b"", b"{}", b"[1]", good[:-20], good.replace(b"7", b"8"), b"\xff" * 50, b"[" * 9999):
        if bad is None:
            (path / "journal.json").unlink()
        else:
            (path / "journal.json").write_bytes(bad)
        with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=7) as journal:
            assert len(journal) == 10
        assert (path / "journal.json").read_bytes() == good


def test_recover_repairs_every_segment(et, tmp_path):
    events = sample(3000)
    path = write(et, tmp_path / "j", events)
    name = path / segments(path)[-1]
    with open(name, "ab") as file:
        file.write(bytes(5000))
    assert et.verify(path).state == "open"
    assert et.recover(path, dry_run=True).state == "open"
    assert et.verify(path).state == "open"
    report = et.recover(path)
    assert report.events == 3000
    assert et.verify(path).state == "clean"
    with pytest.raises(ValueError, match="in place"):
        et.recover(path, tmp_path / "out")
