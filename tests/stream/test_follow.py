"""follow and afollow: every event exactly once and in order, in real processes, and how a follower ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import os
import signal
import struct
import sys
import threading
import time

import numpy as np
import pytest

from tests.helpers import NS, open_descriptors, run_python, start_python, wait_until


def _numbers(events):
    return [int.from_bytes(event.data, "little") for event in events]


def _number(i):
    return i.to_bytes(8, "little")


def _stream(et, path, events=10):
    with et.open(path, "w") as tape:
        tape.append_many([_number(i) for i in range(events)], range(NS, NS + events))


class Follower(threading.Thread):
    """Follows in a thread: what it got, and how it ended."""

    def __init__(self, tape, *arguments, **options):
        super().__init__(daemon=True)
        self.got: list[int] = []
        self.raised: BaseException | None = None
        self.ended = 0.0
        self.follow = tape.follow(*arguments, **options)
        self.start()

    def run(self):
        try:
            for event in self.follow:
                self.got.append(int.from_bytes(event.data, "little"))
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.raised = error
        self.ended = time.monotonic()


# ------------------------------------------------------------------------------------ start and until


@pytest.mark.parametrize(
    ("start", "first"),
    [(0, 0), (3, 3), (10, 10), (-3, 7), (-30, 0), ("end", 10), (np.int64(4), 4),
     (np.datetime64(NS + 6, "ns"), 6), (np.datetime64(NS + 60, "ns"), 10), (np.datetime64(0, "ns"), 0),
     (dt.datetime(1971, 1, 1, tzinfo=dt.UTC), 0), ("1971-01-01T00:00:00Z", 0)],
)  # fmt: skip
def test_where_a_follower_starts(et, tmp_path, start, first):
    _stream(et, tmp_path / "t.tape")
    with et.open(tmp_path / "t.tape") as tape:
        assert _numbers(tape.follow(start, timeout=0)) == list(range(first, 10))
        assert _numbers(tape.follow(start, until="closed")) == list(range(first, 10))


@pytest.mark.parametrize(
    ("until", "stop"),
    [(0, 0), (4, 4), (10, 10), (np.datetime64(NS + 6, "ns"), 6), ("closed", 10)],
)
@pytest.mark.parametrize("batch", [False, True])
def test_where_a_follower_ends(et, tmp_path, until, stop, batch):
    _stream(et, tmp_path / "t.tape")
    with et.open(tmp_path / "t.tape") as tape:
        got = tape.follow(until=until, batch=batch)
        events = [event for part in got for event in part] if batch else list(got)
        assert _numbers(events) == list(range(stop))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"start": 11}, IndexError, "start 11 is beyond the end: the stream has 10 events"),
        ({"start": "yesterday"}, ValueError, "ISO 8601"),
        ({"start": dt.datetime(2026, 1, 1)}, ValueError, "has no zone"),
        ({"start": 1.5}, TypeError, "timestamp must be"),
        ({"until": "open"}, ValueError, "ISO 8601"),
        ({"timeout": -1}, ValueError, "timeout must be seconds"),
        ({"timeout": float("nan")}, ValueError, "timeout must be seconds"),
        ({"spin": -1.0}, ValueError, "spin must be seconds"),
    ],
)
def test_arguments_that_make_no_sense(et, tmp_path, options, error, text):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as tape, pytest.raises(error, match=text) as caught:
        tape.follow(**options)
    assert str(path) in str(caught.value)


def test_a_follower_of_no_stream(et, tmp_path):
    path = tmp_path / "t.tape"
    path.write_bytes(b"this is no stream at all")
    with pytest.raises(et.FormatError):
        et.open(path)


# ---------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize("spin", [None, 0, 1e-3, float("inf")])
def test_events_come_as_they_are_published(et, tmp_path, spin):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        follower = Follower(reader, spin=spin, until=300)
        for i in range(300):
            tape.append(_number(i))
            if i % 100 == 50:
                time.sleep(0.02)
        follower.join(20)
        assert follower.got == list(range(300))
        assert follower.raised is None


def test_a_writer_can_be_followed_in_its_own_process(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        follower = Follower(tape, until=50)
        for i in range(50):
            tape.append(_number(i))
        follower.join(20)
        assert follower.got == list(range(50))


def test_slices_for_those_who_want_arrays(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        tape.append_many([_number(i) for i in range(10_000)])
        parts = reader.follow(batch=True, timeout=0.2)
        first = next(parts)
        assert len(first) == 10_000
        assert first.rows("<u8").tolist() == list(range(10_000))
        tape.append_many([_number(i) for i in range(10_000, 10_500)])
        second = next(parts)
        assert second.ordinals == range(10_000, 10_500)
        assert list(parts) == []


def test_growth_of_the_file_under_a_follower(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w", durability="none") as tape, et.open(path) as reader:
        follower = Follower(reader, until=60)
        for i in range(60):
            tape.append(_number(i) + bytes(200_000))
        follower.join(30)
        assert [number & 0xFFFFFFFF for number in follower.got] == list(range(60))


def test_a_writer_that_closes_and_opens_again(et, tmp_path):
    path = tmp_path / "t.tape"
    et.open(path, "w").close()
    with et.open(path) as reader:
        follower = Follower(reader, until=100)
        for part in range(10):
            with et.open(path, "a") as tape:
                for i in range(10):
                    tape.append(_number(10 * part + i))
        follower.join(20)
        assert follower.got == list(range(100))


# The pure core stores EventCount before WriteOffset. A kill between the two is repaired, with a warning.
@pytest.mark.filterwarnings("ignore:.*EventCount was")
def test_a_writer_that_is_killed_and_its_successor(core, et, tmp_path):
    path = tmp_path / "t.tape"
    code = """
