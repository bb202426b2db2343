"""rows(dtype): events of one size as one array, strided over the mapping on the native core."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.helpers import NS, stream

KINDS = {
    "u1": np.arange(20, dtype="u1"),
    "f8": np.linspace(0, 1, 20),
    "big-endian": np.arange(20, dtype=">i4"),
    "structured": np.array([(i, i / 2, b"ab") for i in range(20)], dtype=[("a", "<u2"), ("b", "<f8"), ("c", "S3")]),
    "nested": np.array(
        [((i, 2), [1, 2]) for i in range(20)], dtype=[("a", [("x", "i1"), ("y", "i8")]), ("b", "i2", 2)]
    ),
    "datetime64": np.arange(20).astype("M8[ns]"),
    "void": np.array([bytes([i] * 5) for i in range(20)], dtype="V5"),
    "unicode": np.array([str(i) for i in range(20)], dtype="U2"),
}


def _tape(et, tmp_path, payloads):
    path = tmp_path / "t.tape"
    path.write_bytes(stream((NS + i, bytes(data)) for i, data in enumerate(payloads)))
    return et.open(path)


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_rows_give_back_what_append_array_took(et, tmp_path, values):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_array(values, range(NS, NS + 20))
        rows = tape.rows(values.dtype)
        assert (rows.dtype, rows.shape, rows.flags.writeable) == (values.dtype, (20,), False)
        assert rows.tobytes() == values.tobytes()
        for key in (slice(3, 17), slice(3, 17, 4), slice(None, None, -1), slice(15, 2, -3), slice(4, 4)):
            part = tape[key].rows(values.dtype)
            assert (part.dtype, part.tobytes()) == (values.dtype, values[key].tobytes())


def test_a_dtype_with_a_shape(et, tmp_path):
    values = np.arange(120, dtype="<i2").reshape(10, 3, 4)
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_array(values, range(10))
        rows = tape.rows(("<i2", (3, 4)))
        assert rows.shape == (10, 3, 4)
        assert (rows == values).all()
        assert (tape[::-3].rows(("<i2", (3, 4))) == values[::-3]).all()
        assert tape[5:5].rows(("<i2", (3, 4))).shape == (0, 3, 4)


def test_rows_of_the_native_core_are_no_copy(et, tmp_path):
    with _tape(et, tmp_path, [bytes([i] * 8) for i in range(50)]) as tape:
        rows, again = tape.rows("<u8"), tape[10:30:2].rows("<u8")
        assert rows.strides == (24,)
        assert np.shares_memory(rows, again) is (et.backend == "native")
        assert np.shares_memory(rows, np.frombuffer(tape[7].data, np.uint8)) is (et.backend == "native")


def test_rows_outlive_close(et, tmp_path):
    tape = _tape(et, tmp_path, [bytes([i] * 8) for i in range(50)])
    rows = tape.rows("V8")
    tape.close()
    del tape
    gc.collect()
    assert rows.tobytes() == b"".join(bytes([i] * 8) for i in range(50))


def test_rows_of_a_writer_stay_valid_while_it_grows(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="none") as tape:
        tape.append_many([bytes([i] * 8) for i in range(50)])
        rows = tape.rows("V8")
        tape.append_array(np.zeros((30, 1 << 20), np.uint8))
        assert rows.tobytes() == b"".join(bytes([i] * 8) for i in range(50))
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = b"x" * 8


def test_events_of_another_size(et, tmp_path):
    with _tape(et, tmp_path, [b"12345678", b"12345678", b"1234", b"12345678"]) as tape:
        with pytest.raises(ValueError, match="event 2 has 4 bytes, but dtype uint64 has 8") as caught:
            tape.rows("u8")
        assert str(tape.path) in str(caught.value)
        assert tape[:2].rows("V8").tobytes() == b"12345678" * 2
        assert tape[::3].rows("V8").tobytes() == b"12345678" * 2  # the odd one lies between them
        with pytest.raises(ValueError, match="event 0 has 8 bytes"):
            tape[:2].rows("u4")


def test_rows_of_an_unsorted_window(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append_array(np.arange(6, dtype="<i8"), [5, 1, 9, 2, 8, 3])
        assert tape.between(ending_at=3).rows("<i8").tolist() == [1, 3, 5]
        assert tape.between(starting_at=100).rows("<i8").tolist() == []


def test_dtypes_that_are_refused(et, tmp_path):
    with _tape(et, tmp_path, [b"12345678"] * 3) as tape:
        with pytest.raises(ValueError, match="Python objects"):
            tape.rows("O")
        with pytest.raises(ValueError, match="Python objects"):
            tape.rows([("a", "O")])
        with pytest.raises(TypeError):
            tape.rows("no such dtype")


def test_a_dtype_of_no_bytes(et, tmp_path):
    with _tape(et, tmp_path, [b"", b"", b""]) as tape:
        assert tape.rows("V0").shape == (3,)
