"""Threads share a tape: all events are there, in the order of each thread, and readers see exact prefixes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.helpers import prefix

THREADS = 4


def _run(*targets):
    """Start all at once; an exception in any of them is raised here."""
    failures, barrier = [], threading.Barrier(len(targets))

    def guarded(target):
        try:
            barrier.wait()
            target()
        except BaseException as error:  # noqa: BLE001 - handed to the thread of the test
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _check(path, sent, ordinals):
    """Every event once, at the ordinal its append returned, and the order within a thread kept."""
    raw = path.read_bytes()
    stored = [data for _, data in prefix(raw, len(raw))]
    assert len(stored) == sum(map(len, sent))
    assert sorted(ordinal for mine in ordinals for ordinal in mine) == list(range(len(stored)))
    for payloads, mine in zip(sent, ordinals, strict=True):
        assert mine == sorted(mine)
        assert [stored[ordinal] for ordinal in mine] == payloads


@pytest.mark.parametrize("size", [8, 5000])
def test_single_appends(et, tmp_path, size):
    path = tmp_path / "t.tape"
    sent = [[(b"%d.%d." % (t, i)).ljust(size, b"-") for i in range(1500)] for t in range(THREADS)]
    ordinals = [[] for _ in range(THREADS)]
    with et.open(path, "w", durability="none") as tape:

        def work(t):
            for payload in sent[t]:
                ordinals[t].append(tape.append(payload))

        _run(*[lambda t=t: work(t) for t in range(THREADS)])
        stamps = tape.timestamps
        assert (stamps[1:] >= stamps[:-1]).all()  # the clock of the stream never goes back
    _check(path, sent, ordinals)


def test_batches_arrays_single_appends_and_syncs_together(et, tmp_path):
    path = tmp_path / "t.tape"
    sent = [[(b"%d.%d." % (t, i)).ljust(400, b"-") for i in range(1200)] for t in range(THREADS)]
    ordinals = [[] for _ in range(THREADS)]
    with et.open(path, "w") as tape:

        def work(t):
            done = 0
            while done < 1200:
                part = sent[t][done : done + (1, 7, 300, 60)[t]]
                if t == 0:
                    new = [tape.append(bytearray(part[0]))]
                elif t == 3:
                    new = list(tape.append_array(np.array([list(data) for data in part], np.uint8)))
                else:
                    new = list(tape.append_many(part))
                assert new == list(range(new[0], new[0] + len(part)))  # a batch is in one piece
                ordinals[t] += new
                done += len(part)
                if t == 1 and done % 70 == 0:
                    tape.sync()

        _run(*[lambda t=t: work(t) for t in range(THREADS)])
    _check(path, sent, ordinals)


def test_readers_in_threads_meanwhile(et, tmp_path):
    path = tmp_path / "t.tape"
    done = threading.Event()
    with et.open(path, "w", durability="none") as tape:
        tape.append(b"0".ljust(100), timestamp=0)

        def write():
            try:
                for i in range(1, 4000):
                    tape.append((b"%d" % i).ljust(100), timestamp=i)
            finally:
                done.set()

        def read(make):
            reader, last, rounds = make(), 0, 0
            while not done.is_set() or rounds < 2:
                seen = 0
                for timestamp, data in reader:
                    assert (timestamp, int(bytes(data))) == (seen, seen)
                    seen += 1
                assert seen >= last
                assert len(reader) >= seen
                assert reader.timestamps[:seen].tolist() == list(range(seen))
                assert reader[seen - 1].ordinal == seen - 1
                last, rounds = seen, rounds + 1
            if reader is not tape:
                reader.close()

        _run(write, lambda: read(lambda: et.open(path)), lambda: read(lambda: et.open(path)))
        shared = et.open(path)
        _run(*[lambda: read(lambda: shared.__class__(str(path))) for _ in range(2)])
        shared.close()


def test_one_reader_shared_by_threads(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append_many([b"%d" % i for i in range(3000)], range(3000))
    for _ in range(20):  # the first questions build the index, so it is they that meet
        with et.open(path) as tape:

            def read(tape=tape):
                for i in (2999, 7, 1000):
                    assert (tape[i].timestamp, bytes(tape[i].data)) == (i, b"%d" % i)
                assert len(tape) == 3000
                assert tape.timestamps.tolist() == list(range(3000))
                assert len(tape.between(starting_at=100, ending_before=200)) == 100

            _run(*[read] * THREADS)


def test_one_iterator_shared_by_threads_gives_each_event_once(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape:
        tape.append_many([b"%d" % i for i in range(5000)], range(5000))
    with et.open(path) as tape:
        iterator, got = iter(tape), [[] for _ in range(THREADS)]
        _run(*[lambda mine=mine: mine.extend(event.ordinal for event in iterator) for mine in got])
        assert sorted(ordinal for mine in got for ordinal in mine) == list(range(5000))


def test_closing_while_others_append(et, tmp_path):
    path = tmp_path / "t.tape"
    for _ in range(10):
        tape = et.open(path, "w", durability="none")
        counts = [0] * THREADS
        started = threading.Barrier(THREADS + 1)

        def work(t, tape=tape, counts=counts, started=started):
            started.wait()
            try:
                while True:
                    if t % 2:
                        tape.append(b"x" * 50)
                        counts[t] += 1
                    else:
                        counts[t] += len(tape.append_many([bytearray(2000)] * 50))
            except et.ClosedError:
                pass

        def close(tape=tape, counts=counts, started=started):
            started.wait()
            while sum(counts) < 100:
                pass
            tape.close()

        _run(close, *[lambda t=t: work(t) for t in range(THREADS)])
        report = et.verify(path)
        assert (report.state, report.events) == ("clean", sum(counts))
