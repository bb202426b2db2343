"""Bad input, paths and moments: the right exception, a message that names file and value, and a stream as it was."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

from tests.bad_input import TABLE, Bad
from tests.helpers import HEADER, NS, pairs, published, sample, stream

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX semantics")


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.id)
def test_bad_input_is_refused_and_changes_nothing(et, tmp_path, bad: Bad):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(10)))
    with et.open(path, "a") as tape:
        tape.append(b"before", timestamp=NS)
        before = published(path)
        with pytest.raises(bad.error) as caught:
            bad.call(tape)
        assert type(caught.value) is bad.error
        assert str(path) in str(caught.value)
        assert bad.names in str(caught.value)
        assert published(path) == before
        assert (len(tape), tape[-1].ordinal) == (11, 10)
        assert tape.append(b"after", timestamp=NS + 1) == 11
    assert path.read_bytes() == stream([*sample(10), (NS, b"before"), (NS + 1, b"after")])


class PayloadError(Exception):
    pass


def test_an_error_of_the_payloads_own_is_passed_on(et, tmp_path):
    def payloads():
        yield b"a"
        raise PayloadError("mine")

    class Index:
        def __index__(self):
            raise PayloadError("mine")

    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        with pytest.raises(PayloadError):
            tape.append_many(payloads())
        with pytest.raises(PayloadError):
            tape.append(b"x", Index())
        assert published(path)[:16] == HEADER.pack(24, 0, 0)[:16]


def test_a_payload_list_that_changes_while_the_timestamps_are_read(et, tmp_path):
    payloads: list[object] = [b"a", b"b", b"c"]

    def treacherous():
        payloads.clear()
        yield from (NS, NS, NS)

    with et.open(tmp_path / "t.tape", "w") as tape:
        assert tape.append_many(payloads, treacherous()) == range(3)
        assert pairs(tape) == [(NS, b"a"), (NS, b"b"), (NS, b"c")]


WRITES = {
    "append": lambda tape: tape.append(b"x"),
    "append-time": lambda tape: tape.append(b"x", timestamp=NS),
    "append-view": lambda tape: tape.append(memoryview(b"x")),
    "append_many": lambda tape: tape.append_many([b"x"]),
    "append_many-times": lambda tape: tape.append_many([b"x"], [NS]),
    "append_array": lambda tape: tape.append_array(np.zeros((1, 1))),
    "sync": lambda tape: tape.sync(),
}
READS = {
    "len": len,
    "index": lambda tape: tape[0],
    "slice": lambda tape: tape[1:3],
    "iter": list,
    "timestamps": lambda tape: tape.timestamps,
    "sizes": lambda tape: tape.sizes,
    "offsets": lambda tape: tape.offsets,
    "between": lambda tape: tape.between(starting_at=0),
    "searchsorted": lambda tape: tape.searchsorted(0),
    "rows": lambda tape: tape.rows("u1"),
    "start_timestamp": lambda tape: tape.start_timestamp,
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_reader_refuses_to_write(et, tmp_path, write):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(3)))
    with et.open(path) as tape, pytest.raises(et.ReadOnlyError, match="open for reading") as caught:
        write(tape)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == stream(sample(3))


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize("use", [*WRITES.values(), *READS.values()], ids=[*WRITES, *READS])
def test_a_closed_stream_refuses(et, tmp_path, mode, use):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(3)))
    tape = et.open(path, mode)
    append = tape.append
    tape.close()
    with pytest.raises(et.ClosedError, match="is closed") as caught:
        use(tape)
    assert str(path) in str(caught.value)
    with pytest.raises(et.ClosedError):
        append(b"x")  # a bound method that was kept knows it too
    assert path.read_bytes() == stream(sample(3))


@pytest.mark.parametrize("query", ["timestamps", "iter", "index"])
def test_a_slice_of_a_closed_stream_refuses(et, tmp_path, query):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(5)))
    tape = et.open(path)
    part, iterator = tape[1:4], iter(tape)
    next(iterator)
    tape.close()
    assert len(part) == 3
    with pytest.raises(et.ClosedError):
        READS[query](part)


@pytest.mark.parametrize("mode", ["r", "a", "x", "w"])
def test_missing_directory(et, tmp_path, mode):
    path = tmp_path / "missing" / "t.tape"
    with pytest.raises(FileNotFoundError) as caught:
        et.open(path, mode)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "verify", "recover"])
def test_missing_file(et, tmp_path, call):
    path = tmp_path / "t.tape"
    with pytest.raises(FileNotFoundError) as caught:
        getattr(et, call)(path)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def _directory(path):
    path.mkdir()


def _fifo(path):
    os.mkfifo(path)


def _socket(path):
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@posix
@pytest.mark.parametrize("mode", ["r", "a", "w", "verify", "recover", "dry_run", "output"])
@pytest.mark.parametrize("make", [_directory, _fifo, _socket])
def test_what_is_no_regular_file(et, tmp_path, make, mode):
    path = tmp_path / "t.tape"
    make(path)
    # With both ends open nothing blocks, so a missing check shows as a failure and not as a test that never ends.
    keep = os.open(path, os.O_RDWR) if make is _fifo else -1
    calls = {
        "verify": lambda: et.verify(path),
        "recover": lambda: et.recover(path),
        "dry_run": lambda: et.recover(path, dry_run=True),
        "output": lambda: et.recover(path, output=tmp_path / "out.tape"),
    }
    with pytest.raises(et.FormatError, match="not a regular file") as caught:
        calls.get(mode, lambda: et.open(path, mode))()
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["t.tape"]
    with pytest.raises(FileExistsError):
        et.open(path, "x")
    if keep >= 0:
        os.close(keep)


NO_STREAMS = {
    "nothing": b"",
    "short": b"0123456789",
    "23-bytes": bytes(23),
    "zeros": bytes(4096),
    "text": b"The quick brown fox jumps over the lazy dog. " * 50,
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)) * 8,
    "ones": b"\xff" * 5000,
}


@pytest.mark.parametrize("raw", NO_STREAMS.values(), ids=NO_STREAMS)
def test_a_file_that_is_no_stream(et, tmp_path, raw):
    path = tmp_path / "t.tape"
    path.write_bytes(raw)
    for call in (
        lambda: et.open(path),
        lambda: et.open(path, "a"),
        lambda: et.recover(path),
        lambda: et.recover(path, dry_run=True),
        lambda: et.recover(path, output=tmp_path / "out.tape"),
    ):
        with pytest.raises(et.FormatError) as caught:
            call()
        assert str(path) in str(caught.value)
    report = et.verify(path)
    assert (report.state, report.reason, report.events, report.end) == ("invalid", "header", 0, 0)
    assert (report.ok, report.lost) == (False, True)
    assert path.read_bytes() == raw
    assert os.listdir(tmp_path) == ["t.tape"]


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everything")
def test_no_permission(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(3)))
    path.chmod(0o444)
    with pytest.raises(PermissionError) as caught:
        et.open(path, "a")
    assert caught.value.filename == str(path)
    assert pairs(et.open(path)) == sample(3)


OPTIONS = {
    "mode": ({"mode": "rw"}, "'rw'"),
    "mode-binary": ({"mode": "rb"}, "'rb'"),
    "durability": ({"mode": "w", "durability": "always"}, "'always'"),
    "capacity": ({"mode": "w", "capacity": -1}, "-1"),
    "interval": ({"mode": "w", "interval": 0}, "0"),
    "interval-nan": ({"mode": "w", "interval": float("nan")}, "nan"),
    "capacity-r": ({"capacity": 10}, "mode is 'r'"),
    "durability-r": ({"durability": "full"}, "mode is 'r'"),
}


@pytest.mark.parametrize(("options", "names"), OPTIONS.values(), ids=OPTIONS)
def test_bad_options(et, tmp_path, options, names):
    path = tmp_path / "t.tape"
    with pytest.raises(ValueError) as caught:
        et.open(path, **options)
    assert names in str(caught.value)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_the_family_of_exceptions(et):
    for name in ("FormatError", "CorruptError", "TruncatedError", "LockedError", "ReadOnlyError", "ClosedError"):
        assert issubclass(getattr(et, name), et.Error)
        assert getattr(et, name) in [getattr(et, exported) for exported in et.__all__]
    assert issubclass(et.ClosedError, ValueError)  # as a closed file raises
    assert issubclass(et.RecoveryWarning, UserWarning)


def test_a_corrupt_error_pickles_whole(et):
    error = et.CorruptError("text", 3, 120, "checksum")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.ordinal, again.offset, again.reason) == ("text", 3, 120, "checksum")


@posix
def test_a_file_truncated_under_a_reader(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(50)))
    with et.open(path) as tape:
        assert len(tape) == 50
        os.truncate(path, 200)
        for use in READS.values():
            if use is not READS["start_timestamp"]:
                with pytest.raises(et.TruncatedError) as caught:
                    use(tape)
                assert str(path) in str(caught.value)


@posix
@pytest.mark.parametrize("durability", ["none", "close", "full"])
@pytest.mark.parametrize("use", ["grow", "sync", "close"])
def test_a_file_truncated_under_a_writer(et, tmp_path, durability, use):
    """Where the file is looked at anyway, the writer says that its events are gone, and does not put zeros there."""
    path = tmp_path / "t.tape"
    tape = et.open(path, "w", durability=durability)
    tape.append(b"x" * 8000)
    os.truncate(path, 4096)
    uses = {"grow": lambda: tape.append(bytes(5 << 20)), "sync": tape.sync, "close": tape.close}
    with pytest.raises(et.TruncatedError, match="has 4096 bytes but its header publishes 8040"):
        uses[use]()
    if use != "close":
        for again in (tape.sync, lambda: tape.append(b"more")):
            with pytest.raises(et.TruncatedError, match="8040"):
                again()
        tape.close()
    assert tape.closed
    assert path.stat().st_size == 4096
    with et.open(tmp_path / "other.tape", "a") as other:  # the process goes on
        other.append(b"y")


def test_a_stream_rewritten_in_place_under_a_reader(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(sample(50)))
    with et.open(path) as tape:
        assert len(tape) == 50
        with open(path, "r+b") as file:
            file.write(HEADER.pack(24, 0, NS))
        with pytest.raises(et.FormatError, match="below WriteOffset"):
            len(tape)
