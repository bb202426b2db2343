"""The index file: its bytes, how it grows, and what is believed of it."""

from __future__ import annotations

import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import pytest

from tests.helpers import HEADER, NS, RECORD, Pairs, index_records, published, run_python, seal, stream

HEAD = struct.Struct("<8sIIq16sII16x")


def expected_index(path: Path, *, partial: bool = True) -> bytes:
    raw = published(path)
    try:
        generation = os.getxattr(path, "user.evtape.generation")
    except OSError:
        generation = bytes(16)
    fields = HEADER.unpack_from(raw)[2], generation, 64, 48
    checksum = zlib.crc32(HEAD.pack(b"evtape\0i", 1, 0, *fields))
    return HEAD.pack(b"evtape\0i", 1, checksum, *fields) + index_records(raw, partial=partial)


def index_of(path: Path) -> Path:
    return Path(f"{path}.index")


def events(count: int, seed: int = 1, *, sizes: int = 100, disorder: float = 0.0) -> Pairs:
    rng, now, made = random.Random(seed), NS, []
    for _ in range(count):
        now += rng.randrange(0, 2000)
        stamp = now - rng.randrange(10**6) if rng.random() < disorder else now
        made.append((stamp, rng.randbytes(rng.randrange(sizes) if sizes else 8)))
    return made


def write(et, path: Path, pairs: Pairs, mode: str = "w", **options) -> None:
    with et.open(path, mode, **{"index": True, **options}) as tape:
        tape.append_many([data for _, data in pairs], [stamp for stamp, _ in pairs])


# ------------------------------------------------------------------------------------------- the bytes


@pytest.mark.parametrize("disorder", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [0, 1, 100])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 1000])
def test_close_writes_the_bytes_of_the_format(et, tmp_path, count, sizes, disorder):
    path = tmp_path / "t.tape"
    write(et, path, events(count, sizes=sizes, disorder=disorder))
    assert index_of(path).read_bytes() == expected_index(path)


@pytest.mark.parametrize("durability", ["none", "close", "full"])
def test_each_writer_extends_the_index_of_the_one_before(et, tmp_path, durability):
    path = tmp_path / "t.tape"
    write(et, path, events(1), durability=durability)
    for seed, count in enumerate((1, 62, 1, 64, 200, 3, 127, 1)):
        write(et, path, events(count, seed, disorder=0.01 * (seed > 4)), "a", durability=durability)
        assert index_of(path).read_bytes() == expected_index(path)


def test_one_core_extends_what_the_other_wrote(pair, tmp_path):
    one, other = pair
    path = tmp_path / "t.tape"
    write(one, path, events(100))
    write(other, path, events(100, 2), "a")
    assert index_of(path).read_bytes() == expected_index(path)


def test_a_writer_that_opens_and_closes_leaves_the_index_right(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(100))
    et.open(path, "a").close()
    assert index_of(path).read_bytes() == expected_index(path)


@pytest.mark.parametrize("size", [64, 1000])
def test_a_large_stream_has_an_index_while_it_is_written(et, tmp_path, size):
    if et.backend != "native":
        pytest.skip("the pure core makes an index only when it is told to")
    path = tmp_path / "t.tape"
    with et.open(path, "w", durability="none") as tape:
        for _ in range(60_000_000 // size):
            tape.append(b"x" * size)
        known = index_of(path).read_bytes()
        whole = expected_index(path, partial=False)
        assert known == whole[: len(known)]
        assert len(known) > len(whole) // 4
    assert index_of(path).read_bytes() == expected_index(path)


def test_a_large_stream_that_is_synced_often_has_an_index_while_it_is_written(et, tmp_path):
    if et.backend != "native":
        pytest.skip("the pure core makes an index only when it is told to")
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        for _ in range(220):
            tape.append_many([b"x" * 1000] * 100)
            tape.sync()
        assert len(index_of(path).read_bytes()) > 64 + 48 * 200
    assert index_of(path).read_bytes() == expected_index(path)


def test_a_small_stream_has_no_index(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000), index=None)
    assert not index_of(path).exists()


