"""Partitions: every event in exactly one, balanced, found again elsewhere, and what is not as it was is noticed."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pytest

from tests.helpers import DATA, NS, pairs, sample, stream

EVENTS = sample(1000)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.tape"
    path.write_bytes(stream(EVENTS))
    return path


def read(parts):
    found = []
    for part in parts:
        with part.open() as events:
            found += pairs(events)
    return found


@pytest.mark.parametrize("events", [1, 7, 100, 333, 999, 1000, 1001, 10**12])
def test_every_event_is_in_one_part(et, path, events):
    parts = et.partitions(path, events=events)
    assert read(parts) == EVENTS
    sizes = {len(part) for part in parts}
    assert max(sizes) <= events
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-1000 // events)


@pytest.mark.parametrize(
    ("most", "wanted", "count"), [(1, 4, 20), (4, 2, 6), (4, 8, 8), (4, 10, 10), (4, 100, 20), (99, 1, 2)]
)
def test_joined_parts(et, path, tmp_path, most, wanted, count):
    other = tmp_path / "b.tape"
    other.write_bytes(stream(EVENTS))
    parts = et.partitions([path, other], events=100)
    joined = et.engines.partition.joined(parts, most, wanted)
    assert len(joined) == count
    assert {part.path for part in joined} == {str(path), str(other)}
    assert read(joined) == EVENTS * 2
    assert max(len(part) for part in joined) <= most * 100
    assert [(part.first_timestamp, part.last_timestamp) for part in joined] == [
        (EVENTS[part.start][0], EVENTS[part.stop - 1][0]) for part in joined
    ]
    assert et.engines.partition.joined([], most, wanted) == []


def test_parts_are_balanced_by_bytes(et, tmp_path, monkeypatch):
    path = tmp_path / "b.tape"
    # Ten large events among small ones: parts by events would differ by 100 times.
    events = [(NS + i, bytes(50_000 if i < 10 else 100)) for i in range(5000)]
    path.write_bytes(stream(events))
    monkeypatch.setattr("evtape.engines.partition.BYTES", 100_000)
    parts = et.partitions(path)
    assert read(parts) == events
    with et.open(path) as tape:
        edges = [*(tape[part.start].offset for part in parts), os.path.getsize(path)]
    assert len(parts) > 8
    assert max(np.diff(edges)) <= 100_000 + 50_016


def test_an_event_larger_than_a_part(et, tmp_path, monkeypatch):
    path = tmp_path / "b.tape"
    events = [(NS, b"a"), (NS, bytes(100_000)), (NS, b"b")]
    path.write_bytes(stream(events))
    monkeypatch.setattr("evtape.engines.partition.BYTES", 1000)
    assert read(et.partitions(path)) == events


def test_a_time_window_on_a_sorted_stream_is_a_range(et, path):
    low, high = NS + 100_000, NS + 700_500
    expected = [event for event in EVENTS if low <= event[0] < high]
    parts = et.partitions(path, events=50, starting_at=low, ending_before=np.datetime64(high, "ns"))
    assert read(parts) == expected
    assert sum(map(len, parts)) == len(expected)
    assert all(part.is_sorted and part.starting_at is None for part in parts)
    assert [part.first_timestamp for part in parts] == [EVENTS[part.start][0] for part in parts]
    assert [part.last_timestamp for part in parts] == [EVENTS[part.stop - 1][0] for part in parts]
    assert et.partitions(path, starting_at=NS + 10**12) == []
    assert et.partitions(path, starting_at=high, ending_before=low) == []
    assert read(et.partitions(path, starting_at=dt.datetime(2022, 1, 1, tzinfo=dt.UTC))) == EVENTS
    assert et.partitions(path, starting_at="2030-01-01T00:00:00Z") == []


def test_a_time_window_on_timestamps_that_go_backwards(et, tmp_path, monkeypatch):
    monkeypatch.setattr("evtape.engines.partition._PASS", 100)
    events = [(NS + (i * 7919) % 1000, b"%d" % i) for i in range(1000)]
    path = tmp_path / "u.tape"
    path.write_bytes(stream(events))
    expected = [event for event in events if NS + 100 <= event[0] < NS + 200]
    parts = et.partitions(path, events=64, starting_at=NS + 100, ending_before=NS + 200)
    assert read(parts) == expected
    assert all(part.starting_at == NS + 100 and part.ending_before == NS + 200 for part in parts)
    assert not any(part.is_sorted for part in parts)
    assert et.partitions(path, starting_at=NS + 1000) == []
    assert read(et.partitions(path, events=100)) == events


def test_many_streams_in_order(et, tmp_path, monkeypatch):
    files = {}
    for name in ("c", "a", "b"):
        files[name] = [(NS + ord(name) * 1000 + i, name.encode() * i) for i in range(20)]
        (tmp_path / f"{name}.tape").write_bytes(stream(files[name]))
    (tmp_path / "empty.tape").write_bytes(stream([]))
    (tmp_path / "notes.txt").write_text("not a stream")
    everything = files["a"] + files["b"] + files["c"]
    assert read(et.partitions(tmp_path / "*.tape", events=7)) == everything
    given = [tmp_path / "c.tape", os.fsencode(tmp_path / "a.tape")]
    assert read(et.partitions(given, events=7)) == files["c"] + files["a"]
    monkeypatch.chdir(tmp_path)
    parts = et.partitions("[ab].tape")
    assert [part.path for part in parts] == [str(tmp_path / "a.tape"), str(tmp_path / "b.tape")]
    monkeypatch.chdir("/")
    assert read(parts) == files["a"] + files["b"]


def test_what_evtape_puts_next_to_a_stream_is_not_in_a_glob(et, tmp_path):
    with et.open(tmp_path / "a.tape", "a", durability="full") as tape, tape.cursor("c") as cursor:
        tape.append(b"x")
        cursor.commit()
        assert len(os.listdir(tmp_path)) > 1
        assert [part.path for part in et.partitions(tmp_path / "*")] == [str(tmp_path / "a.tape")]


def test_a_name_that_looks_like_a_glob(et, path, tmp_path):
    shutil.copy(path, tmp_path / "[1].tape")
    assert read(et.partitions(tmp_path / "[1].tape")) == EVENTS


def test_a_stream_without_events(et, tmp_path):
    (tmp_path / "e.tape").write_bytes(stream([]))
    assert et.partitions(tmp_path / "e.tape") == []


def test_pickles_small(et, path):
    (part,) = et.partitions(path)
    pickled = pickle.dumps(part)
    assert len(pickled) < 500
    assert pickle.loads(pickled) == part
    assert hash(part) == hash(pickle.loads(pickled))
    assert repr(part).startswith(f"Partition(path={str(path)!r}, start=0, stop=1000")


def test_a_stream_that_grows(et, tmp_path):
    with et.open(tmp_path / "g.tape", "w") as tape:
        tape.append_many([b"%d" % i for i in range(100)])
        parts = et.partitions(tmp_path / "g.tape", events=30)
        tape.append_many([b"more"] * 1000)
        assert [int(data) for _, data in read(parts)] == list(range(100))


def test_another_stream_with_the_name(et, path):
    (part,) = et.partitions(path)
    path.write_bytes(stream(EVENTS, start=NS + 1))
    with pytest.raises(et.ReplacedError, match=r"a\.tape: another stream .* make the partitions again"), part.open():
        pass


@pytest.mark.parametrize("kept", [999, 700, 0])
def test_events_that_were_cut(et, path, kept):
    parts = et.partitions(path, events=500)
    path.write_bytes(stream(EVENTS[:kept]))
    with pytest.raises(et.RewoundError, match=r"a\.tape: the events 500 to 999 were cut"), parts[1].open():
        pass
    if kept >= 500:
        assert read(parts[:1]) == EVENTS[:500]


def test_other_events_since(et, path):
    parts = et.partitions(path, events=500)
    path.write_bytes(stream(EVENTS[:700] + [(when, data[::-1] + b"x") for when, data in EVENTS[700:]]))
    assert read(parts[:1]) == EVENTS[:500]
    with pytest.raises(et.RewoundError, match="500 to 999"), parts[1].open():
        pass


def test_a_file_that_is_gone_or_short(et, path):
    (part,) = et.partitions(path)
    os.truncate(path, 5000)
    with pytest.raises(et.TruncatedError, match=r"a\.tape"), part.open():
        pass
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.tape"), part.open():
        pass


def test_damage_is_never_left_out(et, path):
    raw = bytearray(path.read_bytes())
    with et.open(path) as tape:
        at = tape[601].offset
    size = raw[:]
    size[at + 8 : at + 12] = (2**31).to_bytes(4, "little")
    path.write_bytes(size)
    with pytest.raises(et.CorruptError, match="event 601 at offset") as caught:
        et.partitions(path)
    assert caught.value.ordinal == 601
    raw[at + 16 + 5] ^= 1
    path.write_bytes(raw)
    parts = et.partitions(path, events=500)
    assert read(parts[:1]) == EVENTS[:500]
    with pytest.raises(et.CorruptError, match="event 601"):
        read(parts[1:])
    with parts[1].open(verify_checksums=False) as events:
        assert len(list(events)) == 500


def test_wrong_paths(et, path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no stream matches the pattern.*x\*\.tape"):
        et.partitions(tmp_path / "x*.tape")
    with pytest.raises(FileNotFoundError, match=r"missing\.tape"):
        et.partitions([path, tmp_path / "missing.tape"])
    with pytest.raises(ValueError, match="there are no paths"):
        et.partitions([])
    with pytest.raises(IsADirectoryError, match=r"not a journal; .* give a pattern such as .*\*\.tape"):
        et.partitions(tmp_path)
    with pytest.raises(ValueError, match=r"a\.tape: the stream is given twice"):
        et.partitions([path, tmp_path / "*.tape"])
    os.symlink(path, tmp_path / "z.tape")
    with pytest.raises(ValueError, match=r"z\.tape: the stream is given twice, as .*a\.tape"):
        et.partitions(tmp_path / "*.tape")
    os.unlink(tmp_path / "z.tape")
    (tmp_path / "b.tape").write_text("this is a text that is no stream")
    with pytest.raises(et.FormatError, match=r"b\.tape: not a stream"):
        et.partitions(tmp_path / "*.tape")


@pytest.mark.parametrize("events", [0, -1])
def test_a_wrong_number_of_events(et, path, events):
    with pytest.raises(ValueError, match=f"events must be at least 1.* not {events}"):
        et.partitions(path, events=events)


def test_naive_times_are_refused(et, path):
    with pytest.raises(ValueError, match=r"a\.tape: the time .* has no zone"):
        et.partitions(path, starting_at=dt.datetime(2022, 1, 1))


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("*.tape")))
def test_no_part_has_less_than_an_iteration(et, name):
    """What iterates without an error is in the parts; what raises there raises here, too."""
    try:
        with et.open(DATA / name) as tape:
            expected = pairs(tape)
    except et.Error as error:
        expected = error
    try:
        found = read(et.partitions(DATA / name, events=2))
    except et.Error as error:
        found = error
    if isinstance(expected, Exception):
        assert type(found) is type(expected)
    else:
        assert found == expected


def _sum(part):
    with part.open() as events:
        return int(events.rows("<i8").sum())


def test_a_process_pool(tmp_path):
    import evtape

    values = np.arange(10_000, dtype="<i8")
    with evtape.open(tmp_path / "n.tape", "w") as tape:
        tape.append_array(values)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert sum(pool.map(_sum, evtape.partitions(tmp_path / "n.tape", events=999))) == values.sum()
