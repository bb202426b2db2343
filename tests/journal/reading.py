"""What the tests of journals share."""

from __future__ import annotations

from typing import Any


def read_on(events: Any, error: type[Exception]) -> tuple[list[int], list[Any]]:
    """The ordinals of all events that an iteration gives, which goes on after each `error`; and those errors."""
    ordinals: list[int] = []
    errors: list[Any] = []
    iterator = iter(events)
    while True:
        try:
            event = next(iterator, None)
        except error as met:
            errors.append(met)
            continue
        if event is None:
            return ordinals, errors
        ordinals.append(event.ordinal)
