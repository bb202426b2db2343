"""Events as Arrow tables, with the libraries that read them."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import threading
import tracemalloc

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.helpers import NS, open_descriptors, sample, stream
from tests.stream.test_schema import dtypes

pa = pytest.importorskip("pyarrow")

BATCH = 65_536
TICK = np.dtype([("price", "<f8"), ("qty", "<i4"), ("symbol", "S14"), ("at", "<M8[us]"), ("live", "?")])


def table(of, **options):
    """What pyarrow reads, checked whole."""
    result = pa.table(of, **options)
    result.validate(full=True)
    return result


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(200)))
    return str(path)


def ticks(count):
    rows = np.zeros(count, TICK)
    rows["price"] = np.arange(count) / 2
    rows["qty"] = np.arange(count) % 7
    rows["symbol"] = np.array([b"A", b"LONGER-NAME-14", b""])[np.arange(count) % 3]
    rows["at"] = np.arange(count).astype("M8[us]")
    rows["live"] = np.arange(count) % 2 == 0
    return rows


@pytest.fixture
def tick_path(et, tmp_path):
    path = str(tmp_path / "ticks.tape")
    with et.open(path, "w", schema=TICK) as tape:
        tape.append_array(ticks(1000), NS + np.arange(1000))
    return path


# -------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("mode", ["r", "a"])
def test_the_table_of_a_stream(et, path, mode):
    with et.open(path, mode) as tape:
        found = table(tape)
        assert found.schema == pa.schema(
            [
                pa.field("ordinal", pa.int64(), False),
                pa.field("time", pa.timestamp("ns", "UTC"), False),
                pa.field("payload", pa.binary_view(), False),
            ]
        )
        assert pa.schema(tape) == pa.schema(tape[3:5]) == found.schema
        assert found["ordinal"].to_pylist() == list(range(200))
        assert found["time"].cast(pa.int64()).to_pylist() == tape.timestamps.tolist()
        assert found["payload"].to_pylist() == [event.bytes for event in tape]


@pytest.mark.parametrize(
    "key",
    [slice(None), slice(5, 9), slice(None, None, 3), slice(None, None, -1), slice(150, 20, -7), slice(9, 5), slice(0)],
)
def test_the_table_of_a_slice(et, path, key):
    with et.open(path) as tape:
        found = table(tape[key])
        assert found["ordinal"].to_pylist() == list(range(200))[key]
        assert found["payload"].to_pylist() == [event.bytes for event in tape[key]]


def test_the_table_of_events_that_are_not_in_a_row(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i * 7919 % 100, bytes([i]) * i) for i in range(100)]))
    with et.open(path) as tape:
        part = tape.between(starting_at=NS + 30, ending_before=NS + 60)
        assert not isinstance(part.ordinals, range)
        found = table(part)
        assert found["ordinal"].to_pylist() == part.ordinals.tolist()
        assert found["payload"].to_pylist() == [event.bytes for event in part]


def test_a_stream_without_events(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", schema=TICK) as tape:
        assert table(tape).num_rows == 0
        assert table(tape).column_names == ["ordinal", "time", *TICK.names]
        assert table(tape[:]).num_rows == table(tape[::2]).num_rows == 0


def test_an_event_of_zeros(et, tmp_path):
    (tmp_path / "t.tape").write_bytes(stream([(NS, b"a"), (0, b""), (NS, b"b")]))
    with et.open(tmp_path / "t.tape") as tape:
        for of in (tape, tape[::-1]):
            assert sorted(table(of)["payload"].to_pylist()) == [b"", b"a", b"b"]
        reader = pa.RecordBatchReader.from_stream(tape)
    assert reader.read_all().num_rows == 3  # the tape is closed


def test_a_structured_schema(et, tick_path):
    rows = ticks(1000)
    with et.open(tick_path) as tape:
        found = table(tape)
        types = [pa.float64(), pa.int32(), pa.string_view(), pa.timestamp("us", "UTC"), pa.bool_()]
        assert found.schema.types[2:] == types
        assert found.column_names == ["ordinal", "time", *TICK.names]
        for name in ("price", "qty", "live"):
            assert (found[name].to_numpy() == rows[name]).all()
        assert found["symbol"].to_pylist() == [value.decode() for value in rows["symbol"].tolist()]
        assert found["at"].cast(pa.int64()).to_pylist() == list(range(1000))
        assert table(tape[::-2])["qty"].to_pylist() == rows["qty"][::-2].tolist()
        assert tape.to_arrow(["qty", "time"]).column_names == ["qty", "time"]
        assert tape.to_arrow("qty")["qty"].to_pylist() == rows["qty"].tolist()
        assert tape[5:7].to_arrow([]).num_columns == 0


@pytest.mark.parametrize("schema", ["json", "text"])
def test_text(et, tmp_path, schema):
    texts = ['"a"', '"grün, und länger als zwölf"', '"日本語のテキスト"', '"🐌🐌🐌🐌"', "1"]
    with et.open(tmp_path / "t.tape", "w", schema=schema) as tape:
        tape.append_many([text.encode() for text in texts])
        found = table(tape)
        assert found.schema.field("payload").type == pa.string_view()
        assert found["payload"].to_pylist() == texts


def test_a_field_keeps_its_name(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", schema=[("time", "<i8"), ("ordinal", "<i2"), ("event_time", "<f8")]) as tape:
        tape.append((5, 6, 7.5), NS)
        found = table(tape)
        assert found.column_names == ["event_ordinal", "event_event_time", "time", "ordinal", "event_time"]
        assert found.to_pylist()[0]["time"] == 5
        with et.open(tmp_path / "u.tape", "w", schema=tape.schema) as other:
            other.append_arrow(tape)
            assert (other.rows().tolist(), other.timestamps.tolist()) == ([(5, 6, 7.5)], [NS])


def test_a_stream_that_grows_is_a_snapshot(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape, et.open(tmp_path / "t.tape") as reader:
        tape.append(b"one")
        streams = [pa.RecordBatchReader.from_stream(of) for of in (tape, reader)]
        for _ in range(50):
            tape.append(bytes(1 << 16))
        assert [stream.read_all().num_rows for stream in streams] == [1, 1]
        assert table(tape).num_rows == table(reader).num_rows == 51


def test_batches_are_made_when_they_are_asked_for(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="none") as tape:
        tape.append_many([b""] * (2 * BATCH + 1), np.arange(1, 2 * BATCH + 2))
        reader = pa.RecordBatchReader.from_stream(tape)
        assert [batch.num_rows for batch in reader] == [BATCH, BATCH, 1]
        many = tape[::-1].to_arrow()
        assert many["ordinal"].to_pylist() == list(range(2 * BATCH, -1, -1))


# ------------------------------------------------------------------------------- any dtype, any payload


def expected(values):
    """What `to_pylist` has for an array of a dtype, fields by name, NaN as a text."""
    if values.ndim > 1:
        return [expected(value) for value in values]
    if values.dtype.names is not None:
        columns = {name: expected(values[name]) for name in values.dtype.names}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if values.dtype.kind in "mM":
        return [None if np.isnat(value) else int(value.astype(np.int64)) for value in values]
    if values.dtype.kind == "S":
        return [value.decode() for value in values.tolist()]
    return [str(value) if value != value else value for value in values.tolist()]


def found_in(column):
    kind = column.type
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: found_in(column.field(i)) for i in range(kind.num_fields)}
        return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    if pa.types.is_fixed_size_list(kind):
        flat = found_in(column.flatten())
        return [flat[i : i + kind.list_size] for i in range(0, len(flat), kind.list_size)]
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return column.cast(pa.int64()).to_pylist()
    if pa.types.is_date32(kind):
        return column.cast(pa.int32()).to_pylist()
    return [str(value) if value != value else value for value in column.to_pylist()]


def has_arrow_types(dtype):
    if dtype.subdtype:
        return has_arrow_types(dtype.base)
    if dtype.names:
        return all(has_arrow_types(dtype[name]) for name in dtype.names)
    return dtype.kind != "c"


def clean(rows):
    """Dates within int32, and ASCII in fields of bytes."""
    for name in rows.dtype.names:
        field = rows[name]
        if field.dtype.names:
            clean(field)
        elif field.dtype == np.dtype("M8[D]"):
            rows[name] = (field.view(np.int64) % 2**31).view("M8[D]")
        elif field.dtype.kind == "S":
            raw = np.frombuffer(field.tobytes(), np.uint8) % 128
            rows[name] = np.frombuffer(raw.tobytes(), field.dtype).reshape(field.shape)


@hypothesis.given(data=st.data(), dtype=dtypes().filter(has_arrow_types), step=st.sampled_from([1, 2, -1]))
def test_any_dtype(et, tmp_path_factory, data, dtype, step):
    rows = data.draw(npst.arrays(dtype, st.integers(0, 5)))
    clean(rows)
    with et.open(tmp_path_factory.mktemp("any") / "t.tape", "w", schema=dtype, durability="none") as tape:
        tape.append_array(rows)
        found = table(tape[::step]).combine_chunks()
        for name in dtype.names:
            column = found[name]
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
            assert found_in(column) == expected(rows[name][::step])


@hypothesis.given(
    payloads=st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode))),
    schema=st.sampled_from([None, "text", "json"]),
    step=st.sampled_from([1, 3, -1]),
)
def test_any_payload(et, tmp_path_factory, payloads, schema, step):
    path = tmp_path_factory.mktemp("any") / "t.tape"
    path.write_bytes(stream([(NS, payload) for payload in payloads]))

    def value(payload):
        try:
            return payload if schema is None else payload.decode()
        except UnicodeDecodeError:
            return None

    values = [value(payload) for payload in payloads]
    with et.open(path, schema=schema) as tape:
        assert tape[::step].to_arrow(errors="null")["payload"].to_pylist() == values[::step]
        if None not in values:
            assert table(tape[::step])["payload"].to_pylist() == values[::step]
        else:
            with pytest.raises(pa.ArrowInvalid, match=f"event {values.index(None)} at offset .* not text"):
                table(tape)


def test_both_cores_make_the_same_table(both, tmp_path):
    path = str(tmp_path / "t.tape")
    dtype = np.dtype(
        [("a", "<U5"), ("b", "S20"), ("c", ">i4", (2,)), ("d", "<M8[ns]"), ("e", [("x", "?"), ("y", "V3")])]
    )
    rows = np.zeros(5, dtype)
    rows["a"] = ["", "é", "日本語", "🐌🐌🐌🐌🐌", "abcde"]
    rows["b"] = [b"", b"short", b"exactly twelv", b"longer than twelve", b"\xff"]
    rows["c"], rows["e"]["y"] = np.arange(10).reshape(5, 2), b"abc"
    rows["d"][1:] = np.arange(4).astype("M8[ns]")
    rows["d"][0] = "NaT"
    with both[0].open(path, "w", schema=dtype) as tape:
        tape.append_array(rows, np.arange(1, 6))
        tape.append_many([rows[:1].tobytes()])
    tables = []
    for et in both:
        with et.open(path) as tape:
            tables.append(tape.to_arrow(errors="null"))
            with pytest.raises(
                pa.ArrowInvalid, match=r"event 4 at offset \d+ has bytes in 'b' that are not text"
            ) as caught:
                table(tape)
            tables.append(str(caught.value))
    assert tables[0] == tables[2]
    assert tables[1] in tables[3]  # to which pyarrow adds its own
    assert tables[0]["b"].null_count == 1


# ------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    ("name", "text"),
    [("c", "complex64"), ("h", r"datetime64\[h\]"), ("s", r"timedelta64\[D\]"), ("t", r"timedelta64\[10ns\]")],
)
def test_a_field_that_arrow_has_no_type_for(et, tmp_path, name, text):
    dtype = [("a", "<i4"), ("c", "<c8"), ("h", "<M8[h]"), ("s", "<m8[D]"), ("t", "<m8[10ns]")]
    dtype = [field for field in dtype if field[0] in ("a", name)]
    with et.open(tmp_path / "t.tape", "w", schema=dtype) as tape:
        tape.append_array(np.zeros(2, dtype))
        with pytest.raises(
            et.SchemaError, match=rf"t\.tape: field '{name}' is of the dtype {text}.*leave it out with columns="
        ):
            tape.to_arrow()
        assert tape.to_arrow(["a"])["a"].to_pylist() == [0, 0]


def test_payloads_of_other_sizes(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, bytes(4 + (i in (3, 7)))) for i in range(10)]))
    with (
        et.open(path, schema=[("a", "<i4"), ("b", "<i2")]) as tape,
        pytest.raises(pa.ArrowInvalid, match="event 0 at offset 24 does not have the 6 bytes of its schema"),
    ):
        tape.to_arrow()
    with et.open(path, schema=[("a", "<i2"), ("b", "S2")]) as tape:
        with pytest.raises(
            pa.ArrowInvalid, match=r"t\.tape: event 3 at offset 84 does not have the 4 bytes of its schema"
        ):
            tape.to_arrow()
        assert tape.to_arrow("time").num_rows == 10  # which asks for no payload
        nulls = [None if i in (3, 7) else 0 for i in range(10)]
        found = tape.to_arrow(errors="null")
        found.validate(full=True)
        assert found["a"].to_pylist() == nulls
        assert found["ordinal"].to_pylist() == list(range(10))
        assert found["b"].to_pylist() == [None if value is None else "" for value in nulls]


def test_a_date_outside_of_int32(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", schema=[("d", "<M8[D]")]) as tape:
        tape.append_array(np.array([0, 2**31, -(2**63), -5], np.int64).view([("d", "M8[D]")]))
        with pytest.raises(
            pa.ArrowInvalid, match="event 1 at offset 48 has a date in 'd' that is outside of int32 days"
        ):
            tape.to_arrow()
        assert tape.to_arrow(errors="null")["d"].cast(pa.int32()).to_pylist() == [0, None, None, -5]


@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0x110000, 0xFFFFFFFF])
def test_wide_text_that_is_none(et, tmp_path, code):
    rows = np.array([[ord("a"), 0, 0], [ord("a"), code, 0]], "<u4")
    with et.open(tmp_path / "t.tape", "w", schema=[("u", "<U3")]) as tape:
        tape.append_array(rows)
        with pytest.raises(pa.ArrowInvalid, match="event 1 at offset 52 has bytes in 'u' that are not text"):
            tape.to_arrow()
        assert tape.to_arrow(errors="null")["u"].to_pylist() == ["a", None]


@pytest.mark.parametrize(
    "text",
    [
        b"\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xe2\x82",
        b"\xc3",
        b"abcdefgh\xffabcdefgh",
        b"ab\xe2\x28\xa1",
    ],
)
def test_text_that_is_none(et, tmp_path, text):
    (tmp_path / "t.tape").write_bytes(stream([(NS, b"ok"), (NS, text)]))
    with et.open(tmp_path / "t.tape", schema="text") as tape:
        with pytest.raises(pa.ArrowInvalid, match="event 1 at offset 42 has bytes in 'payload' that are not text"):
            tape.to_arrow()
        assert tape.to_arrow(errors="null")["payload"].to_pylist() == ["ok", None]


def test_wrong_arguments(et, path, tick_path):
    with et.open(tick_path) as tape:
        with pytest.raises(et.SchemaError, match="there is no column 'prize'; there are 'ordinal', 'time', 'price'"):
            tape.to_arrow(["prize"])
        with pytest.raises(ValueError, match="a column is named twice"):
            tape.to_arrow(["qty", "qty"])
        with pytest.raises(ValueError, match="errors must be 'raise' or 'null', not 'ignore'"):
            tape.to_arrow(errors="ignore")
    for ask in (tape.to_arrow, tape.__arrow_c_stream__):
        with pytest.raises(et.ClosedError):
            ask()


# ------------------------------------------------------------------------------------ damage, and cuts


@pytest.mark.parametrize("schema", [None, "text", [("a", "S299")]])
def test_damage(et, tmp_path, schema):
    raw = bytearray(stream([(NS + i, b"x" * 299) for i in range(50)]))
    raw[24 + 20 * 315 + 100] ^= 1
    (tmp_path / "t.tape").write_bytes(raw)
    text = r"t\.tape: event 20 at offset 6324 is damaged \(checksum\)"
    with et.open(tmp_path / "t.tape", schema=schema) as tape:
        for of in (tape, tape[::-1]):
            with pytest.raises(OSError, match=text):
                table(of)
        assert tape[:20].to_arrow().num_rows == 20
        assert tape.to_arrow(["time"]).num_rows == 50
        reader = pa.RecordBatchReader.from_stream(tape)
    with pytest.raises(OSError, match=text):  # also when the tape is closed
        reader.read_all()
    with et.open(tmp_path / "t.tape", schema=schema, verify_checksums=False) as tape:
        assert table(tape).num_rows == 50


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
@pytest.mark.parametrize("to", [0, 24, 5000, 100_000])
def test_a_file_that_is_cut(et, tmp_path, to):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, b"x" * 1000) for i in range(3 * BATCH // 64)]))
    with et.open(path, schema="text") as tape:
        for key in (slice(None), slice(None, None, -1)):
            before = table(tape[:10])
            reader = pa.RecordBatchReader.from_stream(tape[key])
            raw = path.read_bytes()
            os.truncate(path, to)
            with pytest.raises(OSError, match=r"t\.tape: .*(truncated|changed|has \d+ bytes)"):
                reader.read_all()
            payloads = before["payload"].to_pylist()  # the bytes, or zeros, and no crash
            assert all(set(payload) <= {"x", "\0"} for payload in payloads)
            with open(path, "r+b") as file:
                file.write(raw)
            break


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
@pytest.mark.parametrize("inside", [4, 8, 12, 20])
def test_a_file_that_is_cut_within_an_entry(et, tmp_path, inside):
    """A size of zeros is the cut, and not an event that the schema does not fit."""
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS + i, b"x" * 1000) for i in range(100)]))
    with et.open(path, schema=np.dtype([("s", "S1000")])) as tape:
        reader = pa.RecordBatchReader.from_stream(tape)
        os.truncate(path, tape[70].offset + inside)
        with pytest.raises((OSError, pa.ArrowInvalid), match=r"t\.tape: .*(truncated|has \d+ bytes)"):
            reader.read_all()


@pytest.mark.skipif(os.name == "nt", reason="a mapped file cannot be cut there")
def test_a_stream_that_is_cut_and_written_again(et, tmp_path):
    path = tmp_path / "t.tape"
    events = [(NS + i, b"x" * 64) for i in range(2 * BATCH)]
    path.write_bytes(stream(events))
    with et.open(path) as tape:
        reader = pa.RecordBatchReader.from_stream(tape)
        assert reader.read_next_batch().num_rows == BATCH
        with open(path, "r+b") as file:
            file.write(stream([(NS + i, b"y" * 64) for i in range(2 * BATCH)]))
        with pytest.raises(OSError, match=r"t\.tape: published bytes below WriteOffset \d+ changed"):
            reader.read_next_batch()
        with pytest.raises(OSError, match="changed"):  # it stays so
            reader.read_next_batch()


def test_a_stream_that_is_replaced(et, path):
    with et.open(path) as tape:
        reader = pa.RecordBatchReader.from_stream(tape)
        et.open(path, "w").close()
        assert reader.read_all().num_rows == 200


# ----------------------------------------------------------------------------------------- lifetime


def test_a_table_outlives_everything(et, tick_path):
    with et.open(tick_path) as tape:
        found, reader = table(tape), pa.RecordBatchReader.from_stream(tape[::3])
    del tape
    gc.collect()
    assert found["symbol"].to_pylist()[:3] == ["A", "LONGER-NAME-14", ""]
    column = found["symbol"]
    del found
    gc.collect()
    assert column.to_pylist()[1] == "LONGER-NAME-14"
    assert reader.read_all().num_rows == 334


def test_a_table_of_a_writer_outlives_it(et, tmp_path):
    tape = et.open(tmp_path / "t.tape", "w")
    tape.append_many([b"x" * 100] * 10)
    found = table(tape)
    for _ in range(100):
        tape.append(bytes(1 << 16))
    tape.close()
    del tape
    gc.collect()
    assert found["payload"].to_pylist() == [b"x" * 100] * 10


def test_capsules_that_are_not_used(et, tick_path):
    with et.open(tick_path) as tape:
        for _ in range(200):
            tape.__arrow_c_stream__()
            tape.__arrow_c_schema__()
            pa.RecordBatchReader.from_stream(tape)
        reader = pa.RecordBatchReader.from_stream(tape)
        capsule = tape.__arrow_c_stream__()
        pa.RecordBatchReader._import_from_c_capsule(capsule)
        with pytest.raises(pa.ArrowInvalid):  # a stream is consumed once
            pa.RecordBatchReader._import_from_c_capsule(capsule)
        assert reader.read_all().num_rows == 1000


def _mappings(path):
    with open("/proc/self/maps") as file:
        return sum(path in line for line in file)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_leaks(et, tick_path):
    descriptors, before = open_descriptors(), _mappings(tick_path)
    tracemalloc.start()
    try:
        for turn in range(30):
            with et.open(tick_path) as tape:
                for of in (tape, tape[::2]):
                    pa.table(of)
                    next(iter(pa.RecordBatchReader.from_stream(of)))
                    of.__arrow_c_stream__()
            if turn == 9:
                gc.collect()
                kept = tracemalloc.get_traced_memory()[0]
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - kept < 200_000
    finally:
        tracemalloc.stop()
    assert _mappings(tick_path) == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_mapping_goes_with_the_last_array(et, core, tick_path):
    if core != "native":
        pytest.skip("the pure core has no mapping of what it reads")
    with et.open(tick_path) as tape:
        column = table(tape)["symbol"]
    gc.collect()
    assert _mappings(tick_path) == 1
    del column
    gc.collect()
    assert _mappings(tick_path) == 0


def test_children_may_be_released_alone(et, tick_path):
    with et.open(tick_path) as tape:
        reader = pa.RecordBatchReader.from_stream(tape)
        columns = reader.read_next_batch().columns
        del reader
    symbol = columns[4]
    del columns
    gc.collect()
    assert symbol.to_pylist()[1] == "LONGER-NAME-14"


def test_many_threads(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w", schema=TICK) as tape, et.open(path) as reader:
        tape.append_array(ticks(1000))
        wrong = []

        def read():
            for _ in range(20):
                found = table(reader)
                total = len(found) * (len(found) - 1) / 4
                if abs(found["price"].to_numpy().sum() - total) > 1e-6:
                    wrong.append(found)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for start in range(1000, 20_000, 1000):
            tape.append_array(ticks(start + 1000)[start:])
        for thread in threads:
            thread.join()
        assert not wrong


FORKED = """
import os, sys, numpy as np, evtape, pyarrow as pa
with evtape.open(sys.argv[1]) as tape:
    reader = pa.RecordBatchReader.from_stream(tape)
    table = pa.table(tape)
    child = os.fork()
    rows = reader.read_all().num_rows + pa.table(tape).num_rows
    names = set(table["symbol"].to_pylist())
    assert (rows, names) == (2000, {"A", "LONGER-NAME-14", ""}), (rows, names)
    if child == 0:
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
# At the end of the process the table is still there, and the stream of another was never read.
kept = pa.RecordBatchReader.from_stream(evtape.open(sys.argv[1]))
print("good")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_and_the_end_of_the_process(core, tick_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, tick_path],
        env={**os.environ, "EVTAPE_BACKEND": core},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


