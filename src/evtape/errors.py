"""The exceptions of evtape and every text they carry.

Both cores raise through the functions below, so that a message is written once and the same on both.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import warnings
from types import FrameType
from typing import Any

from .core.format import INT64_MAX, SIZE_MAX, TIME_MAX, TIME_MIN, Reason

_ROOT = __name__.partition(".")[0]


class Error(Exception):
    """Base of the exceptions that are evtape's own."""


class FormatError(Error):
    """The file is not a stream, or its header cannot be used."""


class RewoundError(FormatError):
    """The stream was cut below what this reader has seen; it may have grown again since. Open it again."""


class ReplacedError(Error):
    """The name of a stream leads to another stream now: one that was followed, whose events were all delivered, or one
    that a partition is of."""


class CursorError(Error):
    """A cursor does not fit its stream: it is another stream's, or stands where recovery has cut."""


class LateError(Error):
    """An event of a merge came after events of later times were delivered. Its attribute ``event`` is that event."""

    def __init__(self, message: str, event: Any = None) -> None:
        super().__init__(message, event)
        self.event = event

    def __str__(self) -> str:
        return str(self.args[0])


class CorruptError(Error):
    """An event of the stream is damaged.

    Attributes: ``ordinal`` of the event, ``offset`` (its byte position), ``reason`` (``"checksum"``, ``"size"``,
    ``"zero"``; see docs/format.md).
    """

    def __init__(self, message: str, ordinal: int = -1, offset: int = -1, reason: Reason | None = None) -> None:
        super().__init__(message, ordinal, offset, reason)
        self.ordinal = ordinal
        self.offset = offset
        self.reason: Reason | None = reason

    def __str__(self) -> str:
        return str(self.args[0])


class SchemaError(Error, ValueError):
    """A payload or a value does not fit the schema of its stream, or the schema cannot be used.

    Its attribute ``ordinal`` is that of the event, or -1.
    """

    def __init__(self, message: str, ordinal: int = -1) -> None:
        super().__init__(message, ordinal)
        self.ordinal = ordinal

    def __str__(self) -> str:
        return str(self.args[0])


class MissingError(CorruptError):
    """Events of a journal are missing: a segment was deleted or renamed, or is not readable, or lost events.

    The ordinals that are missing are ``ordinal`` up to, and without, ``stop``.
    """

    def __init__(self, message: str, ordinal: int = -1, stop: int = -1) -> None:
        super().__init__(message, ordinal)
        self.stop = stop
        self.args = (message, ordinal, stop)


class ExpiredError(Error, IndexError):
    """The event was deleted, because the journal keeps only the newer ones.

    Attributes: ``ordinal`` of the event, ``first_ordinal`` (the first event that is left).
    """

    def __init__(self, message: str, ordinal: int = -1, first_ordinal: int = -1) -> None:
        super().__init__(message, ordinal, first_ordinal)
        self.ordinal = ordinal
        self.first_ordinal = first_ordinal

    def __str__(self) -> str:
        return str(self.args[0])


class TruncatedError(Error):
    """The file is shorter than what its header publishes, or became so while it was read."""


class LockedError(Error):
    """Another writer has the stream open."""


class ReadOnlyError(Error):
    """A write on a stream that was opened for reading, or that this process may not write."""


class ClosedError(Error, ValueError):
    """Use of a stream after ``close()``."""


class RecoveryWarning(UserWarning):
    """Opening for append found the tail of an interrupted writer and repaired the stream. Has the ``report`` of it."""

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class SidecarWarning(UserWarning):
    """A file that is not evtape's has the name of a stream's sidecar, so the stream has none."""


def payload_too_large(path: str, size: int, where: str = "") -> ValueError:
    return ValueError(f"{path}: payload{where} of {size} bytes is larger than {SIZE_MAX} (2**32 - 1); split it")


def not_a_payload(path: str, value: Any, where: str = "") -> Exception:
    """What is wrong with ``value``: no buffer (TypeError), or Python objects or not contiguous (ValueError)."""
    if getattr(getattr(value, "dtype", None), "hasobject", False):
        return ValueError(f"{path}: payload{where} is an array of Python objects, which have no bytes to store")
    try:
        memoryview(value)
    except TypeError:
        hint = "; encode it first" if isinstance(value, str) else ""
        kind = type(value).__name__
        return TypeError(f"{path}: payload{where} must be a contiguous bytes-like object, not {kind}{hint}")
    except Exception as error:  # noqa: BLE001 - whatever the object's own buffer method raises is what is wrong
        return ValueError(f"{path}: payload{where} cannot be read: {error}")
    return ValueError(f"{path}: payload{where} is not contiguous; pass a contiguous copy of it")


