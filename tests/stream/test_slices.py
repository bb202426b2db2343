"""Slices, columns, time queries and rows, each against a slow reference in plain Python or numpy."""

from __future__ import annotations

import copy
import datetime as dt
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import NS, pairs, sample, stream

COUNT = 300  # several blocks of the index, the last one not full
EVENTS = sample(COUNT)
UNSORTED = [(NS + (i * 7919) % 211 * 1000, data) for i, (_, data) in enumerate(EVENTS)]
BACK_ONCE = [(NS + (i if i < 200 else i - 150) * 1000, data) for i, (_, data) in enumerate(EVENTS)]
STREAMS = {"sorted": EVENTS, "unsorted": UNSORTED, "back-once": BACK_ONCE, "equal": [(NS, data) for _, data in EVENTS]}

bounds = st.none() | st.integers(-COUNT - 5, COUNT + 5)
steps = st.none() | st.integers(-70, 70).filter(bool)
slices = st.builds(slice, bounds, bounds, steps)


def _write(tmp_path, events):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(events))
    return path


def _reference(events):
    """Columns computed one by one."""
    sizes = [len(data) for _, data in events]
    offsets = [24 + sum(sizes[:i]) + 16 * i for i in range(len(sizes))]
    return {"timestamps": [stamp for stamp, _ in events], "sizes": sizes, "offsets": offsets}


@given(keys=st.lists(slices, min_size=1, max_size=3), data=st.data())
def test_a_slice_behaves_as_a_slice_of_a_list(et, tmp_path, keys, data):
    with et.open(_write(tmp_path, EVENTS)) as tape:
        selected, reference, ordinals, columns = tape, EVENTS, range(COUNT), _reference(EVENTS)
        for key in keys:
            selected, reference, ordinals = selected[key], reference[key], ordinals[key]
            columns = {name: column[key] for name, column in columns.items()}
        assert len(selected) == len(reference)
        assert selected.ordinals == ordinals
        assert pairs(selected) == reference
        assert [event.ordinal for event in selected] == list(ordinals)
        for name, column in columns.items():
            values = getattr(selected, name)
            assert (values.dtype, values.tolist()) == (np.int64, column)
        index = data.draw(st.integers(-len(reference) - 2, len(reference) + 2))
        if -len(reference) <= index < len(reference):
            assert (selected[index].timestamp, bytes(selected[index].data)) == reference[index]
        else:
            with pytest.raises(IndexError, match=f"index {index} is outside a slice of {len(reference)} events"):
                selected[index]


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS)
def test_columns(et, tmp_path, events):
    with et.open(_write(tmp_path, events)) as tape:
        for name, column in _reference(events).items():
            for _ in range(2):  # computed, then kept
                values = getattr(tape, name)
                assert (values.dtype, values.shape, values.tolist()) == (np.int64, (COUNT,), column)
                with pytest.raises(ValueError, match="read-only"):
                    values[0] = 1
            with pytest.raises(ValueError, match="read-only"):
                getattr(tape[5:7], name)[0] = 1