# --------------------------------------------------------------------------------------- no copy


def test_payloads_are_the_mapping(et, core, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_many([b"x" * 100, b"short", b"y" * 100])
        column = table(tape)["payload"].chunk(0)
        view = tape._source.region.view(0, 24)
        base = np.frombuffer(view, np.uint8).ctypes.data
        data = column.buffers()[2]
        if core == "native":
            assert data.address == base + 24
            assert data.size == 3 * 16 + 205
        else:
            assert not base <= data.address < base + 500


MEMORY = """
import resource, sys, evtape, pyarrow as pa
def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        rows = dict(line.split(":") for line in file if ":" in line)
    return int(rows["Anonymous"].split()[0])
with evtape.open(sys.argv[1]) as tape:
    len(tape)
    pa.table(tape[:1])
    before = anonymous()
    table = pa.table(tape)
    print(anonymous() - before, pa.total_allocated_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_payloads(core, et, tmp_path):
    if core != "native":
        pytest.skip("the pure core copies")
    path = str(tmp_path / "t.tape")
    with et.open(path, "w", durability="none") as tape:
        for _ in range(64):
            tape.append_many([bytes(65_536 - 16)] * 16)
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, timeout=60, check=True)
    anonymous, allocated = map(int, done.stdout.split())
    assert os.path.getsize(path) == 64 << 20 | 24
    assert anonymous < 4096  # KiB, of 64 MiB
    assert allocated == 0


def test_only_what_is_asked_for_is_gathered(et, core, tmp_path):
    dtype = np.dtype([(f"f{i}", "<f8") for i in range(20)])
    with et.open(tmp_path / "t.tape", "w", schema=dtype) as tape:
        tape.append_array(np.zeros(1000, dtype))
        batch = pa.RecordBatchReader.from_stream(tape.arrow(["f7"])).read_next_batch()
        assert batch.num_columns == 1
        assert batch.nbytes == 8000


# ------------------------------------------------------------------------------------ requested schemas


def test_a_requested_schema_chooses(et, path, tick_path):
    with et.open(tick_path) as tape:
        wanted = pa.schema([("qty", pa.int32()), ("symbol", pa.string_view())])
        found = pa.RecordBatchReader.from_stream(tape, schema=wanted)
        assert found.schema == wanted
        assert found.read_all()["qty"].to_pylist() == ticks(1000)["qty"].tolist()
        with pytest.raises(et.SchemaError, match="there is no column 'other'"):
            tape.__arrow_c_stream__(pa.schema([("other", pa.int8())]).__arrow_c_schema__())
    with et.open(path, schema="text") as tape:
        capsule = tape[:9].__arrow_c_stream__(pa.schema([("payload", pa.binary())]).__arrow_c_schema__())
        found = pa.RecordBatchReader._import_from_c_capsule(capsule)
        assert found.schema.field("payload").type == pa.binary_view()
        assert found.read_all()["payload"].to_pylist() == [event.bytes for event in tape[:9]]


# ----------------------------------------------------------------------------------- libraries


def test_polars(et, path, tick_path):
    pl = pytest.importorskip("polars")
    with et.open(tick_path) as tape:
        frame = pl.DataFrame(tape)
        assert frame.equals(tape.to_polars())
        assert frame.columns == ["ordinal", "time", *TICK.names]
        totals = frame.group_by("symbol").agg(pl.col("qty").sum()).sort("symbol")
        rows = ticks(1000)
        assert totals["qty"].to_list() == [
            int(rows["qty"][rows["symbol"] == s].sum()) for s in (b"", b"A", b"LONGER-NAME-14")
        ]
        assert pl.DataFrame(tape[5:7])["price"].to_list() == [2.5, 3.0]
        assert tape[::-1].to_polars("price")["price"][0] == 499.5
    with et.open(path) as tape:
        assert pl.DataFrame(tape)["payload"].to_list() == [event.bytes for event in tape]
        frame = pl.DataFrame(tape[:0])
        assert (frame.height, frame.columns) == (0, ["ordinal", "time", "payload"])


def test_duckdb(et, path, tick_path):
    duckdb = pytest.importorskip("duckdb")
    rows = ticks(1000)
    with et.open(tick_path) as tape, duckdb.connect() as connection:
        for _ in range(3):
            query = "select symbol, sum(qty), max(price) from tape group by symbol order by symbol"
            found = connection.sql(query).fetchall()
            assert found == [
                (
                    s.decode(),
                    int(rows["qty"][rows["symbol"] == s].sum()),
                    float(rows["price"][rows["symbol"] == s].max()),
                )
                for s in (b"", b"A", b"LONGER-NAME-14")
            ]
        part = tape.arrow(["qty"])
        assert hasattr(part, "__arrow_c_stream__")  # DuckDB finds it by its name
        assert connection.sql("select count(*), sum(qty) from part").fetchall() == [(1000, int(rows["qty"].sum()))]
    with et.open(path) as tape, duckdb.connect() as connection:
        found = connection.sql("select sum(octet_length(payload)), count(*) from tape").fetchall()
        assert found == [(int(tape.sizes.sum()), 200)]


def test_pandas(et, tick_path):
    pd = pytest.importorskip("pandas", minversion="3")
    with et.open(tick_path) as tape:
        frame = pd.DataFrame.from_arrow(tape)
        assert frame.equals(tape.to_pandas())
        assert frame["price"].tolist() == ticks(1000)["price"].tolist()
        assert str(frame["time"].dtype) == "datetime64[ns, UTC]"


def test_nanoarrow(et, path, tick_path):
    na = pytest.importorskip("nanoarrow")
    with et.open(tick_path) as tape:
        assert [field.name for field in na.Schema(tape).fields] == ["ordinal", "time", *TICK.names]
        found = na.ArrayStream(tape.arrow(["ordinal", "qty"])).read_all()
        assert [row["qty"] for row in found.to_pylist()] == ticks(1000)["qty"].tolist()
        view = na.c_array(na.c_array_stream(tape).get_next()).view()  # its iterator of views crashes on any producer's
        assert (view.length, view.child(4).n_buffers) == (1000, 4)


# ------------------------------------------------------------------------------------- columns in


@hypothesis.given(data=st.data(), dtype=dtypes().filter(has_arrow_types))
def test_any_dtype_in(et, tmp_path_factory, data, dtype):
    rows = data.draw(npst.arrays(dtype, st.integers(1, 4)))
    clean(rows)
    directory = tmp_path_factory.mktemp("any")
    with (
        et.open(directory / "t.tape", "w", schema=dtype, durability="none") as tape,
        et.open(directory / "u.tape", "w", schema=dtype, durability="none") as other,
    ):
        tape.append_array(rows, np.arange(1, len(rows) + 1))
        assert other.append_arrow(tape) == range(len(rows))
        assert other.append_arrow(table(tape)) == range(len(rows), 2 * len(rows))
        assert other.timestamps.tolist() == tape.timestamps.tolist() * 2
        hypothesis.assume(table(tape) == table(tape))  # else there is a NaN, which is not itself
        assert table(other[: len(rows)]).combine_chunks() == table(tape).combine_chunks()


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "string", "large_string", "string_view"])
def test_payloads_in(et, tmp_path, kind):
    payloads = [b"a", b"", b"longer than twelve"]
    data = pa.array(payloads, getattr(pa, kind)())
    columns = {"time": pa.array([NS, NS + 1, NS + 2], pa.timestamp("ns", "UTC")), "data": data}
    with et.open(tmp_path / "t.tape", "w") as tape:
        assert tape.append_arrow(pa.table(columns)) == range(3)
        assert tape.append_arrow(pa.table({"data": columns["data"]})) == range(3, 6)
        assert tape.append_arrow(pa.table({"data": columns["data"], "at": [1, 2, 3]}), time="at") == range(6, 9)
        assert tape.append_arrow(pa.table(columns).slice(0, 0)) == range(9, 9)
        assert [event.bytes for event in tape] == payloads * 3
        assert tape.timestamps[:3].tolist() == [NS, NS + 1, NS + 2]
        assert tape.timestamps[6:].tolist() == [1, 2, 3]
        assert tape.append_arrow(tape) == range(9, 18)


def test_frames_in(et, tmp_path):
    pl, pd = pytest.importorskip("polars"), pytest.importorskip("pandas", minversion="3")
    with et.open(tmp_path / "t.tape", "w", schema=[("a", "<i4"), ("name", "<U5")]) as tape:
        tape.append_arrow(pl.DataFrame({"name": ["x", "yé"], "a": [1, 2]}))
        tape.append_arrow(pd.DataFrame({"a": [3], "name": ["z"]}))
        assert tape.rows().tolist() == [(1, "x"), (2, "yé"), (3, "z")]


BAD_COLUMNS = {
    "missing": ({"a": [1]}, "the payload is made of the columns"),
    "unknown": ({"a": [1], "s": ["x"], "c": [1]}, "select and rename its columns"),
    "null": ({"a": [None], "s": ["x"]}, "column 'a' has a null"),
    "large": ({"a": [2**31], "s": ["x"]}, "column 'a' has values that int32 cannot hold"),
    "negative": ({"a": pa.array([2**32 - 1], pa.uint64()), "s": ["x"]}, "column 'a' has values that int32 cannot hold"),
    "float": ({"a": [1.5], "s": ["x"]}, "column 'a' is float64, and the field is int32"),
    "text": ({"a": ["1"], "s": ["x"]}, "column 'a' is"),
    "long": ({"a": [1], "s": ["xxxx"]}, r"column 's' has values that \|S3 cannot hold"),
    "number": ({"a": [1], "s": [7]}, r"column 's' is int64, and the field is \|S3"),
    "naive": ({"a": [1], "s": ["x"], "time": pa.array([1], pa.timestamp("ns"))}, "timestamps without a zone"),
    "time": ({"a": [1], "s": ["x"], "time": ["now"]}, "column 'time' is string, and a time is"),
    "no time": ({"a": [1], "s": ["x"], "time": pa.array([None], pa.timestamp("s", "UTC"))}, "column 'time' has a null"),
    "far": ({"a": [1], "s": ["x"], "time": pa.array([2**60], pa.timestamp("s", "UTC"))}, "column 'time'"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "text"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_columns_that_do_not_fit(et, tmp_path, columns, text):
    with et.open(tmp_path / "t.tape", "w", schema=[("a", "<i4"), ("s", "S3")]) as tape:
        with pytest.raises(et.SchemaError, match=rf"t\.tape: .*{text}"):
            tape.append_arrow(pa.table(columns))
        assert len(tape) == 0


def test_payloads_that_do_not_fit(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        for columns, text in (
            ({"a": [b"x"], "b": [b"y"]}, "the payload is made of the columns"),
            ({"a": [1]}, "column 'a' is int64, and a payload is binary or text"),
            ({"a": pa.array([None], pa.binary())}, "column 'a' has a null"),
        ):
            with pytest.raises(et.SchemaError, match=text):
                tape.append_arrow(pa.table(columns))
        with pytest.raises(et.SchemaError, match="there is no column 'when'; there are 'a'"):
            tape.append_arrow(pa.table({"a": [b"x"]}), time="when")
        with pytest.raises(TypeError, match=r"append_arrow takes an Arrow stream .*, not list"):
            tape.append_arrow([b"x"])
        assert len(tape) == 0
    with et.open(tmp_path / "t.tape") as tape, pytest.raises(et.ReadOnlyError):
        tape.append_arrow(pa.table({"a": [b"x"]}))


# ------------------------------------------------------------------------------------ what is imported


def test_nothing_is_imported_before_it_is_needed(core):
    code = (
        "import sys, evtape; names = {'pyarrow', 'polars', 'pandas', 'duckdb'} & set(sys.modules); "
        "assert not names, names"
    )
    found = importlib.util.find_spec("evtape")
    assert found is not None
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "EVTAPE_BACKEND": core}, check=True, timeout=60)
