"""A clear error before anything is written."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

BAD = {
    "roll_bytes": [0, -1, 1 << 63, "64MB", 1.5, True],
    "roll_every": [0, -5, "", "1 fortnight", "-1h", b"1h", timedelta(0), timedelta(days=-1)],
    "keep_bytes": [0, -1, "1GB"],
    "keep_for": [0, "never"],
    "keep_segments": [0, -3, 2.0],
    "keep_at_most_bytes": [0],
    "on_full": ["drop", 1],
    "on_closed": [1, "path"],
}


@pytest.mark.parametrize("mode", ["a", "x", "w"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values(et, tmp_path, mode, name, value):
    with pytest.raises((ValueError, TypeError), match=name):
        et.open_journal(tmp_path / "j", mode, **{name: value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"roll_bytes": 1 << 20, "keep_bytes": 1 << 19},
        {"roll_bytes": 1 << 20, "keep_at_most_bytes": 1 << 19},
        {"roll_every": "1h", "keep_for": "30m"},
        {"keep_bytes": 1 << 30, "keep_at_most_bytes": 1 << 29},
    ],
)
def test_contradictions(et, tmp_path, settings):
    with pytest.raises(ValueError, match=r"keep_\w+"):
        et.open_journal(tmp_path / "j", "a", **settings)
    assert os.listdir(tmp_path) == []


def test_durations(et, tmp_path):
    forms = {"1h": 3600, "15m": 900, "15min": 900, "1.5 s": 1.5, "250ms": 0.25, "7d": 604800, "1w": 604800}
    for i, (form, seconds) in enumerate(forms.items()):
        et.open_journal(tmp_path / str(i), "a", roll_every=form).close()
        for same in (form, seconds, timedelta(seconds=seconds)):
            et.open_journal(tmp_path / str(i), "a", roll_every=same).close()
        with pytest.raises(ValueError, match="roll_every is"):
            et.open_journal(tmp_path / str(i), "a", roll_every=seconds + 1)


def test_settings_that_differ_from_the_journals_own(et, tmp_path):
    path = tmp_path / "j"
    et.open_journal(path, "a", roll_bytes=1 << 20, keep_segments=5).close()
    before = {name: (path / name).read_bytes() for name in os.listdir(path)}
    for other in ({"roll_bytes": 1 << 21}, {"keep_segments": 6}, {"keep_for": "1h"}, {"on_full": "drop_oldest"}):
        with pytest.raises(ValueError, match=r"in this journal and not .*; leave it out, or delete"):
            et.open_journal(path, "a", **other)
    assert {name: (path / name).read_bytes() for name in os.listdir(path)} == before
    et.open_journal(path, "a", roll_bytes=1 << 20, keep_segments=5).close()


def test_a_small_budget_has_smaller_segments(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", keep_bytes=8 << 20) as journal:
        assert journal._settings.roll_bytes == 1 << 20


def test_a_directory_of_other_files(et, tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    (path / "photo.jpg").write_bytes(b"x")
    for mode in ("a", "w"):
        with pytest.raises(et.FormatError, match=r"not a journal and not empty.*'photo.jpg'"):
            et.open_journal(path, mode)
    for ask in (
        lambda: et.open(path),
        lambda: et.open_journal(path),
        lambda: et.verify(path),
        lambda: et.recover(path),
    ):
        with pytest.raises(et.FormatError, match="this directory is not a journal"):
            ask()
    assert os.listdir(path) == ["photo.jpg"]


def test_an_empty_directory_becomes_a_journal(et, tmp_path):
    path = tmp_path / "d"
    path.mkdir()
    with pytest.raises(et.FormatError):
        et.open(path)
    with pytest.raises(FileExistsError):
        et.open_journal(path, "x")
    with et.open_journal(path, "a") as journal:
        assert journal.append(b"x") == 0


def test_a_stream_where_a_journal_is_wanted_and_the_other_way_round(et, tmp_path):
    et.open(tmp_path / "s.tape", "w").close()
    et.open_journal(tmp_path / "j", "a").close()
    for mode in ("r", "a", "w"):
        with pytest.raises(et.FormatError, match="a journal is a directory"):
            et.open_journal(tmp_path / "s.tape", mode)
        if mode != "r":
            with pytest.raises(et.FormatError, match="open_journal"):
                et.open(tmp_path / "j", mode)
    with pytest.raises(FileNotFoundError):
        et.open_journal(tmp_path / "none")
    with pytest.raises(ValueError, match="mode"):
        et.open_journal(tmp_path / "j", "r+")
    with pytest.raises(ValueError, match="for writing"):
        et.open_journal(tmp_path / "j", keep_segments=3)
    with pytest.raises(FileNotFoundError):
        et.open_journal(tmp_path / "no" / "parent", "a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(et, tmp_path):
    path = tmp_path / "j"
    et.open_journal(path, "a").close()
    path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            et.open_journal(path, "a")
        with et.open(path) as reader:
            assert len(reader) == 0
    finally:
        path.chmod(0o755)