import sys, warnings, evtape
warnings.filterwarnings("ignore", ".*EventCount was")
tape = evtape.open(sys.argv[1], "a")
for i in range(int(sys.argv[2]), 1 << 40):
    tape.append(i.to_bytes(8, "little"))
"""
    et.open(path, "w").close()
    with et.open(path) as reader:
        follower = Follower(reader)
        for _ in range(5):
            enough = len(reader) + 100
            with start_python(core, code, path, len(reader)) as writer:
                try:
                    wait_until(lambda e=enough, w=writer: len(reader) > e or w.poll() is not None, 60)
                finally:
                    writer.kill()
                assert len(reader) > enough, writer.communicate()[1]
        with et.open(path, "a") as tape:
            tape.append(_number(len(tape)))
            published = len(tape)
        wait_until(lambda: len(follower.got) == published)
        assert follower.got == list(range(published))
        assert follower.raised is None


# ------------------------------------------------------------------------------------------------ ends


def test_a_timeout_is_without_an_event(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        began = time.monotonic()
        follower = Follower(reader, timeout=0.4)
        for i in range(5):
            time.sleep(0.15)
            tape.append(_number(i))
        follower.join(20)
        assert follower.got == list(range(5))
        assert 1.0 < follower.ended - began < 5


def test_a_new_stream_is_not_a_closed_one(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        follower = Follower(reader, until="closed")
        time.sleep(0.3)
        assert follower.is_alive(), "its writer has it open and has not appended yet"
        tape.append(_number(7))
        tape.close()
        follower.join(20)
        assert (follower.got, follower.raised) == ([7], None)
    with et.open(path, "w"):
        pass
    with et.open(path) as reader:
        assert list(reader.follow(until="closed")) == []


def test_stop_event_ends_a_wait(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    stop = threading.Event()
    with et.open(path, "a"), et.open(path) as reader:
        follower = Follower(reader, stop_event=stop)
        wait_until(lambda: len(follower.got) == 10)
        time.sleep(0.1)
        began = time.monotonic()
        stop.set()
        follower.join(20)
        assert follower.ended - began < 1  # 50 ms, on a machine that has the time


def test_ctrl_c_ends_a_wait(core, tmp_path):
    code = """
