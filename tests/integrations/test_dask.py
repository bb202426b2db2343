"""Streams on Dask: the sums are numpy's, also when a worker dies in the middle."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import NS, stream
from tests.integrations.engines import COUNT, STEP, by_symbol, ticks, times, write

dask = pytest.importorskip("dask")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("distributed")


@pytest.fixture
def engine(et):
    import evtape.integrations.dask

    return evtape.integrations.dask


def compute(value):
    (found,) = dask.compute(value, scheduler="sync")
    return found


def turnover(events):
    rows = events.rows()
    return float((rows["price"] * rows["size"]).sum())


def test_map(engine, path, rows):
    delayed = engine.map(turnover, path, events=3000)
    assert len(delayed) == 7
    found = compute(delayed)
    assert sum(found) == float((rows["price"] * rows["size"]).sum())
    assert found[0] == float((rows["price"] * rows["size"])[: -(-COUNT // 7) - 1].sum())
    window = engine.map(len, path, events=100, starting_at=NS + 500 * STEP, ending_before=NS + 1500 * STEP)
    assert sum(compute(window)) == 1000


def test_tasks_are_few(engine, path, rows, et, monkeypatch):
    """By default some parts of 64 MiB are one task, so that each thread has about four."""
    monkeypatch.setattr("evtape.engines.partition.BYTES", 24 * 100)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    parts = et.partitions(path)
    delayed = engine.map(len, path)
    assert len(delayed) == max(-(-len(parts) // 4), 12)
    assert sum(compute(delayed)) == COUNT


def test_keys_say_what_is_computed(engine, path, et):
    one, other = engine.map(turnover, path), engine.map(turnover, path)
    assert one[0].key == other[0].key
    assert one[0].key.startswith("turnover-")
    assert one[0].key != engine.map(len, path)[0].key
    with et.open(path, "a") as tape:
        tape.append(bytes(24))
    assert one[0].key != engine.map(turnover, path)[0].key


def test_read(engine, path, rows, et):
    frame = engine.read(path, events=3000)
    assert frame.npartitions == 7
    whole = compute(frame)
    with et.open(path) as tape:
        expected = tape.to_pandas().set_index("time")
    assert whole.columns.tolist() == expected.columns.tolist()
    assert whole.index.equals(expected.index)
    assert whole.reset_index().to_dict("list") == expected.reset_index().to_dict("list")
    assert frame.known_divisions
    assert [division.value for division in frame.divisions] == [
        *(NS + COUNT * part // 7 * STEP for part in range(7)),
        NS + (COUNT - 1) * STEP,
    ]
    found = compute(frame.groupby("symbol")["price"].agg(["sum", "count"])).sort_index()
    assert [(symbol, row["sum"], row["count"]) for symbol, row in found.iterrows()] == by_symbol(rows)


def test_meta_is_what_the_parts_are(engine, path):
    from dask.dataframe.utils import assert_eq

    frame = engine.read(path, events=3000)
    assert_eq(frame, compute(frame), scheduler="sync", check_index=True)
    assert_eq(frame[["size"]], compute(frame)[["size"]], scheduler="sync")


def test_only_the_columns_of_the_query_are_read(engine, et, path, rows, monkeypatch):
    from evtape.stream.slices import Slice

    seen = set()
    to_arrow = Slice.to_arrow

    def noted(self, columns=None, **options):
        seen.add(None if columns is None else tuple(columns))
        return to_arrow(self, columns, **options)

    monkeypatch.setattr(Slice, "to_arrow", noted)
    assert compute(engine.read(path, events=3000)["size"].sum()) == rows["size"].sum()
    assert seen == {("time", "size")}
    seen.clear()
    frame = engine.read(path, columns=["price", "side"], events=3000)
    assert list(frame.columns) == ["price", "side"]
    assert compute(frame).columns.tolist() == ["price", "side"]
    assert seen == {("time", "price", "side")}
    seen.clear()
    assert compute(engine.read(path, columns="price")).columns.tolist() == ["price"]


def test_a_window_of_time_needs_only_its_parts(engine, path, rows, monkeypatch):
    from evtape.engines.partition import Partition

    opened = []
    plain = Partition.open
    monkeypatch.setattr(Partition, "open", lambda self, **options: opened.append(self) or plain(self, **options))
    low, high = (pd.Timestamp(NS + at * STEP, unit="ns", tz="UTC") for at in (5000, 5099))
    found = compute(engine.read(path, events=1000).loc[low:high])
    assert found["price"].tolist() == rows["price"][5000:5100].tolist()
    assert len(opened) == 1


def test_events_of_one_time_are_in_one_part(engine, et, tmp_path):
    stamps = NS + np.arange(1000, dtype=np.int64) // 7 * 1000
    write(et, tmp_path / "t.tape", ticks(1000), stamps)
    frame = engine.read(tmp_path / "t.tape", events=100)
    assert frame.known_divisions
    for part in (0, 3, 9):
        at = frame.divisions[part]
        assert len(compute(frame.loc[at:at])) == 7
    assert compute(frame)["ordinal"].tolist() == list(range(1000))
    write(et, tmp_path / "one.tape", ticks(1000), np.full(1000, NS))
    one = engine.read(tmp_path / "one.tape", events=100)
    assert len(compute(one)) == 1000


def test_divisions_are_unknown_where_times_are_not_in_order(engine, et, tmp_path, rows):
    stamps = times(COUNT)
    stamps[1::2] -= 1000 * STEP
    write(et, tmp_path / "u.tape", rows, stamps)
    frame = engine.read(tmp_path / "u.tape", events=3000)
    assert not frame.known_divisions
    assert compute(frame["size"].sum()) == rows["size"].sum()
    part = engine.read(tmp_path / "u.tape", starting_at=NS, ending_before=NS + 100 * STEP, events=1000)
    assert (
        sorted(compute(part)["ordinal"].tolist())
        == np.flatnonzero((stamps >= NS) & (stamps < NS + 100 * STEP)).tolist()
    )
    for name in ("a", "b"):
        write(et, tmp_path / f"{name}.tape", rows, times(COUNT))
    both = engine.read([tmp_path / "a.tape", tmp_path / "b.tape"])
    assert not both.known_divisions
    assert compute(both["size"].sum()) == 2 * rows["size"].sum()


def test_many_streams_in_order_of_time(engine, et, tmp_path):
    parts = [ticks(1000, seed) for seed in range(3)]
    for at, part in enumerate(parts):
        write(et, tmp_path / f"{at}.tape", part, times(1000, NS + at * 1000 * STEP))
    frame = engine.read(tmp_path / "*.tape", events=400)
    assert frame.known_divisions
    assert frame.npartitions == 9
    assert compute(frame["price"].sum()) == float(np.concatenate(parts)["price"].sum())


def test_a_stream_without_events(engine, et, tmp_path):
    write(et, tmp_path / "e.tape", ticks(0), times(0))
    frame = engine.read(tmp_path / "e.tape")
    assert len(compute(frame)) == 0
    assert list(frame.columns) == ["ordinal", "symbol", "price", "size", "side", "pad"]
    assert list(engine.read(tmp_path / "e.tape", columns=["size"]).columns) == ["size"]
    assert engine.map(len, tmp_path / "e.tape") == []


def test_payloads_stay_bytes(engine, tmp_path):
    events = [(NS + at, bytes([at, 0, 255 - at])) for at in range(200)]
    (tmp_path / "raw.tape").write_bytes(stream(events))
    frame = engine.read(tmp_path / "raw.tape", events=50)
    assert compute(frame)["payload"].tolist() == [data for _, data in events]
    text = engine.read(tmp_path / "raw.tape", schema="text", errors="null", events=50)
    assert compute(text["payload"].isna().sum()) == 200


def test_wrong_use(engine, path, tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.tape: there is no column 'prize'; there are 'ordinal', 'symbol', 'price'"
    ):
        engine.read(path, columns=["prize"])
    (tmp_path / "b.tape").write_bytes(stream([]))
    with pytest.raises(ValueError, match=r"b\.tape: its columns are .*, but those of .*a\.tape are"):
        engine.read(tmp_path / "*.tape")
    with pytest.raises(FileNotFoundError, match="no stream matches"):
        engine.map(len, tmp_path / "x*")


def test_a_stream_that_was_replaced_since(engine, et, path, rows):
    delayed = engine.map(turnover, path, events=5000)
    write(et, path, rows, times(COUNT))
    with pytest.raises(et.ReplacedError, match=r"a\.tape: another stream"):
        compute(delayed)


CLUSTER = """
import os, signal, sys, time
import dask, numpy as np
import evtape, evtape.integrations.dask
from dask.distributed import Client, LocalCluster, as_completed

def slow_turnover(events):
    time.sleep(0.2)
    rows = events.rows()
    return float((rows["price"] * rows["size"]).sum())

if __name__ == "__main__":
    path = sys.argv[1]
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        parts = evtape.integrations.dask.map(slow_turnover, path, events=1000)
        futures = client.compute(parts)
        next(iter(as_completed(futures)))
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        total = sum(client.gather(futures))
        survivors = set(client.run(os.getpid).values())
        frame = evtape.integrations.dask.read(path, events=1000)
        prices = frame.groupby("symbol")["price"].sum().compute().sort_index()
        print(total, victim not in survivors, len(parts), evtape.backend, prices.to_dict())
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_worker_is_killed_in_the_middle(core, path, rows, tmp_path):
    (tmp_path / "job.py").write_text(CLUSTER)
    env = {**os.environ, "EVTAPE_BACKEND": core}
    command = [sys.executable, tmp_path / "job.py", path]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    total = float((rows["price"] * rows["size"]).sum())
    prices = {symbol: price for symbol, price, _ in by_symbol(rows)}
    assert done.stdout.splitlines()[-1] == f"{total} True 20 {core} {prices}"
