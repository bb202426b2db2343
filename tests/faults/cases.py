"""What the harness has found, each as small as it can be made, so that it stays found."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness, streams
from .record import Recorder, recording

if TYPE_CHECKING:
    from .harness import Context

SECTOR = 512


def run(ctx: Context) -> None:
    """Each case on both cores."""
    warnings.simplefilter("ignore")
    for core, evtape in harness.both().items():
        for name, case in CASES.items():
            if ctx.only in name:
                directory = ctx.work / f"{name}-{core}".replace(" ", "-")
                directory.mkdir()
                wrong = case(evtape, directory)
                ctx.count("cases")
                if wrong:
                    ctx.violation(name, f"{core}: {wrong}")


def lost_sector(evtape: Any, directory: Path, payloads: list[bytes], sector: int, durable: int) -> str:
    """Append, sync after `durable` events, have one sector as it was then, recover on another boot."""
    path, after = directory / "live.tape", directory / "after.tape"
    synced = b""
    with evtape.open(path, "w") as tape:
        for i, data in enumerate(payloads):
            tape.append(data)
            if i + 1 == durable:
                tape.sync()
                synced = path.read_bytes()
        appended = [(event.timestamp, bytes(event.data)) for event in tape]
        shutil.copy(path, after)
        harness.place_sidecar(Path(f"{path}.side").read_bytes(), after)
    with open(after, "r+b") as file:
        file.seek(sector * SECTOR)
        file.write(synced[sector * SECTOR : (sector + 1) * SECTOR])
    with harness.another_boot(evtape):
        evtape.open(after, "a").close()
    with evtape.open(after) as tape:
        kept = [(event.timestamp, bytes(event.data)) for event in tape]
    if kept != appended[: len(kept)]:
        first = next(i for i, event in enumerate(kept) if event != appended[i])
        return f"event {first} is {kept[first]} and was {appended[first]}"
    return "" if len(kept) >= durable else f"{len(kept)} of {durable} durable events are left"


def zeros_add_up(evtape: Any, directory: Path) -> str:
    """As many zero entries fit into a lost sector as empty events were in it, so that EventCount agrees."""
    return lost_sector(evtape, directory, [b"x" * 448] + [b""] * 100, 2, 1)


def torn_timestamp(evtape: Any, directory: Path) -> str:
    """The first bytes of a timestamp are in a lost sector, the rest is not: nothing checks a timestamp."""
    return lost_sector(evtape, directory, [b"x" * 448, b"y" * 516, b"event", b"event"], 1, 2)


def torn_empty(evtape: Any, directory: Path) -> str:
    """The size and checksum of an event are in a lost sector: it reads as an empty event, whose checksum is zero."""
    return lost_sector(evtape, directory, [b"x" * 448, b"y" * 512, b"event" * 90], 2, 1)


def stale_sidecar(evtape: Any, directory: Path) -> str:
    """With an older sidecar, a durable event that looks torn would be cut: its sync flushes the sidecar as well."""
    path = directory / "live.tape"
    side = Path(f"{path}.side")
    flushed: list[bytes] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        real(fd)
        if os.path.samestat(os.fstat(fd), os.stat(side)):
            flushed.append(side.read_bytes())

    with evtape.open(path, "w") as tape:
        for data in (b"x" * 448, b"y" * 512, b""):
            tape.append(data)
            os.fdatasync = fdatasync
            try:
                tape.sync()
            finally:
                os.fdatasync = real
        if not flushed or flushed[-1] != side.read_bytes():
            return "the record of the sync after the event that looks torn was not flushed"
    return ""


def reopened(evtape: Any, directory: Path) -> str:
    """A sync covers what an earlier writer left unflushed (durability "none"), not only what was appended since."""
    path = directory / "s.tape"
    recorder = Recorder(str(path))
    with recording(evtape, recorder):
        with evtape.open(path, "w", durability="none") as tape:
            tape.append_many([b"z" * 1000] * 20)
        tape = evtape.open(path, "a", durability="none")
        tape.append(b"more")
        tape.sync()
        recorder.see("after sync")
        tape.close()
    dirty = next(point for point in recorder.points if point.label == "after sync").blocks[4096]
    return f"pages {sorted(dirty)} were never flushed" if dirty else ""


def short_header(evtape: Any, directory: Path) -> str:
    """A write of the header that is cut short may not replace a good stream."""
    path = directory / "s.tape"
    good = streams.stream([b"good"])
    path.write_bytes(good)

    def limited() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, resource.RLIM_INFINITY))
        try:
            evtape.open(path, "w")
        except OSError as error:
            return str(error)
        return "no exception"

    told = harness.in_child(limited)[1]
    data = path.read_bytes()
    return "" if data == good else f"{told}; {len(data)} bytes stand in the place of the old stream"


def opened_while_it_grows(evtape: Any, directory: Path) -> str:
    """A reader looks at the size, then the writer makes room and appends, then the reader looks at the header."""
    path = directory / "s.tape"
    evtape.open(path, "w").close()
    real, writers = os.fstat, []

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        if not writers:
            writers.append(None)
            writers[0] = evtape.open(path, "a")
            writers[0].append(b"x" * 1000)
        return status

    os.fstat = fstat
    try:
        evtape.open(path).close()
    except evtape.Error as error:
        return f"{type(error).__name__}: {error}"
    finally:
        os.fstat = real
        if writers:
            writers[0].close()
    return ""


def lowered_write_offset(evtape: Any, directory: Path) -> str:
    """WriteOffset went down to where an earlier event ends: what lies above is not published, but was appended."""
    path = directory / "s.tape"
    payloads = [b"payload %d" % i for i in range(9)]
    whole, ends = streams.stream(payloads), streams.ends(payloads)
    for way in (evtape.recover, lambda path: evtape.open(path, "a").close()):
        path.write_bytes(ends[5].to_bytes(8, "little") + whole[8:])
        way(path)
    saved = [file.read_bytes() for file in directory.glob("*.quarantine-*")]
    return "" if saved == [whole[ends[5] :]] * 2 else f"{len(saved)} of 2 are saved"


def zeros_before_the_tear(evtape: Any, directory: Path) -> str:
    """Sectors that were durable read as zeros, and so does a part of what was not: the walk that ends there counts."""
    path, after = directory / "live.tape", directory / "after.tape"
    with evtape.open(path, "w") as tape:
        tape.append_many([b"x" * 472, *[b"y" * 48] * 200])
        tape.sync()
        tape.append_many([b""] * 200)
        image = bytearray(path.read_bytes())[: len(streams.stream([bytes(472), *[bytes(48)] * 200, *[b""] * 200]))]
        after.touch()
        harness.place_sidecar(Path(f"{path}.side").read_bytes(), after)
    image[SECTOR : 8 * SECTOR] = bytes(7 * SECTOR)
    image[-2 * SECTOR :] = bytes(2 * SECTOR)
    after.write_bytes(image)
    with harness.another_boot(evtape):
        events = evtape.recover(after).events
    return "" if events == 1 else f"{events} events are kept, of which all but the first are zeros"


def lost_new_header(evtape: Any, directory: Path) -> str:
    """The first sector of a stream of which nothing was durable reads as zeros."""
    path, after = directory / "live.tape", directory / "after.tape"
    with evtape.open(path, "w") as tape:
        tape.append_many([b"event"] * 100)
        image = path.read_bytes()
        after.touch()
        harness.place_sidecar(Path(f"{path}.side").read_bytes(), after)
    after.write_bytes(bytes(SECTOR) + image[SECTOR:])
    with harness.another_boot(evtape):
        try:
            evtape.open(after, "a").close()
        except evtape.Error as error:
            return f"{type(error).__name__}: {error}"
    return "" if after.read_bytes() == (24).to_bytes(8, "little") + bytes(8) + image[16:24] else "it is not empty"


def page_gone(evtape: Any, directory: Path) -> str:
    """The file is cut under a writer: the append that stores into the missing page is not published."""
    if evtape.backend == "python":
        return ""  # has no guard: a writer whose file is cut is not protected there, as docs/guarantees.md says
    path = directory / "s.tape"

    def cut() -> str:
        tape = evtape.open(path, "w", capacity=1 << 20, durability="none")
        tape.append_many([b"x" * 1000] * 3)
        before = tape._source.region.load_header()
        os.truncate(path, 4096)
        told = []
        for write in (lambda: tape.append(b"y" * 5000), lambda: tape.append_many([b"y" * 5000])):
            try:
                write()
                told.append("no exception")
            except evtape.Error:
                pass
        if tape._source.region.load_header() != before:
            told.append(f"the header was {before} and is {tape._source.region.load_header()}")
        return ", ".join(told)

    status, told = harness.in_child(cut)
    return harness.tell(status) if told is None else str(told)


def zeros_in_a_view(evtape: Any, directory: Path) -> str:
    """A page of a view is cut off and becomes zeros; the file then has its size again, so that only the guard knows."""
    path = directory / "s.tape"
    data = bytes(range(1, 255)) * 100
    path.write_bytes(streams.stream([data]))
    size = path.stat().st_size
    with evtape.open(path, verify_checksums=False) as tape:
        view = tape[0].data
        os.truncate(path, 8192)
        middle = slice(9000, 9100)  # of a page that the guard replaces, and not the one that a reader remembers
        changed = bytes(view[middle]) != data[middle]
        os.truncate(path, size)
        with open(path, "r+b") as file:  # the bytes that a reader remembers are as they were
            file.seek(size - 4096)
            file.write(data[-4096:])
        try:
            len(tape)
        except evtape.TruncatedError:
            return ""
    return "the view became zeros" if changed else ""


def shorter_by_less_than_a_page(evtape: Any, directory: Path) -> str:
    """No page is gone when a file is cut within its last page: the bytes read as zeros and nothing else would tell."""
    path = directory / "s.tape"
    path.write_bytes(streams.stream([b"x" * 800 + bytes(200)] * 6))  # what a reader remembers of the end is zeros
    with evtape.open(path, verify_checksums=False) as tape:
        len(tape)
        os.truncate(path, path.stat().st_size - 500)
        for ask in (lambda: len(tape), lambda: tape[0], lambda: tape.sizes):
            try:
                return f"no exception, but {ask()}"
            except evtape.TruncatedError:
                pass
    return ""


def cut_in_a_header(evtape: Any, directory: Path) -> str:
    """With zeros after it, a cut header is that of an empty event: of any if it is cut within the timestamp."""
    for inside in range(16):
        path = directory / f"{inside}.tape"
        with evtape.open(path, "w") as tape:
            tape.append_many([b"%6d" % i for i in range(4000)])
        with evtape.open(path) as reader, evtape.open(path) as other:
            events = reader.follow(timeout=0)
            next(events)
            os.truncate(path, other[2000].offset + inside)
            try:
                for event in events:
                    if not event.data:
                        return f"cut {inside} bytes into its header, event {event.ordinal} is empty"
            except (evtape.TruncatedError, evtape.RewoundError):
                pass
            else:
                return f"cut {inside} bytes into a header, the stream just ends"
    return ""


def cut_in_a_walk(evtape: Any, directory: Path) -> str:
    """A slow consumer has taken a part of what was read ahead, when the stream is cut before its place and regrows."""
    path = directory / "f.tape"
    with evtape.open(path, "w") as tape:
        tape.append_many([b"old %6d" % i for i in range(4000)])
    taken = 1500  # the pure core has read about 2360 by then
    with evtape.open(path) as reader, evtape.open(path) as other:
        events = reader.follow(timeout=1)
        for _ in range(taken):
            next(events)
        end = other[taken - 1].offset
        os.truncate(path, end)
        evtape.recover(path)
        with evtape.open(path, "a") as tape:
            tape.append_many([b"new %6d" % i for i in range(taken - 1, 4000)])
            try:
                for event in events:
                    if bytes(event.data).startswith(b"new"):
                        return f"event {event.ordinal} is {bytes(event.data)!r}, and event {taken - 1} was another one"
            except evtape.RewoundError:
                return ""
    return "no exception"


def cursor_before_the_event(evtape: Any, directory: Path) -> str:
    """A consumer dies with an event in its hands."""
    path = directory / "c.tape"
    path.write_bytes(streams.stream([b"one", b"two"]))
    with evtape.open(path) as tape:
        with tape.cursor("c") as cursor:
            next(cursor.follow())
        with tape.cursor("c") as cursor:
            return "" if cursor.ordinal == 0 else f"it goes on at event {cursor.ordinal}"


def cursor_of_another(evtape: Any, directory: Path) -> str:
    """The file of a cursor lies next to another stream, which has as many events of the same sizes."""
    for name, data in (("a", b"one"), ("b", b"two")):
        (directory / f"{name}.tape").write_bytes(streams.stream([data, data]))
    with evtape.open(directory / "a.tape") as tape, tape.cursor("c") as cursor:
        list(cursor)
        cursor.commit()
    shutil.copy(directory / "a.tape.cursor-c", directory / "b.tape.cursor-c")
    with evtape.open(directory / "b.tape") as tape:
        try:
            with tape.cursor("c") as cursor:
                return f"it goes on at event {cursor.ordinal}"
        except evtape.CursorError:
            return ""


def page_of_another(evtape: Any, directory: Path) -> str:
    """The page of another stream's writer has the name. To sleep on it is to sleep to the end."""
    with evtape.open(directory / "a.tape", "w"), evtape.open(directory / "b.tape", "w"):
        own, other = directory / "a.tape.live", directory / "b.tape.live"
        if not other.exists():
            return ""  # this core does not wake followers
        with evtape.open(directory / "a.tape") as reader:
            for page, wanted in ((own, True), (other, False)):
                if page is other:
                    own.unlink()
                    shutil.copy(other, own)
                live = reader._source.live()
                joined = live.join() is not None
                live.close()
                if joined != wanted:
                    return f"{page.name} is {'joined' if joined else 'refused'}"
    return ""


CASES: dict[str, Callable[[Any, Path], str]] = {
    "zeros that add up are events": zeros_add_up,
    "a torn timestamp is kept": torn_timestamp,
    "a torn entry is kept as an empty event": torn_empty,
    "an older sidecar has durable events cut": stale_sidecar,
    "a sync leaves out what an earlier writer appended": reopened,
    "a short header replaces a stream": short_header,
    "a reader is told of damage that was none": opened_while_it_grows,
    "events above a WriteOffset that went down are cut and not saved": lowered_write_offset,
    "zeros before a torn entry are events": zeros_before_the_tear,
    "a new stream without its header cannot be opened": lost_new_header,
    "an event in a page that is gone is published": page_gone,
    "a view became zeros and its stream does not say so": zeros_in_a_view,
    "a reader does not see that its file is shorter": shorter_by_less_than_a_page,
    "a slow follower goes on in a stream that was cut": cut_in_a_walk,
    "a cut within a header is an empty event": cut_in_a_header,
    "a cursor is committed before the event is handed out": cursor_before_the_event,
    "a cursor of another stream is accepted": cursor_of_another,
    "the page of another stream is joined": page_of_another,
}
