"""The pure core's side of Arrow: the same tables as `ext/arrow.c`, copied, with numpy and pyarrow.

Without C of its own it needs pyarrow: a consumer may release an array while an exception is on its way, which no
callback in Python survives.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import errors
from .columns import NULLABLE, Column, Kind
from .format import ENTRY, ENTRY_SIZE

pa: Any = None  # pyarrow, once a table is asked for

_VIEW_LIMIT = 2**31 - 1  # bytes that a view reaches
_BATCH_BYTES = 64 << 20  # of payloads, after which a batch ends
_MISFITS = ("length", "long", "value")


def _need_pyarrow() -> None:
    global pa  # noqa: PLW0603 - importing it takes longer than most programs that need no table
    try:
        pa = importlib.import_module("pyarrow")
    except ImportError as error:
        raise ImportError(
            "the pure core of evtape makes Arrow tables with pyarrow: pip install 'evtape[arrow]', "
            "or use the native core"
        ) from error


# ------------------------------------------------------------------------------------------- types

_TYPES = {
    "b": "bool_", "c": "int8", "C": "uint8", "s": "int16", "S": "uint16", "i": "int32", "I": "uint32", "l": "int64",
    "L": "uint64", "e": "float16", "f": "float32", "g": "float64", "vu": "string_view", "vz": "binary_view",
    "tdD": "date32",
}  # fmt: skip
_UNITS = {"s": "s", "m": "ms", "u": "us", "n": "ns"}
_TEXTS = {
    "u": "string", "U": "large_string", "vu": "string_view", "z": "binary", "Z": "large_binary", "vz": "binary_view"
}  # fmt: skip


def _field(columns: Iterator[Column]) -> Any:
    """The field of the next column and of its children."""
    column = next(columns)
    inner = [_field(columns) for _ in range(column.children)]
    return pa.field(column.name, _type(column, inner), bool(column.flags & NULLABLE))


def _type(column: Column, inner: list[Any]) -> Any:
    form = column.format
    if form in _TYPES:
        return getattr(pa, _TYPES[form])()
    if form == "+s":
        return pa.struct(inner)
    if form.startswith("+w:"):
        return pa.list_(inner[0], column.width)
    if form.startswith("w:"):
        return pa.binary(column.width)
    if form.startswith("ts"):
        return pa.timestamp(_UNITS[form[2]], form[4:])
    return pa.duration(_UNITS[form[2]])


def _schema(columns: Sequence[Column]) -> Any:
    left = iter(columns)
    top = len(columns) - sum(column.children for column in columns)
    return pa.schema([_field(left) for _ in range(top)])


def arrow_schema(columns: Sequence[Column]) -> Any:
    """A capsule of the ArrowSchema of a table of these columns."""
    _need_pyarrow()
    return _schema(columns).__arrow_c_schema__()


def arrow_fields(capsule: Any) -> list[tuple[str, str]]:
    """Name and format of each column of the schema in a capsule; the format only of text and bytes."""
    _need_pyarrow()
    formats = {getattr(pa, kind)(): form for form, kind in _TEXTS.items()}
    return [(field.name, formats.get(field.type, "")) for field in pa.Schema._import_from_c_capsule(capsule)]


# ------------------------------------------------------------------------------------------ values


class _Rows(NamedTuple):
    """The events of a batch."""

    ordinals: list[int]
    offsets: list[int]
    times: list[int]
    payloads: list[Any]  #: None: the payload does not fit, all its values are null


class _MisfitError(Exception):
    """A value of a row cannot be one of its column's type."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row
        self.column = -1


def _parts(column: Column, rows: _Rows) -> npt.NDArray[np.uint8]:
    """The bytes of the column's elements, shape (events, elements, width). Zeros where there is no payload."""
    size = next((len(payload) for payload in rows.payloads if payload is not None), 0)
    if size == 0:
        return np.zeros((len(rows.payloads), len(column.positions), column.width), np.uint8)
    joined = b"".join(bytes(size) if payload is None else payload for payload in rows.payloads)
    whole = np.frombuffer(joined, np.uint8).reshape(-1, size)
    parts = whole[:, column.positions[:, None] + np.arange(column.width)]
    if column.swap > 1:
        parts = parts.reshape(*parts.shape[:2], -1, column.swap)[..., ::-1].reshape(parts.shape)
    return np.ascontiguousarray(parts)


def _missing(column: Column, rows: _Rows) -> npt.NDArray[np.bool_]:
    """Which elements have no payload, shape (events, elements)."""
    missing = np.array([payload is None for payload in rows.payloads], bool)
    return np.repeat(missing[:, None], len(column.positions), axis=1)


