"""merge: many streams as one sequence, compared with a stable sort; and followed live, with real processes writing."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import pickle
import struct
import threading
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.helpers import FUTURE, NS, open_descriptors, run_python, start_python, stream, wait_until

INT64 = np.iinfo(np.int64)


def _write(directory, streams):
    """Streams of the given timestamps; each payload is unique."""
    paths = []
    for number, timestamps in enumerate(streams):
        path = directory / f"{number}.tape"
        path.write_bytes(stream([(when, b"%d:%d" % (number, i)) for i, when in enumerate(timestamps)]))
        paths.append(path)
    return paths


def _reference(streams):
    """(timestamp, payload) in the merged order: a stable sort by the highest timestamp so far."""
    events = []
    for number, timestamps in enumerate(streams):
        key = INT64.min
        for i, when in enumerate(timestamps):
            key = max(key, when)
            events.append((key, number, i, when, b"%d:%d" % (number, i)))
    return [(when, data) for _, _, _, when, data in sorted(events)]


def _pairs(events):
    return [(event.timestamp, event.bytes) for event in events]


def _payloads(events):
    return [event.text for event in events]


times = st.integers(-5, 5) | st.sampled_from([INT64.min, INT64.max, NS])
some_streams = st.lists(st.lists(times, max_size=12), min_size=1, max_size=5)
rising_streams = st.lists(st.lists(times, max_size=12).map(sorted), min_size=1, max_size=5)


# ------------------------------------------------------------------------------------------------ order


@hypothesis.given(streams=some_streams | rising_streams, data=st.data())
def test_a_merge_is_a_stable_sort(et, tmp_path, streams, data):
    reference = _reference(streams)
    a, b = (data.draw(st.integers(-len(reference) - 2, len(reference) + 2)) for _ in range(2))
    step = data.draw(st.sampled_from([1, 2, -1, -3]))
    low, high = data.draw(times), data.draw(times)
    with et.merge(_write(tmp_path, streams)) as merged:
        assert len(merged) == len(reference)
        assert _pairs(merged) == reference
        assert [merged[i].bytes for i in range(min(3, len(reference)))] == [data for _, data in reference[:3]]
        assert _pairs(merged[:]) == reference
        assert _pairs(merged[a:b:step]) == reference[a:b:step]
        assert merged[a:b:step].timestamps.tolist() == [when for when, _ in reference[a:b:step]]
        assert merged.timestamps.tolist() == [when for when, _ in reference]
        assert merged.sizes.tolist() == [len(data) for _, data in reference]
        numbers = [int(data.split(b":")[0]) for _, data in reference]
        assert merged.stream_numbers.tolist() == numbers
        assert [event.stream_number for event in merged] == numbers
        window = merged.between(starting_at=low, ending_at=high)
        assert _pairs(window) == [pair for pair in reference if low <= pair[0] <= high]
        assert [merged[int(i)].bytes for i in window.ordinals] == [event.bytes for event in window]
        assert _pairs(merged.follow(until="closed")) == reference
        assert _pairs(merged.follow(timeout=0, lateness=0)) == reference
        assert _pairs(merged.follow(a if -len(reference) <= a < len(reference) else 0, timeout=0)) == (
            reference[a:] if -len(reference) <= a < len(reference) else reference
        )


@hypothesis.given(streams=rising_streams, when=times, side=st.sampled_from(["left", "right"]))
def test_searchsorted_as_numpy(et, tmp_path, streams, when, side):
    reference = np.array([at for at, _ in _reference(streams)], np.int64)
    with et.merge(_write(tmp_path, streams)) as merged:
        position = int(np.searchsorted(reference, when, side))
        assert merged.searchsorted(when, side) == position
        assert merged[:].searchsorted(when, side) == position


def test_parts_near_the_ends_of_many_events(et, tmp_path):
    streams = [sorted((i * 7919) % 1009 for i in range(500)), [3, 1, 2] * 100, [], list(range(0, 2000, 3))]
    reference = _reference(streams)
    with et.merge(_write(tmp_path, streams)) as merged:
        for part in (slice(0, 5), slice(3, 40), slice(-5, None), slice(-40, -3), slice(700, 800)):
            assert _pairs(merged[part]) == reference[part]
            assert merged[part].offsets.shape == (part.stop - part.start if part.stop else -part.start,)
        for position in (0, 7, -1, -9, 640):
            assert _pairs([merged[position]]) == [reference[position]]
        assert _pairs(merged[100:900][10:-20:3]) == reference[100:900][10:-20:3]
        for start in (0, 1, 700, -1, -30):
            assert _pairs(merged.follow(start, timeout=0)) == reference[start:]


def test_equal_times_keep_the_order_of_the_list(et, tmp_path):
    paths = _write(tmp_path, [[5, 5, 5], [5, 5], [4, 5]])
    with et.merge(paths) as merged:
        assert _payloads(merged) == ["2:0", "0:0", "0:1", "0:2", "1:0", "1:1", "2:1"]
    with et.merge(paths[::-1]) as merged:
        assert _payloads(merged) == ["2:0", "2:1", "1:0", "1:1", "0:0", "0:1", "0:2"]


def test_a_stream_that_goes_backwards_keeps_its_order(et, tmp_path):
    with et.merge(_write(tmp_path, [[10, 3, 20], [5, 15]])) as merged:
        assert _payloads(merged) == ["1:0", "0:0", "0:1", "1:1", "0:2"]
        assert merged.timestamps.tolist() == [5, 10, 3, 15, 20]
        assert _payloads(merged.between(ending_before=10)) == ["1:0", "0:1"]
        with pytest.raises(ValueError, match="timestamps go backwards, so there is no position"):
            merged.searchsorted(4)


def test_streams_without_events(et, tmp_path):
    with et.merge(_write(tmp_path, [[], [], []])) as merged:
        assert len(merged) == 0
        assert list(merged) == list(merged[:]) == list(merged.follow(until="closed")) == []
        assert merged.timestamps.tolist() == merged.stream_numbers.tolist() == []
        assert merged.rows("<u8").shape == (0,)
        assert merged.searchsorted(0) == 0
        with pytest.raises(IndexError, match="index 0 is outside a merge of 0 events"):
            merged[0]
    with et.merge(_write(tmp_path, [[], [1], []])) as merged:
        assert _payloads(merged) == ["1:0"]


def test_rows_of_several_streams(et, tmp_path):
    kind = np.dtype([("a", "<u4"), ("b", "<u4")])
    for number in range(3):
        with et.open(tmp_path / f"{number}.tape", "w") as tape:
            block = np.zeros(100, kind)
            block["a"], block["b"] = number, np.arange(100)
            tape.append_array(block, timestamps=np.arange(100) * 10 + number + 1)
    with et.merge([tmp_path / f"{number}.tape" for number in range(3)]) as merged:
        rows = merged.rows(kind)
        assert rows["a"].tolist() == [0, 1, 2] * 100
        assert rows["b"].tolist() == [i for i in range(100) for _ in range(3)]
        assert merged[10:40:3].rows(kind)["a"].tolist() == [1] * 10
        assert merged.between(starting_at=500).rows(kind).shape == (150,)
        with pytest.raises(ValueError, match="has 8 bytes, but dtype uint32 has 4"):
            merged.rows("<u4")


# ----------------------------------------------------------------------------------------------- events


def test_an_event_says_where_it_is_from(et, tmp_path):
    paths = _write(tmp_path, [[NS, NS + 2], [NS + 1]])
    with et.merge(paths) as merged:
        assert merged.streams == tuple(map(str, paths))
        event = merged[1]
        assert (event.stream, event.stream_number, event.ordinal, event.offset, event.late) == (
            str(paths[1]), 1, 0, 24, False,
        )  # fmt: skip
        assert isinstance(event, et.MergedEvent)
        assert isinstance(event.event, et.Event)
        assert (event.timestamp, bytes(event.data), event.bytes, event.text) == (NS + 1, b"1:0", b"1:0", "1:0")
        assert event.time == np.datetime64(NS + 1, "ns")
        assert event.checksum == event.event.checksum
        assert [(timestamp, bytes(data)) for timestamp, data in merged] == _pairs(merged)
        assert event[0] == NS + 1
        assert len(event) == 2
        assert event == merged[1] == (NS + 1, b"1:0")
        assert event != merged[0]
        assert hash(event) == hash(event.event)
        assert repr(event) == f"{event.event!r} of {str(paths[1])!r}"


def test_pickles(et, tmp_path):
    with et.merge(_write(tmp_path, [[1, 4], [2, 3], [9]])) as merged:
        part = pickle.loads(pickle.dumps(merged.between(starting_at=2)))
        assert type(part) is et.MergedSlice
        assert _payloads(part) == ["1:0", "1:1", "0:1", "2:0"]
        event = pickle.loads(pickle.dumps(merged[2]))
        assert (event, event.stream) == (merged[2], merged[2].stream)


def test_how_it_is_shown(et, tmp_path):
    paths = _write(tmp_path, [[NS, NS + 2], [NS + 1]])
    with et.merge(paths) as merged:
        assert repr(merged).startswith(f"<evtape merge of '{paths[0]}, {paths[1]}': streams 2, events 3, first event")
        assert "<table>" in merged._repr_html_()
        assert repr(merged[1:]).startswith(f"<evtape slice of 'merge of {paths[0]}, {paths[1]}': events 2, ordinals 1")
    assert repr(merged) == f"<evtape merge of '{paths[0]}, {paths[1]}': state closed>"


# ------------------------------------------------------------------------------------------ life, errors


def test_what_was_open_stays_open(et, tmp_path):
    paths = _write(tmp_path, [[1], [2]])
    with et.open(tmp_path / "w.tape", "w") as writer, et.open(paths[0]) as tape:
        writer.append(b"w", 3)
        with et.merge([tape, paths[1], writer]) as merged:
            opened = merged._opened
            assert _payloads(merged) == ["0:0", "1:0", "w"]
            event = merged[1]
        assert merged.closed
        assert not tape.closed
        assert not writer.closed
        assert [reader.closed for reader in opened] == [True]
        assert event.text == "1:0"
        merged.close()
        for use in (len, list, lambda m: m[0], lambda m: m.timestamps, lambda m: m.follow(), lambda m: m.afollow()):
            with pytest.raises(et.ClosedError):
                use(merged)


def test_a_list_that_makes_no_sense(et, tmp_path):
    (path, other) = _write(tmp_path, [[1], [2]])
    os.link(path, tmp_path / "same.tape")
    nothing = tmp_path / "nothing.tape"
    nothing.write_bytes(b"this is no stream at all")
    descriptors = open_descriptors()
    with pytest.raises(ValueError, match="nothing to merge; give a list"):
        et.merge([])
    with pytest.raises(TypeError, match=r"0\.tape: a merge takes a list of streams; give \["):
        et.merge(path)
    with pytest.raises(TypeError, match="list of paths or open streams, not int"):
        et.merge([other, 3])
    with pytest.raises(TypeError, match="list of paths or open streams, not int"):
        et.merge(3)
    with et.open(path) as tape, pytest.raises(TypeError, match=r"0\.tape: a merge takes a list"):
        et.merge(tape)
    with pytest.raises(ValueError, match=r"0\.tape: the stream is in the list twice; give each"):
        et.merge([path, other, path])
    with pytest.raises(ValueError, match=r"same\.tape: the stream is in the list twice, as .*0\.tape"):
        et.merge([path, other, tmp_path / "same.tape"])
    with et.open(path) as tape, pytest.raises(ValueError, match="twice"):
        et.merge([tape, tape])
    with pytest.raises(FileNotFoundError, match="missing"):
        et.merge([path, tmp_path / "missing.tape"])
    with pytest.raises(et.FormatError, match=r"nothing\.tape"):
        et.merge([path, nothing])
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"start": 4}, IndexError, "start 4 is beyond the end: the stream has 3 events"),
        ({"start": [0]}, ValueError, "start has 1 places for 2 streams"),
        ({"start": [0, 9]}, IndexError, r"1\.tape: start 9 is beyond the end"),
        ({"start": "yesterday"}, ValueError, "ISO 8601"),
        ({"until": 3}, TypeError, "until must be a time or 'closed'"),
        ({"until": "open"}, ValueError, "ISO 8601"),
        ({"timeout": -1}, ValueError, "timeout must be seconds"),
        ({"lateness": -1}, ValueError, "lateness must be seconds"),
        ({"lateness": None}, ValueError, "lateness must be seconds"),
        ({"on_late": "drop"}, ValueError, "on_late must be 'mark' or 'raise'"),
    ],
)
def test_arguments_that_make_no_sense(et, tmp_path, options, error, text):
    with et.merge(_write(tmp_path, [[1, 2], [3]])) as merged:
        with pytest.raises(error, match=text) as caught:
            merged.follow(**options)
        assert str(tmp_path) in str(caught.value)


def test_damage_is_that_of_its_stream(et, tmp_path):
    paths = _write(tmp_path, [[1, 3, 5, 7], [2, 4, 6]])
    with open(paths[0], "r+b") as file:
        file.seek(24 + 19 + 16)
        file.write(b"X")
    with et.merge(paths) as merged:
        for events in (iter(merged), iter(merged[:]), merged.follow(timeout=0)):
            got = []
            with pytest.raises(et.CorruptError, match=r"0\.tape: event 1 at offset 43"):
                got.extend(event.text for event in events)
            assert got in (["0:0"], ["0:0", "1:0"])
        events = iter(merged)  # an iterator can go on
        got = []
        while True:
            try:
                got.append(next(events).text)
            except et.CorruptError:
                continue
            except StopIteration:
                break
        assert got == ["0:0", "1:0", "1:1", "0:2", "1:2", "0:3"]
        parts = merged.follow(timeout=0, batch=True)
        assert _payloads(next(parts)) == ["0:0"]
        with pytest.raises(et.CorruptError):
            next(parts)
    paths[0].write_bytes(stream([(1, b"a"), (3, b"b")], offset=24 + 17 + 20) + b"\xff" * 3)
    with et.merge(paths) as merged, pytest.raises(et.CorruptError):
        list(merged)


# --------------------------------------------------------------------------------------------- growth


def test_a_merge_grows_with_its_streams(et, tmp_path):
    paths = [tmp_path / "a.tape", tmp_path / "b.tape"]
    with et.open(paths[0], "w") as a, et.open(paths[1], "w") as b, et.merge(paths) as merged:
        part = merged[:]
        a.append(b"a", 5)
        assert _payloads(merged) == ["a"]
        assert merged[-1].text == "a"
        b.append(b"b", 3)
        assert _payloads(merged[:]) == ["b", "a"]
        assert (len(part), len(merged)) == (0, 2)


# --------------------------------------------------------------------------------------------- follow


class Follower(threading.Thread):
    """Follows in a thread: what it got, and how it ended."""

    def __init__(self, merged, *arguments, **options):
        super().__init__(daemon=True)
        self.got = []
        self.raised: BaseException | None = None
        self.ended = 0.0
        self.follow = merged.follow(*arguments, **options)
        self.start()

    def run(self):
        try:
            for event in self.follow:
                self.got.append(event)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error
        self.ended = time.monotonic()


@pytest.fixture
def two(et, tmp_path):
    """Two writers, which are open, and the merge of their streams."""
    with et.open(tmp_path / "a.tape", "w") as a, et.open(tmp_path / "b.tape", "w") as b:
        a.append(b"a0", NS)
        b.append(b"b0", NS + 1)
        with et.merge([a.path, b.path]) as merged:
            yield a, b, merged


@pytest.mark.parametrize(
    ("start", "expected"),
    [(0, ["a0", "b0", "a1"]), (1, ["b0", "a1"]), (-1, ["a1"]), (3, []), ("end", []), ([1, 1], ["a1"]),
     (["end", 0], ["b0"]), (np.datetime64(NS + 1, "ns"), ["b0", "a1"]), (np.array([2, 0]), ["b0"]),
     (dt.datetime(1971, 1, 1, tzinfo=dt.UTC), ["a0", "b0", "a1"])],
)  # fmt: skip
def test_where_a_follower_starts(two, start, expected):
    a, _, merged = two
    a.append(b"a1", NS + 2)
    assert _payloads(merged.follow(start, timeout=0)) == expected


def test_until_a_time(two):
    a, b, merged = two
    a.append(b"a1", NS + 2)
    b.append(b"b1", NS + 3)
    assert _payloads(merged.follow(until=np.datetime64(NS + 2, "ns"))) == ["a0", "b0"]
    assert _payloads(merged.follow(until="2022-01-01T00:10:23.000000001Z")) == ["a0"]


def test_an_event_waits_for_the_other_streams(two):
    a, b, merged = two
    follower = Follower(merged, lateness=30)
    for _ in range(3):
        a.append(b"a")
        time.sleep(0.05)
    assert _payloads(follower.got) == ["a0", "b0"]  # those of now wait for b
    b.append(b"b")
    wait_until(lambda: len(follower.got) == 5)
    assert _payloads(follower.got) == ["a0", "b0", "a", "a", "a"]
    a.close()  # and now b is waited for by nobody
    wait_until(lambda: len(follower.got) == 6)
    assert not any(event.late for event in follower.got)


def test_an_idle_stream_delays_by_the_lateness(two):
    a, _, merged = two
    follower = Follower(merged, lateness=0.3)
    wait_until(lambda: len(follower.got) == 2)
    for _ in range(3):
        before = len(follower.got)
        a.append(b"a")
        began = time.monotonic()
        wait_until(lambda before=before: len(follower.got) > before)
        assert 0.2 < time.monotonic() - began < 5


def test_times_in_the_future_are_not_waited_for(two):
    a, _, merged = two
    follower = Follower(merged, lateness=0.2)
    a.append_many([b"a"] * 1000, range(FUTURE, FUTURE + 1000))
    began = time.monotonic()
    wait_until(lambda: len(follower.got) == 1002)
    assert time.monotonic() - began < 10  # and not 0.2 seconds for each


def test_lateness_0_is_the_order_of_arrival(two):
    a, b, merged = two
    follower = Follower(merged, lateness=0)
    for i in range(20):
        (a, b)[i % 2].append(b"%d" % i)
        wait_until(lambda i=i: len(follower.got) == i + 3)
    assert _payloads(follower.got[2:]) == [str(i) for i in range(20)]


def test_late_events_are_marked_and_never_dropped(two):
    a, b, merged = two
    follower = Follower(merged, lateness=0.05)
    a.append(b"a1", NS + 100)
    wait_until(lambda: len(follower.got) == 3)
    b.append(b"late", NS + 50)
    b.append(b"equal", NS + 100)
    b.append(b"good", NS + 101)
    wait_until(lambda: len(follower.got) == 6)
    assert [(event.text, event.late) for event in follower.got[2:]] == [
        ("a1", False), ("late", True), ("equal", False), ("good", False),
    ]  # fmt: skip
    assert repr(follower.got[3]).endswith(f"of {b.path!r}, late")


@pytest.mark.parametrize("batch", [False, True])
def test_late_events_can_be_an_error(et, two, batch):
    a, b, merged = two
    events = merged.follow([1, 1], lateness=0.05, on_late="raise", batch=batch)
    a.append(b"a1", NS + 100)
    first = next(events)
    assert (first[0] if batch else first).text == "a1"
    b.append(b"late", NS + 50)
    with pytest.raises(et.LateError, match=rf"b\.tape: event 1 has timestamp {NS + 50}, and events up to") as caught:
        next(events)
    assert caught.value.event.text == "late"
    assert caught.value.event.late
    again = merged.follow([2, caught.value.event.ordinal + 1], timeout=0)  # as the error says
    assert list(again) == []


def test_timeout_delivers_what_is_held_back(two):
    a, _, merged = two
    a.append(b"now")
    began = time.monotonic()
    assert _payloads(merged.follow(lateness=60, timeout=0.2)) == ["a0", "b0", "now"]
    assert 0.15 < time.monotonic() - began < 10
    assert [_payloads(part) for part in merged.follow(lateness=60, timeout=0, batch=True)] == [["a0", "b0"], ["now"]]


def test_stop_event_ends_a_wait(two):
    a, _, merged = two
    stop = threading.Event()
    follower = Follower(merged, stop_event=stop, lateness=60)
    a.append(b"held back")
    wait_until(lambda: len(follower.got) == 2)
    time.sleep(0.3)
    began = time.monotonic()
    stop.set()
    follower.join(20)
    assert follower.ended - began < 1  # 50 ms, on a machine that has the time
    assert len(follower.got) == 2


def test_ctrl_c_ends_a_wait(core, tmp_path):
    code = """
