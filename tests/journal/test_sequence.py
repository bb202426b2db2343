"""A journal answers every question about many events as one stream of the same events does, over its segments."""

from __future__ import annotations

import asyncio
import os

import numpy as np
import pytest

from tests.helpers import pairs, sample, stream
from tests.journal.reading import read_on
from tests.journal.test_journal import ROLL, write

EVENTS = 3000
RANDOM = np.random.default_rng(7)
PICKS = {
    "one": [5],
    "none": np.empty(0, np.int64),
    "negative": [-1, 0, -EVENTS, EVENTS - 1],
    "twice": [7, 7, 2500, 7],
    "one segment": np.arange(3, 60, 2),
    "every 40th": np.arange(0, EVENTS, 40),
    "backwards": np.arange(EVENTS)[::-1],
    "scattered": RANDOM.integers(0, EVENTS, 500),
    "unsigned": RANDOM.integers(0, EVENTS, 50).astype(np.uint16),
}


def goes_back(events):
    """The same with two times that go backwards."""
    return [(timestamp - (50_000 if i in (700, 2100) else 0), data) for i, (timestamp, data) in enumerate(events)]


@pytest.fixture(params=[False, True], ids=["walked", "indexed"])
def indexed(request):
    return request.param


@pytest.fixture
def compared(et, tmp_path, indexed):
    """A journal and one stream of the same events, open for reading."""
    events = sample(EVENTS)
    (tmp_path / "t.tape").write_bytes(stream(events))
    path = write(et, tmp_path / "j", events)
    if indexed:
        index_segments(et, path)
    with et.open(path) as journal, et.open(tmp_path / "t.tape") as tape:
        assert len(journal.segments) > 5
        yield journal, tape


def index_segments(et, path):
    names = [name for name in os.listdir(path) if name.endswith(".tape")]
    assert len(names) > 5
    for name in names:
        assert et.build_index(path / name) > 0


@pytest.mark.parametrize("pick", PICKS)
def test_an_array_of_ordinals(compared, pick):
    journal, tape = compared
    ordinals = PICKS[pick]
    found, expected = journal[ordinals], tape[ordinals]
    assert list(found.ordinals) == list(expected.ordinals)
    assert [event.ordinal for event in found] == list(expected.ordinals)
    assert pairs(found) == pairs(expected)
    assert found.timestamps.tolist() == expected.timestamps.tolist()
    assert found.sizes.tolist() == expected.sizes.tolist()
    assert len(found.offsets) == len(expected)
    for mine, other in zip(found.gather(), expected.gather(), strict=True):
        assert mine.dtype == other.dtype
        assert mine.tolist() == other.tolist()
    assert [bytes(event.data) for event in journal[:][ordinals]] == [bytes(event.data) for event in expected]


def test_head_tail_and_backwards(compared):
    journal, tape = compared
    for n in (0, 1, 100, 2000, EVENTS + 5):
        assert pairs(journal.head(n)) == pairs(tape.head(n))
        assert pairs(journal.tail(n)) == pairs(tape.tail(n))
    assert pairs(reversed(journal)) == pairs(reversed(tape))
    assert pairs(journal[::-7]) == pairs(tape[::-7])
    assert pairs(journal.tail(900).head(3)) == pairs(tape.tail(900).head(3))


def test_times(compared):
    journal, tape = compared
    first, last = tape[0].timestamp, tape[-1].timestamp
    for at in np.linspace(first - 5000, last + 5000, 60).astype(np.int64).tolist():
        assert journal.searchsorted(at) == tape.searchsorted(at)
        assert journal.searchsorted(at, "right") == tape.searchsorted(at, "right")
        assert pairs(journal.between(starting_at=at)) == pairs(tape.between(starting_at=at))


