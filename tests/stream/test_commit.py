"""Group commit: threads share flushes, an error reaches each of them, an interruption loses nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from evtape.stream import commit as commit_module
from tests.helpers import pairs, run_python, wait_until


class SlowFlush:
    """Stands in for the flush of a writer: each flush waits until it is let through."""

    def __init__(self, tape):
        self.real = tape._flusher._flush_pages
        self.begun = 0
        self.failure: BaseException | None = None
        self.gate = threading.Semaphore(0)
        tape._flusher._flush_pages = self

    def __call__(self, start, stop):
        self.begun += 1
        self.gate.acquire()
        if self.failure is not None:
            raise self.failure
        self.real(start, stop)

    def let_through(self, flushes=1000):
        self.gate.release(flushes)


class Appending(threading.Thread):
    """One append in a thread: what it returned or raised, and how much was durable then."""

    def __init__(self, tape, call=None):
        super().__init__(daemon=True)
        self.tape, self.call = tape, call or (lambda: tape.append(b"x"))
        self.returned = self.raised = None
        self.start()

    def run(self):
        try:
            self.returned = self.call()
            self.durable = self.tape.durable
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error


def _waiting(tape, calls):
    wait_until(lambda: len(tape._commit._waiting) == calls)


def test_threads_that_arrive_during_a_flush_share_the_next_one(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="full") as tape:
        slow = SlowFlush(tape)
        first = Appending(tape)
        wait_until(lambda: slow.begun == 1)
        others = [Appending(tape, call) for call in (None, None, tape.sync, lambda: tape.append_many([b"x"] * 3))]
        _waiting(tape, 4)
        slow.let_through()
        for thread in (first, *others):
            thread.join(10)
            assert thread.raised is None
        assert slow.begun == 2
        assert tape.durable == (6, 24 + 6 * 17)
        for thread in (first, *others[:2]):
            assert thread.durable.ordinal > thread.returned


def test_an_append_that_another_flush_covered_makes_none(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="full") as tape:
        tape.append(b"x")
        slow = SlowFlush(tape)
        tape.sync()
        tape._make_durable(1)
        assert slow.begun == 0
        slow.let_through()


def test_a_failed_flush_reaches_every_thread_that_waits_for_it(et, tmp_path):
    tape = et.open(tmp_path / "t.tape", "w", durability="full")
    slow = SlowFlush(tape)
    slow.failure = OSError(errno.EIO, "Input/output error", "t.tape")
    first = Appending(tape)
    wait_until(lambda: slow.begun == 1)
    others = [Appending(tape) for _ in range(3)]
    _waiting(tape, 3)
    slow.let_through()
    for thread in (first, *others):
        thread.join(10)
        assert isinstance(thread.raised, OSError)
        assert thread.raised.errno == errno.EIO
    assert len({id(thread.raised) for thread in others}) == 3
    assert slow.begun == 1
    with pytest.raises(et.Error, match="an earlier flush failed"):
        tape.append(b"y")
    tape.close()


def test_close_waits_for_a_flush_and_serves_those_that_wait(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w", durability="full")
    slow = SlowFlush(tape)
    first = Appending(tape)
    wait_until(lambda: slow.begun == 1)
    closing = Appending(tape, tape.close)
    _waiting(tape, 1)
    late = Appending(tape)
    wait_until(lambda: len(tape) == 2)
    slow.let_through()
    for thread in (first, closing, late):
        thread.join(10)
        assert not thread.is_alive()
    assert first.raised is None
    assert closing.raised is None
    assert late.raised is None  # the last flush of close() covered it
    assert len(pairs(et.open(path))) == 2


def test_an_interrupted_leader_hands_the_lead_on(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="full") as tape:
        slow = SlowFlush(tape)
        slow.failure = KeyboardInterrupt()
        first = Appending(tape)
        wait_until(lambda: slow.begun == 1)
        other = Appending(tape)
        _waiting(tape, 1)
        flush = slow.real

        def good(start, stop):
            slow.begun += 1
            flush(start, stop)

        tape._flusher._flush_pages = good
        slow.let_through()
        first.join(10)
        other.join(10)
        assert isinstance(first.raised, KeyboardInterrupt)
        assert other.raised is None
        assert tape.durable.ordinal == 2


def test_an_interrupted_wait_loses_no_event(core, tmp_path):
    code = """
import os, signal, sys, threading, time, evtape
path = sys.argv[1]
with evtape.open(path, "w", durability="full") as tape:
    gate, flush, begun = threading.Event(), tape._flusher._flush_pages, threading.Event()

    def slow(start, stop):
        begun.set()
        gate.wait()
        flush(start, stop)

    tape._flusher._flush_pages = slow
    other = threading.Thread(target=tape.append, args=(b"of another thread",))
    other.start()
    begun.wait()
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        tape.append(b"of the main thread")
        raise SystemExit("not interrupted")
    except KeyboardInterrupt:
        assert time.monotonic() - began < 5
    assert len(tape) == 2 and tape.durable.ordinal == 0
    gate.set()
    other.join()
    tape.sync()
    assert tape.durable.ordinal == 2
with evtape.open(path) as tape:
    assert [bytes(event.data) for event in tape] == [b"of another thread", b"of the main thread"]
