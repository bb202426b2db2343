"""The recovery path beyond the vectors: every bit flipped, every length, quarantine, interruption, progress."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest

from tests.helpers import HEADER, NS, copy_sidecar, entry, pairs, prefix, sample, stream

SMALL = [(NS, b"first"), (NS + 1, b""), (NS + 2, b"third event"), (NS + 3, b"x")]
RAW = stream(SMALL)


def _payload_bytes(raw, events):
    at = 24
    for _, data in events:
        yield from range(at + 16, at + 16 + len(data))
        at += 16 + len(data)


def test_every_bit_of_a_stream_flipped(et, tmp_path):
    path = tmp_path / "t.tape"
    payload = set(_payload_bytes(RAW, SMALL))
    for bit in range(len(RAW) * 8):
        raw = bytearray(RAW)
        raw[bit // 8] ^= 1 << bit % 8
        path.write_bytes(raw)
        report = et.verify(path)
        if report.state != "invalid":
            assert prefix(bytes(raw), report.end)[: report.events] == prefix(bytes(raw), report.end)
            assert len(prefix(bytes(raw), report.end)) == report.events
        if bit // 8 in payload:
            assert (report.state, report.reason) == ("damaged", "checksum"), bit
        elif 16 <= bit // 8 < 24:
            assert report.state == "clean"  # StartTimestamp has no checksum; docs/format.md says so
        elif bit // 8 < 16:
            assert not report.ok or report.state == "open", bit  # WriteOffset and EventCount are compared with the walk
        try:
            with et.open(path) as tape:
                found = list(tape)
                assert len(tape) == len(found)
        except et.Error as error:
            assert str(path) in str(error)  # noqa: PT017


def test_every_length_of_a_truncated_stream(et, tmp_path):
    ends = [24]
    for stamp, data in SMALL:
        ends.append(ends[-1] + len(entry(stamp, data)))
    for length in range(len(RAW)):
        path = tmp_path / f"{length}.tape"
        path.write_bytes(RAW[:length])
        whole = [i for i, end in enumerate(ends) if end <= length]
        report = et.verify(path)
        if length < ends[1]:  # without a whole first event nothing says that this is a stream
            assert (report.state, report.reason) == ("invalid", "header")
            with pytest.raises(et.FormatError):
                et.open(path)
            continue
        assert (report.state, report.reason, report.events, report.end) == (
            "damaged",
            "truncated",
            whole[-1],
            ends[whole[-1]],
        )
        with pytest.raises(et.TruncatedError) as caught:
            et.open(path)
        assert str(len(RAW)) in str(caught.value)
        et.recover(path)
        assert pairs(et.open(path)) == SMALL[: whole[-1]]


@pytest.mark.parametrize("tail", [1, 15, 16, 511, 4096])
def test_bytes_above_write_offset_are_never_served(et, tmp_path, tail):
    path = tmp_path / "t.tape"
    path.write_bytes(RAW + (entry(NS + 9, b"stale") * 300)[:tail])
    report = et.verify(path)
    assert (report.state, report.events, report.end, report.cut) == ("open", 4, len(RAW), 0)
    assert pairs(et.open(path)) == SMALL
    et.recover(path)
    assert path.read_bytes() == RAW
    assert os.listdir(tmp_path) == ["t.tape"]


def _torn(cut=7):
    """The last event was published but its end never reached the disk."""
    raw = bytearray(stream(sample(40)))
    raw[-cut:] = bytes(cut)
    return bytes(raw)


def test_a_torn_tail_is_saved_before_it_is_cut(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(_torn())
    end = et.verify(path).end
    with pytest.warns(et.RecoveryWarning, match="kept 39 events and cut .* bytes of a torn tail"):
        tape = et.open(path, "a")
    with tape:
        assert (len(tape), tape.recovered.cut) == (39, len(_torn()) - end)
        with open(tape.recovered.quarantine, "rb") as file:
            assert file.read() == _torn()[end:]
    assert os.path.dirname(tape.recovered.quarantine) == str(tmp_path)


def test_a_quarantine_never_overwrites_another(et, tmp_path):
    path, saved = tmp_path / "t.tape", set()
    for _ in range(3):
        path.write_bytes(_torn())
        saved.add(et.recover(path).quarantine)
    assert len(saved) == 3
    assert sorted(os.listdir(tmp_path)) == sorted(["t.tape", *map(os.path.basename, saved)])


@pytest.mark.parametrize("call", ["rename", "fsync", "ftruncate", "write"])
def test_a_recovery_that_fails_half_way_can_be_done_again(et, tmp_path, monkeypatch, call):
    path = tmp_path / "t.tape"
    path.write_bytes(_torn())
    end = et.verify(path).end
    with monkeypatch.context() as patch:
        calls = []

        def fail(*_):
            calls.append(1)
            raise OSError(5, "Input/output error")

        patch.setattr(os, call, fail)
        if call == "rename":
            patch.setattr(os, "link", fail)  # where there are no hard links a rename is the way
        with pytest.raises(OSError):
            et.recover(path)
        assert calls
    et.recover(path)
    assert pairs(et.open(path)) == sample(39)
    assert et.verify(path).state == "clean"
    quarantined = [name for name in os.listdir(tmp_path) if "quarantine" in name]
    assert any((tmp_path / name).read_bytes() == _torn()[end:] for name in quarantined)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


def test_damage_in_the_middle_is_never_cut_silently(et, tmp_path):
    path = tmp_path / "t.tape"
    raw = bytearray(stream(sample(40)))
    with warnings.catch_warnings():
        path.write_bytes(raw)
        with et.open(path) as tape:
            at = tape[20].offset
    raw[at + 16] ^= 1
    path.write_bytes(raw)
    with pytest.raises(et.CorruptError, match="intact events follow") as caught:
        et.open(path, "a")
    assert (caught.value.ordinal, caught.value.offset) == (20, at)
    assert path.read_bytes() == raw
    report = et.recover(path)  # asked for, it cuts and keeps what it cut
    assert (report.events, report.lost, report.ok) == (20, True, False)
    with open(report.quarantine, "rb") as file:
        assert file.read() == raw[at:]


def test_a_shortened_stream_whose_last_payload_holds_a_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    raw = stream([(NS, b"first"), (NS + 1, stream(sample(10)) + bytes(500))])[:-100]
    path.write_bytes(raw)
    # A payload that looks like events is no reason to fail: the file ends within that event, so its tail is torn.
    with pytest.warns(et.RecoveryWarning, match="kept 1 events"):
        tape = et.open(path, "a")
    with tape:
        assert (len(tape), tape.recovered.cut) == (1, len(raw) - 45)
        assert Path(tape.recovered.quarantine).read_bytes() == raw[45:]


def test_many_problems_are_counted_and_a_hundred_listed(et, tmp_path):
    path = tmp_path / "t.tape"
    events = [(NS + i, b"payload") for i in range(300)]
    raw = bytearray(stream(events))
    for i in range(10, 260):
        raw[24 + i * 23 + 16] ^= 1
    path.write_bytes(raw)
    report = et.verify(path)
    assert (report.problem_count, len(report.problems)) == (250, 100)
    assert [problem.ordinal for problem in report.problems] == list(range(10, 110))


def test_progress_rises_to_the_end(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream((NS, b"") for _ in range(200_000)))
    for call in (et.verify, et.recover):
        calls = []
        call(path, progress=lambda done, total, calls=calls: calls.append((done, total)))
        assert len(calls) > 1
        assert calls == sorted(calls)
        assert {total for _, total in calls} == {path.stat().st_size}
        assert calls[-1][0] == path.stat().st_size


def test_a_huge_size_allocates_nothing(et, tmp_path):
    path = tmp_path / "t.tape"
    raw = bytearray(stream([(NS, b"a"), (NS, b"b")]))
    raw[24 + 17 + 8 : 24 + 17 + 12] = b"\xff" * 4
    path.write_bytes(raw)
    report = et.verify(path)
    assert (report.reason, report.events, report.end) == ("size", 1, 41)
    path.write_bytes(HEADER.pack(2**62, 2**62, NS) + raw[24:])
    assert et.verify(path).reason == "truncated"


def test_unsorted_streams_are_reported(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS, b"a"), (NS, b"b"), (NS - 1, b"c"), (NS - 2, b"d")]))
    assert et.verify(path).unsorted_at == 2
    path.write_bytes(stream(sample(5)))
    assert et.verify(path).unsorted_at == -1


def _after_power_loss(et, monkeypatch, tmp_path, damage, synced=False):
    """A stream of forty events, synced or not, as a power loss left it: its path, and when it was made."""
    live, path = tmp_path / "live.tape", tmp_path / "t.tape"
    with et.open(live, "w") as tape:
        for stamp, data in sample(40):
            tape.append(data, stamp)
        if synced:
            tape.sync()
        raw = bytearray(live.read_bytes())
        damage(raw)
        path.write_bytes(raw)
        copy_sidecar(live, path)
        started = tape.start_timestamp
    monkeypatch.setattr(sys.modules["evtape.recovery.watermark"], "boot_id", lambda: b"another boot id.")
    return path, started


def _lose_header(raw):
    raw[:512] = bytes(512)


def _lose_all_but_header(raw):
    del raw[24:]


@pytest.mark.parametrize("damage", [_lose_header, _lose_all_but_header])
@pytest.mark.parametrize("way", ["open", "recover"])
def test_a_new_stream_that_lost_its_beginning_is_empty(et, tmp_path, monkeypatch, damage, way):
    path, started = _after_power_loss(et, monkeypatch, tmp_path, damage)
    raw = path.read_bytes()
    if way == "open":
        with pytest.warns(et.RecoveryWarning, match="kept 0 events"):
            tape = et.open(path, "a")
        report = tape.recovered
        tape.close()
    else:
        report = et.recover(path)
        assert et.recover(path).state == "clean"
    assert (report.events, report.end, report.cut, report.lost) == (0, 24, len(raw) - 24, True)
    assert "no event was durable" in report.problems[0].message
    assert report.cut == 0 or Path(report.quarantine).read_bytes() == raw[24:]
    assert path.read_bytes() == HEADER.pack(24, 0, started)


def test_a_lost_header_is_no_stream_where_events_were_durable(et, tmp_path, monkeypatch):
    path, _ = _after_power_loss(et, monkeypatch, tmp_path, _lose_header, synced=True)
    raw = path.read_bytes()
    for call in (lambda: et.open(path, "a"), lambda: et.recover(path)):
        with pytest.raises(et.FormatError, match="not a stream"):
            call()
    assert path.read_bytes() == raw


def test_a_lost_header_is_no_stream_on_the_same_boot(et, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        path, _ = _after_power_loss(et, patch, tmp_path, _lose_header)
    with pytest.raises(et.FormatError, match="not a stream"):
        et.open(path, "a")


def test_zeros_before_what_a_power_loss_tore_are_no_events(et, tmp_path, monkeypatch):
    path, live = tmp_path / "t.tape", tmp_path / "live.tape"
    with et.open(live, "w") as tape:
        tape.append_many([b"x" * 472, *[b"y" * 48] * 200])  # the first ends with its sector
        tape.sync()
        tape.append_many([b""] * 200)
        raw = bytearray(live.read_bytes())[: HEADER.unpack_from(live.read_bytes())[0]]
        path.touch()
        copy_sidecar(live, path)
    raw[512:4096] = bytes(3584)  # was durable
    raw[-1024:] = bytes(1024)  # was not
    path.write_bytes(raw)
    monkeypatch.setattr(sys.modules["evtape.recovery.watermark"], "boot_id", lambda: b"another boot id.")
    report = et.recover(path)
    assert (report.reason, report.events, report.end) == ("zero", 1, 512)
    assert Path(report.quarantine).read_bytes() == raw[512:]


@pytest.mark.parametrize("torn", [False, True], ids=["clean", "torn"])
def test_opening_maps_a_stream_twice_at_most_and_reads_its_watermark_once(et, tmp_path, monkeypatch, torn):
    path = tmp_path / "t.tape"
    data = stream([(i, b"x" * 50) for i in range(1, 20)])
    path.write_bytes(data[:-1] + b"y" if torn else data)
    made, loads = [], []
    real = sys.modules["evtape.core.backend"].core
    shim = type("Core", (), {key: getattr(real, key) for key in dir(real) if key[0] != "_"})

    def region(*arguments, **named):
        made.append(named.get("writable", False))
        return real.Region(*arguments, **named)

    shim.Region = staticmethod(region)
    for name, module in list(sys.modules.items()):
        if name.startswith("evtape.") and getattr(module, "core", None) is real:
            monkeypatch.setattr(module, "core", shim)
    watermark = sys.modules["evtape.recovery.watermark"].WatermarkFile
    load = watermark.load
    monkeypatch.setattr(watermark, "load", lambda self: loads.append(self) or load(self))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", et.RecoveryWarning)
        et.open(path, "a").close()
    assert made == [False, True]  # one to read, and one that repairs and then is the writer's
    assert len(loads) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts calls as this platform makes them")
def test_an_event_by_ordinal_costs_one_look_at_the_file(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(i, b"x" * 50) for i in range(1, 200)]))
    with et.open(path) as tape:
        assert len(tape) == 199
        asked, real = [], os.lseek
        monkeypatch.setattr(os, "lseek", lambda *given: asked.append(given) or real(*given))
        assert tape[150].timestamp == 151
        assert tape[-1].timestamp == 199
        assert len(asked) == 2
        monkeypatch.undo()