def _buffers(kind: Any, values: Any, nulls: npt.NDArray[np.bool_]) -> Any:
    """An array of these bytes, null where ``nulls`` says so."""
    validity = pa.py_buffer(np.packbits(~nulls.reshape(-1), bitorder="little")) if nulls.any() else None
    return pa.Array.from_buffers(kind, nulls.size, [validity, pa.py_buffer(values)])


def _fixed(column: Column, kind: Any, rows: _Rows) -> Any:
    parts, nulls = _parts(column, rows), _missing(column, rows)
    if column.check:
        nulls |= parts.view(np.int64)[..., 0] == np.iinfo(np.int64).min
    return _buffers(kind, parts, nulls)


def _bools(column: Column, kind: Any, rows: _Rows) -> Any:
    bits = np.packbits(_parts(column, rows).reshape(-1) != 0, bitorder="little")
    return _buffers(kind, bits, _missing(column, rows))


def _dates(column: Column, kind: Any, rows: _Rows, nulls_allowed: bool) -> Any:
    days, nulls = _parts(column, rows).view(np.int64)[..., 0], _missing(column, rows)
    nulls |= days == np.iinfo(np.int64).min
    wrong = (days != days.astype(np.int32)) & ~nulls
    if wrong.any() and not nulls_allowed:
        raise _MisfitError(int(np.flatnonzero(wrong.any(axis=1))[0]))
    nulls |= wrong
    return _buffers(kind, np.where(nulls, 0, days).astype(np.int32), nulls)


def _texts(column: Column, kind: Any, rows: _Rows, nulls_allowed: bool) -> Any:
    values: list[bytes | None] = []
    for row, payload in enumerate(rows.payloads):
        for position in column.positions:
            text = None if payload is None else _text(column, payload, int(position))
            if text is None and payload is not None and not nulls_allowed:
                raise _MisfitError(row)
            values.append(text)
    return pa.array(values, kind)


def _text(column: Column, payload: bytes, position: int) -> bytes | None:
    """One text as UTF-8, or None if it is none."""
    data = payload
    if column.kind != Kind.PAYLOAD:
        data = payload[position : position + column.width]
    try:
        if column.kind == Kind.WIDE_TEXT:
            order = "utf-32-be" if (sys.byteorder == "big") ^ bool(column.swap) else "utf-32-le"
            return data.decode(order).rstrip("\0").encode()
        if column.kind == Kind.TEXT:
            data = data.rstrip(b"\0")
        if column.kind == Kind.TEXT or column.check:
            data.decode()
    except UnicodeError:
        return None
    return data


def _array(columns: Iterator[tuple[int, Column]], field: Any, rows: _Rows, nulls_allowed: bool) -> Any:
    """The array of the next column, with its children. Raises _MisfitError."""
    number, column = next(columns)
    kind = field.type
    if column.kind == Kind.NESTED:
        children = [_array(columns, kind.field(i), rows, nulls_allowed) for i in range(column.children)]
        length = len(children[0]) // max(column.width, 1)
        return pa.Array.from_buffers(kind, length, [None], children=children)
    if column.kind == Kind.ORDINAL:
        return pa.array(rows.ordinals, kind)
    if column.kind == Kind.TIME:
        return pa.array(rows.times, pa.int64()).cast(kind)
    try:
        if column.kind == Kind.FIXED:
            return _fixed(column, kind, rows)
        if column.kind == Kind.BOOL:
            return _bools(column, kind, rows)
        return (_dates if column.kind == Kind.DATE else _texts)(column, kind, rows, nulls_allowed)
    except _MisfitError as misfit:
        misfit.column = number
        raise


# ------------------------------------------------------------------------------------------ stream


class Request(NamedTuple):
    """The parts of a stream of batches; see `arrow_stream` of the core."""

    source: Any  #: of the bytes
    window: Callable[[Any, int], Any]  #: makes what reads a chunk at a time
    columns: Sequence[Column]
    size: int
    offset: int  #: of the first event
    bound: int
    where: Iterator[tuple[int, int]]  #: ordinals, and where these events are or -1
    batch_events: int
    verify_checksums: bool
    nulls: bool
    report: Callable[[int, int, str, int], str | None]


