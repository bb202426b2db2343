"""The files of tests/data, by an independent program: each verifies, opens and recovers as expected.json says."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

from tests.helpers import DATA, HEADER, NS, pairs, prefix

EXPECTED = json.loads((DATA / "expected.json").read_text())

# Opening for append: what happens beyond "nothing to repair".
WARNS = {
    "count-low",
    "count-high",
    "count-negative",
    "offset-mid-entry",
    "offset-mid-header",
    "truncated",
    "offset-huge",
    "lost-tail",
}
REFUSES = {
    "size-overflow": "CorruptError",
    "bitflip-middle": "CorruptError",
    "lost-page-middle": "CorruptError",
    "zero-sector-aligned": "CorruptError",
    "offset-negative": "FormatError",
    "offset-23": "FormatError",
}
# Opening for reading: what refuses at once. Everything else opens and gives the prefix.
UNREADABLE = {
    "truncated": "TruncatedError",
    "offset-huge": "TruncatedError",
    "offset-negative": "FormatError",
    "offset-23": "FormatError",
}


class Vector:
    def __init__(self, name: str) -> None:
        self.name = name
        self.raw = (DATA / f"{name}.tape").read_bytes()
        self.state, self.events, self.end, self.reason, self.first = (
            EXPECTED[name][key] for key in ("state", "events", "end", "reason", "first")
        )
        self.invalid = self.state == "invalid"
        self.prefix = [] if self.invalid else prefix(self.raw, self.end)
        offset = HEADER.unpack_from(self.raw)[0] if len(self.raw) >= 24 else 0
        self.bound = offset if 24 <= offset <= len(self.raw) else len(self.raw)

    def recovered(self) -> bytes:
        """The file that recovery must leave: the header of the prefix over its unchanged bytes."""
        start = HEADER.unpack_from(self.raw)[2]
        return HEADER.pack(self.end, self.events, start) + self.raw[24 : self.end]


@pytest.fixture(params=sorted(EXPECTED))
def vector(request):
    return Vector(request.param)


@pytest.fixture
def path(vector, tmp_path):
    return Path(shutil.copy(DATA / f"{vector.name}.tape", tmp_path / "t.tape"))


def test_every_file_has_an_expectation():
    assert {path.stem for path in DATA.glob("*.tape")} == set(EXPECTED)


def test_verify(et, vector, path):
    report = et.verify(path)
    assert (report.state, report.events, report.end, report.reason) == (
        vector.state,
        vector.events,
        vector.end,
        vector.reason,
    )
    assert (report.ok, bool(report.problems)) == (vector.state in ("clean", "open"), vector.reason is not None)
    assert report.size == len(vector.raw)
    assert report.path == str(path)
    assert report.problem_count >= len(report.problems)
    if vector.prefix:
        assert (report.first_timestamp, report.last_timestamp) == (vector.prefix[0][0], vector.prefix[-1][0])
        assert vector.prefix[0] == (vector.first["timestamp"], bytes.fromhex(vector.first["data_hex"]))
    for problem in report.problems:
        assert (problem.ordinal == -1) == (problem.offset == -1) == (problem.reason in ("header", "truncated", "count"))
    in_events = [problem for problem in report.problems if problem.ordinal >= 0]
    if in_events and vector.reason == in_events[0].reason:
        assert (in_events[0].ordinal, in_events[0].offset) == (vector.events, vector.end)
    assert json.loads(json.dumps(report.as_dict()))["state"] == vector.state
    assert path.read_bytes() == vector.raw


def test_reading(et, vector, path):
    if vector.invalid or vector.name in UNREADABLE:
        with pytest.raises(getattr(et, UNREADABLE.get(vector.name, "FormatError"))) as caught:
            et.open(path)
        assert str(path) in str(caught.value)
        return
    with et.open(path) as tape:
        iterator = iter(tape)
        assert [(t, bytes(d)) for t, d in (next(iterator) for _ in range(vector.events))] == vector.prefix
        if vector.reason in (None, "count"):  # a wrong EventCount alone loses nothing
            assert list(iterator) == []
            assert len(tape) == vector.events
            assert len(tape.timestamps) == vector.events
            return
        with pytest.raises(et.CorruptError) as caught:
            next(iterator)
        error = caught.value
        assert (error.ordinal, error.offset, error.reason) == (vector.events, vector.end, vector.reason)
        assert str(path) in str(error)
        assert pairs(tape[: vector.events]) == vector.prefix
        with pytest.raises(et.CorruptError) as caught:
            tape[vector.events]
        assert caught.value.args == error.args


def test_recover_in_place(et, vector, path, tmp_path):
    if vector.invalid:
        with pytest.raises(et.FormatError):
            et.recover(path)
        assert path.read_bytes() == vector.raw
        assert os.listdir(tmp_path) == ["t.tape"]
        return
    report = et.recover(path)
    assert (report.state, report.events, report.end, report.reason) == (
        vector.state,
        vector.events,
        vector.end,
        vector.reason,
    )
    cut = vector.raw[vector.end : vector.bound] if vector.state == "damaged" else b""
    assert report.cut == len(cut)
    assert path.read_bytes() == vector.recovered()
    names = {"t.tape"}
    if cut:
        assert Path(report.quarantine).read_bytes() == cut
        names.add(os.path.basename(report.quarantine))
    else:
        assert report.quarantine is None
    assert set(os.listdir(tmp_path)) == names
    after = et.verify(path)
    assert (after.state, after.events, after.end, after.problems) == ("clean", vector.events, vector.end, ())
    assert pairs(et.open(path)) == vector.prefix
    again = et.recover(path)  # doing it again changes nothing
    assert (again.state, again.cut, again.quarantine) == ("clean", 0, None)
    assert path.read_bytes() == vector.recovered()
    assert set(os.listdir(tmp_path)) == names


def test_recover_into_another_file(et, vector, path, tmp_path):
    output = tmp_path / "out.tape"
    if vector.invalid:
        with pytest.raises(et.FormatError):
            et.recover(path, output=output)
        assert os.listdir(tmp_path) == ["t.tape"]
        return
    report = et.recover(path, output=output)
    assert (report.state, report.events, report.output, report.quarantine) == (
        vector.state,
        vector.events,
        str(output),
        None,
    )
    assert output.read_bytes() == vector.recovered()
    assert et.verify(output).state == "clean"
    with pytest.raises(FileExistsError):
        et.recover(path, output=output)
    assert output.read_bytes() == vector.recovered()
    assert path.read_bytes() == vector.raw
    assert sorted(os.listdir(tmp_path)) == ["out.tape", "t.tape"]


def test_dry_run_changes_nothing(et, vector, path, tmp_path):
    if vector.invalid:
        with pytest.raises(et.FormatError):
            et.recover(path, dry_run=True)
    else:
        report = et.recover(path, dry_run=True, output=tmp_path / "out.tape")
        assert (report.events, report.quarantine, report.output) == (vector.events, None, None)
        assert report.cut == (vector.bound - vector.end if vector.state == "damaged" else 0)
    assert path.read_bytes() == vector.raw
    assert os.listdir(tmp_path) == ["t.tape"]


def test_opening_for_append(et, vector, path, tmp_path):
    refusal = "FormatError" if vector.invalid else REFUSES.get(vector.name)
    if refusal is not None:
        with pytest.raises(getattr(et, refusal)) as caught:
            et.open(path, "a")
        assert str(path) in str(caught.value)
        if refusal == "CorruptError":
            assert (caught.value.ordinal, caught.value.offset, caught.value.reason) == (
                vector.events,
                vector.end,
                vector.reason,
            )
            assert "evtape recover" in str(caught.value)
        assert path.read_bytes() == vector.raw
        assert os.listdir(tmp_path) == ["t.tape"]
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tape = et.open(path, "a")
    with tape:
        assert [warning.category for warning in caught] == ([et.RecoveryWarning] if vector.name in WARNS else [])
        for warning in caught:
            assert warning.filename == __file__
            assert str(path) in str(warning.message)
            assert warning.message.report is tape.recovered
        assert (tape.recovered.state, tape.recovered.reason, len(tape)) == (vector.state, vector.reason, vector.events)
        if tape.recovered.cut:
            assert Path(tape.recovered.quarantine).read_bytes() == vector.raw[vector.end : vector.bound]
        assert tape.append(b"next", timestamp=NS) == vector.events
    assert pairs(et.open(path)) == [*vector.prefix, (NS, b"next")]
    assert et.verify(path).state == "clean"
