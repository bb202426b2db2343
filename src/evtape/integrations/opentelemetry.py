"""Exporters of the OpenTelemetry SDK that append each span or log record to a stream."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from evtape import errors
from evtape.core.format import TIME_MAX, TIME_MIN
from evtape.journal.settings import Limits
from evtape.stream.writer import Durability

from ._process_writer import ProcessWriter

__all__ = ["EvtapeLogRecordExporter", "EvtapeSpanExporter"]

Format = Literal["json", "otlp"]

_logger = logging.getLogger(__name__)


class _Exporter(ABC):
    """What the two exporters share."""

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        format: Format = "json",
        durability: Durability = "close",
        interval: float = 1.0,
        delay: bool = False,
        roll: Limits = (),
        keep: Limits = (),
    ) -> None:
        if format not in ("json", "otlp"):
            raise ValueError(f"{os.fsdecode(path)}: format must be 'json' or 'otlp', not {format!r}")
        self._encode = self._json() if format == "json" else self._otlp()
        self._writer = ProcessWriter(path, durability=durability, interval=interval, delay=delay, roll=roll, keep=keep)

    def _json(self) -> Callable[[Any], bytes]:
        return lambda item: item.to_json(indent=None).encode("utf-8", "backslashreplace")

    @abstractmethod
    def _otlp(self) -> Callable[[Any], bytes]:
        """What encodes an item as OTLP."""

    @property
    def path(self) -> str:
        """The stream that this process appends to."""
        return self._writer.path

    def _export(self, items: Sequence[Any], time_of: Callable[[Any], int | None]) -> bool:
        """Append one event for each item, in one batch; False if some are lost."""
        payloads, times = [], []
        for item in items:
            try:
                payload, time = self._encode(item), time_of(item) or 0
                if not TIME_MIN <= time <= TIME_MAX:
                    raise errors.timestamp_out_of_range(self.path, time)
            except Exception:
                _logger.exception("%s: an item of the batch cannot be encoded; it is left out", self.path)
            else:
                payloads.append(payload)
                times.append(time)
        try:
            self._writer.append_many(payloads, times)
        except (errors.Error, OSError, ValueError, OverflowError):
            _logger.exception("%s: the batch was not stored", self.path)
            return False
        return len(payloads) == len(items)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Make every event so far durable; False if that failed."""
        try:
            self._writer.sync()
        except (errors.Error, OSError):
            _logger.exception("%s: the flush failed", self.path)
            return False
        return True

    def shutdown(self) -> None:
        """Close the stream."""
        self._writer.close()


class EvtapeSpanExporter(_Exporter, SpanExporter):
    """Appends each span as one event, whose timestamp is the end of the span.

    The payload is the span's own ``to_json()`` on one line. With ``format="otlp"`` it is an OTLP protobuf message
    (ExportTraceServiceRequest) with that span, as a collector takes it; this needs the package
    ``opentelemetry-exporter-otlp-proto-common``.

    A batch is stored whole or not at all; ``export`` returns FAILURE if a span was lost. ``force_flush`` is ``sync``.
    The other parameters are those of ``evtape.integrations.logging.Handler``, and so are the names of streams:
    ``{pid}`` in the path, and one stream for each process.
    """

    def _otlp(self) -> Callable[[Any], bytes]:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

        return lambda span: encode_spans([span]).SerializeToString()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans; the SDK calls this."""
        good = self._export(spans, lambda span: span.end_time)
        return SpanExportResult.SUCCESS if good else SpanExportResult.FAILURE


class EvtapeLogRecordExporter(_Exporter, LogRecordExporter):
    """Appends each log record as one event, whose timestamp is the record's own, or else the observed one.

    Otherwise as ``EvtapeSpanExporter``; with ``format="otlp"`` the message is an ExportLogsServiceRequest.
    """

    def _otlp(self) -> Callable[[Any], bytes]:
        from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

        return lambda record: encode_logs([record]).SerializeToString()

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Append the log records; the SDK calls this."""
        good = self._export(batch, lambda record: record.log_record.timestamp or record.log_record.observed_timestamp)
        return LogRecordExportResult.SUCCESS if good else LogRecordExportResult.FAILURE
