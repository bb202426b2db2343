"""Long streams as Arrow tables: a second thread makes some of the batches."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers import NS, sample, stream

pa = pytest.importorskip("pyarrow")

EVENTS, BATCH = 1000, 16


@pytest.fixture(autouse=True)
def short_batches(et, monkeypatch):
    """So that a thousand events are many batches."""
    monkeypatch.setattr(et.arrow, "BATCH_EVENTS", BATCH)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(EVENTS)))
    return path


def reader_of(tape, **options):
    return pa.RecordBatchReader.from_stream(tape, **options)


def batches_until_error(reader):
    """The rows that came, and the error that ended the stream; it stays."""
    rows, texts = 0, []
    while len(texts) < 2:
        try:
            rows += reader.read_next_batch().num_rows
        except (OSError, pa.ArrowInvalid) as error:
            texts.append(str(error).partition(". Detail")[0])
    assert texts[0] == texts[1]
    return rows, texts[0]


def wait_for_threads(count):
    """Until the process has so many. A listing may miss one that comes or goes."""
    until = time.monotonic() + 10
    while threads() != count and time.monotonic() < until:
        time.sleep(0.01)
    return threads() == count


def threads():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("key", [slice(None), slice(5, None), slice(17, 900)])
def test_the_events_are_the_same(et, path, key):
    with et.open(path) as tape:
        found = pa.table(tape[key])
        found.validate(full=True)
        events = list(tape[key])
        assert found.column("payload").num_chunks == -(-len(events) // BATCH)
        assert found["ordinal"].to_pylist() == [event.ordinal for event in events]
        assert found["time"].cast(pa.int64()).to_pylist() == [event.timestamp for event in events]
        assert found["payload"].to_pylist() == [event.bytes for event in events]


def test_fields(et, tmp_path):
    dtype = np.dtype([("price", "<f8"), ("symbol", "S14")])
    rows = np.zeros(EVENTS, dtype)
    rows["price"], rows["symbol"] = np.arange(EVENTS), np.array([b"A", b"LONGER-NAME-14"])[np.arange(EVENTS) % 2]
    with et.open(tmp_path / "t.tape", "w", schema=dtype) as tape:
        tape.append_array(rows)
        found = pa.table(tape)
        assert found["price"].to_pylist() == rows["price"].tolist()
        assert found["symbol"].to_pylist() == [text.decode() for text in rows["symbol"]]


@pytest.mark.parametrize("ordinal", [0, 15, 16, 700, EVENTS - 1])
def test_damage_ends_the_stream_where_it_is(et, path, ordinal):
    with et.open(path) as tape:
        ordinal += tape.sizes[ordinal] == 0  # an empty payload has no bytes to damage
        offset = int(tape.offsets[ordinal])
    raw = bytearray(path.read_bytes())
    raw[offset + 16] ^= 1
    path.write_bytes(raw)
    with et.open(path) as tape:
        rows, text = batches_until_error(reader_of(tape))
        assert rows == ordinal // BATCH * BATCH
        assert f"event {ordinal} " in text


def test_a_misfit(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, bytes(8 if i != 500 else 7)) for i in range(EVENTS)]))
    with et.open(path, schema=np.dtype([("x", "<i8")])) as tape:
        rows, text = batches_until_error(reader_of(tape))
        assert rows == 500 // BATCH * BATCH
        assert "event 500 " in text
        found = tape.to_arrow(errors="null")
        assert (found.num_rows, found["x"].null_count) == (EVENTS, 1)


def test_events_of_zeros(et, tmp_path):
    """They are found by asking Python, which the thread never does."""
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(0, b"") if i % 50 == 3 else (NS, b"x") for i in range(EVENTS)]))
    with et.open(path) as tape:
        assert pa.table(tape)["payload"].to_pylist() == [event.bytes for event in tape]


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
@pytest.mark.parametrize("taken", [0, 3])
def test_a_stream_that_is_cut(et, path, taken):
    with et.open(path) as tape:
        reader = reader_of(tape)
        for _ in range(taken):
            reader.read_next_batch()
        os.truncate(path, 24)
        rows, text = batches_until_error(reader)
        assert rows < EVENTS - taken * BATCH
        assert "t.tape: " in text


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
def test_a_stream_that_is_written_anew(et, path):
    with et.open(path) as tape:
        reader = reader_of(tape)
        reader.read_next_batch()
        with open(path, "r+b") as file:
            file.write(stream([(NS + 7, data) for _, data in sample(EVENTS)]))
        assert "changed" in batches_until_error(reader)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_thread_goes_with_the_stream(et, core, path):
    gc.collect()
    before = threads()
    with et.open(path) as tape:
        readers = [reader_of(tape) for _ in range(5)]
        assert threads() == before  # a stream that is not read has none
        for reader in readers:
            reader.read_next_batch()
        if core == "native" and (os.cpu_count() or 1) > 1:
            assert wait_for_threads(before + 5)
        del readers, reader
        gc.collect()
        assert wait_for_threads(before)


FORKED = """
import os, sys, evtape, pyarrow as pa
from evtape import arrow
arrow.BATCH_EVENTS = 16
with evtape.open(sys.argv[1]) as tape:
    reader = pa.RecordBatchReader.from_stream(tape)
    payloads = reader.read_next_batch()["payload"].to_pylist()
    child = os.fork()
    payloads += reader.read_all()["payload"].to_pylist()
    assert payloads == [event.bytes for event in tape]
    del reader
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
kept = pa.RecordBatchReader.from_stream(evtape.open(sys.argv[1]))  # and its thread, at the end of the process
kept.read_next_batch()
print("good")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_and_the_end_of_the_process(core, path):
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORKED, str(path)],
            env={**os.environ, "EVTAPE_BACKEND": core},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
