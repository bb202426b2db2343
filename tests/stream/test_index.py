"""Questions with an index file: the same answers as without, and what they cost."""

from __future__ import annotations

import os
import random
import struct
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import HEADER, NS, Pairs, run_python, sample, stream


def made(count: int, seed: int = 1, *, sizes: str = "mixed", disorder: float = 0.0) -> Pairs:
    rng, now, out = random.Random(seed), NS, []
    for i in range(count):
        now += rng.randrange(0, 3)
        stamp = now - rng.randrange(300) if rng.random() < disorder else now
        size = {"mixed": rng.randrange(40), "equal": 24, "both": 24 if i // 100 % 2 else rng.randrange(40)}[sizes]
        out.append((stamp, rng.randbytes(size)))
    return out


@pytest.fixture(params=["closed", "killed", "grown", "grown by another program", "no index"])
def path(request, et, tmp_path):
    """A stream of 3,000 events whose index covers all of them, some of them, or none."""

    def make(pairs: Pairs) -> Path:
        name = tmp_path / "t.tape"
        known = {"closed": 3000, "killed": 2944, "no index": 0}.get(request.param, 1000)
        name.write_bytes(stream(pairs[:known] if known else pairs))
        if known:
            et.build_index(name)
        if request.param == "grown":
            with et.open(name, "a", index=True) as tape:
                tape.append_many([data for _, data in pairs[known:]], [stamp for stamp, _ in pairs[known:]])
        else:
            name.write_bytes(stream(pairs))
        return name

    return make


@pytest.mark.parametrize("disorder", [0.0, 0.02])
@pytest.mark.parametrize("sizes", ["mixed", "equal", "both"])
def test_every_answer_is_that_of_a_list(et, path, sizes, disorder):
    pairs = made(3000, sizes=sizes, disorder=disorder)
    rng = random.Random(7)
    stamps = np.array([stamp for stamp, _ in pairs])
    with et.open(path(pairs)) as tape:
        assert len(tape) == 3000
        for i in [
            0,
            1,
            63,
            64,
            65,
            999,
            1000,
            1001,
            1023,
            1024,
            2943,
            2944,
            2999,
            -1,
            -3000,
            *rng.sample(range(3000), 99),
        ]:
            assert (tape[i].timestamp, tape[i].bytes) == pairs[i]
            assert tape[i].ordinal == i % 3000
        assert tape.timestamps.tolist() == stamps.tolist()
        for _ in range(60):
            low = NS + rng.randrange(-10, 3100)
            high = low + rng.randrange(-5, 400)
            wanted = np.flatnonzero((stamps >= low) & (stamps < high)).tolist()
            assert list(tape.between(starting_at=low, ending_before=high).ordinals) == wanted
            assert list(tape[500:2500].between(starting_at=low, ending_before=high).ordinals) == [
                i for i in wanted if 500 <= i < 2500
            ]
            if not disorder:
                for side in ("left", "right"):
                    assert tape.searchsorted(low, side) == np.searchsorted(stamps, low, side)
        if disorder:
            with pytest.raises(ValueError, match="go backwards"):
                tape.searchsorted(NS)
            first = 1 + int(np.flatnonzero(stamps[1:] < stamps[:-1])[0])
            assert tape._source.unsorted_at() == first
        with pytest.raises(IndexError):
            tape[3000]


@pytest.mark.parametrize("sizes", ["mixed", "equal", "both"])
def test_arrays_of_ordinals(et, path, sizes):
    pairs = made(3000, sizes=sizes)
    rng = np.random.default_rng(1)
    with et.open(path(pairs)) as tape:
        for ordinals in (
            rng.integers(0, 3000, 500),
            rng.integers(-3000, 3000, 7).astype(np.int32),
            np.array([2999, 0, 0, 64, 63], np.uint64),
            np.arange(3000)[::-1],
            [5, -1, 5],
            [],
        ):
            part = tape[ordinals]
            wanted = [pairs[int(i)] for i in ordinals]
            assert len(part) == len(wanted)
            assert [(stamp, bytes(data)) for stamp, data in part] == wanted
            assert [event.ordinal for event in part] == [int(i) % 3000 for i in ordinals]
            assert part.timestamps.tolist() == [stamp for stamp, _ in wanted]
            assert part.sizes.tolist() == [len(data) for _, data in wanted]
            assert part.offsets.tolist() == [event.offset for event in part]
            offsets, data = part.gather()
            assert (offsets.dtype, data.dtype, len(offsets)) == (np.int64, np.uint8, len(wanted) + 1)
            assert [data[a:b].tobytes() for a, b in pairwise(offsets)] == [d for _, d in wanted]
            assert [e.bytes for e in part[::-1]] == [data for _, data in wanted][::-1]
            if len(wanted) > 3:
                assert [e.bytes for e in part[[1, -1, 0]]] == [wanted[1][1], wanted[-1][1], wanted[0][1]]
                assert part[2].bytes == wanted[2][1]
        assert [e.ordinal for e in tape[100:2000:3][np.array([0, 5, -1])]] == [100, 115, 1999]


def test_rows_of_an_array_of_ordinals(et, path):
    pairs = made(3000, sizes="equal")
    with et.open(path(pairs)) as tape:
        ordinals = np.random.default_rng(2).integers(0, 3000, 300)
        rows = tape[ordinals].rows("3<i8")
        assert rows.shape == (300, 3)
        assert not rows.flags.writeable
        assert rows.tobytes() == b"".join(pairs[i][1] for i in ordinals)
        with pytest.raises(ValueError, match="has 24 bytes, but dtype"):
            tape[ordinals].rows("<i8")


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (np.array([0, 3000]), IndexError, "ordinal 3000 is outside a stream of 3000 events"),
        ([-3001], IndexError, "ordinal -3001 is outside"),
        (np.array([0.5]), TypeError, "not 1-D float64"),
        (np.array([True, False]), TypeError, "numpy.flatnonzero"),
        (np.zeros((2, 2), int), TypeError, "not 2-D int64"),
        (np.array([2**64 - 1], np.uint64), IndexError, "18446744073709551615 is outside"),
        (["a"], TypeError, "1-D array of ints"),
    ],
)
def test_a_key_that_cannot_be(et, tmp_path, key, error, text):
    name = tmp_path / "t.tape"
    name.write_bytes(stream(made(3000)))
    with et.open(name) as tape:
        with pytest.raises(error, match=text) as raised:
            tape[key]
        assert str(name) in str(raised.value)
        with pytest.raises(error):
            tape[:][key]