def test_columns_follow_a_stream_that_grows(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        for i, (stamp, data) in enumerate(EVENTS):
            tape.append(data, timestamp=stamp)
            if i % 50 == 0 or i in (62, 63, 64, 65):
                reference = _reference(EVENTS[: i + 1])
                assert {name: getattr(tape, name).tolist() for name in reference} == reference
                assert (len(tape), tape.searchsorted(stamp), tape.searchsorted(stamp, "right")) == (i + 1, i, i + 1)


def test_a_slice_is_fixed_when_it_is_made(et, tmp_path):
    with et.open(_write(tmp_path, EVENTS), "a") as tape:
        everything, window = tape[:], tape.between(starting_at=0)
        tape.append(b"new", timestamp=NS + 10**9)
        assert (len(everything), len(window), len(tape)) == (COUNT, COUNT, COUNT + 1)
        assert pairs(everything) == pairs(window) == EVENTS
        assert len(everything.timestamps) == COUNT


def test_a_slice_is_lazy(et, tmp_path):
    raw = bytearray(stream(EVENTS))
    raw[-1] ^= 1
    (tmp_path / "t.tape").write_bytes(raw)
    with et.open(tmp_path / "t.tape") as tape:
        part = tape[:]
        iterator = iter(part)
        assert next(iterator).ordinal == 0
        with pytest.raises(et.CorruptError):
            list(iterator)


@pytest.mark.parametrize("key", [slice(3, 60, 7), slice(None, None, -1), slice(5, 5)])
def test_a_slice_pickles_and_copies_as_path_and_range(et, tmp_path, key):
    with et.open(_write(tmp_path, EVENTS)) as tape:
        part = tape[key]
        for again in (pickle.loads(pickle.dumps(part)), copy.copy(part), copy.deepcopy(part)):
            assert type(again) is et.Slice
            assert (pairs(again), again.ordinals) == (EVENTS[key], part.ordinals)
        assert len(pickle.dumps(tape[:])) < 1000


def test_a_slice_of_an_unsorted_window_pickles(et, tmp_path):
    with et.open(_write(tmp_path, UNSORTED)) as tape:
        part = tape.between(starting_at=NS + 20_000, ending_at=NS + 90_000)
        assert pairs(pickle.loads(pickle.dumps(part))) == pairs(part)


LOW = [None, "starting_at", "starting_after"]
HIGH = [None, "ending_before", "ending_at"]


def _window(events, low, start, high, stop):
    def inside(stamp):
        return (
            (low is None or (stamp >= start if low == "starting_at" else stamp > start))
            and (high is None or (stamp <= stop if high == "ending_at" else stamp < stop))
        )  # fmt: skip

    return [i for i, (stamp, _) in enumerate(events) if inside(stamp)]


@pytest.mark.parametrize("events", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize(("low", "high"), list(itertools.product(LOW, HIGH)))
def test_between(et, tmp_path, events, low, high):
    first, last = min(events)[0], max(events)[0]
    times = [first - 1, first, first + 1, first + 40_000, first + 40_500, last - 1, last, last + 1, -(2**63), 2**63 - 1]
    with et.open(_write(tmp_path, events)) as tape:
        for start, stop in itertools.product(times, times):
            bounds = {name: value for name, value in ((low, start), (high, stop)) if name is not None}
            found = tape.between(**bounds)
            assert list(found.ordinals) == _window(events, low, start, high, stop), bounds
            if low is None and high is None:
                break
        for key in (slice(10, 250), slice(20, 280, 3), slice(None, None, -1)):
            bounds = {
                name: value for name, value in ((low, first + 30_000), (high, first + 90_000)) if name is not None
            }
            expected = set(_window(events, low, first + 30_000, high, first + 90_000))
            assert list(tape[key].between(**bounds).ordinals) == [i for i in range(COUNT)[key] if i in expected]


@pytest.mark.parametrize("events", [EVENTS, UNSORTED], ids=["sorted", "unsorted"])
def test_windows_of_windows(et, tmp_path, events):
    with et.open(_write(tmp_path, events)) as tape:
        outer = tape.between(starting_at=NS + 20_000, ending_at=NS + 150_000)
        inner = outer.between(starting_after=NS + 50_000, ending_before=NS + 100_000)
        expected = _window(events, "starting_after", NS + 50_000, "ending_before", NS + 100_000)
        assert list(inner.ordinals) == expected
        assert pairs(inner) == [events[i] for i in expected]
        assert pairs(inner[::-2]) == [events[i] for i in expected][::-2]
        for name, column in _reference(events).items():
            assert getattr(inner, name).tolist() == [column[i] for i in expected]
        assert inner[-1].ordinal == expected[-1]


def test_between_takes_datetimes(et, tmp_path):
    with et.open(_write(tmp_path, EVENTS)) as tape:
        when = dt.datetime.fromtimestamp((NS + 100_000) / 1e9, dt.UTC)
        assert (
            len(tape.between(starting_at=when))
            == len(tape.between(starting_at=np.datetime64(NS + 100_000, "ns")))
            == 200
        )
        assert len(tape.between(ending_before=np.datetime64(NS, "ns"))) == 0


def test_between_refuses_two_bounds_of_one_side(et, tmp_path):
    with et.open(_write(tmp_path, EVENTS)) as tape:
        with pytest.raises(TypeError, match="not both"):
            tape.between(starting_at=1, starting_after=1)
        with pytest.raises(TypeError, match="not both"):
            tape.between(ending_at=1, ending_before=1)
        with pytest.raises(TypeError):
            tape.between(1, 2)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["sorted", "equal"])
def test_searchsorted_is_numpys(et, tmp_path, name, side):
    events = STREAMS[name]
    stamps = np.array([stamp for stamp, _ in events])
    probes = [-(2**63), 0, 2**63 - 1, *range(NS - 500, NS + COUNT * 1000 + 1000, 500)]
    with et.open(_write(tmp_path, events)) as tape:
        for probe in probes:
            expected = int(np.searchsorted(stamps, np.int64(probe), side))
            assert tape.searchsorted(probe, side) == expected
            assert type(tape.searchsorted(probe, side)) is int
        for key in (slice(70, 200), slice(5, 290, 3), slice(8, 8)):
            for probe in probes[::7]:
                assert tape[key].searchsorted(probe, side) == np.searchsorted(stamps[key], np.int64(probe), side)


def test_searchsorted_refuses_where_there_is_no_position(et, tmp_path):
    with et.open(_write(tmp_path, BACK_ONCE)) as tape:
        for unsorted in (tape, tape[190:210], tape[:100][::-1]):
            with pytest.raises(ValueError, match="timestamps go backwards") as caught:
                unsorted.searchsorted(NS)
            assert str(tape.path) in str(caught.value)
        assert tape[:200].searchsorted(NS + 5000) == 5
        assert tape[200:].searchsorted(BACK_ONCE[210][0]) == 10
        with pytest.raises(ValueError, match="side must be"):
            tape.searchsorted(NS, "middle")


@given(
    stamps=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=200),
    probe=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5),
)
def test_time_queries_on_any_timestamps(et, tmp_path, stamps, probe):
    events = [(stamp, b"x") for stamp in stamps]
    with et.open(_write(tmp_path, events)) as tape:
        for low, high in (
            ("starting_at", None),
            ("starting_after", None),
            (None, "ending_at"),
            (None, "ending_before"),
        ):
            found = tape.between(**{low or high: probe})
            assert list(found.ordinals) == _window(events, low, probe, high, probe)
        if stamps == sorted(stamps):
            assert tape.searchsorted(probe) == np.searchsorted(np.array(stamps, np.int64), np.int64(probe))
