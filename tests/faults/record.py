"""Records what a writer or a recovery stores and flushes, as the states a power loss could leave behind.

The core is reached through a shim that tells of every header store and every flush; `os.fsync`, `os.ftruncate` and
the calls that give a file its name are watched as well. At each of these moments the file is read, and for every
block the contents are kept that it has had since it was last flushed: the disk may hold any of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PAGE = 4096
GRAINS = (512, PAGE)
LIMIT = 256 * 1024  # bytes of a file that are looked at; streams here are shorter, and room behind them is zeros


@dataclass(frozen=True)
class Point:
    """A moment at which the power may go."""

    label: str
    image: bytes  #: the file as processes see it, without the room behind it
    sizes: tuple[int, ...]  #: lengths that the file may have afterwards
    blocks: dict[int, dict[int, tuple[bytes, ...]]]  #: per grain, block -> contents since the last flush, oldest first
    durable: int  #: events that were acknowledged durable
    sidecars: tuple[bytes | None, ...]  #: what the sidecar may hold; None: there is none


class Recorder:
    """The states of one file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.durable = 0
        self.points: list[Point] = []
        self.log: list[str] = []  #: what was done, in order, for checks of the order itself
        self._now, self._size = b"", 0
        self._sizes = [0]
        self._side: tuple[bytes | None, ...] = (None,)
        self._blocks: dict[int, dict[int, list[bytes]]] = {grain: {} for grain in GRAINS}
        with contextlib.suppress(FileNotFoundError):
            self._now, self._size = self._read()
            self._sizes = [self._size]
        self.keep_sidecar()

    def _read(self) -> tuple[bytes, int]:
        with open(self.path, "rb") as file:
            return file.read(LIMIT), os.fstat(file.fileno()).st_size

    def see(self, label: str) -> None:
        """Look at the file: a moment at which the power may go."""
        with contextlib.suppress(FileNotFoundError):
            self._take(*self._read())
            blocks = {grain: {i: tuple(v) for i, v in known.items()} for grain, known in self._blocks.items()}
            sidecars = self._sidecars()
            self.points.append(Point(label, self._now, tuple(self._sizes), blocks, self.durable, sidecars))

    def named(self, durable: bool) -> None:
        """Another file got this name. What was flushed under its old name is durable."""
        self._take(*self._read())
        if durable:
            self.flushed(0, 1 << 62)

    def _sidecars(self) -> tuple[bytes | None, ...]:
        """The contents of the sidecar since it was flushed last: the disk may hold any of them."""
        now = None
        with contextlib.suppress(FileNotFoundError), open(self.path + ".side", "rb") as file:
            now = file.read()
        if now != self._side[-1]:
            self._side = (*self._side, now)
        return self._side

    def keep_sidecar(self) -> None:
        """The sidecar was flushed: no older one can come back."""
        self._sidecars()
        self._side = self._side[-1:]

    def _take(self, now: bytes, size: int) -> None:
        self._size = size
        if size not in self._sizes:
            self._sizes.append(size)
        if now == self._now:
            return
        length = max(len(now), len(self._now))
        for grain, known in self._blocks.items():
            old, new = (
                self._now.ljust(-(-length // grain) * grain, b"\0"),
                now.ljust(-(-length // grain) * grain, b"\0"),
            )
            for start in range(0, length, grain):
                was, is_ = old[start : start + grain], new[start : start + grain]
                if was != is_:
                    known.setdefault(start // grain, [was]).append(is_)
        self._now = now

    def flushed(self, start: int, stop: int) -> None:
        """The pages of [start, stop) are durable, and the size of the file with them."""
        first, last = start // PAGE, -(-stop // PAGE)
        for grain, known in self._blocks.items():
            for block in [b for b in known if first * PAGE <= b * grain < last * PAGE]:
                del known[block]
        self._sizes = [self._size]


class Core:
    """Stands in for a core for the modules that use one, and tells the recorder."""

    def __init__(self, core: Any, recorder: Recorder) -> None:
        self._core, self._recorder = core, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def Region(self, fd: int, size: int, path: str, **more: Any) -> Any:
        """A region that tells, if it is one of the file that is watched and can be written."""
        region = self._core.Region(fd, size, path, **more)
        return Region(region, self._recorder) if more.get("writable") and path == self._recorder.path else region

    def Appender(self, region: Any, *more: Any) -> Any:
        """The core's own, on the core's own region."""
        return self._core.Appender(getattr(region, "_real", region), *more)

    def Scanner(self, region: Any, *more: Any) -> Any:
        """The core's own."""
        return self._core.Scanner(getattr(region, "_real", region), *more)

    def first_ambiguous(self, region: Any, *more: Any) -> Any:
        """The core's own."""
        return self._core.first_ambiguous(getattr(region, "_real", region), *more)

    def Events(self, region: Any, *more: Any, **named: Any) -> Any:
        """The core's own."""
        return self._core.Events(getattr(region, "_real", region), *more, **named)


class Region:
    """A region that tells of stores and flushes."""

    def __init__(self, region: Any, recorder: Recorder) -> None:
        self._real, self._recorder = region, recorder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def store_header(self, write_offset: int, event_count: int) -> None:
        """Look before and after."""
        self._recorder.see("before the header store")
        self._real.store_header(write_offset, event_count)
        self._recorder.log.append("store header")
        self._recorder.see("after the header store")

    def flush(self, start: int, stop: int) -> None:
        """Look before; afterwards the pages are durable."""
        self._recorder.see(f"before flush {start}-{stop}")
        self._real.flush(start, stop)
        self._recorder.log.append(f"flush {start}-{stop}")
        self._recorder.flushed(start, stop)
        self._recorder.see(f"after flush {start}-{stop}")


@contextlib.contextmanager
def recording(package: Any, recorder: Recorder) -> Iterator[Recorder]:
    """Everything the package does to the recorder's file inside the block is recorded."""
    modules = [m for n, m in package.modules.items() if n.startswith(WATCHED) and hasattr(m, "core")]
    real = modules[0].core
    shim = Core(real, recorder)
    before = {name: getattr(os, name) for name in CALLS}
    publish = getattr(real.Appender, "_publish", None) if real.NAME == "python" else None
    for module in modules:
        module.core = shim
    for name, call in before.items():
        setattr(os, name, _watched(name, call, recorder))
    if publish is not None:
        real.Appender._publish = _publishing(publish, recorder)
    try:
        yield recorder
    finally:
        for module in modules:
            module.core = real
        for name, call in before.items():
            setattr(os, name, call)
        if publish is not None:
            real.Appender._publish = publish


WATCHED = ("evtape.stream.", "evtape.recovery.")  # the modules that use a core
CALLS = ("fsync", "fdatasync", "ftruncate", "link", "replace", "rename")


def _publishing(publish: Any, recorder: Recorder) -> Any:
    def watched(self: Any, *arguments: Any) -> Any:
        recorder.see("before publish")
        return publish(self, *arguments)

    return watched


def _watched(name: str, call: Any, recorder: Recorder) -> Any:
    def watched(first: Any, *more: Any, **named: Any) -> Any:
        target = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
        mine = target == recorder.path
        side = recorder.path + ".side"
        if target in (side, os.path.dirname(side)) and name in ("fsync", "fdatasync"):
            recorder.keep_sidecar()
        if mine:
            recorder.see(f"before {name}")
        result = call(first, *more, **named)
        recorder.log.append(f"{name} {os.path.basename(target)}")
        if mine:
            if name in ("fsync", "fdatasync"):
                recorder.flushed(0, 1 << 62)
            recorder.see(f"after {name}")
        if name in ("link", "replace", "rename") and str(more[0]) == recorder.path:
            recorder.named(durable=f"fsync {os.path.basename(target)}" in recorder.log)
        return result

    return watched