import os, signal, sys, threading, time, evtape
with evtape.open(sys.argv[1] + "/a", "w") as a, evtape.open(sys.argv[1] + "/b", "w") as b:
    a.append(b"a")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        for event in evtape.merge([a, b]).follow(lateness=60):
            pass
    except KeyboardInterrupt:
        assert 0.1 < time.monotonic() - began < 5
    else:
        raise SystemExit("not interrupted")
"""
    run_python(core, code, tmp_path)


def test_streams_are_closed_and_opened_again(et, tmp_path):
    paths = _write(tmp_path, [[NS], [NS + 1]])
    with et.merge(paths) as merged:
        follower = Follower(merged, lateness=60)
        wait_until(lambda: len(follower.got) == 2)
        for i in range(5):
            with et.open(paths[i % 2], "a") as tape:
                tape.append(b"%d" % i)
            wait_until(lambda i=i: len(follower.got) == i + 3)  # the other one is closed: nothing to wait for
        assert _payloads(follower.got[2:]) == [str(i) for i in range(5)]
        assert not any(event.late for event in follower.got)
        assert follower.raised is None


def test_a_stream_that_was_cut_is_not_followed_on(et, tmp_path):
    paths = _write(tmp_path, [[NS], [NS + 1, NS + 2]])
    with et.merge(paths) as merged:
        follower = Follower(merged)
        wait_until(lambda: len(follower.got) == 3)
        with open(paths[1], "r+b") as file:
            file.truncate(24 + 19)
            file.write(struct.pack("<qq", 24 + 19, 1))
        with et.open(paths[1], "a") as tape:
            tape.append(b"other", NS + 1)
        follower.join(20)
        assert isinstance(follower.raised, et.RewoundError | et.TruncatedError)
        assert str(paths[1]) in str(follower.raised)
        assert len(follower.got) == 3


def test_a_replaced_stream_is_reported(et, tmp_path):
    paths = _write(tmp_path, [[NS], [NS + 1]])
    with et.merge(paths) as merged:
        follower = Follower(merged)
        wait_until(lambda: len(follower.got) == 2)
        with et.open(paths[1], "w") as tape:
            tape.append(b"new")
            follower.join(20)
        assert isinstance(follower.raised, et.ReplacedError)
        assert f"{paths[1]}: another file has this name now; all 1 events" in str(follower.raised)


# ------------------------------------------------------------------------------------------ processes

WRITER = """
import sys, time, evtape
path, events, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with evtape.open(path, "w") as tape:
    tape.append(b"0")  # a stream without events could be one that was closed
    print("open", flush=True)
    sys.stdin.readline()
    for i in range(1, events):
        tape.append(b"%d" % i)
        if pause:
            time.sleep(pause)
