"""What a journal deletes, when, and what it never deletes."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
import zlib
from importlib import import_module
from itertools import pairwise

import pytest

from tests.helpers import wait_until

ROLL = 64 << 10
EVENT = b"x" * 980


def fill(journal, segments):
    """So many segments of events."""
    for _ in range(segments):
        for _ in range(65):
            journal.append(EVENT)
        journal.roll()


def names(path):
    return sorted(name for name in os.listdir(path) if name.endswith(".tape"))


def test_by_number(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL, keep_segments=3) as journal:
        fill(journal, 10)
        wait_until(lambda: len(names(tmp_path / "j")) == 3)
        assert journal.first_ordinal == 8 * 65
        assert len(journal) == 2 * 65
        assert journal[8 * 65].ordinal == 8 * 65
        for key in (0, 8 * 65 - 1):
            with pytest.raises(et.ExpiredError, match=f"event {key} was deleted") as caught:
                journal[key]
            assert isinstance(caught.value, IndexError)
            assert (caught.value.ordinal, caught.value.first_ordinal) == (key, 8 * 65)
        assert journal[:].ordinals == range(8 * 65, 10 * 65)
        assert journal[5 : 8 * 65 + 3].ordinals == range(8 * 65, 8 * 65 + 3)
        assert journal[::-100].ordinals == range(649, 519, -100)
        assert journal[0 : 9 * 65 : 7].ordinals[0] >= 8 * 65
    with et.open(tmp_path / "j") as reader:
        assert (reader.first_ordinal, reader.next_ordinal, len(reader)) == (520, 650, 130)
        assert [event.ordinal for event in reader] == list(range(520, 650))
    with et.open_journal(tmp_path / "j", "a") as journal:
        assert journal.append(b"goes on") == 650


def test_by_bytes(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL, keep_bytes=5 * ROLL) as journal:
        for _ in range(20):
            fill(journal, 1)
            wait_until(lambda: sum(segment.bytes for segment in journal.segments) <= 5 * ROLL + 2048)
        assert len(journal.segments) >= 4


def test_by_age(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL, keep_for=0.5) as journal:
        fill(journal, 3)
        began = time.monotonic()
        assert len(journal) == 195
        wait_until(lambda: len(names(tmp_path / "j")) == 1)
        assert time.monotonic() - began > 0.3
        assert len(journal) == 0
        assert journal.first_ordinal == journal.next_ordinal == 195


def test_a_slice_of_expired_events(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        fill(journal, 4)
    with et.open(tmp_path / "j") as reader:
        part, view = reader[10:20], reader[10].data
        iterator = iter(reader)
        assert next(iterator).ordinal == 0
        os.unlink(tmp_path / "j" / names(tmp_path / "j")[0])
        os.unlink(tmp_path / "j" / names(tmp_path / "j")[0])
        reader._source.forget()
        with pytest.raises(et.ExpiredError):
            list(part)
        assert bytes(view) == EVENT
        assert [next(iterator).ordinal for _ in range(64)] == list(range(1, 65))  # it keeps its segment
        with pytest.raises(et.ExpiredError):
            next(iterator)
        assert len(reader) == 130


def place(et, path, name, ordinal):
    """A cursor that has passed the events below `ordinal`, as another process leaves it."""
    record = struct.Struct("<8sIIqqq16sI4x")
    fields = (1, ordinal, 24, bytes(16), 0)
    head = record.pack(b"evtape\0c", 1, 0, *fields)
    (path / f"cursor-{name}").write_bytes(record.pack(b"evtape\0c", 1, zlib.crc32(head), *fields))


def test_nothing_that_a_cursor_needs(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=2) as journal:
        place(et, path, "slow", 70)
        place(et, path, "fast", 400)
        fill(journal, 8)
        wait_until(lambda: not journal._rolled)
        wait_until(lambda: journal.first_ordinal == 65)
        time.sleep(0.1)
        assert journal.first_ordinal == 65
        place(et, path, "slow", 200)
        fill(journal, 1)
        wait_until(lambda: journal.first_ordinal == 195)
        (path / "cursor-slow").write_bytes(b"damaged")
        fill(journal, 1)
        wait_until(lambda: not journal._rolled)
        time.sleep(0.1)
        assert journal.first_ordinal == 195  # a damaged cursor may need anything
        (path / "cursor-slow").unlink()
        fill(journal, 1)
        wait_until(lambda: journal.first_ordinal == 390)


def test_unless_the_disk_matters_more(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_bytes=3 * ROLL, keep_at_most_bytes=6 * ROLL) as journal:
        place(et, path, "slow", 0)
        fill(journal, 12)
        wait_until(lambda: not journal._rolled and not journal._retention.due())
        assert 4 <= len(journal.segments) <= 6
        assert journal.first_ordinal > 0


def test_what_is_due_and_why(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        fill(journal, 4)
    retention = import_module("evtape.journal.retention")
    settings = import_module("evtape.journal.settings")
    directory = import_module("evtape.journal.directory").Directory(str(tmp_path / "j"))
    firsts = directory.segments()
    closed = [retention.look_at(directory, a, b) for a, b in pairwise(firsts)]
    made = retention.Retention(directory, settings.Settings(roll_bytes=ROLL, keep_segments=3), closed)
    assert [(segment.first, reason) for segment, reason in made.due()] == [(0, "keep_segments"), (65, "keep_segments")]
    assert names(tmp_path / "j") == [f"{first:020d}.tape" for first in firsts]


@pytest.mark.parametrize("full_at", ["roll", "grow"])
def test_a_full_disk_drops_the_oldest(et, tmp_path, monkeypatch, full_at):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, on_full="drop_oldest") as journal:
        fill(journal, 5)
        journal.sync()
        wait_until(lambda: len(journal._retention.closed) == 5)
        writer = type(journal)
        step = "_next_segment" if full_at == "roll" else "_grow"
        real = getattr(writer, step)

        def full(self, *given):
            if len(names(path)) > 4:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            return real(self, *given)

        monkeypatch.setattr(writer, step, full)
        for _ in range(3):
            journal.append(b"x" * ROLL)  # a segment of its own, which has to grow
        assert journal.first_ordinal >= 130
        assert journal[-1].ordinal == 5 * 65 + 2


def test_a_full_disk_raises_and_appending_works_again(et, tmp_path, monkeypatch):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL) as journal:
        fill(journal, 2)
        writer = type(journal)
        with monkeypatch.context() as patched:

            def full(self, *given):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

            patched.setattr(writer, "_next_segment", full)
            while journal._appender.offset + 996 <= ROLL:
                journal.append(EVENT)
            count = len(journal) - 130
            with pytest.raises(OSError, match="No space left"):
                journal.append(EVENT)
        assert len(journal) == 130 + count
        assert journal.append(EVENT) == 130 + count
        assert len(journal.segments) == 4


def test_the_hook_is_called_once_for_each_segment(et, tmp_path):
    seen, path = [], tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, on_closed=lambda name: seen.append(len(et.open(name)))) as journal:
        fill(journal, 3)
    assert seen == [65, 65, 65]
    with et.open_journal(path, "a", on_closed=seen.append) as journal:
        fill(journal, 1)
        wait_until(lambda: len(seen) == 4)
    assert seen[3] == str(path / f"{195:020d}.tape")


@pytest.mark.filterwarnings("ignore:.*on_closed raised")
def test_a_hook_that_fails_is_tried_again_and_retention_waits(et, tmp_path):
    path, calls, good = tmp_path / "j", [], threading.Event()

    def hook(name):
        calls.append(name)
        if not good.is_set():
            raise ValueError("the network is down")

    with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=1, on_closed=hook) as journal:
        fill(journal, 3)
        wait_until(lambda: len(calls) > 1)
        wait_until(lambda: not journal._rolled)
        assert len(names(path)) == 4
        assert journal.append(b"never stops") == 195
        good.set()
        wait_until(lambda: len(names(path)) == 1)
    assert os.listdir(path).count(f"{0:020d}.tape.done") == 0
    assert len(set(calls)) == 3


@pytest.mark.filterwarnings("ignore:.*on_closed raised")
def test_a_hook_that_never_succeeded_is_called_by_the_next_writer(et, tmp_path):
    path, seen = tmp_path / "j", []
    with et.open_journal(path, "a", roll_bytes=ROLL, on_closed=lambda name: 1 / 0) as journal:
        fill(journal, 2)
        journal.sync()
    with et.open_journal(path, "a", on_closed=seen.append):
        wait_until(lambda: len(seen) == 2)
