"""A user's file, for type checkers alone: each assert_type states what a user sees, each ignore what is refused."""

import datetime as dt
from collections.abc import Iterator
from typing import Any, Literal, assert_type

import numpy as np

import evtape


def read(path: str) -> None:
    with evtape.open(path) as tape:
        assert_type(tape, evtape.Reader)
        for timestamp, data in tape:
            assert_type(timestamp, int)
            assert_type(data, memoryview)
        event = tape[0]
        assert_type(event, evtape.Event)
        assert_type(event.ordinal, int)
        assert_type(event.bytes, bytes)
        assert_type(event.text, str)
        when, payload = event
        assert_type(when, int)
        assert_type(payload, memoryview)
        assert_type(tape[1:2], evtape.Slice)
        assert_type(tape[np.array([3, 1])], evtape.Slice)
        assert_type(tape[[3, 1]].gather()[0], np.ndarray[tuple[Any, ...], np.dtype[np.int64]])
        assert_type(tape.tail(3), evtape.Slice)
        assert_type(list(reversed(tape)), list[evtape.Event])
        assert_type(tape.timestamps, np.ndarray[tuple[Any, ...], np.dtype[np.int64]])
        assert_type(tape[::2].sizes, np.ndarray[tuple[Any, ...], np.dtype[np.int64]])
        assert_type(tape.between(starting_at=dt.datetime.now(dt.UTC)), evtape.Slice)
        assert_type(tape.searchsorted("2026-11-25T09:30Z", side="right"), int)
        assert_type(tape.replaced, bool)
        events: Iterator[evtape.Event] = iter(tape)
        print(next(events))
        tape.append(b"refused")  # type: ignore[attr-defined]
        tape.sync()  # type: ignore[attr-defined]
        tape.searchsorted(1, side="middle")  # type: ignore[arg-type]


def merge(path: str) -> None:
    with evtape.open(path) as tape, evtape.merge([path, tape]) as merged:
        assert_type(merged, evtape.Merged)
        for event in merged:
            assert_type(event, evtape.MergedEvent)
            assert_type(event.stream, str)
            assert_type(event.late, bool)
            assert_type(event.data, memoryview)
        assert_type(merged[0], evtape.MergedEvent)
        part = merged.between(starting_at=1)[1:]
        assert_type(part, evtape.MergedSlice)
        assert_type(part[0].ordinal, int)
        assert_type(merged.follow(lateness=1), Iterator[evtape.MergedEvent])
        assert_type(merged.follow(batch=True), Iterator[list[evtape.MergedEvent]])
        merged.follow(on_late="drop")  # type: ignore[call-overload]
        merged.append(b"refused")  # type: ignore[attr-defined]


def write(path: bytes, mode: str, either: Literal["a", "x"]) -> None:
    with evtape.open(path, "a", durability="interval", interval=0.1) as tape:
        assert_type(tape, evtape.Writer)
        assert_type(tape.append(b"payload"), int)
        assert_type(tape.append_many([b"a", bytearray(b"b")], timestamps=[1, 2]), range)
        assert_type(tape.append_array(np.zeros((2, 8), np.uint8)), range)
        assert_type(tape.recovered, evtape.Report | None)
    assert_type(evtape.open(path, either), evtape.Writer)
    assert_type(evtape.open(path, mode), evtape.Reader | evtape.Writer)
    evtape.open(path, "a", durability="sometimes")  # type: ignore[call-overload]


def repair(path: str) -> None:
    report = evtape.verify(path)
    assert_type(report.state, Literal["clean", "open", "damaged", "invalid"])
    assert_type(
        report.reason,
        Literal["header", "truncated", "size", "checksum", "zero", "count", "timestamp", "missing"] | None,
    )
    assert_type(report.last_timestamp, int | None)
    assert_type(report.problems, tuple[evtape.Problem, ...])
    try:
        evtape.recover(path, dry_run=True)
    except evtape.CorruptError as error:
        assert_type(error.ordinal, int)
        assert_type(error.reason, Literal["size", "checksum", "zero", "fault"] | None)


assert_type(evtape.backend, Literal["native", "python"])