"""


def test_several_writers(core, et, tmp_path):
    paths = [tmp_path / f"{number}.tape" for number in range(4)]
    writers = [start_python(core, WRITER, path, 300, 0.001) for path in paths]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "open\n"
        with et.merge(paths) as merged:
            follower = Follower(merged, until="closed", lateness=60)
            for writer in writers:
                writer.stdin.write("go\n")
                writer.stdin.flush()
            for writer in writers:
                writer.communicate(timeout=60)
            follower.join(30)
            assert follower.raised is None
            assert len(follower.got) == 1200
            assert not any(event.late for event in follower.got)
            assert follower.got == list(merged) == list(merged[:])
            timestamps = [event.timestamp for event in follower.got]
            assert timestamps == sorted(timestamps)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_writer_that_is_killed_holds_back_for_the_lateness(core, et, tmp_path):
    paths = [tmp_path / "killed.tape", tmp_path / "other.tape"]
    killed = start_python(core, WRITER, paths[0], 1 << 40, 0.001)
    other = start_python(core, WRITER, paths[1], 100, 0.01)
    try:
        for writer in (killed, other):
            assert writer.stdout.readline() == "open\n"
            writer.stdin.write("go\n")
            writer.stdin.flush()
        with et.merge(paths) as merged:
            follower = Follower(merged, lateness=0.5, timeout=3)
            wait_until(lambda: len(follower.got) > 20)
            killed.kill()
            killed.communicate()
            other.communicate(timeout=60)
            follower.join(30)
            assert follower.raised is None
            assert len(follower.got) == len(merged) > 110
            for number in range(2):
                own = [event.ordinal for event in follower.got if event.stream_number == number]
                assert own == list(range(len(own)))
            # The stream of the killed writer is recovered and goes on.
            again = Follower(merged, "end", lateness=0.5, timeout=3)
            with et.open(paths[0], "a") as tape:
                tape.append(b"recovered")
            again.join(30)
            assert _payloads(again.got) == ["recovered"]
    finally:
        for writer in (killed, other):
            writer.kill()
            writer.communicate()


# ----------------------------------------------------------------------------------------------- async


def test_afollow(et, tmp_path):
    async def main():
        with et.open(tmp_path / "a.tape", "w") as a, et.open(tmp_path / "b.tape", "w") as b, et.merge([a, b]) as merged:
            got = []

            async def consume():
                got.extend([event.text async for event in merged.afollow(timeout=1, lateness=0.05)])

            task = asyncio.create_task(consume())
            for i in range(100):
                (a, b)[i % 2].append(b"%d" % i)
                if i % 20 == 0:
                    await asyncio.sleep(0.01)
            await asyncio.wait_for(task, 20)
            assert sorted(got, key=int) == [str(i) for i in range(100)]

    asyncio.run(main())


def test_cancelling_afollow(et, tmp_path):
    async def main():
        with et.open(tmp_path / "a.tape", "w") as a, et.merge([a]) as merged:

            async def consume():
                async for _ in merged.afollow():
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.1)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1

    before = threading.active_count()
    asyncio.run(main())
    wait_until(lambda: threading.active_count() <= before)
