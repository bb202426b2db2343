"""Every command that takes a stream takes a journal, and `evtape journal` looks after one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import pytest

import evtape

pytest.importorskip("click")
pytest.importorskip("rich")

from tests.cli.test_commands import CORES, Cli
from tests.helpers import NS

SECOND = 10**9


@pytest.fixture(params=CORES, scope="module")
def cli(request: pytest.FixtureRequest) -> Iterator[Cli]:
    result = Cli(request.param)
    yield result
    result.close()


@pytest.fixture
def path(tmp_path):
    """A journal of 300 events, one a second, in five segments."""
    with evtape.open_journal(tmp_path / "j", "a", roll_bytes=64 << 10) as journal:
        for i in range(300):
            journal.append(b"event %d %s" % (i, b"." * 980), NS + i * SECOND)
    return tmp_path / "j"


def ordinals(done):
    return [int(line.split()[2]) for line in done.stdout.splitlines()]


def test_reading_commands_take_a_journal(cli, path):
    assert ordinals(cli.quick("cat", path)) == list(range(300))
    assert ordinals(cli.quick("cat", "-n", "-3", path)) == [297, 298, 299]
    assert ordinals(cli.quick("cat", "--from", NS + 100 * SECOND, "--to", NS + 103 * SECOND, path)) == [100, 101, 102]
    assert ordinals(cli.quick("follow", "-n", "2", "--timeout", "0.1", path)) == [298, 299]
    assert json.loads(cli.quick("cat", "--json", "-n", "1", path).stdout)["ordinal"] == 0
    assert b"clean, 300 events" in cli.quick("verify", path).stdout
    assert json.loads(cli.quick("verify", "--json", path).stdout)["missing"] == []
    assert len(cli.quick("merge", path).stdout.splitlines()) == 300
    assert b"300" in cli.quick("recover", path).stdout
    assert b"segments  5" in cli.quick("info", path).stdout


def test_index_takes_a_journal(cli, path):
    names = sorted(name for name in os.listdir(path) if name.endswith(".tape"))
    with evtape.open_journal(path, "a") as journal:
        journal.append(b"x", NS + 400 * SECOND)
        assert len(cli.quick("index", path).stdout.splitlines()) == len(names) - 1  # the active one is left out
    assert len(cli.quick("index", path).stdout.splitlines()) == len(names)
    assert {name for name in os.listdir(path) if name.endswith(".index")} == {f"{name}.index" for name in names}
    assert evtape.verify(path).compared == 301


def test_last(cli, path, tmp_path):
    assert ordinals(cli.quick("last", "30s", path)) == list(range(269, 300))
    assert ordinals(cli.quick("last", "1.5m", path)) == list(range(209, 300))
    assert ordinals(cli.quick("last", "999d", path)) == list(range(300))
    evtape.open(tmp_path / "empty.tape", "w").close()
    assert cli.quick("last", "1h", tmp_path / "empty.tape").stdout == b""
    for wrong in ("30", "soon", "-5s"):
        assert cli.quick("last", wrong, path, code=2).stderr


def test_a_gap_is_told_and_the_rest_is_printed(cli, path):
    names = sorted(name for name in os.listdir(path) if name.endswith(".tape"))
    first, stop = int(names[1][:20]), int(names[2][:20])
    os.unlink(path / names[1])
    done = cli.quick("cat", path, code=1)
    assert ordinals(done) == [*range(first), *range(stop, 300)]
    assert f"the events {first} to {stop - 1} are missing".encode() in b" ".join(done.stderr.split())
    assert f"the events {first} to {stop - 1} are missing".encode() in b" ".join(
        cli.quick("verify", path, code=1).stdout.split()
    )
    assert json.loads(cli.quick("journal", "info", "--json", path, code=1).stdout)["missing"] == [[first, stop]]


def test_info(cli, path):
    with evtape.open(path) as reader:
        for name, ordinal in (("billing", 0), ("search", 150), ("audit", 299)):
            reader.cursor(name, start=ordinal).close()
    text = cli.quick("journal", "info", path).stdout.decode()
    assert "300 (0 to 299)" in text
    for line in ("audit: 1 event behind", "billing: 300 events behind", "search: 150 events behind"):
        assert line in text
    assert text.count(" closed") == 4
    assert text.count(" active") == 1
    told = json.loads(cli.quick("journal", "info", "--json", path).stdout)
    assert told["cursors"] == {"audit": 1, "billing": 300, "search": 150}
    assert [segment["state"] for segment in told["segments"]] == ["closed"] * 4 + ["active"]
    assert sum(segment["events"] for segment in told["segments"]) == told["events"] == 300
    assert told["settings"]["roll_bytes"] == 64 << 10


def test_prune(cli, path):
    assert b"nothing to delete" in cli.quick("journal", "prune", path).stdout
    (path / "journal.json").unlink()
    evtape.open_journal(path, "a", roll_bytes=64 << 10, keep_for="1000d").close()
    (path / "journal.json").unlink()
    from evtape.journal import settings
    from evtape.journal.directory import Directory

    settings.store(Directory(str(path)), settings.Settings(roll_bytes=64 << 10, keep_segments=2), durable=False)
    before = sorted(os.listdir(path))
    done = cli.quick("journal", "prune", "--dry-run", path)
    assert done.stdout.count(b"would delete") == 3
    assert sorted(os.listdir(path)) == before
    assert b"due" in cli.quick("journal", "info", path).stdout
    assert cli.quick("journal", "prune", path).stdout.count(b"deleted") == 3
    with evtape.open(path) as reader:
        assert len(reader.segments) == 2
        assert reader.next_ordinal == 300


def test_roll(cli, path):
    assert b"was closed" in cli.quick("journal", "roll", path).stdout
    assert b"no events" in cli.quick("journal", "roll", path).stdout
    with evtape.open(path) as reader:
        assert len(reader.segments) == 6
    with evtape.open_journal(path, "a"):
        assert b"another writer has this journal open" in b" ".join(
            cli.quick("journal", "roll", path, code=None).stderr.split()
        )


def test_append_makes_a_journal(cli, tmp_path):
    lines = b"".join(b"line %d\n" % i for i in range(5000))
    cli("append", "--roll", "64KiB", "--roll", "1h", "--keep", "7d", "--keep", "1 GB", tmp_path / "j", stdin=lines)
    with evtape.open(tmp_path / "j") as reader:
        assert [event.text for event in reader] == [f"line {i}" for i in range(5000)]
        assert len(reader.segments) >= 1
    cli("append", tmp_path / "j", stdin=b"more\n")
    with evtape.open(tmp_path / "j") as reader:
        assert reader[5000].text == "more"
    settings = json.loads((tmp_path / "j" / "journal.json").read_text())
    assert (settings["roll_bytes"], settings["keep_bytes"]) == (64 << 10, 10**9)
    assert (settings["roll_every"], settings["keep_for"]) == (3600 * SECOND, 7 * 86400 * SECOND)
    done = cli("append", "--keep", "3d", tmp_path / "j", stdin=b"x\n", code=2)
    assert b"keep_for is" in b" ".join(done.stderr.split())


@pytest.mark.parametrize("limit", ["lots", "5", "1h 2m", "-3GB", "20 segments"])
def test_wrong_limits(cli, tmp_path, limit):
    done = cli.quick("append", f"--roll={limit}", tmp_path / "j", code=2)
    assert b"--roll" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_the_flight_recorder(cli, tmp_path):
    program = "import os, signal\nprint('before the crash', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)"
    cli("record", "--keep", "1GB", tmp_path / "j", "--", sys.executable, "-c", program, code=128 + signal.SIGSEGV)
    assert cli.quick("last", "30s", tmp_path / "j").stdout.endswith(b"before the crash\n")


def test_a_stream_is_not_a_journal(cli, tmp_path):
    evtape.open(tmp_path / "s.tape", "w").close()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("x")
    for what in ("info", "prune", "roll"):
        assert b"stream" in cli.quick("journal", what, tmp_path / "s.tape", code=2).stderr
        assert b"not a journal" in cli.quick("journal", what, tmp_path / "d", code=2).stderr
