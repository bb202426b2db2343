"""`evtape.integrations.logging`: what a record becomes, and what goes wrong without ending the program."""

from __future__ import annotations

import copy
import errno
import json
import logging
import logging.config
import logging.handlers
import os
import queue
import sys
import time
import warnings
import weakref

import pytest

from tests.helpers import DATA, pairs, run_python


def texts(et, path):
    with et.open(path) as tape:
        return [event.text for event in tape]


def objects(et, path):
    return [json.loads(text) for text in texts(et, path)]


def record(message="served %s in %d ms", args=("/items", 12), level=logging.INFO, **extra):
    made = logging.LogRecord("app.orders", level, __file__, 10, message, args, None, "serve")
    vars(made).update(extra)
    return made


# ------------------------------------------------------------------------------------------- text


def test_a_record_is_an_event_at_its_time(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path)
    kept = []
    log.addFilter(lambda record: kept.append(record) or True)
    before = time.time_ns()
    log.info("served %s in %d ms", "/items", 12)
    log.error("gone")
    with et.open(path) as tape:
        assert pairs(tape) == [
            (int(kept[0].created * 1e9), b"served /items in 12 ms"),
            (int(kept[1].created * 1e9), b"gone"),
        ]
        assert before - 1000 <= tape[0].timestamp <= time.time_ns()
    log.handlers[0].close()
    assert et.verify(path).state == "clean"


class Shouting(logging.Formatter):
    def formatMessage(self, record):
        return super().formatMessage(record).upper()


def with_converter(layout):
    formatter = logging.Formatter(layout)
    formatter.converter = time.gmtime
    return formatter


def without_milliseconds(layout):
    formatter = logging.Formatter(layout)
    formatter.default_msec_format = None
    return formatter


def with_own_time(layout):
    formatter = logging.Formatter(layout)
    formatter.formatTime = lambda record, datefmt=None: "noon"
    return formatter


