"""MappedFile: bytes of a file in memory, read and changed in place."""

from __future__ import annotations

import gc
import os
import sys

import pytest


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "f.bin"
    path.write_bytes(b"Hello World")
    return path


def test_the_article_s_example(et, path):
    with et.MappedFile(path, "r+") as mapped:
        mapped[6:11] = b"Go!ld"
        mapped.sync()
        assert path.read_bytes() == b"Hello Go!ld"
    assert path.read_bytes() == b"Hello Go!ld"


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_reading_is_as_of_bytes(et, path, mode):
    raw = b"Hello World"
    with et.MappedFile(path, mode) as mapped:
        assert len(mapped) == 11
        assert [mapped[i] for i in range(-11, 11)] == list(raw) * 2
        keys = [
            slice(a, b, c) for a in (None, 0, 3, -4, 20) for b in (None, 0, 8, -1, 20) for c in (None, 1, 2, -1, -3)
        ]
        for key in keys:
            assert (type(mapped[key]), mapped[key]) == (bytes, raw[key])
        for index in (11, -12):
            with pytest.raises(IndexError):
                mapped[index]
        assert bytes(mapped.view()) == raw
        assert bytes(mapped.view(2, 5)) == raw[2:5]
        assert mapped.view().readonly
        with pytest.raises(ValueError, match="not within") as caught:
            mapped.view(3, 12)
        assert str(path) in str(caught.value)


def test_writing_in_place(et, path):
    with et.MappedFile(path, "r+") as mapped:
        mapped[0] = ord("J")
        mapped[-1] = ord("!")
        mapped[1:3] = bytearray(b"EL")
        mapped[::5] = memoryview(b"abc")
        view = mapped.view(3, 5, writable=True)
        view[:] = b"ZZ"
        assert mapped[:] == b"aELZZbWorlc"
        for key, value, error in (
            (slice(0, 3), b"toolong", ValueError),
            (slice(0, 3), b"x", ValueError),
            (0, 256, ValueError),
            (11, 1, IndexError),
            (slice(0, 1), "x", TypeError),
            (0, b"x", TypeError),
        ):
            with pytest.raises(error):
                mapped[key] = value
        assert mapped[:] == b"aELZZbWorlc"
    assert path.read_bytes() == b"aELZZbWorlc"


def test_read_only_refuses_changes(et, path):
    with et.MappedFile(path) as mapped:
        for change in (
            lambda: mapped.__setitem__(0, 1),
            lambda: mapped.__setitem__(slice(0, 1), b"x"),
            lambda: mapped.grow(100),
            lambda: mapped.view(writable=True),
        ):
            with pytest.raises(et.ReadOnlyError, match="open for reading") as caught:
                change()
            assert str(path) in str(caught.value)
        mapped.sync()
    assert path.read_bytes() == b"Hello World"


def test_growth_keeps_views_and_fills_with_zeros(et, path):
    with et.MappedFile(path, "r+") as mapped:
        view = mapped.view(0, 5, writable=True)
        mapped.grow(5 << 20)
        assert len(mapped) == path.stat().st_size == 5 << 20
        assert mapped[:12] == b"Hello World\0"
        view[0] = ord("J")
        assert mapped[0] == ord("J")
        assert mapped[11:] == bytes((5 << 20) - 11)
        mapped.grow(10)  # never shrinks
        assert len(mapped) == 5 << 20
        mapped[-1] = 7
    assert path.read_bytes()[-1] == 7


@pytest.mark.parametrize("mode", ["x", "w"])
def test_making_a_file(et, tmp_path, mode):
    path = tmp_path / "new.bin"
    with et.MappedFile(path, mode, size=1000) as mapped:
        assert mapped[:] == bytes(1000)
        mapped[10:13] = b"abc"
    assert path.read_bytes() == bytes(10) + b"abc" + bytes(987)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed there")
def test_w_leaves_the_old_file_to_who_has_it_mapped(et, path):
    with et.MappedFile(path) as old, et.MappedFile(path, "w", size=4) as new:
        new[:] = b"new!"
        assert old[:] == b"Hello World"
    assert path.read_bytes() == b"new!"


def test_an_empty_file(et, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    with et.MappedFile(path, "r+") as mapped:
        assert (len(mapped), mapped[:], bytes(mapped.view())) == (0, b"", b"")
        mapped.sync()
        mapped.grow(3)
        mapped[:] = b"abc"
    assert path.read_bytes() == b"abc"


def test_views_outlive_close(et, path):
    with et.MappedFile(path, "r+") as mapped:
        view = mapped.view()
    del mapped
    gc.collect()
    assert bytes(view) == b"Hello World"


def test_closed(et, path):
    mapped = et.MappedFile(path, "r+")
    mapped.close()
    mapped.close()
    uses = [
        lambda: mapped[0],
        lambda: mapped[:],
        lambda: mapped.view(),
        lambda: mapped.grow(100),
        lambda: mapped.sync(),
        lambda: mapped.__setitem__(0, 1),
        lambda: mapped.__setitem__(slice(0, 1), b"x"),
    ]
    for use in uses:
        with pytest.raises(et.ClosedError) as caught:
            use()
        assert str(path) in str(caught.value)


def test_bad_names_and_modes(et, path, tmp_path):
    with pytest.raises(ValueError, match="'a'") as caught:
        et.MappedFile(path, "a")
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        et.MappedFile(tmp_path / "missing")
    with pytest.raises(FileExistsError):
        et.MappedFile(path, "x")
    with pytest.raises(et.FormatError, match="not a regular file"):
        et.MappedFile(tmp_path)
    assert path.read_bytes() == b"Hello World"
    assert os.listdir(tmp_path) == ["f.bin"]


def test_a_failed_open_closes_its_descriptor_once_and_leaves_no_file(et, tmp_path):
    path = tmp_path / "m"
    for mode in ("x", "w"):
        with pytest.raises((OSError, OverflowError)):
            et.MappedFile(path, mode, 1 << 62)
        with open(os.devnull, "rb") as other:  # takes the number
            gc.collect()
            other.fileno()
            os.fstat(other.fileno())
        assert not path.exists()
