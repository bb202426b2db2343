"""sync and the durability modes: what is flushed, in which order, and what a flush that fails does to a writer."""

from __future__ import annotations

import errno
import os
import re
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import NS, pairs, wait_until


class Spy:
    """A region that notes what is flushed, and fails from the n-th flush on."""

    def __init__(self, region, fail_from=None):
        self._region = region
        self.flushes: list[tuple[int, int]] = []
        self.fail_from = fail_from

    def flush(self, start, stop):
        self.flushes.append((start, stop))
        if self.fail_from is not None and len(self.flushes) >= self.fail_from:
            raise OSError(errno.EIO, "Input/output error while flushing", self._region.path)
        self._region.flush(start, stop)


def _spied(tape, fail_from=None):
    spy = Spy(tape._region, fail_from)
    tape._flusher._flush_pages = spy.flush
    return spy


def _syncs():
    return [thread for thread in threading.enumerate() if thread.name == "evtape-sync"]


@pytest.mark.parametrize("durability", ["none", "close"])
def test_nothing_is_flushed_before_sync(et, tmp_path, durability):
    with et.open(tmp_path / "t.tape", "w", durability=durability) as tape:
        spy = _spied(tape)
        tape.append(b"x")
        tape.append_many([b"y"])
        assert (tape.durable.offset, spy.flushes) == (24, [])
        tape.sync()
        assert tape.durable.offset == 24 + 2 * 17
        tape.append(b"z")
        assert tape.durable.offset == 24 + 2 * 17
    assert tape.durable.offset == 24 + (3 if durability == "close" else 2) * 17


def test_a_sync_is_one_flush_of_header_and_events(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        spy = _spied(tape)
        tape.append(bytes(10_000))
        tape.sync()
        assert spy.flushes == [(0, 10_040)]
        tape.sync()  # nothing new, nothing to do
        assert len(spy.flushes) == 1
        tape.append(bytes(10))
        tape.sync()
        assert spy.flushes[1:] == [(0, 10_066)]


def test_full_is_durable_when_append_returns(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="full") as tape:
        assert tape.append(b"x", timestamp=NS) == 0
        assert tape.durable.offset == 41
        assert tape.append_many([b"y", b"z"]) == range(1, 3)
        assert tape.durable.offset == 75
        assert tape.append_array(np.zeros((2, 3), np.uint8)) == range(3, 5)
        assert tape.durable.offset == 113


def test_interval_syncs_by_itself_and_ends_with_the_writer(et, tmp_path):
    before = len(_syncs())
    with et.open(tmp_path / "t.tape", "w", durability="interval", interval=0.01) as tape:
        assert len(_syncs()) == before + 1
        for count in (1, 2):
            tape.append(b"x")
            wait_until(lambda count=count: tape.durable.offset == 24 + 17 * count)
    assert len(_syncs()) == before


def test_interval_waits_for_its_period(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w", durability="interval", interval=1000) as tape:
        tape.append(b"x")
        time.sleep(0.05)
        assert tape.durable.offset == 24
        began = time.monotonic()
    assert time.monotonic() - began < 5  # closing does not wait for the period
    assert tape.durable.offset == 41


def test_a_failed_flush_poisons_the_writer(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    tape.append(b"x", timestamp=NS)
    append = tape.append
    spy = _spied(tape, 1)
    with pytest.raises(OSError, match="Input/output error") as caught:
        tape.sync()
    assert caught.value.errno == errno.EIO
    flushed = len(spy.flushes)
    spy.fail_from = None  # the kernel would now call the next flush a success
    calls = [tape.sync, lambda: tape.append(b"y"), lambda: append(b"y"), lambda: tape.append_many([b"y"]),
             lambda: tape.append_array([1]), tape.sync]  # fmt: skip
    for call in calls:
        with pytest.raises(et.Error, match="an earlier flush failed") as caught:
            call()
        assert str(path) in str(caught.value)
    assert tape.durable.offset == 24
    with et.open(path) as reader:
        assert pairs(reader) == [(NS, b"x")]
    tape.close()
    assert len(spy.flushes) == flushed
    assert et.verify(path).ok
    with et.open(path, "a") as again:  # and so does a new writer
        assert again.append(b"y", timestamp=NS) == 1
    assert pairs(et.open(path)) == [(NS, b"x"), (NS, b"y")]


def test_a_flush_that_fails_at_close_raises_and_lets_go(et, tmp_path):
    path = tmp_path / "t.tape"
    tape = et.open(path, "w")
    tape.append(b"x", timestamp=NS)
    _spied(tape, 1)
    with pytest.raises(OSError, match="Input/output error"):
        tape.close()
    assert tape.closed
    tape.close()
    et.open(path, "a").close()
    assert pairs(et.open(path)) == [(NS, b"x")]


def test_a_flush_that_fails_in_full_mode_raises_from_append(et, tmp_path):
    tape = et.open(tmp_path / "t.tape", "w", durability="full")
    _spied(tape, 1)
    with pytest.raises(OSError, match="Input/output error"):
        tape.append(b"x")
    with pytest.raises(et.Error, match="an earlier flush failed"):
        tape.append(b"y")
    tape.close()


def test_a_flush_that_fails_in_the_background_shows_at_the_next_append(et, tmp_path):
    tape = et.open(tmp_path / "t.tape", "w", durability="interval", interval=0.01)
    _spied(tape, 1)
    tape.append(b"x")
    wait_until(lambda: tape._failure is not None)
    with pytest.raises(et.Error, match="an earlier flush failed"):
        tape.append(b"y")
    tape.close()
    assert not any(thread.is_alive() for thread in _syncs() if thread is tape._ticker)


@pytest.mark.parametrize("durability", ["close", "full"])
@pytest.mark.parametrize("batch", [1, 40, 400, 5000])
def test_flushes_of_every_size(et, tmp_path, durability, batch):
    """Each size has its own pages and steps, and a writer whose flushes change size goes from one to the other."""
    path = tmp_path / "t.tape"
    payloads = [b"%d" % i * 200 for i in range(batch)]
    with et.open(path, "w", durability=durability) as tape:
        for size in (batch, batch, 1, batch, 7, batch):
            tape.append_many(payloads[:size])
            tape.sync()
            assert tape.durable.ordinal == len(tape)
    report = et.verify(path)
    assert report.state == "clean"
    with et.open(path) as tape:
        assert len(tape) == report.events == 4 * batch + min(batch, 1) + min(batch, 7)
        assert tape[-1].bytes == payloads[-1]


def test_small_flushes_write_little(et, tmp_path):
    """What a flush writes follows from what was appended: a stream that is flushed has no huge pages."""
    if sys.platform != "linux" or os.stat(tmp_path).st_dev != os.stat("/").st_dev:
        pytest.skip("the bytes that this process writes are counted on a disk")

    def written():
        with open("/proc/self/io") as file:
            return int(re.search(r"^write_bytes: (\d+)", file.read(), re.MULTILINE)[1])

    data = os.urandom(1024)
    with et.open(tmp_path / "t.tape", "w") as tape:
        for _ in range(2500):  # beyond the first 2 MiB, in steps of the full size
            tape.append(data)
            if tape.durable.offset < 1 << 20 or len(tape) % 10 == 0:
                tape.sync()
        before = written()
        for _ in range(500):
            tape.append(data)
            tape.sync()
        assert written() - before < 500 * (32 << 10)
