"""The two cores are one: each reads, verifies and recovers what the other wrote, and both say the same words."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest

from tests.bad_input import TABLE, Bad
from tests.helpers import DATA, NS, pairs, published, sample, stream

VECTORS = sorted(json.loads((DATA / "expected.json").read_text()))


def _said(call, directory):
    """What a call answered or raised, without the name of the directory it happened in."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = ("returned", call())
        except Exception as error:  # noqa: BLE001 - the error is the result
            answer = (
                type(error).__name__,
                str(error),
                *(getattr(error, name, None) for name in ("errno", "index", "offset", "reason")),
            )
    words = repr((answer, [(warning.category.__name__, str(warning.message)) for warning in caught]))
    return words.replace(str(directory), "DIRECTORY")


@pytest.fixture
def directories(both, tmp_path):
    """A directory for each core, with names of one length."""
    made = []
    for package in both:
        directory = tmp_path / package.backend
        directory.mkdir()
        made.append((package, directory))
    return made


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_bad_input_is_refused_in_the_same_words(directories, bad: Bad):
    said = []
    for package, directory in directories:
        (directory / "t.tape").write_bytes(stream(sample(5)))
        with package.open(directory / "t.tape", "a") as tape:
            said.append(_said(lambda tape=tape: bad.call(tape), directory))
    assert said[0] == said[1]


def _report(report):
    return dataclasses.asdict(report)


def _columns(tape):
    return [column.tolist() for column in (tape.timestamps, tape.sizes, tape.offsets)]


VERDICTS = {
    "verify": lambda package, path: _report(package.verify(path)),
    "open": lambda package, path: pairs(package.open(path)),
    "len": lambda package, path: len(package.open(path)),
    "last": lambda package, path: pairs([package.open(path)[-1]]),
    "index": lambda package, path: pairs([package.open(path)[10**6]]),
    "columns": lambda package, path: _columns(package.open(path)),
    "rows": lambda package, path: package.open(path).rows("V8").tobytes(),
    "dry_run": lambda package, path: _report(package.recover(path, dry_run=True)),
    "output": lambda package, path: _report(package.recover(path, output=path.with_suffix(".out"))),
    "append": lambda package, path: package.open(path, "a").close(),
    "recover": lambda package, path: _report(package.recover(path)),
}


@pytest.mark.parametrize("verdict", VERDICTS.values(), ids=VERDICTS)
@pytest.mark.parametrize("name", VECTORS)
def test_the_same_verdict_on_every_vector(directories, name, verdict):
    said, left = [], []
    for package, directory in directories:
        path = directory / "t.tape"
        shutil.copy(DATA / f"{name}.tape", path)
        said.append(_said(lambda package=package, path=path: verdict(package, path), directory))
        left.append({file.name: file.read_bytes() for file in directory.iterdir()})
    assert said[0] == said[1]
    assert left[0] == left[1]


def test_each_core_reads_what_the_other_wrote(pair, tmp_path):
    writing, reading = pair
    path, events = tmp_path / "t.tape", sample(300)
    with writing.open(path, "w") as tape:
        for stamp, data in events[:100]:
            tape.append(data, timestamp=stamp)
        tape.append_many([data for _, data in events[100:]], [stamp for stamp, _ in events[100:]])
        rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
        tape.append_array(rows, [NS * 2] * 3)
    expected = [*events, *((NS * 2, row.tobytes()) for row in rows)]
    report = reading.verify(path)
    assert (report.state, report.events) == ("clean", 303)
    with reading.open(path) as tape:
        assert pairs(tape) == expected
        assert (tape[-3:].rows(("u1", 4)) == rows).all()
    with reading.open(path, "a") as tape:
        tape.append(b"other core", timestamp=NS * 2)
    assert pairs(writing.open(path)) == [*expected, (NS * 2, b"other core")]


def test_each_core_recovers_what_the_other_left(pair, tmp_path):
    writing, repairing = pair
    path, copy = tmp_path / "t.tape", tmp_path / "copy.tape"
    with writing.open(path, "w") as tape:
        for stamp, data in sample(50):
            tape.append(data, timestamp=stamp)
        shutil.copy(path, copy)  # as the file is when its writer is killed here
        assert copy.stat().st_size > len(published(copy))
    report = repairing.recover(copy)
    assert (report.state, report.events, report.cut) == ("open", 50, 0)
    assert copy.read_bytes() == path.read_bytes()
    torn = bytearray(path.read_bytes())
    torn[-1] ^= 1
    copy.write_bytes(torn)
    with pytest.warns(repairing.RecoveryWarning):
        repairing.open(copy, "a").close()
    assert pairs(writing.open(copy)) == sample(49)
    assert writing.verify(copy).state == "clean"


def test_the_same_files_for_the_same_calls(directories):
    files = []
    for package, directory in directories:
        with package.open(directory / "t.tape", "w") as tape:
            for stamp, data in sample(200):
                tape.append(data, timestamp=stamp)
            tape.append_array(np.arange(30.0).reshape(10, 3), np.arange(10))
        files.append((directory / "t.tape").read_bytes())
    assert files[0][:16] + files[0][24:] == files[1][:16] + files[1][24:]


@pytest.mark.parametrize("args", [(5, "text"), ("x", b""), (5, b"", "x"), (2**63, b""), (), (1.5, b"")], ids=str)
def test_events_made_by_hand_are_refused_alike(both, args):
    kinds = []
    for package in both:
        with pytest.raises((TypeError, OverflowError, ValueError)) as caught:
            package.Event(*args)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]
