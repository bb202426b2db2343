"""Times as people and other programs write them: int nanoseconds since 1970, or ISO 8601 with up to nine decimals.

There are two readers. ``parse`` is for data: one text has one meaning, wherever and whenever it is read. ``understand``
is for the command line: there a time without a zone is local, and ``-1h``, ``10 min ago`` and ``yesterday`` are times
too. What is printed always is UTC and says so by its ``Z``.

Relative times are read by dateparser. It is maintained and widely used (parsedatetime, its nearest neighbour, had its
last release in 2020), and its parser of relative times can be used alone, so that "03/04" and "July" stay errors
instead of becoming guesses.
"""

from __future__ import annotations

import datetime as dt
import re

import click

from evtape.core.format import TIME_MAX, TIME_MIN
from evtape.core.times import EXAMPLE, iso, parse_iso

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND = dt.timedelta(seconds=1)
_MICROSECOND = dt.timedelta(microseconds=1)
_NANOSECONDS = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[1-9][0-9]*")
_SECONDS = re.compile(r"[1-8][0-9]{9}[.,][0-9]+")
_WORDS = re.compile(r"[+-]?[A-Za-z0-9:., ]+")
# Other units for the years 2001 to 2262: their digits, their name, and nanoseconds per unit. As nanoseconds these are
# the first 116 days of 1970.
_UNITS = {10: ("seconds", 10**9), 13: ("milliseconds", 10**6), 16: ("microseconds", 10**3)}
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_CLOCK = re.compile(r"[0-9]:[0-9]|[0-9 ][ap]m\b|\bnoon\b|\bmidnight\b|" + "|".join(_DAYS))


# ----------------------------------------------------------------------------------------------------------------- data


def parse(text: str) -> int:
    """Nanoseconds since 1970, from a number of them or from ISO 8601 with its zone. Raises ValueError."""
    result = _exact(text, local=False)
    if result is None:
        raise ValueError(
            f"{text!r} is not a time; give nanoseconds since 1970 or ISO 8601 with a zone, for instance {EXAMPLE}"
        )
    return result


def _exact(text: str, local: bool) -> int | None:
    """The time, or None where it has another form. ``local``: what a time without a zone is; else it is an error."""
    text = text.strip()
    if _NANOSECONDS.fullmatch(text):
        return _stored(text, int(text) if len(text) < 25 else TIME_MAX + 1)
    try:
        result, aware = parse_iso(text)
    except ValueError:
        return None
    if not aware and not local:
        raise ValueError(f"{text!r} has no zone; add Z for UTC, or an offset such as +01:00")
    return _stored(text, result if aware else _from_local(text, result))


def _from_local(text: str, clock: int) -> int:
    """The time at which local clocks show what clocks in UTC show at ``clock``."""
    seconds, rest = divmod(clock, 10**9)
    return _since_epoch(text, (_EPOCH + seconds * _SECOND).replace(tzinfo=None)) + rest


def _stored(text: str, result: int) -> int:
    if not TIME_MIN <= result <= TIME_MAX:
        raise _outside(text)
    return result


def _outside(text: str) -> ValueError:
    return ValueError(f"{text!r} is outside int64 nanoseconds ({iso(TIME_MIN)} to {iso(TIME_MAX)})")


# --------------------------------------------------------------------------------------------------------- command line


def understand(text: str, now: dt.datetime | None = None) -> int:
    """A time as a person writes it, as nanoseconds since 1970. Raises ValueError.

    A time without a zone is local time; where clocks are set back and it happens twice, the earlier one. ``now`` is
    aware, by default the present.
    """
    text = text.strip()
    _require_nanoseconds(text)
    result = _exact(text, local=True)
    if result is None and _WORDS.fullmatch(text) and not text.isdecimal():
        result = _relative(text, now or dt.datetime.now(dt.UTC))
    if result is None:
        raise ValueError(
            f"{text!r} is not a time; give nanoseconds since 1970, ISO 8601 (for instance {EXAMPLE}), "
            "or a time such as -1h, '10 min ago', today, 'yesterday 14:00'"
        )
    return result


def _require_nanoseconds(text: str) -> None:
    """ValueError for a number in another unit, which would be taken for a time in 1970."""
    unit, scale = _UNITS.get(len(text), ("", 0)) if _NUMBER.fullmatch(text) else ("", 0)
    value = int(text) if unit else 0
    if 0 < value * scale <= TIME_MAX:
        raise ValueError(
            f"{text} looks like {unit} since 1970, and plain numbers are nanoseconds; write {value * scale} or "
            f"{iso(value * scale)} (if it is nanoseconds, write {iso(value)})"
        )
    if _SECONDS.fullmatch(text):
        whole, decimals = text[:10], text[11:20].ljust(9, "0")
        value = int(whole + decimals)
        raise ValueError(
            f"{text} looks like seconds since 1970, and plain numbers are nanoseconds; write {value} or {iso(value)}"
        )


def _relative(text: str, now: dt.datetime) -> int | None:
    """A time that is told by its distance from ``now``. None when it is not one."""
    words = text.lower()
    if words in _DAYS:  # the day begins at its midnight, as in journalctl
        day = now.astimezone().replace(tzinfo=None) + _DAYS[words] * dt.timedelta(days=1)
        return _since_epoch(text, day.replace(hour=0, minute=0, second=0, microsecond=0))
    try:
        from dateparser.date import DateDataParser
    except ModuleNotFoundError:
        raise ValueError(
            f"{text!r} needs dateparser; run: pip install 'evtape[cli]' (in a clone: pip install '.[cli]')"
        ) from None
    if words.startswith("+"):
        words = f"in {words[1:]}"
    # A distance is the same in every zone, but not across a change of the clocks: it is subtracted in UTC.
    zone = None if _CLOCK.search(words) else dt.UTC
    base = now.astimezone(zone).replace(tzinfo=None)
    settings = {"PARSERS": ["relative-time"], "RELATIVE_BASE": base, "TIMEZONE": "UTC"}
    found = DateDataParser(languages=["en"], settings=settings).get_date_data(words).date_obj
    if found is None:
        return None
    return _since_epoch(text, found.replace(tzinfo=zone))


def _since_epoch(text: str, when: dt.datetime) -> int:
    try:
        utc = when.astimezone(dt.UTC)
    except (ValueError, OverflowError, OSError):  # local time at the ends of what a datetime can be
        raise _outside(text) from None
    return _stored(text, (utc - _EPOCH) // _MICROSECOND * 1000)


class Time(click.ParamType):  # type: ignore[type-arg] # generic in new releases of click only
    """A time on the command line; becomes int nanoseconds."""

    name = "time"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return understand(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


TIME = Time()
