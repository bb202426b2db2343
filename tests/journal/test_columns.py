"""What the payloads of a journal mean, and a journal as a table."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from tests.helpers import run_python

pa = pytest.importorskip("pyarrow")

TICK = np.dtype([("price", "<f8"), ("symbol", "S4")])
EVENTS = 500
ROLL = 2048


def _ticks(count=EVENTS):
    ticks = np.zeros(count, TICK)
    ticks["price"] = np.arange(count) / 4
    ticks["symbol"] = [b"s%d" % (i % 7) for i in range(count)]
    return ticks


def _journal(et, path, *, schema=TICK, count=EVENTS):
    with et.open_journal(path, "a", roll_bytes=ROLL, schema=schema) as journal:
        for tick in _ticks(count):
            journal.append(tick)
    return path


def _files(path):
    return sorted(name for name in os.listdir(path) if name.endswith(".tape"))


def _expected(ordinals):
    ticks = _ticks()[ordinals]
    return {
        "ordinal": list(ordinals),
        "price": ticks["price"].tolist(),
        "symbol": [symbol.decode() for symbol in ticks["symbol"].tolist()],
    }


# ------------------------------------------------------------------------------------------ schema


def test_values_go_in_and_come_out_over_segments(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "x", roll_bytes=ROLL, schema=[("price", "<f8"), ("symbol", "S4")]) as journal:
        for i in range(100):
            journal.append((i / 2, "ab"))
        journal.append_many([(1.0, "x"), {"price": 2.0, "symbol": "y"}])
        assert journal.schema == TICK
        assert journal[3].value["price"] == 1.5
        assert len(journal.segments) > 1
        with pytest.raises(et.SchemaError, match="does not fit"):
            journal.append("text")
    with et.open_journal(path, "a") as journal:  # the journal's own
        journal.append((7.0, "z"))
        assert journal[-1].value["symbol"] == b"z"
    with et.open(path) as journal:
        assert journal.schema == TICK
        assert journal.rows()["price"][-3:].tolist() == [1.0, 2.0, 7.0]
        assert journal[10:12].rows().dtype == TICK
        assert [event.value["price"] for event in journal.tail(2)] == [2.0, 7.0]
        assert [event.value["price"] for event in journal.follow(start=100, until=103)] == [1.0, 2.0, 7.0]
        copy = pickle.loads(pickle.dumps(journal))
        assert copy.schema == TICK
        copy.close()


@pytest.mark.parametrize(("schema", "value"), [("json", {"a": [1, None]}), ("text", "gruß")])
def test_json_and_text(et, tmp_path, schema, value):
    with et.open_journal(tmp_path / "j", "a", schema=schema) as journal:
        journal.append(value)
        assert journal.schema == schema
    with et.open(tmp_path / "j") as journal:
        assert journal[0].value == value


def test_a_segment_by_itself_has_the_schema_of_its_journal(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    seen = []
    for segment in et.open(path).segments:
        with et.open(segment.path) as tape:
            assert tape.schema == TICK
            seen += [event.value["price"] for event in tape]
    assert seen == _ticks()["price"].tolist()
    moved = tmp_path / _files(path)[0]
    os.rename(path / _files(path)[0], moved)
    assert et.open(moved).schema is None


def test_a_schema_that_is_given_when_reading_counts_more(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    halves = np.dtype([("low", "<u4"), ("high", "<u4"), ("rest", "V4")])
    with et.open(path, schema=halves) as journal:
        assert journal.schema == halves
        assert journal[4].value["high"] == 0x3FF00000
        copy = pickle.loads(pickle.dumps(journal[:5]))
        assert copy[4].value["high"] == 0x3FF00000
    for bytes_alone in (et.open(path, schema="bytes"), et.open_journal(path, schema="bytes")):
        assert bytes_alone.schema is None
        assert "payload" in pa.table(bytes_alone).column_names
        bytes_alone.close()


def test_another_schema_is_refused_before_anything_is_written(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    before = {name: os.stat(path / name).st_mtime_ns for name in os.listdir(path)}
    for other in ("json", [("price", "<f4")]):
        with pytest.raises(et.SchemaError, match=r"j: the stream has the schema dtype.*price"):
            et.open_journal(path, "a", schema=other)
    with pytest.raises(et.SchemaError, match="for reading"):
        et.open_journal(path, "a", schema="bytes")
    with pytest.raises(et.SchemaError, match="cannot be one"):
        et.open_journal(tmp_path / "new", "a", schema="<f8")
    assert not (tmp_path / "new").exists()
    assert {name: os.stat(path / name).st_mtime_ns for name in os.listdir(path)} == before
    with et.open_journal(path, "w", schema="json") as journal:  # a new journal
        assert journal.schema == "json"


def test_a_schema_can_be_declared_later(et, tmp_path):
    path = _journal(et, tmp_path / "j", schema=None)
    with et.open(path) as reader:
        assert reader.schema is None
    with et.open_journal(path, "a", schema=TICK, roll_bytes=ROLL) as journal:
        assert journal.schema == TICK
        assert journal[4].value["price"] == 1.0
    with et.open(path) as reader:
        assert reader[4].value["price"] == 1.0


def test_lost_settings_lose_the_meaning_and_no_data(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    os.unlink(path / "journal.json")
    with et.open(path) as journal:
        assert journal.schema is None
        assert len(journal) == EVENTS
        assert journal.rows(TICK)["price"][-1] == _ticks()["price"][-1]
    with et.open_journal(path, "a", schema=TICK) as journal:
        assert journal.schema == TICK


@pytest.mark.parametrize("harm", ["flip", "form", "cut", "version"])
def test_damaged_settings_are_an_error_where_a_value_is_asked_for(et, tmp_path, harm):
    path = _journal(et, tmp_path / "j")
    file = path / "journal.json"
    text = file.read_bytes()
    if harm == "flip":
        text = text.replace(b'"offset": 8', b'"offset": 9')
    elif harm == "cut":
        text = text[:-20]
    elif harm == "version":
        text = text.replace(b'"version": 1', b'"version": 7')
    else:
        from evtape.system import settings_file

        known = json.loads(text)
        for name in ("version", "checksum"):
            known.pop(name)
        settings_file.store(str(file), known | {"schema": {"fields": 3}}, durable=False)
        text = file.read_bytes()
    file.write_bytes(text)
    with et.open(path) as journal:
        assert journal[3].data is not None
        for ask in (lambda: journal.schema, lambda: journal[3].value, lambda: pa.table(journal), journal.rows):
            with pytest.raises(et.SchemaError, match=r"journal\.json: the schema of the stream is damaged"):
                ask()
    with et.open(path, schema=TICK) as journal:
        assert journal[4].value["price"] == 1.0


# ------------------------------------------------------------------------------------------- table


def test_a_journal_is_a_table(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    assert len(_files(path)) > 5
    with et.open(path) as journal:
        table = pa.table(journal)
        assert table.column_names == ["ordinal", "time", "price", "symbol"]
        assert table.drop_columns(["time"]).to_pydict() == _expected(range(EVENTS))
        assert table["time"].cast("int64").to_pylist() == journal.timestamps.tolist()
        assert pa.schema(journal) == table.schema == pa.schema(journal[:10])
        assert journal.to_arrow(["price"]).column_names == ["price"]
        assert journal.to_polars()["price"].sum() == _ticks()["price"].sum()
    assert pa.table(table)["price"].to_pylist() == _ticks()["price"].tolist()  # after the close


@pytest.mark.parametrize(
    "key", [slice(60, 70), slice(3, 400, 7), slice(None, None, -1), slice(10, 10), [499, 0, 77, 76]]
)
def test_a_part_of_a_journal_is_a_table(et, tmp_path, key):
    path = _journal(et, tmp_path / "j")
    with et.open(path) as journal:
        ordinals = key if isinstance(key, list) else range(EVENTS)[key]
        assert pa.table(journal[key].arrow(["ordinal", "price", "symbol"])).to_pydict() == _expected(ordinals)


def test_ordinals_are_the_journals_after_a_deletion(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    with et.open_journal(path, "a") as journal:
        reader = et.open(path)
        everything = reader[:]
        first = journal.segments[2].ordinals[0]
        for name in _files(path)[:2]:
            os.unlink(path / name)
        assert pa.table(journal)["ordinal"].to_pylist() == list(range(first, EVENTS))
        with et.open(path) as late:
            assert pa.table(late)["ordinal"].to_pylist() == list(range(first, EVENTS))
            with pytest.raises(et.ExpiredError, match=r"event 0 was deleted"):
                pa.table(pickle.loads(pickle.dumps(everything)))
    reader.close()


def test_damage_in_a_segment_is_the_error_of_the_stream(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    name = _files(path)[3]
    data = bytearray((path / name).read_bytes())
    data[70] ^= 1  # in the payload of its second event
    (path / name).write_bytes(data)
    first = int(name[:20])
    with et.open(path) as journal:
        stream = pa.RecordBatchReader.from_stream(journal)
        assert sum(stream.read_next_batch().num_rows for _ in _files(path)[:3]) == first
        with pytest.raises(OSError, match=f"{name}: event {first + 1} at offset"):
            stream.read_next_batch()
        with pytest.raises(OSError, match=name):  # it stays
            stream.read_next_batch()
    os.unlink(path / name)
    with et.open(path) as journal, pytest.raises(OSError, match=rf"the events {first} to \d+ are missing"):
        pa.table(journal)


def test_many_segments_are_not_open_at_once(et, core, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=64, durability="none", schema=[("n", "<i8")]) as journal:
        for i in range(400):
            journal.append((i,))
    out = run_python(
        core,
        "import os, resource, sys, evtape, pyarrow as pa\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        "journal = evtape.open(sys.argv[1])\n"
        "print(sum(pa.table(journal)['n'].to_pylist()), len(journal.segments))\n",
        path,
    )
    total, segments = map(int, out.split())
    assert total == sum(range(400))
    assert segments > 100


def test_misfits_and_tables_into_a_journal(et, tmp_path):
    path = _journal(et, tmp_path / "j", count=100)
    with et.open_journal(path, "a") as journal:
        table = pa.table({"price": [1.0, 2.0], "symbol": ["a", "b"]})
        assert journal.append_arrow(table, time=None) == range(100, 102)
        assert journal[101].value["symbol"] == b"b"
    with et.open(path, schema="bytes") as plain, et.open_journal(tmp_path / "k", "a", roll_bytes=ROLL) as other:
        other.append_arrow(plain)
        other.append(b"odd")
        assert len(other.segments) > 1
    with et.open(tmp_path / "k", schema=TICK) as journal:
        with pytest.raises((OSError, ValueError), match="event 102 at offset"):
            pa.table(journal)
        assert journal.to_arrow(["price"], errors="null")["price"].to_pylist()[-2:] == [2.0, None]


# ----------------------------------------------------------------------------------------- engines


def test_partitions_lie_in_segments(et, tmp_path):
    path = _journal(et, tmp_path / "j")
    parts = et.partitions(path)
    assert len(parts) == len(_files(path))
    seen = []
    for part in pickle.loads(pickle.dumps(parts)):
        with part.open() as events:
            assert len(events) == len(part)
            seen += [event.ordinal for event in events]
            assert events[0].ordinal == part.first_ordinal + part.start
            assert events[0].value["price"] == _ticks()["price"][part.first_ordinal]
    assert seen == list(range(EVENTS))
    with et.open(path) as journal:
        low, high = int(journal.timestamps[100]), int(journal.timestamps[300])
        expected = journal.between(starting_at=low, ending_before=high).ordinals
    found = et.partitions(path, events=20, starting_at=low, ending_before=high)
    assert max(map(len, found)) <= 20
    assert sum(map(len, found)) == len(expected)
    os.unlink(path / _files(path)[0])
    with pytest.raises(FileNotFoundError), parts[0].open():
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsADirectoryError, match="not a journal"):
        et.partitions(tmp_path / "empty")


def test_polars_and_duckdb_scan_a_journal(et, tmp_path):
    pl = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    from evtape.integrations.duckdb import dataset

    path = _journal(et, tmp_path / "j")
    frame = et.scan(path)
    assert frame.select(pl.col("ordinal")).collect()["ordinal"].to_list() == list(range(EVENTS))
    assert frame.filter(pl.col("ordinal") == 321).collect()["price"].to_list() == [321 / 4]
    ticks = dataset(path)  # noqa: F841 - DuckDB finds it by its name
    found = duckdb.sql("select count(*), sum(price) from ticks where ordinal >= 400").fetchall()
    assert found == [(100, _ticks()["price"][400:].sum())]
    with et.open_journal(path, "a") as journal:  # a query sees what is there when it runs, also after rolls
        before = len(journal.segments)
        for tick in _ticks():
            journal.append(tick)
        assert len(journal.segments) > before
        assert frame.select(pl.len()).collect().item() == 2 * EVENTS
        assert duckdb.sql("select max(ordinal) from ticks").fetchall() == [(2 * EVENTS - 1,)]
