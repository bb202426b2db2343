"""A group-by over structured 64-byte events: from the stream, from an Arrow table in memory, from Parquet (zstd).

The query is the same everywhere: the sum of one field and the mean of another for each of 100 symbols, which needs
three of nine fields. The clock covers everything between the file (or the table) and the answer: opening, reading, the
query. The files are in the page cache; the first process of an experiment makes them.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import evtape
from bench.workload import Job, Run, contender_main

EVENT = np.dtype(
    [("symbol", "<i4"), ("side", "<i4"), ("price", "<f8"), ("quantity", "<f8"), ("bid", "<f8"), ("ask", "<f8"),
     ("bids", "<i8"), ("asks", "<i8"), ("order", "<i8")]
)  # fmt: skip
COLUMNS = ["symbol", "price", "quantity"]
SQL = "select symbol, sum(quantity), avg(price) from {} group by symbol"
BATCH = 1 << 20
PROCESSES = 2
PACKAGES = {"processes-pool": "evtape", "processes-dask": "distributed"}  # the package whose version a mode reports


def prepared(job: Job) -> str:
    """The stream, made by the first process that asks."""
    path = os.path.join(os.path.dirname(job.path), f"columns-{job.events}.tape")
    if not os.path.exists(path):
        random = np.random.default_rng(1)
        with evtape.open(f"{path}.new", "w", schema=EVENT, durability="none") as tape:
            for start in range(0, job.events, BATCH):
                rows = np.zeros(min(BATCH, job.events - start), EVENT)
                rows["symbol"] = random.integers(0, 100, len(rows))
                for name in ("price", "bid", "ask"):
                    rows[name] = np.round(100 + random.standard_normal(len(rows)).cumsum() / 100, 2)
                for name in ("quantity", "bids", "asks"):
                    rows[name] = random.integers(1, 1000, len(rows))
                rows["order"] = np.arange(start, start + len(rows))
                tape.append_array(rows, np.arange(start, start + len(rows)) * 1000 + 1)
        for suffix in (".schema.json", ".index", ""):
            os.rename(f"{path}.new{suffix}", f"{path}{suffix}")
    return path


def parquet(job: Job) -> str:
    import pyarrow.parquet as pq

    path = f"{prepared(job)}.parquet"
    if not os.path.exists(path):
        pq.write_table(in_memory(job), path, compression="zstd")
    return path


def in_memory(job: Job) -> Any:
    with evtape.open(prepared(job)) as tape:
        return tape.to_arrow()


def polars_query(frame: Any) -> Any:
    import polars as pl

    groups = frame.lazy().group_by("symbol")
    return groups.agg(pl.col("quantity").sum(), pl.col("price").mean()).collect().rows()


def duckdb_query(table: Any) -> Any:
    import duckdb

    name = f"'{table}'" if isinstance(table, str) else "table_given"
    with duckdb.connect() as connection:
        if name == "table_given":
            connection.register(name, table)
        return connection.sql(SQL.format(name)).fetchall()


def polars_stream(job: Job) -> Callable[[], Any]:
    path = prepared(job)

    def action() -> Any:
        with evtape.open(path) as tape:
            return polars_query(tape.to_polars(COLUMNS))

    return action


def polars_scan(job: Job) -> Callable[[], Any]:
    path = prepared(job)

    def action() -> Any:
        import polars as pl

        groups = evtape.scan(path).group_by("symbol")
        return groups.agg(pl.col("quantity").sum(), pl.col("price").mean()).collect(engine="streaming").rows()

    return action


def polars_memory(job: Job) -> Callable[[], Any]:
    import polars as pl

    table = in_memory(job)
    return lambda: polars_query(pl.DataFrame(table))


def polars_parquet(job: Job) -> Callable[[], Any]:
    import polars as pl

    path = parquet(job)
    return lambda: polars_query(pl.scan_parquet(path))


def duckdb_stream(job: Job) -> Callable[[], Any]:
    path = prepared(job)

    def action() -> Any:
        with evtape.open(path) as tape:
            return duckdb_query(tape.arrow(COLUMNS))

    return action


def duckdb_scan(job: Job) -> Callable[[], Any]:
    import evtape.integrations.duckdb

    path = prepared(job)
    return lambda: duckdb_query(evtape.integrations.duckdb.dataset(path))


def duckdb_memory(job: Job) -> Callable[[], Any]:
    table = in_memory(job)
    return lambda: duckdb_query(table)


def duckdb_parquet(job: Job) -> Callable[[], Any]:
    path = parquet(job)
    return lambda: duckdb_query(path)


def grouped(events: Any, run: int = 0) -> Any:
    """The group-by of one part with numpy."""
    rows = events.rows()
    symbols = rows["symbol"]
    sums = (np.bincount(symbols, rows[name], minlength=100) for name in ("quantity", "price"))
    return np.array([*sums, np.bincount(symbols, minlength=100)])


def grouped_part(part: Any) -> Any:
    with part.open() as events:
        return grouped(events)


def added(parts: Any) -> Any:
    quantity, price, count = np.sum(list(parts), axis=0)
    return list(zip(quantity, price / count, strict=True))


def processes_pool(job: Job) -> Callable[[], Any]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    path = prepared(job)
    pool = ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn"))
    return lambda: added(pool.map(grouped_part, evtape.partitions(path)))


def processes_dask(job: Job) -> Callable[[], Any]:
    from dask.distributed import Client

    import evtape.integrations.dask

    path = prepared(job)
    client = Client(n_workers=PROCESSES, threads_per_worker=1, dashboard_address=None, set_as_default=False)

    runs = itertools.count()  # of one name each, else the second one has its answers already

    def action() -> Any:
        function = functools.partial(grouped, run=next(runs))
        return added(client.gather(client.compute(evtape.integrations.dask.map(function, path))))

    return action


ACTIONS: dict[str, Callable[[Job], Callable[[], Any]]] = {
    "polars-stream": polars_stream,
    "polars-scan": polars_scan,
    "polars-memory": polars_memory,
    "polars-parquet": polars_parquet,
    "duckdb-stream": duckdb_stream,
    "duckdb-scan": duckdb_scan,
    "duckdb-memory": duckdb_memory,
    "duckdb-parquet": duckdb_parquet,
    "processes-pool": processes_pool,
    "processes-dask": processes_dask,
}


def timed(name: str) -> Run:
    kept: list[Callable[[], Any]] = []  # the table in memory is the same for all repetitions

    def run(job: Job) -> int:
        if not kept:
            kept.append(ACTIONS[name](job))
        start = time.perf_counter_ns()
        rows = kept[0]()
        elapsed = time.perf_counter_ns() - start
        if len(rows) != min(100, job.events):
            raise SystemExit(f"{len(rows)} groups")
        return elapsed

    return run


def about(mode: str) -> dict[str, str]:
    from importlib.metadata import version

    return {"core": evtape.backend, "version": version(PACKAGES.get(mode) or mode.partition("-")[0])}


if __name__ == "__main__":
    chosen = sys.argv[sys.argv.index("--mode") + 1] if "--mode" in sys.argv else ""
    contender_main(
        "columns", {name: timed(name) for name in ACTIONS}, None, **(about(chosen) if chosen in ACTIONS else {})
    )
