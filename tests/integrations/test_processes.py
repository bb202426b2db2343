"""Which stream a process writes: names, forks, prefork servers, second writers, and the end of the process."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.helpers import run_python, start_python, wait_until

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def texts(et, path):
    with et.open(path) as tape:
        return [event.text for event in tape]


def states(et, directory):
    """The streams of a directory: their names, with what `verify` says and their events."""
    return {
        path.name: (et.verify(path).state, texts(et, path))
        for path in sorted(directory.iterdir())
        if path.suffix == ".tape"
    }


LOG = """
import logging, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads
import evtape
from evtape.integrations.logging import Handler
path = sys.argv[1]
log = logging.getLogger("app")
log.setLevel("INFO")
"""

FORK = """
log.addHandler(Handler(path, durability=sys.argv[2]))
handler = log.handlers[0]
log.info("parent before")
child = os.fork()
if not child:
    log.info("child one")
    log.info("child two")
    grandchild = os.fork()
    if not grandchild:
        log.info("grandchild")
        print("grandchild", os.getpid(), handler.path, flush=True)
        sys.exit()
    os.waitpid(grandchild, 0)
    log.info("child three")
    print("child", os.getpid(), handler.path, flush=True)
    sys.exit()
log.info("parent during")
assert os.waitpid(child, 0)[1] == 0
log.info("parent after")
print("parent", os.getpid(), handler.path)
"""


@forks
@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
def test_a_forked_child_has_a_stream_of_its_own(et, core, tmp_path, durability):
    path = tmp_path / "app.log.tape"
    printed = run_python(core, LOG + FORK, path, durability)
    paths = {who: (int(pid), name) for who, pid, name in map(str.split, printed.splitlines())}
    assert paths["parent"][1] == str(path)
    for who in ("child", "grandchild"):
        assert paths[who][1] == str(tmp_path / f"app.log.{paths[who][0]}.tape")
    assert states(et, tmp_path) == {
        "app.log.tape": ("clean", ["parent before", "parent during", "parent after"]),
        os.path.basename(paths["child"][1]): ("clean", ["child one", "child two", "child three"]),
        os.path.basename(paths["grandchild"][1]): ("clean", ["grandchild"]),
    }


JOURNAL = """
log.addHandler(Handler(path, roll="64kB", keep="10MB"))
def write(who):
    for i in range(2000):
        log.info("%s %d %s", who, i, "." * 60)
write("before")
children = []
for number in range(2):
    child = os.fork()
    if not child:
        write("child")
        sys.exit()
    children.append(child)
write("after")
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@forks
def test_a_forked_child_has_a_journal_of_its_own(et, core, tmp_path):
    run_python(core, LOG + JOURNAL, tmp_path / "app.journal", "close")
    events = {name: et.verify(tmp_path / name).events for name in os.listdir(tmp_path)}
    assert sorted(events.values()) == [2000, 2000, 4000]
    assert events["app.journal"] == 4000
    assert {et.verify(tmp_path / name).state for name in events} == {"clean"}
    with et.merge([tmp_path / name for name in events]) as merged:
        assert len(merged) == 8000


THREADS = """
log.addHandler(Handler(path))
stop = threading.Event()
written = [0] * 3
def work(number):
    while not stop.is_set():
        log.info("thread %d %d", number, written[number])
        written[number] += 1
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for turn in range(40):
    child = os.fork()
    if not child:
        logging.getLogger("app").info("child %d", turn)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
print(*written)
"""


@forks
def test_forks_while_threads_log(et, core, tmp_path):
    written = list(map(int, run_python(core, LOG + THREADS, tmp_path / "app.tape").split()))
    found = [tuple(map(int, text.split()[1:])) for text in texts(et, tmp_path / "app.tape")]
    for number, count in enumerate(written):
        assert [n for thread, n in found if thread == number] == list(range(count))
    others = [texts(et, path) for path in tmp_path.glob("app.*.tape")]
    assert sorted(int(text.split()[1]) for stream in others for text in stream) == list(range(40))
    assert et.verify(tmp_path / "app.tape").state == "clean"


@forks
def test_a_child_that_logs_nothing_makes_no_stream(et, core, tmp_path):
    code = (
        LOG
        + """
log.addHandler(Handler(path))
if not os.fork():
    sys.exit()
os.wait()
"""
    )
    run_python(core, code, tmp_path / "app.tape")
    assert states(et, tmp_path) == {"app.tape": ("clean", [])}