def zero_event(path: str, where: str = "") -> ValueError:
    return ValueError(
        f"{path}: timestamp 0 with an empty payload{where} cannot be stored: sixteen zero bytes mean a lost block"
    )


def timestamp_out_of_range(path: str, value: int) -> OverflowError:
    return OverflowError(f"{path}: timestamp {value} is outside int64 nanoseconds ({TIME_MIN} to {TIME_MAX})")


def not_a_timestamp(path: str, value: Any) -> TypeError:
    return TypeError(
        f"{path}: timestamp must be an int of nanoseconds, an aware datetime, a datetime64 or ISO 8601 text, "
        f"not {type(value).__name__}"
    )


def not_a_sequence(path: str, what: str, value: Any) -> TypeError:
    return TypeError(f"{path}: {what} must be a sequence, one per event, not {type(value).__name__}")


def lengths_differ(path: str, payloads: int, timestamps: int) -> ValueError:
    return ValueError(f"{path}: {payloads} payloads but {timestamps} timestamps; give one timestamp per payload")


def closed(path: str) -> ClosedError:
    return ClosedError(f"{path}: the stream is closed; open it again")


def require_durability(path: str, durability: str, interval: float) -> None:
    """ValueError unless these are ways to make events durable."""
    if durability not in ("none", "close", "interval", "full"):
        raise ValueError(f"{path}: durability must be 'none', 'close', 'interval' or 'full', not {durability!r}")
    if not 0 < interval <= threading.TIMEOUT_MAX:
        raise ValueError(f"{path}: interval must be seconds above 0, up to {threading.TIMEOUT_MAX}, not {interval}")


def require_index(path: str, index: Any) -> None:
    """TypeError unless ``index`` is True, False or None."""
    if index is not None and not isinstance(index, bool):
        raise TypeError(f"{path}: index must be True, False or None, not {index!r}")


def require_size(path: str, what: str, value: int) -> None:
    """ValueError unless ``value`` can be the size of a file."""
    if not 0 <= value <= INT64_MAX:
        raise ValueError(f"{path}: {what} must be between 0 and {INT64_MAX} bytes, not {value}")


def require_bytes(path: str, fd: int, size: int) -> None:
    """FormatError for a file that has fewer bytes than its size says, as in /sys; it cannot be mapped."""
    if size and hasattr(os, "pread") and not os.pread(fd, 1, size - 1) and os.fstat(fd).st_size >= size:
        raise FormatError(f"{path}: not a regular file: it has fewer bytes than the {size} of its size")


def naive_time(path: str, value: Any) -> ValueError:
    return ValueError(
        f"{path}: the time {value} has no zone; for UTC add tzinfo=datetime.UTC or 'Z', "
        "for local time call .astimezone() or add the offset, as in +01:00"
    )


def not_iso(path: str, value: str, example: str) -> ValueError:
    return ValueError(f"{path}: {value!r} is not an ISO 8601 time; write it as {example}")


def in_memory(path: str) -> io.UnsupportedOperation:
    return io.UnsupportedOperation(f"{path}: the stream is in memory and has no place for a cursor; open a file")


def not_a_stream_in_memory(path: str, value: Any) -> Exception:
    """What is wrong with ``value``: no buffer (TypeError), or one that is not contiguous (ValueError)."""
    try:
        memoryview(value)
    except TypeError:
        hint = "; to read a file use evtape.open" if isinstance(value, (str, os.PathLike)) else ""
        return TypeError(f"{path}: the bytes of a stream are in a bytes-like object, not {type(value).__name__}{hint}")
    except Exception as error:  # noqa: BLE001 - whatever the object's own buffer method raises is what is wrong
        return ValueError(f"{path}: the buffer cannot be read: {error}")
    return ValueError(f"{path}: the buffer is not contiguous; pass a contiguous copy of it")


def busy(path: str) -> RuntimeError:
    return RuntimeError(f"{path}: the stream is busy in this thread; a signal handler or finalizer cannot use it now")


def forked_inside(path: str) -> RuntimeError:
    return RuntimeError(f"{path}: the process was forked while another thread was in this iterator; make a new one")


def forked_writer(path: str) -> ReadOnlyError:
    return ReadOnlyError(
        f"{path}: this writer belongs to the parent process, which goes on writing it; "
        "open a stream for each process, with the process id in its name"
    )


