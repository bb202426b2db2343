"""evtape.scan: the answers are numpy's, and what is not asked for is not read."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import NS, start_python, stream
from tests.integrations.engines import COUNT, STEP, by_symbol, ordinals_read, ticks, times, write

pl = pytest.importorskip("polars")


def moment(ns):
    """The literal of polars; a datetime of Python has microseconds."""
    return pl.lit(ns).cast(pl.Datetime("ns", "UTC"))


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_group_by(et, path, rows, engine):
    answer = et.scan(path).group_by("symbol").agg(pl.col("price").sum(), pl.len()).sort("symbol").collect(engine=engine)
    assert answer.rows() == by_symbol(rows)


def test_the_whole_table(et, path, rows):
    frame = et.scan(path).collect()
    with et.open(path) as tape:
        assert frame.equals(tape.to_polars())
    assert frame["time"].cast(pl.Int64).to_list() == times(COUNT).tolist()
    assert frame["size"].to_list() == rows["size"].tolist()


def test_only_the_columns_of_the_query_are_read(et, path, rows, read):
    assert et.scan(path).select(pl.col("size").sum()).collect().item() == rows["size"].sum()
    assert {tuple(columns) for columns, *_ in read} == {("size",)}
    read.clear()
    frame = et.scan(path).filter(pl.col("side") == 1).select("price", "symbol").collect()
    assert frame.columns == ["price", "symbol"]
    assert frame["price"].to_list() == rows["price"][rows["side"] == 1].tolist()
    assert {tuple(columns) for columns, *_ in read} == {("symbol", "price", "side")}
    read.clear()
    assert et.scan(path).select(pl.len()).collect().item() == COUNT
    # The cheapest column, or that of polars' choice: the older ones ask for one.
    assert {tuple(columns) for columns, *_ in read} in ({("ordinal",)}, {("time",)})


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_a_window_of_time_is_found_and_not_searched(et, path, rows, read, engine):
    low, high = NS + 5000 * STEP, NS + 5100 * STEP
    window = (pl.col("time") >= moment(low)) & (pl.col("time") < moment(high))
    frame = et.scan(path).filter(window).collect(engine=engine)
    assert frame["ordinal"].to_list() == list(range(5000, 5100))
    assert frame["price"].to_list() == rows["price"][5000:5100].tolist()
    assert ordinals_read(read) <= 100 + 2 * COUNT // 64


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (lambda: pl.col("time").is_between(moment(NS + 9 * STEP), moment(NS + 20 * STEP)), range(9, 21)),
        (lambda: pl.col("time") == moment(NS + 19_999 * STEP), range(19_999, 20_000)),
        (lambda: pl.col("ordinal") == 7, range(7, 8)),
        (lambda: pl.col("ordinal").is_in([3, 4]), range(3, 5)),
        (lambda: pl.col("time") < moment(NS), range(0)),
        (lambda: pl.col("time") >= moment(NS + COUNT * STEP), range(0)),
        (
            lambda: (pl.col("time") < moment(NS + 5 * STEP)) | (pl.col("ordinal") >= 19_995),
            [*range(5), *range(19_995, COUNT)],
        ),
        (lambda: ~(pl.col("time") >= moment(NS + 5 * STEP)), range(5)),
    ],
    ids=["between", "equal", "ordinal", "in", "before", "after", "or", "not"],
)
def test_filters_that_prune(et, path, read, predicate, expected):
    frame = et.scan(path).filter(predicate()).collect()
    assert frame["ordinal"].to_list() == list(expected)
    assert ordinals_read(read) <= len(expected) + 4 * COUNT // 64


@pytest.mark.parametrize(
    "predicate",
    [
        lambda: pl.col("price") > 100_000,
        lambda: pl.col("time").dt.nanosecond() % 7 == 3,
        lambda: (pl.col("price") > 100_000) | (pl.col("time") < moment(NS + 50 * STEP)),
        lambda: (pl.col("price") > 100_000) & (pl.col("time") < moment(NS + 5000 * STEP)),
        lambda: pl.col("time").rank() < 50,
        lambda: pl.col("price").is_null(),
        lambda: pl.col("symbol").cast(pl.String) == "AAPL",
    ],
)
def test_filters_of_other_kinds_are_polars_own(et, path, predicate):
    with et.open(path) as tape:
        expected = tape.to_polars().filter(predicate())
    assert et.scan(path).filter(predicate()).collect().equals(expected)
    assert et.scan(path).filter(predicate()).collect(engine="streaming").sort("ordinal").equals(expected)


def _other_arguments(_predicate):
    raise AssertionError("takes no schema")


@pytest.mark.parametrize(
    "method",
    [
        None,
        _other_arguments,
        lambda _predicate, _schema: None,
        lambda _predicate, _schema: pl.col("minimum_of_time") > 0,
        lambda _predicate, _schema: pl.lit(1).cast(pl.List(pl.Int8)),
    ],
    ids=["missing", "other arguments", "no answer", "other names", "no truth values"],
)
@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_without_the_private_method_of_polars_everything_is_read(et, path, rows, read, monkeypatch, method, engine):
    """`scan` divides a stream by a method that polars may change; the answers do not rest on it."""
    if method is None:
        monkeypatch.delattr(pl.Expr, "_skip_batch_predicate", raising=False)
    else:
        monkeypatch.setattr(pl.Expr, "_skip_batch_predicate", method, raising=False)
    low, high = NS + 5000 * STEP, NS + 5100 * STEP
    window = (pl.col("time") >= moment(low)) & (pl.col("time") < moment(high))
    frame = et.scan(path).filter(window).collect(engine=engine)
    assert frame["ordinal"].to_list() == list(range(5000, 5100))
    assert frame["price"].to_list() == rows["price"][5000:5100].tolist()
    assert ordinals_read(read) == COUNT


def test_a_limit_ends_the_scan(et, path, rows, read):
    assert et.scan(path).head(5).collect()["price"].to_list() == rows["price"][:5].tolist()
    assert ordinals_read(read) == 5
    assert et.scan(path).head(0).collect().height == 0
    assert et.scan(path).head(COUNT + 1).collect().height == COUNT
    above = rows["price"] > 100_000
    limited = et.scan(path).filter(pl.col("price") > 100_000).head(3)
    assert limited.collect()["ordinal"].to_list() == np.flatnonzero(above)[:3].tolist()
    before = et.scan(path).head(100).filter(pl.col("price") > 100_000)
    assert before.collect()["ordinal"].to_list() == np.flatnonzero(above[:100]).tolist()
    assert et.scan(path).tail(3).collect()["ordinal"].to_list() == [19_997, 19_998, 19_999]


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_the_largest(et, path, rows, engine):
    top = et.scan(path).filter(pl.col("side") == 1).sort("price", descending=True).head(4).collect(engine=engine)
    assert top["price"].to_list() == np.sort(rows["price"][rows["side"] == 1])[::-1][:4].tolist()


def test_many_streams_as_one(et, tmp_path, read):
    parts = {name: ticks(1000, seed) for seed, name in enumerate(["a", "b", "c"])}
    for at, (name, part) in enumerate(parts.items()):
        write(et, tmp_path / f"{name}.tape", part, times(1000, NS + at * 1000 * STEP))
    frame = et.scan(tmp_path / "*.tape", include_file_paths="file")
    everything = np.concatenate(list(parts.values()))
    assert frame.group_by("symbol").agg(pl.col("price").sum(), pl.len()).sort("symbol").collect().rows() == by_symbol(
        everything
    )
    counts = dict(frame.group_by("file").len().collect().rows())
    assert counts == {str(tmp_path / f"{name}.tape"): 1000 for name in parts}
    read.clear()
    second = frame.filter(pl.col("file") == str(tmp_path / "b.tape")).select("price", "file").collect()
    assert second["price"].to_list() == parts["b"]["price"].tolist()
    assert second.columns == ["price", "file"]
    assert ordinals_read(read) == 1000
    assert frame.select("file").unique().collect().height == 3
    assert (
        et.scan([tmp_path / "c.tape", tmp_path / "a.tape"]).head(1001).collect()["price"][1000]
        == parts["a"]["price"][0]
    )
    read.clear()
    window = et.scan(tmp_path / "*.tape", starting_at=NS + 1500 * STEP, ending_before=NS + 2500 * STEP)
    assert window.select("size").collect()["size"].to_list() == everything["size"][1500:2500].tolist()
    assert ordinals_read(read) == 1000


def test_a_limit_opens_no_further_stream(et, tmp_path):
    for name in ("a", "b", "c"):
        write(et, tmp_path / f"{name}.tape", ticks(100), times(100))
    frame = et.scan(tmp_path / "*.tape")
    os.truncate(tmp_path / "c.tape", 30)  # would be an error
    assert frame.head(150).collect().height == 150
    with pytest.raises(Exception, match=r"c\.tape"):
        frame.head(250).collect()


def test_timestamps_that_go_backwards(et, tmp_path, rows):
    stamps = times(COUNT)
    stamps[1::2] -= 1000 * STEP
    write(et, tmp_path / "u.tape", rows, stamps)
    low, high = NS + 5000 * STEP, NS + 5100 * STEP
    wanted = np.flatnonzero((stamps >= low) & (stamps < high)).tolist()
    window = (pl.col("time") >= moment(low)) & (pl.col("time") < moment(high))
    assert et.scan(tmp_path / "u.tape").filter(window).collect()["ordinal"].to_list() == wanted
    given = et.scan(tmp_path / "u.tape", starting_at=low, ending_before=high).collect()
    assert given["ordinal"].to_list() == wanted


def test_payloads_of_other_kinds(et, tmp_path):
    events = [(NS + i, b"%d" % i * (i % 50)) for i in range(3000)]
    (tmp_path / "raw.tape").write_bytes(stream(events))
    frame = et.scan(tmp_path / "raw.tape").filter(pl.col("payload").bin.size() > 100).collect()
    assert frame["payload"].to_list() == [data for _, data in events if len(data) > 100]
    text = et.scan(tmp_path / "raw.tape", schema="text").select("payload").collect()
    assert text["payload"].to_list() == [data.decode() for _, data in events]


def test_a_stream_that_grows_is_seen_when_it_is_collected(et, tmp_path):
    with et.open(tmp_path / "g.tape", "w", schema="text") as tape:
        frame = et.scan(tmp_path / "g.tape")
        assert frame.collect().height == 0
        tape.append_many([b"a", b"b"])
        assert frame.collect()["payload"].to_list() == ["a", "b"]
        tape.append(b"c")
        assert frame.filter(pl.col("ordinal") == 2).collect()["payload"].to_list() == ["c"]


def test_damage_and_cuts_name_the_event(et, path):
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        at = tape[12_345].offset
    frame = et.scan(path)
    raw[at + 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Exception, match=r"a\.tape: event 12345 at offset .* is damaged"):
        frame.collect()
    assert et.scan(path, verify_checksums=False).collect().height == COUNT
    os.truncate(path, 1000)
    with pytest.raises(Exception, match=r"a\.tape: the file has 1000 bytes"):
        frame.collect()
    path.unlink()
    with pytest.raises(Exception, match=r"a\.tape"):
        frame.collect()


def test_what_does_not_fit_the_schema(et, tmp_path):
    (tmp_path / "x.tape").write_bytes(stream([(NS, b"12345678"), (NS + 1, b"short")]))
    with pytest.raises(Exception, match="event 1 "):
        et.scan(tmp_path / "x.tape", schema=np.dtype([("n", "<i8")])).collect()
    frame = et.scan(tmp_path / "x.tape", schema=np.dtype([("n", "<i8")]), errors="null").collect()
    assert frame["n"].to_list() == [int.from_bytes(b"12345678", "little"), None]


def test_wrong_use(et, path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no stream matches"):
        et.scan(tmp_path / "x*.tape")
    with pytest.raises(ValueError, match=r"a\.tape: a column 'price' is there already"):
        et.scan(path, include_file_paths="price")
    (tmp_path / "b.tape").write_bytes(stream([]))
    with pytest.raises(ValueError, match=r"b\.tape: its columns are .*payload.*, but those of .*a\.tape are .*price"):
        et.scan(tmp_path / "*.tape")
    (tmp_path / "b.tape").write_text("something else that is no stream")
    with pytest.raises(et.FormatError, match=r"b\.tape: not a stream"):
        et.scan(tmp_path / "*.tape")


def test_importing_evtape_imports_no_engine(core):
    engines = {"polars", "pyarrow", "pandas", "duckdb", "dask", "pyspark"}
    code = f"import sys, evtape; print(sorted({engines} & set(sys.modules)))"
    assert start_python(core, code).communicate()[0].strip() == "[]"


ENDS = """
import sys
import polars as pl, evtape
print(evtape.scan(sys.argv[1]).filter(pl.col("n") >= 0).head(10).collect().height)
"""


def test_a_program_may_end_while_polars_reads_on(packages, tmp_path):
    """Without a wait at the end every third such program is aborted."""
    for core, package in packages.items():
        rows = np.zeros(200_000, np.dtype([("n", "<i8"), ("rest", "V500")]))
        with package.open(tmp_path / "e.tape", "w", schema=rows.dtype, durability="none") as tape:
            tape.append_array(rows)
        for _ in range(4):
            env = {**os.environ, "EVTAPE_BACKEND": core}
            command = [sys.executable, "-c", ENDS, tmp_path / "e.tape"]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


ONE_THREAD = """
import sys
import polars as pl, evtape
frame = evtape.scan(sys.argv[1], include_file_paths="file").filter(pl.col("n") >= 0)
for engine in ("streaming", "in-memory") * 2:
    print(frame.group_by("n").len().collect(engine=engine).height, frame.head(10).collect(engine=engine).height)
