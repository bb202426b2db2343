"""What every writer of a journal has to agree on: when it rolls, and what it keeps.

The settings are in ``journal.json``. The file can be deleted at any time; the next writer makes it again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal

from .. import errors
from ..core.format import INT64_MAX
from ..schema import form_of, of_form
from ..system import settings_file
from ..system.settings_file import SETTINGS
from .directory import Directory

OnFull = Literal["raise", "drop_oldest"]
ROLL_BYTES: Final = 64 << 20
_SMALLEST = 64 << 10  # of the roll sizes that evtape chooses itself
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_NS = 1_000_000_000
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", re.IGNORECASE)
_SEGMENTS = re.compile(r"(\d+)\s*segments?")

Limits = str | Iterable[str]  #: one or more of "64MiB", "1h", and to keep also "20 segments"


@dataclass(frozen=True)
class Settings:
    """How a journal rolls and what it keeps; see ``evtape.open_journal``. Times are nanoseconds; None: no limit."""

    roll_bytes: int = ROLL_BYTES
    roll_every: int | None = None
    keep_bytes: int | None = None
    keep_for: int | None = None
    keep_segments: int | None = None
    keep_at_most_bytes: int | None = None
    on_full: OnFull = "raise"
    schema: Any = None  #: what the payloads mean, as JSON has it; see ``schema.form_of``

    @property
    def forgets(self) -> bool:
        """Whether anything is ever deleted."""
        limits = (self.keep_bytes, self.keep_for, self.keep_segments, self.keep_at_most_bytes)
        return any(limit is not None for limit in limits)


_SIZES = ("roll_bytes", "keep_bytes", "keep_at_most_bytes", "keep_segments")
_TIMES = ("roll_every", "keep_for")


def checked(path: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given, those that are None left out. Raises ValueError or TypeError for bad ones."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in _TIMES:
            found[name] = _nanoseconds(path, name, value)
        elif name in _SIZES:
            found[name] = _whole(path, name, value)
        elif name == "on_full":
            if value not in ("raise", "drop_oldest"):
                raise ValueError(f"{path}: on_full must be 'raise' or 'drop_oldest', not {value!r}")
            found[name] = value
        elif name == "schema":
            found[name] = form_of(value)
    return found


def _whole(path: str, name: str, value: Any) -> int:
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise TypeError(f"{path}: {name} must be an int, not {type(value).__name__}")
    number = value.__index__()
    if not 1 <= number <= INT64_MAX:
        raise ValueError(f"{path}: {name} must be between 1 and {INT64_MAX}, not {number}")
    return int(number)


def _nanoseconds(path: str, name: str, value: Any) -> int:
    """A duration in nanoseconds: of text such as "15m", of a timedelta, or of a number of seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{path}: {name} must be a duration such as '30s', '15m', '1h' or '7d', not {value!r}")
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise TypeError(f"{path}: {name} must be a duration: text, seconds or a timedelta, not {type(value).__name__}")
    if not 0.001 <= seconds <= INT64_MAX // _NS:
        raise ValueError(f"{path}: {name} must be a duration of 1 ms or more, not {value!r}")
    return round(seconds * _NS)


def limit_of(verb: Literal["roll", "keep"], text: str) -> tuple[str, Any]:
    """The setting and its value that "64MiB", "1h" or "20 segments" stand for. Raises ValueError."""
    text = text.strip()
    if match := _SIZE.fullmatch(text):
        power = " kmgt".index(match[2].lower() or " ")
        return f"{verb}_bytes", round(float(match[1]) * (1024 if match[3] else 1000) ** power)
    if _DURATION.fullmatch(text):
        return ("roll_every" if verb == "roll" else "keep_for"), text
    if verb == "keep" and (match := _SEGMENTS.fullmatch(text)):
        return "keep_segments", int(match[1])
    more = ", or a number of segments such as '20 segments'" if verb == "keep" else ""
    raise ValueError(f"{text!r} is not a size such as 64MiB, nor a time such as 1h{more}")


