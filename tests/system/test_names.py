"""The sidecar belongs to the file: not to the working directory, and not to a symbolic link."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from tests.helpers import NS, pairs, sample

FOREIGN = pytest.mark.filterwarnings("ignore:.*is not a sidecar")
BIG = [bytes(1024)] * 17_000  # more than what a stream needs to keep its sidecar when it is closed


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
        files = [name for name in sorted(os.listdir(tmp_path)) if not name.endswith(".live")]  # of the native core
    assert files == ["link.tape", "real.tape", "real.tape.side"]
    assert len(pairs(et.open(real))) == 11


def test_a_link_in_the_place_of_the_sidecar_is_not_followed(et, tmp_path):
    note = tmp_path / "note"
    note.write_bytes(b"mine")
    (tmp_path / "x.tape.side").symlink_to(note)
    with pytest.warns(et.SidecarWarning, match=r"x\.tape\.side: this file is not a sidecar"):
        tape = et.open(tmp_path / "x.tape", "w")
    with tape:
        tape.append(b"one")
        tape.sync()
    assert note.read_bytes() == b"mine"


@FOREIGN
def test_a_pipe_in_the_place_of_the_sidecar_does_not_block(et, tmp_path):
    with et.open(tmp_path / "x.tape", "w") as tape:
        tape.append(b"one")
    os.mkfifo(tmp_path / "x.tape.side")
    assert et.verify(tmp_path / "x.tape").state == "clean"
    with et.open(tmp_path / "x.tape", "a", durability="none") as tape:
        tape.append(b"two")


@FOREIGN
def test_another_stream_with_the_name_of_the_sidecar_is_left_alone(et, tmp_path):
    with et.open(tmp_path / "x.tape.side", "w") as other:
        other.append(b"mine")
    with et.open(tmp_path / "x.tape", "w") as tape:
        tape.append(b"one")
        tape.sync()
    with et.open(tmp_path / "x.tape", "a") as tape:
        tape.append(b"two")
    assert [bytes(data) for _, data in et.open(tmp_path / "x.tape.side")] == [b"mine"]


def _boot(et, monkeypatch, number):
    monkeypatch.setattr(sys.modules["evtape.recovery.watermark"], "boot_id", lambda: b"the boot number%d" % number)


def _large(et, path, events=BIG):
    with et.open(path, "w") as tape:
        tape.append_many(events, [NS] * len(events))


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("durability", ["close", "full"])
def test_what_another_name_appended_is_not_cut_at_the_next_boot(et, tmp_path, monkeypatch, link, durability):
    """The entry of an empty event at time 0 that lies across sectors looks as if a power loss had torn it."""
    first, other = tmp_path / "first.tape", tmp_path / "other.tape"
    _boot(et, monkeypatch, 1)
    _large(et, first)
    link(first, other)
    _boot(et, monkeypatch, 2)
    more = [(256 << 20, bytes([i % 256]) * (i % 61)) for i in range(5000)]
    with et.open(other, "a", durability=durability) as tape:
        tape.append_many([data for _, data in more], [stamp for stamp, _ in more])
    _boot(et, monkeypatch, 3)
    assert et.verify(first).state == "clean"
    with et.open(first, "a") as tape:
        assert len(tape) == len(BIG) + len(more)
    assert et.verify(first).state == "clean"


def test_the_writer_of_a_name_that_was_given_away_leaves_the_new_sidecar_alone(et, tmp_path):
    path, side = tmp_path / "x.tape", tmp_path / "x.tape.side"
    old = et.open(path, "w")
    old.append(b"old")
    os.unlink(path)
    with et.open(path, "x") as new:
        new.append(b"new")
        new.sync()
        record = side.read_bytes()
        old.append(b"old")
        old.sync()
        assert side.read_bytes() == record
        old.close()
        assert side.read_bytes() == record
    assert os.listdir(tmp_path) == ["x.tape"]


def test_a_renamed_stream_goes_on_without_a_sidecar_of_the_new_name(et, tmp_path):
    path = tmp_path / "x.tape"
    with et.open(path, "w") as tape:
        tape.append(b"one")
        tape.sync()
        os.rename(path, tmp_path / "y.tape")
        tape.append(b"two")
        tape.sync()
    assert len(pairs(et.open(tmp_path / "y.tape"))) == 2
    assert os.listdir(tmp_path) == ["y.tape"]


def test_a_copy_does_not_take_the_sidecar_of_its_original(et, tmp_path, monkeypatch):
    _boot(et, monkeypatch, 1)
    _large(et, tmp_path / "x.tape")
    (tmp_path / "y.tape").write_bytes((tmp_path / "x.tape").read_bytes())
    (tmp_path / "y.tape.side").write_bytes((tmp_path / "x.tape.side").read_bytes())
    with et.open(tmp_path / "y.tape", "a") as tape:
        tape.append_many([b"", b""], [0x100, 0x100])
    os.replace(tmp_path / "x.tape.side", tmp_path / "y.tape.side")
    _boot(et, monkeypatch, 2)
    with et.open(tmp_path / "y.tape", "a") as tape:
        assert len(tape) == len(BIG) + 2


def test_the_sidecar_has_the_permissions_of_its_stream(et, tmp_path):
    path, side = tmp_path / "x.tape", tmp_path / "x.tape.side"
    et.open(path, "w").close()
    path.chmod(0o640)
    with et.open(path, "a") as tape:
        tape.sync()
        assert stat.S_IMODE(side.stat().st_mode) == 0o640


def test_a_sidecar_that_was_deleted_is_made_again(et, tmp_path):
    path, side = tmp_path / "x.tape", tmp_path / "x.tape.side"
    with et.open(path, "w") as tape:
        side.unlink()
        tape.append(b"one")
        tape.sync()
        assert side.exists()
    assert os.listdir(tmp_path) == ["x.tape"]


def test_the_longest_name_can_be_appended_to_and_repaired(et, tmp_path):
    path = tmp_path / ("x" * 255)
    with et.open(path, "w") as tape:
        tape.append_many([data for _, data in sample(10)])
        tape.sync()
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)
    with pytest.warns(et.RecoveryWarning), et.open(path, "a") as tape:
        assert len(tape) == 9
    assert et.verify(path).state == "clean"
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)
    assert et.recover(path).events == 8


def test_without_extended_attributes_a_sidecar_ends_with_its_boot(et, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    path = tmp_path / "x.tape"
    _boot(et, monkeypatch, 1)
    _large(et, path)
    assert (tmp_path / "x.tape.side").exists()
    module = sys.modules["evtape.recovery.watermark"]
    with open(path, "rb") as file, module.WatermarkFile(str(path), file.fileno()) as sidecar:
        assert sidecar.load().events == len(BIG)
        _boot(et, monkeypatch, 2)
        assert sidecar.load() is None
    with et.open(path, "a") as tape:
        assert tape.append(b"more") == len(BIG)


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0 or os.name == "nt", reason="only root can give a file away")
@FOREIGN
def test_a_sidecar_of_another_user_is_not_trusted(et, tmp_path, monkeypatch):
    path, side = tmp_path / "x.tape", tmp_path / "x.tape.side"
    _boot(et, monkeypatch, 1)
    _large(et, path)
    os.chown(path, 1000, 1000)
    os.chown(side, 1001, 1001)
    record = side.read_bytes()
    module = sys.modules["evtape.recovery.watermark"]
    with open(path, "rb") as file, module.WatermarkFile(str(path), file.fileno()) as sidecar:
        assert sidecar.load() is None
        os.chown(side, 1000, 1000)
        assert sidecar.load().events == len(BIG)
    os.chown(side, 1001, 1001)
    with et.open(path, "a") as tape:
        assert tape.append(b"more") == len(BIG)
    assert side.read_bytes() == record
