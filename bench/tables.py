"""Markdown tables that depend only on a result."""

from __future__ import annotations

from typing import Any

from bench.goals import outcomes
from bench.machine import NO_FLUSH, no_flush_warning
from bench.results import Spread, latency_metrics, ratio, row_of, spread, values_of

# The rows of the README: the article's method, what runs it in Python, and the program that runs it elsewhere.
ARTICLE_ROWS = (
    ("standard sequential", "python-standard", "Python", "go-standard", "Go"),
    ("buffered sequential", "python-buffered", "Python", "go-buffered", "Go"),
    ("channel synchronized", "python-channel", "Python", "go-channel", "Go"),
    ("memory mapped", "evtape-pure", "evtape, pure core", "go-mapped", "Go"),
    ("memory mapped", "evtape", "**evtape**", "zig-mapped", "Zig"),
)
BASELINE = "python-standard"


def table(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    marks = [":--" if i < left else "--:" for i in range(len(head))]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]
    return "\n".join(lines)


def with_spread(value: Spread | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value.median:,.{digits}f} ({value.low:,.{digits}f}-{value.high:,.{digits}f})"


def ns_cell(row: dict[str, Any]) -> str:
    if row["not_run"]:
        return f"not run: {row['not_run']}"
    found = spread(row["values"])
    return with_spread(found, 0 if found and found.median >= 100 else 1)


def rate_cell(row: dict[str, Any]) -> str:
    """Events per second and, in brackets, MB/s of payload."""
    if row["not_run"] or not row["values"]:
        return f"not run: {row['not_run']}" if row["not_run"] else "-"
    found = spread(row["values"])
    assert found is not None
    return f"{1e9 / found.median:,.0f} ({row['size'] * 1e3 / found.median:,.0f} MB/s)"


def times_cell(data: dict[str, Any], experiment: str, key: str) -> str:
    found = ratio(row_of(data, experiment, key)["values"], row_of(data, experiment, BASELINE)["values"])
    return f"{found.median:.1f}x" if found else "-"


def machine_line(data: dict[str, Any]) -> str:
    machine = data["machine"]
    core = machine["evtape"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, {machine['file_system']}"
    what = f"{machine['python']}, evtape {core['version']} ({core['core']} core)"
    return f"{where}, {what}, {data['date']}, medians of {data['repeats']} interleaved runs"


def article_table(data: dict[str, Any]) -> str:
    rows = []
    for method, ours, label, theirs, language in ARTICLE_ROWS:
        for key, name in ((ours, label), (theirs, language)):
            cells = [method, name]
            for experiment in ("article", "article-whole"):
                cells += [rate_cell(row_of(data, experiment, key)), times_cell(data, experiment, key)]
            rows.append(cells)
    head = ["method", "written in", "append alone, events/s", "vs baseline", "whole job, events/s", "vs baseline"]
    return table(head, rows, left=2)


def goals_table(data: dict[str, Any]) -> str:
    rows = []
    for found in outcomes(data):
        verdict = "not run: " + found.why if found.measured is None else ("yes" if found.reached else "**no**")
        text = f"{found.text} (CRC: {found.crc})" if found.crc and found.crc != "evtape" else found.text
        rows.append([text, found.target, with_spread(found.measured), verdict])
    return table(["goal", "target", "measured, median (min-max)", "reached"], rows)


def experiment_table(experiment: dict[str, Any]) -> str:
    rows = []
    keys = list(experiment["contenders"])
    first = experiment["contenders"][keys[0]]
    for key in keys:
        row = experiment["contenders"][key]
        times = ratio(first["values"], row["values"])
        about = ", ".join(str(row[name]) for name in ("crc", "core", "version") if row.get(name))
        rows.append([row["label"], about, ns_cell(row), with_spread(times)])
    head = ["contender", "CRC, core, version", "ns per event, median (min-max)", "times the first row"]
    return table(head, rows, left=2)


# One append taken apart: (what, rows whose values are added, rows whose values are subtracted).
Share = tuple[str, tuple[str, ...], tuple[str, ...]]
WARM: tuple[Share, ...] = (
    ("the loop in Python and a call into C", ("python-call",), ()),
    ("copy the payload and its CRC-32 (C, rows in batches)", ("c-array",), ()),
    ("read the clock, store the entry's header, publish (C per event, less the line above)", ("c",), ("c-array",)),
    ("look at the arguments, the gate and the room; make the ordinal", ("evtape",), ("c", "python-call")),
    ("**one `append`, room prepared**", ("evtape",), ()),
)
COLD: tuple[Share, ...] = (
    ("appends of the whole job, which make their room", ("evtape-append",), ()),
    ("create, cut, close", ("evtape",), ("evtape-append",)),
    ("**one event of the whole job**", ("evtape",), ()),
)


def budget_table(data: dict[str, Any], experiment: str, shares: tuple[Share, ...]) -> str:
    """The parts of the time of one event: differences between rows of the same repetition."""
    rows = []
    for text, plus, minus in shares:
        columns = [row_of(data, experiment, key)["values"] for key in (*plus, *minus)]
        signs = [1] * len(plus) + [-1] * len(minus)
        found = spread([sum(s * v for s, v in zip(signs, turn, strict=True)) for turn in zip(*columns, strict=False)])
        rows.append([text, with_spread(found, 1)])
    return table(["what", "ns per event, median (min-max)"], rows)


def latency_table(experiment: dict[str, Any]) -> str:
    names = latency_metrics(list(experiment["contenders"].values()))
    rows = []
    for row in experiment["contenders"].values():
        values = [spread(values_of(row, name)) for name in names]
        cells = [with_spread(value, 0) for value in values]
        if row["not_run"]:
            cells = [row["not_run"], *[""] * (len(names) - 1)]
        rows.append([row["label"], *cells])
    return table(["latency in ns, median (min-max)", *names], rows)


def json_table(experiment: dict[str, Any]) -> str:
    rows = [
        [row["label"], str(row.get("file_bytes_per_event", "-")), ns_cell(row)]
        for row in experiment["contenders"].values()
    ]
    return table(["way", "bytes per event", "ns per event, median (min-max)"], rows)


def whole_report(data: dict[str, Any]) -> str:
    """The report of all values, for bench/results/<name>.md."""
    parts = [f"# Benchmark: {data['name']}", machine_line(data) + ".", "## Goals", goals_table(data)]
    parts += ["## The article's table", article_table(data)]
    for title, name, shares in (("One append", "prepared", WARM), ("One event of a whole job", "whole", COLD)):
        if name in data["experiments"]:
            parts += [f"## {title}, taken apart", budget_table(data, name, shares)]
    for name, experiment in data["experiments"].items():
        count, size = f"{experiment['events']:,}", f"{experiment['size']:,}"
        parts.append(
            f"## {experiment['title']} (`{name}`: {count} events of {size} bytes unless the row says otherwise)"
        )
        if experiment["section"] == "durable" and data["machine"]["file_system"] in NO_FLUSH:
            parts.append(no_flush_warning(data["machine"]["file_system"]))
        parts.append(json_table(experiment) if experiment["section"] == "json" else experiment_table(experiment))
        if any(row.get("latency_ns") for row in experiment["contenders"].values()):
            parts.append(latency_table(experiment))
    return "\n\n".join(parts) + "\n"


def readme_block(data: dict[str, Any]) -> str:
    """The text between the two markers."""
    return (
        f"{article_table(data)}\n\n{machine_line(data)}. 10,000 events of 1 KB, a clock reading and a CRC-32 for each."
    )
