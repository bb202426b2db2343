"""A stream that is read while another process writes it: exact prefixes, and a length that only grows."""

from __future__ import annotations

import sys
import time

import pytest

from tests.helpers import NS, pairs, run_python, start_python

WRITE = """
import evtape, sys
tape = evtape.open(sys.argv[1], "w", durability="none")
print("ready", flush=True)
count, how = int(sys.argv[2]), sys.argv[3]
if how == "single":
    for i in range(count):
        tape.append(b"%d." % i * (i % 50 + 1), timestamp=i)
else:
    for start in range(0, count, 100):
        tape.append_many([b"%d." % i * (i % 50 + 1) for i in range(start, start + 100)], range(start, start + 100))
tape.close()
"""
READ = """
import evtape, sys, time
count, seen, length = int(sys.argv[2]), 0, 0
tape = evtape.open(sys.argv[1])
end = time.monotonic() + 60
while seen < count:
    assert time.monotonic() < end, "the writer stopped"
    seen = 0
    for timestamp, data in tape:
        assert timestamp == seen and data == b"%d." % seen * (seen % 50 + 1), (timestamp, seen)
        seen += 1
    assert len(tape) >= seen >= length
    length = seen
print(seen)
"""


def _expected(count):
    return [(i, b"%d." % i * (i % 50 + 1)) for i in range(count)]


@pytest.mark.skipif(sys.platform == "win32", reason="a live file is locked by its size there; not yet run")
@pytest.mark.parametrize("how", ["single", "batches"])
def test_a_live_stream_is_an_exact_prefix_at_every_moment(pair, tmp_path, how):
    writing, reading = (package.backend for package in pair)
    path, count = tmp_path / "t.tape", 20_000
    writer = start_python(writing, WRITE, path, count, how)
    assert writer.stdout.readline() == "ready\n"
    reader = start_python(reading, READ, path, count)
    out, err = reader.communicate(timeout=100)
    assert (out, reader.returncode) == (f"{count}\n", 0), err
    _, err = writer.communicate(timeout=100)
    assert writer.returncode == 0, err
    assert pairs(pair[1].open(path)) == _expected(count)


def test_questions_about_a_live_stream_in_this_process(pair, tmp_path):
    writing, reading = pair
    path, count = tmp_path / "t.tape", 30_000
    writer = start_python(writing.backend, WRITE, path, count, "single")
    assert writer.stdout.readline() == "ready\n"
    lengths = [0]
    with reading.open(path) as tape:
        end = time.monotonic() + 60
        while lengths[-1] < count:
            assert time.monotonic() < end
            length = len(tape)
            assert length >= lengths[-1]
            lengths.append(length)
            if length:
                last = tape[length - 1]
                assert (last.timestamp, bytes(last.data)) == _expected(length)[-1]
                assert tape.searchsorted(length - 1) == length - 1
                part = tape[max(0, length - 100) :]
                assert part.timestamps.tolist() == list(part.ordinals)
                assert len(tape.between(starting_at=length - 1)) >= 1
        assert tape.timestamps.tolist() == list(range(count))
    _, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err


def test_a_reader_sees_an_event_as_soon_as_append_returned(pair, tmp_path):
    writing, reading = pair
    path = tmp_path / "t.tape"
    with writing.open(path, "w") as tape, reading.open(path) as reader:
        for i in range(300):
            tape.append(b"x" * i * 100, timestamp=NS + i)  # grows well beyond what the reader mapped at first
            assert len(reader) == i + 1
            assert (reader[-1].timestamp, len(reader[-1].data)) == (NS + i, i * 100)
    assert reading.verify(path).state == "clean"


def test_a_reader_stays_when_the_writer_closes_and_another_continues(pair, tmp_path):
    writing, reading = pair
    path = tmp_path / "t.tape"
    writing.open(path, "w", capacity=1 << 20).close()
    with reading.open(path) as reader:
        for i in range(5):
            with writing.open(path, "a", capacity=1 << 20) as tape:
                tape.append(b"%d" % i, timestamp=i)
                assert len(reader) == i + 1
            assert pairs(reader) == [(n, b"%d" % n) for n in range(i + 1)]


def test_a_slice_travels_to_another_process(et, core, tmp_path):
    import pickle

    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append_many([b"%d" % i for i in range(100)], range(100))
    with et.open(path) as tape:
        (tmp_path / "pickled").write_bytes(pickle.dumps(tape[10:90:20]))
    code = "import pickle, sys; print([bytes(d) for _, d in pickle.load(open(sys.argv[1], 'rb'))])"
    code = code.replace(
        "open(sys.argv[1], 'rb')", "__import__('io').BytesIO(__import__('pathlib').Path(sys.argv[1]).read_bytes())"
    )
    assert run_python(core, code, tmp_path / "pickled") == "[b'10', b'30', b'50', b'70']\n"
