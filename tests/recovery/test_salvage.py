"""recover(salvage=True): what is taken over from behind damage, and how it is marked."""

from __future__ import annotations

import json
import random
import sys
from itertools import compress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers import NS, entry, pairs, prefix, sample, stream

EVENTS = sample(40)
RAW = stream(EVENTS)
ENDS = [24]
for _stamp, _data in EVENTS:
    ENDS.append(ENDS[-1] + 16 + len(_data))


def salvage(et, tmp_path, raw, name="out.tape"):
    path = tmp_path / "damaged.tape"
    path.write_bytes(raw)
    report = et.recover(path, output=tmp_path / name, salvage=True)
    assert path.read_bytes() == raw  # the source stays as it is
    out = (tmp_path / name).read_bytes()
    assert et.verify(tmp_path / name).state == "clean"
    return report, prefix(out, len(out))


def test_a_bad_payload_costs_one_event(et, tmp_path):
    raw = bytearray(RAW)
    raw[ENDS[10] + 20] ^= 1
    report, events = salvage(et, tmp_path, bytes(raw))
    assert events == EVENTS[:10] + EVENTS[11:]
    assert [(run.ordinal, run.events, run.offset, run.end) for run in report.salvaged] == [(10, 29, ENDS[11], ENDS[40])]
    assert "damaged event" in report.salvaged[0].doubt
    assert report.lost


def test_a_bad_size_is_searched_past(et, tmp_path):
    raw = bytearray(RAW)
    raw[ENDS[10] + 11] = 0x7F
    report, events = salvage(et, tmp_path, bytes(raw))
    assert events == EVENTS[:10] + EVENTS[11:]
    assert "search" in report.salvaged[0].doubt


def test_a_lost_block(et, tmp_path):
    raw = bytearray(RAW)
    raw[512:1024] = bytes(512)
    report, events = salvage(et, tmp_path, bytes(raw))
    kept = [i for i in range(40) if not (ENDS[i] < 1024 and ENDS[i + 1] > 512)]
    assert [event for event in events if event in EVENTS] == events  # none is invented
    assert events[: report.events] == EVENTS[: report.events]
    missing = {EVENTS[i][0] for i in kept} - {stamp for stamp, _ in events}
    assert all(dict(EVENTS)[stamp] == b"" for stamp in missing)  # an empty one right behind the block has no checksum


def test_what_looks_like_events_inside_a_damaged_payload_is_left_alone(et, tmp_path):
    inner = stream([(NS + 5, b"never appended here"), (NS + 6, b"nor this")])
    outer = [(NS, b"before"), (NS + 1, inner), (NS + 2, b"after")]
    raw = bytearray(stream(outer))
    raw[24 + 16 + 6 + 16] ^= 1  # in the payload, before what looks like events
    _report, events = salvage(et, tmp_path, bytes(raw))
    assert events == [outer[0], outer[2]]


def test_nothing_behind_the_damage(et, tmp_path):
    report, events = salvage(et, tmp_path, RAW[:-3] + b"xxx")
    assert events == EVENTS[:39]
    assert report.salvaged == ()
    assert json.loads((tmp_path / "out.tape.salvage.json").read_text())["salvaged"] == []


def test_the_marks_lie_beside_the_stream(et, tmp_path):
    raw = bytearray(RAW)
    raw[ENDS[10] + 20] ^= 1
    report, _ = salvage(et, tmp_path, bytes(raw))
    marks = json.loads((tmp_path / "out.tape.salvage.json").read_text())
    assert marks == json.loads(json.dumps(report.as_dict()))
    assert marks["events"] == 10
    assert marks["salvaged"][0] == {
        "ordinal": 10,
        "events": 29,
        "offset": ENDS[11],
        "end": ENDS[40],
        "doubt": "after a damaged event whose size led here",
    }


def test_a_clean_stream_is_copied_and_nothing_is_doubtful(et, tmp_path):
    report, events = salvage(et, tmp_path, RAW)
    assert events == EVENTS
    assert not report.lost
    assert not (tmp_path / "out.tape.salvage.json").exists()


def test_nothing_is_overwritten(et, tmp_path):
    raw = bytearray(RAW)
    raw[ENDS[10] + 20] ^= 1
    (tmp_path / "out.tape.salvage.json").write_text("somebody's")
    with pytest.raises(FileExistsError, match=r"salvage\.json"):
        salvage(et, tmp_path, bytes(raw))
    assert not (tmp_path / "out.tape").exists()
    assert (tmp_path / "out.tape.salvage.json").read_text() == "somebody's"


