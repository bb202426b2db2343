"""The experiments. Every section answers one question of the README or of the goals."""

from __future__ import annotations

from dataclasses import replace

from bench.experiment import (
    C_ARRAY,
    C_ARRAY_HERE,
    C_BATCH,
    C_BATCH_HERE,
    C_BUFFER,
    C_CALL,
    C_NAIVE,
    C_PLAIN,
    C_ZLIB,
    EVTAPE_APPEND,
    EVTAPE_ARRAY,
    EVTAPE_CALL,
    EVTAPE_MANY,
    EVTAPE_SIZED,
    EVTAPE_WHOLE,
    GO_MAPPED,
    GO_WHOLE,
    PURE_CALL,
    PURE_MANY,
    PURE_WHOLE,
    PYTHON_CALL,
    PYTHON_MAPPED,
    PYTHON_METHOD,
    ZIG_MAPPED,
    ZIG_WHOLE,
    Contender,
    Experiment,
)

MILLION = 1_000_000
SIZES = (16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1 << 20)
SIZES_BYTES = 256 << 20
SIZES_EVENTS_MAX = 200_000
CHECKSUMS = tuple(
    Contender(f"crc-{kind}", label, "c", "crc", ("--crc", kind))
    for kind, label in (("best", "evtape's"), ("isal", "ISA-L's crc32_gzip_refl"), ("zlib", "stock zlib's"))
)
METHODS = {"standard": "standard sequential", "buffered": "buffered sequential", "channel": "channel synchronized"}


def article() -> list[Experiment]:
    """The article's table with the article's workload: appends alone and whole jobs, in all languages."""
    found = []
    for name, suffix, title in (
        ("article", "", "append alone, room prepared"),
        ("article-whole", "-whole", "whole job"),
    ):
        rows = []
        for method, label in METHODS.items():
            rows.append(Contender(f"python-{method}", f"Python, {label}", "sequential", method + suffix))
            rows.append(Contender(f"go-{method}", f"Go, {label}", "go", method + suffix))
        mapped = (
            [PURE_WHOLE, GO_WHOLE, EVTAPE_WHOLE, ZIG_WHOLE]
            if suffix
            else [PURE_CALL, GO_MAPPED, EVTAPE_CALL, ZIG_MAPPED]
        )
        found.append(Experiment(name, "article", f"The article's methods: {title}", tuple(rows + mapped)))
    return found


def goals(quick: bool) -> list[Experiment]:
    calls = (EVTAPE_CALL, ZIG_MAPPED, GO_MAPPED, C_CALL)
    prepared = (*calls, EVTAPE_MANY, C_BATCH, C_BATCH_HERE, EVTAPE_ARRAY, C_ARRAY, C_ARRAY_HERE)
    limits = (C_PLAIN, C_ZLIB, PURE_CALL, PURE_MANY, PYTHON_MAPPED, PYTHON_METHOD, PYTHON_CALL)
    appended = replace(EVTAPE_APPEND, key="evtape-append", label="evtape, the appends of it alone")
    whole = (EVTAPE_WHOLE, appended, EVTAPE_SIZED, ZIG_WHOLE, GO_WHOLE, C_NAIVE, C_BUFFER)
    small = (EVTAPE_CALL, C_CALL, EVTAPE_MANY, C_BATCH, C_BATCH_HERE, EVTAPE_ARRAY, C_ARRAY, C_ARRAY_HERE)
    found = [
        Experiment("prepared", "goals", "Append alone, room prepared", prepared + limits),
        Experiment("whole", "goals", "Whole job", whole),
        Experiment("small", "goals", "64-byte events, room prepared", small, events=100_000, size=64),
        Experiment("checksum", "goals", "CRC-32 alone", CHECKSUMS),
        *reading(quick),
    ]
    if not quick:
        title = "Whole job, a million events"
        found.append(Experiment("whole-million", "goals", title, whole, MILLION, inner=3, warmup=2))
    return found


def reading(quick: bool) -> list[Experiment]:
    """Reads from the page cache. Every process writes its file first, outside the clock."""
    events = 100_000 if quick else MILLION
    bulk = (
        Contender("evtape-verify", "evtape `verify`", "evtape", "verify", core="native"),
        Contender("c-scan", "C scan, same CRC", "c", "scan"),
        Contender("evtape-timestamps", "evtape `tape.timestamps`", "evtape", "timestamps", core="native"),
        Contender("c-walk", "C walk over the headers", "c", "walk"),
    )
    each = (
        Contender("evtape-iterate", "evtape `for ts, data in tape`, CRC checked", "evtape", "iterate", core="native"),
        Contender("lmdb-iterate", "py-lmdb cursor with buffers, no CRC", "pypeers", "lmdb-iterate", needs="lmdb"),
    )
    return [
        Experiment("read", "goals", "Read in bulk", bulk, events=events, inner=3, warmup=1),
        Experiment("iterate", "goals", "Iterate", each, events=100_000, inner=3, warmup=1),
    ]


