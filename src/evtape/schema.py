"""What the payloads of a stream mean: a structured numpy dtype, ``"json"`` or ``"text"``.

The declaration lies next to the stream as ``<name>.schema.json``, readable, and states which stream it belongs to. It
only interprets. A stream that has lost it has lost no data, and its payloads are bytes again. A file of that name that
belongs to another stream, or that is not evtape's, is ignored. One of this stream that is damaged is an error where a
value is asked for, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from . import errors
from .core.backend import core
from .core.format import HEADER, HEADER_SIZE
from .core.times import nanoseconds
from .errors import SchemaError
from .system import settings_file
from .system.files import READ, descriptor
from .system.sidecar import PLAIN, SidecarFile, resolved

#: What a schema is declared as; ``"bytes"``, which is only for reading, ignores the one that the stream has.
Declared = npt.DTypeLike | Literal["json", "text", "bytes"]

SUFFIX: Final = ".schema.json"
FORMAT: Final = "evtape schema"
VERSION: Final = 1
MAGIC: Final = f'{{\n  "format": "{FORMAT}"'.encode()

_SIZE_MAX: Final = 1 << 20  # bytes of the file
_DEPTH_MAX: Final = 16  # of structs in structs
_LEAF = re.compile(r"[<>|](b1|[iu][1248]|f[248]|c8|c16|[SUV][1-9][0-9]*|[mM]8\[[0-9]*[a-zA-Z]+\])")
_CODES: Final = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e",
    "f4": "f", "f8": "d",
}  # fmt: skip


# ------------------------------------------------------------------------------------------ dtypes as JSON


def _form(dtype: np.dtype[Any], depth: int = 0) -> dict[str, Any]:
    """A structured dtype as JSON has it. Raises ValueError for what cannot be stored in a file."""
    if depth > _DEPTH_MAX:
        raise ValueError(f"it nests more than {_DEPTH_MAX} deep")
    fields = []
    for name in dtype.names or ():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        base, shape = field.subdtype or (field, ())
        entry: dict[str, Any] = {"name": name, "offset": offset}
        if base.names is not None:
            entry |= _form(base, depth + 1)
        elif _LEAF.fullmatch(base.str):
            entry["type"] = base.str
        else:
            raise ValueError(f"field {name!r} is of the dtype {base}, which has no fixed bytes in a file")
        if shape:
            entry["shape"] = list(shape)
        fields.append(entry)
    return {"itemsize": dtype.itemsize, "fields": fields}


def _dtype(form: Any, depth: int = 0) -> np.dtype[Any]:
    """The dtype of a form. Raises some exception for one that is not a form."""
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deep")
    formats = []
    for field in form["fields"]:
        if "fields" in field:
            base = _dtype(field, depth + 1)
        elif _LEAF.fullmatch(field["type"]):
            base = np.dtype(field["type"])
        else:
            raise ValueError(field["type"])
        formats.append(np.dtype((base, tuple(field["shape"]))) if "shape" in field else base)
    names = [field["name"] for field in form["fields"]]
    offsets = [field["offset"] for field in form["fields"]]
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": form["itemsize"]})
    _require_apart(dtype)
    return dtype


def _require_apart(dtype: np.dtype[Any]) -> None:
    """ValueError unless the dtype has fields, and no two of them share a byte."""
    spans = sorted(
        (offset, offset + field.itemsize, name) for name, (field, offset, *_) in (dtype.fields or {}).items()
    )
    if not spans or dtype.itemsize == 0:
        raise ValueError("it has no fields")
    for (_, stop, name), (start, _, other) in pairwise(spans):
        if start < stop:
            raise ValueError(f"its fields {name!r} and {other!r} overlap")


def _normal(declared: Any, path: str) -> np.dtype[Any] | Literal["json", "text", "bytes"]:
    """What was declared, without what a file cannot keep (titles, metadata)."""
    if isinstance(declared, str) and declared in ("json", "text", "bytes"):
        return declared  # type: ignore[return-value]
    try:
        dtype = np.dtype(declared)
    except TypeError:
        raise errors.not_a_schema(path, declared, "it is none") from None
    if dtype.names is None:
        raise errors.not_a_schema(path, declared, "it has no fields; name the value, as in [('value', '<f8')]")
    try:
        return _dtype(_form(dtype))
    except ValueError as error:
        raise errors.not_a_schema(path, dtype, str(error)) from None


# --------------------------------------------------------------------------------------------- values


class Schema:
    """A declaration, for the stream at ``path``. ``problem`` says why it cannot be used, or is empty.

    ``declared`` is a dtype, ``"json"`` or ``"text"``.
    """

    __slots__ = ("_pack", "declared", "decode", "dtype", "path", "problem")

    def __init__(self, declared: Any, path: str, problem: str = "") -> None:
        self.path = path
        self.problem = problem
        self.declared = declared
        self.dtype: np.dtype[Any] | None = declared if isinstance(declared, np.dtype) else None
        self._pack: Callable[[Any], bytes] | None = None
        #: The value of an event. Raises SchemaError when its payload does not fit.
        self.decode: Callable[[Any], Any] = {"json": self._json, "text": self._text, "": self._refuse}.get(
            declared if isinstance(declared, str) else "row", self._row
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self._same(other.declared)

    def _same(self, declared: Any) -> bool:
        return type(self.declared) is type(declared) and bool(self.declared == declared)

    def __hash__(self) -> int:
        return hash(self.declared)

    def __str__(self) -> str:
        if self.dtype is None:
            return repr(self.declared)
        return f"dtype({self.dtype})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema, (self.declared, self.path, self.problem)

    @property
    def is_text(self) -> bool:
        """Whether a payload is UTF-8 text."""
        return self.dtype is None

    def require_usable(self) -> Schema:
        """This schema. SchemaError if it is one that could not be read."""
        if self.problem:
            raise SchemaError(self.problem)
        return self

    # ------------------------------------------------------------------------------------- decoding

    def _refuse(self, event: Any) -> Any:
        self.require_usable()

    def _row(self, event: Any) -> Any:
        data, dtype = event.data, self.dtype
        assert dtype is not None
        if len(data) != dtype.itemsize:
            raise self._misfit(event, f"has {len(data)} bytes, but its schema {self} has {dtype.itemsize}")
        return np.frombuffer(data, dtype)[0]

    def _text(self, event: Any) -> str:
        try:
            return str(event.data, "utf-8")
        except UnicodeDecodeError as error:
            raise self._misfit(event, f"is not the text of its schema: {error}") from None

    def _json(self, event: Any) -> Any:
        try:
            return json.loads(str(event.data, "utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._misfit(event, f"is not the JSON of its schema: {error}") from None

    def _misfit(self, event: Any, text: str) -> SchemaError:
        return errors.misfit(self.path, event.ordinal, event.offset, text)

    # -------------------------------------------------------------------------------------- showing

    def show(self, event: Any) -> str | None:
        """The value of an event for people, on one line; None for a payload that does not fit."""
        try:
            value = self.decode(event)
        except SchemaError:
            return None
        if self.dtype is None:
            return repr(value) if self.declared == "text" else str(event.data, "utf-8")
        return " ".join(f"{name}={_shown(value[name])}" for name in self.dtype.names or ())

    # ------------------------------------------------------------------------------------- encoding

    def encode(self, value: Any, where: str = "") -> Any:
        """The payload of a value. What is bytes already, or a buffer for JSON or text, is its own payload.

        Raises SchemaError for a value that does not fit. ``where`` is its position in a batch, for messages.
        """
        if isinstance(value, (bytes, bytearray, memoryview)):
            size = value.nbytes if isinstance(value, memoryview) else len(value)
            if self.dtype is not None and size != self.dtype.itemsize:
                raise errors.value_misfit(self.path, where, f"has {size} bytes, but {self} has {self.dtype.itemsize}")
            return value
        self.require_usable()
        try:
            if self.dtype is not None:
                return self._packed(value)
            if self.declared == "json":
                text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
                return text.encode()
        except (ValueError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise errors.value_misfit(self.path, where, f"does not fit the schema {self}: {error}") from None
        return self._encoded_text(value, where)

    def require_rows(self, values: np.ndarray[Any, Any], size: int) -> None:
        """SchemaError unless the array has rows of this schema, or rows of as many bytes."""
        if self.dtype is None:
            return
        if size != self.dtype.itemsize or (values.dtype.names is not None and values.dtype != self.dtype):
            raise errors.array_misfit(self.path, self, values.dtype, size)

    def _encoded_text(self, value: Any, where: str) -> bytes:
        if not isinstance(value, str):
            raise errors.value_misfit(self.path, where, f"is not text but {type(value).__name__}; its schema is 'text'")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise errors.value_misfit(self.path, where, f"cannot be stored as text: {error}") from None

    def _packed(self, value: Any) -> bytes:
        assert self.dtype is not None
        if isinstance(value, (np.void, np.ndarray)) and value.ndim == 0 and value.dtype == self.dtype:
            return value.tobytes()
        if self._pack is None:
            self._pack = _packer(self.dtype)
        return self._pack(value)


def _shown(value: Any) -> str:
    """A value of a field."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    is_plain = not isinstance(value, (bytes, str)) or (text.isprintable() and text and " " not in text)
    return text if is_plain else repr(text)


