"""The sidecar belongs to the file: not to the working directory, and not to a symbolic link."""

from __future__ import annotations

import os

from tests.helpers import pairs, sample


def test_the_sidecar_stays_with_the_stream_when_the_working_directory_changes(et, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.chdir(first)
    with et.open("x.tape", "w") as tape:
        tape.append(b"one")
        tape.sync()
        before = (first / "x.tape.side").read_bytes()
        monkeypatch.chdir(second)
        tape.append(b"two")
        tape.sync()
        assert (first / "x.tape.side").read_bytes() != before
    assert os.listdir(second) == []
    assert os.listdir(first) == ["x.tape"]


def test_a_symbolic_link_leads_to_the_sidecar_of_its_stream(et, tmp_path):
    real, link = tmp_path / "real.tape", tmp_path / "link.tape"
    with et.open(real, "w") as tape:
        tape.append_many([data for _, data in sample(10)])
    link.symlink_to(real)
    with et.open(link, "a") as tape:
        tape.append(b"more")
        tape.sync()
        assert sorted(os.listdir(tmp_path)) == ["link.tape", "real.tape", "real.tape.side"]
    assert len(pairs(et.open(real))) == 11


def test_a_link_in_the_place_of_the_sidecar_is_not_followed(et, tmp_path):
    note = tmp_path / "note"
    note.write_bytes(b"mine")
    (tmp_path / "x.tape.side").symlink_to(note)
    with et.open(tmp_path / "x.tape", "w") as tape:
        tape.append(b"one")
        tape.sync()
    assert note.read_bytes() == b"mine"


def test_a_pipe_in_the_place_of_the_sidecar_does_not_block(et, tmp_path):
    with et.open(tmp_path / "x.tape", "w") as tape:
        tape.append(b"one")
    os.mkfifo(tmp_path / "x.tape.side")
    assert et.verify(tmp_path / "x.tape").state == "clean"
    with et.open(tmp_path / "x.tape", "a", durability="none") as tape:
        tape.append(b"two")


def test_another_stream_with_the_name_of_the_sidecar_is_left_alone(et, tmp_path):
    with et.open(tmp_path / "x.tape.side", "w") as other:
        other.append(b"mine")
    with et.open(tmp_path / "x.tape", "w") as tape:
        tape.append(b"one")
        tape.sync()
    with et.open(tmp_path / "x.tape", "a") as tape:
        tape.append(b"two")
    assert [bytes(data) for _, data in et.open(tmp_path / "x.tape.side")] == [b"mine"]
