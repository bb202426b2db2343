"""What a stream, a slice, a report and a mapped file look like at a prompt and in a notebook."""

from __future__ import annotations

import os

import pytest

from tests.helpers import stream

NS = 1_640_995_823_000_000_000  # 2022-01-01T00:10:23Z


def _table(value) -> str:
    return value._repr_html_()


def test_a_reader_and_a_slice(et, tmp_path):
    path = tmp_path / "<b>.tape"
    with et.open(path, "w") as tape:
        for i in range(1200):
            tape.append(b"x" * 10, timestamp=NS + i)
        assert repr(tape).startswith("<evtape writer of ")
        assert "events 1,200" in repr(tape)
    with et.open(path) as tape:
        shown = repr(tape)
        for part in ("<evtape reader of ", repr(str(path)), "events 1,200", "bytes 31,224", "2022-01-01T00:10:23.0000"):
            assert part in shown
        assert "last event 2022-01-01T00:10:23.000001199Z" in shown
        piece = tape[10:20]
        assert "events 10, ordinals 10 to 19" in repr(piece)
        assert "events 0" in repr(tape[5:5])
        for value in (tape, piece):
            assert "<table>" in _table(value)
            assert "&lt;b&gt;.tape" in _table(value)
            assert "<b>" not in _table(value)
    assert repr(tape) == f"<evtape reader of {str(path)!r}, closed>"
    assert repr(piece).startswith("<evtape slice of")
    assert "closed" in _table(tape)


def test_a_repr_never_raises_and_never_walks_a_large_stream(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(1, b"a" * 100), (2, b"b" * 100)]))
    tape = et.open(path)
    os.truncate(path, 100)
    assert "TruncatedError" in repr(tape) or "events" in repr(tape)
    tape.close()
    path.write_bytes(stream([(1, b"a" * 100), (2, b"b" * 100)]))
    module = et.stream.tape
    monkeypatch.setattr(module, "_INDEXED_FOR_SHOW", 0)
    with et.open(path) as tape:
        assert "events 2" in repr(tape)
        assert "last event" not in repr(tape)
        assert tape._source.index.length == 0
        len(tape)
        assert "last event 1970-01-01T00:00:00.000000002Z" in repr(tape)


def test_a_repr_uses_the_index(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    with et.open(path, "w", index=True) as tape:
        tape.append_many([b"a"] * 1000, list(range(1, 1001)))
    monkeypatch.setattr(et.stream.tape, "_INDEXED_FOR_SHOW", 0)
    with et.open(path) as tape:
        assert "events 1,000" in repr(tape)
        assert "last event 1970-01-01T00:00:00.000001000Z" in repr(tape)
    with et.open_journal(tmp_path / "j", "a") as journal:
        journal.append(b"x")
        assert "events 1, segments 1" in repr(journal)


def test_a_report_and_an_empty_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        assert "events 0" in repr(tape)
        assert "first event" not in repr(tape)
    report = et.verify(path)
    assert (report.first_timestamp, report.last_timestamp) == (None, None)
    assert repr(report) == f"<evtape report of {str(path)!r}: state clean, events 0, bytes 24>"
    path.write_bytes(stream([(1, b"a")])[:-1] + b"b")
    report = et.verify(path)
    assert "state damaged" in repr(report)
    assert "problems 1, first: checksum" in repr(report)
    assert "<table>" in _table(report)


def test_a_mapped_file(et, tmp_path):
    with et.MappedFile(tmp_path / "m", "x", size=8192) as mapped:
        assert repr(mapped) == f"<evtape mapped file {str(tmp_path / 'm')!r}: 8,192 bytes, writable>"
        assert "8,192" in _table(mapped)
    assert repr(mapped) == f"<evtape mapped file {str(tmp_path / 'm')!r}, closed>"


@pytest.mark.skipif(os.name == "nt", reason="an open file keeps its name on Windows")
def test_a_reader_says_when_its_name_leads_to_another_file(et, tmp_path, monkeypatch):
    path, other = tmp_path / "t.tape", tmp_path / "o.tape"
    path.write_bytes(stream([(1, b"a")]))
    other.write_bytes(stream([(1, b"b")]))
    monkeypatch.chdir(tmp_path)
    with et.open("t.tape") as tape:
        monkeypatch.chdir("/")
        assert not tape.replaced
        os.link(path, tmp_path / "second")
        assert not tape.replaced
        path.unlink()
        assert tape.replaced
        os.rename(other, path)
        assert tape.replaced
        os.rename(tmp_path / "second", path)
        assert not tape.replaced
        assert tape[0].bytes == b"a"
    with pytest.raises(et.ClosedError):
        _ = tape.replaced


def test_the_public_names_are_the_package(et):
    assert dir(et) == sorted(et.__all__)