class _Batches:
    """The events of a stream, and where in them the consumer is."""

    def __init__(self, request: Request) -> None:
        self._of = request
        self._source = request.source
        self._offset = request.offset
        self._payloads = any(column.kind >= Kind.PAYLOAD for column in request.columns)
        self._views = any(column.kind in (Kind.PAYLOAD, Kind.TEXT) for column in request.columns)
        self._last: tuple[int, bytes] | None = None
        self.schema = _schema(request.columns)

    def made(self) -> Iterator[Any]:
        """The batches. Raises what pyarrow hands on as the error of the stream."""
        while True:
            before, rows = self._last, _Rows([], [], [], [])
            try:
                self._read(rows)
                arrays = self._filled(rows)
                self._require_unchanged(before)
            except errors.TruncatedError:
                raise self._failed("fault", 0, 0) from None
            if not rows.ordinals:
                return
            # Also without a column, a batch has its rows.
            table = pa.StructArray.from_arrays(arrays, fields=list(self.schema)) if arrays else None
            empty = pa.StructArray.from_buffers(pa.struct([]), len(rows.ordinals), [None], children=[])
            yield pa.RecordBatch.from_struct_array(empty if table is None else table)

    def _failed(self, reason: str, at: int, ordinal: int, column: int = -1) -> Exception:
        text = self._of.report(ordinal, at, reason, column) or reason
        return pa.ArrowInvalid(text) if reason in _MISFITS else OSError(text)

    def _read(self, rows: _Rows) -> None:
        window = self._of.window(self._source, self._of.bound)
        taken = 0
        while len(rows.ordinals) < self._of.batch_events and taken < _BATCH_BYTES:
            ordinal, at = next(self._of.where, (-1, -1))
            if ordinal < 0:
                return
            if at < 0:
                at = self._offset
            taken += self._read_one(window, rows, ordinal, at)

    def _read_one(self, window: Any, rows: _Rows, ordinal: int, at: int) -> int:
        left = self._of.bound - at - ENTRY_SIZE
        header = bytes(window.bytes(at, ENTRY_SIZE)) if left >= 0 else bytes(ENTRY_SIZE)
        timestamp, size, checksum = ENTRY.unpack(header)
        if left < 0 or size > left:
            raise self._unless_changed("size", at, ordinal)
        payload = bytes(window.bytes(at + ENTRY_SIZE, size)) if self._payloads else b""
        reason = self._misfit(payload, size, checksum)
        if reason == "checksum":
            raise self._unless_changed(reason, at, ordinal)
        if timestamp == size == checksum == 0 and (text := self._of.report(ordinal, at, "zero", -1)) is not None:
            raise OSError(text)
        if reason and not self._of.nulls:
            raise self._unless_changed(reason, at, ordinal)
        rows.ordinals.append(ordinal)
        rows.offsets.append(at)
        rows.times.append(timestamp)
        rows.payloads.append(None if reason else payload)
        self._last = at, header
        self._offset = at + ENTRY_SIZE + size
        return len(payload)

    def _misfit(self, payload: bytes, size: int, checksum: int) -> str:
        if self._payloads and self._of.verify_checksums and zlib.crc32(payload) != checksum:
            return "checksum"
        if self._payloads and self._of.size not in (-1, size):
            return "length"
        return "long" if self._views and size > _VIEW_LIMIT - ENTRY_SIZE else ""

    def _filled(self, rows: _Rows) -> list[Any]:
        columns = enumerate(self._of.columns)
        try:
            return [_array(columns, field, rows, self._of.nulls) for field in self.schema]
        except _MisfitError as misfit:
            at, ordinal = rows.offsets[misfit.row], rows.ordinals[misfit.row]
            raise self._unless_changed("value", at, ordinal, misfit.column) from None

    def _unless_changed(self, reason: str, at: int, ordinal: int, column: int = -1) -> Exception:
        """What is wrong, or that the stream was cut, which explains everything else."""
        self._require_unchanged(self._last)
        return self._failed(reason, at, ordinal, column)

    def _require_unchanged(self, last: tuple[int, bytes] | None) -> None:
        if last is not None and self._source.read(last[0], ENTRY_SIZE) != last[1]:
            raise self._failed("changed", self._offset, 0)


def arrow_stream(request: Request) -> Any:
    """A capsule of an ArrowArrayStream."""
    _need_pyarrow()
    batches = _Batches(request)
    return _capsule(batches.schema, batches.made())


def arrow_chain(columns: Sequence[Column], next_capsule: Callable[[], Any]) -> Any:
    """A capsule of an ArrowArrayStream of the batches of others."""
    _need_pyarrow()
    return _capsule(_schema(columns), _chained(next_capsule))


def _chained(next_capsule: Callable[[], Any]) -> Iterator[Any]:
    while True:
        try:
            capsule = next_capsule()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the error of the stream
            raise OSError(str(error)) from None
        if capsule is None:
            return
        yield from pa.RecordBatchReader._import_from_c_capsule(capsule)


def _capsule(schema: Any, batches: Iterator[Any]) -> Any:
    return pa.RecordBatchReader.from_batches(schema, _Lasting(batches)).__arrow_c_stream__()


class _Lasting(Iterator[Any]):
    """An iterator whose error stays: from then on it is raised each time."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._failure: Exception | None = None

    def __next__(self) -> Any:
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._batches)
        except Exception as error:
            if not isinstance(error, StopIteration):
                self._failure = error
            raise
