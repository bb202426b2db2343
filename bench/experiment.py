"""A contender is one way to start a program. An experiment is a set of contenders that may be compared."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bench.workload import stream_bytes

MINIMUM_REPEATS = 7


@dataclass(frozen=True)
class Contender:
    """`program` names an entry of the runner's programs; `mode` and `extra` are its arguments."""

    key: str
    label: str
    program: str
    mode: str
    extra: tuple[str, ...] = ()
    core: str = ""  # EVTAPE_BACKEND for the process
    needs: str = ""  # a Python package; without it the contender is "not run"
    events: int = 0  # overrides the number of the experiment
    size: int = 0
    inner: int = 0
    warmup: int = -1


@dataclass(frozen=True)
class Experiment:
    """The median of `inner` repetitions in a process is one value. `warmup` repetitions run before them.

    Short jobs have both, so that no contender pays for a cold processor, a lazy import or the interpreter's first run.
    Long jobs need a warm-up for another reason: a virtual machine may have returned its free memory to the host, and
    getting it back took up to ten times as long as the job. After some hundred megabytes every contender reuses the
    memory that it has just freed.
    """

    name: str
    section: str
    title: str
    contenders: tuple[Contender, ...]
    events: int = 10_000
    size: int = 1024
    inner: int = 15
    warmup: int = 30
    live: bool = False  # two processes: a tailer and a feeder
    extra: tuple[str, ...] = field(default=())

    def bytes_needed(self, contender: Contender) -> int:
        """The disk space of a contender. Packages with pages and indexes take more than a stream."""
        size = stream_bytes(contender.events or self.events, contender.size or self.size)
        return size if contender.program in {"evtape", "c", "go", "zig", "sequential"} else 3 * size


# The contenders of more than one experiment.
EVTAPE_CALL = Contender("evtape", "evtape `append` per event", "evtape", "prepared", core="native")
EVTAPE_MANY = Contender("evtape-many", "evtape `append_many`, 1,000 a batch", "evtape", "many", core="native")
EVTAPE_ARRAY = Contender("evtape-array", "evtape `append_array`, 1,000 a batch", "evtape", "array", core="native")
EVTAPE_WHOLE = Contender("evtape", "evtape `append` per event", "evtape", "whole", core="native")
EVTAPE_APPEND = Contender("evtape", "evtape `append` per event", "evtape", "append", core="native")
EVTAPE_SIZED = Contender("evtape-sized", "evtape, told the capacity", "evtape", "whole-capacity", core="native")
PURE_CALL = Contender("evtape-pure", "evtape, pure core", "evtape", "prepared", core="python")
PURE_WHOLE = Contender("evtape-pure", "evtape, pure core", "evtape", "whole", core="python")
PURE_MANY = Contender("evtape-pure-many", "evtape, pure core, `append_many`", "evtape", "many", core="python")
PYTHON_METHOD = Contender("python-method", "Python by hand, as a method that threads may call", "sequential", "method")
PYTHON_CALL = Contender("python-call", "a loop that calls a function of C for nothing", "evtape", "call", core="native")
PYTHON_MAPPED = Contender("python-mapped", "Python by hand: struct + mmap + zlib", "sequential", "prepared")
GO_MAPPED = Contender("go-mapped", "Go, memory mapped", "go", "prepared")
ZIG_MAPPED = Contender("zig-mapped", "Zig, memory mapped", "zig", "prepared")
C_CALL = Contender("c", "C loop, same CRC", "c", "prepared")
C_BATCH = Contender("c-batch", "C loop over pointers, a header per batch", "c", "batch")
C_ARRAY = Contender("c-array", "C loop over rows, a header per batch", "c", "array")
C_BATCH_HERE = Contender("c-batch-here", "the C loop, over evtape's payloads", "evtape", "c-many", core="native")
C_ARRAY_HERE = Contender("c-array-here", "the C loop, over evtape's rows", "evtape", "c-array", core="native")
C_PLAIN = Contender("c-no-crc", "C loop, no CRC (limit of memory)", "c", "prepared", ("--crc", "none"))
C_ZLIB = Contender("c-zlib", "C loop, stock zlib CRC", "c", "prepared", ("--crc", "zlib"))
C_NAIVE = Contender("c-naive", "C, naive mapping", "c", "whole")
C_BUFFER = Contender("c-buffer", "C, 1 MiB buffer and write()", "c", "buffer")
GO_WHOLE = replace(GO_MAPPED, mode="whole")
ZIG_WHOLE = replace(ZIG_MAPPED, mode="whole")