import os, signal, sys, threading, time, evtape
path = sys.argv[1]
with evtape.open(path, "w") as tape, evtape.open(path) as reader:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    try:
        for event in reader.follow():
            pass
    except KeyboardInterrupt:
        assert 0.1 < time.monotonic() - began < 5
    else:
        raise SystemExit("not interrupted")
"""
    run_python(core, code, tmp_path / "t.tape")


def test_a_stream_that_was_cut_and_regrown_is_not_followed_on(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as reader:
        follower = Follower(reader)
        wait_until(lambda: len(follower.got) == 10)
        with open(path, "r+b") as file:  # as a recovery after damage
            file.truncate(24 + 5 * 24)
            file.write(struct.pack("<qq", 24 + 5 * 24, 5))
        with et.open(path, "a") as tape:
            for i in range(20):
                tape.append(_number(100 + i))
        follower.join(20)
        assert isinstance(follower.raised, et.RewoundError | et.TruncatedError)
        assert follower.got[:10] == list(range(10))
        assert len(follower.got) == 10


@pytest.mark.parametrize("kept", [4, 7, 10])
@pytest.mark.parametrize("regrown", [2, 3000])
def test_a_stream_that_is_cut_in_the_middle_of_a_walk(et, tmp_path, kept, regrown):
    """A slow consumer has taken 10 events, and more were read ahead, when the stream is cut and regrows."""
    path = tmp_path / "t.tape"
    _stream(et, path, 4000)
    with et.open(path) as reader, et.open(path) as other:
        events = reader.follow(timeout=0.5)
        # The pure core reads chunks ahead. What it has read was published.
        taken = 10 if et.backend == "native" else 1300
        kept += taken - 10
        assert _numbers(next(events) for _ in range(taken)) == list(range(taken))
        os.truncate(path, other[kept].offset)
        et.recover(path)
        with et.open(path, "a") as tape:
            tape.append_many([_number(100_000 + i) for i in range(regrown)], range(NS, NS + regrown))
            got = []
            with contextlib.suppress(et.RewoundError, et.TruncatedError):
                got.extend(_numbers(events))
                assert kept == taken  # nothing was cut that was delivered
            before = list(range(taken, 4000))[: len(got)]
            new = list(range(100_000, 100_000 + regrown))[: len(got)]
            assert got in ([], before, new)
            assert kept == taken or got in ([], before)


@pytest.mark.parametrize("inside", range(1, 16))
@pytest.mark.parametrize("last", [True, False])
def test_a_cut_within_an_entry_header_delivers_no_empty_event(et, tmp_path, inside, last):
    """What was cut reads as zeros up to the end of the page, and a timestamp before zeros as an empty event."""
    path = tmp_path / "t.tape"
    taken = 10 if et.backend == "native" else 1300  # the pure core reads chunks ahead
    _stream(et, path, taken + 1 if last else 4000)
    with et.open(path) as reader:
        cut = reader[taken].offset
        events = reader.follow(timeout=0.5)
        assert _numbers(next(events) for _ in range(taken)) == list(range(taken))
        os.truncate(path, cut + inside)
        if et.backend == "native":
            with pytest.raises(et.TruncatedError):
                next(events)
        else:
            with contextlib.suppress(et.TruncatedError):
                assert _numbers([next(events)]) == [taken]


@pytest.mark.parametrize("size", [0, 1])
def test_empty_events_are_delivered_wherever_they_end(et, tmp_path, size):
    """Across ends of pages and at the end of the stream."""
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        tape.append(bytes(size))  # shifts the ends of the others
        tape.append_many([b""] * 1000)
        got = list(reader.follow(timeout=0))
        assert [len(event.data) for event in got] == [size] + [0] * 1000


def test_a_commit_of_events_that_were_cut_is_refused(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path, 10)
    with et.open(path) as reader, reader.cursor("c") as cursor:
        with et.open(path, "a") as tape:
            tape.append_many([_number(i) for i in range(10, 20)])
        events = cursor.follow(timeout=1)
        assert _numbers(next(events) for _ in range(15)) == list(range(15))
        with et.open(path) as other:
            end = other[12].offset
        os.truncate(path, end)
        et.recover(path)
        with et.open(path, "a") as tape:
            tape.append_many([_number(i) for i in range(100, 120)])
        with pytest.raises(et.RewoundError):
            cursor.commit()
        assert cursor.committed == 0


def test_a_replaced_stream_is_told(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with et.open(path) as reader:
        follower = Follower(reader)
        wait_until(lambda: len(follower.got) == 10)
        with et.open(path, "w") as tape:
            tape.append(b"new")
            follower.join(20)
        assert isinstance(follower.raised, et.ReplacedError)
        assert "all 10 events of the old one were delivered" in str(follower.raised)


def test_a_damaged_event_is_an_error(et, tmp_path):
    path = tmp_path / "t.tape"
    _stream(et, path)
    with open(path, "r+b") as file:
        file.seek(24 + 4 * 24 + 16)
        file.write(b"\xff")
    with et.open(path) as reader:
        got = []
        with pytest.raises(et.CorruptError) as caught:
            got.extend(reader.follow(timeout=0))
        assert caught.value.ordinal == 4


def test_a_page_that_is_deleted_or_garbage_costs_time_alone(et, tmp_path):
    path = tmp_path / "t.tape"
    page = tmp_path / "t.tape.live"
    with et.open(path, "w") as tape, et.open(path) as reader:
        follower = Follower(reader, until=300)
        tape.append(_number(0))
        if page.exists():
            page.write_bytes(b"\xff" * 4096)
        for i in range(1, 100):
            tape.append(_number(i))
        if page.exists():
            os.truncate(page, 0)
        for i in range(100, 200):
            tape.append(_number(i))
        page.unlink(missing_ok=True)
        for i in range(200, 300):
            tape.append(_number(i))
        follower.join(20)
        assert follower.got == list(range(300))
    assert not page.exists()


def test_many_followers_come_and_go(et, tmp_path):
    path = tmp_path / "t.tape"
    with et.open(path, "w") as tape, et.open(path) as reader:
        for i in range(100):
            followers = [Follower(reader, start=i, until=i + 1) for _ in range(5)]
            tape.append(_number(i))
            for follower in followers:
                follower.join(20)
                assert follower.got == [i]
        assert len(os.listdir("/proc/self/fd")) < 100


# ----------------------------------------------------------------------------------------------- async


def test_afollow(et, tmp_path):
    path = tmp_path / "t.tape"

    async def main():
        with et.open(path, "w") as tape, et.open(path) as reader:
            got = []

            async def consume():
                got.extend([int.from_bytes(event.data, "little") async for event in reader.afollow(until=200)])

            task = asyncio.create_task(consume())
            for i in range(200):
                tape.append(_number(i))
                if i % 20 == 0:
                    await asyncio.sleep(0.005)
            await asyncio.wait_for(task, 20)
            assert got == list(range(200))
            parts = [part async for part in reader.afollow(batch=True, timeout=0)]
            assert sum(map(len, parts)) == 200

    asyncio.run(main())


def test_cancelling_afollow(et, tmp_path):
    async def main():
        with et.open(tmp_path / "t.tape", "w") as tape:

            async def consume():
                async for _ in tape.afollow():
                    pass

            task = asyncio.create_task(consume())
            await asyncio.sleep(0.1)
            began = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - began < 1

    before = threading.active_count()
    asyncio.run(main())
    wait_until(lambda: threading.active_count() <= before)


def test_afollow_across_writers(et, tmp_path):
    """A writer closes and another one opens the stream: the page by which a follower is woken is another file then."""
    path = tmp_path / "t.tape"
    et.open(path, "w").close()

    async def main():
        with et.open(path) as reader:
            events = reader.afollow()
            for number in range(6):
                with et.open(path, "a") as tape:
                    waiting = asyncio.ensure_future(anext(events))
                    await asyncio.sleep(0.25 if number % 2 else 0)  # more than the time between two looks at the page
                    tape.append(_number(number))
                    assert (await asyncio.wait_for(waiting, 5)).bytes == _number(number)
            await events.aclose()

    asyncio.run(main())


def test_afollow_ends_with_its_time_and_its_event(et, tmp_path):
    async def main(tape):
        began = time.monotonic()
        assert [event async for event in tape.afollow(timeout=0.2)] == []
        assert 0.2 <= time.monotonic() - began < 0.4
        stop = threading.Event()
        asyncio.get_running_loop().call_later(0.2, stop.set)
        began = time.monotonic()
        assert [event async for event in tape.afollow(stop_event=stop)] == []
        assert time.monotonic() - began < 0.45

    with et.open(tmp_path / "t.tape", "w") as tape:
        asyncio.run(main(tape))


def _native_threads():
    """The names of the threads of this process, as the system has them."""
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read().strip())
    return names


def test_afollow_leaves_nothing_behind(et, tmp_path):
    async def once(tape):
        async def consume():
            async for _ in tape.afollow():
                pass

        tasks = [asyncio.create_task(consume()) for _ in range(5)]
        await asyncio.sleep(0.15)
        tape.append(b"x")
        await asyncio.sleep(0.02)
        if sys.platform == "linux" and et.backend == "native":
            assert "evtape-bell" in _native_threads()
        began = time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert time.monotonic() - began < 0.05

    with et.open(tmp_path / "t.tape", "w") as tape:
        asyncio.run(once(tape))
        before = open_descriptors() if sys.platform == "linux" else 0
        for _ in range(3):
            asyncio.run(once(tape))
        if sys.platform == "linux":
            assert len(os.listdir("/proc/self/fd")) == before
            wait_until(lambda: "evtape-bell" not in _native_threads())


def test_a_loop_that_ends_before_its_follower(et, tmp_path):
    with et.open(tmp_path / "t.tape", "w") as tape:
        tape.append(b"one")
        loop = asyncio.new_event_loop()
        events = tape.afollow()
        assert loop.run_until_complete(anext(events)).bytes == b"one"
        waiting = loop.create_task(anext(events))
        loop.run_until_complete(asyncio.sleep(0.15))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(waiting)
        loop.close()
        del events, waiting
        gc.collect()
        tape.append(b"two")
        assert asyncio.run(_first(tape.afollow("end", timeout=0))) is None
        assert asyncio.run(_first(tape.afollow(1))).bytes == b"two"


async def _first(events):
    return await anext(events, None)


def test_a_stopped_writer_holds_nobody_up(core, et, tmp_path):
    """SIGSTOP of a writer between any two appends: a follower has what was published, and waits."""
    path = tmp_path / "t.tape"
    code = """
import sys, evtape
with evtape.open(sys.argv[1], "a") as tape:
    for i in range(1 << 40):
        tape.append(i.to_bytes(8, "little"))
"""
    et.open(path, "w").close()
    with et.open(path) as reader:
        follower = Follower(reader)
        writer = start_python(core, code, path)
        try:
            for _ in range(5):
                wait_until(lambda: len(follower.got) > 100)
                os.kill(writer.pid, signal.SIGSTOP)
                wait_until(lambda: len(follower.got) == len(reader))
                os.kill(writer.pid, signal.SIGCONT)
        finally:
            writer.kill()
            writer.communicate()
        wait_until(lambda: len(follower.got) == len(reader))
        assert follower.got == list(range(len(reader)))
