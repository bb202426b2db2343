"""An event as one line of JSON, there and back: {"ordinal", "timestamp", "time", "data" or "data_base64"}.

``data`` is the payload as text where it is valid UTF-8; anything else is ``data_base64``. Either way the very same
bytes come back.
"""

from __future__ import annotations

import base64
import json

import evtape
from evtape.core.format import TIME_MAX, TIME_MIN

from ._times import iso, parse

_json = json.JSONEncoder(ensure_ascii=False).encode


def _quoted(text: str) -> str:
    """A JSON string. What is not printable is escaped, so that no terminal obeys it; it comes back all the same."""
    quoted = _json(text)
    if quoted.isprintable():
        return quoted
    return "".join([c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted])


def line_of(event: evtape.Event) -> bytes:
    """One event as a line, with its line end."""
    data = event.data
    try:
        body = f'"data":{_quoted(str(data, "utf-8"))}'
    except UnicodeDecodeError:
        body = f'"data_base64":"{base64.b64encode(data).decode()}"'
    timestamp = event.timestamp
    line = f'{{"ordinal":{event.ordinal},"timestamp":{timestamp},"time":"{iso(timestamp)}",{body}}}\n'
    return line.encode()


def event_of(line: bytes) -> tuple[bytes, int | None]:
    """Payload and timestamp of a line; None means now. Other keys are passed over. ValueError says what is wrong."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    payload, timestamp = _payload(value), _timestamp(value)
    if timestamp == 0 and not payload:
        raise ValueError("timestamp 0 with an empty payload cannot be stored: sixteen zero bytes mean a lost block")
    return payload, timestamp


def _payload(value: dict[str, object]) -> bytes:
    text, encoded = value.get("data"), value.get("data_base64")
    if isinstance(text, str) and encoded is None:
        return text.encode()
    if isinstance(encoded, str) and text is None:
        return base64.b64decode(encoded, validate=True)
    raise ValueError('no payload: give one of "data" and "data_base64", a string')


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