"""


def test_polars_with_one_thread(packages, tmp_path):
    """Where a thread of evtape calls polars, it may wait for the only thread that polars has, which waits for it."""
    et = next(iter(packages.values()))
    rows = np.zeros(500_000, np.dtype([("n", "<i8"), ("rest", "V50")]))
    write(et, tmp_path / "o.tape", rows, times(500_000))
    env = {**os.environ, "POLARS_MAX_THREADS": "1"}
    for _ in range(3):
        command = [sys.executable, "-c", ONE_THREAD, tmp_path / "o.tape"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "1 10\n" * 4), done.stderr


LARGER = """
import sys
import numpy as np, polars as pl, evtape, evtape.engines.lazyframe

def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) << 10

pl.DataFrame({"a": [1]}).lazy().group_by("a").len().collect(engine="streaming")
before = peak()
frame = evtape.scan(sys.argv[1]).group_by("key").agg(pl.col("value").sum(), pl.len()).sort("key")
print(frame.collect(engine="streaming").rows())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_larger_than_its_memory(packages, tmp_path):
    """The peak does not grow with the stream: 2.4 GB need as much as these 600 MB."""
    if "native" not in packages:
        pytest.skip("the pure core takes minutes")
    et = packages["native"]
    kind = np.dtype([("key", "<i8"), ("value", "<i8"), ("rest", "V1000")])
    rows = np.zeros(10_000, kind)
    rows["key"], rows["value"] = np.arange(10_000) % 3, np.arange(10_000)
    with et.open(tmp_path / "l.tape", "w", schema=kind, durability="none") as tape:
        for _ in range(60):
            tape.append_array(rows)
    assert os.path.getsize(tmp_path / "l.tape") > 600_000_000
    done = subprocess.run(
        [sys.executable, "-c", LARGER, tmp_path / "l.tape"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer, grown = done.stdout.splitlines()
    expected = [
        (key, 60 * int(rows["value"][rows["key"] == key].sum()), 60 * int((rows["key"] == key).sum()))
        for key in range(3)
    ]
    assert answer == repr(expected)
    assert int(grown) < 250_000_000
