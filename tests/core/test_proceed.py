"""`Events.proceed`: a walk goes on after its end only if that is certain to be right."""

from __future__ import annotations

import itertools
import threading
import time


def test_a_walk_goes_on_from_the_event_that_it_left(et, core, tmp_path):
    with et.open(tmp_path / "s.tape", "w") as tape:
        region = tape._region
        tape.append(b"one", 1)
        walk = tape._source.all_events()
        assert (walk.after, walk.proceed(-1)) == ((-1, b""), False)
        assert [bytes(event.data) for event in walk] == [b"one"]
        assert walk.after == (24, bytes(region.view(24, 40)))
        assert not walk.proceed(-1)  # nothing is new
        tape.append_many([b"two", b"three"])
        native = core == "native"  # the pure core is never certain
        assert walk.proceed(2) == native
        assert [event.ordinal for event in walk] == [1] * native
        region.view(24, 25)[:] = region.view(walk.after[0], walk.after[0] + 1)[:] = b"\xff"  # as if written again
        assert not walk.proceed(-1)
        assert list(walk) == []


def _spinning(tape, spin_ns, stop=-1):
    """A walk of all events that looks for more."""
    core = type(tape._source.all_events())
    return core(
        tape._region, 24, 0, tape._region.load_header()[0], stop=stop, verify_checksums=True,
        report_problem=tape._source.report_problem, spin_ns=spin_ns,
    )  # fmt: skip


def test_a_walk_that_looks_for_more(et, core, tmp_path):
    with et.open(tmp_path / "s.tape", "w") as tape:
        tape.append(b"one", 1)
        walk = _spinning(tape, 2 * 10**9)
        assert bytes(next(walk).data) == b"one"
        late = threading.Timer(0.1, tape.append, (b"two", 2))
        late.start()
        began = time.monotonic()
        native = core == "native"  # a walk of the pure core ends
        assert [bytes(event.data) for event in itertools.islice(walk, 1)] == [b"two"] * native
        assert time.monotonic() - began < 1
        late.join()


def test_a_walk_looks_no_longer_than_it_may(et, tmp_path):
    with et.open(tmp_path / "s.tape", "w") as tape:
        tape.append(b"one", 1)
        began = time.monotonic()
        assert len(list(_spinning(tape, 10**7))) == 1
        assert time.monotonic() - began < 1
        tape.append(b"two", 2)
        began = time.monotonic()
        assert len(list(_spinning(tape, 10**10, stop=2))) == 2, "nothing is looked for after the last one"
        assert time.monotonic() - began < 1


def test_a_walk_that_looks_ends_where_the_stream_was_cut(et, tmp_path):
    """What it returned last is not there any more."""
    with et.open(tmp_path / "s.tape", "w") as tape:
        tape.append(b"one", 1)
        walk = _spinning(tape, 10**9)
        assert next(walk).ordinal == 0
        tape._region.view(24, 25)[:] = b"\xff"
        tape.append(b"two", 2)
        assert list(walk) == []