def test_times_that_go_backwards(et, tmp_path, indexed):
    events = goes_back(sample(EVENTS))
    (tmp_path / "t.tape").write_bytes(stream(events))
    path = write(et, tmp_path / "j", events)
    if indexed:
        index_segments(et, path)
    with et.open(path) as journal, et.open(tmp_path / "t.tape") as tape:
        times = sorted(timestamp for timestamp, _ in events)
        for low, high in ((times[0], times[5]), (times[600], times[800]), (times[2000], times[2999]), (0, 1)):
            mine = journal.between(starting_at=low, ending_at=high)
            other = tape.between(starting_at=low, ending_at=high)
            assert list(mine.ordinals) == list(other.ordinals)
            assert pairs(mine) == pairs(other)
            assert mine.timestamps.tolist() == other.timestamps.tolist()


def test_ordinals_that_are_not_there(et, tmp_path):
    path = write(et, tmp_path / "j", sample(EVENTS))
    names = sorted(name for name in os.listdir(path) if name.endswith(".tape"))
    gap = range(int(names[3][:20]), int(names[4][:20]))
    os.unlink(path / names[3])
    os.unlink(path / names[0])
    first = int(names[1][:20])
    with et.open(path) as journal:
        with pytest.raises(et.ExpiredError) as expired:
            journal[[first, 0]]
        assert (expired.value.ordinal, expired.value.first_ordinal) == (0, first)
        for wrong in ([EVENTS], [-EVENTS - 1]):
            with pytest.raises(IndexError, match="is outside a journal"):
                journal[wrong]
        with pytest.raises(TypeError, match="ordinal"):
            journal[[0.5]]
        picked = [first, gap[0], gap[-1], gap[-1] + 1, first + 1]
        ordinals, errors = read_on(journal[picked], et.MissingError)
        assert ordinals == [first, gap[-1] + 1, first + 1]
        assert [error.ordinal for error in errors] == [gap[0], gap[-1]]
        with pytest.raises(et.MissingError):
            journal[picked].gather()


def test_damage_is_named_by_its_ordinal_in_the_journal(et, tmp_path):
    path = write(et, tmp_path / "j", sample(EVENTS))
    with et.open(path) as journal:
        segment = journal.segments[2]
        victim = segment.ordinals[10]
        offset = int(journal[victim : victim + 1].offsets[0])
        size = int(journal[victim : victim + 1].sizes[0])
    assert size > 0
    with open(segment.path, "r+b") as file:
        file.seek(offset + 16)
        byte = file.read(1)[0]
        file.seek(offset + 16)
        file.write(bytes([byte ^ 1]))
    with et.open(path) as journal:
        picked = journal[[victim - 1, victim, victim + 1]]
        ordinals, (error,) = read_on(picked, et.CorruptError)
        assert ordinals == [victim - 1, victim + 1]
        assert (error.ordinal, error.offset, error.reason) == (victim, offset, "checksum")
        with pytest.raises(et.CorruptError) as met:
            picked.gather()
        assert met.value.ordinal == victim


def test_a_writer_answers_the_same_over_a_roll(et, tmp_path):
    events = sample(EVENTS)
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        for timestamp, data in events:
            journal.append(data, timestamp)
        picked = [2999, 0, 1500, -1]
        assert pairs(journal[picked]) == [events[i] for i in picked]
        assert pairs(journal.tail(3)) == events[-3:]
        assert pairs(reversed(journal)) == events[::-1]


def test_a_writer_goes_on_in_a_segment_that_has_an_index(et, tmp_path):
    """The index ends where it ended; what is appended is walked, and the next segment has none."""
    events = sample(EVENTS)
    path = write(et, tmp_path / "j", events[:1000])
    last = max(name for name in os.listdir(path) if name.endswith(".tape"))
    et.build_index(path / last)
    with et.open_journal(path, "a") as journal:
        for timestamp, data in events[1000:]:
            journal.append(data, timestamp)
        assert pairs(journal) == events
    assert [name for name in os.listdir(path) if name.endswith(".index")] == [f"{last}.index"]
    assert et.verify(path).state == "clean"
    with et.open(path) as journal:
        assert pairs(reversed(journal)) == events[::-1]
        assert journal.between(starting_at=events[1200][0]).ordinals.start <= 1200


