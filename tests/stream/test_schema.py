"""Declared schemas: the file, values in and out, and everything that does not fit."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.helpers import NS, stream

TICK = np.dtype([("price", "<f8"), ("qty", "<i4"), ("symbol", "S8"), ("at", "<M8[us]"), ("live", "?")])
ROW = (1.5, -3, b"ABC", np.datetime64("2026-01-01T00:00:01", "us"), True)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "t.tape")


def schema_file(path):
    return path + ".schema.json"


def read(path):
    with open(schema_file(path), "rb") as file:
        return file.read()


# ------------------------------------------------------------------------------------------ values


def test_rows_in_and_out(et, path):
    with et.open(path, "w", schema=TICK) as tape:
        assert tape.schema == TICK
        assert tape.append(ROW) == 0
        tape.append(dict(zip(TICK.names, ROW, strict=True)))
        tape.append(np.array([ROW], TICK)[0])
        tape.append(np.array(ROW, TICK))
        tape.append(np.array(ROW, TICK).tobytes())
        tape.append(list(ROW))
        tape.append_many([ROW, np.array(ROW, TICK).tobytes()])
        tape.append_array(np.array([ROW, ROW], TICK))
        assert len(tape) == 10
        assert tape[-1].value == tape[0].value
    with et.open(path) as tape:
        assert tape.schema == TICK
        assert {event.bytes for event in tape} == {np.array(ROW, TICK).tobytes()}
        value = tape[4].value
        assert (value["price"], value["qty"], value["symbol"], value["at"], value["live"]) == ROW
        assert tape.rows().dtype == tape[2:].rows().dtype == TICK
        assert tape.rows().tolist() == np.array([ROW] * 10, TICK).tolist()
        assert "price=1.5 qty=-3 symbol=ABC at=2026-01-01T00:00:01.000000 live=True" in repr(tape[0])


def test_json_in_and_out(et, path):
    values = [{"a": [1, 2.5, None]}, "text", 7, None, "é\0", [], {"deep": {"er": True}}]
    with et.open(path, "w", schema="json") as tape:
        for value in values[:3]:
            tape.append(value)
        tape.append_many(values[3:])
        tape.append(b'{"raw": 1}')
        tape.append(memoryview(b"[1]"), NS)
    with et.open(path) as tape:
        assert tape.schema == "json"
        assert [event.value for event in tape] == [*values, {"raw": 1}, [1]]
        assert tape[0].bytes == b'{"a":[1,2.5,null]}'
        assert tape[4].bytes == '"é\\u0000"'.encode()
        assert repr(tape[0]).endswith('{"a":[1,2.5,null]})')


def test_text_in_and_out(et, path):
    with et.open(path, "w", schema="text") as tape:
        tape.append("grün")
        tape.append(b"raw")
        tape.append_many(["a", ""])
        assert [event.value for event in tape] == ["grün", "raw", "a", ""]
        assert "'grün'" in repr(tape[0])


@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
def test_every_durability_takes_values(et, path, durability):
    with et.open(path, "w", schema=TICK, durability=durability) as tape:
        tape.append(ROW, NS)
        tape.append(np.array(ROW, TICK).tobytes(), timestamp=NS + 1)
        assert [event.value["qty"] for event in tape] == [-3, -3]


def test_without_a_schema_the_value_is_the_bytes(et, path):
    with et.open(path, "w") as tape:
        tape.append(b"payload")
        assert tape.schema is None
        assert tape[0].value == b"payload"
        assert type(tape[0].value) is bytes
        with pytest.raises(et.SchemaError, match=r"t\.tape: the stream has no schema of fields; give a dtype"):
            tape.rows()
    assert not os.path.exists(schema_file(path))
    assert et.Event(NS, b"x").value == b"x"


def test_append_is_the_core_s_own_method_without_a_schema(et, path):
    with et.open(path, "w") as tape:
        assert tape.append.__self__ is tape._appender


def test_every_way_to_an_event_gives_values(et, path):
    with et.open(path, "w", schema="json") as tape:
        tape.append_many([1, 2, 3])
    with et.open(path) as tape, tape.cursor("c") as cursor:
        ways = [tape, tape[:], tape[::2], reversed(tape), tape.follow(until=3), cursor, tape.between(starting_at=0)]
        assert [[event.value for event in way] for way in ways] == [
            [1, 2, 3], [1, 2, 3], [1, 3], [3, 2, 1], [1, 2, 3], [1, 2, 3], [1, 2, 3],
        ]  # fmt: skip
        assert [event.value for part in tape.follow(until=3, batch=True) for event in part] == [1, 2, 3]
        with et.merge([tape]) as merged:
            assert [event.event.value for event in merged] == [1, 2, 3]


def test_pickles_keep_the_schema(et, path):
    with et.open(path, "w", schema=TICK) as tape:
        tape.append(ROW)
        event, part = tape[0], tape[:]
    for again in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert again.value == event.value
    assert pickle.loads(pickle.dumps(part))[0].value == event.value
    with et.open(path, schema="bytes") as tape, pickle.loads(pickle.dumps(tape)) as again:
        assert again[0].value == pickle.loads(pickle.dumps(tape[:]))[0].value == event.bytes


def test_one_core_reads_what_the_other_declared(pair, path):
    one, other = pair
    with one.open(path, "w", schema=TICK) as tape:
        tape.append(ROW)
    with other.open(path) as tape:
        assert tape.schema == TICK
        assert tape[0].value["symbol"] == b"ABC"


# ------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1.5, 1.5, "a", 0, True), r"field 'qty' \(int32\) cannot be 1.5"),
        ((1, 2**31, "a", 0, True), r"field 'qty' \(int32\) cannot be 2147483648"),
        ((1, 2, "a" * 9, 0, True), r"field 'symbol' \(\|S8\) cannot be 'aaaaaaaaa': it is longer than 8"),
        ((1, 2, 3, 0, True), r"field 'symbol' .* cannot be 3: it is int, not bytes"),
        ((1, 2, "a", "2026-01-01", True), "has no zone"),
        ((1, 2, "a", 0, 2), "field 'live' .* it is not true or false"),
        ((None, 2, "a", 0, True), "field 'price' .* cannot be None"),
        ((1, 2), "it has 2 values for 5 fields"),
        ({"price": 1}, "its names are"),
        (np.array((1,), [("x", "i4")])[()], "its names are"),
        ("text", "str is not a row"),
        (None, "NoneType is not a row"),
        (b"xx", "has 2 bytes, but dtype.* has 29"),
        (bytearray(3), "has 3 bytes"),
        (memoryview(b"12345678").cast("Q"), "has 8 bytes"),
    ],
)
def test_a_row_that_does_not_fit(et, path, value, text):
    with et.open(path, "w", schema=TICK) as tape:
        tape.append(ROW)
        with pytest.raises(et.SchemaError, match=rf"t\.tape: the value .*{text}"):
            tape.append(value)
        with pytest.raises(et.SchemaError, match=rf"t\.tape: the value 1 .*{text}"):
            tape.append_many([ROW, value])
        assert len(tape) == 1


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), {"a": b"x"}, "\ud800"])
def test_a_value_that_is_not_json(et, path, value):
    with et.open(path, "w", schema="json") as tape:
        with pytest.raises(et.SchemaError, match=r"the value does not fit the schema 'json'"):
            tape.append(value)
        deep: list = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(et.SchemaError, match=r"does not fit the schema 'json'"):
            tape.append(deep)
        assert len(tape) == 0


@pytest.mark.parametrize("value", [1, None, ["a"], "\ud800"])
def test_a_value_that_is_not_text(et, path, value):
    with et.open(path, "w", schema="text") as tape, pytest.raises(et.SchemaError, match="text"):
        tape.append(value)


@pytest.mark.parametrize(
    "array", [np.zeros(3, [("a", "<f8")]), np.zeros((3, 28), np.uint8), np.zeros(3, TICK.descr[::-1]), np.zeros(3)]
)
def test_an_array_that_does_not_fit(et, path, array):
    with et.open(path, "w", schema=TICK) as tape:
        with pytest.raises(et.SchemaError, match=r"an array of .* does not fit the schema dtype"):
            tape.append_array(array)
        assert tape.append_array(np.zeros((2, TICK.itemsize), np.uint8)) == range(2)


@pytest.mark.parametrize(
    ("schema", "data", "text"),
    [
        (TICK, b"short", r"event 1 at offset 48 has 5 bytes, but its schema dtype\(.*\) has 29"),
        ("text", b"\xff", "event 1 at offset 48 is not the text of its schema"),
        ("json", b"{", "event 1 at offset 48 is not the JSON of its schema"),
        ("json", b"[" * 100_000, "is not the JSON of its schema"),
        ("json", '"a"'.encode("utf-16"), "is not the JSON of its schema"),
    ],
)
def test_a_payload_that_does_not_fit(et, path, schema, data, text):
    with open(path, "wb") as file:
        file.write(stream([(NS, b"12345678"), (NS + 1, data)]))
    with et.open(path, schema=schema) as tape:
        event = tape[1]
        with pytest.raises(et.SchemaError, match=text) as caught:
            event.value  # noqa: B018
        assert caught.value.ordinal == 1
        assert isinstance(caught.value, ValueError)
        assert event.bytes == data
        assert repr(event).startswith("Event(1, ")
        assert repr(bytes(data[:32]))[:20] in repr(event)


# ---------------------------------------------------------------------------------------- declaring


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ("<f8", "it has no fields"),
        (np.dtype("f8"), "it has no fields"),
        ("yaml", "it is none"),
        (7, "it is none"),
        ([("a", "O")], "field 'a' is of the dtype object"),
        ([("a", "M8")], "field 'a' is of the dtype datetime64"),
        ([("a", np.longdouble)], "field 'a' is of the dtype"),
        ([("a", "S0")], "field 'a'"),
        ([], "it has no fields"),
        (np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 2]}), "'a' and 'b' overlap"),
    ],
)
def test_what_cannot_be_a_schema(et, path, declared, text):
    with et.open(path, "w") as tape:
        tape.append(b"x")
    for mode in ("w", "x", "a"):
        with pytest.raises(et.SchemaError, match=rf"a schema is a structured numpy dtype, 'json' or 'text'.*{text}"):
            et.open(path, mode, schema=declared)
    with pytest.raises(et.SchemaError, match=text):
        et.open(path, schema=declared)
    with et.open(path, "a") as tape:  # the lock is free, and "w" has replaced nothing
        assert len(tape) == 1


def test_bytes_is_for_reading(et, path):
    with pytest.raises(et.SchemaError, match="schema='bytes' is for reading"):
        et.open(path, "w", schema="bytes")


def test_a_schema_given_at_reading_counts_more(et, path):
    with et.open(path, "w", schema="json") as tape:
        tape.append([1])
    with et.open(path, schema="text") as tape:
        assert (tape.schema, tape[0].value) == ("text", "[1]")
    with et.open(path, schema="bytes") as tape:
        assert (tape.schema, tape[0].value) == (None, b"[1]")
    with et.open(path, schema=[("a", "S3")]) as tape:
        assert tape[0].value["a"] == b"[1]"


def test_append_keeps_the_schema_and_refuses_another(et, path):
    with et.open(path, "a", schema=TICK) as tape:
        tape.append(ROW)
    with et.open(path, "a") as tape:
        assert tape.schema == TICK
        tape.append(ROW)
    with et.open(path, "a", schema=TICK) as tape:
        tape.append(ROW)
    before = read(path).decode()
    for other in ("json", [("price", "<f4")], [*TICK.descr[:-1], ("alive", "?")]):
        with pytest.raises(
            et.SchemaError,
            match=r"t\.tape: the stream has the schema dtype\(\[\('price', '<f8'\), .*\), and schema= is ",
        ):
            et.open(path, "a", schema=other)
    assert read(path).decode() == before
    with et.open(path, "a") as tape:
        assert len(tape) == 3


def test_a_stream_without_one_gets_a_schema(et, path):
    with et.open(path, "w") as tape:
        tape.append(b"[1]")
    with et.open(path, "a", schema="json") as tape:
        assert tape[0].value == [1]
    with et.open(path) as tape:
        assert tape.schema == "json"


def test_titles_and_metadata_are_left_out(et, path):
    declared = np.dtype([(("A title", "a"), "<i4"), ("b", np.dtype("<i4", metadata={"unit": "m"}))], align=True)
    with et.open(path, "w", schema=declared) as tape:
        tape.append((1, 2))
        assert tape.schema == np.dtype([("a", "<i4"), ("b", "<i4")])
    with et.open(path, "a", schema=declared) as tape:
        assert tape[0].value.tolist() == (1, 2)


def test_a_new_stream_in_the_place_of_another(et, path):
    with et.open(path, "w", schema="json") as tape:
        tape.append(1)
    with et.open(path) as old:
        et.open(path, "w").close()
        assert not os.path.exists(schema_file(path))
        assert old[0].bytes == b"1"
    with et.open(path, "w", schema="text") as tape, et.open(path) as reader:
        tape.append("x")
        assert (tape.schema, reader.schema, reader[0].value) == ("text", "text", "x")


def test_a_reader_that_came_before_the_schema(et, path):
    with et.open(path, "w") as tape, et.open(path) as reader:
        assert reader.schema is None
        tape._declare(et.schema.Schema("json", path))  # what opening does, a moment after the stream has its name
        tape.append([1])
        assert reader[0].value == [1]


# ---------------------------------------------------------------------------------------- the file


def test_the_file_is_readable(et, path):
    with et.open(path, "w", schema=[("a", "<i4"), ("b", [("x", "<f4", (2,))])]) as tape:
        started = tape.start_timestamp
    text = read(path).decode()
    assert text.startswith('{\n  "format": "evtape schema",\n  "version": 1,\n')
    record = json.loads(text)
    del record["crc32"]
    assert record == {
        "format": "evtape schema",
        "version": 1,
        "start_timestamp": started,
        "payload": {
            "itemsize": 12,
            "fields": [
                {"name": "a", "offset": 0, "type": "<i4"},
                {
                    "name": "b",
                    "offset": 4,
                    "itemsize": 8,
                    "fields": [{"name": "x", "offset": 0, "type": "<f4", "shape": [2]}],
                },
            ],
        },
    }
    assert oct(os.stat(schema_file(path)).st_mode) == oct(os.stat(path).st_mode)


def test_losing_the_file_loses_no_data(et, path):
    with et.open(path, "w", schema=TICK) as tape:
        tape.append(ROW)
    os.unlink(schema_file(path))
    with et.open(path) as tape:
        assert tape.schema is None
        assert tape[0].value == np.array(ROW, TICK).tobytes()


def test_a_copy_of_both_files_keeps_the_schema(et, path, tmp_path):
    with et.open(path, "w", schema="json") as tape:
        tape.append([1])
    (tmp_path / "copy").mkdir()
    for name in (path, schema_file(path)):
        shutil.copyfile(name, tmp_path / "copy" / os.path.basename(name))
    with et.open(tmp_path / "copy" / "t.tape") as tape:
        assert tape[0].value == [1]


def test_the_schema_of_another_stream_is_ignored(et, path, tmp_path):
    other = str(tmp_path / "other.tape")
    for name, schema in ((path, "json"), (other, "text")):
        with et.open(name, "w", schema=schema) as tape:
            tape.append("1")
    shutil.copyfile(schema_file(other), schema_file(path))
    with et.open(path) as tape:
        assert (tape.schema, tape[0].value) == (None, b'"1"')
    with et.open(path, "a", schema="json") as tape:  # and replaced
        assert tape[0].value == "1"
    with et.open(path) as tape:
        assert tape.schema == "json"


@pytest.mark.parametrize("text", [b"", b"{}", b'{"$schema": "https://json-schema.org"}', b"\xff" * 100, b"[" * 10000])
def test_a_file_that_is_not_evtape_s(et, path, text):
    with et.open(path, "w") as tape:
        tape.append(b"x")
    with open(schema_file(path), "wb") as file:
        file.write(text)
    with et.open(path) as tape:
        assert (tape.schema, tape[0].value) == (None, b"x")
    for mode in ("a", "w"):
        with pytest.raises(et.SchemaError, match=r"t\.tape\.schema\.json: this file is not a schema of evtape"):
            et.open(path, mode, schema="json")
        assert read(path) == text
        et.open(path, mode).close()
        assert read(path) == text


def _changed(text, **values):
    return json.dumps({**json.loads(text), **values}, indent=2)


NESTED = {"itemsize": 4, "fields": [{"name": "a", "offset": 0, "type": "<i4"}]}
for _ in range(40):
    NESTED = {"itemsize": 4, "fields": [{"name": "a", "offset": 0, **NESTED}]}

BROKEN = {
    "cut": lambda text: text[: len(text) // 2],
    "one bit": lambda text: text.replace("<f8", "<f4"),
    "version": lambda text: _changed(text, version=2),
    "no checksum": lambda text: _changed(text, crc32=None),
    "payload": lambda text: _changed(text, payload="yaml"),
    "huge": lambda text: _changed(text, payload={"itemsize": 2**70, "fields": []}),
    "object": lambda text: text.replace('"<f8"', '"|O"'),
    "number": lambda text: text.replace('"<f8"', "8"),
    "deep": lambda text: _changed(text, payload=NESTED),
    "very deep": lambda text: text[:-3] + ', "x": ' + "[" * 200_000,
    "long": lambda text: text[:-3] + " " * (2 << 20) + "}\n",
    "a list": lambda text: text.replace('"payload": {', '"payload": [{').replace("\n  },", "\n  }],"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_damaged_schema_is_an_error_where_it_is_needed(et, path, broken):
    with et.open(path, "w", schema=TICK) as tape:
        tape.append(ROW)
        payload = tape[0].bytes
    text = read(path).decode()
    with open(schema_file(path), "w") as file:
        file.write(broken(text))
    problem = r"t\.tape\.schema\.json: (the schema of the stream is damaged|version 2 of a schema is not known)"
    with et.open(path) as tape:
        assert [bytes(data) for _, data in tape] == [payload]
        assert tape.rows(TICK)["qty"].tolist() == [-3]
        assert repr(tape[0]).startswith("Event(0, ")
        for ask in (
            lambda: tape.schema,
            lambda: tape[0].value,
            tape.rows,
            tape.__arrow_c_schema__,
            tape.__arrow_c_stream__,
        ):
            with pytest.raises(et.SchemaError, match=problem):
                ask()
    with et.open(path, schema=TICK) as tape:
        assert tape[0].value["qty"] == -3
    with et.open(path, "a") as tape:
        tape.append(payload)
        with pytest.raises(et.SchemaError, match=problem):
            tape.append(ROW)
        assert len(tape) == 2
    with pytest.raises(et.SchemaError, match=problem):
        et.open(path, "a", schema=TICK)
    os.unlink(schema_file(path))
    with et.open(path, "a", schema=TICK) as tape:
        assert [event.value["qty"] for event in tape] == [-3, -3]


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and pipes")
def test_links_and_pipes_are_not_followed(et, path, tmp_path):
    et.open(path, "w", schema="json").close()
    os.rename(schema_file(path), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", schema_file(path))
    with et.open(path) as tape:
        assert tape.schema is None
    os.unlink(schema_file(path))
    os.mkfifo(schema_file(path))
    with et.open(path) as tape:
        assert tape.schema is None
    with pytest.raises(et.SchemaError, match="this file is not a schema of evtape"):
        et.open(path, "a", schema="json")


# --------------------------------------------------------------------------------- any dtype, any value

LEAVES = st.sampled_from(
    ["?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", ">i4", ">u8", ">f8", "<c8",
     "<c16", "S1", "S7", "<U3", ">U2", "<M8[ns]", "<M8[s]", ">M8[us]", "<M8[D]", "<m8[ms]"]
)  # fmt: skip


@st.composite
def dtypes(draw, depth=2):
    fields = []
    for name in draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True)):
        kind = draw(st.integers(0, 9))
        base = draw(dtypes(depth=depth - 1)) if kind == 0 and depth else np.dtype(draw(LEAVES))
        shape = draw(st.sampled_from([(), (), (), (2,), (2, 3)]))
        fields.append((name, base, shape) if shape else (name, base))
    return np.dtype(fields, align=draw(st.booleans()))


def is_same(one, other):
    """Whether all fields have the same bytes. Those between fields are not kept."""
    if one.dtype.names is None:
        return one.tobytes() == other.tobytes()
    return all(is_same(one[name], other[name]) for name in one.dtype.names)


@hypothesis.given(data=st.data(), dtype=dtypes())
def test_any_row_comes_back(et, tmp_path_factory, data, dtype):
    rows = data.draw(npst.arrays(dtype, 3))
    path = str(tmp_path_factory.mktemp("any") / "t.tape")
    with et.open(path, "w", schema=dtype, durability="none") as tape:
        assert tape.schema == dtype
        for row in rows:
            tape.append(row)
            tape.append(tuple(row[name] for name in dtype.names))
    with et.open(path) as tape:
        assert tape.schema == dtype
        again = tape.rows()
        assert is_same(again[0::2], rows)
        assert is_same(again[1::2], rows)


@pytest.mark.parametrize("salvage", [False, True])
def test_a_recovered_copy_has_the_schema(et, path, tmp_path, salvage):
    with et.open(path, "w", schema=[("n", "<i8")]) as tape:
        tape.append_many([(i,) for i in range(10)])
    data = bytearray(Path(path).read_bytes())
    data[24 + 5 * 24 + 20] ^= 1
    Path(path).write_bytes(data)
    copy = tmp_path / "copy.tape"
    report = et.recover(path, copy, salvage=salvage)
    assert report.output == str(copy)
    with et.open(copy) as tape:
        assert [event.value["n"] for event in tape] == [0, 1, 2, 3, 4, *([6, 7, 8, 9] if salvage else [])]
    et.recover(path, dry_run=True)
    with et.open(tmp_path / "plain.tape", "w") as tape:
        tape.append(b"x")
    et.recover(tmp_path / "plain.tape", tmp_path / "other.tape")
    assert not (tmp_path / "other.tape.schema.json").exists()
