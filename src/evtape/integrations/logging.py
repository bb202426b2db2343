"""A handler of the standard library's ``logging`` that appends each record to a stream."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from json.encoder import JSONEncoder, encode_basestring
from keyword import iskeyword
from typing import Any, Final

from evtape import errors
from evtape.journal.settings import Limits
from evtape.stream.writer import Durability

from ._process_writer import REFUSALS, EndingError, ProcessWriter

__all__ = ["Handler"]

_ToText = Callable[[logging.LogRecord], str]

_quoted: Callable[[str], str] = encode_basestring  # a string as the encoder makes it, in C


class Handler(logging.Handler):
    """Appends each record as one event, whose timestamp is the record's time.

    The payload is the formatted record as UTF-8, or with ``json=True`` a JSON object: ``time``, ``level``, ``logger``,
    ``message``, then ``exception`` and ``stack`` where there are any, then the fields of ``extra``. The formatter is
    not used then. A value that JSON has no form for becomes its ``str()``. A field named as one of those six gets an
    underscore at its end.

    ``path`` names the stream of this process; ``{pid}`` in it stands for the process id. If another writer has the
    stream open, or after a fork, ``app.tape`` becomes ``app.<pid>.tape``. ``durability`` and ``interval`` are those of
    ``evtape.open``, and ``flush()`` is ``sync()``. ``delay`` opens the stream at the first record.

    ``roll`` and ``keep`` make a journal: ``roll="1h"`` or ``"64MiB"`` says when a segment ends, ``keep="7d"``,
    ``"10GB"`` or ``"20 segments"`` what is kept. Each may be a list. A path at which there is a journal needs neither.

    Threads emit at the same time: the lock of the handler is not held, so a formatter of your own must allow that.
    Errors go to ``handleError``, as with the other handlers. O(size of the record).
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        json: bool = False,
        durability: Durability = "close",
        interval: float = 1.0,
        delay: bool = False,
        roll: Limits = (),
        keep: Limits = (),
        level: int | str = logging.NOTSET,
    ) -> None:
        # First: the module would flush a handler that has no writer when the process ends.
        self._writer = ProcessWriter(path, durability=durability, interval=interval, delay=delay, roll=roll, keep=keep)
        try:
            super().__init__(level)
        except BaseException:
            self._writer.close()
            raise
        self._is_json = json
        self._has_own_filter = type(self).filter is not logging.Handler.filter
        self._choose()

    @property
    def path(self) -> str:
        """The stream that this process appends to."""
        return self._writer.path

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]
        """Emit the record if the filters let it through. Without the lock of the handler: a writer needs none."""
        if self.filters or self._has_own_filter:
            passed: bool | logging.LogRecord = self.filter(record)
            if not passed:
                return False
            if isinstance(passed, logging.LogRecord):  # from Python 3.12 on, a filter may replace the record
                record = passed
        self.emit(record)
        return record

    def emit(self, record: logging.LogRecord) -> None:
        """Append the record."""
        try:
            if self.formatter is not self._formatter:
                self._choose()
            if self._text is not None:
                text = self._text(record)
            elif record.exc_info or record.exc_text or record.stack_info:
                text = self.format(record)
            else:
                text = record.getMessage()
            # A lone surrogate has no UTF-8; its escape is the one of JSON. And this is int(), in half the time.
            data, timestamp = text.encode("utf-8", "backslashreplace"), (record.created * 1e9).__trunc__()
            try:
                self._writer.append(data, timestamp)
                return
            except REFUSALS as error:
                refusal = error  # handled below, so that a second exception does not show this one
            self._writer.append_again(refusal, data, timestamp)
        except RecursionError:  # as in the standard library: to report it would recurse, too
            raise
        except EndingError:
            pass
        except Exception:  # noqa: BLE001 - a record that cannot be stored must not end the program
            self.handleError(record)

    def _choose(self) -> None:
        """Choose how records become text. None is for a message alone, which needs no call of a formatter."""
        formatter = self.formatter
        text: _ToText | None = self.format
        if self._is_json:
            text = _json_text()
        elif type(self).format is logging.Handler.format:
            text = _plain_text(self.format, formatter)
        self._text, self._formatter = text, formatter

    def flush(self) -> None:
        """Make every record so far durable: they survive power loss when this returns. Raises OSError."""
        try:
            self._writer.sync()
        except errors.Error as error:  # `logging.shutdown` goes on to the other handlers after an OSError alone
            raise OSError(errno.EIO, str(error)) from error

    def close(self) -> None:
        """Close the stream."""
        try:
            self._writer.close()
        finally:
            super().close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path} ({logging.getLevelName(self.level)})>"


# -------------------------------------------------------------------------------------------------- text, in less time

# What `logging.Formatter` reads of itself; one that has more, or is of another class, formats for itself.
_PLAIN: Final = frozenset({"_style", "_fmt", "datefmt", "converter", "default_time_format", "default_msec_format"})
_METHODS: Final = ("format", "formatMessage", "formatTime", "usesTime")
_ORIGINAL: Final = [getattr(logging.Formatter, name) for name in _METHODS]  # other code may put its own there


