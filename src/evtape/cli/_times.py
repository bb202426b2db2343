"""Times as people and other programs write them: int nanoseconds since 1970, or ISO 8601 with up to nine decimals."""

from __future__ import annotations

import datetime as dt
import functools
import re

import click

from evtape.core.format import TIME_MAX, TIME_MIN

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND = dt.timedelta(seconds=1)
_NANOSECONDS = re.compile(r"[+-]?[0-9]+")
_FRACTION = re.compile(r"([0-9W-]+[Tt ][0-9:]+)[.,]([0-9]{1,9})([Z+-].*|)")

EXAMPLE = "2026-11-22T20:59:01.123456789Z"


def iso(nanoseconds: int) -> str:
    """ISO 8601 in UTC with all nine decimals, so that ``parse`` gives the same number back."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{_whole(seconds)}.{rest:09d}Z"


@functools.lru_cache(maxsize=256)
def _whole(seconds: int) -> str:
    return (_EPOCH + seconds * _SECOND).isoformat()[:-6]


def parse(text: str) -> int:
    """Nanoseconds since 1970. A time without a zone is local, as everywhere in ``datetime``. Raises ValueError."""
    text = text.strip()
    try:
        if _NANOSECONDS.fullmatch(text):
            result = int(text)
        else:
            # datetime knows microseconds only, so the decimals are taken out and added again.
            parts = _FRACTION.fullmatch(text)
            whole, decimals = (parts[1] + parts[3], parts[2]) if parts else (text, "")
            if not parts and not {".", ","}.isdisjoint(text):  # decimals beyond the ninth would be dropped silently
                raise ValueError
            when = dt.datetime.fromisoformat(whole).astimezone(dt.UTC)
            result = (when - _EPOCH) // _SECOND * 10**9 + int(decimals.ljust(9, "0"))
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            f"{text!r} is no time; give nanoseconds since 1970 or ISO 8601, for instance {EXAMPLE}"
        ) from None
    if not TIME_MIN <= result <= TIME_MAX:
        raise ValueError(f"{text!r} is outside int64 nanoseconds ({iso(TIME_MIN)} to {iso(TIME_MAX)})")
    return result


class Time(click.ParamType):  # type: ignore[type-arg] # generic in new releases of click only
    """A time on the command line; becomes int nanoseconds."""

    name = "time"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


TIME = Time()