FORMATTERS = [
    None,
    logging.Formatter(),
    logging.Formatter("%(message)s!"),
    logging.Formatter("%(asctime)s"),
    logging.Formatter("%(asctime)s %(levelname)-8s [%(name)s] %(message)s"),
    logging.Formatter("%(asctime)s %(message)s", "%d.%m.%Y %H:%M"),
    logging.Formatter("%% %(lineno)05d %%(name)s %(created)f %(message)10.5s %(process)d 100%%"),
    logging.Formatter("{asctime} {levelname:>9} {message}", style="{"),
    logging.Formatter("$asctime $message", style="$"),
    logging.Formatter("%(message)s %(user)s", defaults={"user": "nobody"}),
    Shouting("%(asctime)s %(name)s %(message)s"),
    with_converter("%(asctime)s %(name)s %(message)s"),
    without_milliseconds("%(asctime)s %(name)s %(message)s"),
    with_own_time("%(asctime)s %(name)s %(message)s"),
]


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_the_payload_is_what_the_formatter_makes(et, handlers, tmp_path, formatter):
    path = tmp_path / "app.tape"
    handler = handlers.Handler(path)
    handler.setFormatter(formatter)
    records = [
        record(level=level, created=created, msecs=created % 1 * 1000 // 1)
        for level in (logging.DEBUG, logging.CRITICAL)
        for created in (0.0, 1.25, 1.75, 86400.5, 86401.0, 4e9, 1.5, -0.5)
    ]
    try:
        raise KeyError("x")
    except KeyError:
        records.append(record(exc_info=sys.exc_info()))
    records.append(record(stack_info="Stack:\n  here"))
    records.append(record(exc_text="as another handler left it"))
    wanted = [(formatter or logging.Formatter()).format(copy.copy(one)) for one in records]
    for one in records:
        handler.handle(one)
    handler.close()
    assert texts(et, path) == wanted


@pytest.mark.parametrize("name", ["class", "1st", "größe", "a_b"])
def test_a_field_of_any_name(et, handlers, tmp_path, name):
    handler = handlers.Handler(tmp_path / "app.tape")
    handler.setFormatter(logging.Formatter(f"%({name})s {{}}'\"\\ %(message)s"))
    handler.handle(record(**{name: "A"}))
    handler.close()
    assert texts(et, tmp_path / "app.tape") == ["A {}'\"\\ served /items in 12 ms"]


def test_anything_with_a_format_is_a_formatter(et, handlers, tmp_path):
    class Length:
        def format(self, record):
            return str(len(record.getMessage()))

    handler = handlers.Handler(tmp_path / "app.tape")
    handler.setFormatter(Length())
    handler.handle(record())
    handler.close()
    assert texts(et, tmp_path / "app.tape") == ["22"]


def test_a_formatter_given_later_counts(et, logger, tmp_path):
    log = logger(tmp_path / "app.tape")
    log.info("one")
    log.handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.info("two")
    log.handlers[0].formatter = None
    log.info("three")
    assert texts(et, tmp_path / "app.tape") == ["one", "INFO two", "three"]


def test_a_handler_with_its_own_filter(et, handlers, tmp_path):
    class Picky(handlers.Handler):
        def filter(self, record):
            return record.levelno == logging.INFO

    handler = Picky(tmp_path / "app.tape")
    handler.handle(record("one", (), logging.DEBUG))
    handler.handle(record("two", ()))
    handler.close()
    assert texts(et, tmp_path / "app.tape") == ["two"]


def test_a_handler_with_its_own_format(et, handlers, tmp_path):
    class Short(handlers.Handler):
        def format(self, record):
            return record.getMessage()[:3]

    handler = Short(tmp_path / "app.tape")
    handler.handle(record())
    handler.close()
    assert texts(et, tmp_path / "app.tape") == ["ser"]


def test_a_record_class_with_its_own_message(et, logger, tmp_path, monkeypatch):
    class Braces(logging.LogRecord):
        def getMessage(self):
            return str(self.msg).format(*self.args)

    monkeypatch.setattr(logging, "_logRecordFactory", Braces)
    logger(tmp_path / "app.tape").info("served {} in {} ms", "/items", 12)
    assert texts(et, tmp_path / "app.tape") == ["served /items in 12 ms"]


def test_levels_and_filters(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path, level="WARNING")
    handler = log.handlers[0]
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    log.info("too low")
    log.warning("a secret")
    log.warning("good")
    assert texts(et, path) == ["good"]
    assert not handler.handle(record("a secret", ()))
    assert handler.handle(record("not a word", ()))
    if sys.version_info >= (3, 12):

        def replace(one):
            changed = copy.copy(one)
            changed.msg = "replaced"
            return changed

        handler.addFilter(replace)
        log.warning("good")
        assert texts(et, path)[-1] == "replaced"


@pytest.mark.parametrize("as_json", [False, True])
def test_text_that_has_no_utf8_is_kept_escaped(et, logger, tmp_path, as_json):
    path = tmp_path / "app.tape"
    log = logger(path, json=as_json)
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x8e\x9e")
    log.info("deleted %s", name)
    if as_json:
        assert objects(et, path)[0]["message"] == f"deleted {name}"
    else:
        assert texts(et, path) == [r"deleted caf\udce9 " + "\N{FILM FRAMES}"]


def test_a_huge_message(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path, json=True)
    log.info("x" * 20_000_000)
    log.info("small")
    assert [len(one["message"]) for one in objects(et, path)] == [20_000_000, 5]


def test_times_may_go_backwards(et, handlers, tmp_path):
    path = tmp_path / "app.tape"
    handler = handlers.Handler(path)
    for created in (5.0, 3.0, 4.0):
        handler.handle(record(str(created), (), created=created))
    handler.close()
    assert pairs(et.open(path)) == [(5 * 10**9, b"5.0"), (3 * 10**9, b"3.0"), (4 * 10**9, b"4.0")]


# ------------------------------------------------------------------------------------------- JSON


def test_json(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path, json=True)
    log.info('say "%s"\n', "wörld")
    log.warning("sold", extra={"order": 7, "user": {"name": "ann", "tags": ["a", None, True]}})
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("failed", stack_info=True)
    first, second, third = objects(et, path)
    assert list(first) == ["time", "level", "logger", "message"]
    assert first["level"] == "INFO"
    assert first["logger"] == "app.orders"
    assert first["message"] == 'say "wörld"\n'
    with et.open(path) as tape:
        assert [one["time"] for one in (first, second, third)] == [
            str(event.time.astype("M8[us]")) + "Z" for event in tape
        ]
    assert (second["order"], second["user"]) == (7, {"name": "ann", "tags": ["a", None, True]})
    assert third["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert third["exception"].splitlines()[-1] == "ValueError: bad"
    assert third["stack"].startswith("Stack (most recent call last):")


def test_json_of_a_record_that_another_handler_has_formatted(et, handlers, tmp_path):
    path = tmp_path / "app.tape"
    handler = handlers.Handler(path, json=True)
    one = record(order=7)
    logging.Formatter("%(asctime)s %(message)s").format(one)
    handler.handle(one)
    handler.close()
    (found,) = objects(et, path)
    assert list(found) == ["time", "level", "logger", "message", "order"]


class Unprintable:
    def __str__(self):
        raise ValueError("no")


def test_json_of_values_that_json_has_no_form_for(et, handlers, tmp_path):
    loop = []
    loop.append(loop)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    extra = {
        "path": tmp_path,
        "set": {1},
        "bytes": b"\xff",
        "nan": float("nan"),
        "float": 0.1,
        "large": 1 << 80,
        "larger": 10**5000,
        "yes": True,
        "none": None,
        "loop": loop,
        "keys": {(1, 2): 3},
        "numbers": {1: 2},
        "inner": {"path": tmp_path},
        "class": Unprintable(),
        "surrogate": "\ud800",
        "time": 1,
        "logger": None,
        "exception": 1,
        "stack": 2,
    }
    path = tmp_path / "app.tape"
    handler = handlers.Handler(path, json=True)
    one = record(**extra)
    one.level = "mine"
    handler.handle(one)
    handler.handle(record(deep=deep))
    handler.close()
    found, second = objects(et, path)
    assert {name: found[name] for name in list(found)[4:]} == {
        "path": str(tmp_path),
        "set": "{1}",
        "bytes": r"b'\xff'",
        "nan": "nan",
        "float": 0.1,
        "large": 1 << 80,
        "larger": "<int that has no str()>",
        "yes": True,
        "none": None,
        "loop": "[[...]]",
        "keys": "{(1, 2): 3}",
        "numbers": {"1": 2},
        "inner": {"path": str(tmp_path)},
        "class": "<Unprintable that has no str()>",
        "surrogate": "\ud800",
        "level_": "mine",
        "time_": 1,
        "logger_": None,
        "exception_": 1,
        "stack_": 2,
    }
    assert isinstance(second["deep"], str)


def test_json_with_many_loggers_and_levels(et, handlers, tmp_path):
    path = tmp_path / "app.tape"
    handler = handlers.Handler(path, json=True)
    for number in range(1500):
        handler.handle(record(name=f"job.{number}", levelname=f"L{number % 3}"))
    handler.close()
    found = objects(et, path)
    assert [(one["logger"], one["level"]) for one in found] == [(f"job.{i}", f"L{i % 3}") for i in range(1500)]


# ---------------------------------------------------------------------------------- configuration


def configuration(path, **options):
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(levelname)s %(message)s"}},
        "filters": {"mute": {"name": "configured"}},
        "handlers": {
            "tape": {
                "class": "evtape.integrations.logging.Handler",
                "path": str(path),
                "formatter": "short",
                "level": "INFO",
                "filters": ["mute"],
                **options,
            }
        },
        "loggers": {"configured": {"handlers": ["tape"], "level": "DEBUG", "propagate": False}},
    }


def test_a_configuration_names_the_handler_and_may_be_loaded_again(et, handlers, tmp_path):
    log = logging.getLogger("configured")
    try:
        logging.config.dictConfig(configuration(tmp_path / "app.tape"))
        log.debug("too low")
        log.info("one")
        first = log.handlers[0]
        assert type(first) is handlers.Handler
        logging.config.dictConfig(configuration(tmp_path / "app.tape", json=True, durability="interval", interval=60))
        assert log.handlers[0] is not first
        log.info("two")
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers.clear()
    found = texts(et, tmp_path / "app.tape")
    assert (found[0], json.loads(found[1])["message"]) == ("INFO one", "two")
    assert os.listdir(tmp_path) == ["app.tape"]


def test_a_log_that_rolls_and_forgets(et, handlers, tmp_path):
    path = tmp_path / "app.journal"
    limits = {"roll": "64kB", "keep": ["3 segments", "7d"]}
    options = {"class": "evtape.integrations.logging.Handler", "path": str(path)} | limits
    configuration = {
        "version": 1,
        "handlers": {"tape": options},
        "loggers": {"rolling": {"handlers": ["tape"], "level": "INFO", "propagate": False}},
    }
    logging.config.dictConfig(configuration)
    log = logging.getLogger("rolling")
    for i in range(3000):
        log.info("message %d %s", i, "." * 100)
    log.handlers[0].flush()
    log.handlers[0].close()
    with et.open(path) as journal:
        assert journal[-1].text.startswith("message 2999 ")
        assert len(journal.segments) == 3
        assert journal.first_ordinal > 0
        assert max(segment.bytes for segment in journal.segments) <= 64_000
    handler = handlers.Handler(path)  # what is a journal stays one
    log.handlers[:] = [handler]
    log.info("once more")
    handler.close()
    log.handlers.clear()
    with et.open(path) as journal:
        assert journal[-1].text == "once more"


def test_wrong_limits_are_errors_of_the_configuration(et, handlers, tmp_path):
    for options, text in (
        ({"roll": "soon"}, r"app\.journal: roll: 'soon' is not a size such as 64MiB, nor a time"),
        ({"keep": ["1GB", "2GB"]}, "two limits of one kind"),
        ({"roll": "64MB", "keep": "1MB"}, "keep_bytes=1000000 is less than roll_bytes"),
        ({"roll": 3600}, "not iterable|must be text"),
        ({"keep": [7]}, "keep must be text such as '64MiB' or '1h', not int"),
    ):
        with pytest.raises((ValueError, TypeError), match=text):
            handlers.Handler(tmp_path / "app.journal", delay=True, **options)
    assert not (tmp_path / "app.journal").exists()


@pytest.mark.parametrize("delay", [False, True])
def test_a_wrong_durability_is_an_error_of_the_configuration(et, handlers, tmp_path, delay):
    with pytest.raises(ValueError, match="durability must be"):
        handlers.Handler(tmp_path / "app.tape", durability="sometimes", delay=delay)


def test_delay_opens_at_the_first_record(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path, delay=True)
    assert log.handlers[0].path == str(path)
    log.handlers[0].flush()
    assert not path.exists()
    log.info("one")
    assert texts(et, path) == ["one"]


def test_flush_is_sync(et, logger, tmp_path):
    log = logger(tmp_path / "app.tape")
    log.info("one")
    writer = log.handlers[0]._writer._writer
    assert writer.durable.offset < 24 + 16 + 3
    log.handlers[0].flush()
    assert writer.durable.offset == 24 + 16 + 3


def test_behind_other_handlers(et, logger, handlers, tmp_path):
    target = handlers.Handler(tmp_path / "a.tape")
    memory = logging.handlers.MemoryHandler(10, target=target)
    memory.handle(record())
    memory.close()
    target.close()
    assert texts(et, tmp_path / "a.tape") == ["served /items in 12 ms"]

    target = handlers.Handler(tmp_path / "b.tape", json=True)
    waiting = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(waiting, target)
    listener.start()
    logging.handlers.QueueHandler(waiting).handle(record(order=7))
    listener.stop()
    target.close()
    assert [(one["message"], one["order"]) for one in objects(et, tmp_path / "b.tape")] == [
        ("served /items in 12 ms", 7)
    ]


def test_repr_names_the_stream(handlers, tmp_path):
    handler = handlers.Handler(tmp_path / "app.tape", level="INFO")
    assert repr(handler) == f"<Handler {tmp_path / 'app.tape'} (INFO)>"
    handler.close()


# ----------------------------------------------------------------------------------------- errors


def test_a_record_that_cannot_be_formatted_is_reported(et, logger, tmp_path, reported):
    for as_json in (False, True):
        log = logger(tmp_path / f"{as_json}.tape", json=as_json)
        log.info("%d apples", "two")
        log.info("good")
    log = logger(tmp_path / "field.tape", logging.Formatter("%(asctime)s %(user)s"))
    log.info("no such field")
    log.handlers[0].setFormatter(logging.Formatter("%(message)s %(name)s %"))
    log.info("a layout that ends too early")
    log.handlers[0].setFormatter(logging.Formatter("%(message)s %(user name)s"))
    log.handlers[0].handle(record(**{"user name": "ann"}))
    log.handlers[0].setFormatter(None)
    log.handlers[0].handle(record(created=float("nan")))
    log.handlers[0].handle(record(created=1e30))
    assert [type(error) for error in reported] == [
        TypeError,
        TypeError,
        ValueError,
        ValueError,
        ValueError,
        OverflowError,
    ]
    assert texts(et, tmp_path / "False.tape") == ["good"]
    assert [one["message"] for one in objects(et, tmp_path / "True.tape")] == ["good"]
    assert texts(et, tmp_path / "field.tape") == ["served /items in 12 ms ann"]


def test_a_closed_handler_reports(et, logger, tmp_path, reported):
    log = logger(tmp_path / "app.tape")
    log.handlers[0].close()
    log.handlers[0].close()
    log.info("late")
    assert [type(error) for error in reported] == [et.ClosedError]
    assert et.verify(tmp_path / "app.tape").events == 0


def test_a_handler_that_could_not_be_made_leaves_nothing_behind(et, handlers, tmp_path):
    before = len(logging._handlerList)
    with pytest.raises(FileNotFoundError) as kept:
        handlers.Handler(tmp_path / "no" / "app.tape")
    with pytest.raises(ValueError, match="Unknown level"):
        handlers.Handler(tmp_path / "app.tape", level="LOUD")
    assert len(logging._handlerList) == before
    handlers.Handler(tmp_path / "app.tape").close()
    assert kept
    assert et.verify(tmp_path / "app.tape").state == "clean"


def test_a_directory_that_is_not_there_is_an_error_of_the_configuration(et, handlers, tmp_path):
    with pytest.raises(FileNotFoundError):
        handlers.Handler(tmp_path / "no" / "app.tape")


def test_records_are_reported_until_there_is_a_directory(et, logger, tmp_path, reported, monkeypatch):
    path = tmp_path / "logs" / "app.tape"
    log = logger(path, delay=True)
    log.info("one")
    log.info("two")
    assert [type(error) for error in reported] == [FileNotFoundError] * 2
    path.parent.mkdir()
    log.info("within the same second the failure is remembered")
    assert [type(error) for error in reported] == [FileNotFoundError] * 3
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1)
    log.info("four")
    assert texts(et, path) == ["four"]