def _plain_text(format: _ToText, formatter: logging.Formatter | None) -> _ToText | None:
    """``format`` at a quarter of its cost if the formatter is a plain one, or None for the message alone.

    Most of the time goes into the time, so the text of a second is kept. A function is made for the layout, because the
    interpreter fills in a layout that it knows twice as fast.
    """
    if formatter is None:
        return None
    if type(formatter) is not logging.Formatter:
        return format
    style = formatter._style
    if (
        type(style) is not logging.PercentStyle
        or not vars(formatter).keys() <= _PLAIN
        or getattr(style, "_defaults", None)
        or [getattr(logging.Formatter, name) for name in _METHODS] != _ORIGINAL
    ):
        return format
    if style._fmt == "%(message)s":
        return None
    layout, names = _by_position(style._fmt)
    if not all(name.isascii() and name.isidentifier() and not iskeyword(name) for name in names):
        return format
    values = {"message": "record.getMessage()", "asctime": "time_text(record)"}
    fields = "".join(f"{values.get(name, f'record.{name}')}, " for name in names)
    made: dict[str, Any] = {"format": format, "time_text": _time_text(formatter)}
    exec(_TEXT.format(layout=layout, fields=fields), made)
    return made["text"]  # type: ignore[no-any-return]


# `format` says what is wrong with a record, or can do what this cannot.
_TEXT: Final = """
def text(record):
    if record.exc_info or record.exc_text or record.stack_info:
        return format(record)
    try:
        return {layout!r} % ({fields})
    except (AttributeError, TypeError, ValueError):
        return format(record)
"""


def _by_position(layout: str) -> tuple[str, list[str]]:
    """``"%(name)s: %(message)s"`` as ``"%s: %s"`` and the names."""
    names: list[str] = []

    def strip(found: re.Match[str]) -> str:
        if found[1] is None:  # %%
            return found[0]
        names.append(found[1])
        return "%"

    return re.sub(r"%%|%\((\w+)\)", strip, layout), names


def _time_text(formatter: logging.Formatter) -> _ToText:
    """What ``formatter.formatTime`` returns. The text of a second and that of a millisecond are kept."""
    datefmt = formatter.datefmt
    last: tuple[float, float, float, str, str] = (0.0, 0.0, 0.0, "", "")  # in one object, for threads

    def text(record: logging.LogRecord) -> str:
        nonlocal last
        created, milliseconds = record.created, record.msecs
        first, end, known_milliseconds, second, shown = last
        is_known = first <= created < end
        if not is_known or known_milliseconds != milliseconds:
            if not is_known:
                first = created // 1
                second = time.strftime(datefmt or formatter.default_time_format, formatter.converter(first))
            layout = None if datefmt else formatter.default_msec_format
            shown = second if layout is None else layout % (second, milliseconds)
            last = (first, first + 1, milliseconds, second, shown)
        return shown

    return text


# ---------------------------------------------------------------------------------------------------------------- JSON

# The attributes that every record has, or that a formatter adds; the others are those of `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OWN: Final = frozenset({"time", "level", "logger", "message", "exception", "stack"})
_CONSTANTS: Final = {None: "null", True: "true", False: "false"}
_TRACEBACK: Final = logging.Formatter()
_encode: Final = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str).encode


def _json_text() -> _ToText:
    last: tuple[int, str] = (0, "1970-01-01T00:00:00")
    heads: dict[tuple[str, str], str] = {}

    def head(level: str, logger: str) -> str:
        """The part that the records of a logger have in common."""
        if len(heads) > 1000:  # names made at run time
            heads.clear()
        text = heads[level, logger] = f'Z","level":{_quoted(level)},"logger":{_quoted(logger)},"message":'
        return text

    def text(record: logging.LogRecord) -> str:
        nonlocal last
        level, logger = record.levelname, record.name
        microseconds = int(record.created * 1e9) // 1000  # those of the event
        second = microseconds // 1_000_000
        known, shown = last
        if known != second:
            shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            last = (second, shown)
        middle = heads.get((level, logger)) or head(level, logger)
        found = f'{{"time":"{shown}.{microseconds % 1_000_000:06d}{middle}{_quoted(record.getMessage())}'
        if record.exc_info or record.exc_text or record.stack_info:
            found += "".join(_tracebacks(record))
        values = record.__dict__
        if len(values) - ("message" in values) - ("asctime" in values) > _USUAL:
            found += "".join(_extra(values))
        return found + "}"

    return text


def _tracebacks(record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info and not record.exc_text:
        record.exc_text = _TRACEBACK.formatException(record.exc_info)  # kept there for the next handler
    if record.exc_text:
        yield f',"exception":{_quoted(record.exc_text)}'
    if record.stack_info:
        yield f',"stack":{_quoted(record.stack_info)}'


_USUAL: Final = len(vars(logging.makeLogRecord({})))


def _extra(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in list(values.items()):
        if name not in _STANDARD:
            yield f",{_quoted(f'{name}_' if name in _OWN else str(name))}:{_value(value)}"


def _value(value: Any) -> str:
    kind = type(value)
    try:
        if kind is str:
            return _quoted(value)
        if kind is int:  # the encoder needs ten times as long to begin
            return repr(value)
        return _CONSTANTS[value] if value is None or kind is bool else _encode(value)
    except Exception:  # noqa: BLE001 - a loop, a key that is not text, NaN, or whatever `str` of it raised
        try:
            return _quoted(str(value))
        except Exception:  # noqa: BLE001
            return _quoted(f"<{kind.__name__} that has no str()>")