def test_reversed_head_and_tail(et, path):
    pairs = made(3000)
    with et.open(path(pairs)) as tape:
        assert [e.bytes for e in reversed(tape)] == [data for _, data in pairs][::-1]
        assert [e.bytes for e in reversed(tape[10:20:2])] == [data for _, data in pairs[10:20:2]][::-1]
        assert list(tape.head(3).ordinals) == [0, 1, 2]
        assert list(tape.tail(3).ordinals) == [2997, 2998, 2999]
        assert list(tape[10:20].tail(2).ordinals) == [18, 19]
        assert len(tape.head(10**6)) == len(tape.tail(10**6)) == 3000
        assert len(tape.head(0)) == len(tape.tail(0)) == 0
        for what in (tape.head, tape.tail, tape[:5].head):
            with pytest.raises(ValueError, match="0 or more events, not -1"):
                what(-1)


def test_damage_among_selected_events(et, tmp_path):
    name = tmp_path / "t.tape"
    pairs = made(300, sizes="equal")
    raw = bytearray(stream(pairs))
    raw[24 + 40 * 100 + 30] ^= 1
    name.write_bytes(raw)
    with et.open(name) as tape:
        events = iter(tape[np.array([5, 100, 7])])
        assert next(events).ordinal == 5
        with pytest.raises(et.CorruptError) as raised:
            next(events)
        assert raised.value.ordinal == 100
        assert next(events).ordinal == 7
        with pytest.raises(et.CorruptError):
            tape[[5, 100]].gather()
    with et.open(name, verify_checksums=False) as tape:
        assert len(list(tape[[5, 100]])) == 2
        assert len(tape[[5, 100]].gather()[1]) == 48


