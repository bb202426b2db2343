"""A sink of loguru that appends each message to a stream."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any, Final

from evtape.journal.settings import Limits
from evtape.stream.writer import Durability

from ._process_writer import REFUSALS, ProcessWriter

if TYPE_CHECKING:
    from loguru import Message

__all__ = ["Sink"]

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class Sink:
    """For ``logger.add(Sink("app.tape"))``: the payload is the formatted message, the timestamp the record's time.

    The line feed that loguru puts after a message is left out. With ``serialize=True`` payloads are JSON. loguru
    reports an exception on standard error, unless ``catch=False`` has it raised. ``logger.remove`` closes the stream.

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

    def __repr__(self) -> str:
        return f"<evtape {type(self).__name__} {self._writer.path}>"

    def write(self, message: Message) -> None:
        """Append one event; loguru calls this."""
        timestamp = (message.record["time"] - _EPOCH) // _MICROSECOND * 1000
        data = message.removesuffix("\n").encode("utf-8", "backslashreplace")
        try:
            self._writer.append(data, timestamp)
            return
        except REFUSALS as error:
            refusal = error
        self._writer.append_again(refusal, data, timestamp)

    @property
    def path(self) -> str:
        """The stream that this process appends to."""
        return self._writer.path

    def sync(self) -> None:
        """Make every event so far durable. It is not named ``flush``, which loguru calls after each message."""
        self._writer.sync()

    def stop(self) -> None:
        """Close the stream; loguru calls this."""
        self._writer.close()
