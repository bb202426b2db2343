"""Cursors: a consumer goes on where it committed, and a cursor that does not fit is an error that says what to do."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import struct

import pytest

from tests.helpers import NS, open_descriptors, run_python, start_python, wait_until


def _number(i):
    return i.to_bytes(8, "little")


def _numbers(events):
    return [int.from_bytes(event.data, "little") for event in events]


def _stream(et, path, events=10):
    with et.open(path, "w") as tape:
        tape.append_many([_number(i) for i in range(events)], range(NS, NS + events))


def test_a_consumer_goes_on_where_it_committed(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, tape.cursor("billing") as cursor:
        assert (cursor.ordinal, cursor.committed, cursor.lag) == (0, 0, 10)
        assert _numbers(itertools.islice(cursor, 4)) == [0, 1, 2, 3]
        cursor.commit()
        assert (cursor.ordinal, cursor.committed, cursor.lag) == (4, 4, 6)
        assert _numbers(itertools.islice(cursor, 3)) == [4, 5, 6]  # not committed
        assert (cursor.ordinal, cursor.committed) == (7, 4)
    with et.open(path) as tape, tape.cursor("billing") as cursor:
        assert _numbers(cursor) == [4, 5, 6, 7, 8, 9]
        assert _numbers(cursor) == []
        cursor.commit(durable=True)
        assert cursor.lag == 0
    with et.open(path, "a") as tape, tape.cursor("billing") as cursor, tape.cursor("audit", start="end") as other:
        tape.append(_number(10))
        assert _numbers(cursor.follow(timeout=0)) == [10]
        assert _numbers(other) == [10]
        cursor.commit(durable=True)
        assert tape.durable.ordinal == 11
        cursor.seek(-2)
        assert _numbers(cursor) == [9, 10]
    assert sorted(name for name in os.listdir(tmp_path) if "cursor" in name) == [
        "t.tape.cursor-audit", "t.tape.cursor-billing",
    ]  # fmt: skip


def test_a_consumer_that_is_killed_loses_nothing(core, et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path, 3000)
    code = """
import os, signal, sys, evtape
with evtape.open(sys.argv[1]) as tape, tape.cursor("c") as cursor:
    for i, event in enumerate(cursor):
        print(int.from_bytes(event.data, "little"), flush=True)
        if i % 7 == 6:
            cursor.commit()
        if i == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
"""
    got, starts = [], []
    for stop in (100, 33, 700, 6):
        out = run_python(core, code, path, stop, returncode=-signal.SIGKILL)
        part = [int(line) for line in out.split()]
        assert part == list(range(part[0], part[0] + len(part)))
        assert not got or got[-1] - 7 <= part[0] <= got[-1] + 1  # at least once, and no gap
        starts.append(part[0])
        got += part
    assert sorted(set(got)) == list(range(got[-1] + 1))


def test_one_consumer_at_a_time(core, et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, tape.cursor("c") as cursor:
        with pytest.raises(et.LockedError, match="another consumer has this cursor open") as caught:
            tape.cursor("c")
        assert "t.tape.cursor-c" in str(caught.value)
        _numbers(cursor)
        cursor.commit()
    code = """
import sys, time, evtape
with evtape.open(sys.argv[1]) as tape, tape.cursor("c") as cursor:
    print("has", cursor.ordinal, flush=True)
    time.sleep(60)
"""
    other = start_python(core, code, path)
    assert other.stdout.readline() == "has 10\n"
    with et.open(path) as tape, pytest.raises(et.LockedError):
        tape.cursor("c")
    other.kill()
    other.communicate()
    with et.open(path) as tape:
        wait_until(lambda: tape.cursor("c").close() is None)


def test_a_cursor_of_another_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, tape.cursor("c") as cursor:
        _numbers(cursor)
        cursor.commit()
    _stream(et, path, 20)
    with et.open(path) as tape, pytest.raises(et.CursorError, match="is another stream now") as caught:
        tape.cursor("c")
    assert "delete this file" in str(caught.value)
    os.unlink(f"{path}.cursor-c")
    with et.open(path) as tape, tape.cursor("c", start=5) as cursor:
        assert _numbers(cursor) == list(range(5, 20))


@pytest.mark.parametrize("events", [5, 30])
def test_a_cursor_ahead_of_a_recovered_stream(et, tmp_path, events):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, tape.cursor("c") as cursor:
        _numbers(cursor)
        cursor.commit()
    with open(path, "r+b") as file:  # as a recovery after damage
        file.truncate(24 + 5 * 24)
        file.write(struct.pack("<qq", 24 + 5 * 24, 5))
    with et.open(path, "a") as tape:
        for i in range(events - 5):
            tape.append(_number(100 + i))
    with et.open(path) as tape, pytest.raises(et.CursorError, match="recovery has cut") as caught:
        tape.cursor("c")
    assert "cursor stands before event 10" in str(caught.value)


@pytest.mark.parametrize("garbage", [b"x", b"evtape\0c", b"evtape\0c" + bytes(72), bytes(80), b"evtape\0c" * 500])
def test_a_file_of_garbage_is_no_cursor(et, tmp_path, garbage):
    path = tmp_path / "t.tape"
    _stream(et, path)
    file = tmp_path / "t.tape.cursor-c"
    file.write_bytes(garbage)
    with et.open(path) as tape, pytest.raises(et.CursorError, match="not a cursor, or is damaged"):
        tape.cursor("c")
    assert file.read_bytes() == garbage


def test_every_flipped_bit_of_a_cursor_is_noticed(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, tape.cursor("c") as cursor:
        _numbers(itertools.islice(cursor, 3))
        cursor.commit()
    file = tmp_path / "t.tape.cursor-c"
    good = file.read_bytes()
    with et.open(path) as tape:
        for bit in range(len(good) * 8):
            data = bytearray(good)
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            with pytest.raises(et.CursorError):
                tape.cursor("c")


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 65, "é", "a\0", 5.5])
def test_a_name_that_cannot_be_one(et, tmp_path, name):
    path = tmp_path / "t.tape"
    _stream(et, path)
    if name == 5.5:
        name = "5,5"
    with et.open(path) as tape, pytest.raises(ValueError, match="a cursor's name has"):
        tape.cursor(name)
    assert os.listdir(tmp_path) == ["t.tape"]


def test_a_full_disk_keeps_the_last_commit(core, et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    code = """
import resource, signal, sys, evtape
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with evtape.open(sys.argv[1]) as tape:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.RLIM_INFINITY))
    try:
        tape.cursor("c")
    except OSError as error:
        assert "storing the place of the cursor" in str(error) and "t.tape.cursor-c" in str(error), error
    else:
        raise SystemExit("no error")
"""
    run_python(core, code, path)
    with et.open(path) as tape, pytest.raises(et.CursorError):
        tape.cursor("c")  # what the full disk left is told, and not taken for a place


def test_use_after_close(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape:
        cursor = tape.cursor("c")
        events = iter(cursor)
        next(events)
        cursor.close()
        cursor.close()
        assert cursor.closed
        for call in (cursor.commit, lambda: next(iter(cursor)), lambda: cursor.seek(0), lambda: next(events)):
            with pytest.raises(et.ClosedError):
                call()


def test_no_descriptor_leaks(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    before = open_descriptors()
    with et.open(path) as tape:
        for _ in range(20):
            with tape.cursor("c") as cursor:
                _numbers(cursor)
            (tmp_path / "t.tape.cursor-d").write_bytes(b"garbage")
            with pytest.raises(et.CursorError):
                tape.cursor("d")
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