@pytest.mark.parametrize("byte", [9, 11])
def test_a_damaged_size_that_only_the_index_leads_past(et, tmp_path, byte):
    """Events of the block after the damage are unreachable, those of the next blocks are not."""
    name = tmp_path / "t.tape"
    pairs = made(300, sizes="mixed")
    name.write_bytes(stream(pairs))
    et.build_index(name)
    with et.open(name) as tape:
        offset = int(tape.offsets[100])
    raw = bytearray(name.read_bytes())
    raw[offset + byte] ^= 0x7F
    name.write_bytes(raw)
    with et.open(name) as tape:
        assert len(tape) == 300
        assert tape[99].bytes == pairs[99][1]
        assert tape[128].bytes == pairs[128][1]
        assert [e.bytes for e in tape[128:]] == [data for _, data in pairs[128:]]
        for question in (
            lambda: tape[100],
            lambda: tape[101],
            lambda: list(tape[90:110]),
            lambda: tape[101:200].timestamps,
            lambda: tape[[5, 101]].gather(),
            lambda: list(tape[[5, 101]]),
            lambda: tape.timestamps,
        ):
            with pytest.raises(et.CorruptError):
                question()


@pytest.mark.parametrize("broken", ["first", "middle", "last", "cut", "zeros", "header"])
def test_a_broken_index_costs_time_and_no_answer(et, tmp_path, broken):
    name = tmp_path / "t.tape"
    pairs = made(20_000, disorder=0.01)
    name.write_bytes(stream(pairs))
    et.build_index(name)
    index = Path(f"{name}.index")
    data = bytearray(index.read_bytes())
    at = {"first": 64, "middle": 64 + 48 * 150, "last": len(data) - 48, "header": 20}.get(broken)
    if at is not None:
        data[at + 3] ^= 4
    elif broken == "cut":
        del data[5000:]
    else:
        data[4096:8192] = bytes(4096)
    index.write_bytes(data)
    stamps = np.array([stamp for stamp, _ in pairs])
    with et.open(name) as tape:
        assert len(tape) == 20_000
        ordinals = np.random.default_rng(3).integers(0, 20_000, 400)
        assert [e.bytes for e in tape[ordinals]] == [pairs[i][1] for i in ordinals]
    with et.open(name) as tape:
        low = NS + 10_000
        wanted = np.flatnonzero((stamps >= low) & (stamps < low + 50))
        assert list(tape.between(starting_at=low, ending_before=low + 50).ordinals) == wanted.tolist()
        assert tape[9600].bytes == pairs[9600][1]
        assert tape._source.unsorted_at() == 1 + int(np.flatnonzero(stamps[1:] < stamps[:-1])[0])


def test_an_index_that_is_replaced_or_removed_under_a_reader(et, tmp_path):
    name = tmp_path / "t.tape"
    pairs = made(20_000)
    name.write_bytes(stream(pairs))
    et.build_index(name)
    with et.open(name) as tape:
        assert len(tape) == 20_000
        os.truncate(f"{name}.index", 64)
        assert tape[19_000].bytes == pairs[19_000][1]
        os.unlink(f"{name}.index")
        assert tape.searchsorted(pairs[10_000][0]) == np.searchsorted([s for s, _ in pairs], pairs[10_000][0])
        assert [e.bytes for e in tape[[3, 18_000]]] == [pairs[3][1], pairs[18_000][1]]


