"""An event as one line of JSON, there and back: {"ordinal", "timestamp", "time", and the payload}.

The kind of the payload is chosen for a whole run, so that every line has the same keys:

    text    "data": a string            the payload must be UTF-8
    base64  "data_base64": a string     any payload
    hex     "data_hex": a string        any payload
    json    "data_json": a value        the payload must be JSON

From the first three the very same bytes come back. From ``json`` the text of the value comes back: line breaks between
its tokens are spaces then, and what is not printable is escaped.

Where no kind is chosen, the schema of the stream does: "json" and "text" mean these kinds, everything else base64. With
a schema of fields there is also "value", an object of them for people and programs; it is not read back.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

import click
import numpy as np

import evtape
from evtape.core.format import TIME_MAX, TIME_MIN
from evtape.core.times import iso

from . import WRONG
from ._times import parse

_json = json.JSONEncoder(ensure_ascii=False).encode
_SPACE = " \t\n\r"


class KindError(click.ClickException):
    """A payload is not of the kind that was asked for: exit code 2."""

    exit_code = WRONG


def _quoted(text: str) -> str:
    """A JSON string. What is not printable is escaped, so that no terminal obeys it; it comes back all the same."""
    return _printable(_json(text))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join([c if c.isprintable() else json.dumps(c)[1:-1] for c in text])


# ------------------------------------------------------------------------------------------------------------- to lines


def _text(data: memoryview) -> str:
    return f'"data":{_quoted(str(data, "utf-8"))}'


def _base64(data: memoryview) -> str:
    return f'"data_base64":"{base64.b64encode(data).decode()}"'


def _hex(data: memoryview) -> str:
    return f'"data_hex":"{data.hex()}"'


def _value(data: memoryview) -> str:
    text = str(data, "utf-8").strip(_SPACE)
    _decoder.decode(text)
    for space in "\t\n\r":  # between tokens; inside a string they would not be JSON
        text = text.replace(space, " ")
    return f'"data_json":{_printable(text)}'


_KINDS: dict[str, Callable[[memoryview], str]] = {"text": _text, "json": _value, "hex": _hex, "base64": _base64}
_NAMES = {"text": "UTF-8 text", "json": "JSON"}
KINDS = tuple(_KINDS)
DEFAULT = "base64"


def liner(path: str, chosen: str | None) -> Callable[[evtape.Event], bytes]:
    """What makes a line, with its line end, of an event of the stream at ``path``."""

    def line_of(event: evtape.Event) -> bytes:
        timestamp, schema = event.timestamp, event._schema
        kind = chosen or _kind_of(schema)
        try:
            body = _fields(event) if schema is not None and schema.dtype is not None else ""
            body += _KINDS[kind](event.data)
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise KindError(
                f"{path}: event {event.ordinal} is not {_NAMES[kind]}: {reason}; give another --data"
            ) from None
        return f'{{"ordinal":{event.ordinal},"timestamp":{timestamp},"time":"{iso(timestamp)}",{body}}}\n'.encode()

    return line_of


def _kind_of(schema: Any) -> str:
    declared = None if schema is None else schema.declared
    return declared if isinstance(declared, str) and declared in _KINDS else DEFAULT


def _fields(event: evtape.Event) -> str:
    """The fields of a payload; null for one that does not fit."""
    try:
        row = event.value
    except evtape.SchemaError:
        row = None
    return f'"value":{_printable(_json(_plain(row)))},'


def _plain(value: Any) -> Any:
    """A value of a field as JSON has it: times as text, bytes as text or in hex, null for NaN, NaT and infinity."""
    if isinstance(value, np.void):
        return {name: _plain(value[name]) for name in value.dtype.names} if value.dtype.names else value.tobytes().hex()
    if isinstance(value, np.ndarray):
        return [_plain(element) for element in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.complexfloating):
        return [_plain(value.real), _plain(value.imag)]
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


# ----------------------------------------------------------------------------------------------------------- from lines


def _integer(text: str) -> int | str:
    """An int where it can be a timestamp; int() refuses very long ones, which are JSON all the same."""
    return int(text) if len(text) < 25 else text


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON value")


_decoder = json.JSONDecoder(parse_int=_integer, parse_constant=_no_constant)


def event_of(line: bytes) -> tuple[bytes, int | None]:
    """Payload and timestamp of a line; None means now. Other keys are passed over. ValueError says what is wrong."""
    try:
        text = line.decode(json.detect_encoding(line), "surrogatepass").strip(_SPACE)
        value = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    payload, timestamp = _payload(value, text), _timestamp(value)
    if timestamp == 0 and not payload:
        raise ValueError("timestamp 0 with an empty payload cannot be stored: sixteen zero bytes mean a lost block")
    return payload, timestamp


def _payload(value: dict[str, object], line: str) -> bytes:
    keys = [key for key in ("data", "data_base64", "data_hex") if value.get(key) is not None]
    keys += ["data_json"] if "data_json" in value else []  # where null is a value
    if keys == ["data_json"]:
        return _source(line, "data_json").encode()
    text = value[keys[0]] if len(keys) == 1 else None
    if not isinstance(text, str):
        raise ValueError(
            'no payload: give one of "data", "data_base64" and "data_hex", a string, or "data_json", any value'
        )
    if keys == ["data"]:
        return text.encode()
    return base64.b64decode(text, validate=True) if keys == ["data_base64"] else bytes.fromhex(text)


def _source(line: str, key: str) -> str:
    """How the value of ``key`` is written in ``line``, which is a JSON object: decoding would lose digits and order."""

    def skip(at: int) -> int:
        while line[at] in _SPACE:
            at += 1
        return at

    found, at = "", skip(1)
    while line[at] != "}":
        name, at = _decoder.raw_decode(line, at)
        start = skip(skip(at) + 1)  # after the colon
        _, end = _decoder.raw_decode(line, start)
        if name == key:
            found = line[start:end]
        at = skip(end)
        if line[at] == ",":
            at = skip(at + 1)
    return found


def _timestamp(value: dict[str, object]) -> int | None:
    timestamp, time = value.get("timestamp"), value.get("time")
    if timestamp is None and time is None:
        return None
    if timestamp is None and isinstance(time, str):
        return parse(time)
    if type(timestamp) is not int:
        raise ValueError(f'"timestamp" must be an int of nanoseconds, not {timestamp!r}')
    if not TIME_MIN <= timestamp <= TIME_MAX:
        raise ValueError(f"timestamp {timestamp} is outside int64 nanoseconds")
    return timestamp
