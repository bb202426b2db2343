"""What the parts share: the context they report to, both cores in one process, C helpers compiled on demand."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pickle
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
CORES = ("native", "python")
CORES_WANTED = "EVTAPE_FAULTS_CORES"  # in the environment: the only core that is tried


class NotRun(Exception):  # noqa: N818 - it is no error
    """A part, or a piece of it, cannot run here. The message says why."""


class Context:
    """What a part is told, and where it leaves what it found."""

    def __init__(
        self, part: str, *, full: bool = False, seed: int = 1, budget: float = 0.0, watermark: bool = True
    ) -> None:
        self.part = part
        self.full = full
        self.seed = seed
        self.budget = budget  #: seconds after which a sampled part stops adding cases; 0: no limit
        self.only = ""  #: run only the pieces whose name contains this
        self.watermark = watermark  #: whether recovery finds the sidecar and must repair every torn tail past it
        self.random = random.Random(seed)
        self.figures: dict[str, Any] = {}
        self.kinds: dict[str, int] = {}
        self.examples: list[str] = []
        self.skipped: list[str] = []
        self.started = time.monotonic()
        self.work = Path(tempfile.mkdtemp(prefix=f"evtape-{part}-", dir=_memory()))

    def scale(self, quick: int, full: int) -> int:
        """How many cases this run takes."""
        return full if self.full else quick

    def count(self, name: str, by: int = 1) -> None:
        """Add to a figure."""
        self.figures[name] = self.figures.get(name, 0) + by

    def violation(self, kind: str, detail: str = "") -> None:
        """The invariant was broken. All are counted by kind; the first three of each kind are kept in full."""
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if self.kinds[kind] <= 3:
            text = f"{kind}: {detail}" if detail else kind
            self.examples.append(text)
            print(f"  VIOLATION {self.part}: {text}", flush=True)

    @property
    def violation_count(self) -> int:
        """All of them."""
        return sum(self.kinds.values())

    def not_run(self, what: str) -> None:
        """Say that a piece did not run, and why."""
        self.skipped.append(what)
        print(f"  not run: {what}", flush=True)

    @property
    def expired(self) -> bool:
        return bool(self.budget) and time.monotonic() - self.started > self.budget

    def progress(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """The items, with a bar where a terminal looks on."""
        if total is None:
            total = len(items) if hasattr(items, "__len__") else 0
        bar = Bar(label, total)
        for item in items:
            yield item
            bar.step()
        bar.close()

    def close(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def as_dict(self) -> dict[str, Any]:
        """The record of this run, as it goes into the results file."""
        return {
            "part": self.part,
            "piece": self.only,
            "variant": "" if self.watermark else "without a sidecar",
            "mode": "full" if self.full else "quick",
            "seconds": round(time.monotonic() - self.started, 1),
            "figures": self.figures,
            "violations": self.violation_count,
            "kinds": self.kinds,
            "examples": self.examples[:20],
            "not_run": self.skipped,
        }


class Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.shown = 0.0
        self.live = sys.stderr.isatty()

    def step(self, by: int = 1) -> None:
        self.done += by
        if self.live and time.monotonic() - self.shown > 0.1:
            self.shown = time.monotonic()
            filled = 30 * self.done // max(self.total, self.done, 1)
            sys.stderr.write(f"\r  {self.label} [{'#' * filled:<30}] {self.done:,}/{self.total:,} ")
            sys.stderr.flush()

    def close(self) -> None:
        if self.live:
            sys.stderr.write("\r\033[K")


def _memory() -> str | None:
    """A directory in memory where there is one: most parts make files by the thousand and need no disk for it."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


# -------------------------------------------------------------------------------------------- cores

_loaded: dict[str, ModuleType] = {}


def load(core: str) -> ModuleType:
    """The package on top of one core. Both can be loaded in one process: each import gets modules of its own.

    The compiled module can be initialised only once in a process, so where somebody has imported it already, that is
    the one.
    """
    if core in _loaded:
        return _loaded[core]
    known = sys.modules.get("evtape")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "evtape"}
    before = os.environ.get("EVTAPE_BACKEND")
    if known is None or known.backend != core:
        for name in kept:
            del sys.modules[name]
    os.environ["EVTAPE_BACKEND"] = core
    try:
        package = importlib.import_module("evtape")
        package.modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "evtape"}  # type: ignore[attr-defined]
    finally:
        if kept:
            for name in [name for name in sys.modules if name.partition(".")[0] == "evtape" and name not in kept]:
                del sys.modules[name]
            sys.modules.update(kept)
        os.environ.pop("EVTAPE_BACKEND")
        if before is not None:
            os.environ["EVTAPE_BACKEND"] = before
    _loaded[core] = package
    return package