def settings_of(limits: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The settings that limits stand for. Raises ValueError for two of one kind."""
    listed = list(limits)
    settings = dict(listed)
    if len(settings) < len(listed):
        raise ValueError("two limits of one kind were given")
    return settings


def from_limits(path: str, roll: Limits, keep: Limits) -> dict[str, Any]:
    """The settings for `open_journal` that texts stand for. Raises ValueError or TypeError for wrong ones."""
    found = []
    verbs: tuple[tuple[Literal["roll", "keep"], Limits], ...] = (("roll", roll), ("keep", keep))
    for verb, limits in verbs:
        for text in [limits] if isinstance(limits, str) else limits:
            if not isinstance(text, str):
                raise TypeError(f"{path}: {verb} must be text such as '64MiB' or '1h', not {type(text).__name__}")
            try:
                found.append(limit_of(verb, text))
            except ValueError as error:
                raise ValueError(f"{path}: {verb}: {error}") from None
    try:
        settings = settings_of(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    settled(path, checked(path, settings))
    return settings


def settled(path: str, given: dict[str, Any]) -> Settings:
    """The settings of a new journal. Raises ValueError where they contradict each other."""
    chosen = dict(given)
    budget = min((given[name] for name in ("keep_bytes", "keep_at_most_bytes") if name in given), default=None)
    if "roll_bytes" not in chosen and budget is not None:
        chosen["roll_bytes"] = max(min(ROLL_BYTES, budget // 8), min(_SMALLEST, budget))
    settings = Settings(**chosen)
    for name in ("keep_bytes", "keep_at_most_bytes"):
        limit = getattr(settings, name)
        if limit is not None and limit < settings.roll_bytes:
            raise ValueError(
                f"{path}: {name}={limit} is less than roll_bytes={settings.roll_bytes}, and the segment that is "
                "written is never deleted; give a larger budget or a smaller roll_bytes"
            )
    if settings.roll_every and settings.keep_for and settings.keep_for < settings.roll_every:
        raise ValueError(
            f"{path}: keep_for is shorter than roll_every, and only whole segments are deleted; "
            "give a longer keep_for or a shorter roll_every"
        )
    if settings.keep_bytes and settings.keep_at_most_bytes and settings.keep_at_most_bytes < settings.keep_bytes:
        raise ValueError(
            f"{path}: keep_at_most_bytes={settings.keep_at_most_bytes} is less than keep_bytes={settings.keep_bytes}; "
            "it is the limit at which even events are deleted that a cursor needs"
        )
    return settings


def load(directory: Directory) -> Settings | None:
    """The settings in ``journal.json``, or None if there are none that are whole."""
    try:
        known = settings_file.load(directory.file(SETTINGS))
        return None if known is None else Settings(**known)
    except (ValueError, TypeError):
        return None


def store(directory: Directory, settings: Settings, *, durable: bool) -> None:
    """Write ``journal.json``."""
    settings_file.store(directory.file(SETTINGS), dataclasses.asdict(settings), durable=durable)


def agreed(directory: Directory, given: dict[str, Any]) -> tuple[Settings, bool]:
    """The settings of the journal with those that were given, and whether they have to be stored.

    Raises ValueError if one that was given differs from the journal's own.
    """
    known = load(directory)
    if known is None:
        return settled(directory.path, given), True
    adopts = given.get("schema") is not None and known.schema is None
    for name, value in given.items():
        own = getattr(known, name)
        if value == own or (name == "schema" and adopts):
            continue
        if name == "schema":
            path = directory.path
            raise errors.schemas_differ(path, of_form(own, path, path), of_form(value, path, path))
        raise ValueError(
            f"{directory.path}: {name} is {_shown(name, own)} in this journal and not {_shown(name, value)}; leave "
            f"it out, or delete {directory.file(SETTINGS)} to give the journal other settings"
        )
    if adopts:  # for the events that are there already, too
        return dataclasses.replace(known, schema=given["schema"]), True
    return known, False


def _shown(name: str, value: Any) -> str:
    return f"{value / _NS:g} s" if name in _TIMES and value is not None else repr(value)
