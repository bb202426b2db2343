"""Following a journal over rolls and deletions, and cursors with the ordinals of the journal."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
import time

import pytest

from tests.helpers import pairs, wait_until

ROLL = 64 << 10
EVENT = b"x" * 980  # 65 of them fill a segment


def fill(journal, segments):
    """So many segments of events."""
    for _ in range(segments):
        for _ in range(65):
            journal.append(EVENT)
        journal.roll()


@pytest.fixture
def path(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a", roll_bytes=ROLL) as journal:
        for i in range(300):
            journal.append(b"%3d" % i * 320)
    return tmp_path / "j"


def test_what_is_there_is_followed_over_segments(et, path):
    with et.open(path) as reader:
        assert [event.ordinal for event in reader.follow(timeout=0)] == list(range(300))
        assert [event.ordinal for event in reader.follow(130, timeout=0)] == list(range(130, 300))
        assert [event.ordinal for event in reader.follow(-5, until=298)] == list(range(295, 298))
        assert [event.ordinal for event in reader.follow(0, until=200)] == list(range(200))
        assert [event.ordinal for event in reader.follow(until="closed")] == list(range(300))
        middle = reader[150].timestamp
        assert next(reader.follow(reader[150].time, timeout=0)).timestamp == middle
        assert [event.timestamp < middle for event in reader.follow(until=reader[150].time)] == [True] * 150
        assert list(reader.follow("end", timeout=0)) == []
        with pytest.raises(IndexError, match="beyond the end"):
            reader.follow(301)


def test_batches(et, path):
    with et.open(path) as reader:
        found = []
        for batch in reader.follow(10, timeout=0, batch=True):
            found += [event.ordinal for event in batch]
        assert found == list(range(10, 300))


def test_a_writer_that_rolls_is_followed(et, tmp_path):
    path, count = tmp_path / "j", 1500
    with et.open_journal(path, "a", roll_bytes=ROLL) as journal, et.open(path) as reader:
        found: list[tuple[int, bytes]] = []

        def run():
            found.extend((event.ordinal, bytes(event.data[:4])) for event in reader.follow(until=count))

        follower = threading.Thread(target=run)
        follower.start()
        for i in range(count):
            journal.append(b"%4d" % i * 250)
            if i % 100 == 0:
                time.sleep(0.005)
            if i % 400 == 0:
                journal.roll()
        follower.join(20)
        assert found == [(i, b"%4d" % i) for i in range(count)]


def test_the_first_event_after_a_roll_is_not_late(et, tmp_path):
    with et.open_journal(tmp_path / "j", "a") as journal, et.open(tmp_path / "j") as reader:
        journal.append(b"first")
        events = reader.follow(timeout=5)
        next(events)
        waits = []
        for _ in range(5):
            journal.roll()
            began = []

            def later(began=began):
                time.sleep(0.05)
                began.append(time.perf_counter())
                journal.append(b"next")

            thread = threading.Thread(target=later)
            thread.start()
            next(events)
            waits.append(time.perf_counter() - began[0])
            thread.join()
        assert sorted(waits)[2] < 0.1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_roll_wakes_a_follower(et, tmp_path, monkeypatch, asynchronous):
    """Where no follower looks by itself for a minute, it goes on over rolls none the less."""
    wait, over_rolls = (importlib.import_module(f"evtape.{name}") for name in ("stream.wait", "journal.follow"))
    for module, name in ((wait, "_LOOK_EVERY"), (wait, "_LOOK_IDLE"), (over_rolls, "_SLICE")):
        monkeypatch.setattr(module, name, 60)
    with et.open_journal(tmp_path / "j", "a") as journal, et.open(tmp_path / "j") as reader:
        journal.append(b"0")
        found = []

        def follow():
            found.extend(event.text for event in reader.follow(timeout=20, until=8, spin=0))

        async def afollow():
            async for event in reader.afollow(timeout=20, until=8, spin=0):
                found.append(event.text)  # noqa: PERF401 - one at a time

        thread = threading.Thread(target=lambda: asyncio.run(afollow()) if asynchronous else follow())
        thread.start()
        for i in range(1, 8):
            wait_until(lambda i=i: len(found) == i)
            time.sleep(0.05)  # the follower sleeps by now
            journal.roll()
            journal.append(b"%d" % i)
        thread.join()
    assert found == [str(i) for i in range(8)]


def test_afollow(et, path):
    async def run():
        with et.open(path) as reader:
            return [event.ordinal async for event in reader.afollow(until="closed")]

    assert asyncio.run(run()) == list(range(300))


def test_a_slow_follower_is_told_what_was_deleted(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=3) as journal:
        fill(journal, 1)
        with et.open(path) as reader:
            events = reader.follow(timeout=1)
            assert next(events).ordinal == 0
            fill(journal, 8)
            wait_until(lambda: journal.first_ordinal == 7 * 65)
            assert [next(events).ordinal for _ in range(64)] == list(range(1, 65))  # it keeps its segment
            with pytest.raises(et.ExpiredError) as caught:
                next(events)
            assert (caught.value.ordinal, caught.value.first_ordinal) == (65, 7 * 65)
            assert next(reader.follow(timeout=0)).ordinal == 7 * 65
            with pytest.raises(et.ExpiredError):
                reader.follow(3)


def test_a_follower_is_told_of_a_gap(et, path):
    names = sorted(name for name in os.listdir(path) if name.endswith(".tape"))
    first, stop = int(names[1][:20]), int(names[2][:20])
    os.unlink(path / names[1])
    with et.open(path) as reader:
        events, found = reader.follow(timeout=1), []
        with pytest.raises(et.MissingError) as caught:
            found.extend(event.ordinal for event in events)
        assert (caught.value.ordinal, caught.value.stop) == (first, stop)


def test_a_follower_goes_on_when_a_writer_opens_again(et, path):
    with et.open(path) as reader:
        events = reader.follow("end", timeout=2)
        for turn in range(3):
            with et.open_journal(path, "a") as journal:
                journal.append(b"again")
                journal.roll()
            assert next(events).ordinal == 300 + turn


# ------------------------------------------------------------------------------------------- cursors


def test_a_cursor_goes_on_over_segments(et, path):
    for start in range(0, 300, 50):
        with et.open(path) as reader, reader.cursor("billing") as cursor:
            assert cursor.path == str(path / "cursor-billing")
            assert (cursor.ordinal, cursor.committed, cursor.lag) == (start, start, 300 - start)
            events = iter(cursor)
            assert [next(events).ordinal for _ in range(50)] == list(range(start, start + 50))
            cursor.commit(durable=start % 100 == 0)
    with et.open(path) as reader, reader.cursor("billing") as cursor:
        assert list(cursor) == []
        assert cursor.lag == 0


def test_a_place_between_two_segments(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL) as journal:
        fill(journal, 2)
        with journal.cursor("a", start=65) as cursor, journal.cursor("b", start="end") as last:
            assert (cursor.ordinal, last.ordinal) == (65, 130)
        journal.append(b"more")
        with journal.cursor("a") as cursor, journal.cursor("b") as last:
            assert next(cursor.follow()).ordinal == 65
            assert next(last.follow()).ordinal == 130
        (path / "cursor-c").write_bytes((path / "cursor-a").read_bytes()[:-1] + b"!")
        with pytest.raises(et.CursorError):
            journal.cursor("c")


def test_retention_keeps_what_a_cursor_needs(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_segments=2) as journal:
        fill(journal, 1)
        with journal.cursor("slow") as cursor:
            fill(journal, 6)
            wait_until(lambda: not journal._rolled)
            assert journal.first_ordinal == 0
            assert [event.ordinal for event in cursor] == list(range(7 * 65))
            assert journal.first_ordinal == 0
            cursor.commit()
            fill(journal, 1)
            wait_until(lambda: journal.first_ordinal == 7 * 65)
        with journal.cursor("slow") as cursor:  # the event before its place is gone
            assert cursor.ordinal == 7 * 65
            assert next(cursor.follow()).ordinal == 7 * 65


def test_a_cursor_learns_what_it_lost(et, tmp_path):
    path = tmp_path / "j"
    with et.open_journal(path, "a", roll_bytes=ROLL, keep_at_most_bytes=4 * ROLL) as journal:
        fill(journal, 1)
        with journal.cursor("slow", start=10):
            pass
        fill(journal, 9)
        wait_until(lambda: journal.first_ordinal > 10)
        wait_until(lambda: not journal._rolled and not journal._retention.due())
        first = journal.first_ordinal
        with journal.cursor("slow") as cursor:
            with pytest.raises(et.ExpiredError, match=f"{first - 10} events from event 10 on were deleted") as caught:
                next(cursor.follow())
            assert (caught.value.ordinal, caught.value.first_ordinal) == (10, first)
            cursor.seek(caught.value.first_ordinal)
            assert next(cursor.follow()).ordinal == first
            cursor.commit()
        with journal.cursor("slow") as cursor:
            assert cursor.ordinal == first + 1


def test_a_cursor_of_another_journal(et, path, tmp_path):
    with et.open(path) as reader, reader.cursor("a", start=100):
        pass
    with et.open_journal(tmp_path / "other", "a", roll_bytes=ROLL) as journal:
        for i in range(300):
            journal.append(b"%3d" % i * 320)
        (tmp_path / "other" / "cursor-a").write_bytes((path / "cursor-a").read_bytes())
        with pytest.raises(et.CursorError, match="not the ones that were delivered"):
            journal.cursor("a")
    assert len(pairs(et.open(path))) == 300
