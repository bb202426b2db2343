"""Streams as a dataset: the answers of DuckDB are numpy's, and what a query does not ask for is not read."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import NS, stream
from tests.integrations.engines import COUNT, STEP, by_symbol, ordinals_read, ticks, times, write

duckdb = pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")
import pyarrow.compute as pc  # noqa: E402 - after the question whether it is there


@pytest.fixture
def dataset(et):
    import evtape.integrations.duckdb

    return evtape.integrations.duckdb.dataset


def iso(ns):
    """A time with microseconds, as DuckDB compares it."""
    return str(np.datetime64(ns // 1000, "us")) + "Z"


def test_group_by(dataset, path, rows):
    table = dataset(path)
    query = "select symbol, sum(price), count(*) from table_ group by symbol order by symbol"
    table_ = table  # noqa: F841
    assert duckdb.sql(query).fetchall() == by_symbol(rows)


def test_only_the_columns_of_the_query_are_read(dataset, path, rows, read):
    t = dataset(path)  # noqa: F841
    assert duckdb.sql("select sum(size) from t").fetchall() == [(int(rows["size"].sum()),)]
    assert {tuple(columns) for columns, *_ in read} == {("size",)}
    read.clear()
    found = duckdb.sql("select price from t where side = 1 order by time_ns").fetchall()
    assert [price for (price,) in found] == rows["price"][rows["side"] == 1].tolist()
    assert {frozenset(columns) for columns, *_ in read} == {frozenset({"time", "price", "side"})}
    assert duckdb.sql("select count(*) from t").fetchall() == [(COUNT,)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (f"time >= '{iso(NS + 5000 * STEP)}' and time < '{iso(NS + 5100 * STEP)}'", range(5000, 5100)),
        (f"time between timestamptz '{iso(NS + 9 * STEP)}' and timestamptz '{iso(NS + 20 * STEP)}'", range(9, 21)),
        (f"time_ns >= {NS + 5000 * STEP} and time_ns < {NS + 5100 * STEP}", range(5000, 5100)),
        (f"time_ns = {NS + 19_999 * STEP}", range(19_999, 20_000)),
        ("ordinal = 7", range(7, 8)),
        (f"time < '{iso(NS)}'", range(0)),
        (f"time > '{iso(NS + COUNT * STEP)}'", range(0)),
        (f"ordinal >= 19990 and price > 0 and time >= '{iso(NS)}'", range(19_990, COUNT)),
    ],
)
def test_a_window_is_found_and_not_searched(dataset, path, rows, read, condition, expected):
    t = dataset(path)  # noqa: F841
    found = duckdb.sql(f"select ordinal, price from t where {condition} order by ordinal").fetchall()
    assert [ordinal for ordinal, _ in found] == list(expected)
    assert [price for _, price in found] == rows["price"][expected.start : expected.stop].tolist()
    assert ordinals_read(read) <= len(expected) + 4 * COUNT // 64


def test_times_are_rounded_down_and_the_nanoseconds_are_there(dataset, et, tmp_path):
    stamps = [-1_500, -1, 0, 1, 999, 1_000, 1_001, NS + 999]
    (tmp_path / "r.tape").write_bytes(stream([(stamp, b"x") for stamp in stamps]))
    table = dataset(tmp_path / "r.tape").to_table(columns=["time", "time_ns"])
    assert table["time_ns"].to_pylist() == stamps
    assert table["time"].cast(pa.int64()).to_pylist() == [stamp // 1000 for stamp in stamps]
    for at in (-2, -1, 0, 1):
        low = dataset(tmp_path / "r.tape").to_table(filter=pc.field("time") >= pa.scalar(at, pa.timestamp("us", "UTC")))
        assert low["time_ns"].to_pylist() == [stamp for stamp in stamps if stamp // 1000 >= at]


def test_many_streams_as_one(dataset, et, tmp_path, read):
    parts = {name: ticks(1000, seed) for seed, name in enumerate(["a", "b", "c"])}
    for at, (name, part) in enumerate(parts.items()):
        write(et, tmp_path / f"{name}.tape", part, times(1000, NS + at * 1000 * STEP))
    t = dataset(tmp_path / "*.tape", include_file_paths="file")
    everything = np.concatenate(list(parts.values()))
    assert duckdb.sql("select symbol, sum(price), count(*) from t group by 1 order by 1").fetchall() == by_symbol(
        everything
    )
    counts = dict(duckdb.sql("select file, count(*) from t group by 1").fetchall())
    assert counts == {str(tmp_path / f"{name}.tape"): 1000 for name in parts}
    read.clear()
    found = duckdb.sql(f"select sum(price) from t where file = '{tmp_path / 'b.tape'}'").fetchall()
    assert found == [(float(parts["b"]["price"].sum()),)]
    assert ordinals_read(read) == 1000
    read.clear()
    t = dataset(tmp_path / "*.tape", starting_at=NS + 1500 * STEP, ending_before=NS + 2500 * STEP)  # noqa: F841
    assert duckdb.sql("select sum(size) from t").fetchall() == [(int(everything["size"][1500:2500].sum()),)]
    assert ordinals_read(read) == 1000


def test_payloads_of_other_kinds(dataset, tmp_path):
    events = [(NS + i, b"%d" % i * (i % 50)) for i in range(3000)]
    (tmp_path / "raw.tape").write_bytes(stream(events))
    t = dataset(tmp_path / "raw.tape")
    assert t.schema.field("payload").type == pa.binary()
    found = duckdb.sql("select payload from t where octet_length(payload) > 100 order by ordinal").fetchall()
    assert [data for (data,) in found] == [data for _, data in events if len(data) > 100]
    t = dataset(tmp_path / "raw.tape", schema="text")
    assert duckdb.sql("select payload from t where payload = '777777'").fetchall() == [("777777",)] * 0
    assert duckdb.sql("select count(*) from t where payload like '1%'").fetchall() == [
        (sum(data.startswith(b"1") for _, data in events),)
    ]


def test_timestamps_that_go_backwards(dataset, et, tmp_path, rows):
    stamps = times(COUNT)
    stamps[1::2] -= 1000 * STEP
    write(et, tmp_path / "u.tape", rows, stamps)
    low, high = NS + 5000 * STEP, NS + 5100 * STEP
    t = dataset(tmp_path / "u.tape")  # noqa: F841
    found = duckdb.sql(f"select ordinal from t where time_ns >= {low} and time_ns < {high} order by 1").fetchall()
    assert [ordinal for (ordinal,) in found] == np.flatnonzero((stamps >= low) & (stamps < high)).tolist()


def test_a_dataset_of_pyarrow(dataset, path, rows):
    table = dataset(path)
    assert table.count_rows() == COUNT
    assert table.head(3)["price"].to_pylist() == rows["price"][:3].tolist()
    doubled = table.to_table(columns={"twice": pc.field("size") * 2}, filter=pc.field("ordinal") < 5)
    assert doubled["twice"].to_pylist() == (rows["size"][:5] * 2).tolist()
    assert pickle.loads(pickle.dumps(table)).to_table().equals(table.to_table())
    assert repr(table) == f"<evtape dataset of {path}>"


def test_a_join_and_a_second_query(dataset, path, rows):
    t = dataset(path)  # noqa: F841
    for _ in range(2):
        query = "select count(*) from t as one join t as other on one.ordinal = other.ordinal + 1"
        assert duckdb.sql(query).fetchall() == [(COUNT - 1,)]


def test_damage_names_the_event(dataset, et, path):
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        at = tape[12_345].offset
    raw[at + 20] ^= 1
    path.write_bytes(raw)
    t = dataset(path)  # noqa: F841
    with pytest.raises(Exception, match=r"a\.tape: event 12345 at offset .* is damaged"):
        duckdb.sql("select sum(price) from t").fetchall()
    os.truncate(path, 1000)
    with pytest.raises(Exception, match=r"a\.tape: the file has 1000 bytes"):
        duckdb.sql("select sum(price) from t").fetchall()


def test_a_field_with_the_name_of_a_column(dataset, et, tmp_path):
    rows = np.zeros(3, np.dtype([("time_ns", "<i8")]))
    write(et, tmp_path / "n.tape", rows, times(3))
    with pytest.raises(ValueError, match=r"n\.tape: a column 'time_ns' is there already"):
        dataset(tmp_path / "n.tape")


LARGER = """
import sys
import duckdb, numpy as np, evtape.integrations.duckdb