def truncated(path: str, size: int, needed: int) -> TruncatedError:
    return TruncatedError(
        f"{path}: the file has {size} bytes but its header publishes {needed}; see 'evtape verify' and 'evtape recover'"
    )


def rewound(path: str, before: int, now: int) -> RewoundError:
    return RewoundError(
        f"{path}: published bytes below WriteOffset {before} changed; WriteOffset is {now} now: "
        "recovery cut the stream, or the file was cut or rewritten by something else; open it again"
    )


def replaced(path: str, ordinal: int) -> ReplacedError:
    return ReplacedError(
        f"{path}: another file has this name now; all {ordinal} events of the old one were delivered. "
        "Open the name again, or follow with on_replace='follow'"
    )


def beyond_the_end(path: str, start: int, events: int) -> IndexError:
    return IndexError(f"{path}: start {start} is beyond the end: the stream has {events} events")


def no_paths() -> ValueError:
    return ValueError("there are no paths; give a path, a glob or a list of them")


def no_match(pattern: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no stream matches the pattern", pattern)


def is_directory(path: str) -> IsADirectoryError:
    text = f"this directory is not a journal; for the streams in it give a pattern such as {path}/*.tape"
    return IsADirectoryError(errno.EISDIR, text, path)


def given_twice(path: str, other: str) -> ValueError:
    also = "" if path == other else f", as {other}"
    return ValueError(f"{path}: the stream is given twice{also}; its events would count twice")


def column_taken(path: str, name: str | None, names: list[str]) -> ValueError:
    return ValueError(
        f"{path}: a column {name!r} is there already, among {', '.join(map(repr, names))}; rename the field"
    )


def columns_differ(path: str, found: Any, other: str, expected: Any) -> ValueError:
    one, two = " ".join(str(found).split()), " ".join(str(expected).split())
    return ValueError(f"{path}: its columns are {one}, but those of {other} are {two}; read them one by one")


def partition_replaced(path: str, before: int, now: int) -> ReplacedError:
    return ReplacedError(
        f"{path}: another stream has this name since the partition was made: StartTimestamp was {before} and is "
        f"{now}; make the partitions again"
    )


def partition_changed(path: str, start: int, stop: int) -> RewoundError:
    return RewoundError(
        f"{path}: the events {start} to {stop - 1} were cut or are others since the partition was made; "
        "make the partitions again"
    )


def offset_lost(path: str, ordinal: int, events: int | None) -> RewoundError:
    now = "is gone or is another one" if events is None else f"has {events} events"
    return RewoundError(
        f"{path}: the query has read {ordinal} events, but the stream {now}; events may be lost. "
        "Set failOnDataLoss=false to go on with what is there, or begin with a new checkpoint"
    )


def expired(path: str, ordinal: int, first: int) -> ExpiredError:
    return ExpiredError(
        f"{path}: event {ordinal} was deleted, as the journal's settings say; the first one left is {first}",
        ordinal,
        first,
    )


def missing(path: str, ordinal: int, stop: int, why: str = "") -> MissingError:
    events = f"event {ordinal} is" if stop == ordinal + 1 else f"the events {ordinal} to {stop - 1} are"
    because = f" ({why})" if why else ""
    return MissingError(f"{path}: {events} missing{because}; the others can be read", ordinal, stop)


def nothing_to_merge() -> ValueError:
    return ValueError("there is nothing to merge; give a list of paths or open streams")


def not_to_merge(value: Any) -> TypeError:
    if isinstance(value, (str, bytes, os.PathLike)):
        return TypeError(f"{os.fsdecode(value)}: a merge takes a list of streams; give [{value!r}]")
    name = f"{value.path}: " if hasattr(value, "path") else ""
    return TypeError(f"{name}a merge takes a list of paths or open streams, not {type(value).__name__}")


def merged_twice(path: str, other: str) -> ValueError:
    also = "" if path == other else f", as {other}"
    return ValueError(f"{path}: the stream is in the list twice{also}; give each stream once")


def late(path: str, event: Any, mark: int) -> LateError:
    return LateError(
        f"{path}: event {event.ordinal} has timestamp {event.timestamp}, and events up to {mark} were delivered before "
        "it came; give a larger lateness, or on_late='mark'",
        event,
    )


def faulted(path: str) -> TruncatedError:
    return TruncatedError(
        f"{path}: the file was truncated, or could not be read, under its mapping; "
        "data handed out since may read as zeros"
    )


def not_stored(path: str, full: bool) -> OSError:
    """A store into the mapping failed though the file is there, because the disk is ``full``, or bad."""
    number = errno.ENOSPC if full else errno.EIO
    return OSError(number, f"{os.strerror(number)} while storing into the mapping; open the stream again", path)


def misfit(path: str, ordinal: int, offset: int, text: str) -> SchemaError:
    return SchemaError(f"{path}: event {ordinal} at offset {offset} {text}", ordinal)


def value_misfit(path: str, where: str, text: str) -> SchemaError:
    return SchemaError(f"{path}: the value{where} {text}")


def array_misfit(path: str, schema: Any, dtype: Any, size: int) -> SchemaError:
    return SchemaError(f"{path}: an array of {dtype}, with {size} bytes a row, does not fit the schema {schema}")


def no_column(path: str, name: str, names: Any) -> SchemaError:
    return SchemaError(f"{path}: there is no column {name!r}; there are {', '.join(map(repr, names))}")


def columns_misfit(path: str, found: Any, wanted: Any) -> SchemaError:
    return SchemaError(
        f"{path}: the payload is made of the columns {wanted}, and the data has {found}; select and rename its columns"
    )


def column_misfit(where: str, text: str) -> SchemaError:
    return SchemaError(f"{where} {text}")


def not_a_schema(path: str, declared: Any, text: str) -> SchemaError:
    return SchemaError(
        f"{path}: a schema is a structured numpy dtype, 'json' or 'text'; {declared!r} cannot be one, because {text}"
    )


def no_arrow_type(where: str, text: str) -> SchemaError:
    return SchemaError(f"{where} {text}, and Arrow has no type for it; leave it out with columns=")


def unknown_schema_version(path: str, version: Any) -> str:
    return (
        f"{path}: version {version!r} of a schema is not known to this version of evtape; "
        "update it, or give schema= ('bytes' for payloads as they are)"
    )


def damaged_schema(path: str) -> str:
    return (
        f"{path}: the schema of the stream is damaged; the events are not. Give schema= ('bytes' for payloads as they "
        "are), or delete this file and declare the schema again with mode 'a'"
    )


def foreign_schema(path: str) -> SchemaError:
    return SchemaError(f"{path}: this file is not a schema of evtape, so the schema cannot be stored; rename it")


def schemas_differ(path: str, stored: Any, given: Any) -> SchemaError:
    return SchemaError(
        f"{path}: the stream has the schema {stored}, and schema= is {given}; open it without schema=, or make a new "
        "stream for other payloads"
    )


def bytes_for_writing(path: str) -> SchemaError:
    return SchemaError(f"{path}: schema='bytes' is for reading; open the stream without schema= to append bytes")


def no_schema(path: str) -> SchemaError:
    return SchemaError(f"{path}: the stream has no schema of fields; give a dtype")


_REASONS: dict[Reason, str] = {
    "checksum": "its payload does not match its checksum",
    "size": "it does not fit below WriteOffset",
    "zero": "it is sixteen zero bytes, a block that never reached the disk",
}


def corrupt(path: str, ordinal: int, offset: int, reason: Reason) -> CorruptError:
    text = f"{path}: event {ordinal} at offset {offset} is damaged ({reason}): {_REASONS[reason]}; see 'evtape recover'"
    return CorruptError(text, ordinal, offset, reason)


def differs(path: str, found: Any) -> str:
    """What the index shows of an event or a block; ``found`` is a `Difference`."""
    if found.events == 1:
        return (
            f"{path}: event {found.ordinal} at offset {found.offset} has timestamp {found.timestamp}, "
            f"and had {found.indexed} when the index was made"
        )
    return (
        f"{path}: of events {found.ordinal} to {found.ordinal + found.events - 1}, from offset {found.offset} on, at "
        "least one timestamp is not what it was when the index was made"
    )


def damage_in_the_middle(path: str, ordinal: int, offset: int, reason: Any, intact: int) -> CorruptError:
    text = (
        f"{path}: event {ordinal} at offset {offset} is damaged ({reason}) and intact events follow at offset "
        f"{intact}; nothing was changed: see 'evtape verify' and 'evtape recover'"
    )
    return CorruptError(text, ordinal, offset, reason)


def warn(warning: Warning) -> None:
    """Emit a warning at the line outside of this package that led to it."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _ROOT:
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)


def with_path(error: OSError, path: str, doing: str) -> OSError:
    """``error`` again, naming the file and what was being done to it. The class follows the errno."""
    number = error.errno if error.errno is not None else errno.EIO
    return OSError(number, f"{os.strerror(number)} while {doing}", path)