def both() -> dict[str, ModuleType]:
    """Both cores; the native one only where it was built."""
    spec = importlib.util.find_spec("evtape")
    if spec is None or spec.origin is None:
        raise NotRun("evtape cannot be imported")
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    built = any(Path(spec.origin).with_name("core").joinpath(f"native{suffix}").exists() for suffix in suffixes)
    wanted = os.environ.get(CORES_WANTED, " ".join(CORES)).split()
    return {core: load(core) for core in (CORES if built else CORES[1:]) if core in wanted}


def walk(package: ModuleType, path: str, fd: int, **more: Any) -> Any:
    """The report of a walk over the file in ``fd``, without a watermark."""
    with package.modules["evtape.recovery.examined"].Examined(path, fd) as file:
        return package.modules["evtape.recovery.walk"].walk(file, **more)


@contextlib.contextmanager
def another_boot(package: ModuleType) -> Iterator[None]:
    """Have the package believe that the machine was started anew, as it is after a power loss."""
    sidecar = package.modules["evtape.recovery.watermark"]
    real = sidecar.boot_id
    sidecar.boot_id = lambda: b"another boot id."
    try:
        yield
    finally:
        sidecar.boot_id = real


def place_sidecar(record: bytes, path: str | os.PathLike[str]) -> None:
    """Put a sidecar beside a stream, and give the stream the generation that binds the two."""
    Path(f"{path}.side").write_bytes(record)
    os.setxattr(path, "user.evtape.generation", record[72:88])


def source_directory() -> str:
    """The directory evtape is imported from, for child processes."""
    return str(Path(next(iter(both().values())).__file__ or "").parent.parent)


def environment(core: str) -> dict[str, str]:
    """The environment of a child process that runs on one core."""
    path = os.pathsep.join([source_directory(), str(HERE.parent.parent)])
    return os.environ | {"EVTAPE_BACKEND": core, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


# ---------------------------------------------------------------------------------------- C helpers


def compiled(source: str, *, shared: bool, flags: tuple[str, ...] = (), libraries: tuple[str, ...] = ()) -> Path:
    """A helper of this directory, compiled once for each state of its source. Raises NotRun without a compiler."""
    path = HERE / source
    key = hashlib.sha256(path.read_bytes() + repr((shared, flags, libraries)).encode()).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"evtape-faults-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    target = directory / f"{path.stem}-{key}{'.so' if shared else ''}"
    if target.exists():
        return target
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotRun("no C compiler")
    made = target.with_name(f"{target.name}.{os.getpid()}")
    kind = ["-shared", "-fPIC"] if shared else []
    subprocess.run(
        [compiler, "-O3", "-std=gnu11", "-Wall", *kind, *flags, str(path), "-o", str(made), *libraries], check=True
    )
    made.rename(target)
    return target


def sanitizer(name: str) -> str:
    """The library of a sanitizer, which an interpreter must have from its start. Raises NotRun without one."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise NotRun("no gcc")
    told = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = told.stdout.strip()
    if not os.path.isabs(path):  # gcc gives the bare name back for a library that it does not have
        raise NotRun(f"gcc has no {name} here")
    return os.path.realpath(path)


def in_child(work: Callable[[], Any], seconds: float | None = None) -> tuple[int, Any]:
    """Run in a forked child; returns its wait status and what it returned, or None.

    One that takes longer than `seconds` is killed, and left behind where even that does not end it.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as out:
                pickle.dump(work(), out)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        in_time = bool(select.select([source], [], [], seconds)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
            time.sleep(2)
            return (os.waitpid(child, os.WNOHANG)[1] or HANGS), None
        data = source.read()
    _, status = os.waitpid(child, 0)
    return status, pickle.loads(data) if data and status == 0 else None


HANGS = -1  # a wait status that no process has


def tell(status: int) -> str:
    """A wait status in words."""
    if status in (HANGS, signal.SIGKILL):
        return "it hung and was killed" if status == signal.SIGKILL else "it hangs, and cannot be killed"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit {os.WEXITSTATUS(status)}"


def report_line(record: dict[str, Any]) -> str:
    """One record as one line of JSON."""
    return json.dumps(record, sort_keys=True, separators=(", ", ": "))