def test_closed_segments_get_an_index(et, tmp_path):
    path, events = tmp_path / "j", sample(EVENTS)
    with et.open_journal(path, "a", roll_bytes=8192, index=True) as journal:
        for timestamp, data in events[:2000]:
            journal.append(data, timestamp)
    with et.open_journal(path, "a", index=True) as journal:
        for timestamp, data in events[2000:]:
            journal.append(data, timestamp)
        journal.sync()  # closes what was rolled
        closed = [segment.path for segment in journal.segments[:-1]]
        assert len(closed) > 5
        assert all(os.path.exists(f"{name}.index") for name in closed)
    names = [name for name in os.listdir(path) if name.endswith(".tape")]
    assert all((path / f"{name}.index").exists() for name in names)
    report = et.verify(path)
    assert (report.state, report.index, report.compared) == ("clean", "compared", EVENTS)
    with et.open(path) as journal:
        source = journal._source.segment(journal.segments[1].ordinals.start)
        assert source.length() == source.index.from_file


def test_small_segments_and_those_that_want_none_have_no_index(et, tmp_path):
    for name, options in (("small", {}), ("none", {"index": False})):
        with et.open_journal(tmp_path / name, "a", roll_bytes=4096, **options) as journal:
            journal.append_many([b"x" * 100] * 30)
            journal.roll()
        assert not [name for name in os.listdir(tmp_path / name) if name.endswith(".index")]
    with pytest.raises(TypeError, match="index"):
        et.open_journal(tmp_path / "other", "a", index=3)
    with pytest.raises(ValueError, match="index are for writing"):
        et.open_journal(tmp_path / "small", index=True)
    assert not (tmp_path / "other").exists()


def test_an_index_goes_with_its_segment(et, tmp_path):
    path = write(et, tmp_path / "j", sample(EVENTS))
    index_segments(et, path)
    with et.open_journal(path, "a") as journal:
        first = journal.segments[0].ordinals
    assert os.path.exists(path / f"{first.start:020d}.tape.index")
    for name in os.listdir(path):
        if name != "journal.lock" and name.endswith(".json"):
            os.unlink(path / name)  # the settings, so that others can be given
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=2) as journal:
        journal.prune()
        left = [f"{segment.ordinals.start:020d}.tape" for segment in journal.segments]
    assert len(left) == 2
    assert {name for name in os.listdir(path) if name.endswith(".index")} <= {f"{name}.index" for name in left}


def test_verify_says_what_was_compared(et, tmp_path):
    path = write(et, tmp_path / "j", sample(EVENTS))
    report = et.verify(path)
    assert (report.index, report.compared) == ("missing", 0)
    first = min(name for name in os.listdir(path) if name.endswith(".tape"))
    events = et.build_index(path / first)
    report = et.verify(path)
    assert (report.state, report.index, report.compared) == ("clean", "compared", events)
    index_segments(et, path)
    report = et.verify(path)
    assert (report.state, report.index, report.compared) == ("clean", "compared", EVENTS)
    with open(path / first, "r+b") as file:  # the time of the first event
        file.seek(24)
        byte = file.read(1)[0]
        file.seek(24)
        file.write(bytes([byte ^ 1]))
    report = et.verify(path)
    assert report.compared == EVENTS
    assert [problem.reason for problem in report.problems] == ["timestamp"]


def test_following_in_an_event_loop_goes_over_rolls(et, tmp_path):
    events = sample(EVENTS)
    path = write(et, tmp_path / "j", events[:1])

    async def read():
        with et.open(path) as reader:
            return [(event.timestamp, bytes(event.data)) async for event in reader.afollow(until=EVENTS, timeout=20)]

    async def run():
        reading = asyncio.create_task(read())
        with et.open_journal(path, "a") as journal:
            for i, (timestamp, data) in enumerate(events[1:]):
                journal.append(data, timestamp)
                if i % 50 == 0:
                    await asyncio.sleep(0.002)
            return await reading

    assert asyncio.run(run()) == events