def test_index_false_makes_none(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w", index=False, durability="none") as tape:
        tape.append_many([b"x" * 4000] * 6000)
    assert not index_of(path).exists()


def test_a_stream_without_events_has_no_index(et, tmp_path):
    et.open(tmp_path / "t.tape", "w", index=True).close()
    assert not index_of(tmp_path / "t.tape").exists()


def test_the_option_is_checked(et, tmp_path):
    with pytest.raises(TypeError, match="index must be True, False or None, not 'yes'"):
        et.open(tmp_path / "t.tape", "w", index="yes")
    write(et, tmp_path / "t.tape", events(1))
    with pytest.raises(ValueError, match="index are for writing"):
        et.open(tmp_path / "t.tape", index=True)


# ------------------------------------------------------------------------------------ what may go wrong


def test_a_killed_writer_leaves_a_shorter_index_that_the_next_one_completes(et, core, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000))
    code = """
import evtape, os, sys
tape = evtape.open(sys.argv[1], "a", index=True)
for i in range(1000):
    tape.append(b"%d" % i)
os._exit(0)
"""
    run_python(core, code, path)
    assert len(index_of(path).read_bytes()) == 64 + 48 * 16
    with et.open(path) as tape:
        assert len(tape) == 2000
        assert tape[1999].bytes == b"999"
    et.open(path, "a").close()
    assert index_of(path).read_bytes() == expected_index(path)


def test_a_cut_tail_is_cut_from_the_index(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000, sizes=0))
    raw = bytearray(path.read_bytes())
    raw[24 + 24 * 900 :] = bytes(len(raw) - 24 - 24 * 900)  # zeros, as a power loss leaves them
    path.write_bytes(raw)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        write(et, path, events(300, 7), "a")
    assert index_of(path).read_bytes() == expected_index(path)
    with et.open(path) as tape:
        assert len(tape) == 1200


def test_recover_keeps_the_index_of_what_it_keeps(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000, sizes=0))
    raw = bytearray(path.read_bytes())
    raw[24 + 24 * 900 + 20] ^= 1
    path.write_bytes(raw)
    assert et.recover(path).events == 900
    with et.open(path) as tape:
        assert len(tape) == 900
        assert tape._source.index.from_file == 896
    write(et, path, events(300, 7), "a")
    assert index_of(path).read_bytes() == expected_index(path)


def test_the_index_of_a_stream_that_was_cut_and_grew_again_under_another_name_is_not_believed(et, tmp_path):
    path, other = tmp_path / "t.tape", tmp_path / "u.tape"
    write(et, path, events(1000))
    os.link(path, other)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    other.write_bytes(raw)
    et.recover(other)
    write(et, other, events(1500, 9), "a")
    reference = expected_index(path)
    with et.open(path) as tape:
        assert tape._source.length() == 1500 + et.verify(path).events - 1500
        with et.open(other) as second:
            assert [e.bytes for e in tape] == [e.bytes for e in second]
            assert [tape[i].bytes for i in range(0, len(tape), 7)] == [e.bytes for e in second][::7]
    assert index_of(other).read_bytes() == reference


@pytest.mark.parametrize("gone", ["deleted", "a directory", "another file", "of another stream", "empty", "hostile"])
def test_a_stream_lives_without_its_index(et, tmp_path, gone):
    path = tmp_path / "t.tape"
    pairs = events(1000)
    write(et, path, pairs)
    index = index_of(path)
    before = index.read_bytes()
    index.unlink()
    if gone == "a directory":
        index.mkdir()
    elif gone == "another file":
        index.write_bytes(b"a note")
    elif gone == "of another stream":
        write(et, tmp_path / "u.tape", events(1000, 5))
        index.write_bytes(index_of(tmp_path / "u.tape").read_bytes())
    elif gone == "empty":
        index.write_bytes(b"")
    elif gone == "hostile":
        index.write_bytes(before[:64] + bytes(range(256)) * 100)
    with et.open(path) as tape:
        assert [tape[i].bytes for i in range(1000)] == [data for _, data in pairs]
    write(et, path, events(100, 3), "a")
    with et.open(path) as tape:
        assert len(tape) == 1100
    if gone == "another file":
        assert index.read_bytes() == b"a note"