"""
    run_python(core, code, tmp_path / "t.tape")


def test_every_thread_gets_its_turn(et, tmp_path):
    path = tmp_path / "t.tape"
    done = [0] * 6
    with et.open(path, "w", durability="full") as tape:

        def work(i):
            for _ in range(40):
                ordinal = tape.append(b"%d" % i)
                assert tape.durable.ordinal > ordinal
                done[i] += 1

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert tape._commit._leader is None
        assert not tape._commit._waiting
    assert done == [40] * 6
    assert len(pairs(et.open(path))) == 240


def test_calls_are_served_in_the_order_they_came():
    led, flushes = [], threading.Semaphore(0)

    def flush(events):
        led.append(events)
        flushes.acquire()
        return events

    commit = commit_module.GroupCommit("t.tape", flush)
    threads = []
    for i in range(5):  # each needs a flush of its own
        threads.append(threading.Thread(target=commit.wait, args=(i,)))
        threads[-1].start()
        wait_until(lambda i=i: (len(led) and not i) or len(commit._waiting) == i)
    for _ in range(5):
        flushes.release()
    for thread in threads:
        thread.join(10)
    assert led == [0, 1, 2, 3, 4]


def test_a_handler_that_raises_at_any_moment_leaves_no_thread_waiting(core, tmp_path):
    code = """
import signal, sys, threading, time, evtape
path = sys.argv[1]

class Stop(Exception):
    pass

def handler(*_):
    raise Stop

signal.signal(signal.SIGALRM, handler)
hit = appended = 0
with evtape.open(path, "w", durability="full") as tape:
    running = True

    def work():
        global appended
        while running:
            tape.append(b"other")

    others = [threading.Thread(target=work) for _ in range(2)]
    for thread in others:
        thread.start()
    for round in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + round * 3e-6)
            try:
                tape.append(b"main")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Stop:
            hit += 1
    running = False
    for thread in others:
        thread.join(20)
        assert not thread.is_alive()
    tape.append(b"last")
    assert tape._commit._leader is None and not tape._commit._waiting
    assert tape.durable.ordinal == len(tape)
with evtape.open(path) as tape:
    assert 400 - hit <= sum(bytes(event.data) == b"main" for event in tape) <= 400, hit
assert hit > 20, hit
"""
    run_python(core, code, tmp_path / "t.tape")


def test_a_handler_that_returns_does_not_end_a_wait(core, tmp_path):
    code = """
import signal, sys, threading, time, evtape
path, ticks = sys.argv[1], []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(len(tape)))
with evtape.open(path, "w", durability="full") as tape:
    gate, flush, begun = threading.Event(), tape._flusher._flush_pages, threading.Event()

    def slow(start, stop):
        begun.set()
        gate.wait()
        flush(start, stop)

    tape._flusher._flush_pages = slow
    other = threading.Thread(target=tape.append, args=(b"x",))
    other.start()
    begun.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    threading.Timer(0.2, gate.set).start()
    tape.append(b"y")
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert tape.durable.ordinal == 2 and len(ticks) > 3, (tape.durable, ticks)
    other.join()
"""
    run_python(core, code, tmp_path / "t.tape")


# ------------------------------------------------------------------------------------------- durable


def test_a_reader_knows_what_is_durable(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        assert reader.durable == tape.durable == (0, 24)
        tape.append(b"x")
        assert reader.durable == tape.durable == (0, 24)
        tape.sync()
        assert reader.durable == tape.durable == (1, 41)
        assert (reader.durable.ordinal, reader.durable.offset) == (1, 41)
        os.unlink(f"{path}.side")
        assert reader.durable == (0, 24)
        tape._watermark_file._file._looked_at = 0.0  # as a second later
        tape.append(b"y")
        tape.sync()
        assert reader.durable == (2, 58)
    with et.open(path) as reader:
        assert reader.durable == (0, 24)  # a small stream has no sidecar once it is closed
    assert reader.closed
    with pytest.raises(et.ClosedError):
        _ = reader.durable


def test_a_stream_that_is_opened_again_is_durable(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w", durability="none") as tape:
        tape.append(b"x")
    with et.open(path, "a") as tape:
        assert tape.durable == (1, 41)


def test_the_record_is_flushed_only_past_an_event_that_could_be_taken_for_torn(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    real, flushed = os.fdatasync, []

    def fdatasync(fd):
        real(fd)
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    with et.open(path, "w") as tape:
        monkeypatch.setattr(os, "fdatasync", fdatasync)
        tape.append(b"x" * 448)
        tape.sync()
        tape.append(b"y" * 512)
        tape.sync()
        assert flushed == []
        tape.append(b"")  # its size and checksum, zeros, lie in the next sector
        tape.sync()
        assert flushed == ["t.tape.side"]
        tape.append(b"z")
        tape.sync()
        assert flushed == ["t.tape.side"]
        tape.append_many([b"w" * 1000] * 5000)  # so much is not to be walked again
        tape.sync()
        assert flushed == ["t.tape.side"] * 2


# --------------------------------------------------------------------------------------------- async


def test_sync_async_lets_the_loop_run(et, tmp_path):
    async def main():
        with et.open(tmp_path / "t.tape", "w") as tape:
            slow = SlowFlush(tape)
            tape.append(b"x")
            first = asyncio.create_task(tape.sync_async())
            while slow.begun == 0:
                await asyncio.sleep(0.001)
            tape.append(b"y")
            others = [asyncio.create_task(tape.sync_async()) for _ in range(3)]
            while len(tape._commit._waiting) < 3:
                await asyncio.sleep(0.001)
            others[0].cancel()
            slow.let_through()
            await first
            assert tape.durable.ordinal >= 1
            await asyncio.gather(*others[1:])
            assert tape.durable == (2, 58)
            assert slow.begun == 2

    asyncio.run(main())


def test_sync_async_raises_what_sync_raises(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"x")
    with pytest.raises(et.ClosedError):
        asyncio.run(tape.sync_async())
