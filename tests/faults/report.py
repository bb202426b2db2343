"""From results to what people read: `python -m tests.faults.report` rewrites the tables of docs/faults.md.

The results are the lines that `python -m tests.faults --results tests/faults/results.json` appends; of each part, or
piece of one, the last one counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from .__main__ import PARTS
from .harness import HERE

RESULTS = HERE / "results.json"
DOCUMENT = HERE.parent.parent / "docs" / "faults.md"
NO_FULL_RUN = ("reference", "cases", "planted")  # parts that always do the same
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def latest(lines: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What counts of the records, by the name of the part and its piece, in the order of the parts.

    A later record takes the place of an earlier one of the same thing, and one of a whole part that of its pieces.
    What a short run found does not take the place of what a full one did.
    """
    records: list[dict[str, Any]] = []
    for line in lines:
        record = json.loads(line)
        full_ones = [known for known in records if covers(known, record) and known["mode"] == "full"]
        if record["mode"] != "full" and full_ones:
            continue
        records = [known for known in records if not covers(record, known)] + [record]
    records.sort(key=lambda record: (order(record["part"]), record.get("variant", ""), record.get("piece", "")))
    return {name(record): record for record in records}


def covers(record: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a record is of all that another one is of: `--only` takes the pieces whose name contains its word."""
    same = all(record.get(key, "") == other.get(key, "") for key in ("part", "variant"))
    return same and record.get("piece", "") in other.get("piece", "")


def order(part: str) -> int:
    return PARTS.index(part) if part in PARTS else len(PARTS)


def name(record: dict[str, Any]) -> str:
    """What a row is called."""
    return " ".join(filter(None, (record["part"], record.get("piece", ""), record.get("variant", ""))))


def figure(name: str, value: object) -> str:
    """One figure in words."""
    if isinstance(value, dict):
        return f"{name}: " + ", ".join(f"{key} {number:,}" for key, number in value.items())
    return f"{name}: {value:,}" if isinstance(value, (int, float)) else f"{name}: {value}"


def tables(records: dict[str, dict[str, Any]]) -> str:
    """What each part tried and found, and the planted bugs."""
    rows = ["| part | what was tried | violations | not run | minutes |", "|---|---|---:|---|---:|"]
    bugs: dict[str, str] = {}
    for part, record in records.items():
        figures = [figure(k, v) for k, v in record["figures"].items() if not k.startswith("bug: ")]
        found = [f"{record['violations']:,}", *(figure(kind, count) for kind, count in record.get("kinds", {}).items())]
        short = " (short run)" if record["mode"] != "full" and record["part"] not in NO_FULL_RUN else ""
        cells = [f"`{part}`{short}", "<br>".join(figures), "<br>".join(found), "<br>".join(record["not_run"])]
        rows.append(f"| {' | '.join(cells)} | {record['seconds'] / 60:.1f} |")
        for bug, told in record["figures"].items():
            if bug.startswith("bug: "):
                by, _, caught = str(told).partition(": ")
                bugs[bug] = f"| {bug.removeprefix('bug: ')} | `{by}` | {caught} |"
    head = ["| planted bug | caught by | the violation, and how often |", "|---|---|---|"]
    return "\n".join([*rows, "", *head, *bugs.values()] if bugs else rows)


def main() -> None:
    """Rewrite what stands between the two markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{tables(latest(RESULTS.read_text(encoding='utf-8').splitlines()))}\n{END}"
    renewed, count = re.subn(f"{BEGIN}.*?{END}", lambda _match: block, text, flags=re.DOTALL)
    if not count:
        raise SystemExit(f"{DOCUMENT}: no lines {BEGIN} and {END}")
    DOCUMENT.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    main()
