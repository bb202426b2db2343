"""A logger factory of structlog that appends each rendered event to a stream."""

from __future__ import annotations

import os
from typing import Any

from evtape.journal.settings import Limits
from evtape.stream.writer import Durability

from ._process_writer import REFUSALS, ProcessWriter

__all__ = ["Logger", "LoggerFactory"]


class Logger:
    """Appends what the last processor returns, ``bytes`` or ``str``, as one event. The time is that of the append.

    Every method is the same: the level is the business of the processors. Exceptions of ``append`` are raised.
    """

    def __init__(self, writer: ProcessWriter, name: str | None = None) -> None:
        self._writer = writer
        self.name = name  #: for the processor ``structlog.stdlib.add_logger_name``

    def __repr__(self) -> str:
        return f"<evtape {type(self).__name__} {self._writer.path}>"

    def msg(self, message: bytes | str) -> None:
        """Append one event."""
        data = message.encode("utf-8", "backslashreplace") if isinstance(message, str) else message
        try:
            self._writer.append(data, None)
            return
        except REFUSALS as error:
            refusal = error
        self._writer.append_again(refusal, data)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class LoggerFactory:
    """For ``structlog.configure(logger_factory=LoggerFactory("app.tape"))``; all its loggers share one stream.

    The parameters are those of ``evtape.integrations.logging.Handler``, and so are the names of streams: ``{pid}`` in
    the path, and one stream for each process.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        durability: Durability = "close",
        interval: float = 1.0,
        delay: bool = False,
        roll: Limits = (),
        keep: Limits = (),
    ) -> None:
        self._writer = ProcessWriter(path, durability=durability, interval=interval, delay=delay, roll=roll, keep=keep)

    def __call__(self, *args: Any) -> Logger:
        """A logger; structlog passes the arguments of ``get_logger``, of which the first is the name."""
        return Logger(self._writer, args[0] if args else None)

    @property
    def path(self) -> str:
        """The stream that this process appends to."""
        return self._writer.path

    def sync(self) -> None:
        """Make every event so far durable."""
        self._writer.sync()

    def close(self) -> None:
        """Close the stream; its loggers raise ClosedError from here on. The end of the process does it, too."""
        self._writer.close()
