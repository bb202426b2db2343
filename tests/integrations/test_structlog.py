"""`evtape.integrations.structlog`, with structlog."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time

import pytest
import structlog

from tests.helpers import run_python


@pytest.fixture
def integration(et):
    yield importlib.import_module("evtape.integrations.structlog")
    structlog.reset_defaults()


def texts(et, path):
    with et.open(path) as tape:
        return [event.text for event in tape]


def as_bytes(event, default):
    """As orjson has it."""
    return json.dumps(event, default=default).encode()


def test_bytes(et, integration, tmp_path):
    path = tmp_path / "app.tape"
    factory = integration.LoggerFactory(path)
    structlog.configure(
        processors=[
            structlog.stdlib.add_logger_name,
            structlog.processors.add_log_level,
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(serializer=as_bytes),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    log = structlog.get_logger("shop").bind(order=7)
    before = time.time_ns()
    log.debug("too low")
    log.info("sold", price=9.5)
    log.critical("gone")
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed")
    first, second, third = map(json.loads, texts(et, path))
    assert first == {"order": 7, "price": 9.5, "logger": "shop", "level": "info", "event": "sold"}
    assert (second["level"], third["level"]) == ("critical", "error")
    assert third["exception"][0]["exc_value"] == "bad"
    with et.open(path) as tape:
        assert before <= tape[0].timestamp <= time.time_ns()
    factory.sync()
    factory.close()
    factory.close()
    assert et.verify(path).state == "clean"
    with pytest.raises(et.ClosedError):
        log.info("late")


def test_text(et, integration, tmp_path):
    factory = integration.LoggerFactory(tmp_path / "app.tape", durability="none", delay=True)
    assert factory.path == str(tmp_path / "app.tape")
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()], logger_factory=factory)
    structlog.get_logger().warning("caf\udce9", order=7)
    assert texts(et, tmp_path / "app.tape") == [r"order=7 event='caf\udce9'"]
    assert repr(factory()) == f"<evtape Logger {tmp_path / 'app.tape'}>"
    factory.close()


def test_every_method_of_a_logger_of_structlog_is_there(integration):
    for name in dir(structlog.BytesLogger):
        if not name.startswith("_"):
            assert hasattr(integration.Logger, name) or name == "name"


FORK = """
import os, sys
import structlog
from evtape.integrations.structlog import LoggerFactory
factory = LoggerFactory(sys.argv[1])
structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=factory)
log = structlog.get_logger()
log.info("parent")
child = os.fork()
log.info("both")
if child:
    os.waitpid(child, 0)
    print(child)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child(et, core, integration, tmp_path):
    child = int(run_python(core, FORK, tmp_path / "app.tape"))
    assert texts(et, tmp_path / "app.tape") == ['{"event": "parent"}', '{"event": "both"}']
    assert texts(et, tmp_path / f"app.{child}.tape") == ['{"event": "both"}']
    assert et.verify(tmp_path / f"app.{child}.tape").state == "clean"


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_is_raised(et, core, integration, tmp_path):
    code = """
import errno, resource, sys
from evtape.integrations.structlog import LoggerFactory
log = LoggerFactory(sys.argv[1])()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
try:
    while True:
        log.info(b"x" * 1000)
except OSError as error:
    print(error.errno == errno.EFBIG)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.info("room again")
"""
    assert run_python(core, code, tmp_path / "app.tape") == "True\n"
    assert texts(et, tmp_path / "app.tape")[-1] == "room again"
