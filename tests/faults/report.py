"""From results to what people read: `python -m tests.faults.report` rewrites the tables of docs/faults.md.

The results are the lines that `python -m tests.faults --results tests/faults/results.json` appends; of each part the
last one counts.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .harness import HERE

RESULTS = HERE / "results.json"
DOCUMENT = HERE.parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def latest() -> dict[str, dict[str, Any]]:
    """The last record of each part, or piece of one, by name."""
    records: dict[str, dict[str, Any]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        records[" ".join(filter(None, (record["part"], record.get("piece", ""))))] = record
    return records


def figure(name: str, value: object) -> str:
    """One figure in words."""
    if isinstance(value, dict):
        return f"{name}: " + ", ".join(f"{key} {number:,}" for key, number in value.items())
    return f"{name}: {value:,}" if isinstance(value, (int, float)) else f"{name}: {value}"


def tables() -> str:
    """What each part tried and found, and the planted bugs."""
    rows = ["| part | what was tried | violations | not run | minutes |", "|---|---|---:|---|---:|"]
    bugs = ["| planted bug | caught by | the violation, and how often |", "|---|---|---|"]
    for part, record in latest().items():
        figures = [figure(k, v) for k, v in record["figures"].items() if not k.startswith("bug: ")]
        skipped = "<br>".join(record["not_run"])
        cells = [f"`{part}`", "<br>".join(figures), f"{record['violations']:,}", skipped]
        rows.append(f"| {' | '.join(cells)} | {record['seconds'] / 60:.1f} |")
        for name, told in record["figures"].items():
            if name.startswith("bug: "):
                by, _, caught = str(told).partition(": ")
                bugs.append(f"| {name.removeprefix('bug: ')} | `{by}` | {caught} |")
    return "\n".join([*rows, "", *bugs])


def main() -> None:
    """Rewrite what stands between the two markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{tables()}\n{END}"
    renewed, count = re.subn(f"{BEGIN}.*?{END}", lambda _match: block, text, flags=re.DOTALL)
    if not count:
        raise SystemExit(f"{DOCUMENT}: no lines {BEGIN} and {END}")
    DOCUMENT.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main()
