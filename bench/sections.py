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


def index(quick: bool) -> list[Experiment]:
    """What the index costs a writer, and what it saves a reader."""

    def row(mode: str, label: str, needs: str = "") -> Contender:
        return Contender(mode, label, "index", mode, core="" if needs else "native", needs=needs)

    events, large = (100_000, MILLION) if quick else (MILLION, 10 * MILLION)
    found = []
    for size in (64, 1024):
        whole = (row("whole", "evtape, whole job"), row("whole-off", "evtape, whole job, `index=False`"))
        found.append(Experiment(f"index-whole-{size}", "index", f"Whole job, {size} B", whole, events, size, 3, 1))
        walk = Contender("c-walk", "C walk over the headers", "c", "walk")
        rebuild = (row("rebuild", "evtape `build_index`"), walk)
        found.append(Experiment(f"index-rebuild-{size}", "index", f"Index, {size} B", rebuild, events, size, 3, 1))
        random = (
            row("random", "evtape `tape[ordinals].gather()`, CRC checked"),
            row("random-events", "evtape `list(tape[ordinals])`, CRC checked"),
            row("lmdb-random", "py-lmdb `get`, no CRC", "lmdb"),
            row("array-record-random", "array_record `read(ordinals)`", "array_record"),
        )
        title = f"100,000 random events of {events:,}, {size} B"
        found.append(Experiment(f"index-random-{size}", "index", title, random, events, size, 3, warmup=4))
    opening = (row("opening", "with the index"), row("scan-opening", "without"))
    for name, count in (("index-opening-small", 125_000), ("index-opening", large)):
        title = f"Open, length, last event, a window of 100; {count:,} events"
        found.append(Experiment(name, "index", title, opening, count, 64, 5, 1))
    window = (row("window", "`between`"), row("scan-window", "a look at every event"))
    found.append(Experiment("index-window", "index", f"A window of 100 of {large:,} events", window, large, 64, 3, 1))
    return found


def journal(quick: bool) -> list[Experiment]:
    """What rolling and retention cost a writer."""

    def row(mode: str, label: str, extra: tuple[str, ...] = ()) -> Contender:
        return Contender(mode, label, "journal", mode, extra, core="native")

    whole = (row("stream", "a stream"), row("journal", "a journal, segments of 64 MiB"))
    found = []
    for size, events in ((64, 10 * MILLION), (1024, MILLION)):
        title = f"Journal: whole job, {size} B"
        count = events // 10 if quick else events
        found.append(Experiment(f"journal-whole-{size}", "journal", title, whole, count, size, 3, 1))
    events = 200_000 if quick else MILLION
    for name, title, extra in (
        ("journal-latency", "in a loop", ()),
        ("journal-paced", "one every 20 us", ("--gap", "20000")),
    ):
        rows = (
            row("latency", "a stream", extra),
            row("latency-journal", "a journal, segments of 64 MiB", extra),
            row("latency-small", "a journal, segments of 256 KiB", extra),
            row("latency-retention", "a journal, segments of 256 KiB, that deletes one for each", extra),
        )
        title = f"Journal: latency of each append, {title}"
        found.append(Experiment(name, "journal", title, rows, events, inner=1, warmup=0))
    return found


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
    ]


def latency(quick: bool) -> list[Experiment]:
    rows = (
        Contender("evtape", "evtape `append` per event", "evtape", "latency", core="native"),
        Contender("c-naive", "C, naive mapping", "c", "latency"),
    )
    events = 100_000 if quick else MILLION
    title = "Latency of each append to a cold stream"
    found = [Experiment("latency", "latency", title, rows, events=events, inner=1, warmup=1)]
    return found if quick else [*found, paced()]