def test_it_never_works_in_place(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(RAW)
    with pytest.raises(ValueError, match="give output"):
        et.recover(path, salvage=True)
    with pytest.raises(ValueError, match="give output"):
        et.recover(path, output=tmp_path / "o.tape", dry_run=True, salvage=True)


def test_a_file_made_to_be_slow_gives_up_and_says_where(et, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["evtape.recovery.search"], "_BUDGET_SURE", 100_000)
    looks = entry(NS, b"x" * 30)[:12] + b"bad!"  # a size that fits, with a wrong checksum
    raw = bytearray(stream([(NS, b"good")]) + b"?" * 7 + looks * 4000)
    raw[:8] = len(raw).to_bytes(8, "little")
    report, events = salvage(et, tmp_path, bytes(raw))
    assert events == [(NS, b"good")]
    assert [(run.events, run.end) for run in report.salvaged] == [(0, len(raw))]
    assert "not searched" in report.salvaged[0].doubt
    assert report.lost


@pytest.mark.parametrize("first", [1, 1_262_304_000_000_000_000, -5_000], ids=["a counter", "2010", "before 1970"])
def test_times_far_from_when_the_stream_was_made(et, tmp_path, first):
    old = [(first + i, b"%05d" % i * 20) for i in range(50)]
    raw = bytearray(stream(old))
    raw[24 + 11] = 0x7F  # the size of the first event: no time of the stream is known
    assert salvage(et, tmp_path, bytes(raw))[1] == old[1:]


@pytest.mark.parametrize("garbage", [bytes(512), bytes(range(7, 256)) * 16], ids=["zeros", "garbage"])
def test_the_beginning_is_lost(et, tmp_path, garbage):
    raw = bytearray(RAW)
    raw[: len(garbage)] = garbage
    first = next(i for i in range(40) if ENDS[i] >= len(garbage) and EVENTS[i][1])
    report, events = salvage(et, tmp_path, bytes(raw))
    assert events == EVENTS[first:]
    assert (report.state, report.events, report.lost) == ("damaged", 0, True)
    with et.open(tmp_path / "out.tape") as tape:
        assert tape.start_timestamp == EVENTS[first][0]


def test_what_is_no_stream_stays_none(et, tmp_path):
    path = tmp_path / "t.tape"
    for raw in (b"", b"short", bytes(5000), bytes(range(256)) * 500, Path(__file__).read_bytes()):
        path.write_bytes(raw)
        with pytest.raises(et.FormatError, match="not a stream"):
            et.recover(path, output=tmp_path / "o.tape", salvage=True)
        assert [file.name for file in tmp_path.iterdir()] == ["t.tape"]


def test_a_wrong_size_that_leads_to_an_intact_event_far_away(et, tmp_path):
    ticks = [(NS + i, b"%048d" % i) for i in range(300)]  # entries of 64 bytes: most bits of a size lead to another one
    raw = bytearray(stream(ticks))
    raw[24 + 10 * 64 + 9] ^= 0x20  # 8,192 bytes more: 128 events
    report, events = salvage(et, tmp_path, bytes(raw))
    assert events == ticks[:10] + ticks[11:]
    assert "search" in report.salvaged[0].doubt


def test_a_large_lost_area(et, tmp_path):
    events = [(NS + i, random.Random(i).randbytes(1000)) for i in range(3000)]
    raw = bytearray(stream(events))
    raw[100_000:2_900_000] = random.Random("garbage").randbytes(2_800_000)
    kept = [i for i in range(3000) if not (24 + i * 1016 < 2_900_000 and 24 + i * 1016 + 1016 > 100_000)]
    assert salvage(et, tmp_path, bytes(raw))[1] == [events[i] for i in kept]


def test_an_empty_event_before_damage_is_not_taken_over(et, tmp_path):
    """The header of an event whose size and checksum were lost reads as an empty event."""
    events = [(NS, b"a"), (NS + 1, b"b" * 40), (NS + 2, b"c" * 40), (NS + 3, b"d" * 900), (NS + 4, b"e" * 40)]
    raw = bytearray(stream(events))
    raw[24 + 17 + 11] = 0x7F
    torn = 24 + 17 + 56 + 56
    raw[torn + 8 : torn + 300] = bytes(292)
    assert salvage(et, tmp_path, bytes(raw))[1] == [events[0], events[2], events[4]]


@settings(max_examples=100)
@example(
    sizes=[0, 0, 0, 12, 26, 27, 46, 60, 57, 0, 3, 60, 64, 73, 87, 93, 100, 100, 102, 109, 182, *[300] * 8, 0],
    lost={0, 8},
)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=20, max_size=120),
    lost=st.sets(st.integers(0, 20), min_size=1, max_size=4),
)
def test_lost_sectors_invent_nothing(et, tmp_path_factory, sizes, lost):
    tmp_path = tmp_path_factory.mktemp("salvage")
    appended = [(NS + i * 10**6, random.Random(i).randbytes(size)) for i, size in enumerate(sizes)]
    raw = bytearray(stream(appended))
    ends = [24 + sum(16 + size for size in sizes[:i]) for i in range(len(sizes))]
    for sector in lost:
        raw[sector * 512 : (sector + 1) * 512] = bytes(len(raw[sector * 512 : (sector + 1) * 512]))
    try:
        report, events = salvage(et, tmp_path, bytes(raw))
    except et.FormatError:
        return
    for run in report.salvaged:
        taken = events[run.ordinal : run.ordinal + run.events]
        at = ends.index(run.offset)
        expected = appended[at : at + run.events]
        assert [data for _, data in taken] == [data for _, data in expected]
        # No checksum covers a timestamp. That of the first event, or of an empty one, may be lost in part.
        whole = [not lost & {end // 512, (end + 7) // 512} for end in ends[at : at + run.events]]
        assert list(compress(taken, whole)) == list(compress(expected, whole))
    assert [run.offset for run in report.salvaged] == sorted(run.offset for run in report.salvaged)


@settings(max_examples=100)
@given(
    payloads=st.lists(st.binary(max_size=60), min_size=1, max_size=30),
    damage=st.lists(st.tuples(st.integers(24, 4000), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4),
)
def test_whatever_is_damaged_nothing_is_invented(et, tmp_path_factory, payloads, damage):
    tmp_path = tmp_path_factory.mktemp("salvage")
    appended = [(NS + i, data) for i, data in enumerate(payloads)]
    raw = bytearray(stream(appended))
    size = len(raw)
    for at, garbage in damage:
        at %= size
        if at >= 24:
            raw[at : at + len(garbage)] = garbage[: size - at]
    path = tmp_path / "d.tape"
    path.write_bytes(raw)
    report = et.recover(path, output=tmp_path / "o.tape", salvage=True)
    out = (tmp_path / "o.tape").read_bytes()
    events = prefix(out, len(out))
    plain = et.recover(path, output=tmp_path / "p.tape")
    assert report.events == plain.events
    behind = events[report.events :]
    assert len(behind) == sum(run.events for run in report.salvaged)
    position = 0
    for _stamp, data in behind:  # a timestamp is in no checksum, and so is all of an empty event
        if data:
            position = payloads.index(data, position) + 1


def test_open_refuses_and_salvage_helps(et, tmp_path):
    raw = bytearray(RAW)
    raw[ENDS[10] + 20] ^= 1
    path = tmp_path / "t.tape"
    path.write_bytes(raw)
    with pytest.raises(et.CorruptError, match="evtape recover"):
        et.open(path, "a")
    et.recover(path, output=tmp_path / "o.tape", salvage=True)
    with et.open(tmp_path / "o.tape", "a") as tape:
        assert pairs(tape) == EVENTS[:10] + EVENTS[11:]


def test_write_offset_damaged_down_to_an_event(et, tmp_path):
    """Nothing above WriteOffset is published; where EventCount says there was more, it is saved before it is cut."""
    path = tmp_path / "t.tape"
    path.write_bytes(ENDS[30].to_bytes(8, "little") + RAW[8:])
    salvaged, events = salvage(et, tmp_path, path.read_bytes())
    assert events == EVENTS
    assert [(run.ordinal, run.events, run.offset) for run in salvaged.salvaged] == [(30, 10, ENDS[30])]
    report = et.recover(path)
    assert (report.state, report.reason, report.events, report.lost) == ("damaged", "count", 30, False)
    assert report.quarantine is not None
    assert Path(report.quarantine).read_bytes() == RAW[ENDS[30] :]
    assert path.read_bytes() == stream(EVENTS[:30])
