"""A state machine drives both cores through the same operations and compares files, answers and exceptions.

What the stream should contain is known from a list, so each core is compared with the truth, not only with the other.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers import NS, pairs, prefix, published

KINDS = [
    bytes,
    bytearray,
    memoryview,
    lambda data: np.frombuffer(data, np.uint8),
    lambda data: memoryview(bytearray(data)),
]
stamps = st.integers(NS - 5, NS + 5) | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2)
payloads = st.binary(max_size=40) | st.builds(
    lambda data, n: data * n, st.binary(min_size=1, max_size=3), st.integers(1, 30_000)
)
bad_payloads = st.sampled_from(["text", None, 7, memoryview(b"abcd")[::2]])
bad_stamps = st.sampled_from([2**63, "now", 1.5, np.datetime64("NaT", "s"), None])
bounds = st.none() | st.integers(-20, 20)


class Cores(RuleBasedStateMachine):
    """Every operation is done on each core, in a directory of its own, and must have the same outcome."""

    packages: dict[str, ModuleType] = {}  # noqa: RUF012 - given to a subclass by the test

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.paths = {core: self.root / core / "t.tape" for core in self.packages}
        for path in self.paths.values():
            path.parent.mkdir()
        self.tapes: dict[str, object] = {}
        self.model: list[tuple[int, bytes]] = []

    def teardown(self) -> None:
        for tape in self.tapes.values():
            tape.close()
        shutil.rmtree(self.root)

    def each(self, call):
        """Do `call(package, tape, path)` on each core and return the one outcome that they have."""
        outcomes = []
        for core, package in self.packages.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    outcome = ("returned", call(package, self.tapes.get(core), self.paths[core]))
                except Exception as error:  # noqa: BLE001 - the error is the outcome
                    outcome = ("raised", type(error).__name__, str(error), getattr(error, "index", None))
            told = [(warning.category.__name__, str(warning.message)) for warning in caught]
            outcomes.append(repr((outcome, told)).replace(str(self.root / core), "DIRECTORY"))
            self.last = outcome
        assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
        return self.last

    def returned(self, call):
        outcome = self.each(call)
        assert outcome[0] == "returned", outcome
        return outcome[1]

    def _open(self, mode, **options):
        for core, package in self.packages.items():
            self.tapes[core] = package.open(self.paths[core], mode, **options)

    def _close(self):
        for tape in self.tapes.values():
            tape.close()
        self.tapes.clear()

    # ------------------------------------------------------------ write

    @initialize(durability=st.sampled_from(["none", "close", "full"]))
    def make(self, durability):
        self._open("x", durability=durability)

    @rule(data=payloads, stamp=stamps, kind=st.sampled_from(KINDS))
    def append(self, data, stamp, kind):
        outcome = self.each(lambda package, tape, path: tape.append(kind(data), timestamp=stamp))
        if data == b"" and stamp == 0:
            assert outcome[:2] == ("raised", "ValueError")
        else:
            assert outcome == ("returned", len(self.model))
            self.model.append((stamp, data))

    @rule(
        items=st.lists(st.tuples(stamps, payloads, st.sampled_from(KINDS)), max_size=8),
        holder=st.sampled_from([list, tuple, iter]),
    )
    def append_many(self, items, holder):
        batch = [(stamp, data) for stamp, data, _ in items]
        outcome = self.each(
            lambda package, tape, path: tape.append_many(
                holder([kind(data) for _, data, kind in items]), [stamp for stamp, _, _ in items]
            )
        )
        if (0, b"") in batch:
            assert outcome[:2] == ("raised", "ValueError")
        else:
            assert outcome == ("returned", range(len(self.model), len(self.model) + len(batch)))
            self.model += batch

    @rule(good=st.lists(payloads, max_size=4), bad=bad_payloads, at=st.integers(0, 4), stamp=st.none() | stamps)
    def append_many_bad(self, good, bad, at, stamp):
        batch = [*good[:at], bad, *good[at:]]
        times = None if stamp is None else [stamp] * len(batch)
        outcome = self.each(lambda package, tape, path: tape.append_many(batch, times))
        assert outcome[0] == "raised"

    @rule(data=payloads, bad=bad_payloads, stamp=bad_stamps)
    def append_bad(self, data, bad, stamp):
        assert self.each(lambda package, tape, path: tape.append(bad))[0] == "raised"
        if stamp is not None:
            assert self.each(lambda package, tape, path: tape.append(data, timestamp=stamp))[0] == "raised"
        assert self.each(lambda package, tape, path: tape.append_many([data] * 2, [NS, stamp]))[0] == "raised"
        assert self.each(lambda package, tape, path: tape.append_many([data], [NS, NS]))[0] == "raised"

    @rule(
        rows=st.integers(0, 5),
        width=st.integers(1, 50),
        seed=st.integers(0, 2**32),
        fortran=st.booleans(),
        stamp=stamps,
    )
    def append_array(self, rows, width, seed, fortran, stamp):
        array = np.random.default_rng(seed).integers(0, 2**16, (rows, width), np.uint16)
        array = np.asfortranarray(array) if fortran else array
        new = self.returned(lambda package, tape, path: tape.append_array(array, [stamp] * rows))
        assert new == range(len(self.model), len(self.model) + rows)
        self.model += [(stamp, row.tobytes()) for row in array]

    @rule()
    def sync(self):
        self.returned(lambda package, tape, path: tape.sync())
        assert len({tape.durable for tape in self.tapes.values()}) == 1

    @rule(
        mode=st.sampled_from(["a", "a", "a", "w"]),
        durability=st.sampled_from(["none", "close"]),
        capacity=st.sampled_from([0, 100_000]),
    )
    def reopen(self, mode, durability, capacity):
        self._close()
        for path in self.paths.values():
            raw = path.read_bytes()
            assert prefix(raw, len(raw)) == self.model  # cut to its events
        self._open(mode, durability=durability, capacity=capacity)
        if mode == "w":
            self.model = []

    # ------------------------------------------------------------ read

    @rule(start=bounds, stop=bounds, step=st.none() | st.integers(-5, 5).filter(bool), live=st.booleans())
    def query_slice(self, start, stop, step, live):
        def ask(package, tape, path):
            with contextless(package, tape, path, live) as source:
                part = source[start:stop:step]
                columns = [column.tolist() for column in (part.timestamps, part.sizes, part.offsets)]
                return len(part), pairs(part), columns, list(part.ordinals)

        length, events, columns, ordinals = self.returned(ask)
        expected = self.model[start:stop:step]
        assert (length, events) == (len(expected), expected)
        assert columns[:2] == [[stamp for stamp, _ in expected], [len(data) for _, data in expected]]
        assert ordinals == list(range(len(self.model)))[start:stop:step]

    @rule(index=st.integers(-30, 30))
    def query_index(self, index):
        def ask(package, tape, path):
            event = tape[index]
            return event.timestamp, bytes(event.data), event.ordinal, event.checksum, repr(event)

        outcome = self.each(ask)
        if -len(self.model) <= index < len(self.model):
            assert outcome[1][:2] == self.model[index]
        else:
            assert outcome[:2] == ("raised", "IndexError")

    @rule(low=stamps, high=stamps)
    def query_time(self, low, high):
        found = self.returned(
            lambda package, tape, path: list(tape.between(starting_at=low, ending_before=high).ordinals)
        )
        assert found == [i for i, (stamp, _) in enumerate(self.model) if low <= stamp < high]
        times = [stamp for stamp, _ in self.model]
        outcome = self.each(lambda package, tape, path: (tape.searchsorted(low), tape.searchsorted(low, "right")))
        if times == sorted(times):
            column = np.array(times, np.int64)
            assert outcome[1] == tuple(int(np.searchsorted(column, np.int64(low), side)) for side in ("left", "right"))
        else:
            assert outcome[:2] == ("raised", "ValueError")

    @rule(size=st.integers(0, 5))
    def query_rows(self, size):
        outcome = self.each(lambda package, tape, path: tape.rows(f"V{size}").tobytes())
        fits = all(len(data) == size for _, data in self.model)
        assert outcome[0] == ("returned" if fits else "raised")

    # ------------------------------------------------------------ damage

    def _examine(self, name):
        """What a copy of the live file is good for: verified, read, opened for append, recovered."""
        self.each(lambda package, tape, path: dataclasses.asdict(package.verify(path.parent / name)))
        self.each(lambda package, tape, path: pairs(package.open(path.parent / name)))
        self.each(lambda package, tape, path: len(package.open(path.parent / name)))
        for core in self.packages:
            shutil.copy(self.paths[core].parent / name, self.paths[core].parent / f"{name}.a")
        self.each(lambda package, tape, path: package.open(path.parent / f"{name}.a", "a").close())
        outcome = self.each(lambda package, tape, path: dataclasses.asdict(package.recover(path.parent / name)))
        files = [{file.name: file.read_bytes() for file in path.parent.glob("c*")} for path in self.paths.values()]
        assert {*files[0]} == {*files[-1]}
        for file in files[0]:
            assert all(same_but_start(each[file], files[0][file]) for each in files), file
        report = outcome[1] if outcome[0] == "returned" else None
        if report is not None:
            raw = (next(iter(self.paths.values())).parent / name).read_bytes()
            assert len(prefix(raw, len(raw))) == report["events"]
        for path in self.paths.values():
            for file in path.parent.glob("c*"):
                file.unlink()
        return report

    def _copy(self, change):
        for path in self.paths.values():
            raw = bytearray(published(path))
            raw[16:24] = NS.to_bytes(8, "little")
            change(raw)
            (path.parent / "c").write_bytes(raw)

    @rule()
    def crash(self):
        """The file as it is when its writer dies here."""
        for path in self.paths.values():
            shutil.copy(path, path.parent / "c")
            with open(path.parent / "c", "r+b") as file:
                file.truncate(len(published(path)) + 1000)
                file.seek(16)
                file.write(NS.to_bytes(8, "little"))
        report = self._examine("c")
        assert (report["state"], report["events"], report["cut"]) == ("open", len(self.model), 0)

    @precondition(lambda self: self.model)
    @rule(at=st.integers(0, 2**40), bit=st.integers(0, 7))
    def flip(self, at, bit):
        def change(raw):
            raw[at % len(raw)] ^= 1 << bit

        self._copy(change)
        self._examine("c")

    @precondition(lambda self: self.model)
    @rule(at=st.integers(0, 2**40), zeros=st.booleans())
    def lose_the_end(self, at, zeros):
        def change(raw):
            where = at % len(raw)
            raw[where:] = bytes(len(raw) - where) if zeros else b""

        self._copy(change)
        self._examine("c")

    @invariant()
    def files_are_what_the_format_says(self):
        for path in self.paths.values():
            if path.exists():
                raw = published(path)
                assert int.from_bytes(raw[8:16], "little") == len(self.model)
                assert prefix(raw, len(raw)) == self.model


def same_but_start(one, other):
    return one[:16] + one[24:] == other[:16] + other[24:]


class contextless:  # noqa: N801
    """The live writer itself, or a reader opened for one question."""

    def __init__(self, package, tape, path, live):
        self.source = tape if live else package.open(path)
        self.close = not live

    def __enter__(self):
        return self.source

    def __exit__(self, *exc_info):
        if self.close:
            self.source.close()


def test_both_cores_do_the_same(packages, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # nothing here loses power, and flushing is most of the time
    machine = type("CoresUnderTest", (Cores,), {"packages": packages})
    run_state_machine_as_test(machine, settings=settings(max_examples=4 * settings().max_examples))
