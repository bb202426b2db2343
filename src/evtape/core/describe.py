"""How things are shown: an event, and objects that have a summary of labels and values."""

from __future__ import annotations

from html import escape
from typing import Any

from .times import iso

_SHOWN = 32  # bytes of a payload
_SHOWN_VALUE = 96  # characters of a value


def describe_event(event: Any) -> str:
    """An event with its time in UTC and the beginning of its payload. Written once for both cores."""
    data = event.data
    if data is None:  # made by Event.__new__ alone
        return "Event()"
    value = None if event._schema is None else event._schema.show(event)
    if value is not None:
        short = value if len(value) <= _SHOWN_VALUE else f"{value[:_SHOWN_VALUE]}..."
        return f"Event({event.ordinal}, {iso(event.timestamp)}, {short})"
    size = len(data)
    more = f"... {size:,} bytes" if size > _SHOWN else ""
    return f"Event({event.ordinal}, {iso(event.timestamp)}, {bytes(data[:_SHOWN])!r}{more})"


def line(kind: str, path: str, rows: dict[str, str]) -> str:
    """A summary as one line, for ``repr``."""
    return f"<evtape {kind} of {path!r}: {', '.join(f'{label} {value}' for label, value in rows.items())}>"


def table(kind: str, path: str, rows: dict[str, str]) -> str:
    """A summary as an HTML table, for notebooks. Every text is escaped."""
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(label)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
        for label, value in {"path": path, **rows}.items()
    )
    return f"<table><caption>evtape {escape(kind)}</caption>{body}</table>"
