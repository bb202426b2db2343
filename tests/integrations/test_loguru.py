"""`evtape.integrations.loguru`, with loguru."""

from __future__ import annotations

import importlib
import json
import os

import loguru
import pytest

from tests.helpers import run_python


@pytest.fixture
def sink(et):
    return importlib.import_module("evtape.integrations.loguru").Sink


@pytest.fixture
def log():
    loguru.logger.remove()
    yield loguru.logger
    loguru.logger.remove()


def events(et, path):
    with et.open(path) as tape:
        return [(event.timestamp, event.text) for event in tape]


def test_messages_at_their_times(et, sink, log, tmp_path):
    path = tmp_path / "app.tape"
    records = []
    log.add(lambda message: records.append(message.record))
    made = sink(path)
    number = log.add(made, format="{level} {message}", level="INFO", colorize=None)
    log.debug("too low")
    log.info("sold 7")
    log.error("line\n")
    log.info("caf\udce9")
    wanted = [round(record["time"].timestamp() * 1e6) * 1000 for record in records[1:]]
    assert events(et, path) == list(zip(wanted, ["INFO sold 7", "ERROR line\n", r"INFO caf\udce9"], strict=True))
    assert repr(made) == f"<evtape Sink {path}>"
    made.sync()
    log.remove(number)
    log.info("nobody listens")
    assert et.verify(path).state == "clean"
    assert len(events(et, path)) == 3


def test_serialized(et, sink, log, tmp_path):
    log.add(sink(tmp_path / "app.tape"), serialize=True)
    log.bind(order=7).info("sold")
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    (time, first), (_, second) = events(et, tmp_path / "app.tape")
    record = json.loads(first)["record"]
    assert (record["message"], record["extra"]) == ("sold", {"order": 7})
    assert abs(record["time"]["timestamp"] * 1e9 - time) < 2000
    assert json.loads(second)["record"]["exception"]["value"] == "bad"


def test_in_the_background(et, sink, log, tmp_path):
    log.add(sink(tmp_path / "app.tape", delay=True), format="{message}", enqueue=True)
    for number in range(100):
        log.info(number)
    log.complete()
    assert [text for _, text in events(et, tmp_path / "app.tape")] == [str(number) for number in range(100)]


def test_a_failure_is_reported_or_raised(et, sink, log, tmp_path, capsys):
    path = tmp_path / "no" / "app.tape"
    made = sink(path, delay=True)
    assert made.path == str(path)
    number = log.add(made)
    log.info("one")
    assert "FileNotFoundError" in capsys.readouterr().err
    log.remove(number)
    log.add(sink(path, delay=True), catch=False)
    with pytest.raises(FileNotFoundError):
        log.info("two")


FORK = """
import os, sys
from loguru import logger
from evtape.integrations.loguru import Sink
logger.remove()
logger.add(Sink(sys.argv[1]), format="{message}")
logger.info("parent")
child = os.fork()
logger.info("both")
if child:
    os.waitpid(child, 0)
    print(child)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child(et, core, sink, tmp_path):
    child = int(run_python(core, FORK, tmp_path / "app.tape"))
    assert [text for _, text in events(et, tmp_path / "app.tape")] == ["parent", "both"]
    assert [text for _, text in events(et, tmp_path / f"app.{child}.tape")] == ["both"]
    assert et.verify(tmp_path / f"app.{child}.tape").state == "clean"
