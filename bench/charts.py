"""The charts of the documentation. A contender that was not run has no bar, and a line below the bars names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench import svg
from bench.results import Spread, latency_metrics, row_of, spread, values_of
from bench.sections import SIZES

OURS, THEIRS, ACCENT, LIMIT = 0, 1, 2, 3
LABEL_MAX = 28  # characters beside a line


def style_of(key: str) -> int:
    if key.startswith(("evtape", "tape")):
        return OURS
    return LIMIT if key.startswith("c-") or key == "c" else THEIRS


def missing_lines(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(f"{row['label'].replace('`', '')}: not run" for row in rows if row["not_run"]))


def rate_bar(key: str, row: dict[str, Any], unit: str) -> svg.Bar | None:
    """A bar of millions of events per second, or of nanoseconds per event."""
    found = spread(row["values"])
    if found is None:
        return None
    label = row["label"].replace("`", "")
    if unit == "ns":
        return svg.Bar(label, found.median, found.low, found.high, f"{found.median:,.0f} ns", style_of(key))
    rate = Spread(1e3 / found.median, 1e3 / found.high, 1e3 / found.low, found.count)
    return svg.Bar(label, rate.median, rate.low, rate.high, f"{rate.median:.2f} M/s", style_of(key))


def bar_group(data: dict[str, Any], experiment: str, keys: Iterable[str], unit: str) -> list[svg.Bar]:
    found = [rate_bar(key, row_of(data, experiment, key), unit) for key in keys]
    return [bar for bar in found if bar is not None]


def keys_of(data: dict[str, Any], experiment: str) -> list[str]:
    return list(data["experiments"].get(experiment, {}).get("contenders", {}))


def bar_chart(
    data: dict[str, Any], title: str, note: str, parts: list[tuple[str, str, list[str]]], unit: str
) -> str | None:
    groups = [(name, bar_group(data, experiment, keys, unit)) for name, experiment, keys in parts]
    for _name, found in groups:
        found.sort(key=lambda bar: bar.value, reverse=unit == "rate")  # the fastest first
    groups = [group for group in groups if group[1]]
    if not groups:
        return None
    rows = [row_of(data, experiment, key) for _name, experiment, keys in parts for key in keys]
    return svg.bars(title, note, groups, missing_lines(rows))


def throughput(data: dict[str, Any]) -> str | None:
    order = ["evtape", "zig-mapped", "go-mapped", "evtape-pure", "go-buffered", "go-channel", "go-standard"]
    order += ["python-buffered", "python-channel", "python-standard"]
    parts = [
        ("append alone, room prepared", "article", order),
        ("whole job: create, append, close", "article-whole", order),
    ]
    note = "Millions of 1 KB events per second, more is better; a clock reading and a CRC-32 for each."
    return bar_chart(data, "The article's methods, 10,000 events of 1 KB", note, parts, "rate")


def whole_job(data: dict[str, Any]) -> str | None:
    parts = [
        ("10,000 events", "whole", keys_of(data, "whole")),
        ("1,000,000 events", "whole-million", keys_of(data, "whole-million")),
    ]
    return bar_chart(data, "Create, append, close", "Nanoseconds per 1 KB event, less is better.", parts, "ns")


def limits(data: dict[str, Any]) -> str | None:
    left_out = {"evtape-pure", "python-mapped", "c-batch-here", "c-array-here"}
    parts = [("", "prepared", [key for key in keys_of(data, "prepared") if key not in left_out])]
    return bar_chart(
        data, "How close to the machine", "Nanoseconds per 1 KB event, room prepared; less is better.", parts, "ns"
    )


def peers(data: dict[str, Any]) -> str | None:
    parts = [("", "peers", keys_of(data, "peers"))]
    return bar_chart(
        data, "Against other packages, whole job", "Nanoseconds per 1 KB event, less is better.", parts, "ns"
    )


def percentiles(data: dict[str, Any], experiment: str, title: str, note: str) -> str | None:
    """A line for each contender whose times were kept one by one."""
    names = latency_metrics([row_of(data, experiment, key) for key in keys_of(data, experiment)])
    found = []
    for key in keys_of(data, experiment):
        row = row_of(data, experiment, key)
        values = [spread(values_of(row, name)) for name in names]
        if values and all(values):
            # The axis is even in the names, not in their values: each percentile is one step.
            points = tuple((10.0**i, value.median) for i, value in enumerate(values) if value)
            label = row["label"].replace("`", "")
            found.append(svg.Line(label if len(label) < LABEL_MAX else label.partition(",")[0], points, style_of(key)))
    ticks = [(10.0**i, name) for i, name in enumerate(names)]
    return svg.lines(title, note, found, ticks, "nanoseconds") if found else None


def latency(data: dict[str, Any]) -> str | None:
    note = "Time of one append to a cold stream, each timed alone; less is better."
    return percentiles(data, "latency", "Latency", note)


def live(data: dict[str, Any]) -> str | None:
    note = "From the append in one process to the event in Python in another, 10,000 a second; less is better."
    return percentiles(data, "live-10k", "Live, the consumer waits", note)


def live_spin(data: dict[str, Any]) -> str | None:
    note = "From the append in one process to the event in another, which looks without a pause; less is better."
    return percentiles(data, "live-spin", "Live, the consumer spins", note)


SIZE_STYLES = {"evtape": OURS, "evtape-whole": ACCENT, "c": LIMIT, "c-buffer": THEIRS}


def sizes(data: dict[str, Any]) -> str | None:
    present = [size for size in SIZES if f"size-{size}" in data["experiments"]]
    found = []
    for key in keys_of(data, f"size-{present[0]}") if present else []:
        rows = [(size, row_of(data, f"size-{size}", key)) for size in present]
        points = tuple((size, size / value.median) for size, row in rows if (value := spread(row["values"])))
        if points:
            found.append(svg.Line(rows[0][1]["label"].replace("`", ""), points, SIZE_STYLES.get(key, THEIRS)))
    ticks = [(float(size), str(size) if size < 1024 else binary(size)) for size in present]
    note = "Payload in GB per second for events of 16 bytes to 1 MiB; more is better."
    return svg.lines("Event size", note, found, ticks, "GB/s") if found else None


def binary(size: int) -> str:
    return f"{size >> 20}Mi" if size >= 1 << 20 else f"{size >> 10}Ki"


GROWTH_LINES = (
    ("64 B, append alone", 64, "append", ACCENT),
    ("64 B, whole job", 64, "whole", LIMIT),
    ("1 KB, append alone", 1024, "append", OURS),
    ("1 KB, whole job", 1024, "whole", THEIRS),
)


def growth(data: dict[str, Any]) -> str | None:
    found = []
    for label, size, mode, style in GROWTH_LINES:
        rows = [(10.0**power, row_of(data, f"growth-{size}", f"{mode}-{power}")) for power in (4, 5, 6, 7)]
        points = tuple((count, value.median) for count, row in rows if (value := spread(row["values"])))
        if points:
            found.append(svg.Line(label, points, style))
    ticks = [(10.0**power, f"10^{power}") for power in (4, 5, 6, 7)]
    note = "Cost of one event as the stream gets longer; flat is good."
    return svg.lines("Growth", note, found, ticks, "ns per event") if found else None


def json_lines(data: dict[str, Any]) -> str | None:
    parts = [("", "json", keys_of(data, "json"))]
    return bar_chart(
        data, "JSON lines against binary", "Nanoseconds per event of five fields, less is better.", parts, "ns"
    )


def durable(data: dict[str, Any]) -> str | None:
    threads = [key for key in keys_of(data, "durable-threads") if key.endswith("-threads")]
    parts = [
        ("one event for each flush, one thread", "durable-append", keys_of(data, "durable-append")),
        ("the same, eight threads", "durable-threads", threads),
    ]
    note = "Nanoseconds per 1 KB event that is durable when the call returns, less is better."
    return bar_chart(data, "Durable appends", note, parts, "ns")


CHARTS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "throughput": throughput,
    "whole-job": whole_job,
    "limits": limits,
    "peers": peers,
    "latency": latency,
    "sizes": sizes,
    "growth": growth,
    "json": json_lines,
    "durable": durable,
    "live": live,
    "live-spin": live_spin,
}