def test_a_writer_in_a_directory_that_it_may_not_write_to_goes_on(et, core, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    path = tmp_path / "t.tape"
    write(et, path, events(100))
    index_of(path).unlink()
    tmp_path.chmod(0o500)
    try:
        write(et, path, events(100), "a", durability="none")
    finally:
        tmp_path.chmod(0o700)
    with et.open(path) as tape:
        assert len(tape) == 200


@pytest.mark.parametrize("call", ["write", "fdatasync", "ftruncate", "open"])
def test_no_failure_of_the_index_reaches_the_writer(et, tmp_path, monkeypatch, call):
    path = tmp_path / "t.tape"
    write(et, path, events(1000))
    real, failed = getattr(os, call), []

    def failing(first, *more, **named):
        name = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
        if name.endswith(".index"):
            failed.append(name)
            raise OSError(28, "No space left on device")
        return real(first, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        write(et, path, events(1000, 2), "a")
    assert failed
    with et.open(path) as tape:
        assert len(tape) == 2000
        assert [e.bytes for e in tape] == [tape[i].bytes for i in range(2000)]
    assert et.verify(path).ok


def test_a_full_disk_ends_the_index_and_not_the_stream(et, tmp_path, core):
    """The limit on the size of a file stands for the disk: the index reaches it, because its stream does not."""
    if et.backend != "native":
        pytest.skip("the thread is the native core's")
    code = """
import evtape, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with evtape.open(sys.argv[1], "w", durability="none", capacity=48 << 20) as tape:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for i in range(4):
        tape.append_many([b""] * 500_000, [1] * 500_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
"""
    path = tmp_path / "t.tape"
    run_python(core, code, path)
    with et.open(path) as tape:
        assert len(tape) == 2_000_000
        assert tape[1_999_999].timestamp == 1
    assert et.verify(path).ok


def test_a_new_stream_removes_the_index_that_has_its_name(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(100))
    write(et, path, events(10), index=None)
    assert not index_of(path).exists()
    write(et, path, events(100))
    path.unlink()
    write(et, path, events(10), "x", index=None)
    assert not index_of(path).exists()


def test_the_index_has_the_permissions_of_its_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(10))
    path.chmod(0o640)
    index_of(path).unlink()
    write(et, path, events(10), "a")
    assert index_of(path).stat().st_mode & 0o777 == 0o640


def test_reading_writes_nothing(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(events(1000)))
    index_of(path).write_bytes(b"evtape\0i")
    with et.open(path) as tape:
        assert len(tape) == 1000
    assert index_of(path).read_bytes() == b"evtape\0i"
    index_of(path).unlink()
    with et.open(path) as tape:
        assert len(tape) == 1000
    et.verify(path)
    assert os.listdir(tmp_path) == ["t.tape"]


# -------------------------------------------------------------------------------------------- verify


def report_of(et, path: Path):
    report = et.verify(path)
    assert report.as_dict()["index"] == report.index
    return report


def flip(path: Path, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        value = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


def test_verify_compares_every_event_of_a_closed_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000, disorder=0.1))
    report = report_of(et, path)
    assert (report.state, report.index, report.compared) == ("clean", "compared", 1000)


@pytest.mark.parametrize("bits", ["every bit of some events", "StartTimestamp"])
def test_verify_names_the_event_whose_timestamp_has_one_changed_bit(et, tmp_path, bits):
    path = tmp_path / "t.tape"
    pairs = events(200, sizes=30)
    write(et, path, pairs)
    with et.open(path) as tape:
        offsets = tape.offsets.tolist()
    if bits == "StartTimestamp":
        for bit in range(128, 192):
            flip(path, bit)
            report = report_of(et, path)
            assert [(p.reason, p.ordinal, p.offset) for p in report.problems] == [("timestamp", -1, -1)]
            assert not report.ok
            assert not report.lost
            flip(path, bit)
        return
    for ordinal in (0, 63, 64, 127, 128, 199):
        for bit in range(64):
            flip(path, offsets[ordinal] * 8 + bit)
            report = report_of(et, path)
            assert [(p.reason, p.ordinal, p.offset) for p in report.problems] == [
                ("timestamp", ordinal, offsets[ordinal])
            ]
            assert f"had {pairs[ordinal][0]} when" in report.problems[0].message
            assert (report.state, report.events, report.lost) == ("damaged", 200, False)
            flip(path, offsets[ordinal] * 8 + bit)


