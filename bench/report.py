"""Turns a result into charts, the README's table and a report of all values."""

from __future__ import annotations

import re
from pathlib import Path

from bench import results, tables
from bench.builder import BENCH
from bench.charts import CHARTS
from bench.experiment import MINIMUM_REPEATS

ROOT = BENCH.parent
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def write_charts(name: str, directory: Path) -> list[Path]:
    data = results.load(name)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for chart, draw in CHARTS.items():
        drawn = draw(data)
        if drawn is not None:
            path = directory / f"{chart}.svg"
            path.write_text(drawn, encoding="utf-8")
            written.append(path)
    return written


def why_not_published(name: str) -> str:
    """The reason why a result is not published. A quick run, or one with few repetitions, gives figures by chance."""
    data = results.load(name)
    if data["quick"]:
        return "this is a quick run"
    rows = [row for item in data["experiments"].values() for row in item["contenders"].values() if row["values"]]
    fewest = min((len(row["values"]) for row in rows), default=0)
    if fewest < MINIMUM_REPEATS:
        return f"it has experiments of {fewest} repetitions, and {MINIMUM_REPEATS} are the least"
    if not {"article", "article-whole"} <= set(data["experiments"]):
        return "the article's table was not measured in it"
    return ""


def rewrite_readme(name: str, readme: Path) -> bool:
    """Replace the text between the markers. A README without markers does not change."""
    content = readme.read_text(encoding="utf-8") if readme.exists() else ""
    block = f"{BEGIN}\n{tables.readme_block(results.load(name))}\n{END}"
    renewed, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _match: block, content, flags=re.DOTALL)
    if count:
        readme.write_text(renewed, encoding="utf-8")
    return bool(count)


def write_report(name: str) -> Path:
    path = results.path_of(name).with_suffix(".md")
    path.write_text(tables.whole_report(results.load(name)), encoding="utf-8")
    return path