def test_a_follower_goes_on_from_the_index(et, tmp_path):
    name = tmp_path / "t.tape"
    pairs = made(1000)
    with et.open(name, "w", index=True) as tape:
        tape.append_many([data for _, data in pairs])
    with et.open(name) as reader:
        assert reader._source.length() == 1000
        with et.open(name, "a", index=True) as writer:
            writer.append_many([data for _, data in pairs])
            assert len(writer) == 2000
            assert writer[1500].bytes == pairs[500][1]
            assert len(reader) == 2000
            assert [e.bytes for e in reader[990:1010]] == [data for _, data in [*pairs[990:], *pairs[:10]]]
        assert [e.bytes for e in reader.follow(1990, timeout=0)] == [data for _, data in pairs[990:]]


# ------------------------------------------------------------------------------------------------ cost


def sparse(path: Path, blocks: int, *, block_bytes: int) -> None:
    """A large stream of equal events that takes little room: the entries of its first and last blocks are real, the
    ones between are holes, and its index is complete.
    """
    size = block_bytes // 64 - 16
    end = 24 + blocks * block_bytes
    payload = bytes(size)
    checksum = zlib.crc32(payload)
    with open(path, "wb") as file:
        file.truncate(end)
        file.write(HEADER.pack(end, blocks * 64, NS))
        for number in {0, 1, blocks // 2 - 1, blocks // 2, blocks // 2 + 1, blocks - 1}:
            for i in range(64):
                ordinal = number * 64 + i
                file.seek(24 + ordinal * (16 + size))
                file.write(struct.pack("<qII", NS + ordinal, size, checksum))
    record = np.dtype("<i8,<i8,<i8,<i8,<u4,<u4,<u2,<u2,<u4")
    records = np.zeros(blocks, record)
    numbers = np.arange(blocks)
    records["f0"] = 24 + numbers * block_bytes
    records["f1"] = NS + numbers * 64
    records["f2"] = records["f3"] = NS + numbers * 64 + 63
    records["f5"], records["f6"], records["f7"] = size, 64, 1
    headers = np.zeros(64, "<i8,<u4,<u4")
    headers["f1"], headers["f2"] = size, checksum
    out = bytearray(records.tobytes())
    for number in range(blocks):
        headers["f0"] = NS + number * 64 + np.arange(64)
        struct.pack_into("<I", out, number * 48 + 32, zlib.crc32(headers.tobytes()))
        place = zlib.crc32(struct.pack("<qq", NS, number))
        struct.pack_into("<I", out, number * 48 + 44, zlib.crc32(out[number * 48 : number * 48 + 44], place))
    head = struct.Struct("<8sIIq16sII16x")
    fields = NS, bytes(16), 64, 48
    checksum = zlib.crc32(head.pack(b"evtape\0i", 1, 0, *fields))
    Path(f"{path}.index").write_bytes(head.pack(b"evtape\0i", 1, checksum, *fields) + out)


def test_a_question_about_a_large_stream_reads_next_to_nothing(et, tmp_path):
    """Fifty gigabytes, almost all of which are holes: a walk would end at the first one."""
    path = tmp_path / "large.tape"
    blocks = 50_000
    sparse(path, blocks, block_bytes=1 << 20)
    middle = blocks // 2 * 64
    with et.open(path) as tape:
        assert len(tape) == blocks * 64
        assert tape[-1].timestamp == NS + blocks * 64 - 1
        assert list(tape.between(starting_at=NS + middle, ending_before=NS + middle + 10).ordinals) == list(
            range(middle, middle + 10)
        )
        assert tape.searchsorted(NS + middle + 5) == middle + 5
        assert [e.ordinal for e in tape[[middle, 0, -1]]] == [middle, 0, blocks * 64 - 1]


READ = """
import sys, evtape
path, middle, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def read():
    with open("/proc/self/io") as io, open("/proc/self/smaps") as maps:
        inside, resident = False, 0
        for line in maps:
            if line.split()[0][-1] != ":":
                inside = line.rstrip().endswith(path)
            elif inside and line.startswith("Rss:"):
                resident += int(line.split()[1]) << 10
        return int(io.readline().split()[1]) + resident

def ask():
    tape = evtape.open(path)
    assert len(tape) == 2 * middle
    assert tape[-1].timestamp == start + 2 * middle - 1
    assert len(tape.between(starting_at=start + middle, ending_before=start + middle + 10)) == 10
    return tape

ask().close()  # what is imported at the first question is not counted
before = read()
tape = ask()
print(read() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is read in /proc")
def test_what_is_read_does_not_grow_with_the_stream(core, tmp_path):
    """Bytes read, and bytes resident of the mapping, of 10 MB and of 50 GB."""
    took = []
    for blocks in (10, 50_000):
        path = tmp_path / f"{blocks}.tape"
        sparse(path, blocks, block_bytes=1 << 20)
        took.append(int(run_python(core, READ, path, blocks // 2 * 64, NS)))
    assert took[1] <= took[0] + (1 << 20)  # the index alone has 2.4 MB


def test_a_window_of_a_disordered_stream_reads_only_blocks_that_can_match(et, tmp_path):
    name = tmp_path / "t.tape"
    pairs = [(NS + 1000 * i - (5000 if i % 500 == 499 else 0), b"x" * 8) for i in range(64_000)]
    name.write_bytes(stream(pairs))
    et.build_index(name)
    with et.open(name) as tape:
        tape._source.length()
        walked: list[tuple[int, int]] = []
        real = tape._source.column
        tape._source.column = lambda kind, start, stop: walked.append((start, stop)) or real(kind, start, stop)
        window = tape.between(starting_at=pairs[30_000][0], ending_before=pairs[30_100][0])
        assert len(window) == 100
        assert sum(stop - start for start, stop in walked) <= 64 * 4


def test_the_samples_of_the_helpers_have_an_index_too(et, tmp_path):
    name = tmp_path / "t.tape"
    name.write_bytes(stream(sample(500)))
    assert et.build_index(name) == 500
    with et.open(name) as tape:
        assert [(e.timestamp, e.bytes) for e in tape[::-1]] == sample(500)[::-1]


def test_a_reader_that_is_open_for_long_reads_the_index_file_again(et, tmp_path, monkeypatch):
    path = tmp_path / "t.tape"
    pairs = made(3000, disorder=0.01)
    stamps = [stamp for stamp, _ in pairs]
    monkeypatch.setattr("evtape.stream.source._MUCH", 1000)

    def append(low, high):
        with et.open(path, "a", index=True) as tape:
            tape.append_many([data for _, data in pairs[low:high]], stamps[low:high])

    append(0, 100)
    with et.open(path) as reader:
        assert (len(reader), reader._source.index.from_file) == (100, 100)
        before, last = reader._source.index, reader[-1]
        append(100, 2000)
        assert (len(reader), reader._source.index.from_file) == (2000, 2000)
        assert before.locate(99, last.offset + 40) == last.offset  # another thread may still ask it
        append(2000, 2003)  # not much
        assert (len(reader), reader._source.index.from_file) == (2003, 2000)
        append(2003, 3000)
        os.unlink(f"{path}.index")  # then a walk
        assert (len(reader), reader._source.index.from_file) == (3000, 2000)
        assert [event.timestamp for event in reader] == reader.timestamps.tolist() == stamps
        assert reader[[5, 2500, 150]].timestamps.tolist() == [stamps[5], stamps[2500], stamps[150]]
        assert reader._source.unsorted_at() == next(i for i in range(1, 3000) if stamps[i] < stamps[i - 1])
        low, high = stamps[700], stamps[2700]
        wanted = [i for i in range(3000) if low <= stamps[i] < high]
        assert list(reader.between(starting_at=low, ending_before=high).ordinals) == wanted