def test_verify_names_the_block_when_more_than_one_bit_changed(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(200))
    with et.open(path) as tape:
        offset, first = int(tape.offsets[70]), int(tape.offsets[64])
    for bit in (1, 5, 77):
        flip(path, offset * 8 + bit % 64)
    (problem,) = report_of(et, path).problems
    assert (problem.reason, problem.ordinal, problem.offset) == ("timestamp", 64, first)
    assert "events 64 to 127" in problem.message


def test_verify_goes_on_after_damage_that_the_walk_cannot_pass(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(1000))
    with et.open(path) as tape:
        offsets = tape.offsets.tolist()
    flip(path, offsets[100] * 8 + 64 + 31)  # a size
    flip(path, offsets[700] * 8 + 3)
    report = report_of(et, path)
    assert report.events == 100
    assert ("size", 100) in [(p.reason, p.ordinal) for p in report.problems]
    assert ("timestamp", 700) in [(p.reason, p.ordinal) for p in report.problems]


@pytest.mark.parametrize("what", ["missing", "foreign", "damaged"])
def test_verify_says_when_it_had_no_index_to_compare_with(et, tmp_path, what):
    path, other = tmp_path / "t.tape", tmp_path / "u.tape"
    write(et, path, events(10_000))
    write(et, other, events(10_000))
    index = index_of(path)
    if what == "missing":
        index.unlink()
    elif what == "foreign":
        index.write_bytes(index_of(other).read_bytes())
    else:
        flip(index, (64 + 48 * 70) * 8)
    report = report_of(et, path)
    assert (report.state, report.index) == ("clean", what)
    assert report.compared == {"missing": 0, "foreign": 0, "damaged": 10_000 - 58 * 64}[what]


def test_verify_compares_what_a_copy_brings_along(et, tmp_path):
    path, copy = tmp_path / "t.tape", tmp_path / "copy.tape"
    write(et, path, events(1000))
    copy.write_bytes(path.read_bytes())
    index_of(copy).write_bytes(index_of(path).read_bytes())
    with et.open(copy) as tape:
        assert len(tape) == 1000
        assert tape._source.index.from_file == 1000
    assert report_of(et, copy).index == "compared"
    flip(copy, 128)
    assert [p.reason for p in report_of(et, copy).problems] == ["timestamp"]


def test_verify_of_a_stream_that_is_written(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, events(100))
    with et.open(path, "a", index=True) as tape:
        tape.append_many([b"x"] * 1000)
        report = report_of(et, path)
        assert (report.state, report.index, report.compared) == ("open", "compared", 100)


@pytest.mark.parametrize("seed", range(40))
def test_a_hostile_index_with_good_checksums_does_no_harm(et, tmp_path, seed):
    """Its numbers may be anything. What is asked is answered, or an exception of evtape says why not."""
    rng = random.Random(seed)
    path = tmp_path / "t.tape"
    write(et, path, events(2000, disorder=0.1 * (seed % 2)))
    index = bytearray(index_of(path).read_bytes())
    start = HEADER.unpack_from(path.read_bytes())[2]
    odd = (0, 1, -1, 23, 24, 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 2**47, len(path.read_bytes()))
    for _ in range(rng.randrange(1, 6)):
        block = rng.randrange(31)
        fields = list(RECORD.unpack_from(index, 64 + 48 * block))
        which = rng.randrange(8)
        limit = (2**63, 2**63, 2**63, 2**63, 2**32, 2**32, 2**16, 2**16)[which]
        fields[which] = rng.choice((*odd, rng.randrange(2**63), fields[which] + 1)) % limit
        index[64 + 48 * block : 112 + 48 * block] = seal(RECORD.pack(*fields), start, block)
    index_of(path).write_bytes(index)
    questions = (
        lambda tape: len(tape),
        lambda tape: [tape[i].ordinal for i in range(0, len(tape), 17)],
        lambda tape: tape[-1].bytes,
        lambda tape: len(tape.between(starting_at=NS + 10**6, ending_before=NS + 10**6 + 1000)),
        lambda tape: tape.searchsorted(NS + 10**6),
        lambda tape: tape.timestamps.sum(),
        lambda tape: tape[500:700].sizes.sum(),
        lambda tape: [event.ordinal for event in tape[100:300]],
        lambda tape: repr(tape),
    )
    for question in questions:
        with et.open(path) as tape:
            try:
                question(tape)
            except (et.Error, ValueError, IndexError):
                pass
    et.verify(path)
    with et.open(path, "a") as tape:
        tape.append(b"more")
    index_of(path).unlink()
    with et.open(path) as tape:
        assert len(tape) == 2001


