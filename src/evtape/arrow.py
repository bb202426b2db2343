"""Events as an Arrow table: which columns it has, and the two protocols of Arrow's PyCapsule interface.

A table has the columns ``ordinal``, ``time`` and ``payload``; with a structured schema the fields take the place of
``payload``. It is handed out as a stream of record batches that are made when the consumer asks for them. Whole
payloads and strings are views of the mapping, in the native core, and numbers are gathered into columns. Nothing here
imports an Arrow library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from . import errors
from .core.backend import core
from .core.columns import NULLABLE, Column, Kind
from .core.format import FIRST_OFFSET
from .errors import ClosedError, Error
from .schema import Schema

Misfits = Literal["raise", "null"]
Ordinals = range | npt.NDArray[np.int64]

BATCH_EVENTS: Final = 1 << 16
_AHEAD_FROM: Final = 8  # batches, from which on a second thread makes some of them
_BATCH_BYTES: Final = 64 << 20  # of gathered values

_TIME: Final = "tsn:UTC"
_UNITS: Final = {"s": "s", "ms": "m", "us": "u", "ns": "n"}
_NUMBERS: Final = {
    "i1": "c", "u1": "C", "i2": "s", "u2": "S", "i4": "i", "u4": "I", "i8": "l", "u8": "L", "f2": "e", "f4": "f",
    "f8": "g",
}  # fmt: skip


class Events(Protocol):
    """What a table needs of the source of its events."""

    @property
    def path(self) -> str: ...
    @property
    def region(self) -> core.Region: ...
    @property
    def verify_checksums(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def first(self) -> int: ...
    def refresh(self) -> tuple[int, int]: ...
    def byte_span(self, start: int, stop: int) -> tuple[int, int]: ...
    def starts(self, ordinals: range) -> npt.NDArray[np.int64]: ...
    def schema(self) -> Schema | None: ...
    def report_problem(self, ordinal: int, offset: int, reason: Any) -> None: ...


# ----------------------------------------------------------------------------------------- the columns


class Table(NamedTuple):
    """The columns of a table, and what each payload must be to have them."""

    columns: tuple[Column, ...]  #: in depth-first order
    size: int  #: bytes of every payload, or -1

    def batch_events(self) -> int:
        """How many events a batch has: fewer where they are wide, so that its columns fit into memory."""
        gathered = sum(len(c.positions) * max(c.width, 16) for c in self.columns if c.kind >= Kind.PAYLOAD)
        return max(1, min(BATCH_EVENTS, _BATCH_BYTES // max(1, gathered)))


def table_of(
    schema: Schema | None, path: str, misfits: Misfits = "raise", wanted: Iterable[str] | None = None
) -> Table:
    """The table of a stream with this schema, or its columns ``wanted``, in this order.

    Raises SchemaError for a column that there is not, and for a field that Arrow has no type for.
    """
    if misfits not in ("raise", "null"):
        raise ValueError(f"{path}: errors must be 'raise' or 'null', not {misfits!r}")
    dtype = None if schema is None else schema.require_usable().dtype
    names = _names(dtype)
    chosen = names if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in chosen:
        if name not in names:
            raise errors.no_column(path, name, names)
    if len(set(chosen)) != len(chosen):
        raise ValueError(f"{path}: a column is named twice in {chosen}; name each once")
    columns: list[Column] = []
    for name in chosen:
        if name == names[0]:
            columns.append(Column(name, "l", Kind.ORDINAL))
        elif name == names[1]:
            columns.append(Column(name, _TIME, Kind.TIME))
        elif dtype is None:
            flags = NULLABLE if misfits == "null" else 0
            columns.append(
                Column(name, "vz" if schema is None else "vu", Kind.PAYLOAD, flags, check=schema is not None)
            )
        else:
            field, offset = dtype.fields[name][:2]  # type: ignore[index]
            columns += _column(name, field, np.array([offset], np.int64), f"{path}: field {name!r}")
    return Table(tuple(columns), -1 if dtype is None else dtype.itemsize)


def _names(dtype: np.dtype[Any] | None) -> list[str]:
    """The names of all columns: of the ordinals, of the times, and of what payloads have."""
    fields = [] if dtype is None else list(dtype.names or ())
    return [free_name("ordinal", fields), free_name("time", fields), *(fields or ["payload"])]


def free_name(name: str, taken: Sequence[str]) -> str:
    """A field of the schema keeps its name, and the column of the event gives way."""
    while name in taken:
        name = f"event_{name}"
    return name


def _column(name: str, dtype: np.dtype[Any], positions: npt.NDArray[np.int64], where: str) -> Iterator[Column]:
    """The column of a field whose elements are at ``positions`` of each payload, and its children."""
    if dtype.subdtype is not None:
        yield from _list(name, *dtype.subdtype, positions, where)
    elif dtype.names is not None:
        yield Column(name, "+s", Kind.NESTED, NULLABLE, children=len(dtype.names))
        for inner in dtype.names:
            field, offset = dtype.fields[inner][:2]  # type: ignore[index]
            yield from _column(inner, field, positions + offset, f"{where}, {inner!r}")
    else:
        yield _leaf(name, dtype, where)._replace(flags=NULLABLE, width=dtype.itemsize, positions=positions)


def _list(
    name: str, base: np.dtype[Any], shape: tuple[int, ...], positions: npt.NDArray[np.int64], where: str
) -> Iterator[Column]:
    """A fixed-size list for each dimension, around the column of the elements."""
    if 0 in shape:
        raise errors.no_arrow_type(where, f"has the shape {shape}, without an element")
    for depth, length in enumerate(shape):
        yield Column("item" if depth else name, f"+w:{length}", Kind.NESTED, NULLABLE, children=1, width=length)
    steps = np.arange(math.prod(shape), dtype=np.int64) * base.itemsize
    yield from _column("item", base, (positions[:, None] + steps).reshape(-1), where)


def _leaf(name: str, dtype: np.dtype[Any], where: str) -> Column:
    """The column of one value."""
    kind, size = dtype.kind, dtype.itemsize
    swapped = 0 if dtype.isnative else size
    if f"{kind}{size}" in _NUMBERS:
        return Column(name, _NUMBERS[f"{kind}{size}"], Kind.FIXED, swap=swapped)
    if kind == "b":
        return Column(name, "b", Kind.BOOL)
    if kind == "S":
        return Column(name, "vu", Kind.TEXT)
    if kind == "U":
        return Column(name, "vu", Kind.WIDE_TEXT, swap=4 if swapped else 0)
    if kind == "V" and size:
        return Column(name, f"w:{size}", Kind.FIXED)
    if kind in "mM":
        unit, count = np.datetime_data(dtype)
        if unit in _UNITS and count == 1:
            form = f"ts{_UNITS[unit]}:UTC" if kind == "M" else f"tD{_UNITS[unit]}"
            return Column(name, form, Kind.FIXED, swap=swapped, check=True)
        if kind == "M" and unit == "D" and count == 1:
            return Column(name, "tdD", Kind.DATE, swap=swapped)
    raise errors.no_arrow_type(where, f"is of the dtype {dtype}")


# ----------------------------------------------------------------------------------------- the capsules


def schema_capsule(schema: Schema | None, path: str) -> Any:
    """The schema of the table of the stream at ``path``, as a capsule."""
    return core.arrow_schema(table_of(schema, path).columns)


def asked_table(
    schema: Schema | None, path: str, misfits: Misfits, columns: Iterable[str] | None, requested: Any
) -> Table:
    """The table with the columns that are wanted, and the types that ``requested``, a capsule of a schema, asks for."""
    asked = None if requested is None else core.arrow_fields(requested)
    if asked is not None:
        columns = [name for name, _ in asked]
    table = table_of(schema, path, misfits, columns)
    return table if asked is None else _as_asked(table, dict(asked))


def chain_capsule(table: Table, capsules: Iterator[Any]) -> Any:
    """The batches of several capsules of this table as one. Each capsule is made when the one before has ended."""
    return core.arrow_chain(table.columns, lambda: next(capsules, None))


def stream_capsule(
    source: Events, ordinals: Ordinals, offsets: Callable[[], npt.NDArray[np.int64]], table: Table, misfits: Misfits
) -> Any:
    """The events ``ordinals`` as a capsule of a stream of batches. ``offsets()`` says where they are.

    The capsule is independent of the source: it may be closed, and the events stay.
    """
    listed: dict[str, Any] = {}
    start, stop, first, bound = 0, 0, FIRST_OFFSET, FIRST_OFFSET
    if isinstance(ordinals, range) and ordinals.step == 1 and len(ordinals):
        start, stop = ordinals.start, ordinals.stop
        first, bound = source.byte_span(start, stop)
        listed = _starts(source, range(start, stop, table.batch_events()))
    elif len(ordinals):
        numbers = np.ascontiguousarray(ordinals, np.int64)
        listed = {"ordinals": numbers + source.first, "offsets": np.ascontiguousarray(offsets(), np.int64)}
        bound = source.byte_span(0, int(numbers.max()) + 1)[1]
    return core.arrow_stream(
        source.region,
        table.columns,
        table.size,
        first,
        source.first + start,
        bound,
        source.first + stop,
        batch_events=table.batch_events(),
        verify_checksums=source.verify_checksums,
        nulls=misfits == "null",
        report=_Explained(source, table, bound),
        **listed,
    )


def _starts(source: Events, ordinals: range) -> dict[str, Any]:
    """Where the batches of a long stream begin, so that several can be made at once."""
    if len(ordinals) < _AHEAD_FROM:
        return {}
    try:
        return {"starts": source.starts(ordinals)}
    except Error:
        return {}  # the consumer meets the damage and says where it is


class _Explained:
    """Says why a batch cannot be made, for the consumer of the stream."""

    def __init__(self, source: Events, table: Table, bound: int) -> None:
        self._source = source
        self._table = table
        self._bound = bound

    def __call__(self, ordinal: int, offset: int, reason: str, column: int) -> str | None:
        """The text, or None where sixteen zero bytes are an event."""
        path = self._source.path
        if reason in ("length", "long", "value"):
            try:
                self._source.refresh()  # a file that became shorter reads as zeros up to the end of its last page
            except ClosedError:
                pass
            except Error as error:
                return str(error)
            return str(errors.misfit(path, ordinal, offset, self._misfit(ordinal, reason, column)))
        if reason == "size":  # when the stream was made, it fitted
            reason = "changed"
        try:
            self._source.report_problem(ordinal, offset, reason)
            return None
        except ClosedError:
            return self._when_closed(ordinal, offset, reason)
        except Error as error:
            return str(error)

    def _when_closed(self, ordinal: int, offset: int, reason: Any) -> str | None:
        """The same for a source that cannot be asked any more."""
        path = self._source.path
        if reason == "fault":
            return str(errors.faulted(path))
        if reason == "changed":
            return str(errors.rewound(path, self._bound, offset))
        return None if reason == "zero" else str(errors.corrupt(path, ordinal, offset, reason))

    def _misfit(self, ordinal: int, reason: str, column: int) -> str:
        table = self._table
        if reason == "long":
            return "has more than 2 GiB, which a column of Arrow cannot hold"
        if reason == "length":
            return f"does not have the {table.size} bytes of its schema"
        found = table.columns[column]
        if found.kind == Kind.DATE:
            return f"has a date in {found.name!r} that is outside of int32 days"
        return f"has bytes in {found.name!r} that are not text"


def _as_asked(table: Table, formats: dict[str, str]) -> Table:
    """The table with whole payloads as text or as bytes, whichever the consumer asks for.

    Other types stay what they are; a consumer converts them.
    """
    columns = []
    for column in table.columns:
        if column.kind == Kind.PAYLOAD and formats.get(column.name) in ("u", "U", "vu", "z", "Z", "vz"):
            text = formats[column.name] in ("u", "U", "vu")
            column = column._replace(format="vu" if text else "vz", check=text)
        columns.append(column)
    return table._replace(columns=tuple(columns))