MULTIPROCESSING = """
import multiprocessing
def work(number):
    log.info("worker %d", number)
    return os.getpid()
if __name__ == "__main__":
    log.addHandler(Handler(path))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(*set(pool.map(work, range(20))))
"""


@forks
def test_a_pool_of_processes(et, core, tmp_path):
    used = set(map(int, run_python(core, LOG + MULTIPROCESSING, tmp_path / "app.tape").split()))
    assert {path.name for path in tmp_path.glob("app.*.tape")} == {f"app.{pid}.tape" for pid in used}
    found = [text for path in tmp_path.glob("app.*.tape") for text in texts(et, path)]
    assert sorted(found) == sorted(f"worker {number}" for number in range(20))


def test_the_process_id_in_the_path(et, handlers, tmp_path):
    names = [handlers.Handler(tmp_path / "app-{pid}.tape") for _ in range(3)]
    pid = os.getpid()
    assert [os.path.basename(handler.path) for handler in names] == [
        f"app-{pid}.tape",
        f"app-{pid}-2.tape",
        f"app-{pid}-3.tape",
    ]
    for handler in names:
        handler.close()


@forks
def test_the_process_id_in_the_path_of_a_child(et, core, tmp_path):
    code = (
        LOG
        + """
log.addHandler(Handler(path))
log.info("parent")
child = os.fork()
if not child:
    log.info("child")
    sys.exit()
os.waitpid(child, 0)
print(os.getpid(), child)
"""
    )
    parent, child = run_python(core, code, tmp_path / "{pid}.tape").split()
    assert states(et, tmp_path) == {
        name: ("clean", [text]) for name, text in sorted({f"{parent}.tape": "parent", f"{child}.tape": "child"}.items())
    }


def test_two_handlers_with_one_path(et, logger, tmp_path):
    path, pid = tmp_path / "app.tape", os.getpid()
    logs = [logger(path) for _ in range(3)]
    for number, log in enumerate(logs):
        log.info("%d", number)
    names = ["app.tape", f"app.{pid}.tape", f"app.{pid}-2.tape"]
    assert [texts(et, tmp_path / name) for name in names] == [["0"], ["1"], ["2"]]


def test_two_processes_with_one_path(et, core, logger, tmp_path):
    path = tmp_path / "app.tape"
    code = (
        LOG
        + """
log.addHandler(Handler(path))
log.info("second process")
print(os.getpid())
"""
    )
    log = logger(path)
    log.info("first process")
    pid = int(run_python(core, code, path))
    log.info("first process")
    log.handlers[0].close()
    assert states(et, tmp_path) == {
        f"app.{pid}.tape": ("clean", ["second process"]),
        "app.tape": ("clean", ["first process"] * 2),
    }
    run_python(core, code, path)  # now it is free
    assert texts(et, path) == ["first process", "first process", "second process"]


def test_no_name_is_free(et, handlers, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["evtape.integrations._process_writer"], "_NAMES_MAX", 3)
    names = [handlers.Handler(tmp_path / "app.tape") for _ in range(3)]
    with pytest.raises(et.LockedError, match=r"app\.\d+-2\.tape"):
        handlers.Handler(tmp_path / "app.tape")
    for handler in names:
        handler.close()


def test_a_killed_process_leaves_what_it_logged(et, core, tmp_path):
    code = (
        LOG
        + """
log.addHandler(Handler(path))
for number in range(1000):
    log.info("%d", number)
print("ready", flush=True)
time.sleep(100)
"""
    )
    process = start_python(core, code, tmp_path / "app.tape")
    try:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    finally:
        process.kill()
        process.communicate()
    assert texts(et, tmp_path / "app.tape") == [str(number) for number in range(1000)]


# ------------------------------------------------------------------------------------ the end of a process

LATE = """
import atexit, sys
exec(sys.argv[3])
import logging
logging.raiseExceptions = True
log = logging.getLogger("app")
log.setLevel("INFO")
atexit.register(lambda: log.info("registered before evtape"))
import evtape
atexit.register(lambda: log.info("registered after evtape"))
from evtape.integrations.logging import Handler
atexit.register(lambda: log.info("registered last"))
log.addHandler(Handler(sys.argv[1], json=sys.argv[2] == "json"))
log.info("running")
"""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("first", ["import evtape", "import logging"])
def test_records_of_the_last_callbacks_are_kept(et, core, tmp_path, form, first):
    path = tmp_path / "app.tape"
    process = start_python(core, LATE, path, form, first)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, "", "")
    found = [json.loads(text)["message"] if form == "json" else text for text in texts(et, path)]
    assert found == ["running", "registered last", "registered after evtape", "registered before evtape"]
    assert et.verify(path).state == "clean"
    assert os.listdir(tmp_path) == ["app.tape"]