# ------------------------------------------------------------------------------------------- packing


def _packer(dtype: np.dtype[Any]) -> Callable[[Any], bytes]:
    """A function that makes the bytes of a row. It raises for a value that would not come back as it was."""
    names = dtype.names or ()
    fields: Mapping[str, Any] = dtype.fields or {}
    by_offset = sorted(names, key=lambda name: fields[name][1])
    code, at = "<", 0
    for name in by_offset:
        field, offset = fields[name][:2]
        code += f"{offset - at}x{_code(field)}"
        at = offset + field.itemsize
    packed = struct.Struct(f"{code}{dtype.itemsize - at}x")
    converters = [(names.index(name), _converter(fields[name][0])) for name in by_offset]

    def pack(value: Any) -> bytes:
        row = _in_order(value, names)
        try:
            return packed.pack(*[row[i] if convert is None else convert(row[i]) for i, convert in converters])
        except (ValueError, TypeError, OverflowError, struct.error):
            for i, convert in converters:  # which one it was
                _require_fit(row[i], names[i], fields[names[i]][0], convert)
            raise

    return pack


def _require_fit(value: Any, name: str, field: np.dtype[Any], convert: Callable[[Any], Any] | None) -> None:
    try:
        struct.pack(f"<{_code(field)}", value if convert is None else convert(value))
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise ValueError(f"field {name!r} ({field}) cannot be {value!r}: {error}") from None


