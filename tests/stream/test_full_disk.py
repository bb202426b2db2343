"""No room: an OSError of the append that needed it, nothing published, and appending works again once there is room."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import pairs, run_python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits and mounts")

LIMITED = """
import errno, evtape, os, resource, sys
path, durability, how = sys.argv[1:]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
tape = evtape.open(path, "w", durability=durability)
added = 0

def add():
    global added
    if how == "single":
        tape.append(b"x" * 1000, timestamp=added)
        added += 1
    else:
        tape.append_many([b"x" * 1000] * 10, range(added, added + 10))
        added += 10

for turn in range(3):
    try:
        while True:
            add()
    except OSError as error:
        assert error.errno == errno.EFBIG, error
        assert error.filename == path, error
    assert len(tape) == added == evtape.verify(path).events
    assert os.path.getsize(path) <= 300_000
assert added >= 270, added
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for _ in range(100):
    add()
tape.close()
report = evtape.verify(path)
assert (report.state, report.events) == ("clean", added), report
print(added)
"""


@pytest.mark.parametrize("how", ["single", "batch"])
@pytest.mark.parametrize("durability", ["none", "close"])
def test_a_limit_on_the_size_of_files(et, core, tmp_path, durability, how):
    path = tmp_path / "t.tape"
    added = int(run_python(core, LIMITED, path, durability, how))
    assert pairs(et.open(path)) == [(i, b"x" * 1000) for i in range(added)]


def test_capacity_beyond_the_limit(et, core, tmp_path):
    code = """
import errno, evtape, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    evtape.open(sys.argv[1], "w", capacity=1 << 20)
except OSError as error:
    print(error.errno == errno.EFBIG, error.filename == sys.argv[1])
evtape.open(sys.argv[1], "a").close()
"""
    assert run_python(core, code, tmp_path / "t.tape") == "True True\n"
    assert et.verify(tmp_path / "t.tape").state == "clean"


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("not run: mounting a file system needs root")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(directory)], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"not run: no tmpfs can be mounted here ({done.stderr.strip()})")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize("how", ["single", "batch"])
def test_a_full_disk(et, disk, how):
    path, filler = disk / "t.tape", disk / "filler"
    filler.write_bytes(bytes(400_000))
    added = 0
    tape = et.open(path, "w", durability="none")

    def add():
        if how == "single":
            tape.append(b"y" * 3000, timestamp=added)
            return 1
        return len(tape.append_many([b"y" * 3000] * 5, range(added, added + 5)))

    for _ in range(3):
        with pytest.raises(OSError) as caught:  # noqa: PT012
            while True:
                added += add()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        assert len(tape) == added == et.verify(path).events
    assert added > 100
    filler.unlink()
    for _ in range(10):
        added += add()
    tape.close()
    assert et.verify(path).state == "clean"
    assert pairs(et.open(path)) == [(i, b"y" * 3000) for i in range(added)]


def test_creating_on_a_full_disk(et, disk):
    filler = disk / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))
    for mode in ("w", "x", "a"):
        with pytest.raises(OSError) as caught:
            et.open(disk / "t.tape", mode)
        assert caught.value.errno == errno.ENOSPC
    assert os.listdir(disk) == ["filler"]


def test_mapped_file_on_a_full_disk(et, disk):
    with et.MappedFile(disk / "f", "x", size=4096) as mapped:
        mapped[:3] = b"abc"
        with pytest.raises(OSError) as caught:
            mapped.grow(2 << 20)
        assert (caught.value.errno, len(mapped), mapped[:3]) == (errno.ENOSPC, 4096, b"abc")
        assert (disk / "f").stat().st_size == 4096


@pytest.mark.parametrize("capacity", [2**63 - 1, 2**62])
def test_capacity_beyond_any_file(et, tmp_path, capacity):
    with pytest.raises(OSError, match=f"extending the file to {capacity} bytes") as caught:
        et.open(tmp_path / "t.tape", "w", capacity=capacity)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)


@pytest.mark.parametrize("size", [0, 1, 48, 1000, 5000, 70_000])
def test_a_file_system_that_copies_on_write_gets_the_same_bytes(et, tmp_path, monkeypatch, size):
    """There no store may cross the end of a page, so entries are stored in pieces."""
    written = []
    for pieces in False, True:
        monkeypatch.setattr(et.system.files, "copies_on_write", lambda fd, pieces=pieces: pieces)
        path = tmp_path / f"{pieces}.tape"
        with et.open(path, "w") as tape:
            for i in range(200):
                tape.append(bytes([i]) * (size + i), timestamp=i + 1)
            tape.append_many([bytes([i]) * size for i in range(50)], range(1000, 1050))
            tape.append_many([memoryview(bytes([i]) * size) for i in range(50)], range(2000, 2050))
            tape.append_array(np.full((50, size), 7, "u1"), np.arange(3000, 3050))
        assert et.verify(path).state == "clean"
        written.append(path.read_bytes()[24:])
    assert written[0] == written[1]