def paced() -> Experiment:
    """50,000 events a second: a rate at which no append has a reason to wait."""
    pace = ("--gap", "20000")
    rows = (
        Contender("evtape", "evtape, durability none", "evtape", "latency", pace, core="native"),
        Contender("evtape-close", "evtape, durability close", "evtape", "latency-close", pace, core="native"),
        Contender("evtape-interval", "evtape, every 50 ms", "evtape", "latency-interval", pace, core="native"),
        Contender("c-naive", "C, naive mapping", "c", "latency", pace),
    )
    title = "Latency of each append to a cold stream, one every 20 us"
    return Experiment("paced", "latency", title, rows, events=MILLION // 4, inner=1, warmup=0)


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


EVTAPE_DURABLE = Contender("evtape", 'evtape `append`, `durability="full"`', "durable", "evtape-append", core="native")
SQLITE_DURABLE = Contender("sqlite", "SQLite, WAL, synchronous=FULL, new database", "durable", "sqlite-append")
ROCKSDICT_DURABLE = Contender(
    "rocksdict", "rocksdict, sync for each put", "durable", "rocksdict-append", needs="rocksdict"
)
C_WRITTEN = Contender("c-written", "C: pwrite, fdatasync, written room", "c", "durable-written")
DURABLE_APPEND = (
    EVTAPE_DURABLE,
    replace(EVTAPE_DURABLE, key="evtape-sized", label="evtape, told the capacity", mode="evtape-sized-append"),
    replace(EVTAPE_DURABLE, key="evtape-pure", label="evtape, pure core", core="python"),
    C_WRITTEN,
    Contender("c-header", "C: the same, with the header in the same flush", "c", "durable-header"),
    Contender("c-ordered", "C: the same, with a flush for the header", "c", "durable-ordered"),
    Contender("c-fallocate", "C: pwrite, fdatasync, allocated room", "c", "durable-fallocate"),
    Contender("c-grow", "C: write, fdatasync, growing file", "c", "durable-grow"),
    Contender("python-written", "Python: os.pwrite, os.fdatasync, written room", "durable", "python-append"),
    SQLITE_DURABLE,
    replace(
        SQLITE_DURABLE,
        key="sqlite-settled",
        label="SQLite, the same, log at its full size",
        mode="sqlite-settled-append",
    ),
    Contender("lmdb", "py-lmdb, append, one txn for each put", "durable", "lmdb-append", needs="lmdb"),
    ROCKSDICT_DURABLE,
)
DURABLE_THREADS = (
    EVTAPE_DURABLE,
    replace(EVTAPE_DURABLE, key="evtape-threads", label="evtape, eight threads", mode="evtape-threads"),
    SQLITE_DURABLE,
    replace(
        SQLITE_DURABLE,
        key="sqlite-threads",
        label="SQLite, eight threads and connections, one lock",
        mode="sqlite-threads",
    ),
    ROCKSDICT_DURABLE,
    replace(
        ROCKSDICT_DURABLE,
        key="rocksdict-threads",
        label="rocksdict, eight threads",
        mode="rocksdict-threads",
    ),
)
DURABLE_BATCH = (
    Contender("evtape", 'evtape `append_many`, `durability="full"`', "durable", "evtape-batch", core="native"),
    Contender("evtape-sized", "evtape, told the capacity", "durable", "evtape-sized-batch", core="native"),
    Contender("c-grow", "C: write, fdatasync, growing file", "c", "durable-batch"),
    Contender("c-written", "C: pwrite, fdatasync, written room", "c", "durable-batch-written"),
    Contender("python-grow", "Python: os.pwrite, os.fdatasync, growing file", "durable", "python-grow-batch"),
    Contender("sqlite", "SQLite, executemany in a transaction", "durable", "sqlite-batch"),
    Contender("lmdb", "py-lmdb, putmulti in a transaction", "durable", "lmdb-batch", needs="lmdb"),
    Contender("rocksdict", "rocksdict, WriteBatch with sync", "durable", "rocksdict-batch", needs="rocksdict"),
)
SYNC_BATCH = ("--batch", "100")
DURABLE_SYNC = (
    Contender("evtape", "evtape, `sync` after 100 events", "durable", "evtape-sync", SYNC_BATCH, core="native"),
    Contender("evtape-sized", "evtape, told the capacity", "durable", "evtape-sized-sync", SYNC_BATCH, core="native"),
    Contender("c-written", "C: pwrite, fdatasync, written room", "c", "durable-sync", SYNC_BATCH),
    Contender("python-written", "Python: os.pwrite, os.fdatasync, written room", "durable", "python-sync", SYNC_BATCH),
)


def durable(quick: bool) -> list[Experiment]:
    """Events that are durable when the call returns. The time is that of the disk, so one warm-up is enough."""
    appends, batches, syncs = (304, 10, 20) if quick else (2000, 30, 50)
    found = (
        ("append", "One event for each flush", DURABLE_APPEND, appends),
        ("threads", "One event for each flush, eight threads", DURABLE_THREADS, appends),
        ("batch", "A flush for each batch of 1,000", DURABLE_BATCH, 1000 * batches),
        ("sync", "A sync for each 100 events; latency: the sync alone", DURABLE_SYNC, 100 * syncs),
    )
    return [
        Experiment(f"durable-{name}", "durable", f"Durable: {title}", rows, events=events, inner=1, warmup=1)
        for name, title, rows, events in found
    ]


FOLLOW = Contender("evtape", "evtape `follow()`", "live", "evtape", core="native")
FOLLOW_SPIN = replace(FOLLOW, key="evtape-spin", label="evtape `follow(spin=inf)`", mode="evtape-spin")
ICEORYX = Contender("iceoryx", "iceoryx2, a notification for each event", "live", "iceoryx", needs="iceoryx2")
ICEORYX_SPIN = Contender("iceoryx-spin", "iceoryx2, polled", "live", "iceoryx-spin", needs="iceoryx2")
LIVE_PEERS = (
    Contender("pipe", "os.pipe, framed", "live", "pipe"),
    Contender("connection", "multiprocessing.Pipe", "live", "connection"),
    Contender("queue", "multiprocessing.Queue", "live", "queue"),
    Contender("zmq", "pyzmq, PUSH and PULL, ipc", "live", "zmq", needs="zmq"),
    Contender("zenoh", "zenoh, TCP on this machine", "live", "zenoh", needs="zenoh"),
)
LIVE_WAITING = (
    replace(FOLLOW, key="evtape-blocked", label="evtape `follow(spin=0)`", mode="evtape-blocked"),
    FOLLOW,
    replace(FOLLOW, key="evtape-async", label="evtape `afollow()`", mode="evtape-async"),
    *LIVE_PEERS,
    ICEORYX,
)
FOLLOW_BATCH = replace(FOLLOW, key="evtape-batch", label="evtape `follow(batch=True)`", mode="evtape-batch")
FOLLOW_C = Contender("c", "C follower that checks each CRC", "live", "c")
LIVE_RATE = (
    FOLLOW,
    FOLLOW_BATCH,
    FOLLOW_C,
    *LIVE_PEERS,
    ICEORYX_SPIN,
)
LIVE_MANY = tuple(replace(row, mode=f"{row.mode}-of-many") for row in (FOLLOW, FOLLOW_BATCH, FOLLOW_C))


def live(quick: bool) -> list[Experiment]:
    """One process after another gets the events. Each value is one pair of new processes, so nothing is repeated."""
    seconds, rate = (1, 50_000) if quick else (5, 500_000)
    eight = replace(FOLLOW, key="evtape-eight", label="evtape, eight followers, all events each", mode="evtape-eight")
    idle = replace(FOLLOW, key="idle", label="evtape, CPU time for each ms without an event", mode="idle")
    found = []
    for name, title, rows, per_second, size in (
        (
            "live-spin",
            "looked at without a pause, 10,000 events a second",
            (FOLLOW_SPIN, FOLLOW_C, ICEORYX_SPIN),
            10_000,
            64,
        ),
        ("live-10k", "waited for, 10,000 events a second", LIVE_WAITING, 10_000, 64),
        ("live-1k", "waited for, 1,000 events a second", LIVE_WAITING, 1_000, 64),
        ("live-rate", "as many events of 64 bytes as go", LIVE_RATE, 0, 64),
        ("live-rate-1k", "as many events of 1 KB as go", LIVE_RATE, 0, 1024),
        ("live-many", "as many events of 64 bytes as go, appended 1,000 at a time", LIVE_MANY, 0, 64),
        ("live-many-1k", "as many events of 1 KB as go, appended 1,000 at a time", LIVE_MANY, 0, 1024),
        ("live-eight", "eight followers of one writer", (FOLLOW, eight), 0, 64),
        ("live-idle", "an idle follower", (idle,), 1_000, 64),
    ):
        pace = ("--gap", str(10**9 // per_second), "--skip", str(per_second // 10)) if per_second else ()
        paced_rows = tuple(replace(row, extra=pace) for row in rows)
        events = seconds * per_second or rate
        found.append(Experiment(name, "live", f"Live: {title}", paced_rows, events, size, inner=1, warmup=0))
    return [*found, *threads(quick)] if quick else [*found, *threads(quick), tails()]


def threads(quick: bool) -> list[Experiment]:
    """Threads that produce, and one writer: with the GIL, and without it if there is such an interpreter."""
    ways = (
        ("shared", "evtape, one writer shared by the threads", "native"),
        ("queue", "queue.Queue, a thread appends with evtape", "native"),
        ("channel", "queue.Queue, a thread writes (the article's method)", ""),
    )
    found = []
    for producers in (1, 2, 4):
        rows = [Contender(key, label, "threads", f"{key}-{producers}", core=core) for key, label, core in ways]
        rows += [
            replace(row, key=f"{row.key}-free", label=f"{row.label}, no GIL", program="threads-free") for row in rows
        ]
        title = f"Channel synchronized: {producers} {'thread produces' if producers == 1 else 'threads produce'}"
        events, name = 10_000 if quick else 100_000, f"threads-{producers}"
        found.append(Experiment(name, "live", title, tuple(rows), events, inner=5, warmup=2))
    return found


def tails() -> Experiment:
    """100,000 events a second; the first 200,000 of Chronicle and Aeron warm up the JVM."""
    rows = (
        Contender(
            "evtape", "evtape `follow(spin=inf)`, another process", "evtape", "tail", ("--skip", "50000"), core="native"
        ),
        Contender(
            "chronicle", "Chronicle tailer, another process", "chronicle", "tail", ("--skip", "200000"), events=250_000
        ),
        Contender(
            "aeron", "Aeron IPC subscription, another process", "aeron", "tail", ("--skip", "200000"), events=250_000
        ),
    )
    pace, title = ("--gap", "10000"), "Live: from stamp to the reader, against Chronicle Queue and Aeron"
    return Experiment("live", "live", title, rows, 100_000, inner=1, warmup=0, live=True, extra=pace)


def columns(quick: bool) -> list[Experiment]:
    """A group-by over a stream with a schema, against the same query elsewhere."""
    events = 1_000_000 if quick else 10_000_000
    found = []
    for engine in ("polars", "duckdb"):
        rows = tuple(
            Contender(kind, f"{engine}, {label}", "columns", f"{engine}-{kind}", core="native", needs=engine)
            for kind, label in (
                ("stream", "the stream"),
                ("scan", "the stream in batches, for many or large ones"),
                ("memory", "an Arrow table in memory"),
                ("parquet", "Parquet, zstd"),
            )
        )
        title = f"Columns: a group-by over {events:,} events of 64 bytes by {engine}"
        found.append(Experiment(f"columns-{engine}", "columns", title, rows, events, 64, inner=3, warmup=1))
    rows = (
        Contender("pool", "a process pool, evtape.partitions", "columns", "processes-pool", core="native"),
        Contender("dask", "Dask, its map", "columns", "processes-dask", core="native", needs="distributed"),
    )
    title = f"Columns: a group-by over {events:,} events of 64 bytes by numpy in two processes"
    return [*found, Experiment("columns-processes", "columns", title, rows, events, 64, inner=3, warmup=1)]


def logs(quick: bool) -> list[Experiment]:
    """What a program waits for one record, in the handler alone and in the whole call."""
    handlers = (
        ("file", "FileHandler", ""),
        ("queue", "QueueHandler; a QueueListener writes with FileHandler", ""),
        ("evtape", "evtape Handler", "native"),
        ("evtape-json", "evtape Handler, json=True", "native"),
    )
    found = []
    for name, title, extra in (
        ("logging", "`handler.handle`, the message alone", ()),
        ("logging-layout", "`handler.handle`, time, level, logger and message", ("--layout",)),
        ("logging-call", "`logger.info`, time, level, logger and message", ("--layout", "--call")),
    ):
        rows = tuple(Contender(key, label, "logs", key, extra, core) for key, label, core in handlers)
        events = 10_000 if quick else 50_000
        found.append(Experiment(name, "logging", f"Logging: {title}", rows, events, 64, inner=5, warmup=2))
    return found


def experiments(quick: bool = False) -> list[Experiment]:
    found = article() + goals(quick) + peers(quick) + latency(quick) + json_lines(quick) + durable(quick)
    found += logs(quick) + live(quick) + index(quick) + journal(quick) + columns(quick)
    if quick:
        return [
            replace(experiment, inner=min(experiment.inner, 5), warmup=min(experiment.warmup, 2))
            for experiment in found
        ]
    return found + sizes() + growth()


SECTIONS = (
    "article",
    "goals",
    "peers",
    "latency",
    "sizes",
    "growth",
    "json",
    "durable",
    "logging",
    "live",
    "index",
    "journal",
    "columns",
)