def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) << 10

duckdb.sql("set threads = 2")
duckdb.sql("select range % 3, count(*) from range(100000) group by 1").fetchall()
before = peak()
t = evtape.integrations.duckdb.dataset(sys.argv[1])
print(duckdb.sql("select key, sum(value)::bigint, count(*) from t group by key order by key").fetchall())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_larger_than_its_memory(packages, tmp_path):
    """The peak does not grow with the stream: 2.4 GB need as much as these 600 MB."""
    if "native" not in packages:
        pytest.skip("the pure core takes minutes")
    kind = np.dtype([("key", "<i8"), ("value", "<i8"), ("rest", "V1000")])
    rows = np.zeros(10_000, kind)
    rows["key"], rows["value"] = np.arange(10_000) % 3, np.arange(10_000)
    with packages["native"].open(tmp_path / "l.tape", "w", schema=kind, durability="none") as tape:
        for _ in range(60):
            tape.append_array(rows)
    command = [sys.executable, "-c", LARGER, tmp_path / "l.tape"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, grown = done.stdout.splitlines()
    kept = [rows["key"] == key for key in range(3)]
    expected = [(key, 60 * int(rows["value"][of].sum()), 60 * int(of.sum())) for key, of in enumerate(kept)]
    assert answer == repr(expected)
    assert int(grown) < 250_000_000
