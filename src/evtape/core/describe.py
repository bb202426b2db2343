"""How an event is shown. Written once for both cores."""

from __future__ import annotations

from typing import Any

from .times import iso

_SHOWN = 32  # bytes of a payload


def describe_event(event: Any) -> str:
    """An event with its time in UTC and the beginning of its payload."""
    data = event.data
    if data is None:  # made by Event.__new__ alone
        return "Event()"
    size = len(data)
    more = f"... {size:,} bytes" if size > _SHOWN else ""
    return f"Event({event.ordinal}, {iso(event.timestamp)}, {bytes(data[:_SHOWN])!r}{more})"