def _in_order(value: Any, names: tuple[str, ...]) -> Any:
    """The values of the fields, in the order of the fields."""
    if isinstance(value, Mapping):
        if set(value) != set(names):
            raise ValueError(f"its names are {sorted(map(str, value))}, not {sorted(names)}")
        return [value[name] for name in names]
    if isinstance(value, (np.void, np.ndarray)) and value.ndim == 0 and value.dtype.names is not None:
        if value.dtype.names != names:
            raise ValueError(f"its names are {list(value.dtype.names)}, not {list(names)}")
        return value[()]  # type: ignore[call-overload]
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{type(value).__name__} is not a row; give a tuple, a dict, or a row of such an array")
    if len(value) != len(names):
        raise ValueError(f"it has {len(value)} values for {len(names)} fields")
    return value


def _code(field: np.dtype[Any]) -> str:
    """How `struct` stores the field: as a number, or as bytes that a converter makes."""
    return _CODES.get(field.str[1:], f"{field.itemsize}s") if field.str[0] != ">" else f"{field.itemsize}s"


def _converter(field: np.dtype[Any]) -> Callable[[Any], Any] | None:
    """Makes what `struct` takes from a value of this field; None where it takes the value itself."""
    if field.subdtype is not None:
        return lambda value: _array_bytes(value, *field.subdtype)  # type: ignore[misc]
    if field.names is not None:
        return _packer(field)
    if field.kind == "S":
        return lambda value: _fitting(value.encode() if isinstance(value, str) else value, field.itemsize, bytes)
    if field.kind == "U":
        order = "utf-32-be" if field.str[0] == ">" else "utf-32-le"
        return lambda value: _fitting(value, field.itemsize // 4, str).encode(order)
    if field.kind == "V":
        return lambda value: _exact(value, field.itemsize)
    if field.kind == "b":
        return _truth
    if field.str[1:] in _CODES and field.str[0] == ">":
        code = f">{_CODES[field.str[1:]]}"
        return lambda value: struct.pack(code, value)
    if field.str[1:] in _CODES:
        return None
    return lambda value: _array_bytes(value, field, ())


def _truth(value: Any) -> bool:
    if value not in (False, True):
        raise ValueError("it is not true or false")
    return bool(value)


def _fitting(value: Any, most: int, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"it is {type(value).__name__}, not {kind.__name__}")
    if len(value) > most:  # type: ignore[arg-type]
        raise ValueError(f"it is longer than {most}")
    return value


def _exact(value: Any, size: int) -> bytes:
    data = value.tobytes() if isinstance(value, np.void) else bytes(_fitting(value, size, bytes))
    if len(data) != size:
        raise ValueError(f"it has {len(data)} bytes, not {size}")
    return data


def _array_bytes(value: Any, base: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The bytes of numbers, times or texts that numpy converts without a loss of kind."""
    if base.names is not None:
        return b"".join(map(_packer(base), _flat(value, shape)))
    if base.kind == "M" and not isinstance(value, (np.ndarray, np.generic, list, tuple)):
        value = np.datetime64(nanoseconds(value, "the value"), "ns")
    given = np.asarray(value)
    if base.kind == "m" and given.dtype.kind in "iO":
        given = np.array(value, base)
    if given.shape != shape:
        raise ValueError(f"its shape is {given.shape}, not {shape}")
    if base.kind in "iu" and given.dtype.kind in "iu" and given.size:  # numpy would wrap around
        limits = np.iinfo(base)
        if int(given.min()) < limits.min or int(given.max()) > limits.max:
            raise OverflowError(f"it is outside {limits.min} to {limits.max}")
        return given.astype(base).tobytes()
    if base.kind in "SU" and given.dtype.itemsize > base.itemsize:
        raise ValueError(f"it is longer than {base}")
    return given.astype(base, casting="same_kind").tobytes()


def _flat(value: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    """The elements of nested sequences."""
    if not shape:
        yield value
        return
    if len(value) != shape[0]:
        raise ValueError(f"it has {len(value)} elements, not {shape[0]}")
    for element in value:
        yield from _flat(element, shape[1:])


# ------------------------------------------------------------------------------------------ the file


def path_of(stream: str) -> str:
    """The file of the schema of the stream."""
    return resolved(stream) + SUFFIX


def declared_for(declared: Any, path: str) -> Schema | None:
    """The schema of ``schema=``; None for ``"bytes"``."""
    normal = _normal(declared, path)
    return None if isinstance(normal, str) and normal == "bytes" else Schema(normal, path)


def to_declare(declared: Any, path: str) -> Schema | None:
    """The schema of ``schema=`` for what is about to be written. Raises SchemaError if it is none."""
    if declared is None:
        return None
    schema = declared_for(declared, path)
    if schema is None:
        raise errors.bytes_for_writing(path)
    return schema


def to_store(declared: Any, path: str) -> Schema | None:
    """The same for a stream, to which nothing has happened yet. SchemaError if another file has the schema's name."""
    schema = to_declare(declared, path)
    if schema is None:
        return None
    try:
        with descriptor(path_of(path), READ | PLAIN) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode) or os.read(fd, len(MAGIC)) != MAGIC:
                raise errors.foreign_schema(path_of(path))
    except FileNotFoundError:
        pass
    except OSError:  # a link, or another user's
        raise errors.foreign_schema(path_of(path)) from None
    return schema


def load(path: str, name: str, stream: int, start_timestamp: int) -> Schema | None:
    """The schema that lies next to the stream, or the one of the journal whose segment it is, or None.

    ``path`` is how the stream is called in messages, ``name`` its absolute path, ``stream`` its descriptor. A schema
    that is damaged has a ``problem``.
    """
    data = _read(name, stream)
    if data is None:
        settings = settings_file.beside(name)
        return None if settings is None else of_journal(settings, path)[0]
    try:
        record = json.loads(data)
        belongs, intact = record["start_timestamp"], record["crc32"] == _checksum(record)
        if record["version"] != VERSION:
            return Schema("", path, errors.unknown_schema_version(path_of(name), record["version"]))
        if intact and belongs != start_timestamp:
            return None
        schema = of_form(record["payload"], path, path_of(name))
        if intact:
            return schema
    except Exception:  # noqa: BLE001 - whatever hostile JSON makes of all this
        pass
    return Schema("", path, errors.damaged_schema(path_of(name)))


def of_journal(settings: str, path: str) -> tuple[Schema | None, bool]:
    """The schema in the settings of a journal, and whether there are settings. ``path`` is for messages."""
    try:
        known = settings_file.load(settings)
    except (ValueError, OSError):
        return Schema("", path, errors.damaged_schema(settings)), True
    if known is None:
        return None, False
    form = known.get("schema")
    return None if form is None else of_form(form, path, settings), True


def form_of(schema: Schema) -> Any:
    """The declaration as JSON has it: ``"json"``, ``"text"``, or the fields of a dtype."""
    return schema.declared if schema.dtype is None else _form(schema.dtype)


def of_form(form: Any, path: str, file: str) -> Schema:
    """The schema of a form that is in ``file``. One that is not a form has a ``problem``."""
    try:
        return Schema(form if form in ("json", "text") else _dtype(form), path)
    except Exception:  # noqa: BLE001 - whatever hostile JSON makes of it
        return Schema("", path, errors.damaged_schema(file))


def _read(name: str, stream: int) -> bytes | None:
    file = SidecarFile(resolved(name), SUFFIX, MAGIC, stream)
    try:
        return file.read(_SIZE_MAX)
    finally:
        file.close()


def store(schema: Schema, name: str, stream: int, start_timestamp: int) -> None:
    """Make the file of the schema durably, whole or not at all.

    Replaces one of evtape's that belongs to another stream.

    Raises SchemaError if a file that is not evtape's has the name, OSError if it cannot be made.
    """
    record = {"format": FORMAT, "version": VERSION, "start_timestamp": start_timestamp, "payload": form_of(schema)}
    record["crc32"] = _checksum(record)
    file = SidecarFile(resolved(name), SUFFIX, MAGIC, stream)
    try:
        stored = not file.is_foreign() and file.write(f"{json.dumps(record, indent=2)}\n".encode())
    except OSError as error:
        raise errors.with_path(error, path_of(name), "storing the schema") from None
    finally:
        file.close()
    if not stored:
        raise errors.foreign_schema(path_of(name))


def carry_over(source: str, target: str) -> None:
    """Give the stream ``target``, which was made of ``source``, its schema. Raises what ``store`` raises."""
    with descriptor(source, READ) as fd:
        schema = load(source, os.path.abspath(source), fd, _start_of(fd))
    if schema is not None and not schema.problem:
        with descriptor(target, READ) as fd:
            store(schema, os.path.abspath(target), fd, _start_of(fd))


def _start_of(fd: int) -> int:
    """StartTimestamp of the stream, or 0 for less than a header."""
    header = os.read(fd, HEADER_SIZE)
    return int(HEADER.unpack(header)[2]) if len(header) == HEADER_SIZE else 0


def discard(name: str, stream: int) -> None:
    """Remove the file of a schema, if it is one: the stream that it belonged to has lost its name."""
    file = SidecarFile(resolved(name), SUFFIX, MAGIC, stream)
    try:
        file.remove()
    finally:
        file.close()


def _checksum(record: Mapping[str, Any]) -> str:
    """CRC-32 of all the rest, however it is laid out."""
    rest = {key: value for key, value in record.items() if key != "crc32"}
    return f"{core.crc32(json.dumps(rest, sort_keys=True, separators=(',', ':')).encode()):08x}"
