"""Streams as a data source of Spark: the sums are numpy's, and a stream query goes on where its checkpoint is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evtape
from tests.helpers import NS, stream
from tests.integrations.engines import STEP, by_symbol, ticks, times, write

# Spark and its libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("default")

COUNT = 20_000


@pytest.fixture
def rows() -> Any:
    return ticks(COUNT)


@pytest.fixture
def path(tmp_path: Path, rows: Any) -> Path:
    path = tmp_path / "a.tape"
    write(evtape, path, rows, times(COUNT))
    return path


def load(spark: Any, path: Any, **options: Any) -> Any:
    return spark.read.format("evtape").options(**options).load(str(path))


def iso(ns: int) -> str:
    return str(np.datetime64(ns // 1000, "us")) + "Z"


def test_the_same_sums_as_numpy(spark, path, rows):
    found = load(spark, path, events=3000).groupBy("symbol").agg({"price": "sum", "*": "count"}).orderBy("symbol")
    assert [(row["symbol"], row["sum(price)"], row["count(1)"]) for row in found.collect()] == by_symbol(rows)
    assert load(spark, path, events=3000).rdd.getNumPartitions() == 7


def test_types(spark, path, rows):
    frame = load(spark, path)
    assert dict(frame.dtypes) == {
        "ordinal": "bigint",
        "time": "timestamp",
        "time_ns": "bigint",
        "symbol": "string",
        "price": "double",
        "size": "bigint",
        "side": "smallint",
        "pad": "binary",
    }
    row = frame.orderBy("ordinal").head(3)[2]
    assert (row.ordinal, row.time_ns) == (2, NS + 2 * STEP)
    assert (row.symbol, row.price, row.size, row.side) == (
        rows["symbol"][2].decode(),
        rows["price"][2],
        rows["size"][2],
        rows["side"][2],
    )
    assert frame.filter(f"unix_micros(time) = {(NS + 2 * STEP) // 1000}").count() == 1


@pytest.mark.parametrize("chosen", ["schema", "columns"])
def test_chosen_columns(spark, path, rows, chosen):
    if chosen == "schema":
        frame = spark.read.format("evtape").schema("size bigint, ordinal bigint").load(str(path))
    else:
        frame = load(spark, path, columns="size, ordinal")
    assert frame.columns == ["size", "ordinal"]
    assert frame.selectExpr("sum(size)").collect()[0][0] == int(rows["size"].sum())


def test_bounds_as_options(spark, path, rows):
    low, high = NS + 5000 * STEP, NS + 5100 * STEP
    for bounds in (
        {"startingAt": low, "endingBefore": high},
        {"startingAt": f"{np.datetime64(low, 'ns')}Z", "endingBefore": str(high)},
    ):
        found = load(spark, path, **bounds).select("price").collect()
        assert [price for (price,) in found] == rows["price"][5000:5100].tolist()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (
            f"time >= timestamp'{iso(NS + 5000 * STEP)}' and time < timestamp'{iso(NS + 5100 * STEP)}'",
            range(5000, 5100),
        ),
        (f"time_ns >= {NS + 5000 * STEP} and time_ns < {NS + 5100 * STEP}", range(5000, 5100)),
        (f"time_ns = {NS + 19_999 * STEP}", range(19_999, 20_000)),
        ("ordinal = 7", range(7, 8)),
        ("ordinal > 19990 and price > 0", range(19_991, COUNT)),
        (f"time <= timestamp'{iso(NS + 3 * STEP)}'", range(4)),
        (f"time < timestamp'{iso(NS - 1000)}'", range(0)),
    ],
)
def test_filters_are_handed_down(spark, path, condition, expected):
    frame = load(spark, path, events=1000).filter(condition)
    assert [ordinal for (ordinal,) in frame.select("ordinal").orderBy("ordinal").collect()] == list(expected)
    assert frame.rdd.getNumPartitions() <= max(2, len(expected) // 1000 + 2)


def test_sql_over_many_streams(spark, tmp_path):
    parts = [ticks(1000, seed) for seed in range(3)]
    for at, part in enumerate(parts):
        write(evtape, tmp_path / f"{at}.tape", part, times(1000, NS + at * 1000 * STEP))
    load(spark, tmp_path / "*.tape", includeFilePaths="file").createOrReplaceTempView("ticks")
    found = spark.sql("select symbol, sum(price), count(*) from ticks group by symbol order by symbol").collect()
    assert [tuple(row) for row in found] == by_symbol(np.concatenate(parts))
    files = spark.sql("select file, count(*) from ticks group by file").collect()
    assert {Path(name).name: count for name, count in files} == {"0.tape": 1000, "1.tape": 1000, "2.tape": 1000}
    two = spark.read.format("evtape").load([str(tmp_path / "0.tape"), str(tmp_path / "2.tape")])
    assert two.count() == 2000


def test_payloads_of_other_kinds(spark, tmp_path):
    events = [(NS + i, b"%d" % i) for i in range(300)]
    (tmp_path / "raw.tape").write_bytes(stream(events))
    assert bytes(load(spark, tmp_path / "raw.tape").orderBy("ordinal").tail(1)[0].payload) == b"299"
    assert load(spark, tmp_path / "raw.tape", dtype="text").filter("payload = '77'").count() == 1
    numbers = [(NS + i, i.to_bytes(8, "little") + bytes([i, 1])) for i in range(200)]
    (tmp_path / "n.tape").write_bytes(stream(numbers))
    dtype = json.dumps(np.dtype([("n", "<u8"), ("b", "u1", (2,))]).descr)
    frame = load(spark, tmp_path / "n.tape", dtype=dtype)
    assert dict(frame.dtypes)["n"] == "decimal(20,0)"
    assert frame.selectExpr("sum(n)", "sum(b[0])", "sum(b[1])").collect()[0] == (19_900, 19_900, 200)


def test_errors_name_the_file(spark, path, tmp_path):
    with pytest.raises(Exception, match="the format evtape needs a path"):
        spark.read.format("evtape").load().count()
    with pytest.raises(Exception, match="no stream matches the pattern"):
        load(spark, tmp_path / "x*.tape")
    with pytest.raises(Exception, match=r"a\.tape: there is no column 'prize'"):
        load(spark, path, columns="prize")
    with pytest.raises(Exception, match="verifyChecksums must be true or false, not 'maybe'"):
        load(spark, path, verifyChecksums="maybe")
    raw = bytearray(path.read_bytes())
    with evtape.open(path) as tape:
        at = tape[12_345].offset
    raw[at + 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Exception, match=r"a\.tape: event 12345 at offset .* is damaged"):
        load(spark, path).agg({"price": "sum"}).collect()
    (tmp_path / "b.tape").write_text("something else that is no stream")
    with pytest.raises(Exception, match=r"b\.tape: not a stream"):
        load(spark, tmp_path / "*.tape")


# --------------------------------------------------------------------------------------------- streams


class Query:
    """A stream query whose batches are written as Parquet, as a job that is started again and again."""

    def __init__(self, spark: Any, path: Any, directory: Path, **options: Any) -> None:
        self.spark = spark
        self.path = path
        self.directory = directory
        self.options = options

    def run(self) -> list[int]:
        """Read what is there, end, and return the ordinals of all batches so far."""
        frame = self.spark.readStream.format("evtape").options(**self.options).load(str(self.path))
        query = (
            frame.writeStream.format("parquet")
            .option("path", str(self.directory / "out"))
            .option("checkpointLocation", str(self.directory / "checkpoint"))
            .trigger(availableNow=True)
            .start()
        )
        query.awaitTermination()
        self.batches = len(query.recentProgress)
        return self.found()

    def found(self) -> list[int]:
        return sorted(row.ordinal for row in self.spark.read.parquet(str(self.directory / "out")).collect())

    def offsets(self) -> list[dict[str, int]]:
        logs = sorted((self.directory / "checkpoint" / "offsets").glob("[0-9]*"), key=lambda file: int(file.name))
        return [json.loads(log.read_text().splitlines()[-1]) for log in logs]


@pytest.fixture
def live(tmp_path):
    with evtape.open(tmp_path / "live.tape", "w", schema="text") as tape:
        tape.append_many([b"%d" % number for number in range(100)])
        yield tape


def test_a_query_goes_on_where_its_checkpoint_is(spark, live, tmp_path):
    query = Query(spark, live.path, tmp_path)
    assert query.run() == list(range(100))
    key = f"{live.path}@{live.start_timestamp}"
    assert query.offsets()[-1] == {key: 100}
    live.append_many([b"%d" % number for number in range(100, 150)])
    assert query.run() == list(range(150))
    assert query.run() == list(range(150))
    assert query.offsets()[-1] == {key: 150}


def test_a_limit_of_one_batch(spark, live, tmp_path):
    query = Query(spark, live.path, tmp_path, maxEventsPerTrigger=30)
    assert query.run() == list(range(100))
    assert [next(iter(offset.values())) for offset in query.offsets()] == [30, 60, 90, 100]


def test_streams_that_come_later(spark, live, tmp_path):
    query = Query(spark, tmp_path / "*.tape", tmp_path)
    query.run()
    with evtape.open(tmp_path / "new.tape", "w", schema="text") as new:
        new.append_many([b"x"] * 7)
        assert query.run() == sorted([*range(100), *range(7)])
        assert sorted(query.offsets()[-1].values()) == [7, 100]


def test_latest(spark, live, tmp_path):
    query = Query(spark, live.path, tmp_path, startingOffsets="latest")
    frame = spark.readStream.format("evtape").option("startingOffsets", "latest").load(live.path)
    running = (
        frame.writeStream.format("parquet")
        .option("path", str(tmp_path / "out"))
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .start()
    )
    running.processAllAvailable()
    live.append_many([b"new"] * 5)
    running.processAllAvailable()
    running.stop()
    assert query.found() == list(range(100, 105))
    live.append(b"after")
    assert query.run() == list(range(100, 106))


def test_a_window_of_time(spark, tmp_path):
    (tmp_path / "w.tape").write_bytes(stream([(NS + at, b"x") for at in range(100)]))
    query = Query(spark, tmp_path / "w.tape", tmp_path, startingAt=NS + 10, endingBefore=NS + 20)
    assert query.run() == list(range(10, 20))


def test_a_stream_that_was_cut_or_replaced(spark, tmp_path):
    path = tmp_path / "c.tape"
    events = [(NS + at, b"x") for at in range(100)]
    path.write_bytes(stream(events))
    query = Query(spark, path, tmp_path)
    query.run()
    path.write_bytes(stream(events[:50]))
    with pytest.raises(Exception, match=r"c\.tape: the query has read 100 events, but the stream has 50 events"):
        query.run()
    path.write_bytes(stream(events, start=NS + 1))
    with pytest.raises(Exception, match=r"c\.tape: the query has read 100 events, but the stream is gone"):
        query.run()
    query.options["failOnDataLoss"] = "false"
    assert query.run() == sorted([*range(100), *range(100)])


def test_a_journal(spark, tmp_path):
    """Its segments are one table, and one stream of Spark's that goes on over rolls and deletions."""
    path = tmp_path / "j"

    def append(journal, low, high):
        journal.append_many([(i,) for i in range(low, high)], [NS + i for i in range(low, high)])
        journal.roll()

    with evtape.open_journal(path, "a", schema=[("n", "<i8")], keep_segments=3) as journal:
        append(journal, 0, 100)
        append(journal, 100, 250)
        frame = load(spark, path)
        assert frame.selectExpr("count(*)", "sum(ordinal)", "sum(n)").collect()[0] == (250, 31_125, 31_125)
        assert [row.n for row in frame.filter("ordinal in (99, 100)").orderBy("n").collect()] == [99, 100]
        query = Query(spark, path, tmp_path)
        assert query.run() == list(range(250))
        append(journal, 250, 300)  # the oldest segment may go: it was read
        journal.sync()  # closes what was rolled
        journal.prune()
        assert journal.first_ordinal == 100
        append(journal, 300, 310)
        assert query.run() == list(range(310))
        assert list(query.offsets()[-1]) == [f"{path}@journal"]
        assert query.offsets()[-1][f"{path}@journal"] == 310
        for low in range(310, 350, 10):
            append(journal, low, low + 10)
        journal.sync()  # closes what was rolled
        journal.prune()
        with pytest.raises(Exception, match=r"j: event 310 was deleted"):
            query.run()
        query.options["failOnDataLoss"] = "false"
        assert query.run() == [*range(310), *range(journal.first_ordinal, 350)]


def test_the_snippet_of_the_page(spark, tmp_path, monkeypatch):
    """What docs/engines.md shows, with the paths of this test."""
    from tests.docs.pages import ROOT, blocks

    if not (ROOT / "docs/engines.md").exists():
        pytest.skip("the tests were installed without the documents")
    (block,) = [block for block in blocks("docs/engines.md") if "readStream" in block.body and block.kind == "python"]
    rows = ticks(3000)
    write(evtape, tmp_path / "ticks-0.tape", rows, times(3000, 1_760_000_000_000_000_000))
    names: dict[str, Any] = {}
    exec(compile(block.body.replace("/data/", f"{tmp_path}/"), "docs/engines.md", "exec"), names)
    names["query"].processAllAvailable()
    names["query"].stop()
    assert spark.read.parquet(str(tmp_path / "ticks")).count() == 3000
    assert not os.path.exists("/data/checkpoint")
