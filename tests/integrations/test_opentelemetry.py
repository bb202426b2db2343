"""`evtape.integrations.opentelemetry`, with the SDK."""

from __future__ import annotations

import importlib
import json
import logging
import os

import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

from tests.helpers import NS, run_python


@pytest.fixture
def otel(et):
    return importlib.import_module("evtape.integrations.opentelemetry")


@pytest.fixture
def provider():
    made = TracerProvider(shutdown_on_exit=False)
    yield made
    made.shutdown()


@pytest.fixture
def log_provider():
    made = LoggerProvider(shutdown_on_exit=False)
    yield made
    made.shutdown()


def events(et, path):
    with et.open(path) as tape:
        return [(event.timestamp, event.bytes) for event in tape]


def spans(provider, *ends):
    """Finished spans with these times of their ends."""
    found = []

    class Keep(SpanExporter):
        def export(self, spans):
            found.extend(spans)
            return SpanExportResult.SUCCESS

    keep = SimpleSpanProcessor(Keep())
    provider.add_span_processor(keep)
    tracer = provider.get_tracer("tests")
    for number, end in enumerate(ends):
        span = tracer.start_span(f"span {number}", start_time=NS, attributes={"number": number})
        span.end(end)
    return found


def test_spans_as_json(et, otel, provider, tmp_path):
    path = tmp_path / "spans.tape"
    exporter = otel.EvtapeSpanExporter(path)
    assert isinstance(exporter, SpanExporter)
    assert exporter.path == str(path)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with (
        tracer.start_as_current_span("outer") as outer,
        tracer.start_as_current_span("inner", attributes={"n": 1}) as inner,
    ):
        pass
    (time, first), (outer_time, second) = events(et, path)
    assert (time, outer_time) == (inner.end_time, outer.end_time)
    assert b"\n" not in first
    found = json.loads(first)
    assert (found["name"], found["attributes"]) == ("inner", {"n": 1})
    assert found["parent_id"] == json.loads(second)["context"]["span_id"]
    provider.shutdown()
    assert et.verify(path).state == "clean"


@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_spans_as_protobuf(et, otel, provider, tmp_path, processor):
    path = tmp_path / "spans.tape"
    provider.add_span_processor(processor(otel.EvtapeSpanExporter(path, format="otlp", delay=True)))
    for number in range(10):
        provider.get_tracer("tests").start_span(f"span {number}").end(NS + number)
    assert provider.force_flush()
    found = events(et, path)
    assert [time for time, _ in found] == [NS + number for number in range(10)]
    for number, (_, payload) in enumerate(found):
        request = ExportTraceServiceRequest.FromString(payload)
        (span,) = request.resource_spans[0].scope_spans[0].spans
        assert (span.name, span.end_time_unix_nano) == (f"span {number}", NS + number)


@pytest.mark.parametrize("processor", [SimpleLogRecordProcessor, BatchLogRecordProcessor])
@pytest.mark.parametrize("form", ["json", "otlp"])
def test_logs(et, otel, log_provider, tmp_path, form, processor):
    path = tmp_path / "logs.tape"
    exporter = otel.EvtapeLogRecordExporter(path, format=form)
    assert isinstance(exporter, LogRecordExporter)
    log_provider.add_log_record_processor(processor(exporter))
    logger = log_provider.get_logger("tests")
    logger.emit(LogRecord(timestamp=NS, observed_timestamp=NS + 5, body="one", severity_number=SeverityNumber.WARN))
    logger.emit(LogRecord(observed_timestamp=NS + 7, body={"two": [2]}))
    assert log_provider.force_flush()
    found = events(et, path)
    assert [time for time, _ in found] == [NS, NS + 7]
    if form == "json":
        assert [json.loads(payload)["body"] for _, payload in found] == ["one", {"two": [2]}]
    else:
        bodies = [
            ExportLogsServiceRequest.FromString(payload).resource_logs[0].scope_logs[0].log_records[0].body
            for _, payload in found
        ]
        assert (bodies[0].string_value, bodies[1].kvlist_value.values[0].key) == ("one", "two")
    log_provider.shutdown()
    assert et.verify(path).state == "clean"


