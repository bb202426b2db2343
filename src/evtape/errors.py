"""The exceptions of evtape and every text they carry.

Both cores raise through the functions below, so that a message is written once and the same on both.
"""

from __future__ import annotations

import errno
import os
import sys
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


def faulted(path: str) -> TruncatedError:
    return TruncatedError(
        f"{path}: the file was truncated, or could not be read, under its mapping; "
        "data handed out since may read as zeros"
    )


def not_stored(path: str) -> OSError:
    """A store into the mapping failed though the file is there: the disk is full, if it looks like that, or bad."""
    full = hasattr(os, "statvfs") and os.statvfs(path).f_bavail < 256
    number = errno.ENOSPC if full else errno.EIO
    return OSError(number, f"{os.strerror(number)} while storing into the mapping; open the stream again", path)


_REASONS: dict[Reason, str] = {
    "checksum": "its payload does not match its checksum",
    "size": "it does not fit below WriteOffset",
    "zero": "it is sixteen zero bytes, a block that never reached the disk",
}


def corrupt(path: str, ordinal: int, offset: int, reason: Reason) -> CorruptError:
    text = f"{path}: event {ordinal} at offset {offset} is damaged ({reason}): {_REASONS[reason]}; see 'evtape recover'"
    return CorruptError(text, ordinal, offset, reason)


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
