"""Names: every order of three things that can happen to the names of a stream, between two boots.

A stream is made and closed. Then writers, links, renames, removals, replacements, recoveries, changes of the working
directory and boots follow in every order of three. No power is lost, so whatever was appended has to be there in the
end, under each name that leads to it: `verify` says so, and so does opening for append at yet another boot. The
sidecar is kept at each close, and many entries look as if a power loss had torn them, so a sidecar that is trusted
although it is stale has good events cut. Each writer makes an index; one that is believed although it is stale leads to
other events.
"""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness

if TYPE_CHECKING:
    from collections.abc import Callable

    from .harness import Context

FIRST, SECOND = "x.tape", "y.tape"
TORN = 1 << 48  # a timestamp whose lower six bytes are zeros, as in a sector that was lost
PLAIN = 0x0123456789ABCDEF  # a timestamp without a zero byte
BATCH = [bytes([65 + i % 26]) * (i % 17) for i in range(300)]

Events = list[tuple[int, bytes]]


class World:
    """A directory with up to two names, the streams behind them, and what each has to hold."""

    def __init__(self, evtape: Any, directory: Path) -> None:
        self.evtape = evtape
        self.sidecar = evtape.modules["evtape.recovery.watermark"]
        self.directories = directory / "one", directory / "two"
        for place in self.directories:
            place.mkdir(parents=True)
        self.boots = 0
        self.held: Any = None
        self.held_inode = 0
        self.streams: dict[int, Events] = {}
        self.written = 0
        os.chdir(self.directories[0])

    # --------------------------------------------------------------------------------- what can happen

    def append_first(self) -> None:
        self._append(FIRST)

    def append_second(self) -> None:
        self._append(SECOND)

    def killed(self) -> None:
        """A writer that syncs, appends more and is killed."""
        path = self._path(FIRST)
        if not path.exists() or self._is_held(path):
            return
        inode, synced = path.stat().st_ino, self._batch()
        # What was not synced may be taken for torn at the next boot, so it must not look like that.
        unsynced = [(PLAIN, data) for _, data in self._batch()]
        child = os.fork()
        if child == 0:
            tape = self.evtape.open(FIRST, "a", index=True)
            tape.append_many([data for _, data in synced], [stamp for stamp, _ in synced])
            tape.sync()
            tape.append_many([data for _, data in unsynced], [stamp for stamp, _ in unsynced])
            os._exit(0)
        os.waitpid(child, 0)
        self.streams[inode] += synced + unsynced

    def hold(self) -> None:
        """A writer that stays open while other things happen."""
        if self.held is None and self._path(FIRST).exists():
            self.held_inode = self._path(FIRST).stat().st_ino
            self.held = self.evtape.open(FIRST, "a", index=True)

    def sync_held(self) -> None:
        if self.held is not None:
            batch = self._batch()
            self.held.append_many([data for _, data in batch], [stamp for stamp, _ in batch])
            self.held.sync()
            self.streams[self.held_inode] += batch

    def close_held(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            held.close()

    def hard_link(self) -> None:
        if self._path(FIRST).exists() and not os.path.lexists(SECOND):
            os.link(FIRST, SECOND)

    def symlink(self) -> None:
        if self._path(FIRST).exists() and not os.path.lexists(SECOND):
            os.symlink(FIRST, SECOND)

    def rename(self) -> None:
        if os.path.lexists(FIRST) and not os.path.lexists(SECOND):
            os.rename(FIRST, SECOND)

    def move_over(self) -> None:
        """The second name's file takes the first name."""
        if self._path(SECOND).exists() and not os.path.islink(SECOND):
            os.replace(SECOND, FIRST)

    def unlink(self) -> None:
        if os.path.lexists(FIRST):
            os.unlink(FIRST)

    def create(self) -> None:
        if not os.path.lexists(FIRST):
            self._make("x")

    def replace(self) -> None:
        if not (self._path(FIRST).exists() and self._is_held(self._path(FIRST))):
            self._make("w")

    def recover(self) -> None:
        if self._path(FIRST).exists() and not self._is_held(self._path(FIRST)):
            self.evtape.recover(FIRST)

    def change_directory(self) -> None:
        """To another directory with a stream of the same name."""
        now = Path.cwd()
        os.chdir(self.directories[1] if now == self.directories[0] else self.directories[0])
        if not os.path.lexists(FIRST):
            self._make("x")

    def boot(self) -> None:
        self.close_held()
        self.boots += 1
        number = self.boots
        self.sidecar.boot_id = lambda: b"boot number %04d" % number

    # ------------------------------------------------------------------------------------------- parts

    def _path(self, name: str) -> Path:
        return Path.cwd() / name

    def _is_held(self, path: Path) -> bool:
        return self.held is not None and path.stat().st_ino == self.held_inode

    def _batch(self) -> Events:
        self.written += 1
        return [(TORN, b"%d" % self.written + data) for data in BATCH]

    def _append(self, name: str) -> None:
        path = self._path(name)
        if path.exists() and not self._is_held(path):
            batch = self._batch()
            inode = path.stat().st_ino
            with self.evtape.open(name, "a", index=True) as tape:
                tape.append_many([data for _, data in batch], [stamp for stamp, _ in batch])
            self.streams[inode] += batch

    def _make(self, mode: str) -> None:
        batch = self._batch()
        with self.evtape.open(FIRST, mode, index=True) as tape:
            tape.append_many([data for _, data in batch], [stamp for stamp, _ in batch])
        self.streams[self._path(FIRST).stat().st_ino] = batch

    # ----------------------------------------------------------------------------------------- the end

    def judge(self) -> str:
        """What is missing or wrong under any name."""
        self.boot()
        for place in self.directories:
            for name in (FIRST, SECOND):
                path = place / name
                if path.exists() and (wrong := self._judge(path)):
                    return f"{place.name}/{name}: {wrong}"
            if left := [entry for entry in os.listdir(place) if entry.endswith(".tmp")]:
                return f"left behind: {left}"
        return ""

    def _judge(self, path: Path) -> str:
        wanted = self.streams[path.stat().st_ino]
        report = self.evtape.verify(path)
        with self.evtape.open(path) as tape:
            places = [*range(0, len(tape), 37), len(tape) - 1] if len(tape) else []
            found = [(tape[i].timestamp, bytes(tape[i].data)) for i in places]
            if len(tape) != len(wanted) or found != [wanted[i] for i in places]:
                return f"the index leads to other events: {len(tape)} of {len(wanted)} events"
        if not report.ok:
            return f"verify says {report.state} {report.reason}, {report.events} of {len(wanted)} events"
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                with self.evtape.open(path, "a") as tape:
                    kept = [(event.timestamp, bytes(event.data)) for event in tape]
            except self.evtape.Error as error:
                return f"{type(error).__name__}: {error}"
        if told:
            return f"{told[0].message}"
        return "" if kept == wanted else f"{len(kept)} of {len(wanted)} events"


STEPS: tuple[Callable[[World], None], ...] = (
    World.append_first,
    World.append_second,
    World.killed,
    World.hold,
    World.sync_held,
    World.close_held,
    World.hard_link,
    World.symlink,
    World.rename,
    World.move_over,
    World.unlink,
    World.create,
    World.replace,
    World.recover,
    World.change_directory,
    World.boot,
)
# After a name was added, a stale sidecar can only do harm at a later boot: each order is tried after these, too.
PREFIXES: tuple[tuple[Callable[[World], None], ...], ...] = (
    (),
    (World.boot, World.hard_link, World.append_second),
    (World.hold, World.sync_held),
)


def run(ctx: Context) -> None:
    """Every order of three steps on both cores; a short run takes a sample."""
    orders = [(*prefix, *steps) for prefix in PREFIXES for steps in itertools.product(STEPS, repeat=3)]
    here = Path.cwd()
    for core, evtape in harness.both().items():
        chosen = orders if ctx.full else ctx.random.sample(orders, 200)
        sidecar = evtape.modules["evtape.recovery.watermark"]
        before = sidecar.boot_id, sidecar.FROM_SIZE
        try:
            sidecar.FROM_SIZE = 0
            for number, steps in enumerate(ctx.progress(chosen, f"names, {core}")):
                if ctx.expired:
                    break
                one(ctx, evtape, core, steps, number)
        finally:
            sidecar.boot_id, sidecar.FROM_SIZE = before
            os.chdir(here)


def one(ctx: Context, evtape: Any, core: str, steps: tuple[Callable[[World], None], ...], number: int) -> None:
    """One order of steps."""
    directory = ctx.work / f"{core}-{number}"
    world = World(evtape, directory)
    world.boot()
    try:
        world._make("w")
        for step in steps:
            step(world)
        wrong = world.judge()
    except Exception as error:  # noqa: BLE001 - any exception of a step is a finding
        wrong = f"{type(error).__name__}: {error}"
    ctx.count(f"orders of names, {core}")
    if wrong:
        label = ", ".join(step.__name__ for step in steps)
        ctx.violation("events are missing under a name", f"{core}: {label}: {wrong}")
    os.chdir(ctx.work)
    world.close_held()
    for place in world.directories:
        for entry in place.iterdir():
            entry.unlink()
        place.rmdir()
    directory.rmdir()
