"""`Bell`: a descriptor that becomes readable once there are events, for an event loop."""

from __future__ import annotations

import errno
import gc
import os
import select
import sys
import time

import pytest

from tests.helpers import wait_until

if not sys.platform.startswith("linux"):
    pytest.skip("no other system has bells", allow_module_level=True)


@pytest.fixture
def tape(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        yield tape


@pytest.fixture
def bell(core, et, tape):
    if core == "python":
        pytest.skip("the pure core has no bells")
    with et.open(tape.path) as reader:
        live = reader._source.live()
        assert live.join() is not None
        bell = live.bell()
        live.close()  # the bell keeps what it needs
    yield bell
    bell.stop()


def rings(bell, seconds=5.0):
    return bool(select.select([bell.descriptor], [], [], seconds)[0])


def threads():
    """The threads of the process that are bells."""
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/comm") as file:
                names.append(file.read().strip())
        except OSError:
            pass
    return names.count("evtape-bell")


def end_of(tape):
    return tape._region.load_header()[0]


def test_the_pure_core_has_none(core, et, tape, tmp_path):
    if core != "python":
        pytest.skip("the native core has")
    import evtape.core.pure as pure

    with pytest.raises(OSError, match=r"thread that waits for events.*t\.tape") as caught:
        pure.Bell(0, 0, str(tmp_path / "t.tape"))
    assert caught.value.errno == errno.ENOTSUP
    assert tape._source.live().bell() is None


def test_it_rings_when_it_was_asked(tape, bell):
    assert not rings(bell, 0)
    tape.append(b"one")
    assert not rings(bell, 0.1), "it was not asked"
    bell.ask(end_of(tape), 0)
    assert not rings(bell, 0.12), "nothing is new"
    tape.append(b"two")
    assert rings(bell)
    bell.clear()
    tape.append(b"three")
    assert not rings(bell, 0.1), "a question is answered once"


def test_it_rings_at_once_if_there_are_events(tape, bell):
    at = end_of(tape)
    tape.append(b"one")
    began = time.monotonic()
    bell.ask(at, 0)
    assert rings(bell)
    assert time.monotonic() - began < 1


def test_many_questions(tape, bell):
    for number in range(2000):
        at = end_of(tape)
        if number % 3:
            bell.ask(at, (number % 5) * 10_000)
            tape.append(b"x")
        else:
            tape.append(b"x")
            bell.ask(at, 0)
        assert rings(bell), number
        bell.clear()


def test_a_stream_that_is_gone(et, tape, bell):
    bell.ask(end_of(tape), 0)
    os.truncate(tape.path, 0)
    assert rings(bell), "the one that waits finds out"
    with pytest.raises(et.TruncatedError):
        tape.close()


def test_its_thread_ends(tape, bell):
    wait_until(lambda: threads() == 1)
    descriptor = bell.descriptor
    bell.ask(end_of(tape), 0)
    began = time.monotonic()
    bell.stop()
    assert time.monotonic() - began < 0.04, "it does not wait for the thread"
    assert bell.descriptor == -1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
    wait_until(lambda: threads() == 0, 1)
    bell.stop()
    bell.clear()
    bell.ask(0, 0)


def test_a_bell_that_is_forgotten(core, et, tape):
    if core == "python":
        pytest.skip("the pure core has no bells")
    live = tape._source.live()
    live.join()
    bell = live.bell()
    live.close()
    wait_until(lambda: threads() == 1)
    descriptor = bell.descriptor
    del bell
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
    wait_until(lambda: threads() == 0, 1)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_the_bell_alone(tape, bell):
    bell.ask(end_of(tape), 0)
    child = os.fork()
    if child == 0:
        bell.stop()
        os._exit(0 if bell.descriptor == -1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    tape.append(b"one")
    assert rings(bell)
