"""The processes of ``evtape demo``: one that records, which is killed once, and one that follows it.

``python -m evtape.cli._recording write PATH SKIP FILES EVENTS SECONDS WAIT`` opens the stream for append, prints how
many events it has, and traces the work on source after source, from number SKIP on. It prints a line after each source.
It ends when it has worked on so many sources, when the stream has so many events, or after so many seconds of tracing;
0 means no limit. With WAIT 1 it then waits until it is killed. ``... follow PATH`` prints how many events it has seen,
about every 50 ms.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

import click
import numpy as np

import evtape

from . import DAMAGED, GOOD, code_of, tell, told
from ._tracer import HEAD, RECORD, Tracer, library, work

_LARGEST = 48_000  # bytes of a source; larger ones would make the end hard to choose
_KILL_AT = 2 / 3  # of the recording
_FIRST = 2_000  # events after which the writer is killed when the number of sources is the limit
_EVERY = 0.05  # seconds between two counts
_IDLE = 0.5  # seconds without an event, after which the first writer has done its part
_LATE = 20.0  # seconds for the follower to see the last event


@dataclass(frozen=True)
class Recorded:
    """What became of a recording."""

    sources: int  #: that were worked on
    published: int  #: events when the first writer was killed
    kept: int  #: events that the second writer found
    seen: int  #: events that the follower saw


def record(
    path: str,
    files: int | None,
    events: int | None,
    seconds: float | None,
    advance: Callable[[int, int], None] | None,
) -> Recorded:
    """Record into the stream at ``path``, which is there and empty, by two writers of which the first is killed."""
    with contextlib.ExitStack() as stack:
        follower = stack.enter_context(_started("follow", path))
        writer = stack.enter_context(_started("write", path, 0, files or 0, 0, 0, 1))
        counts = _counts(follower)
        begin = idle_since = 0.0
        seen = 0
        for count in counts:
            now = time.monotonic()
            if count != seen:
                begin, idle_since, seen = begin or now, now, count
            if advance is not None and seen:
                advance(seen, events or seen)
            _require_good(writer, (None,))
            due = (
                seen >= (_KILL_AT * events if events else _FIRST)
                if seconds is None
                else seen > 0 and now - begin >= _KILL_AT * seconds
            )
            if due or (seen and now - idle_since > _IDLE):
                break
        took = time.monotonic() - begin
        writer.kill()
        _, *finished = _output(writer).read().splitlines()
        writer.wait()
        with evtape.open(path) as tape:
            published = len(tape)
        skip = len(finished) if files is None else min(len(finished), files - 1)
        left = 0 if seconds is None else max(seconds - took, 1e-6)
        second = stack.enter_context(_started("write", path, skip, files or 0, events or 0, left, 0))
        for count in counts:
            if advance is not None:
                advance(count, events or count)
            if second.poll() is not None:
                break
        _require_good(second, (GOOD,))
        kept, *finished = _output(second).read().splitlines()
        with evtape.open(path) as tape:
            total = len(tape)
        deadline = time.monotonic() + _LATE
        seen = next(count for count in counts if count >= total or time.monotonic() > deadline)
    return Recorded(skip + len(finished), published, int(kept), seen)


@contextlib.contextmanager
def _started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of this module. It does not outlive the block, and Ctrl-C does not reach it."""
    argv = [sys.executable, "-m", "evtape.cli._recording", *map(str, arguments)]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        _output(process).close()


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _counts(follower: subprocess.Popen[str]) -> Iterator[int]:
    for line in _output(follower):
        yield int(line)
    raise click.exceptions.Exit(follower.wait() or DAMAGED)


def _require_good(writer: subprocess.Popen[str], codes: tuple[int | None, ...]) -> None:
    """End like a writer that failed; it has said why."""
    code = writer.poll()
    if code not in codes:
        raise click.exceptions.Exit(code if code is not None and code > 0 else DAMAGED)


# ------------------------------------------------------------------------------------------------------- the processes


def write(path: str, skip: int, files: int, events: int, seconds: float, waits: bool) -> None:
    """Trace and append."""
    warnings.simplefilter("ignore", evtape.RecoveryWarning)  # the demo says what recovery has found
    with evtape.open(path, "a") as tape:
        print(len(tape), flush=True)
        tracer = Tracer(tape.append, names_of(tape))
        for number, (name, source) in enumerate(_sources()):
            if number < skip:
                continue
            with contextlib.suppress(SyntaxError):  # a source that is there to be wrong
                tracer.run(work, source, name)
            print(name.encode(), flush=True)
            if (
                (files and number + 1 >= files)
                or (events and len(tape) >= events)
                or (seconds and tracer.nanoseconds >= seconds * 1e9)
            ):
                break
        if waits:
            time.sleep(_LATE)


def names_of(tape: evtape.Reader | evtape.Writer) -> list[str]:
    """The functions that a trace has introduced, in their order."""
    return [str(tape[int(at)].data[HEAD.size :], "utf-8") for at in np.flatnonzero(tape.sizes != RECORD.size)]


def _sources() -> Iterator[tuple[str, bytes]]:
    for name in library():
        with open(name, "rb") as file:
            source = file.read()
        if len(source) <= _LARGEST:
            yield name, source


def follow(path: str) -> None:
    """Print how many events there are, until the process is killed."""
    count, due = 0, 0.0
    with evtape.open(path) as tape:
        while True:
            for part in tape.follow(count, timeout=_EVERY, batch=True):
                count += len(part)
                if time.monotonic() > due:
                    due = time.monotonic() + _EVERY
                    print(count, flush=True)
            print(count, flush=True)


def main(what: str, path: str, *limits: str) -> int:
    """Run one of them; returns its exit code."""
    try:
        if what == "write":
            skip, files, events, seconds, waits = limits
            write(path, int(skip), int(files), int(events), float(seconds), waits == "1")
        else:
            follow(path)
    except BrokenPipeError:
        return GOOD  # the demo has ended
    except (evtape.Error, OSError) as error:
        tell(told(error))
        return code_of(error)
    return GOOD


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