def test_a_stream_with_damage_in_the_middle_is_left_alone(et, logger, tmp_path, reported):
    path = tmp_path / "app.tape"
    raw = (DATA / "bitflip-middle.tape").read_bytes()
    path.write_bytes(raw)
    log = logger(path, delay=True)
    log.info("one")
    assert [type(error) for error in reported] == [et.CorruptError]
    assert path.read_bytes() == raw


FULL = """
import logging, resource, sys
from evtape.integrations.logging import Handler
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
logging.raiseExceptions = False
log = logging.getLogger("app")
log.addHandler(Handler(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
for number in range(400):
    log.warning("%04d" % number + "x" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.warning("room again")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_loses_records_and_the_program_goes_on(et, core, tmp_path):
    path = tmp_path / "app.tape"
    run_python(core, FULL, path)
    found = texts(et, path)
    assert 250 < len(found) < 300
    assert [text[:4] for text in found[:-1]] == [f"{number:04}" for number in range(len(found) - 1)]
    assert found[-1] == "room again"
    assert et.verify(path).state == "clean"


def test_a_failed_flush_opens_the_stream_again(et, logger, tmp_path, monkeypatch):
    path = tmp_path / "app.tape"
    log = logger(path)
    log.info("one")
    writer = log.handlers[0]._writer._writer

    def fail():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_require_whole", fail)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            log.handlers[0].flush()
    log.info("two")
    assert log.handlers[0]._writer._writer is not writer
    assert log.handlers[0].path == str(path)
    assert texts(et, path) == ["one", "two"]


@pytest.mark.parametrize("kind", ["OSError", "Error"])
def test_a_failed_flush_does_not_keep_the_stream_from_the_next_configuration(et, logger, tmp_path, monkeypatch, kind):
    path = tmp_path / "app.tape"
    log = logger(path)
    log.info("one")
    writer = log.handlers[0]._writer._writer

    def fail():
        raise OSError(errno.EIO, "bad disk") if kind == "OSError" else et.TruncatedError("cut")

    monkeypatch.setattr(writer, "_require_whole", fail)
    other = logging.Handler()
    closed = []
    other.close = lambda: closed.append(True)
    logging.shutdown([weakref.ref(other), weakref.ref(log.handlers[0])])
    assert closed
    assert logger(path).handlers[0].path == str(path)
    with et.open(path) as tape:
        assert tape[0].text == "one"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_costs_the_next_one_no_warning(et, core, logger, tmp_path):
    code = """
