"""A journal is used like one stream: written, rolled, read by ordinal, by time and in columns."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import threading
import time

import numpy as np
import pytest

from tests.helpers import NS, pairs, published, run_python, sample, stream, wait_until
from tests.journal.reading import read_on

ROLL = 64 << 10


def write(et, path, events, **settings):
    """A journal of these events, in segments of 64 KiB."""
    with et.open_journal(path, "a", **{"roll_bytes": ROLL, **settings}) as journal:
        for timestamp, data in events:
            journal.append(data, timestamp)
    return path


@pytest.fixture
def events():
    return sample(3000)


@pytest.fixture
def path(et, tmp_path, events):
    return write(et, tmp_path / "j", events)


def test_the_ordinals_go_on_over_segments(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        append = journal.append
        assert [append(b"x" * 500) for _ in range(1000)] == list(range(1000))
        assert journal.append_many([b"a", b"bc"]) == range(1000, 1002)
        assert journal.append_array(np.arange(6).reshape(3, 2)) == range(1002, 1005)
        assert len(journal) == 1005
        assert bytes(journal[1001].data) == b"bc"
        assert len(journal.segments) == 8
        assert [event.ordinal for event in journal] == list(range(1005))
    with et.open_journal(tmp_path / "j", "a") as journal:
        assert journal.append(b"more") == 1005
        assert (journal[-1].ordinal, journal[1005].data) == (1005, b"more")


def test_every_segment_is_a_stream_named_by_its_first_ordinal(et, path, events):
    names = sorted(name for name in os.listdir(path) if name.endswith(".tape"))
    assert len(names) > 5
    assert set(os.listdir(path)) == {*names, "journal.json", "journal.lock"}
    found = []
    for name in names:
        assert name == f"{len(found):020d}.tape"
        assert et.verify(path / name).state == "clean"
        assert os.path.getsize(path / name) <= ROLL
        found += pairs(et.open(path / name))
    assert found == events


def test_reading_is_as_of_one_stream(et, path, events, tmp_path):
    (tmp_path / "s.tape").write_bytes(stream(events))
    with et.open(path) as journal, et.open(tmp_path / "s.tape") as single:
        assert len(journal) == len(single) == journal.next_ordinal
        assert pairs(journal) == pairs(single)
        for key in (0, 1, 499, 2999, -1, -3000, np.int64(7)):
            assert (journal[key].ordinal, *pairs([journal[key]])) == (single[key].ordinal, *pairs([single[key]]))
        for key in (3000, -3001):
            with pytest.raises(IndexError):
                journal[key]
        keys = (
            slice(None),
            slice(100, 2900),
            slice(2000, 2010),
            slice(None, None, -7),
            slice(-5, None),
            slice(50, 9, -3),
        )
        for key in (*keys, slice(9000, None), slice(3, 3)):
            ours, theirs = journal[key], single[key]
            assert pairs(ours) == pairs(theirs)
            assert [event.ordinal for event in ours] == [event.ordinal for event in theirs]
            np.testing.assert_array_equal(ours.timestamps, theirs.timestamps)
            np.testing.assert_array_equal(ours.sizes, theirs.sizes)
        np.testing.assert_array_equal(journal.timestamps, single.timestamps)
        assert not journal.timestamps.flags.writeable


def test_time_queries_are_as_of_one_stream(et, path, events, tmp_path):
    times = [timestamp for timestamp, _ in events]
    with et.open(path) as journal:
        for when in (0, times[0], times[0] + 1, times[1234], times[1234] - 1, times[-1], times[-1] + 5):
            for side in ("left", "right"):
                assert journal.searchsorted(when, side) == np.searchsorted(times, when, side), (when, side)
                assert journal[100:2000].searchsorted(when, side) == np.searchsorted(times[100:2000], when, side)
        window = journal.between(starting_at=times[700], ending_before=times[2100])
        assert window.ordinals == range(700, 2100)
        assert journal.between(starting_after=times[-1]).ordinals.stop == 3000
        assert len(journal.between(starting_after=times[-1])) == 0
        assert journal[5:50].between(ending_at=times[10]).ordinals == range(5, 11)


def test_a_time_query_opens_only_the_segments_that_overlap(et, path, events):
    with et.open(path) as journal:
        segments = journal.segments
        source = journal._source
        source.forget()
        inside = segments[3].ordinals
        journal.between(starting_at=events[inside[5]][0], ending_at=events[inside[9]][0])
        last = segments[-1].ordinals.start
        assert set(source._opened) - {last} <= {segments[i].ordinals.start for i in (2, 3, 4)}


def test_times_that_go_backwards_over_segments(et, tmp_path):
    events = [(NS + i * 1000 - (5_000_000 if i % 97 == 0 else 0), b"x" * 300) for i in range(2000)]
    path = write(et, tmp_path / "j", events)
    low, high = NS + 700_000, NS + 900_000
    with et.open(path) as journal:
        found = journal.between(starting_at=low, ending_before=high)
        assert pairs(found) == [event for event in events if low <= event[0] < high]
        with pytest.raises(ValueError, match="go backwards"):
            journal.searchsorted(low)


def test_rows(et, tmp_path):
    kind = np.dtype([("a", "<i8"), ("b", "<f8")])
    values = np.zeros(9000, kind)
    values["a"] = np.arange(9000)
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        for start in range(0, 9000, 500):
            journal.append_array(values[start : start + 500])
        np.testing.assert_array_equal(journal.rows(kind), values)
        np.testing.assert_array_equal(journal[10:20].rows(kind), values[10:20])
        np.testing.assert_array_equal(journal[8000:100:-9].rows(kind), values[8000:100:-9])
        assert len(journal.segments) > 3


def test_a_large_event_has_a_segment_of_its_own(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        journal.append(b"before")
        journal.append(b"L" * (3 * ROLL))
        journal.append(b"after")
        journal.append_many([b"m" * 1000] * 200)
        journal.append(b"end")
        assert [segment.ordinals for segment in journal.segments] == [
            range(1),
            range(1, 2),
            range(2, 3),
            range(3, 203),
            range(203, 204),
        ]
        assert len(journal[1].data) == 3 * ROLL
        assert bytes(journal[-1].data) == b"end"


@pytest.mark.parametrize("durability", ["none", "close"])
def test_the_next_segment_is_made_ahead(et, tmp_path, monkeypatch, durability):
    """A slow writer of small segments makes none of them in an append, except perhaps the second one."""
    writer = importlib.import_module("evtape.journal.writer")
    makers = []
    real = writer.make_spare
    monkeypatch.setattr(writer, "make_spare", lambda *given: makers.append(threading.get_ident()) or real(*given))
    with et.open_journal(tmp_path / "j", "a", roll_bytes=256 << 10, durability=durability) as journal:
        for _ in range(100):
            journal.append(bytes(16 << 10))
            wait_until(lambda: journal._maker._spare is not None or not journal._maker._ordered)
        assert len(journal.segments) == 7
    assert threading.get_ident() not in makers[1:]
    assert len(makers) >= 6


def test_roll_by_hand(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a") as journal:
        assert not journal.roll()
        journal.append(b"x")
        assert journal.roll()
        assert not journal.roll()
        assert len(journal) == 1
        assert journal.append(b"y") == 1
        assert [len(segment.ordinals) for segment in journal.segments] == [1, 1]


def test_roll_by_time(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_every=0.3) as journal:
        for i in range(3):
            journal.append(b"%d" % i)
            wait_until(lambda i=i: len(os.listdir(tmp_path / "j")) and journal._appender.first == i + 1, 5)
        time.sleep(0.7)
        segments = journal.segments  # nothing was appended, so nothing is rolled
        assert [segment.ordinals for segment in segments] == [range(i, i + 1) for i in range(3)] + [range(3, 3)]


def test_a_segment_that_was_left_in_an_earlier_period_is_rolled_at_the_next_opening(et, tmp_path):
    write(et, tmp_path / "j", [(NS, b"x")], roll_every=1)
    time.sleep(1.1)
    with et.open_journal(tmp_path / "j", "a") as journal:
        wait_until(lambda: len(journal.segments) == 2, 5)


def test_segments_describe_themselves(et, path, events):
    with et.open(path) as journal:
        segments = journal.segments
        assert [segment.state for segment in segments] == ["closed"] * (len(segments) - 1) + ["active"]
        for segment in segments:
            assert segment.start == events[segment.ordinals[0]][0]
            assert segment.end == events[segment.ordinals[-1]][0]
            assert segment.bytes == os.path.getsize(segment.path)
        assert sum(len(segment.ordinals) for segment in segments) == len(events)
        assert "segments" in repr(journal)
        assert str(path) in repr(journal)


@pytest.mark.parametrize("durability", ["none", "close", "interval", "full"])
def test_sync_covers_every_segment(et, tmp_path, durability):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL, durability=durability, interval=0.05) as journal:
        for turn in range(5):
            for _ in range(60):
                journal.append(b"x" * 1000)
            journal.sync()
            assert journal.durable.ordinal == 60 * (turn + 1)
            assert not journal._rolled
        journal.append(b"x")
    assert len(et.open(tmp_path / "j")) == 301
    assert et.verify(tmp_path / "j").state == "clean"


def test_threads_share_a_writer(et, tmp_path):
    threads, each = 4, 2000
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        found: list[list[int]] = [[] for _ in range(threads)]

        def run(number):
            for i in range(each):
                found[number].append(journal.append(b"%d %d" % (number, i) + b"." * 100))
                if i % 500 == 0:
                    journal.sync()

        workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(ordinal for ordinals in found for ordinal in ordinals) == list(range(threads * each))
        for number, ordinals in enumerate(found):
            for i in (0, 1, 999, each - 1):
                assert bytes(journal[ordinals[i]].data).startswith(b"%d %d." % (number, i))
        # A thread that waited for a roll must not roll once more.
        assert all(segment.bytes > ROLL - 1000 for segment in journal.segments[:-1])
    assert et.verify(tmp_path / "j").events == threads * each


def test_a_reader_sees_what_is_appended_and_rolled(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal, et.open(tmp_path / "j") as reader:
        assert len(reader) == 0
        for i in range(300):
            journal.append(b"%5d" % i * 200)
            assert len(reader) == i + 1
            assert bytes(reader[-1].data[:5]) == b"%5d" % i
        assert pairs(reader) == pairs(journal)


def test_readers_keep_few_segments_open(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=1000) as journal:
        for i in range(100):
            journal.append(b"%4d" % i * 200)
    with et.open(tmp_path / "j") as reader:
        iterator = iter(reader)
        first = next(iterator)
        assert len(reader.segments) == 100
        assert [event.ordinal for event in iterator] == list(range(1, 100))
        assert len(reader._source._opened) <= 16
        assert bytes(first.data[:4]) == b"   0"


def test_an_event_keeps_its_ordinal_in_errors(et, path):
    with et.open(path) as journal:
        segment = journal.segments[2]
        wanted = segment.ordinals[4]
        offset = journal[wanted].offset
    with open(segment.path, "r+b") as file:
        file.seek(offset + 16)
        file.write(b"\xff")
    with et.open(path) as journal:
        ordinals, (error,) = read_on(journal, et.CorruptError)
        assert (error.ordinal, error.offset, error.reason) == (wanted, offset, "checksum")
        assert ordinals == [ordinal for ordinal in range(3000) if ordinal != wanted]
        with pytest.raises(et.CorruptError, match=f"event {wanted} at offset {offset}"):
            journal[wanted]
    report = et.verify(path)
    assert (report.state, report.problems[0].ordinal, report.reason) == ("damaged", wanted, "checksum")


def test_pickles(et, path, events):
    with et.open(path) as journal:
        again = pickle.loads(pickle.dumps(journal))
        assert pairs(again) == events
        again.close()
        part = pickle.loads(pickle.dumps(journal[100:1500:3]))
        assert pairs(part) == events[100:1500:3]
    with et.open_journal(path, "a") as journal, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(journal)


def test_after_close(et, path):
    journal = et.open_journal(path, "a")
    reader = et.open(path)
    event = reader[17]
    journal.close()
    reader.close()
    journal.close()
    for tape in (journal, reader):
        assert tape.closed
        for ask in (lambda tape=tape: len(tape), lambda tape=tape: tape[0], lambda tape=tape: tape.append(b"x")):
            with pytest.raises(et.ClosedError):
                ask()
        assert "closed" in repr(tape)
    assert bytes(event.data) == sample(18)[17][1]


def test_a_reader_refuses_to_write(et, path):
    with et.open(path) as reader:
        for write in (lambda: reader.append(b"x"), lambda: reader.append_many([b"x"]), reader.sync):
            with pytest.raises(et.ReadOnlyError, match="open_journal"):
                write()


def test_the_mode_w_begins_again(et, path):
    with et.open(path) as reader:
        event = reader[2500]
        with et.open_journal(path, "w", roll_bytes=1 << 20) as journal:
            assert journal.append(b"new") == 0
        assert pairs([event]) == [sample(2501)[2500]]
    with et.open(path) as reader:
        assert pairs(reader)[0][1] == b"new"


def test_bytes_are_those_of_the_format(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        for i in range(200):
            journal.append(b"%d" % i * 200, NS + i)
    events = [(NS + i, b"%d" % i * 200) for i in range(200)]
    for name in sorted(os.listdir(tmp_path / "j")):
        if name.endswith(".tape"):
            raw = published(tmp_path / "j" / name)
            count = int.from_bytes(raw[8:16], "little")
            first = int(name[:20])
            assert raw[:16] + raw[24:] == stream(events[first : first + count])[:16] + raw[24:]
            assert raw[24:] == stream(events[first : first + count])[24:]


def test_a_next_segment_that_another_program_removed_is_made_again(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=2000) as journal:
        for i in range(300):
            journal.append(b"%03d" % i + b"x" * 60)
            if i % 7 == 0:
                for name in os.listdir(path):
                    if name.startswith(".next-") and (i % 14 or name.endswith(".tmp")):
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path / name)
        assert len(journal) == 300
    assert et.verify(path).state == "clean"
    assert not [name for name in os.listdir(path) if name.startswith(".")]


_FORKED = """
import os, sys, warnings, evtape
warnings.simplefilter("ignore")
path = sys.argv[1]
journal = evtape.open_journal(path, "a", roll_bytes=4000)
def append(count):
    for _ in range(count):
        journal.append(b"x" * 100)
for turn in range(5):
    append(25)  # the next segment is made, or is being made
    child = os.fork()
    if not child:
        try:
            journal.append(b"child")
        except evtape.Error:
            journal.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    append(25)
journal.close()
"""


def test_a_forked_child_leaves_the_next_segment_of_its_parent_alone(et, core, tmp_path):
    run_python(core, _FORKED, tmp_path / "j")
    report = et.verify(tmp_path / "j")
    assert (report.state, report.events) == ("clean", 250)