def test_an_unknown_format_is_refused(otel, tmp_path):
    with pytest.raises(ValueError, match="format must be 'json' or 'otlp', not 'xml'"):
        otel.EvtapeSpanExporter(tmp_path / "spans.tape", format="xml")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_stored_is_a_failure(et, otel, provider, tmp_path, caplog):
    path = tmp_path / "no" / "spans.tape"
    exporter = otel.EvtapeSpanExporter(path, delay=True)
    batch = spans(provider, NS + 1, NS + 2)
    assert exporter.export(batch) is SpanExportResult.FAILURE
    assert exporter.force_flush()  # nothing was appended
    assert "the batch was not stored" in caplog.text
    exporter.shutdown()
    assert exporter.export(batch) is SpanExportResult.FAILURE
    assert "closed" in caplog.text


def test_an_item_that_cannot_be_encoded_costs_no_other(et, otel, provider, tmp_path, caplog):
    exporter = otel.EvtapeSpanExporter(tmp_path / "spans.tape")
    batch = spans(provider, NS + 1, 1 << 70, NS + 3)
    assert exporter.export(batch) is SpanExportResult.FAILURE
    assert [time for time, _ in events(et, tmp_path / "spans.tape")] == [NS + 1, NS + 3]
    assert exporter.export(batch[:1]) is SpanExportResult.SUCCESS
    assert exporter.export([]) is SpanExportResult.SUCCESS
    assert "it is left out" in caplog.text
    exporter.shutdown()

    logs = otel.EvtapeLogRecordExporter(tmp_path / "logs.tape")
    assert logs.export([object()]) is LogRecordExportResult.FAILURE
    logs.shutdown()


def test_a_flush_that_fails_is_told(et, otel, provider, tmp_path, monkeypatch, caplog):
    exporter = otel.EvtapeSpanExporter(tmp_path / "spans.tape")
    batch = spans(provider, NS + 1)
    assert exporter.export(batch) is SpanExportResult.SUCCESS

    def fail():
        raise OSError(5, "bad disk")

    with monkeypatch.context() as patch:
        patch.setattr(exporter._writer._writer, "_require_whole", fail)
        assert exporter.force_flush() is False
    assert exporter.export(batch) is SpanExportResult.SUCCESS
    assert exporter.force_flush() is True
    assert len(events(et, tmp_path / "spans.tape")) == 2
    exporter.shutdown()


def test_a_failure_that_is_logged_through_its_own_exporter_ends(et, otel, log_provider, tmp_path):
    exporter = otel.EvtapeLogRecordExporter(tmp_path / "no" / "logs.tape", delay=True)
    log_provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = log_provider.get_logger("tests")

    forwarded = []

    class Forward(logging.Handler):
        def emit(self, record):
            forwarded.append(record.getMessage())
            logger.emit(LogRecord(body=record.getMessage(), timestamp=NS))

    forward = Forward()
    logging.getLogger("evtape").addHandler(forward)
    try:
        logger.emit(LogRecord(body="one", timestamp=NS))
    finally:
        logging.getLogger("evtape").removeHandler(forward)
    assert 1 <= len(forwarded) <= 5


FORK = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from evtape.integrations.opentelemetry import EvtapeSpanExporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(EvtapeSpanExporter(sys.argv[1])))
tracer = provider.get_tracer("tests")
tracer.start_span("parent").end()
child = os.fork()
tracer.start_span("both").end()
if child:
    os.waitpid(child, 0)
    print(child)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child(et, core, tmp_path):
    child = int(run_python(core, FORK, tmp_path / "spans.tape"))
    names = {
        path.name: [json.loads(payload)["name"] for _, payload in events(et, path)] for path in tmp_path.glob("*.tape")
    }
    assert names == {"spans.tape": ["parent", "both"], f"spans.{child}.tape": ["both"]}
    assert [et.verify(path).state for path in tmp_path.glob("*.tape")] == ["clean"] * 2