import logging, os, signal, sys
from evtape.integrations.logging import Handler
logging.getLogger().addHandler(Handler(sys.argv[1]))
logging.warning("one")
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python(core, code, tmp_path / "app.tape", returncode=-9)
    log = logger(tmp_path / "app.tape")
    log.info("two")
    assert texts(et, tmp_path / "app.tape") == ["one", "two"]


def test_a_stream_that_was_cut_is_opened_again(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    log = logger(path)
    log.info("one")
    os.truncate(path, 24 + 16 + 2)
    with pytest.warns(et.RecoveryWarning):
        log.info("x" * 200_000)
    assert [text[:1] for text in texts(et, path)] == ["x"]


# ------------------------------------------------------------------------------------ re-entrancy


def test_a_value_that_logs_while_it_is_formatted(et, logger, tmp_path):
    log = logger(tmp_path / "app.tape", logging.Formatter("%(name)s %(message)s"))

    class Talking:
        def __str__(self):
            log.info("inner")
            return "outer"

    log.info("%s", Talking())
    assert texts(et, tmp_path / "app.tape") == ["app.orders inner", "app.orders outer"]


def test_what_a_signal_handler_raises_is_not_taken_for_a_refusal(et, logger, tmp_path, reported):
    log = logger(tmp_path / "app.tape")
    writer = log.handlers[0]._writer
    append = writer.append
    for error in (TimeoutError("alarm"), RecursionError(), NotImplementedError()):

        def interrupted(data, timestamp, error=error):
            append(data, timestamp)
            raise error

        writer.append = interrupted
        if isinstance(error, RecursionError):
            with pytest.raises(RecursionError):
                log.info("once")
        else:
            log.info("once")
    assert [type(error) for error in reported] == [TimeoutError, NotImplementedError]
    assert texts(et, tmp_path / "app.tape") == ["once"] * 3


def test_a_value_that_logs_itself_for_ever(et, logger, tmp_path):
    log = logger(tmp_path / "app.tape")

    class Endless:
        def __str__(self):
            log.info("%s", self)
            return ""

    with pytest.raises(RecursionError):
        log.info("%s", Endless())
    log.info("good")
    assert texts(et, tmp_path / "app.tape")[-1] == "good"


def test_the_warning_of_a_repair_is_logged_into_the_stream_that_was_repaired(et, logger, tmp_path):
    path = tmp_path / "app.tape"
    with et.open(path, "w") as tape:
        tape.append_many([b"one", b"two"])
    os.truncate(path, path.stat().st_size - 1)
    log = logger(path, delay=True)
    warnings_log = logging.getLogger("py.warnings")
    warnings_log.addHandler(log.handlers[0])
    try:
        logging.captureWarnings(True)
        warnings.simplefilter("always")
        log.info("three")
    finally:
        logging.captureWarnings(False)
        warnings_log.removeHandler(log.handlers[0])
    one, three, warning = texts(et, path)
    assert (one, three) == ("one", "three")
    assert "RecoveryWarning" in warning


SIGNALS = """
import logging, signal, sys, time
from evtape.integrations.logging import Handler
failures = []
Handler.handleError = lambda *_: failures.append(repr(sys.exc_info()[1]))
log = logging.getLogger("app")
log.setLevel("INFO")
log.addHandler(Handler(sys.argv[1], delay=True))
handled = 0
def handler(*_):
    global handled
    handled += 1
    log.info("signal %d", handled)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
end = time.monotonic() + 1.5
written = 0
while time.monotonic() < end:
    log.info("loop %d " + "x" * 2000, written)
    written += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(handled, written)
assert not failures, (len(failures), failures[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs timers")
def test_a_signal_handler_that_logs(et, core, tmp_path):
    path = tmp_path / "app.tape"
    handled, written = map(int, run_python(core, SIGNALS, path).split())
    found = [text.split()[:2] for text in texts(et, path)]
    assert handled > 50
    assert sorted(int(n) for kind, n in found if kind == "signal") == list(range(1, handled + 1))
    assert [int(n) for kind, n in found if kind == "loop"] == list(range(written))


INTERRUPTED = """
import logging, signal, sys
from evtape.integrations.logging import Handler
log = logging.getLogger("app")
log.setLevel("INFO")
log.addHandler(Handler(sys.argv[1], json=True))
log.propagate = False
signal.signal(signal.SIGALRM, signal.default_int_handler)
written, stopped = 0, 0
while stopped < 300:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            log.info("%d", written)
            written += 1
    except KeyboardInterrupt:
        stopped += 1
        written += 1
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs timers")
def test_an_exception_of_a_signal_handler_leaves_whole_events(et, core, tmp_path):
    path = tmp_path / "app.tape"
    run_python(core, INTERRUPTED, path)
    numbers = [int(one["message"]) for one in objects(et, path)]
    assert numbers == sorted(set(numbers))
    assert et.verify(path).state == "clean"