DAEMON = (
    LOG
    + """
import atexit
from evtape.integrations import _process_writer
atexit.register(lambda: (time.sleep(0.05), log.info("last")))
atexit.unregister(_process_writer._at_exit)  # as if that lambda had been registered before the import
atexit.register(_process_writer._at_exit)
log.addHandler(Handler(path))
started = threading.Event()
def work():
    number = 0
    while True:
        log.info("%d", number)
        number += 1
        started.set()
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
started.wait()
time.sleep(float(sys.argv[2]))
"""
)


@pytest.mark.parametrize("seconds", [0, 0.02, 0.05])
def test_daemon_threads_that_log_to_the_end(et, core, tmp_path, seconds):
    path = tmp_path / "app.tape"
    process = start_python(core, DAEMON, path, seconds)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, "", "")
    found = texts(et, path)
    assert found[0] == "0"
    assert found[-1] == "last"
    assert et.verify(path).state == "clean"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tape")] == ["app.tape"]


def test_a_finalizer_that_logs_at_the_very_end(et, core, tmp_path):
    code = (
        LOG
        + """
import builtins
log.addHandler(Handler(path))
class Late:
    def __del__(self, log=log):
        log.info("late")
builtins.late = Late()
log.info("running")
"""
    )
    process = start_python(core, code, tmp_path / "app.tape")
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (0, "", "")
    assert texts(et, tmp_path / "app.tape") == ["running", "late"]
    assert et.verify(tmp_path / "app.tape").state == "clean"


def test_a_handler_that_was_dropped_is_reported_as_any_writer(et, handlers, tmp_path):
    handlers.Handler(tmp_path / "app.tape")
    with pytest.warns(ResourceWarning, match="unclosed"):
        gc.collect()
    assert et.verify(tmp_path / "app.tape").state == "clean"


# ------------------------------------------------------------------------------------------ a prefork server

APP = """
import logging, logging.config, os
LOGGING = {
    "version": 1,
    "handlers": {"tape": {"class": "evtape.integrations.logging.Handler", "path": "app.tape", "json": True}},
    "loggers": {"app": {"handlers": ["tape"], "level": "INFO"}},
}
logging.config.dictConfig(LOGGING)
logging.getLogger("app").info("loaded", extra={"pid": os.getpid()})

def app(environ, start_response):
    logging.getLogger("app").info("served %s", environ["PATH_INFO"], extra={"pid": os.getpid()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is for POSIX")
@pytest.mark.parametrize("preload", [True, False])
def test_gunicorn(et, core, tmp_path, preload):
    (tmp_path / "shop.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--workers",
        "3",
        "--bind",
        f"127.0.0.1:{port}",
        "--no-control-socket",
        *(["--preload"] if preload else []),
        "shop:app",
    ]
    environment = {**os.environ, "EVTAPE_BACKEND": core}
    server = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    served = []

    def answered():
        try:
            with opener.open(f"http://127.0.0.1:{port}/{len(served)}", timeout=5) as answer:
                served.append(int(answer.read()))
        except OSError:
            return False
        return True

    try:
        wait_until(answered)
        wait_until(lambda: answered() and len(set(served)) == 3)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            _, log = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == 0, log
    assert "Logging error" not in log
    assert "Traceback" not in log
    found = states(et, tmp_path)
    assert "app.tape" in found
    assert len(found) == (4 if preload else 3)
    records = {name: [json.loads(text) for text in texts] for name, (_, texts) in found.items()}
    messages = sorted((one["message"], one["pid"]) for stream in records.values() for one in stream)
    assert [pair for pair in messages if pair[0] != "loaded"] == sorted(
        (f"served /{i}", pid) for i, pid in enumerate(served)
    )
    for name, stream in records.items():
        (pid,) = {one["pid"] for one in stream}
        assert name in ("app.tape", f"app.{pid}.tape")
    assert [state for state, _ in found.values()] == ["clean"] * len(found)
