"""One journal for each writer, read as one: also the layout for servers of many processes."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import NS, start_python

ROLL = 16 << 10


def test_journals_and_streams_are_merged_by_time(et, tmp_path):
    rng = random.Random(1)
    events = sorted((NS + rng.randrange(10**9), i) for i in range(3000))
    tapes = [et.open_journal(tmp_path / name, "a", roll_bytes=ROLL) for name in ("a", "b")]
    tapes.append(et.open(tmp_path / "c.tape", "a"))
    for timestamp, number in events:
        tapes[number % 3].append(b"%d" % number * 10, timestamp)
    for tape in tapes:
        tape.close()
    with et.merge([tmp_path / "a", tmp_path / "b", tmp_path / "c.tape"]) as merged:
        assert [event.timestamp for event in merged] == [timestamp for timestamp, _ in events]
        assert [bytes(event.data) for event in merged] == [b"%d" % number * 10 for _, number in events]
        np.testing.assert_array_equal(merged.timestamps, [timestamp for timestamp, _ in events])
        assert merged[1234].timestamp == events[1234][0]
        window = merged.between(starting_at=events[500][0], ending_before=events[900][0])
        assert len(window) == 400
        assert [event.timestamp for event in merged.follow(until="closed")] == [t for t, _ in events]
        assert [event.timestamp for event in merged.follow(2000, until="closed")] == [t for t, _ in events[2000:]]
        with pytest.raises(ValueError, match="twice"):
            et.merge([tmp_path / "a", f"{tmp_path}/./a"])


def test_a_merge_of_journals_that_have_forgotten(et, tmp_path):
    with et.open_journal(tmp_path / "a", "a", roll_bytes=ROLL, keep_segments=2) as journal:
        for i in range(500):
            journal.append(b"x" * 200, NS + 2 * i)
    with et.open_journal(tmp_path / "b", "a", roll_bytes=ROLL) as journal:
        for i in range(500):
            journal.append(b"y" * 200, NS + 2 * i + 1)
    with et.open(tmp_path / "a") as a, et.merge([a, tmp_path / "b"]) as merged:
        first = a.first_ordinal
        assert first > 0
        assert len(merged) == 1000 - first
        assert [event.timestamp for event in merged] == sorted(
            [*(NS + 2 * i for i in range(first, 500)), *(NS + 2 * i + 1 for i in range(500))]
        )
        assert merged[-1].ordinal == 499
        assert len(list(merged.follow(until="closed"))) == 1000 - first


def test_journals_that_roll_are_followed_as_one(et, tmp_path):
    count, found = 1200, []
    journals = [et.open_journal(tmp_path / name, "a", roll_bytes=ROLL) for name in ("a", "b")]
    with et.merge([tmp_path / "a", tmp_path / "b"]) as merged:

        def run():
            for event in merged.follow(timeout=3):
                found.append(int(event.text.split()[0]))
                if len(found) == count:
                    return

        follower = threading.Thread(target=run)
        follower.start()
        for i in range(count):
            journals[i % 2].append(b"%d " % i * 20)
            if i % 100 == 0:
                time.sleep(0.005)
        follower.join(20)
    for journal in journals:
        journal.close()
    assert found == list(range(count))


WORKER = """
import evtape, os, struct, sys, time
directory, worker = sys.argv[1], int(sys.argv[2])
with evtape.open_journal(f"{directory}/worker-{worker}", "a", roll_bytes=16 << 10) as journal:
    sequence = journal.next_ordinal
    print("open", flush=True)
    while True:
        journal.append(struct.pack("<qq", worker, sequence) * 10)
        sequence += 1
        if sequence % 50 == 0:
            print(sequence, flush=True)
            time.sleep(0.001)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_prefork_workers_are_killed_and_restarted(et, core, tmp_path):
    """Each worker has the journal of its number, which its successor goes on with. See docs/journals.md."""
    workers, acknowledged = 3, [0] * 3
    processes = {}
    rng = random.Random(7)
    for turn in range(9):
        number = turn % workers
        if number in processes:
            process = processes.pop(number)
            process.send_signal(signal.SIGKILL)
            told = process.communicate()[0].split()
            acknowledged[number] = max([acknowledged[number], *(int(line) for line in told if line != "open")])
        processes[number] = start_python(core, WORKER, tmp_path, number)
        assert processes[number].stdout.readline() == "open\n"
        time.sleep(0.05 + rng.random() * 0.1)
    for number, process in processes.items():
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0].split()
        acknowledged[number] = max([acknowledged[number], *(int(line) for line in told if line != "open")])
    assert min(acknowledged) > 100
    paths = [tmp_path / name for name in sorted(os.listdir(tmp_path))]
    with et.merge(paths) as merged:
        following, last = [0] * workers, 0
        for event in merged:
            worker, sequence = struct.unpack_from("<qq", event.data)
            assert (event.stream_number, event.ordinal) == (worker, sequence) == (worker, following[worker])
            assert event.timestamp >= last
            following[worker], last = sequence + 1, event.timestamp
    assert all(got >= told for got, told in zip(following, acknowledged, strict=True))