# --------------------------------------------------------------------------------------------- rebuild


@pytest.mark.parametrize("count", [0, 1, 64, 100_000])
def test_build_index_writes_what_a_writer_writes(et, tmp_path, count):
    path = tmp_path / "t.tape"
    path.write_bytes(stream(events(count, sizes=20)))
    told: list[tuple[int, int]] = []
    assert et.build_index(path, lambda done, total: told.append((done, total))) == count
    assert index_of(path).read_bytes() == expected_index(path)
    assert told[-1] == (path.stat().st_size,) * 2
    assert et.build_index(path) == count
    assert et.verify(path).compared == count


def test_build_index_ends_before_damage_and_names_it(et, tmp_path):
    path = tmp_path / "t.tape"
    raw = bytearray(stream(events(1000, sizes=0)))
    raw[24 + 24 * 500 + 11] = 255
    path.write_bytes(raw)
    with pytest.raises(et.CorruptError) as raised:
        et.build_index(path)
    assert (raised.value.ordinal, raised.value.reason) == (500, "size")
    with et.open(path) as tape:
        assert len(tape) == 500
        assert tape._source.index.from_file == 448
        assert [e.ordinal for e in tape[440:]] == list(range(440, 500))


def test_build_index_takes_zeros_that_are_events(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(stream([(NS, b"x")] * 100 + [(0, b"")] + [(NS, b"y")] * 100))
    assert et.build_index(path) == 64
    with et.open(path) as tape:
        assert len(tape) == 201
        assert len(list(tape)) == 201
        assert (tape[100].timestamp, tape[200].bytes) == (0, b"y")


@pytest.mark.parametrize("what", ["short", "no stream", "truncated", "written", "missing"])
def test_build_index_refuses(et, tmp_path, what):
    path = tmp_path / "t.tape"
    raw = stream(events(100))
    path.write_bytes({"short": raw[:20], "no stream": b"x" * 8 + raw[8:], "truncated": raw[:-1]}.get(what, raw))
    expected = {"written": et.LockedError, "truncated": et.TruncatedError, "missing": FileNotFoundError}
    tape = et.open(path, "a") if what == "written" else None
    if what == "missing":
        path.unlink()
    if what == "no stream":
        path.write_bytes(struct.pack("<q", 3) + raw[8:])
    with pytest.raises(expected.get(what, et.FormatError)):
        et.build_index(path)
    if tape is not None:
        tape.close()
    assert not index_of(path).exists()


def test_a_writer_leaves_a_large_stream_without_an_index_to_build_index(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    write(et, path, events(1000), index=False)
    monkeypatch.setattr(et.stream.indexing, "CATCH_UP_MAX", 10_000)
    monkeypatch.setattr(et.recovery.index_file, "FROM_SIZE", 0)
    write(et, path, events(1000), "a", index=None)
    assert not index_of(path).exists()
    et.build_index(path)
    write(et, path, events(10), "a", index=None)
    assert index_of(path).read_bytes() == expected_index(path)


def test_zeros_in_a_block_that_was_indexed_are_damage(et, tmp_path):
    path = tmp_path / "t.tape"
    write(et, path, [(NS + i, b"") for i in range(400)])
    raw = bytearray(path.read_bytes())
    raw[24 + 16 * 100 : 24 + 16 * 110] = bytes(160)
    path.write_bytes(raw)
    with et.open(path) as tape, pytest.raises(et.CorruptError) as raised:
        list(tape[:])
    assert (raised.value.ordinal, raised.value.reason) == (100, "zero")