def peers(quick: bool) -> list[Experiment]:
    rows = [EVTAPE_WHOLE]
    for key, label in (("pyarrow", "pyarrow IPC, batches of 1,000"), ("lmdb", "py-lmdb, append, one txn, no sync")):
        rows += with_and_without(key, label)
    rows.append(Contender("mcap", "mcap, its own CRC per chunk", "pypeers", "mcap", needs="mcap"))
    rows += with_and_without("sqlite", "sqlite WAL, one txn, no sync")
    rows += with_and_without("h5py", "h5py, chunked, batches of 1,000")
    events = 10_000 if quick else 100_000
    found = [
        Experiment("peers", "peers", "Whole job against other packages", tuple(rows), events=events, inner=5, warmup=8)
    ]
    if not quick:
        found += chronicle()
    return found


def with_and_without(key: str, label: str) -> list[Contender]:
    """The same work with a CRC for every event, and the usual choice without one."""
    needs = "" if key == "sqlite" else key
    same = Contender(key, f"{label}, CRC per event", "pypeers", key, needs=needs)
    return [same, replace(same, key=f"{key}-no-crc", label=f"{label}, no CRC", extra=("--crc", "none"))]


def chronicle() -> list[Experiment]:
    """Chronicle gets a warm-up of 200,000 messages in each process, because the JVM compiles at run time."""
    queue = Contender("chronicle", "Chronicle Queue (Java)", "chronicle", "append")
    pace = ("--gap", "10000")
    tails = (
        Contender(
            "evtape",
            "evtape `len` asked again, in another process",
            "evtape",
            "tail",
            ("--skip", "50000"),
            core="native",
        ),
        Contender(
            "chronicle",
            "Chronicle tailer in another process",
            "chronicle",
            "tail",
            ("--skip", "200000"),
            events=250_000,
        ),
    )
    return [
        Experiment(
            "chronicle",
            "peers",
            "Append alone, against Chronicle Queue",
            (EVTAPE_APPEND, queue),
            200_000,
            inner=3,
            warmup=1,
        ),
        Experiment(
            "live", "peers", "Live: from stamp to the reader", tails, 100_000, inner=1, warmup=0, live=True, extra=pace
        ),
    ]


def latency(quick: bool) -> list[Experiment]:
    rows = (
        Contender("evtape", "evtape `append` per event", "evtape", "latency", core="native"),
        Contender("c-naive", "C, naive mapping", "c", "latency"),
    )
    events = 100_000 if quick else MILLION
    title = "Latency of each append to a cold stream"
    return [Experiment("latency", "latency", title, rows, events=events, inner=1, warmup=1)]


def sizes() -> list[Experiment]:
    found = []
    for size in SIZES:
        events = max(200, min(SIZES_EVENTS_MAX, SIZES_BYTES // size))
        rows = (EVTAPE_CALL, C_CALL, replace(EVTAPE_WHOLE, key="evtape-whole", label="evtape, whole job"), C_BUFFER)
        found.append(
            Experiment(f"size-{size}", "sizes", f"Events of {size:,} bytes", rows, events, size, inner=3, warmup=2)
        )
    return found


def growth() -> list[Experiment]:
    """The same contender from 10^4 to 10^7 events, all in turn, so that the ratios come from one run."""
    found = []
    for size in (64, 1024):
        rows = [row for power in (4, 5, 6, 7) for row in growth_rows(power)]
        found.append(Experiment(f"growth-{size}", "growth", f"Growth, {size}-byte events", tuple(rows), size=size))
    return found


def growth_rows(power: int) -> list[Contender]:
    """Short streams are repeated inside the process. The longest runs only once after its warm-up."""
    inner, warmup = {4: (5, 30), 5: (5, 8), 6: (3, 2), 7: (1, 1)}[power]
    ways = (
        ("append", "append alone", EVTAPE_APPEND),
        ("whole", "whole job", EVTAPE_WHOLE),
        ("c-buffer", "C, buffer", C_BUFFER),
    )
    return [
        replace(
            contender,
            key=f"{key}-{power}",
            label=f"{label}, 10^{power} events",
            events=10**power,
            inner=inner,
            warmup=warmup,
        )
        for key, label, contender in ways
    ]


def json_lines(quick: bool) -> list[Experiment]:
    rows = (
        Contender("json-write", "JSON lines: write", "jsonlines", "json-write"),
        Contender("tape-write", "evtape: write (struct + append)", "jsonlines", "tape-write", core="native"),
        Contender("json-parse", "JSON lines: parse", "jsonlines", "json-parse"),
        Contender("tape-parse", "evtape: parse (iterate + struct)", "jsonlines", "tape-parse", core="native"),
        Contender("tape-rows", "evtape: `rows(dtype)`, all at once", "jsonlines", "tape-rows", core="native"),
    )
    events = 20_000 if quick else 200_000
    return [
        Experiment("json", "json", "JSON lines against binary: a trade per event", rows, events, 32, inner=3, warmup=2)
    ]


def experiments(quick: bool = False) -> list[Experiment]:
    found = article() + goals(quick) + peers(quick) + latency(quick) + json_lines(quick)
    if quick:
        return [
            replace(experiment, inner=min(experiment.inner, 5), warmup=min(experiment.warmup, 2))
            for experiment in found
        ]
    return found + sizes() + growth()


SECTIONS = ("article", "goals", "peers", "latency", "sizes", "growth", "json")
